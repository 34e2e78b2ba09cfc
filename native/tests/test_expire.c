/* The sweep for messages that outlived their time to live: nobody has to take them. */
#include "harness.h"
#include "ring.h"

static shmq_ctx *c;
static uint64_t q, dead;
static uint32_t idx[4096];
static uint64_t due[4096], earliest;

static void setting(void) {
    c = segment(64 << 20, 1 << 20);
    dead = QUEUE(c, "dead", 1000);
    q = QUEUE(c, "q", 1000, DEAD_TO(dead));
}
static void timed(shmq_ctx *by, uint64_t to, uint64_t value, uint64_t ttl, uint64_t delay) {
    shmq_message m = { .data = &value, .size = 8, .ttl_ns = ttl, .delay_ns = delay };
    EQ(shmq_publish(by, to, &m), SHMQ_OK);
}
static int sweep(uint64_t now, uint64_t soon) {   /* returns how many candidates it handed out */
    uint32_t from = 0;
    int n = 0;
    while (from < SHMQ_BLOCKS) {
        int k = shmq_expire_scan(c, &from, now, soon, idx + n, due + n, 4096 - (uint32_t)n, &earliest);
        CHECK(k >= 0);
        n += k;
    }
    return n;
}
static uint64_t expired(uint64_t queue) {
    shmq_queue_info info;
    EQ(shmq_queue_snapshot(c, (uint32_t)(queue & 0xffff), &info), SHMQ_OK);
    return info.counters[9];
}

TEST(sweeps, "expired messages go to the dead-letter queue, others stay, and the next expiry is known") {
    setting();
    EQ(shmq_next_expiry(c), UINT64_MAX);
    uint32_t word = shmq_read_word(c, SHMQ_WORD_TIMER);
    timed(c, q, 1, 10 * SECONDS, 0);
    CHECK(shmq_next_expiry(c) <= shmq_now() + 10 * SECONDS);
    CHECK(shmq_read_word(c, SHMQ_WORD_TIMER) != word);
    word = shmq_read_word(c, SHMQ_WORD_TIMER);
    timed(c, q, 2, 20 * SECONDS, 0);
    EQ(shmq_read_word(c, SHMQ_WORD_TIMER), word);   /* later than what is known: nobody is woken */
    timed(c, q, 3, 5 * MS, 0);
    timed(c, q, 4, 5 * MS, 1000 * SECONDS);   /* delayed beyond its life */
    timed(c, q, 5, 0, 0);
    nap(6 * MS);
    EQ(sweep(shmq_now(), 0), 0);
    shmq_census left;
    EQ(shmq_queue_census(c, q, &left), SHMQ_OK);
    EQ(left.ready, 3);
    EQ(shmq_depth(c, q), 4);   /* the hole behind older ones is room only when these are taken */
    EQ(shmq_depth(c, dead), 2);
    EQ(expired(q), 2);
    CHECK(shmq_next_expiry(c) > shmq_now() && shmq_next_expiry(c) <= shmq_now() + 10 * SECONDS);
    sound(c);
    for (uint64_t v = 3; v <= 4; v++) {
        shmq_delivery d = take1(c, dead);
        EQ(value_of(&d), v);
        EQ(d.reason, SHMQ_R_EXPIRED);
        EQ(d.origin, q & 0xffff);
        EQ(shmq_ack(c, &d, 1), 1);
    }
    EQ(get(c, q), 1);
    EQ(get(c, q), 2);
    EQ(get(c, q), 5);
    EQ(sweep(shmq_now(), 0), 0);
    EQ(shmq_next_expiry(c), UINT64_MAX);
    nothing_left(c);
}

TEST(drops, "with expired = drop they are freed, dead-letter queue or not") {
    c = segment(64 << 20, 1 << 20);
    dead = QUEUE(c, "dead", 100);
    q = QUEUE(c, "q", 100, DEAD_TO(dead), .expired = 1);
    for (uint64_t v = 0; v < 10; v++) timed(c, q, v, 1, 0);
    sweep(shmq_now(), 0);
    EQ(shmq_depth(c, q), 0);
    EQ(shmq_depth(c, dead), 0);
    EQ(expired(q), 10);
    timed(c, q, 1, 1, 0);
    CHECK(empty(c, q));   /* a taker drops it just the same */
    EQ(shmq_depth(c, dead), 0);
    EQ(expired(q), 11);
    nothing_left(c);
}

TEST(candidates, "what expires soon is handed out, and ends at its time without another sweep") {
    setting();
    for (uint64_t v = 0; v < 10; v++) timed(c, q, v, 20 * MS, 0);
    timed(c, q, 10, 1000 * SECONDS, 0);
    uint64_t now = shmq_now();
    EQ(sweep(now, now + SECONDS), 10);
    CHECK(shmq_next_expiry(c) > now + 900 * SECONDS);
    EQ(shmq_expire(c, idx, 10, now), 0);   /* not yet */
    EQ(get(c, q), 0);   /* taken in time */
    nap(21 * MS);
    EQ(shmq_expire(c, idx, 10, shmq_now()), 9);
    EQ(shmq_expire(c, idx, 10, shmq_now()), 0);
    EQ(shmq_depth(c, q), 1);
    uint64_t seed = 3;
    for (int i = 0; i < 10000; i++) {
        uint32_t any = (uint32_t)rnd(&seed);
        EQ(shmq_expire(c, &any, 1, 1), 0);
    }
    sound(c);
}

TEST(slices, "a sweep that is interrupted by a publisher between two slices ends with its expiry known") {
    c = segment(64 << 20, 1 << 20);
    q = QUEUE(c, "q", 10000);
    for (uint64_t v = 0; v < 3000; v++) timed(c, q, v, 1, 0);
    uint32_t from = 0;
    EQ(shmq_expire_scan(c, &from, shmq_now(), 0, idx, due, 4096, &earliest), 0);
    CHECK(from < SHMQ_BLOCKS);   /* a slice kills 1024 */
    timed(c, q, 1, 50 * MS, 0);
    uint64_t at = shmq_now() + 50 * MS;
    while (from < SHMQ_BLOCKS) CHECK(shmq_expire_scan(c, &from, shmq_now(), 0, idx, due, 4096, &earliest) >= 0);
    CHECK(shmq_next_expiry(c) <= at);
    EQ(shmq_depth(c, q), 1);
    sound(c);
}

TEST(hands, "a message that expires in a consumer's hands dies when it comes back, however it comes back") {
    setting();
    for (uint64_t v = 0; v < 3; v++) timed(c, q, v, 30 * MS, 0);
    shmq_ctx *b = join();
    EQ(shmq_queue_open(b, "q"), (int64_t)q);
    shmq_delivery d = take1(c, q), e = take1(c, q), f = take1(b, q);
    nap(31 * MS);
    EQ(shmq_nack(c, &d, 0, NULL, 0), SHMQ_OK);
    EQ(shmq_release(c, &e), SHMQ_OK);
    CHECK(f.held);
    die(b);
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_depth(c, q), 0);
    EQ(shmq_depth(c, dead), 3);
    EQ(expired(q), 3);
}

TEST(death, "after a death the next expiry is unknown: sweep at once") {
    setting();
    shmq_ctx *b = join();
    uint32_t word = shmq_read_word(c, SHMQ_WORD_TIMER);
    sweep(shmq_now(), 0);
    EQ(shmq_next_expiry(c), UINT64_MAX);
    die(b);
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_next_expiry(c), 0);
    CHECK(shmq_read_word(c, SHMQ_WORD_TIMER) != word);
}

TEST(half_swept, "a sweeper that dies with a message in hand leaves it to recovery, which finds it expired") {
    setting();
    shmq_ctx *b = join();
    timed(c, q, 1, 1, 0);
    ring_item item;
    EQ(ring_find(c, ring_at(c, q, 0), &item), SHMQ_OK);
    CHECK(cas(&c->blocks[item.idx].ctl, item.ctl, ctl_next(item.ctl, SHMQ_OWNED, b->self)));
    die(b);
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_depth(c, q), 0);
    EQ(shmq_depth(c, dead), 1);
    sound(c);
}

TEST(room, "a sweep makes room for producers and ends the consumers of a closed queue") {
    c = segment(64 << 20, 1 << 20);
    q = QUEUE(c, "q", 4);
    for (uint64_t v = 0; v < 4; v++) timed(c, q, v, 1, 0);
    EQ(put(c, q, 9), SHMQ_FULL);
    sweep(shmq_now(), 0);
    EQ(put(c, q, 9), SHMQ_OK);
    EQ(get(c, q), 9);
    timed(c, q, 1, 1, 0);
    EQ(shmq_queue_close(c, q), SHMQ_OK);
    sweep(shmq_now(), 0);
    shmq_delivery d;
    EQ(shmq_take(c, q, 1, 0, &d), SHMQ_CLOSED);
    nothing_left(c);
}

TEST(looked_at, "a message that somebody looks at expires all the same, and the look stays readable") {
    setting();
    timed(c, q, 77, 1, 0);
    uint64_t cursor = 0;
    shmq_delivery d;
    EQ(shmq_peek(c, q, &cursor, &d), SHMQ_OK);
    sweep(shmq_now(), 0);
    EQ(shmq_depth(c, dead), 1);
    EQ(value_of(&d), 77);
    EQ(shmq_view_end(c, d.held, d.idx), SHMQ_OK);
    EQ(get(c, dead), 77);
    nothing_left(c);
}
MAIN
