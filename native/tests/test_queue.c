/* The life of a queue: created, found, closed, deleted, its record used again. */
#include "harness.h"

TEST(names, "queues are found by name; names have 1 to 255 bytes") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    char name[300];
    memset(name, 'n', sizeof name);
    shmq_queue_options o = { .max_depth = 1, .dead_letter = SHMQ_NO_QUEUE };
    name[256] = 0;
    EQ(shmq_queue_create(c, name, &o), SHMQ_E_ARG);
    EQ(shmq_queue_create(c, "", &o), SHMQ_E_ARG);
    name[255] = 0;
    int64_t q = shmq_queue_create(c, name, &o);
    CHECK(q > 0);
    EQ(shmq_queue_open(c, name), q);
    EQ(shmq_queue_create(c, name, &o), SHMQ_E_EXISTS);
    name[254] = 0;
    EQ(shmq_queue_open(c, name), SHMQ_E_NOTFOUND);
    EQ(shmq_queue_adopt(c, (uint32_t)(q & 0xffff)), q);
    EQ(shmq_queue_adopt(c, 5), SHMQ_E_NOTFOUND);
    EQ(shmq_queue_adopt(c, 0xffffffff), SHMQ_E_NOTFOUND);
    o.max_depth = 0;
    EQ(shmq_queue_create(c, "zero", &o), SHMQ_E_ARG);
    o.max_depth = UINT64_MAX;
    EQ(shmq_queue_create(c, "much", &o), SHMQ_E_ARG);
}

TEST_LIMIT(thousand, 60, "1024 queues fit, each its own; the next is refused until one is deleted") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    static uint64_t q[SHMQ_QUEUES + 1];
    char name[16];
    for (int i = 0; i < SHMQ_QUEUES; i++) {
        snprintf(name, sizeof name, "q%d", i);
        q[i] = QUEUE(c, name, 3);
        EQ(put(c, q[i], (uint64_t)i), SHMQ_OK);
    }
    shmq_queue_options o = { .max_depth = 1, .dead_letter = SHMQ_NO_QUEUE };
    EQ(shmq_queue_create(c, "more", &o), SHMQ_E_QUEUES);
    EQ(shmq_queue_delete(c, q[500]), SHMQ_OK);
    uint64_t more = QUEUE(c, "more", 3);
    EQ(more & 0xffff, 500);
    CHECK(more != q[500]);
    EQ(put(c, q[500], 1), SHMQ_GONE);
    shmq_delivery d;
    EQ(shmq_take(c, q[500], 1, 0, &d), SHMQ_GONE);
    CHECK(empty(c, more));
    for (int i = 0; i < SHMQ_QUEUES; i++)
        if (i != 500) EQ(get(c, q[i]), i);
    nothing_left(c);
}

TEST(room, "when all room for rings is taken, no queue of that size is made until one is deleted; small ones are") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t last = 0;
    int64_t rc = 0;
    int n = 0;
    for (; n < SHMQ_QUEUES; n++) {
        char name[16];
        snprintf(name, sizeof name, "q%d", n);
        rc = shmq_queue_create(c, name, &(shmq_queue_options){ .max_depth = SHMQ_BLOCKS, .priorities = 10, .dead_letter = SHMQ_NO_QUEUE });
        if (rc < 0) break;
        last = (uint64_t)rc;
    }
    EQ(rc, SHMQ_E_QUEUES);
    CHECK(n > 5);
    EQ(put(c, QUEUE(c, "small", 10), 1), SHMQ_OK);
    EQ(shmq_queue_delete(c, last), SHMQ_OK);
    uint64_t again = QUEUE(c, "large", SHMQ_BLOCKS, .priorities = 10);
    EQ(put(c, again, 7), SHMQ_OK);
    EQ(get(c, again), 7);
}

TEST_LIMIT(reuse, 60, "queues created and deleted hundreds of times leave no memory and no message behind") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t seed = 5, used = 0;
    for (int i = 0; i < 300; i++) {
        uint64_t depth = 1 + rnd(&seed) % 3000, q = QUEUE(c, "q", depth);
        for (uint64_t k = 0, n = rnd(&seed) % 6; k < n && k < depth; k++) EQ(put(i & 1 ? b : c, q, k), SHMQ_OK);
        shmq_delivery d;
        if (shmq_take(b, q, 1, 0, &d) == 1) EQ(i & 2 ? shmq_nack(b, &d, 0, "x", 1) : shmq_ack(b, &d, 1) - 1, 0);
        EQ(shmq_queue_delete(i & 4 ? b : c, q), SHMQ_OK);
        EQ(shmq_queue_open(b, "q"), SHMQ_E_NOTFOUND);
        if (i == 100) used = memory_used();
    }
    CHECK(memory_used() <= used + (1 << 20));
    shmq_segment_info s;
    EQ(shmq_segment_snapshot(c, &s), SHMQ_OK);
    CHECK(s.queues < 100);
    nothing_left(c);
}

TEST(snapshot, "a snapshot shows the options as they were given, and counters from zero also in a used record") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    for (int i = 0; i < 70; i++) {
        shmq_queue_options o = { .max_depth = 10,
                                 .max_bytes = 77,
                                 .ttl_ns = 5,
                                 .backoff_ns = 6,
                                 .backoff_max_ns = 7,
                                 .ack_timeout_ns = 8 * SECONDS,
                                 .dedup_window_ns = 9,
                                 .dead_letter = SHMQ_NO_QUEUE,
                                 .overflow = SHMQ_REJECT,
                                 .max_retries = 11,
                                 .jitter_ppm = 12,
                                 .flags = 13 };
        uint64_t q = make_queue(c, "q", o);
        shmq_queue_info s;
        EQ(shmq_queue_snapshot(c, (uint32_t)(q & 0xffff), &s), SHMQ_OK);
        CHECK(memcmp(&s.options, &o, sizeof o) == 0 && strcmp(s.name, "q") == 0);
        EQ(s.state, SHMQ_Q_LIVE);
        for (int k = 0; k < 16; k++) EQ(s.counters[k], 0);
        shmq_message m = { .data = "x", .size = 1 };
        EQ(shmq_publish(c, q, &m), SHMQ_OK);
        EQ(shmq_queue_snapshot(c, (uint32_t)(q & 0xffff), &s), SHMQ_OK);
        EQ(s.ready, 1);
        EQ(s.bytes, 1);
        EQ(s.counters[0], 1);
        EQ(shmq_queue_delete(c, q), SHMQ_OK);
    }
    shmq_queue_info s;
    EQ(shmq_queue_snapshot(c, 5000, &s), SHMQ_E_NOTFOUND);
}

TEST(drain, "a closed queue takes no more, gives out what it has, and says CLOSED when nothing can come any more") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 10);
    for (uint64_t i = 0; i < 3; i++) EQ(put(c, q, i), SHMQ_OK);
    shmq_message later = { .data = "12345678", .size = 8, .delay_ns = 30 * MS };
    EQ(shmq_publish(c, q, &later), SHMQ_OK);
    shmq_delivery loan, d, e;
    EQ(shmq_loan(c, q, 8, 0, &loan), SHMQ_OK);
    EQ(shmq_queue_close(c, q), SHMQ_OK);
    EQ(shmq_queue_close(b, q), SHMQ_OK);
    EQ(put(b, q, 9), SHMQ_CLOSED);
    EQ(shmq_loan_publish(c, q, &loan, &(shmq_message){ 0 }), SHMQ_CLOSED);
    EQ(get(b, q), 0);
    EQ(get(b, q), 1);
    d = take1(b, q);
    EQ(shmq_take(c, q, 1, 0, &e), SHMQ_EMPTY);   /* one is unsettled, one delayed */
    EQ(shmq_nack(b, &d, 0, NULL, 0), SHMQ_OK);
    EQ(get(c, q), 2);
    EQ(shmq_take(c, q, 1, 0, &e), SHMQ_EMPTY);
    nap(40 * MS);
    EQ(fire_due(c), 1);
    EQ(get(c, q), 0x3837363534333231);
    EQ(shmq_take(c, q, 1, 0, &e), SHMQ_CLOSED);   /* the loan does not count: it was refused */
    EQ(shmq_wait_items(b, q, 0, 0), SHMQ_CLOSED);
    EQ(shmq_loan_abort(c, &loan), SHMQ_OK);
    EQ(shmq_queue_open(c, "q"), q);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    EQ(shmq_queue_close(c, q), SHMQ_GONE);
    nothing_left(c);
}

TEST(outstanding, "a deleted queue's record waits for deliveries that are still out, and they can be settled") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 10);
    shmq_delivery d[4];
    for (uint64_t i = 0; i < 5; i++) EQ(put(c, q, i), SHMQ_OK);
    EQ(shmq_take(b, q, 4, 0, d), 4);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    EQ(shmq_queue_collect(c), 0);
    uint64_t other = QUEUE(c, "q", 10);
    CHECK((other & 0xffff) != (q & 0xffff));
    EQ(value_of(&d[0]), 0);
    EQ(shmq_ack(b, &d[0], 1), 1);
    EQ(shmq_nack(b, &d[1], 0, "x", 1), SHMQ_OK);
    EQ(shmq_reject(b, &d[2], "x", 1), SHMQ_OK);
    EQ(shmq_queue_collect(c), 0);
    die(b);
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_queue_collect(c), 1);
    CHECK(empty(c, other));
    nothing_left(c);
}

TEST(busy, "a record is not used again while somebody is inside an operation that may have seen it") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 10);
    op_begin(b);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    EQ(shmq_queue_collect(c), 0);
    op_end(b);
    EQ(shmq_queue_collect(c), 1);
    q = QUEUE(c, "q", 10);
    op_begin(b);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    EQ(shmq_queue_collect(c), 0);
    die(b);   /* the dead are in no operation */
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_queue_collect(c), 1);
}

TEST(creator_dies, "a creator that died with the lock, or half-way, holds nobody up") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t w = owner_make(SHMQ_OWNER_ALIVE, 9, 1, pid_of_nobody());
    st_sc(&b->me->word, w);
    st_sc(&c->header->admin, w);
    uint64_t start = shmq_now();
    uint64_t q = QUEUE(c, "q", 10);
    CHECK(shmq_now() - start < SECONDS);
    EQ(ld_acq(&c->header->admin), 0);
    EQ(put(c, q, 1), SHMQ_OK);
    st_sc(&c->header->admin, owner_make(SHMQ_OWNER_ALIVE, 77, 77, 77));   /* nobody's word at all */
    QUEUE(c, "r", 10);
    EQ(get(c, q), 1);
}

TEST(drop_oldest, "drop-oldest makes room by letting the oldest go, to the dead letters if there are any") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t dlq = QUEUE(c, "dead", 100), q = QUEUE(c, "q", 3, .overflow = SHMQ_DROP_OLDEST, DEAD_TO(dlq));
    for (uint64_t i = 0; i < 10; i++) EQ(put(c, q, i), SHMQ_OK);
    for (uint64_t i = 7; i < 10; i++) EQ(get(c, q), i);
    for (uint64_t i = 0; i < 7; i++) {
        shmq_delivery d = take1(c, dlq);
        EQ(d.reason, SHMQ_R_OVERFLOW);
        EQ(value_of(&d), i);
        EQ(shmq_ack(c, &d, 1), 1);
    }
    nothing_left(c);
}

TEST(purge, "purge frees what is ready, not what is out or delayed") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 10);
    EQ(shmq_purge(c, q), 0);
    for (uint64_t i = 0; i < 6; i++) EQ(put(c, q, i), SHMQ_OK);
    shmq_delivery d = take1(c, q), e = take1(c, q);
    EQ(shmq_nack(c, &e, 0, NULL, 0), SHMQ_OK);
    EQ(shmq_purge(c, q), 5);
    EQ(shmq_purge(c, q), 0);
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    EQ(shmq_purge(c, q), SHMQ_GONE);
    nothing_left(c);
}

TEST(peek, "peek shows every ready message once, redelivered ones first, and disturbs nothing") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 20), cursor = 0;
    for (uint64_t i = 0; i < 10; i++) EQ(put(c, q, i), SHMQ_OK);
    shmq_delivery d = take1(c, q);
    EQ(shmq_nack(c, &d, 0, "why", 3), SHMQ_OK);
    for (int round = 0; round < 3; round++) {
        cursor = 0;
        for (uint64_t i = 0; i < 10; i++) {
            EQ(shmq_peek(c, q, &cursor, &d), SHMQ_OK);
            EQ(value_of(&d), i);
            EQ(shmq_ack(c, &d, 1), SHMQ_STALE);
            EQ(shmq_view_end(c, d.held, d.idx), SHMQ_OK);
        }
        EQ(shmq_peek(c, q, &cursor, &d), SHMQ_EMPTY);
    }
    for (uint64_t i = 0; i < 100; i++) {
        cursor = i;
        int rc = shmq_peek(c, q, &cursor, &d);
        if (rc == SHMQ_OK) EQ(shmq_view_end(c, d.held, d.idx), SHMQ_OK);
    }
    for (uint64_t i = 0; i < 10; i++) EQ(get(c, q), i);
    nothing_left(c);
}
MAIN
