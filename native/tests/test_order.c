/* order = key and strict: one unsettled message of a key at a time, in the order of publish, whatever happens to it. */
#include "harness.h"
#include "hash.h"
#include "order.h"
#include "queue.h"
#include "ring.h"

/* The n-th of the keys that have a lane each: of 51 keys as they come, every 80th time one shares a lane with the first. */
static uint64_t key_of(shmq_ctx *c, uint64_t n) {
    static uint64_t keys[64], lanes[64], found;
    CHECK(n < 64);
    for (uint64_t next = found ? keys[found - 1] + 1 : 0, i; found <= n; next++) {
        uint64_t lane = hash_spot(c->secret, &next, 8) % SHMQ_KEY_LANES;
        for (i = 0; i < found && lanes[i] != lane;) i++;
        if (i < found) continue;
        lanes[found] = lane;
        keys[found++] = next;
    }
    return keys[n];
}

static int keyed(shmq_ctx *c, uint64_t q, uint64_t n, uint64_t value) {
    uint64_t key = key_of(c, n);
    shmq_message m = { .data = &value, .size = 8, .key = &key, .key_size = 8 };
    return shmq_publish(c, q, &m);
}
#define KEYS(...) QUEUE(c, "q", 100, .order = SHMQ_BY_KEY, .max_retries = 0xffffffffu, __VA_ARGS__)
#define TAKES(c, q, d, v) \
    do { \
        (d) = take1(c, q); \
        EQ(value_of(&(d)), v); \
    } while (0)

TEST(per_key, "a key has one unsettled message at a time; other keys go on past it") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = KEYS(.priorities = 10);
    for (uint64_t i = 0; i < 3; i++)
        for (uint64_t k = 1; k <= 3; k++) EQ(keyed(c, q, k, k * 10 + i), SHMQ_OK);
    shmq_delivery d[4], e;
    EQ(shmq_take(c, q, 4, 0, d), 3);   /* reads ahead across keys only */
    for (int i = 0; i < 3; i++) EQ(value_of(&d[i]), (i + 1) * 10);
    CHECK(empty(b, q));
    EQ(shmq_depth(b, q), 6);
    EQ(shmq_ack(c, &d[1], 1), 1);
    TAKES(b, q, e, 21);
    CHECK(empty(c, q));
    EQ(shmq_ack(b, &e, 1), 1);
    EQ(get(c, q), 22);
    EQ(shmq_ack(c, &d[0], 1), 1);
    EQ(get(b, q), 11);
    EQ(shmq_ack(c, &d[2], 1), 1);
    EQ(get(b, q), 31);
    EQ(get(b, q), 12);
    EQ(get(b, q), 32);
    nothing_left(c);
}

TEST(back, "the order is kept over nack, backoff, release and a lease that ended") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = KEYS(.backoff_ns = 10 * MS, .ack_timeout_ns = 3600 * SECONDS), next;
    for (uint64_t i = 1; i <= 3; i++) EQ(keyed(c, q, 7, i), SHMQ_OK);
    EQ(keyed(c, q, 8, 80), SHMQ_OK);
    shmq_delivery d, other;
    TAKES(c, q, d, 1);
    EQ(shmq_nack(c, &d, 0, NULL, 0), SHMQ_OK);
    TAKES(b, q, d, 1);
    TAKES(c, q, other, 80);
    EQ(shmq_nack(b, &d, SHMQ_DELAY_DEFAULT, "x", 1), SHMQ_OK);
    EQ(state_of(c, d.idx), SHMQ_DELAYED);
    CHECK(empty(c, q) && empty(b, q));   /* the key waits with it */
    nap(25 * MS);
    EQ(fire_due(c), 1);
    TAKES(b, q, d, 1);
    EQ(shmq_release(b, &d), SHMQ_OK);
    TAKES(c, q, d, 1);
    EQ(shmq_leases_expire(b, shmq_now() + 7200 * SECONDS, &next), 2);
    uint64_t one = get(b, q);
    EQ(one + get(b, q), 81);   /* two keys, either first */
    EQ(shmq_ack(c, &d, 1), SHMQ_STALE);
    EQ(shmq_ack(c, &other, 1), SHMQ_STALE);
    EQ(get(b, q), 2);
    EQ(get(b, q), 3);
    nothing_left(c);
}

TEST(over, "a key is free again after ack, reject, dead-lettering, expiry, and when its block has another message") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t dlq = QUEUE(c, "dead", 100, .order = SHMQ_BY_KEY);
    uint64_t q = QUEUE(c, "q", 100, .order = SHMQ_BY_KEY, .max_retries = 0, DEAD_TO(dlq));
    for (uint64_t i = 1; i <= 4; i++) EQ(keyed(c, q, 7, i), SHMQ_OK);
    shmq_delivery d;
    TAKES(c, q, d, 1);
    EQ(shmq_reject(c, &d, "x", 1), SHMQ_OK);
    TAKES(b, q, d, 2);
    EQ(shmq_nack(b, &d, 0, NULL, 0), SHMQ_OK);
    EQ(get(b, q), 3);
    uint64_t v = 5, key = key_of(c, 7);
    shmq_message m = { .data = &v, .size = 8, .key = &key, .key_size = 8, .ttl_ns = 1000 };
    EQ(shmq_publish(c, q, &m), SHMQ_OK);
    EQ(keyed(c, q, 7, 6), SHMQ_OK);
    nap(15 * MS);
    EQ(get(b, q), 4);
    EQ(get(b, q), 6);
    EQ(get(c, dlq), 1);
    EQ(get(c, dlq), 2);
    EQ(get(c, dlq), 5);
    /* the block of key 1's last message goes to key 2: that keeps nobody of key 1 waiting */
    EQ(keyed(c, q, 1, 10), SHMQ_OK);
    TAKES(c, q, d, 10);
    uint32_t idx = d.idx;
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(keyed(c, q, 2, 20), SHMQ_OK);
    shmq_delivery e;
    TAKES(c, q, e, 20);
    EQ(e.idx, idx);
    EQ(keyed(c, q, 1, 11), SHMQ_OK);
    EQ(get(b, q), 11);
    EQ(shmq_ack(c, &e, 1), 1);
    nothing_left(c);
}

TEST(new_life, "a publisher stopped before it has written its header keeps no key waiting") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *x = join();
    uint64_t q = KEYS(.priorities = 1);
    EQ(keyed(x, q, 1, 10), SHMQ_OK);
    shmq_delivery d = take1(x, q);
    EQ(shmq_ack(x, &d, 1), 1);
    shmq_block *b = &c->blocks[d.idx];   /* as a publish into this queue finds it, in NEW: the id of the life before */
    uint64_t ctl = ld_acq(&b->ctl);
    CHECK(cas(&b->ctl, ctl, ctl_next(ctl, SHMQ_NEW, x->self)));
    EQ(keyed(c, q, 1, 11), SHMQ_OK);
    EQ(get(c, q), 11);
    CHECK(cas(&b->ctl, ctl_next(ctl, SHMQ_NEW, x->self), ctl_make(SHMQ_FREE, 0, 0, ctl_gen(ctl) + 1)));
    nothing_left(c);
}

TEST(death, "the order is kept when the consumer dies, before or after it has taken") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = KEYS(.priorities = 1);
    for (uint64_t i = 1; i <= 20; i++) EQ(keyed(c, q, i % 2, i), SHMQ_OK);
    for (uint64_t i = 1; i <= 20; i += 2) {
        shmq_ctx *x = join();
        shmq_delivery d[2];
        EQ(shmq_take(x, q, 2, i & 2 ? SHMQ_TAKE_AHEAD : 0, d), 2);
        EQ(value_of(&d[0]), i);
        EQ(value_of(&d[1]), i + 1);
        CHECK(empty(c, q));
        die(x);
        EQ(shmq_reap(c, 0), 1);
        EQ(get(c, q), i);
        EQ(get(c, q), i + 1);
    }
    /* claimed, and dead before the CAS of the message: anyone takes it */
    EQ(keyed(c, q, 1, 100), SHMQ_OK);
    EQ(keyed(c, q, 1, 101), SHMQ_OK);
    shmq_ctx *x = join();
    local_ring *r;
    ring_item item;
    shmq_depth(x, q);
    EQ(order_find(x, &x->local[q & 0xffff], &r, &item), SHMQ_OK);
    EQ(get(c, q), 100);
    EQ(get(c, q), 101);
    nothing_left(c);
}

TEST(strict, "strict: one unsettled message of the whole queue at a time, redelivered before anything else") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 100, .order = SHMQ_STRICT, .max_retries = 0xffffffffu, .priorities = 10);
    for (uint64_t i = 0; i < 10; i++) {
        shmq_message m = { .data = &i, .size = 8, .key = &i, .key_size = 8, .priority = (uint32_t)i };
        EQ(shmq_publish(c, q, &m), SHMQ_OK);
    }
    for (uint64_t i = 0; i < 10; i++) {
        shmq_delivery d[4];
        EQ(shmq_take(c, q, 4, 0, d), 1);
        CHECK(empty(b, q));
        EQ(d[0].priority, i);   /* carried, without effect */
        EQ(shmq_nack(c, d, 0, NULL, 0), SHMQ_OK);
        EQ(get(b, q), i);
    }
    nothing_left(c);
}

TEST(sleeper, "a consumer that finds only waiting keys sleeps until one is settled, by whatever means") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    for (int how = 0; how < 4; how++) {
        char name[] = { 'q', (char)('0' + how), 0 };
        uint64_t q = QUEUE(c, name, 100, .order = SHMQ_BY_KEY, .max_retries = 0xffffffffu);
        EQ(keyed(c, q, 1, 1), SHMQ_OK);
        EQ(keyed(c, q, 1, 2), SHMQ_OK);
        shmq_delivery d;
        TAKES(c, q, d, 1);
        partner p = split();
        if (p.pid == 0) {
            shmq_ctx *b = join();
            CHECK(empty(b, q));
            EQ(shmq_wait_items(b, q, shmq_now() + 5 * MS, 0), SHMQ_TIMEOUT);
            say(p.up);
            uint64_t t0 = shmq_now();
            EQ(shmq_wait_items(b, q, 0, 0), SHMQ_OK);
            CHECK(shmq_now() - t0 < 500 * MS);
            EQ(get(b, q), how == 3 ? 1 : 2);
            shmq_detach(b);
            _exit(0);
        }
        hear(p.up);
        nap(20 * MS);
        uint32_t held = d.held, idx = d.idx;
        if (how == 0) EQ(shmq_ack(c, &d, 1), 1);
        if (how == 1) EQ(shmq_reject(c, &d, NULL, 0), SHMQ_OK);
        if (how == 2) EQ(shmq_settle_viewed(c, &d), SHMQ_OK);
        if (how == 3) EQ(shmq_nack(c, &d, 0, NULL, 0), SHMQ_OK);
        int status;
        waitpid(p.pid, &status, 0);
        EQ(status, 0);
        if (how == 2) EQ(shmq_view_end(c, held, idx), SHMQ_OK);
    }
}

TEST(bound, "max_depth counts messages, however many have gone past one that waits; then the ring itself is full") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 300, .order = SHMQ_BY_KEY, .overflow = SHMQ_REJECT), n = 0;
    EQ(keyed(c, q, 1, 1), SHMQ_OK);
    EQ(keyed(c, q, 1, 2), SHMQ_OK);
    shmq_delivery d;
    TAKES(c, q, d, 1);
    for (; n < 3000 && keyed(n & 1 ? b : c, q, 2 + n % 50, n) == SHMQ_OK; n++) {
        EQ(get(b, q), n);
        EQ(shmq_depth(c, q), 1);
    }
    CHECK(n > 1500 && n < 3000);
    EQ(keyed(c, q, 1, 3), SHMQ_FULL);
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(get(b, q), 2);
    uint64_t m = 0;
    while (keyed(c, q, 1, m) == SHMQ_OK) m++;
    EQ(m, 300);
    EQ(shmq_purge(b, q), 300);
    CHECK(empty(c, q));
    nothing_left(c);
}

TEST(purge, "a purge takes what waits for an unsettled one as well, and so does drop-oldest") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 3, .order = SHMQ_BY_KEY, .overflow = SHMQ_DROP_OLDEST);
    for (uint64_t i = 1; i <= 4; i++) EQ(keyed(c, q, 1, i), SHMQ_OK);   /* 1 is dropped */
    shmq_delivery d;
    TAKES(c, q, d, 2);
    EQ(keyed(c, q, 1, 5), SHMQ_OK);
    EQ(keyed(c, q, 1, 6), SHMQ_OK);   /* 3 is dropped, which waits for 2 */
    EQ(shmq_purge(c, q), 3);
    EQ(shmq_nack(c, &d, 0, NULL, 0), SHMQ_OK);
    EQ(keyed(c, q, 1, 7), SHMQ_OK);
    EQ(get(c, q), 2);
    EQ(get(c, q), 7);
    nothing_left(c);
}

TEST(dropper_dies, "a message that was being dropped when its dropper died comes back, and stands in nobody's way") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *x = join();
    uint64_t q = KEYS(.priorities = 1);
    for (uint64_t i = 1; i <= 3; i++) EQ(keyed(c, q, 1, i), SHMQ_OK);
    ring_item item;
    shmq_depth(x, q);
    EQ(ring_find(x, &x->local[q & 0xffff].work, &item), SHMQ_OK);   /* as a purge does */
    CHECK(cas(&c->blocks[item.idx].ctl, item.ctl, ctl_next(item.ctl, SHMQ_OWNED, x->self)));
    shmq_delivery d;
    TAKES(c, q, d, 2);
    die(x);
    EQ(shmq_reap(c, 0), 1);
    CHECK(empty(c, q));
    EQ(shmq_nack(c, &d, 0, NULL, 0), SHMQ_OK);   /* behind 1 in the redelivery ring, but named */
    EQ(get(c, q), 2);
    EQ(get(c, q), 1);
    EQ(get(c, q), 3);
    nothing_left(c);
}

TEST(no_key, "messages without a key wait for nobody's key but their lane's") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = KEYS(.priorities = 1);
    for (uint64_t i = 0; i < 50; i++) EQ(put(c, q, i), SHMQ_OK);
    static shmq_delivery d[50];
    EQ(shmq_take(c, q, 50, 0, d), 50);
    EQ(shmq_ack(c, d, 50), 50);
    shmq_queue_options o = { .max_depth = 1, .order = 3, .dead_letter = SHMQ_NO_QUEUE };
    EQ(shmq_queue_create(c, "three", &o), SHMQ_E_ARG);
    nothing_left(c);
}

/* Consumers at random: take, sometimes nack, release or die; each key's messages have to be settled one after the other. */
static void worker(uint64_t q, uint64_t seed, _Atomic(uint64_t) *done, uint64_t keys, uint64_t each) {
    shmq_ctx *b = join();
    for (;;) {
        shmq_delivery d;
        int ahead = rnd(&seed) % 4 == 0, rc = shmq_take(b, q, 1, ahead ? SHMQ_TAKE_AHEAD : 0, &d);
        if (rc == 1 && ahead && shmq_start(b, &d) != SHMQ_OK) continue;   /* one who waited idle has it now */
        if (rc == 1) {
            uint64_t key = value_of(&d) >> 32, n = value_of(&d) & 0xffffffff, luck = rnd(&seed) % 100;
            uint64_t seen = atomic_load(&done[key]);
            CHECK(key < keys && n == (seen & 0xffffffff));      /* in order, and nothing twice that was acked */
            CHECK(!(seen >> 32 & 1) || d.redelivered);              /* nobody else is at it, unless it died at it */
            if (luck < 6) {
                atomic_fetch_or(&done[key], UINT64_C(1) << 32);
                kill(getpid(), SIGKILL);
            }
            if (luck < 20) EQ(luck < 14 ? shmq_nack(b, &d, 0, NULL, 0) : shmq_release(b, &d), SHMQ_OK);
            else {
                atomic_store(&done[key], n + 1);
                EQ(shmq_ack(b, &d, 1), 1);
            }
            continue;
        }
        uint64_t sum = 0;
        for (uint64_t k = 0; k < keys; k++) sum += atomic_load(&done[k]) & 0xffffffff;
        if (sum == keys * each) break;
        shmq_wait_items(b, q, shmq_now() + 50 * MS, 0);
        shmq_reap(b, 0);
    }
    shmq_detach(b);
    _exit(0);
}

TEST_LIMIT(chaos, 120, "consumers that die, nack and race never see a key out of order") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t seed = 42;
    for (int round = 0; round < 6; round++) {
        enum { KEYS_N = 5, EACH = 200 };
        _Atomic(uint64_t) *done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint64_t q = QUEUE(c, "q", 2000, .order = round % 3 == 2 ? SHMQ_STRICT : SHMQ_BY_KEY, .max_retries = 0xffffffffu);
        for (uint64_t i = 0; i < EACH; i++)
            for (uint64_t k = 0; k < KEYS_N; k++) EQ(keyed(c, q, k, k << 32 | i), SHMQ_OK);
        pid_t pid[3];
        int left = 3, status;
        for (int i = 0; i < 3; i++) {
            uint64_t s = rnd(&seed);
            if ((pid[i] = fork()) == 0) worker(q, s, done, KEYS_N, EACH);
        }
        while (left) {
            pid_t p = wait(&status);
            if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
                uint64_t s = rnd(&seed);
                shmq_reap(c, 0);
                if (fork() == 0) worker(q, s, done, KEYS_N, EACH);
                continue;
            }
            CHECK(p > 0 && status == 0);
            left--;
        }
        shmq_reap(c, 0);
        for (int k = 0; k < KEYS_N; k++) EQ(atomic_load(&done[k]) & 0xffffffff, EACH);
        CHECK(empty(c, q));
        EQ(shmq_queue_delete(c, q), SHMQ_OK);
        nothing_left(c);
    }
}

MAIN
