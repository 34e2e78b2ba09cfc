/* Features together: ids, shares of a topic, levels, keys, forwards, expiry and deaths, each in the other's way. */
#include "harness.h"
#include "arena.h"
#include "dedup.h"
#include "forward.h"
#include "order.h"
#include "publish.h"
#include "queue.h"
#include "ring.h"
#include "settle.h"
#include "fan.h"
#include "topic.h"
#include "waiter.h"
#include "ids.h"
#include "route.h"

static shmq_ctx *c;

static uint64_t subscribe(const char *name, shmq_queue_options o) {
    int64_t q = shmq_topic_subscribe(c, name, &o, NULL, 0, 0);
    CHECK(q > 0);
    return (uint64_t)q;
}
#define TOPIC(name) QUEUE(c, name, 100, .kind = SHMQ_KIND_TOPIC)
#define SUBSCRIBED(t, n) .kind = SHMQ_KIND_SUBSCRIPTION, .topic = (t), .max_depth = (n), .max_retries = 3, .dead_letter = SHMQ_NO_QUEUE
#define SUB(name, t, n, ...) subscribe(name, (shmq_queue_options){ SUBSCRIBED(t, n), __VA_ARGS__ })
#define IDS .dedup_window_ns = 60 * SECONDS

static uint64_t value_;
static const char KEY[] = "key";
static shmq_message message(uint64_t value, const char *id) {
    value_ = value;
    uint32_t size = id ? (uint32_t)strlen(id) : 0;
    return (shmq_message){ .data = &value_, .size = 8, .dedup = id, .dedup_size = size, .key = KEY, .key_size = 3 };
}
static int say_id(shmq_ctx *by, uint64_t q, uint64_t value, const char *id) {
    shmq_message m = message(value, id);
    return by->queues[q & 0xffff].options.kind == SHMQ_KIND_TOPIC ? shmq_topic_publish(by, q, &m) : shmq_publish(by, q, &m);
}
static local_queue *open_at(shmq_ctx *x, uint64_t q) {
    local_queue *l;
    EQ(queue_local(x, q, &l), SHMQ_OK);
    return l;
}

/* What x would have in its hands after half a publish: NEW, written. */
static uint32_t written(shmq_ctx *x, uint64_t q, uint64_t value, const char *id, uint64_t *ctl) {
    uint32_t idx;
    shmq_message m = message(value, id);
    EQ(arena_alloc(x, 8 + FAN_TRAILER, &idx, ctl), SHMQ_OK);
    publish_header(x, block_at(x, idx), (uint32_t)(q & 0xffff), &m, open_at(x, q), shmq_now());
    memcpy(payload_of(x, idx), &value, 8);
    hash128 key = { 0, 0 };
    if (id) key = ids_key(x, &m);
    publish_trailer(x, idx, &m, id ? &key : NULL, 0, 0);
    return idx;
}
static uint64_t moved(shmq_ctx *x, uint32_t idx, uint64_t ctl) {
    uint64_t m = ctl_next(ctl, SHMQ_MOVE, x->self);
    CHECK(cas(&block_at(x, idx)->ctl, ctl, m));
    return m;
}
/* It wanted to put it at the ring's end, and was killed before that. */
static void intent(shmq_ctx *x, uint32_t idx, uint64_t q) {
    local_ring *r = &open_at(x, q)->work;
    ring_depth(r);
    st_rlx(&block_at(x, idx)->pos, pos_make(r->ring, r->tail));
}
static fan told(shmq_ctx *x, uint64_t t, uint64_t value, const char *id) {
    fan f;
    shmq_message m = message(value, id);
    EQ(topic_write(x, open_at(x, t), t, &m, shmq_now(), 0, 0, &f), SHMQ_OK);
    return f;
}

/* ---- topic.c, I4: ids of shares ---- */
TEST(ids_of_shares, "an id counts in each subscription by itself: those who have a window get it once, others each time, late ones too") {
    c = segment(64 << 20, 1 << 20);
    uint64_t t = TOPIC("/t"), a = SUB("/t/a", t, 20, IDS), b = SUB("/t/b", t, 20, .ttl_ns = 0), late, first;
    EQ(say_id(c, t, 1, "x"), SHMQ_OK);
    EQ(say_id(c, t, 2, "x"), SHMQ_OK);
    late = SUB("/t/late", t, 20, IDS);
    EQ(say_id(c, t, 3, "x"), SHMQ_OK);
    EQ(say_id(c, t, 4, "y"), SHMQ_OK);
    shmq_delivery d = take1(c, a);
    first = d.id;
    EQ(value_of(&d), 1);
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(get(c, a), 4);
    for (uint64_t v = 1; v <= 4; v++) EQ(get(c, b), v);
    d = take1(c, late);
    EQ(value_of(&d), 3);
    uint64_t last = d.id;
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(get(c, late), 4);
    EQ(c->local[a & 0xffff].counters->deduped, 2);
    EQ(c->local[t & 0xffff].counters->deduped, 0);   /* b had them all */
    EQ(shmq_queue_delete(c, b), SHMQ_OK);
    shmq_message m = message(5, "x");
    EQ(shmq_topic_publish(c, t, &m), SHMQ_OK);
    CHECK(m.id == first || m.id == last);
    EQ(c->local[t & 0xffff].counters->deduped, 1);
    CHECK(empty(c, a) && empty(c, late));
    nothing_left(c);
}

TEST(no_id_left, "a subscription whose table is full refuses the message for all") {
    c = segment(64 << 20, 1 << 20);
    uint64_t t = TOPIC("/t"), a = SUB("/t/a", t, 20, .dedup_window_ns = 3600 * SECONDS, .dedup_capacity = 2),
             b = SUB("/t/b", t, 20, .ttl_ns = 0);
    EQ(say_id(c, t, 1, "1"), SHMQ_OK);
    EQ(say_id(c, t, 2, "2"), SHMQ_OK);
    EQ(say_id(c, t, 3, "3"), SHMQ_E_NOMEM);
    EQ(say_id(c, t, 4, NULL), SHMQ_OK);
    for (uint64_t v = 1; v <= 4; v++)
        if (v != 3) {
            EQ(get(c, a), v);
            EQ(get(c, b), v);
        }
    CHECK(empty(c, a) && empty(c, b));
    nothing_left(c);
}

TEST(half_told, "whoever dies between commit and claim, claim and ring: every subscription gets the id once") {
    /* 0: not committed; 1: both shares NEW; 2: one in MOVE; 3: one claimed; 4: another publisher had the id there meanwhile;
     * 5: it takes its place after the death */
    for (int how = 0; how <= 5; how++) {
        c = segment(64 << 20, 1 << 20);
        shmq_ctx *x = join();
        uint64_t t = TOPIC("/t"), s[2] = { SUB("/t/a", t, 20, IDS), SUB("/t/b", t, 20, IDS) }, other = 0;
        fan f = told(x, t, 1, "x");
        EQ(f.n, 2);
        if (how >= 1) CHECK(topic_commit(x, f.parent, f.ctl));
        if (how >= 2) {
            uint32_t d = x->scratch[0].idx;
            moved(x, d, x->scratch[0].key);
            hash128 key;
            memcpy(&key, dedup_trailer(x, d), sizeof key);
            if (how == 3) EQ(ids_claim(x, open_at(x, s[0]), &key, ld_rlx(&block_at(x, d)->id), shmq_now(), &other), ID_FIRST);
        }
        if (how == 4) EQ(say_id(c, t, 2, "x"), SHMQ_OK);
        die(x);
        if (how == 5) EQ(say_id(c, t, 2, "x"), SHMQ_OK);
        EQ(shmq_reap(c, 0), 1);
        sound(c);
        if (how == 0) CHECK(empty(c, s[0]) && empty(c, s[1]));
        else
            for (int i = 0; i < 2; i++) {
                EQ(get(c, s[i]), how >= 4 ? 2 : 1);
                CHECK(empty(c, s[i]));
            }
        EQ(say_id(c, t, 3, "x"), SHMQ_OK);
        if (how == 0) {
            EQ(get(c, s[0]), 3);
            EQ(get(c, s[1]), 3);
        }
        CHECK(empty(c, s[0]) && empty(c, s[1]));
        nothing_left(c);
    }
}

TEST(asked_once, "a message that has its id is not asked for it again: it comes back though another has the id by then") {
    c = segment(64 << 20, 1 << 20);
    uint64_t t = TOPIC("/t"), s = SUB("/t/a", t, 20, .dedup_window_ns = 10 * MS), q = QUEUE(c, "q", 20, .dedup_window_ns = 10 * MS),
             to[2] = { t, q }, at[2] = { s, q };
    for (int i = 0; i < 2; i++) {
        EQ(say_id(c, to[i], 1, "x"), SHMQ_OK);
        shmq_delivery d = take1(c, at[i]);
        nap(25 * MS);
        EQ(say_id(c, to[i], 2, "x"), SHMQ_OK);
        EQ(shmq_nack(c, &d, 0, NULL, 0), SHMQ_OK);
        EQ(get(c, at[i]), 1);
        EQ(get(c, at[i]), 2);
    }
    nothing_left(c);
}

/* ---- FRESH: a first way into a ring that was cut short ---- */
TEST(behind, "who dies on the way into the ring: the message goes behind those before it, also of its key, and is no redelivery") {
    /* 0: an id; 1: a share with an id; 2: a share that its process never launched; 3: a delayed one being fired */
    for (int how = 0; how < 4; how++) {
        for (unsigned order = SHMQ_FIFO; order <= SHMQ_STRICT; order++) {
            c = segment(64 << 20, 1 << 20);
            shmq_ctx *x = join();
            uint64_t t = TOPIC("/t"), s = SUB("/t/a", t, 20, IDS, .order = order), q = QUEUE(c, "q", 20, IDS, .order = order), ctl;
            int topic = how == 1 || how == 2;
            uint64_t at = topic ? s : q, to = topic ? t : q;
            for (uint64_t v = 1; v <= 3; v++) EQ(say_id(c, to, v, NULL), SHMQ_OK);
            uint32_t idx;
            if (topic) {
                fan f = told(x, t, 4, how == 1 ? "x" : NULL);
                CHECK(topic_commit(x, f.parent, f.ctl));
                idx = x->scratch[0].idx;
                ctl = x->scratch[0].key;
            } else idx = written(x, q, 4, how == 0 ? "x" : NULL, &ctl);
            if (how == 3) {
                CHECK(cas(&block_at(x, idx)->ctl, ctl, ctl_to(ctl, SHMQ_DELAYED, 0)));
                ctl = ctl_to(ctl, SHMQ_DELAYED, 0);
            }
            if (how != 2) moved(x, idx, ctl);
            intent(x, idx, at);
            die(x);
            EQ(shmq_reap(c, 0), 1);
            for (uint64_t v = 1; v <= 4; v++) {
                shmq_delivery d = take1(c, at);
                EQ(value_of(&d), v);
                EQ(d.redelivered, 0);
                EQ(d.attempt, 1);
                EQ(shmq_ack(c, &d, 1), 1);
            }
            nothing_left(c);
        }
    }
}

TEST(in_hands, "who dies while a message is on its way back from hands: it goes before the others, as one that comes back") {
    c = segment(64 << 20, 1 << 20);
    shmq_ctx *x = join();
    uint64_t q = QUEUE(c, "q", 20, IDS);
    EQ(say_id(c, q, 1, "x"), SHMQ_OK);
    EQ(say_id(c, q, 2, "y"), SHMQ_OK);
    shmq_delivery d = take1(x, q);
    st_sc(&x->held[d.held - 1].word, 0);
    moved(x, d.idx, d.ctl);
    die(x);
    EQ(shmq_reap(c, 0), 1);
    d = take1(c, q);
    EQ(value_of(&d), 1);
    EQ(d.redelivered, 1);
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(get(c, q), 2);
    nothing_left(c);
}

TEST(quicker, "a message that was committed after it had found room gets into the ring though others were quicker") {
    for (unsigned how = 0; how < 5; how++) {   /* a queue with ids, levels, keys; a subscription; the target of a forward */
        c = segment(64 << 20, 1 << 20);
        shmq_ctx *x = join();
        uint64_t t = TOPIC("/t"),
                 q = how == 3 ? SUB("/t/a", t, 8, IDS)
                              : QUEUE(c, "q", 8, .dedup_window_ns = how < 4 ? SECONDS : 0, .order = how == 2 ? SHMQ_BY_KEY : SHMQ_FIFO,
                                      .priorities = how == 1 ? 10 : 0),
                 ctl;
        uint32_t idx;
        if (how == 3) {
            fan f = told(x, t, 1, "x");
            CHECK(topic_commit(x, f.parent, f.ctl));
            idx = x->scratch[0].idx;
            ctl = x->scratch[0].key;
        } else idx = written(x, q, 1, how < 4 ? "x" : NULL, &ctl);
        ctl = moved(x, idx, ctl);
        for (uint64_t v = 2; v <= 9; v++) EQ(say_id(c, how == 3 ? t : q, v, NULL), SHMQ_OK);
        EQ(say_id(c, how == 3 ? t : q, 10, NULL), SHMQ_FULL);
        EQ(route_on(x, idx, ctl), SHMQ_OK);
        EQ(state_of(c, idx), SHMQ_READY);
        EQ(say_id(c, how == 3 ? t : q, 10, NULL), SHMQ_FULL);
        for (uint64_t v = 2; v <= 9; v++) EQ(get(c, q), v);
        EQ(get(c, q), 1);
        nothing_left(c);
    }
}

/* ---- numbers of queues ---- */
TEST(next_of_its_number, "what a dead publisher had committed for a queue that is deleted does not get into the next one of its number") {
    for (int how = 0; how < 2; how++) {   /* a share; a forward */
        c = segment(64 << 20, 1 << 20);
        shmq_ctx *x = join();
        uint64_t t = TOPIC("/t"), q = how ? QUEUE(c, "q", 10, .ttl_ns = 0) : SUB("/t/a", t, 10, .ttl_ns = 0),
                 from = QUEUE(c, "from", 10, .ttl_ns = 0);
        EQ(put(c, from, 9), SHMQ_OK);
        if (how) {
            uint64_t ctl;
            shmq_delivery d = take1(x, from);
            uint32_t n = written(x, q, 1, NULL, &ctl);
            shmq_message m = message(1, NULL);
            publish_trailer(x, n, &m, NULL, d.idx, FATE_TIED);
            shmq_block *s = block_at(x, d.idx);
            st_sc(&x->held[d.held - 1].word, 0);
            moved(x, d.idx, d.ctl);
            st_rlx(&s->due_ns, (uint64_t)(n + 1) << 40 | (ctl_gen(ctl) & 0xffffffffff));
            st_rlx(&s->fate, ld_rlx(&s->fate) | FATE_LEAVING | FATE_FORWARD);
        } else {
            fan f = told(x, t, 1, NULL);
            CHECK(topic_commit(x, f.parent, f.ctl));
        }
        EQ(shmq_owner_declare(c, (uint32_t)shmq_self(x), x->self_word), SHMQ_OK);
        EQ(shmq_queue_delete(c, q), SHMQ_OK);
        EQ(shmq_queue_collect(c), 0);
        EQ(queue_state(ld_acq(&c->queues[q & 0xffff].word)), SHMQ_Q_DELETING);
        EQ(shmq_recover(c, (uint32_t)shmq_self(x)), SHMQ_OK);
        EQ(shmq_queue_collect(c), 1);
        if (!how) EQ(get(c, from), 9);
        nothing_left(c);
    }
}

/* ---- forwards ---- */
TEST(finished, "who finishes a dead process's forward out of a queue with keys wakes who waits for the key, or for a closed queue's end") {
    for (int closed = 0; closed < 2; closed++) {
        c = segment(64 << 20, 1 << 20);
        uint64_t from = QUEUE(c, "from", 10, .order = SHMQ_BY_KEY), to = QUEUE(c, "to", 10, .ttl_ns = 0), ctl;
        EQ(say_id(c, from, 1, NULL), SHMQ_OK);
        if (!closed) EQ(say_id(c, from, 2, NULL), SHMQ_OK);
        shmq_delivery d = take1(c, from);
        CHECK(empty(c, from));
        uint32_t n = written(c, to, 7, NULL, &ctl);
        shmq_message m = message(7, NULL);
        publish_trailer(c, n, &m, NULL, d.idx, FATE_TIED);
        uint64_t move;
        EQ(settle_leave(c, &d, &move), SHMQ_OK);
        shmq_block *s = block_at(c, d.idx);
        st_rlx(&s->due_ns, (uint64_t)(n + 1) << 40 | (ctl_gen(ctl) & 0xffffffffff));
        st_rlx(&s->fate, ld_rlx(&s->fate) | FATE_LEAVING | FATE_FORWARD);
        if (closed) EQ(shmq_queue_close(c, from), SHMQ_OK);
        shmq_au32 *evt = &c->queues[from & 0xffff].evt;
        uint32_t seen = waiter_prepare(evt);
        forward_finish(c, d.idx, move);
        CHECK(ld32_acq(evt) >> 1 != seen >> 1);
        if (closed) {
            shmq_delivery e;
            EQ(shmq_take(c, from, 1, 0, &e), SHMQ_CLOSED);
        } else EQ(get(c, from), 2);
        EQ(get(c, to), 7);
        nothing_left(c);
    }
}

TEST(drained, "the consumers of a closed queue are told when recovery has freed what could have been its last message") {
    c = segment(64 << 20, 1 << 20);
    shmq_ctx *x = join();
    uint64_t q = QUEUE(c, "q", 10, .ttl_ns = 0), ctl;
    written(x, q, 1, NULL, &ctl);
    EQ(shmq_queue_close(c, q), SHMQ_OK);
    shmq_delivery d;
    EQ(shmq_take(c, q, 1, 0, &d), SHMQ_EMPTY);   /* it may come yet */
    EQ(shmq_owner_declare(c, (uint32_t)shmq_self(x), x->self_word), SHMQ_OK);
    uint32_t before = ld32_acq(&c->queues[q & 0xffff].evt) >> 1;
    EQ(shmq_recover(c, (uint32_t)shmq_self(x)), SHMQ_OK);
    CHECK((ld32_acq(&c->queues[q & 0xffff].evt) >> 1) - before >= 2);   /* the death, and its end */
    EQ(shmq_take(c, q, 1, 0, &d), SHMQ_CLOSED);
    nothing_left(c);
}

TEST(out_of_and_into, "a share can be forwarded: into levels, keys, ids, its own topic; the sibling keeps the payload") {
    c = segment(64 << 20, 1 << 20);
    uint64_t t = TOPIC("/t"), s = SUB("/t/s", t, 20, .order = SHMQ_BY_KEY), other = SUB("/t/o", t, 20, .ttl_ns = 0);
    uint64_t level = QUEUE(c, "level", 10, .priorities = 10), key = QUEUE(c, "key", 10, .order = SHMQ_BY_KEY), id = QUEUE(c, "id", 10, IDS);
    for (uint64_t v = 1; v <= 5; v++) EQ(say_id(c, t, v, NULL), SHMQ_OK);
    shmq_delivery d = take1(c, s);
    CHECK(empty(c, s));
    shmq_message m = { .data = d.data, .size = d.size, .priority = 3 };
    EQ(put(c, level, 100), SHMQ_OK);
    EQ(shmq_forward(c, &d, level, &m), SHMQ_OK);
    for (uint64_t i = 0; i < 2; i++) {
        d = take1(c, s);
        m = (shmq_message){ .data = d.data, .size = d.size, .key = "k", .key_size = 1 };
        EQ(shmq_forward(c, &d, key, &m), SHMQ_OK);
    }
    for (uint64_t i = 0; i < 2; i++) {
        d = take1(c, s);
        m = (shmq_message){ .data = d.data, .size = d.size, .dedup = "k", .dedup_size = 1 };
        EQ(shmq_forward(c, &d, id, &m), SHMQ_OK);
    }
    EQ(get(c, level), 1);
    EQ(get(c, level), 100);
    d = take1(c, key);
    EQ(value_of(&d), 2);
    CHECK(empty(c, key));
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(get(c, key), 3);
    EQ(get(c, id), 4);
    CHECK(empty(c, id) && empty(c, s));
    for (uint64_t v = 1; v <= 5; v++) EQ(get(c, other), v);
    nothing_left(c);
}

/* ---- loans ---- */
TEST(lent_elsewhere, "what was lent for a queue without ids has no room for one, and is not published with one elsewhere") {
    c = segment(64 << 20, 1 << 20);
    uint64_t plain = QUEUE(c, "plain", 10, .ttl_ns = 0), ids = QUEUE(c, "ids", 10, IDS);
    shmq_delivery a, b;
    EQ(shmq_loan(c, plain, 64, 0, &a), SHMQ_OK);
    EQ(shmq_loan(c, plain, 64, 0, &b), SHMQ_OK);
    if (b.data < a.data) {
        shmq_delivery e = a;
        a = b;
        b = e;
    }
    memset((void *)(uintptr_t)b.data, 0x5a, 64);
    shmq_message m = message(0, "x");
    EQ(shmq_loan_publish(c, ids, &a, &m), SHMQ_E_ARG);
    for (int i = 0; i < 64; i++) EQ(b.data[i], 0x5a);
    m = message(0, NULL);
    EQ(shmq_loan_publish(c, ids, &a, &m), SHMQ_OK);
    EQ(shmq_loan_abort(c, &b), SHMQ_OK);
    shmq_delivery d = take1(c, ids);
    EQ(d.size, 64);
    EQ(shmq_ack(c, &d, 1), 1);
    nothing_left(c);
}

/* ---- expiry ---- */
static uint64_t swept(uint64_t now) {
    uint32_t from = 0;
    uint64_t earliest;
    while (from < SHMQ_BLOCKS) CHECK(shmq_expire_scan(c, &from, now, 0, NULL, NULL, 0, &earliest) >= 0);
    return earliest;
}

TEST(share_expires, "the share of one subscription expires, ready, delayed or undecided; the sibling keeps the payload") {
    c = segment(64 << 20, 1 << 20);
    uint64_t dead = QUEUE(c, "dead", 10, .kind = 0), t = TOPIC("/t"),
             a = SUB("/t/a", t, 20, DEAD_TO(dead), .ttl_ns = 1000 * SECONDS, .max_bytes = 1000), b = SUB("/t/b", t, 20, .ttl_ns = 0);
    shmq_message m = { .data = &value_, .size = 8, .ttl_ns = SHMQ_DELAY_DEFAULT };
    for (value_ = 1; value_ <= 2; value_++) {
        m.delay_ns = value_ == 2;
        EQ(shmq_topic_publish(c, t, &m), SHMQ_OK);
    }
    EQ(swept(shmq_now() + 2000 * SECONDS), UINT64_MAX);
    EQ(c->queues[a & 0xffff].bytes, 0);
    CHECK(empty(c, a));
    for (uint64_t v = 1; v <= 2; v++) {
        shmq_delivery d = take1(c, dead);
        EQ(value_of(&d), v);
        EQ(d.reason, SHMQ_R_EXPIRED);
        EQ(d.origin, a & 0xffff);
        EQ(shmq_ack(c, &d, 1), 1);
    }
    EQ(get(c, b), 1);
    EQ(fire_due(c), 1);
    EQ(get(c, b), 2);
    nothing_left(c);
}

TEST(backoff_expires, "a message that expires in its backoff lets its key go, and wakes one who waits for it") {
    for (unsigned order = SHMQ_BY_KEY; order <= SHMQ_STRICT; order++) {
        c = segment(64 << 20, 1 << 20);
        uint64_t q = QUEUE(c, "q", 10, .order = order);
        shmq_message m = message(1, NULL);
        m.ttl_ns = 1000 * SECONDS;
        EQ(shmq_publish(c, q, &m), SHMQ_OK);
        EQ(say_id(c, q, 2, NULL), SHMQ_OK);
        shmq_delivery d = take1(c, q);
        EQ(shmq_nack(c, &d, 2000 * SECONDS, NULL, 0), SHMQ_OK);
        EQ(state_of(c, d.idx), SHMQ_DELAYED);
        CHECK(empty(c, q));
        shmq_au32 *evt = &c->queues[q & 0xffff].evt;
        uint32_t seen = waiter_prepare(evt);
        swept(shmq_now() + 1500 * SECONDS);
        CHECK(ld32_acq(evt) >> 1 != seen >> 1);
        EQ(get(c, q), 2);
        nothing_left(c);
    }
}

TEST(dies_once, "a message that expired in hands and was tried too often is one dead letter, and does not expire as such") {
    c = segment(64 << 20, 1 << 20);
    uint64_t deadest = QUEUE(c, "deadest", 10, .kind = 0), dead = QUEUE(c, "dead", 10, DEAD_TO(deadest), .ttl_ns = 1),
             q = QUEUE(c, "q", 10, DEAD_TO(dead), .max_retries = 0);
    shmq_message m = message(1, NULL);
    m.ttl_ns = 2 * MS;
    EQ(shmq_publish(c, q, &m), SHMQ_OK);
    shmq_delivery d = take1(c, q);
    nap(4 * MS);
    EQ(shmq_nack(c, &d, 0, "why", 3), SHMQ_OK);
    swept(shmq_now() + 1000 * SECONDS);
    CHECK(empty(c, deadest));
    d = take1(c, dead);
    EQ(d.reason, SHMQ_R_RETRIES);
    EQ(d.extra_size, 3);
    EQ(shmq_ack(c, &d, 1), 1);
    nothing_left(c);
}

TEST(oldest, "drop-oldest drops shares of the lowest level, and of a lane that is free; their payload goes with the last") {
    c = segment(64 << 20, 1 << 20);
    uint64_t t = TOPIC("/t"), a = SUB("/t/a", t, 3, .overflow = SHMQ_DROP_OLDEST, .priorities = 3),
             b = SUB("/t/b", t, 3, .overflow = SHMQ_DROP_OLDEST, .order = SHMQ_BY_KEY);
    shmq_message m = { .data = &value_, .size = 8, .key = &value_, .key_size = 8 };
    for (value_ = 1; value_ <= 6; value_++) {
        m.priority = (uint32_t)(value_ == 1);
        EQ(shmq_topic_publish(c, t, &m), SHMQ_OK);
    }
    EQ(get(c, a), 1);
    EQ(get(c, a), 5);
    EQ(get(c, a), 6);
    for (uint64_t v = 4; v <= 6; v++) EQ(get(c, b), v);
    CHECK(empty(c, a) && empty(c, b));
    nothing_left(c);
}
MAIN
