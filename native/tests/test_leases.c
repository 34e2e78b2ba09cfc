/* Leases that end by the clock, views that outlive them, and what the old holder can still do. */
#include "harness.h"

static int expire(shmq_ctx *c, uint64_t now) {
    uint64_t next;
    int n = shmq_leases_expire(c, now, &next);
    CHECK(n >= 0);
    return n;
}

TEST(expiry, "a lease ends at its deadline, not before, and the message comes back with its attempt counted") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10, .ack_timeout_ns = 50 * MS), next = 0;
    EQ(put(a, q, 1), SHMQ_OK);
    uint64_t before = shmq_now();
    shmq_delivery d = take1(a, q), e;
    uint64_t after = shmq_now();
    EQ(shmq_leases_expire(b, after, &next), 0);
    CHECK(next + MS >= before + 50 * MS && next <= after + 51 * MS);
    EQ(expire(b, next - 1), 0);
    CHECK(empty(b, q));
    EQ(expire(b, next), 1);
    EQ(expire(b, next), 0);
    e = take1(b, q);
    EQ(value_of(&e), 1);
    EQ(e.attempt, 2);
    EQ(e.redelivered, 1);
    EQ(shmq_ack(a, &d, 1), SHMQ_STALE);
    EQ(shmq_ack(b, &e, 1), 1);
    nothing_left(a);
}

TEST(touched, "a touched lease lives longer, by the new deadline") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10, .ack_timeout_ns = 50 * MS), next = 0;
    EQ(put(a, q, 1), SHMQ_OK);
    shmq_delivery d = take1(a, q), old = d;
    EQ(shmq_touch(a, &d, 10 * SECONDS), SHMQ_OK);
    EQ(expire(b, shmq_now() + 5 * SECONDS), 0);
    EQ(shmq_ack(a, &old, 1), SHMQ_STALE);   /* the word of before the touch proves nothing any more */
    EQ(shmq_leases_expire(b, shmq_now(), &next), 0);
    CHECK(next > shmq_now() + 9 * SECONDS);
    EQ(shmq_ack(a, &d, 1), 1);
    nothing_left(a);
}

TEST(too_late, "touch, nack, reject, release and start of an expired lease say STALE and disturb nobody") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10, .ack_timeout_ns = 1, .max_retries = 100);
    for (int way = 0; way < 7; way++) {
        EQ(put(a, q, 9), SHMQ_OK);
        shmq_delivery d = take1(a, q), e;
        uint32_t held = d.held, idx = d.idx;
        EQ(expire(b, shmq_now() + SECONDS), 1);
        e = take1(b, q);
        EQ(e.attempt, 2);
        int rc = way == 0   ? shmq_touch(a, &d, SECONDS)
                 : way == 1 ? shmq_nack(a, &d, 0, "x", 1)
                 : way == 2 ? shmq_reject(a, &d, "x", 1)
                 : way == 3 ? shmq_release(a, &d)
                 : way == 4 ? shmq_start(a, &d)
                 : way == 5 ? shmq_ack(a, &d, 1)
                            : shmq_settle_viewed(a, &d);
        EQ(rc, SHMQ_STALE);
        if (way == 6) shmq_view_end(a, held, idx);
        EQ(state_of(a, e.idx), SHMQ_OWNED);
        EQ(shmq_ack(b, &e, 1), 1);
        CHECK(empty(a, q));
    }
    nothing_left(a);
}

TEST(limbo, "a block that an expired holder may still read is not used again before it lets go") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10, .ack_timeout_ns = 1);
    EQ(put(a, q, 5), SHMQ_OK);
    shmq_delivery d = take1(a, q);
    EQ(expire(b, shmq_now() + SECONDS), 1);
    EQ(get(b, q), 5);
    EQ(state_of(a, d.idx), SHMQ_LIMBO);
    EQ(shmq_leases_late(b), 1);
    for (uint64_t i = 0; i < 200; i++) {
        EQ(put(b, q, i), SHMQ_OK);
        EQ(get(b, q), i);
        EQ(value_of(&d), 5);
    }
    EQ(shmq_ack(a, &d, 1), SHMQ_STALE);
    EQ(state_of(a, d.idx), SHMQ_FREE);
    EQ(shmq_leases_late(b), 0);
    nothing_left(a);
}

TEST(view, "a view of an acked message keeps its block, two views keep it until the second ends") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10), cursor = 0;
    EQ(put(a, q, 5), SHMQ_OK);
    shmq_delivery look_ = { 0 }, d;
    EQ(shmq_peek(b, q, &cursor, &look_), SHMQ_OK);
    d = take1(a, q);
    uint32_t held = d.held;
    EQ(shmq_settle_viewed(a, &d), SHMQ_OK);
    EQ(state_of(a, d.idx), SHMQ_LIMBO);
    EQ(shmq_leases_late(b), 0);   /* a view may stay for ever */
    EQ(shmq_view_end(a, held, d.idx), SHMQ_OK);
    EQ(shmq_view_end(a, held, d.idx), SHMQ_STALE);
    EQ(state_of(a, d.idx), SHMQ_LIMBO);
    EQ(value_of(&look_), 5);
    EQ(shmq_view_end(b, look_.held, look_.idx), SHMQ_OK);
    EQ(state_of(a, d.idx), SHMQ_FREE);
    nothing_left(a);
}

TEST(view_dies, "views of a dead process keep nothing") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10), cursor = 0;
    shmq_delivery v;
    EQ(put(a, q, 5), SHMQ_OK);
    EQ(shmq_peek(b, q, &cursor, &v), SHMQ_OK);
    get(a, q);
    EQ(state_of(a, v.idx), SHMQ_LIMBO);
    die(b);
    EQ(shmq_reap(a, 0), 1);
    nothing_left(a);
}

TEST(view_leaves, "nor do those of a process that left") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10, .ack_timeout_ns = 1), cursor = 0;
    shmq_delivery v, d;
    EQ(put(a, q, 5), SHMQ_OK);
    EQ(put(a, q, 6), SHMQ_OK);
    EQ(shmq_peek(b, q, &cursor, &v), SHMQ_OK);
    get(a, q);
    d = take1(b, q);
    EQ(expire(a, shmq_now() + SECONDS), 1);
    get(a, q);
    EQ(state_of(a, d.idx), SHMQ_LIMBO);
    EQ(shmq_detach(b), SHMQ_OK);
    nothing_left(a);
}

TEST(extra_kept, "the error text of an expired holder stays readable until it lets go") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10, .ack_timeout_ns = 1, .max_retries = 100);
    EQ(put(a, q, 5), SHMQ_OK);
    shmq_delivery d = take1(a, q), e;
    EQ(shmq_nack(a, &d, 0, "first error", 11), SHMQ_OK);
    d = take1(a, q);
    EQ(d.extra_size, 11);
    EQ(expire(b, shmq_now() + SECONDS), 1);
    e = take1(b, q);
    EQ(shmq_nack(b, &e, 0, "second text", 11), SHMQ_OK);
    e = take1(b, q);
    CHECK(e.extra_size == 11 && !memcmp(e.extra, "second text", 11));
    for (int i = 0; i < 100; i++) {
        shmq_delivery x;
        EQ(put(b, q, 1), SHMQ_OK);
        x = take1(b, q);
        EQ(shmq_nack(b, &x, 0, "another one", 11), SHMQ_OK);
        x = take1(b, q);
        EQ(shmq_ack(b, &x, 1), 1);
    }
    CHECK(!memcmp(d.extra, "first error", 11));
    EQ(shmq_ack(b, &e, 1), 1);
    EQ(shmq_ack(a, &d, 1), SHMQ_STALE);
    uint32_t from = 0, idx[4];
    uint64_t due[4];
    while (from < SHMQ_BLOCKS) shmq_timers_scan(a, &from, idx, due, 4);
    nothing_left(a);
}

TEST(own_twice, "a death counts the attempt also when an older entry of the dead names the same block") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    for (int n = 0; n < 8; n++) {
        char name[8];
        snprintf(name, sizeof name, "q%d", n);
        uint64_t q = QUEUE(a, name, 10), cursor = 0;
        shmq_ctx *b = join();
        shmq_delivery v[8];
        EQ(put(a, q, 5), SHMQ_OK);
        for (int i = 0; i < n; i++) {
            cursor = 0;
            EQ(shmq_peek(b, q, &cursor, &v[i]), SHMQ_OK);
        }
        for (int i = 0; i < n; i += 2) EQ(shmq_view_end(b, v[i].held, v[i].idx), SHMQ_OK);
        take1(b, q);
        die(b);
        EQ(shmq_reap(a, 0), 1);
        shmq_delivery d = take1(a, q);
        EQ(d.attempt, 2);
        EQ(shmq_ack(a, &d, 1), 1);
    }
    nothing_left(a);
}

TEST(no_timeout, "without ack_timeout a lease never ends by the clock") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10), t = QUEUE(a, "t", 10, .ack_timeout_ns = SECONDS);
    (void)t;
    EQ(put(a, q, 1), SHMQ_OK);
    shmq_delivery d = take1(a, q);
    EQ(expire(a, shmq_now() + 1000 * SECONDS), 0);
    EQ(shmq_ack(a, &d, 1), 1);
}

TEST(others_lease, "a stale settle of something taken for good ends nobody else's lease") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    for (uint64_t i = 0; i < 3; i++) EQ(put(a, q, i), SHMQ_OK);
    EQ(get(a, q), 0);
    shmq_delivery d = take1(a, q), free_, copy;   /* in the held entry that was just let go */
    EQ(shmq_take(a, q, 1, SHMQ_TAKE_FREE, &free_), 1);
    copy = free_;
    EQ(shmq_ack(a, &free_, 1), 1);
    EQ(shmq_ack(a, &copy, 1), SHMQ_STALE);
    EQ(shmq_ack(a, &d, 1), 1);
    nothing_left(a);
}

TEST(endless, "an ack_timeout beyond all time is one that never comes") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10, .ack_timeout_ns = UINT64_MAX - 1);
    EQ(put(a, q, 1), SHMQ_OK);
    shmq_delivery d = take1(a, q);
    EQ(expire(a, shmq_now()), 0);
    EQ(shmq_touch(a, &d, UINT64_MAX - 1), SHMQ_OK);
    EQ(expire(a, shmq_now()), 0);
    EQ(shmq_ack(a, &d, 1), 1);
}
MAIN
