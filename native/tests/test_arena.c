/* The arena: size classes, growth, limits, magazines, and memory that is given back. */
#include "harness.h"
#include "arena.h"
#include "free.h"

static void fill(uint8_t *p, uint64_t n, uint64_t seed) {
    for (uint64_t i = 0; i < n; i++) p[i] = (uint8_t)(seed + i * 7 + (i >> 12));
}
static int holds(const uint8_t *p, uint64_t n, uint64_t seed) {
    for (uint64_t i = 0; i < n; i++)
        if (p[i] != (uint8_t)(seed + i * 7 + (i >> 12))) return 0;
    return 1;
}

TEST_LIMIT(sizes, 60, "a message of every size around every class boundary comes out as it went in") {
    shmq_ctx *c = segment(256 << 20, 8 << 20);
    uint64_t q = QUEUE(c, "q", 100);
    const uint64_t edges[] = { 0, 64, 256, 1024, 4096, 16384, 65536 + 4096, 262144 + 4096, (1 << 20) + 4096, 5 << 20, 8 << 20 };
    static uint8_t b[9 << 20];
    for (unsigned e = 0; e < sizeof edges / sizeof *edges; e++)
        for (int d = -9; d <= 9; d++) {
            int64_t n = (int64_t)edges[e] + d;
            if (n < 0 || n > 8 << 20) continue;
            fill(b, (uint64_t)n, (uint64_t)n);
            for (uint32_t meta = 0; meta < 20; meta += 9) {
                shmq_message m = { .data = b, .size = (uint64_t)n, .meta = "0123456789abcdefghijk", .meta_size = meta };
                EQ(shmq_publish(c, q, &m), SHMQ_OK);
                shmq_delivery t = take1(c, q);
                EQ(t.size, n);
                EQ(t.meta_size, meta);
                CHECK(holds(t.data, t.size, (uint64_t)n) && (meta == 0 || !memcmp(t.meta, "0123456789abcdefghijk", meta)));
                EQ(shmq_ack(c, &t, 1), 1);
            }
        }
    shmq_message m = { .data = b, .size = (8 << 20) + 1 };
    EQ(shmq_publish(c, q, &m), SHMQ_E_TOOBIG);
    nothing_left(c);
}

TEST_LIMIT(huge, 120, "a message of 300 MiB passes, and its memory comes back") {
    shmq_ctx *c = segment(UINT64_C(2) << 30, 512 << 20);
    uint64_t q = QUEUE(c, "q", 10), n = 300 << 20, before = memory_used();
    shmq_delivery d;
    EQ(shmq_loan(c, q, n, 0, &d), SHMQ_OK);
    memset((void *)(uintptr_t)d.data, 0x5a, n);
    shmq_message m = { .ttl_ns = 0 };
    EQ(shmq_loan_publish(c, q, &d, &m), SHMQ_OK);
    CHECK(memory_used() >= before + n);
    d = take1(c, q);
    EQ(d.size, n);
    CHECK(d.data[0] == 0x5a && d.data[n - 1] == 0x5a && d.data[n / 2] == 0x5a);
    EQ(shmq_ack(c, &d, 1), 1);
    CHECK(shmq_trim(c, 0) >= (int64_t)n);
    CHECK(memory_used() < before + (64 << 20));
    nothing_left(c);
}

TEST(limit, "at the memory limit publishing says NOMEM, and goes on when a message was settled") {
    shmq_ctx *c = segment(1 << 20, 64 << 10);
    uint64_t q = QUEUE(c, "q", 100000), n = 0;
    int rc;
    while ((rc = put_sized(c, q, n, 1000)) == SHMQ_OK) n++;
    EQ(rc, SHMQ_E_NOMEM);
    CHECK(n >= (1 << 20) / 1024);
    for (uint64_t i = 0; i < n; i++) {
        EQ(get(c, q), i);
        EQ(put_sized(c, q, n + i, 1000), SHMQ_OK);
        if (i % 97 == 0) EQ(put_sized(c, q, 0, 1000), SHMQ_E_NOMEM);
    }
    EQ(shmq_depth(c, q), n);
    for (uint64_t i = 0; i < n; i++) EQ(get(c, q), n + i);
    nothing_left(c);
}

TEST(few, "a class with less than one bitmap word of blocks gives out each of them and no more") {
    shmq_ctx *c = segment(1 << 20, 256 << 10);
    uint32_t idx[300], n = 0;
    uint64_t ctl[300];
    int k = arena_class_for(c, 260000);
    CHECK(k > 0 && c->classes[k].limit < 64);
    while (n < 300 && arena_alloc(c, 260000, &idx[n], &ctl[n]) == SHMQ_OK) {
        for (uint32_t i = 0; i < n; i++) CHECK(idx[i] != idx[n]);
        CHECK(idx[n] - c->classes[class_of(c, idx[n])].first < c->classes[class_of(c, idx[n])].limit);
        n++;
    }
    CHECK(n >= c->classes[k].limit && n < 300);
    for (uint32_t i = 0; i < n; i++) CHECK(free_block(c, idx[i], ctl[i]) && !free_block(c, idx[i], ctl[i]));
    for (uint32_t i = 0; i < n; i++) EQ(arena_alloc(c, 260000, &idx[i], &ctl[i]), SHMQ_OK);
    uint32_t more;
    uint64_t w;
    EQ(arena_alloc(c, 260000, &more, &w), SHMQ_E_NOMEM);
}

TEST(steal, "free blocks in the magazine of another process are not lost to the rest") {
    shmq_ctx *a = segment(1 << 20, 64 << 10), *b = join();
    uint64_t q = QUEUE(a, "q", 100000), n = 0;
    while (put_sized(a, q, n, 1000) == SHMQ_OK) n++;
    for (uint64_t i = 0; i < n; i++) EQ(get(a, q), i);   /* some stay in a's magazines */
    for (uint64_t i = 0; i < n; i++) EQ(put_sized(b, q, i, 1000), SHMQ_OK);
    EQ(put_sized(b, q, 0, 1000), SHMQ_E_NOMEM);
    for (uint64_t i = 0; i < n; i++) EQ(get(b, q), i);
    for (uint64_t i = 0; i < n; i++) EQ(put_sized(a, q, i, 1000), SHMQ_OK);
    die(b);
    EQ(shmq_reap(a, 0), 1);
    for (uint64_t i = 0; i < n; i++) EQ(get(a, q), i);
    EQ(shmq_detach(a), SHMQ_OK);
    shmq_ctx *c = join();
    shmq_audit_report r = sound(c);
    EQ(r.unhinted, 0);   /* both gave everything back: one by leaving, one by being recovered */
}

TEST_LIMIT(trim_small, 60, "trim gives the memory of small and large blocks back, and it can be used again") {
    shmq_ctx *c = segment(64 << 20, 4 << 20);
    uint64_t q = QUEUE(c, "q", 100000);
    static uint8_t b[4 << 20];
    uint64_t low = 0, high = 0;
    for (int round = 0; round < 4; round++) {
        const uint64_t sizes[] = { 60, 250, 1000, 4000, 16000, 60000, 250000, 1 << 20, 3 << 20 };
        for (int s = 0; s < 9; s++) {
            uint64_t n = (UINT64_C(6) << 20) / sizes[s];
            if (n > 8000) n = 8000;
            for (uint64_t i = 0; i < n; i++) {
                fill(b, sizes[s], i);
                shmq_message m = { .data = b, .size = sizes[s] };
                EQ(shmq_publish(c, q, &m), SHMQ_OK);
            }
            if (memory_used() > high) high = memory_used();
            for (uint64_t i = 0; i < n; i++) {
                shmq_delivery d = take1(c, q);
                CHECK(d.size == sizes[s] && holds(d.data, d.size, i));
                EQ(shmq_ack(c, &d, 1), 1);
            }
        }
        CHECK(shmq_trim(c, 0) > 0);
        uint64_t now = memory_used();
        CHECK(now + (20 << 20) < high);
        if (round == 0) low = now;
        else CHECK(now <= low + (1 << 20));   /* no creeping */
    }
    nothing_left(c);
}

TEST(trim_keeps, "trim keeps what it is told to keep, and never touches a message") {
    shmq_ctx *c = segment(64 << 20, 4 << 20);
    uint64_t q = QUEUE(c, "q", 1000);
    static uint8_t b[1 << 20];
    for (uint64_t i = 0; i < 20; i++) {
        fill(b, 1 << 20, i);
        shmq_message m = { .data = b, .size = 1 << 20 };
        EQ(shmq_publish(c, q, &m), SHMQ_OK);
    }
    for (uint64_t i = 0; i < 10; i++) get(c, q);
    uint64_t before = memory_used();
    int64_t back = shmq_trim(c, 4 << 20);
    CHECK(back > 0 && memory_used() <= before - (uint64_t)back && memory_used() >= before - (uint64_t)back - (1 << 20));
    for (uint64_t i = 10; i < 20; i++) {
        shmq_delivery d = take1(c, q);
        CHECK(holds(d.data, d.size, i));
        EQ(shmq_ack(c, &d, 1), 1);
    }
}

TEST(trim_group, "a page is given back also when its first block is not the one that was used last") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint32_t idx[64];
    uint64_t ctl[64];
    for (int i = 0; i < 64; i++) EQ(arena_alloc(c, 1000, &idx[i], &ctl[i]), SHMQ_OK);
    for (int i = 0; i < 64; i++) CHECK(free_block(c, idx[i], ctl[i]));
    arena_return_all(c);
    CHECK(shmq_trim(c, 0) > 0);
    uint64_t before = memory_used();
    for (int i = 0; i < 64; i++) EQ(arena_alloc(c, 1000, &idx[i], &ctl[i]), SHMQ_OK);
    for (int i = 0; i < 64; i++)   /* first blocks of the pages back to "no memory behind", as if never used since */
        if ((idx[i] - c->classes[2].first) % 4 == 0) st32_rel(&c->blocks[idx[i]].extra, 1);
    for (int i = 0; i < 64; i++) CHECK(free_block(c, idx[i], ctl[i]));
    arena_return_all(c);
    shmq_trim(c, 0);
    CHECK(memory_used() <= before);
}

TEST(detach_loan, "what a leaving process had borrowed or taken without a lease is not lost") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 10);
    shmq_delivery loan, free_taken;
    EQ(put(a, q, 1), SHMQ_OK);
    EQ(shmq_loan(b, q, 500, 0, &loan), SHMQ_OK);
    EQ(shmq_take(b, q, 1, SHMQ_TAKE_FREE, &free_taken), 1);
    EQ(shmq_detach(b), SHMQ_OK);
    EQ(shmq_depth(a, q), 1);
    EQ(get(a, q), 1);
    nothing_left(a);
}
MAIN
