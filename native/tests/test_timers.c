/* Delayed messages: the mailbox of hints, the scan that needs none, and firing. */
#include "harness.h"

static shmq_ctx *c;
static uint64_t q;
static uint32_t delayed(uint64_t value, uint64_t delay) {
    shmq_message m = { .data = &value, .size = 8, .delay_ns = delay };
    EQ(shmq_publish(c, q, &m), SHMQ_OK);
    for (uint32_t i = 0; i < 100000; i++) {
        uint64_t v;
        if (state_of(c, i) != SHMQ_DELAYED) continue;
        memcpy(&v, c->classes[0].payload + (uint64_t)i * c->classes[0].stride, 8);
        if (v == value) return i;
    }
    CHECK(!"there");
    return 0;
}
static void setting(void) {
    c = segment(64 << 20, 1 << 20);
    q = QUEUE(c, "q", 10000);
}

TEST(fires, "a delayed message is invisible until it is due, then it is an ordinary one") {
    setting();
    uint64_t due = 0;
    uint32_t idx = delayed(7, 60 * MS);
    CHECK(empty(c, q));
    EQ(shmq_depth(c, q), 0);
    EQ(shmq_timer_fire(c, idx, shmq_now(), &due), SHMQ_FULL);
    CHECK(due > shmq_now());
    nap(62 * MS);
    EQ(shmq_timer_fire(c, idx, shmq_now(), &due), SHMQ_OK);
    EQ(shmq_timer_fire(c, idx, shmq_now(), &due), SHMQ_STALE);
    shmq_delivery d = take1(c, q);
    EQ(d.attempt, 1);
    EQ(d.redelivered, 0);
    EQ(shmq_ack(c, &d, 1), 1);
    nothing_left(c);
}

TEST(hints, "the mailbox hands out each hint once, and says when it lost some") {
    setting();
    static uint32_t idx[5000];
    static uint64_t due[5000];
    uint32_t scan;
    uint32_t word = shmq_read_word(c, SHMQ_WORD_TIMER);
    for (uint64_t i = 0; i < 100; i++) delayed(i, 1000 * SECONDS);
    CHECK(shmq_read_word(c, SHMQ_WORD_TIMER) != word);
    EQ(shmq_timers_collect(c, idx, due, 60, &scan), 60);
    EQ(scan & 2, 2);
    EQ(shmq_timers_collect(c, idx, due, 5000, &scan), 40);
    EQ(shmq_timers_collect(c, idx, due, 5000, &scan), 0);
    EQ(scan, 0);
    uint64_t value = 1;
    for (int i = 0; i < 6000; i++) {
        shmq_message m = { .data = &value, .size = 8, .delay_ns = 1000 * SECONDS };
        EQ(shmq_publish(c, q, &m), SHMQ_OK);
    }
    EQ(shmq_timers_collect(c, idx, due, 5000, &scan), 4096);
    EQ(scan & 1, 1);
    uint32_t from = 0, n = 0;
    while (from < SHMQ_BLOCKS) {
        int k = shmq_timers_scan(c, &from, idx, due, 1000);
        CHECK(k >= 0);
        n += (uint32_t)k;
    }
    EQ(n, 6100);
}

TEST(nonsense, "hints and indices that make no sense are ignored") {
    setting();
    uint32_t idx[64], scan;
    uint64_t due[64], seed = 9, d;
    EQ(put(c, q, 1), SHMQ_OK);
    for (int i = 0; i < SHMQ_TIMERS; i++) st_sc(&c->timers[i], rnd(&seed) >> rnd(&seed) % 64);
    int n = 0;
    do n = shmq_timers_collect(c, idx, due, 64, &scan);
    while (n == 64);
    EQ(n, 0);
    for (int i = 0; i < 10000; i++) EQ(shmq_timer_fire(c, (uint32_t)rnd(&seed), UINT64_MAX, &d), SHMQ_STALE);
    EQ(get(c, q), 1);
}

TEST(recovery, "a death makes the sidecar look for delayed messages whose hint was never written") {
    setting();
    uint32_t idx[4], scan;
    uint64_t due[4];
    delayed(1, 1000 * SECONDS);
    EQ(shmq_timers_collect(c, idx, due, 4, &scan), 1);
    shmq_ctx *b = join();
    die(b);
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_timers_collect(c, idx, due, 4, &scan), 0);
    EQ(scan, 1);
}

TEST(half_fired, "one that dies between firing and the ring leaves the message to recovery") {
    setting();
    shmq_ctx *b = join();
    uint32_t idx = delayed(5, 1);
    uint64_t w = ld_acq(&c->blocks[idx].ctl);
    CHECK(cas(&c->blocks[idx].ctl, w, ctl_next(w, SHMQ_MOVE, b->self)));
    die(b);
    EQ(shmq_reap(c, 0), 1);
    shmq_delivery d = take1(c, q);
    EQ(value_of(&d), 5);
    EQ(d.attempt, 1);
    EQ(d.redelivered, 0);   /* nobody has ever had it */
    EQ(shmq_ack(c, &d, 1), 1);
    nothing_left(c);
}

TEST(full_ring, "what is due for a full queue waits there for room, and is no timer's business any more") {
    c = segment(64 << 20, 1 << 20);
    q = QUEUE(c, "q", 1);
    uint64_t due;
    uint32_t idx = delayed(5, 1);
    EQ(put(c, q, 4), SHMQ_OK);
    EQ(shmq_timer_fire(c, idx, shmq_now(), &due), SHMQ_OK);
    EQ(shmq_timer_fire(c, idx, shmq_now(), &due), SHMQ_STALE);
    shmq_census s;
    EQ(shmq_queue_census(c, q, &s), SHMQ_OK);
    EQ(s.parked, 1);
    EQ(s.delayed, 0);
    EQ(get(c, q), 4);
    EQ(get(c, q), 5);
    nothing_left(c);
}

TEST(gone, "a delayed message of a deleted queue is freed") {
    setting();
    uint64_t due;
    uint32_t idx = delayed(5, 1);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    shmq_timer_fire(c, idx, shmq_now(), &due);
    nothing_left(c);
}
MAIN
