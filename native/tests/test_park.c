/* Messages that are due and wait for room at their queue: in order, whoever dies, in fair turn with publishers. */
#include "harness.h"
#include "hash.h"
#include "park.h"
#include "queue.h"
#include "settle.h"
#include "waiter.h"
#include "route.h"

static shmq_ctx *c;
static uint64_t q, dead;

static uint64_t parked(void) {
    shmq_census s;
    EQ(shmq_queue_census(c, dead, &s), SHMQ_OK);
    return s.parked;
}

static void reject(shmq_ctx *by, uint64_t value) {   /* a dead letter */
    EQ(put(by, q, value), SHMQ_OK);
    shmq_delivery d = take1(by, q);
    EQ(shmq_reject(by, &d, "x", 1), SHMQ_OK);
}

static void setting(uint64_t depth, shmq_queue_options o) {
    c = segment(64 << 20, 1 << 20);
    o.max_depth = depth;
    o.max_retries = 3;
    o.dead_letter = SHMQ_NO_QUEUE;
    dead = make_queue(c, "dead", o);
    q = QUEUE(c, "q", 100, DEAD_TO(dead));
}

static shmq_queue *record(void) { return &c->queues[dead & 0xffff]; }
static uint64_t turn_by(shmq_ctx *x) {
    uint64_t w = ld_acq(&x->me->word);
    return (uint64_t)(x->self + 1) << 48 | (uint64_t)owner_epoch(w) << 32 | owner_pid(w);
}

static uint32_t first_parked(void) {
    for (uint32_t i = 0, found = NOBODY; i < 100000; i++) {
        uint64_t w = ld_acq(&c->blocks[i].ctl);
        if (ctl_state(w) == SHMQ_DELAYED && (ctl_flags(w) & SHMQ_FLAG_PARKED)
            && (found == NOBODY || pos_position(ld_rlx(&c->blocks[i].pos)) < pos_position(ld_rlx(&c->blocks[found].pos))))
            found = i;
        if (i == 99999) return found;
    }
    return NOBODY;
}

TEST(order, "what waits for room is sent on by whoever takes, in the order in which it came") {
    setting(2, (shmq_queue_options){ 0 });
    for (uint64_t i = 0; i < 1000; i++) reject(c, i);   /* more than there are notes */
    EQ(parked(), 998);
    EQ(shmq_depth(c, dead), 2);
    shmq_ctx *x = join();
    for (uint64_t i = 0; i < 1000; i++) {
        EQ(get(i % 3 ? c : x, dead), i);
        if (i % 7 == 0 && i < 700) reject(c, 1000 + i / 7);   /* with more coming */
    }
    for (uint64_t i = 0; i < 100; i++) EQ(get(c, dead), 1000 + i);
    EQ(ld32_acq(&record()->parked) & 1, 0);
    nothing_left(c);
}

TEST(own_way, "what came back gets in where new ones fill the queue that wait for its key") {
    enum { IN_HAND = 2100, BEHIND = 4 };   /* more than both rings have places */
    static shmq_delivery d[IN_HAND];
    setting(BEHIND, (shmq_queue_options){ .order = SHMQ_BY_KEY });
    uint64_t key = 7;
    shmq_message m = { .data = &key, .size = 8, .key = &key, .key_size = 8 };
    for (int i = 0; i < IN_HAND; i++) {
        if (i == 1)   /* those without a key take one lane after the other: the key has one beyond theirs */
            while (((uint32_t)hash_spot(c->secret, &key, 8) - (uint32_t)d[0].id) % SHMQ_KEY_LANES < IN_HAND) key++;
        if (i == IN_HAND - 1) EQ(shmq_publish(c, dead, &m), SHMQ_OK);
        else EQ(put(c, dead, 1), SHMQ_OK);
        d[i] = take1(c, dead);
    }
    for (int i = 0; i < BEHIND; i++) EQ(shmq_publish(c, dead, &m), SHMQ_OK);
    for (int i = 0; i < IN_HAND; i++) EQ(shmq_nack(c, &d[i], 0, NULL, 0), SHMQ_OK);
    CHECK(parked() > 1);
    for (int i = 0; i < IN_HAND + BEHIND; i++) get(c, dead);
    CHECK(empty(c, dead));
    nothing_left(c);
}

TEST(many, "of more than a line holds, the next ones are found by another look") {
    setting(1, (shmq_queue_options){ 0 });
    for (uint64_t i = 0; i < 2 * LINE + 100; i++) reject(c, i);
    for (uint64_t i = 0; i < 2 * LINE + 100; i++) EQ(get(c, dead), i);
    nothing_left(c);
}

TEST(used_again, "a block that has been used again since is not taken for the message that waited in it before") {
    enum { MANY = 200 };
    static shmq_delivery d[MANY];
    for (int backwards = 0; backwards < 2; backwards++) {
        setting(1, (shmq_queue_options){ 0 });
        shmq_ctx *x = join();
        for (uint64_t i = 0; i < MANY; i++) reject(c, i);
        EQ(get(x, dead), 0);   /* x has looked who waits, and has sent on the first */
        for (int i = 1; i < MANY; i++) d[i] = take1(c, dead);
        for (int i = 1; i < MANY; i++) EQ(shmq_ack(c, &d[backwards ? MANY - i : i], 1), 1);
        for (uint64_t i = 0; i < MANY; i++) reject(c, i);   /* into the same blocks */
        for (uint64_t i = 0; i < MANY; i++) EQ(get(i % 2 ? c : x, dead), i);
        nothing_left(c);
    }
}

TEST(room_again, "a taker that finds only what has expired, and then takes what waited, sends the next one on as well") {
    setting(1, (shmq_queue_options){ 0 });
    uint64_t value = 7;
    shmq_message m = { .data = &value, .size = 8, .ttl_ns = 1 };
    EQ(shmq_publish(c, dead, &m), SHMQ_OK);   /* fills the queue; it has expired by the time that it is taken */
    for (uint64_t i = 0; i < 3; i++) reject(c, i);
    EQ(parked(), 3);
    EQ(get(c, dead), 0);
    EQ(parked(), 1);
    EQ(shmq_depth(c, dead), 1);
    for (uint64_t i = 1; i < 3; i++) EQ(get(c, dead), i);
    nothing_left(c);
}

TEST(behind, "who comes while some wait waits behind them, though there is room") {
    setting(1, (shmq_queue_options){ 0 });
    shmq_ctx *x = join();
    for (uint64_t i = 0; i < 2; i++) reject(c, i);
    st_sc(&record()->turn, turn_by(x));   /* somebody else is about to send on */
    EQ(get(c, dead), 0);
    EQ(shmq_depth(c, dead), 0);
    reject(c, 2);
    EQ(parked(), 2);
    st_sc(&record()->turn, 0);
    EQ(get(c, dead), 1);
    EQ(get(c, dead), 2);
    nothing_left(c);
}

TEST(looks_again, "who begins to wait looks once more for room: whoever made it may not have seen him") {
    setting(1, (shmq_queue_options){ 0 });
    or32(&record()->parked, 1);   /* some may wait, but nobody does */
    reject(c, 5);
    EQ(shmq_depth(c, dead), 1);
    EQ(get(c, dead), 5);
    nothing_left(c);
}

TEST(sender_dies, "a message whose sender dies at it stays the first; nobody overtakes it before the death is recovered") {
    setting(1, (shmq_queue_options){ 0 });
    shmq_ctx *x = join();
    for (uint64_t i = 0; i < 3; i++) reject(c, i);
    uint32_t idx = first_parked();
    uint64_t w = ld_acq(&c->blocks[idx].ctl);
    EQ(get(x, dead), 0);   /* it made room, and sends 1 on, ... */
    EQ(get(x, dead), 1);
    EQ(get(x, dead), 2);
    (void)w;
    for (uint64_t i = 10; i < 13; i++) reject(c, i);
    EQ(get(c, dead), 10);
    /* 11 is in the ring. x takes 12 out of those that wait, meets a full ring, writes its intended place and dies */
    idx = first_parked();
    w = ld_acq(&c->blocks[idx].ctl);
    uint64_t m = ctl_next(w, SHMQ_MOVE, x->self) | PARKED_CTL;
    reject(c, 13);
    CHECK(cas(&c->blocks[idx].ctl, w, m));
    st_rlx(&c->blocks[idx].pos, pos_make((unsigned)(dead & 0xffff) * SHMQ_LANES, 1000));
    die(x);
    st_sc(&record()->turn, turn_by(x));
    EQ(shmq_owner_declare(c, x->self, ld_acq(&x->me->word)), SHMQ_OK);
    EQ(get(c, dead), 11);
    CHECK(empty(c, dead));   /* 13 must not come before 12 */
    EQ(shmq_recover(c, x->self), SHMQ_OK);
    shmq_delivery d = take1(c, dead);
    EQ(value_of(&d), 12);
    EQ(d.attempt, 1);
    EQ(d.redelivered, 0);
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(get(c, dead), 13);
    nothing_left(c);
}

TEST(recoverer_has_it, "nor does anybody overtake it while one of several recoverers has it, even if he dies as well") {
    for (int dies = 0; dies < 2; dies++) {
        setting(1, (shmq_queue_options){ 0 });
        shmq_ctx *x = join(), *r = join();
        for (uint64_t i = 0; i < 3; i++) reject(c, i);
        uint32_t idx = first_parked();
        uint64_t w = ld_acq(&c->blocks[idx].ctl), m = ctl_next(w, SHMQ_MOVE, r->self) | PARKED_CTL;
        /* x had the turn, and 1 in its hands; r has adopted that; another one completes the recovery of x */
        st_sc(&record()->turn, turn_by(x));
        CHECK(cas(&c->blocks[idx].ctl, w, m));
        op_begin(r);
        EQ(shmq_owner_declare(c, x->self, ld_acq(&x->me->word)), SHMQ_OK);
        EQ(shmq_recover(c, x->self), SHMQ_OK);
        EQ(get(c, dead), 0);
        CHECK(empty(c, dead));   /* 2 must not come before 1 */
        if (dies) {
            EQ(shmq_owner_declare(c, r->self, ld_acq(&r->me->word)), SHMQ_OK);
            EQ(shmq_recover(c, r->self), SHMQ_OK);
        } else {
            EQ(route_on(r, idx, m), SHMQ_OK);
            op_end(r);
        }
        EQ(get(c, dead), 1);
        EQ(get(c, dead), 2);
        nothing_left(c);
    }
}

TEST(recoverer_stops, "a recoverer that is stopped with it keeps the others for a second, no longer") {
    setting(1, (shmq_queue_options){ 0 });
    shmq_ctx *x = join(), *r = join();
    for (uint64_t i = 0; i < 3; i++) reject(c, i);
    uint32_t idx = first_parked();
    uint64_t w = ld_acq(&c->blocks[idx].ctl);
    st_sc(&record()->turn, turn_by(x));
    CHECK(cas(&c->blocks[idx].ctl, w, ctl_next(w, SHMQ_MOVE, r->self) | PARKED_CTL));
    op_begin(r);
    EQ(shmq_owner_declare(c, x->self, ld_acq(&x->me->word)), SHMQ_OK);
    EQ(shmq_recover(c, x->self), SHMQ_OK);
    EQ(get(c, dead), 0);
    uint64_t begun = shmq_now();
    while (empty(c, dead)) {
        CHECK(shmq_now() - begun < 15 * SECONDS);
        nap(10 * MS);
    }
    CHECK(shmq_now() - begun > SECONDS / 2);
}

TEST(parker_dies, "a message whose parker died before it said so is found by recovery") {
    setting(1, (shmq_queue_options){ 0 });
    shmq_ctx *x = join();
    reject(c, 0);
    EQ(put(c, q, 1), SHMQ_OK);
    shmq_delivery d = take1(x, q);
    uint64_t m = ctl_next(d.ctl, SHMQ_MOVE, x->self);
    shmq_block *b = &c->blocks[d.idx];
    CHECK(cas(&b->ctl, d.ctl, m));
    st_rlx(&b->due_ns, shmq_now());
    st_rlx(&b->fate, fate_make((unsigned)(dead & 0xffff), (unsigned)(q & 0xffff), 0, 1, SHMQ_R_REJECTED, 0, 0, 0));
    st_rlx(&b->pos, pos_make(0xffff, add(&record()->tickets, 1) + 1));
    CHECK(cas(&b->ctl, m, ctl_to(m, SHMQ_DELAYED, 0) | PARKED_CTL));
    die(x);
    EQ(get(c, dead), 0);
    CHECK(empty(c, dead));
    EQ(shmq_reap(c, 0), 1);
    EQ(get(c, dead), 1);
    nothing_left(c);
}

TEST(holder_dies, "recovery sends on itself: who died may have made the room") {
    setting(1, (shmq_queue_options){ 0 });
    shmq_ctx *x = join();
    for (uint64_t i = 0; i < 2; i++) reject(c, i);
    die(x);
    st_sc(&record()->turn, turn_by(x));
    EQ(get(c, dead), 0);
    EQ(shmq_depth(c, dead), 0);
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_depth(c, dead), 1);
    EQ(get(c, dead), 1);
    nothing_left(c);
}

TEST(holder_stops, "a process that is stopped while it has the turn keeps the others for a second, no longer") {
    setting(1, (shmq_queue_options){ 0 });
    shmq_ctx *x = join();
    for (uint64_t i = 0; i < 2; i++) reject(c, i);
    op_begin(x);
    st_sc(&record()->turn, turn_by(x));
    EQ(get(c, dead), 0);
    uint64_t begun = shmq_now();
    while (empty(c, dead)) {   /* the one that it sends on then, taken */
        CHECK(shmq_now() - begun < 15 * SECONDS);
        nap(10 * MS);
    }
    CHECK(shmq_now() - begun > SECONDS / 2);
}

TEST(share, "where publishers wait, every second room is theirs") {
    setting(4, (shmq_queue_options){ 0 });
    for (uint64_t i = 0; i < 12; i++) reject(c, i);
    waiter_prepare(&record()->space);
    EQ(get(c, dead), 0);
    EQ(shmq_depth(c, dead), 3);
    EQ(put(c, dead, 100), SHMQ_OK);
    waiter_prepare(&record()->space);
    EQ(get(c, dead), 1);
    EQ(shmq_depth(c, dead), 4);
    EQ(put(c, dead, 101), SHMQ_FULL);
    const uint64_t then[] = { 2, 3, 100, 4 };
    for (int i = 0; i < 4; i++) {
        EQ(get(c, dead), then[i]);
        waiter_prepare(&record()->space);
    }
}

static int own_lane(const uint64_t *keys, int i) {
    for (int n = 0; n < i; n++)
        if (!(((uint32_t)hash_spot(c->secret, &keys[n], 8) ^ (uint32_t)hash_spot(c->secret, &keys[i], 8)) % SHMQ_KEY_LANES)) return 0;
    return 1;
}

TEST(key_waits, "a redelivery that waits behind a new message, while its key's later messages fill the queue, is sent on all the same") {
    c = segment(64 << 20, 1 << 20);
    q = QUEUE(c, "q", 2, .order = SHMQ_BY_KEY, .max_retries = 3);
    c->queues[q & 0xffff].place[SHMQ_LANE_WORK].lg = 2;   /* rings of 4 and 2 places, instead of 1024 each */
    c->queues[q & 0xffff].place[SHMQ_LANE_AGAIN].lg = 1;
    shmq_delivery d[5];
    shmq_message m = { .size = 8, .key_size = 8 };
    uint64_t keys[8] = { 0 };   /* of different lanes */
    for (int i = 1; i < 8; i++)
        for (keys[i] = keys[i - 1] + 1; !own_lane(keys, i); keys[i]++) {}
    for (uint64_t i = 0; i < 8; i++) {   /* 0 to 4 are taken, 5 and 6 are of the key of 4; 7 is due when they fill the queue */
        uint64_t key = keys[i < 4 || i == 7 ? i : 4];
        m.data = &i;
        m.key = &key;
        m.delay_ns = i == 7;
        EQ(shmq_publish(c, q, &m), SHMQ_OK);
        if (i < 5) d[i] = take1(c, q);
    }
    EQ(fire_due(c), 1);
    for (int i = 0; i < 5; i++) EQ(shmq_nack(c, &d[i], 0, NULL, 0), SHMQ_OK);
    shmq_census s;
    EQ(shmq_queue_census(c, q, &s), SHMQ_OK);
    EQ(s.parked, 2);
    for (uint64_t i = 0; i < 4; i++) EQ(get(c, q), i);
    CHECK(empty(c, q));   /* the key is that of 4, before which 7 waits for room */
    EQ(shmq_parked_sweep(c), 1);
    for (uint64_t i = 4; i < 8; i++) EQ(get(c, q), i);
    nothing_left(c);
}

TEST(purge, "a purge drops what waits for room as well, and leaves what is not due yet") {
    setting(2, (shmq_queue_options){ 0 });
    for (uint64_t i = 0; i < 9; i++) reject(c, i);
    shmq_message later = { .data = "later", .size = sizeof "later", .delay_ns = 3600 * SECONDS };
    EQ(shmq_publish(c, dead, &later), SHMQ_OK);
    EQ(shmq_purge(c, dead), 9);
    EQ(parked(), 0);
    EQ(shmq_depth(c, dead), 0);
    shmq_census s;
    EQ(shmq_queue_census(c, dead, &s), SHMQ_OK);
    EQ(s.delayed, 1);
    EQ(put(c, dead, 7), SHMQ_OK);
    EQ(get(c, dead), 7);
}

TEST(bounds, "the overflow policy of a dead-letter queue is that of its dead letters") {
    setting(3, (shmq_queue_options){ .overflow = SHMQ_DROP_OLDEST });
    for (uint64_t i = 0; i < 10; i++) reject(c, i);
    EQ(parked(), 0);
    for (uint64_t i = 7; i < 10; i++) EQ(get(c, dead), i);
    nothing_left(c);
    setting(3, (shmq_queue_options){ .overflow = SHMQ_REJECT });
    for (uint64_t i = 0; i < 10; i++) reject(c, i);
    EQ(parked(), 0);
    for (uint64_t i = 0; i < 3; i++) EQ(get(c, dead), i);
    nothing_left(c);
    setting(100, (shmq_queue_options){ .overflow = SHMQ_DROP_OLDEST, .max_bytes = 20 });   /* of 8 each */
    for (uint64_t i = 0; i < 10; i++) reject(c, i);
    EQ(get(c, dead), 8);
    EQ(get(c, dead), 9);
    nothing_left(c);
}

TEST(refused, "a full queue that refuses dead letters does so too while another message waits there for room") {
    setting(1, (shmq_queue_options){ .overflow = SHMQ_REJECT });
    uint64_t value = 1;
    shmq_message later = { .data = &value, .size = 8, .delay_ns = 1 };
    EQ(put(c, dead, 0), SHMQ_OK);
    EQ(shmq_publish(c, dead, &later), SHMQ_OK);
    nap(MS);
    EQ(fire_due(c), 1);
    EQ(parked(), 1);
    for (uint64_t i = 10; i < 20; i++) reject(c, i);
    EQ(parked(), 1);
    EQ(get(c, dead), 0);
    EQ(get(c, dead), 1);
    reject(c, 20);   /* and takes them in as soon as nobody waits */
    EQ(get(c, dead), 20);
    nothing_left(c);
}

TEST(in_circles, "two queues that are each other's dead-letter queues and drop their oldest do not go round for ever") {
    c = segment(64 << 20, 1 << 20);
    uint64_t b = QUEUE(c, "b", 1, .overflow = SHMQ_DROP_OLDEST);
    uint64_t a = QUEUE(c, "a", 1, .overflow = SHMQ_DROP_OLDEST, DEAD_TO(b));
    EQ(shmq_queue_delete(c, b), SHMQ_OK);
    b = QUEUE(c, "b", 1, .overflow = SHMQ_DROP_OLDEST, DEAD_TO(a));
    for (uint64_t i = 0; i < 10; i++) EQ(put(c, a, i), SHMQ_OK);
    EQ(shmq_depth(c, a), 1);
    EQ(shmq_depth(c, b), 1);
    get(c, a);
    get(c, b);
    nothing_left(c);
}

TEST(expired, "what expires while it waits for room goes, and the others stay in order") {
    setting(1, (shmq_queue_options){ 0 });
    shmq_message m[3];
    uint64_t v[3] = { 1, 2, 3 };
    for (int i = 0; i < 3; i++) m[i] = (shmq_message){ .data = &v[i], .size = 8, .delay_ns = 1, .ttl_ns = i == 1 ? 20 * MS : 0 };
    EQ(put(c, dead, 0), SHMQ_OK);
    nap(MS);
    for (int i = 0; i < 3; i++) EQ(shmq_publish(c, dead, &m[i]), SHMQ_OK);
    EQ(fire_due(c), 3);
    EQ(parked(), 3);
    nap(25 * MS);
    uint32_t idx[8], from = 0;
    uint64_t due[8], first;
    while (from < SHMQ_BLOCKS) CHECK(shmq_expire_scan(c, &from, shmq_now(), shmq_now(), idx, due, 0, &first) >= 0);
    EQ(parked(), 2);
    EQ(get(c, dead), 0);
    EQ(get(c, dead), 1);
    EQ(get(c, dead), 3);
    nothing_left(c);
}
MAIN
