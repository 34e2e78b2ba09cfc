/* Priorities: which message comes next when several levels are in use, and what that costs those who use one. */
#include "harness.h"
#include "level.h"
#include "queue.h"

static int at_level(shmq_ctx *c, uint64_t q, uint32_t priority, uint64_t value) {
    shmq_message m = { .data = &value, .size = 8, .priority = priority };
    return shmq_publish(c, q, &m);
}
static uint32_t lanes_of(shmq_ctx *c, uint64_t q) { return ld32_acq(&c->queues[q & 0xffff].lanes); }
static void back(shmq_ctx *c, uint64_t q, uint64_t value) {   /* the next one, which has to be that, is nacked */
    shmq_delivery d = take1(c, q);
    EQ(value_of(&d), value);
    EQ(shmq_nack(c, &d, 0, NULL, 0), SHMQ_OK);
}

TEST(highest, "the highest level first, in order of publish within a level") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 1000, .priorities = 10);
    for (uint64_t i = 0; i < 100; i++) EQ(at_level(c, q, (uint32_t)(i * 7 % 10), i), SHMQ_OK);
    EQ(shmq_depth(b, q), 100);
    EQ(lanes_of(c, q), 1022);
    uint64_t last[10] = { 0 };
    int level = 9;
    for (int i = 0; i < 100; i++) {
        shmq_delivery d = take1(i & 1 ? b : c, q);
        uint64_t v = value_of(&d);
        EQ(d.priority, v * 7 % 10);
        CHECK((int)d.priority <= level);
        CHECK(last[d.priority] == 0 || v > last[d.priority]);
        level = (int)d.priority;
        last[d.priority] = v;
        EQ(shmq_ack(i & 1 ? b : c, &d, 1), 1);
    }
    EQ(shmq_depth(b, q), 0);
    nothing_left(c);
}

TEST(one_level, "a queue whose levels above 0 were never used has no memory for them, and then little at first") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100000, .priorities = 10), before = memory_used();
    for (uint64_t i = 0; i < 10; i++) EQ(at_level(c, q, 0, i), SHMQ_OK);
    EQ(lanes_of(c, q), 0);
    CHECK(memory_used() - before < 512 * 1024);
    before = memory_used();
    EQ(at_level(c, q, 3, 10), SHMQ_OK);
    EQ(lanes_of(c, q), 8);
    EQ(memory_used() - before, RING_CHUNK * 8);
    EQ(get(c, q), 10);
    for (uint64_t i = 0; i < 10; i++) EQ(get(c, q), i);
    nothing_left(c);
}

TEST(fewer, "a priority above the queue's levels is its highest, and one level has no order but that of publish") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t one = QUEUE(c, "one", 10), two = QUEUE(c, "two", 10, .priorities = 2);
    EQ(at_level(c, one, 0, 1), SHMQ_OK);
    EQ(at_level(c, one, 9, 2), SHMQ_OK);
    EQ(lanes_of(c, one), 0);
    EQ(get(c, one), 1);
    EQ(get(c, one), 2);
    EQ(at_level(c, two, 0, 1), SHMQ_OK);
    EQ(at_level(c, two, 1, 2), SHMQ_OK);
    EQ(at_level(c, two, 200, 3), SHMQ_OK);
    EQ(get(c, two), 2);
    EQ(get(c, two), 3);
    EQ(get(c, two), 1);
    shmq_queue_options o = { .max_depth = 1, .priorities = 11, .dead_letter = SHMQ_NO_QUEUE };
    EQ(shmq_queue_create(c, "eleven", &o), SHMQ_E_ARG);
    nothing_left(c);
}

TEST(again, "a redelivered message comes before new ones of its level, and after those of higher ones") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 100, .priorities = 10);
    for (uint64_t i = 0; i < 3; i++) EQ(at_level(c, q, 2, 20 + i), SHMQ_OK);
    for (uint64_t i = 0; i < 3; i++) EQ(at_level(c, q, 0, i), SHMQ_OK);
    shmq_delivery d[2];
    EQ(shmq_take(c, q, 2, 0, d), 2);
    for (int i = 0; i < 2; i++) EQ(shmq_nack(c, &d[i], 0, NULL, 0), SHMQ_OK);
    EQ(at_level(b, q, 5, 50), SHMQ_OK);
    back(b, q, 50);
    EQ(at_level(b, q, 5, 51), SHMQ_OK);
    EQ(at_level(b, q, 9, 90), SHMQ_OK);
    uint64_t want[] = { 90, 50, 51, 20, 21, 22, 0, 1, 2 };
    for (int i = 0; i < 9; i++) EQ(get(i & 1 ? b : c, q), want[i]);
    nothing_left(c);
}

TEST(middle, "taking from the middle of the redelivery ring leaves the rest in order, over many rounds") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 100, .priorities = 10, .max_retries = 0xffffffffu), seed = 7;
    for (int round = 0; round < 300; round++) {
        uint64_t n = 1 + rnd(&seed) % 20;
        for (uint64_t i = 0; i < n; i++) EQ(at_level(c, q, (uint32_t)(rnd(&seed) % 3) * 4, i), SHMQ_OK);
        static shmq_delivery d[20];
        EQ(shmq_take(c, q, 20, 0, d), n);
        for (uint64_t i = 0; i < n; i++) EQ(shmq_nack(c, &d[i], 0, NULL, 0), SHMQ_OK);
        EQ(shmq_depth(b, q), n);
        int level = 9;
        int64_t last = -1;
        for (uint64_t i = 0; i < n; i++) {
            d[0] = take1(round & 1 ? b : c, q);
            CHECK((int)d[0].priority <= level);
            if ((int)d[0].priority < level) last = -1;
            CHECK((int64_t)value_of(&d[0]) > last);
            last = (int64_t)value_of(&d[0]);
            level = (int)d[0].priority;
            EQ(shmq_ack(round & 1 ? b : c, d, 1), 1);
        }
        CHECK(empty(c, q) && empty(b, q));
    }
    nothing_left(c);
}

TEST(aging, "with aging a message that has waited gains levels: nothing starves") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 1000, .priorities = 10, .aging_ns = 20 * MS), plain = QUEUE(c, "plain", 1000, .priorities = 10);
    for (int k = 0; k < 2; k++) {
        uint64_t to = k ? plain : q;
        EQ(at_level(c, to, 0, 1), SHMQ_OK);
        EQ(at_level(c, to, 4, 5), SHMQ_OK);
        EQ(get(c, to), 5);
    }
    uint64_t until = shmq_now() + 4000 * MS, seen = 0, n = 0;
    while (!seen && shmq_now() < until) {   /* a flood from above */
        EQ(at_level(c, q, 9, 100), SHMQ_OK);
        EQ(at_level(c, q, 9, 100), SHMQ_OK);
        EQ(at_level(c, plain, 9, 100), SHMQ_OK);
        EQ(get(c, plain), 100);
        for (int k = 0; k < 2; k++)
            if (get(c, q) == 1) seen = shmq_now();
        n++;
        nap(MS);
    }
    CHECK(seen);
    CHECK(n >= 20);   /* not at once either: 9 levels are 180 ms */
    EQ(get(c, plain), 1);
    while (!empty(c, q)) {}
}

TEST(aging_order, "aging compares when each was published, so it does not matter when they are taken") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 1000, .priorities = 10, .aging_ns = 10 * MS);
    EQ(at_level(c, q, 0, 1), SHMQ_OK);   /* as good as level 3, 30 ms later */
    nap(35 * MS);
    EQ(at_level(c, q, 3, 3), SHMQ_OK);
    EQ(at_level(c, q, 9, 9), SHMQ_OK);
    EQ(at_level(c, q, 0, 2), SHMQ_OK);
    uint64_t want[] = { 9, 1, 3, 2 };
    back(c, q, 9);
    for (int i = 0; i < 4; i++) EQ(get(c, q), want[i]);
    q = QUEUE(c, "for ever", 10, .priorities = 10, .aging_ns = UINT64_MAX);
    EQ(at_level(c, q, 0, 1), SHMQ_OK);
    EQ(at_level(c, q, 1, 2), SHMQ_OK);
    EQ(get(c, q), 2);
    EQ(get(c, q), 1);
    nothing_left(c);
}

TEST(bound, "max_depth counts all levels; drop-oldest drops the oldest of the lowest") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 8, .priorities = 10, .overflow = SHMQ_REJECT),
             d = QUEUE(c, "d", 8, .priorities = 10, .overflow = SHMQ_DROP_OLDEST);
    for (uint64_t i = 0; i < 8; i++) EQ(at_level(i & 1 ? c : b, q, (uint32_t)i, i), SHMQ_OK);
    for (uint32_t i = 0; i < 10; i++) EQ(at_level(i & 1 ? c : b, q, i, 99), SHMQ_FULL);
    EQ(shmq_wait_space(c, q, shmq_now() + MS, 0), SHMQ_TIMEOUT);
    EQ(get(c, q), 7);
    EQ(shmq_wait_space(c, q, shmq_now() + MS, 0), SHMQ_OK);
    EQ(at_level(b, q, 0, 8), SHMQ_OK);
    EQ(at_level(c, q, 0, 9), SHMQ_FULL);
    EQ(shmq_purge(b, q), 8);
    EQ(shmq_depth(c, q), 0);
    for (uint64_t i = 0; i < 12; i++) EQ(at_level(c, d, i < 4 ? 5 : (uint32_t)i % 2, i), SHMQ_OK);
    EQ(shmq_depth(c, d), 8);
    uint64_t want[] = { 0, 1, 2, 3, 5, 7, 9, 11 };   /* 4, 6, 8, 10 were of level 0 */
    for (int i = 0; i < 8; i++) EQ(get(c, d), want[i]);
    nothing_left(c);
}

TEST(big_bound, "with a deep queue the bound is exact as well, when nobody else publishes") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 5000, .priorities = 10), n = 0;
    while (at_level(n & 1 ? c : b, q, (uint32_t)(n % 3), n) == SHMQ_OK) n++;
    EQ(n, 5000);
    for (int i = 0; i < 3000; i++) get(b, q);
    while (at_level(c, q, 1, n) == SHMQ_OK) n++;
    EQ(n, 8000);
    EQ(shmq_purge(c, q), 5000);
    nothing_left(c);
}

TEST(peek, "a look goes level by level, redelivered ones first") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100, .priorities = 10), cursor = 0;
    EQ(at_level(c, q, 0, 1), SHMQ_OK);
    back(c, q, 1);
    EQ(at_level(c, q, 4, 41), SHMQ_OK);
    EQ(at_level(c, q, 4, 42), SHMQ_OK);
    back(c, q, 41);
    EQ(at_level(c, q, 0, 2), SHMQ_OK);
    EQ(at_level(c, q, 9, 90), SHMQ_OK);
    uint64_t want[] = { 90, 41, 42, 1, 2 };
    shmq_delivery d;
    for (int i = 0; i < 5; i++) {
        EQ(shmq_peek(c, q, &cursor, &d), SHMQ_OK);
        EQ(value_of(&d), want[i]);
        EQ(shmq_view_end(c, d.held, d.idx), SHMQ_OK);
    }
    EQ(shmq_peek(c, q, &cursor, &d), SHMQ_EMPTY);
    for (int i = 0; i < 5; i++) EQ(get(c, q), want[i]);
    nothing_left(c);
}

TEST(delayed_dead, "delayed messages and dead letters go to their level; the dead are recovered into theirs") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *x = join();
    uint64_t dlq = QUEUE(c, "dead", 100, .priorities = 10), q = QUEUE(c, "q", 100, .priorities = 10, .max_retries = 1, DEAD_TO(dlq)), v = 7;
    shmq_message m = { .data = &v, .size = 8, .priority = 7, .delay_ns = MS };
    EQ(shmq_publish(c, q, &m), SHMQ_OK);
    EQ(at_level(c, q, 6, 6), SHMQ_OK);
    EQ(at_level(c, q, 1, 1), SHMQ_OK);
    nap(5 * MS);
    EQ(fire_due(c), 1);
    shmq_delivery d[2];
    EQ(shmq_take(x, q, 2, 0, d), 2);
    EQ(value_of(&d[0]), 7);
    die(x);
    EQ(shmq_reap(c, 0), 1);
    EQ(at_level(c, q, 6, 60), SHMQ_OK);
    back(c, q, 7);
    back(c, q, 6);
    EQ(get(c, q), 60);
    EQ(get(c, q), 1);
    EQ(get(c, dlq), 7);
    EQ(get(c, dlq), 6);
    nothing_left(c);
}

TEST(sleeper, "a consumer that sleeps is woken by the first message of a level that was never used") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 10, .priorities = 10);
    for (uint32_t level = 1; level < 10; level++) {
        partner p = split();
        if (p.pid == 0) {
            shmq_ctx *b = join();
            CHECK(empty(b, q));
            say(p.up);
            uint64_t t0 = shmq_now();
            EQ(shmq_wait_items(b, q, 0, 0), SHMQ_OK);
            CHECK(shmq_now() - t0 < 500 * MS);
            EQ(get(b, q), level);
            shmq_detach(b);
            _exit(0);
        }
        hear(p.up);
        nap(20 * MS);
        EQ(at_level(c, q, level, level), SHMQ_OK);
        int status;
        waitpid(p.pid, &status, 0);
        EQ(status, 0);
    }
}

TEST(unopened, "what came back is found although the ring of its level cannot be used: for want of memory, or damaged") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100, .priorities = 10);
    shmq_ring_place *seven = &c->queues[q & 0xffff].place[7], sound = *seven;
    EQ(at_level(c, q, 7, 70), SHMQ_OK);
    EQ(at_level(c, q, 3, 30), SHMQ_OK);
    back(c, q, 70);
    seven->lg = 99;
    shmq_ctx *b = join();
    uint64_t cursor = 0;
    shmq_delivery d;
    EQ(shmq_peek(b, q, &cursor, &d), SHMQ_OK);
    EQ(value_of(&d), 70);
    EQ(shmq_view_end(b, d.held, d.idx), SHMQ_OK);
    EQ(shmq_peek(b, q, &cursor, &d), SHMQ_OK);
    EQ(value_of(&d), 30);
    EQ(shmq_view_end(b, d.held, d.idx), SHMQ_OK);
    EQ(shmq_peek(b, q, &cursor, &d), SHMQ_EMPTY);
    EQ(get(b, q), 70);
    EQ(get(b, q), 30);
    CHECK(empty(b, q));
    EQ(shmq_wait_items(b, q, shmq_now() + 10 * MS, 0), SHMQ_TIMEOUT);
    *seven = sound;
    nothing_left(c);
}

static void released(shmq_ctx *c, uint64_t q, uint32_t n,
                     int step) {   /* all that is there, from the last one on: every step-th, then the rest */
    shmq_delivery d[64];
    EQ(shmq_take(c, q, 64, 0, d), (int)n);
    for (int from = 0; from < step; from++)
        for (int i = (int)n - 1 - from; i >= 0; i -= step) EQ(shmq_release(c, &d[i]), SHMQ_OK);
}

TEST(in_order, "what comes back goes in the order of publish within its level, whoever gave it back first") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t plain = QUEUE(c, "plain", 100, .max_retries = 100), q = QUEUE(c, "q", 100, .priorities = 10, .max_retries = 100);
    for (uint64_t i = 0; i < 20; i++) EQ(put(i & 1 ? b : c, plain, i), SHMQ_OK);
    for (int step = 1; step < 5; step++) released(b, plain, 20, step);
    EQ(put(c, plain, 20), SHMQ_OK);
    for (uint64_t i = 0; i <= 20; i++) EQ(get(c, plain), i);
    for (uint64_t i = 0; i < 20; i++) EQ(at_level(c, q, i % 2 ? 7 : 2, i), SHMQ_OK);
    for (int step = 1; step < 5; step++) released(b, q, 20, step);
    for (uint64_t i = 1; i < 20; i += 2) EQ(get(b, q), i);
    for (uint64_t i = 0; i < 20; i += 2) EQ(get(c, q), i);
    nothing_left(c);
}

TEST(looks, "of very many that come back the first 32 are looked at") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100);
    for (uint64_t i = 0; i < 40; i++) EQ(put(c, q, i), SHMQ_OK);
    released(c, q, 40, 1);   /* 39 first, 0 last */
    for (uint64_t i = 8; i < 9; i--) EQ(get(c, q), i);   /* each that goes lets one more be seen */
    for (uint64_t i = 9; i < 40; i++) EQ(get(c, q), i);
    nothing_left(c);
}

TEST(memory, "levels go with their queue: deleted and made anew, they are empty and unused") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    for (int round = 0; round < 20; round++) {
        uint64_t q = QUEUE(c, "q", 1 + (uint64_t)round * 50, .priorities = 10);
        EQ(lanes_of(c, q), 0);
        CHECK(empty(b, q));
        for (uint32_t i = 0; i < 1 + (uint32_t)round && i < 10; i++) EQ(at_level(b, q, i, i), SHMQ_OK);
        if (round & 1)
            while (!empty(c, q)) {}
        EQ(shmq_queue_delete(c, q), SHMQ_OK);
    }
}

MAIN
