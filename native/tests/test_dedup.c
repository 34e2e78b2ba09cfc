/* Ids that are remembered: of all publishes with one id within the window exactly one becomes a message. */
#include "harness.h"
#include "dedup.h"
#include "queue.h"
#include "ids.h"

static int put_id(shmq_ctx *c, uint64_t q, uint64_t value, const char *id, uint64_t *out) {
    shmq_message m = { .data = &value, .size = 8, .dedup = id, .dedup_size = (uint32_t)strlen(id), .ttl_ns = 0 };
    int rc = shmq_publish(c, q, &m);
    if (out) *out = m.id;
    return rc;
}
static uint64_t counter(shmq_ctx *c, uint64_t q, size_t offset) {
    shmq_queue_info info;
    EQ(shmq_queue_snapshot(c, (uint32_t)(q & 0xffff), &info), 0);
    return info.counters[offset / 8];
}
#define COUNT(c, q, name) counter(c, q, offsetof(shmq_counters, name))

TEST(twice, "the second publish of an id is dropped and answers with the first one's message id") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100, .dedup_window_ns = 60 * SECONDS), first, second, other;
    EQ(put_id(c, q, 1, "a", &first), 0);
    EQ(put_id(c, q, 2, "a", &second), 0);
    EQ(put_id(c, q, 3, "b", &other), 0);
    EQ(second, first);
    CHECK(other != first);
    EQ(get(c, q), 1);
    EQ(get(c, q), 3);
    EQ(put_id(c, q, 4, "a", &second), 0);   /* consumed, and still remembered */
    EQ(second, first);
    CHECK(empty(c, q));
    EQ(COUNT(c, q, deduped), 2);
    EQ(COUNT(c, q, published), 2);
    nothing_left(c);
}

TEST(without, "messages without an id, and queues without a window, are left alone") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100, .dedup_window_ns = 60 * SECONDS), plain = QUEUE(c, "plain", 100);
    for (int i = 0; i < 3; i++) {
        EQ(put(c, q, 7), 0);
        EQ(put_id(c, plain, 8, "a", NULL), 0);
    }
    for (int i = 0; i < 3; i++) {
        EQ(get(c, q), 7);
        EQ(get(c, plain), 8);
    }
    nothing_left(c);
}

TEST(window, "an id is free again when the window is over, and not before") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100, .dedup_window_ns = 50 * MS);
    for (int round = 0; round < 4; round++) {
        uint64_t t0 = shmq_now();
        EQ(put_id(c, q, 1, "a", NULL), 0);
        EQ(get(c, q), 1);
        while (shmq_now() < t0 + 45 * MS) {
            EQ(put_id(c, q, 2, "a", NULL), 0);
            if (shmq_now() < t0 + 50 * MS) CHECK(empty(c, q));
            nap(MS);
        }
        nap(10 * MS);
    }
    EQ(ld32_acq(&c->header->corrupt), 0);
    nothing_left(c);
}

/* The claim itself, at times of our choosing in the past. */
static shmq_ctx *c;
static local_queue *l;
static uint64_t base;
static void table(uint64_t window_ns, uint32_t capacity) {
    if (c) CHECK(munmap(c->base, c->size) == 0 && close(seg.fd) == 0);   /* there is room for some dozens only */
    c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100, .dedup_window_ns = window_ns, .dedup_capacity = capacity);
    EQ(queue_local(c, q, &l), 0);
    base = shmq_now() / window_ns * window_ns - 40 * window_ns;
}
static int claim(uint64_t key, uint64_t id, uint64_t at, uint64_t *first) {
    hash128 k = { key, key * UINT64_C(0x9e3779b97f4a7c15) };
    return ids_claim(c, l, &k, id, base + at, first);
}

TEST(generations, "two claims within the window never both succeed, wherever the generations change") {
    table(20 * MS, 1000);
    uint64_t first = 0, id = 1;
    for (uint64_t at = 0; at < 60; at++) {   /* key at+1 at every millisecond of three generations, then again after 1..20 and 21.. */
        table(20 * MS, 1000);
        EQ(claim(5, id, at * MS, &first), ID_FIRST);
        for (uint64_t age = 0; age <= 20; age++) {
            EQ(claim(5, id + 1 + age, (at + age) * MS, &first), ID_DUPLICATE);
            EQ(first, id);
        }
        EQ(claim(5, id + 50, (at + 21) * MS, &first), ID_FIRST);
        id += 100;
    }
}

TEST(stale, "one who read the clock a generation or two ago cannot claim what was claimed meanwhile") {
    for (uint64_t gap = 1; gap <= 3; gap++) {
        table(20 * MS, 1000);
        uint64_t first = 0;
        EQ(claim(9, 1, gap * 20 * MS + 5 * MS, &first), ID_FIRST);
        EQ(claim(9, 2, 15 * MS, &first), ID_DUPLICATE);
        EQ(first, 1);
        EQ(claim(9, 3, gap * 20 * MS + 5 * MS, &first), ID_DUPLICATE);
        EQ(first, 1);
    }
}

/* The bucket of a key: gen:19 | filter:21 | entry+1:24. */
static shmq_au64 *bucket_at(uint64_t key) { return (shmq_au64 *)(l->dedup.base + SHMQ_PAGE) + (key & l->dedup.mask); }
#define GEN_AT 45
#define FILTER (UINT64_C(0x1fffff) << 24)

TEST(head, "a bucket that was read before somebody claimed the id, in this generation or one of the next two, is another one by then") {
    for (uint64_t gap = 0; gap <= 2; gap++)
        for (int used = 0; used < 2; used++) {
            table(20 * MS, 1000);
            uint64_t first = 0;
            if (used) EQ(claim(9 + 1000 * (l->dedup.mask + 1), 1, 5 * MS, &first), ID_FIRST);   /* the bucket is not empty */
            EQ(claim(10, 2, 5 * MS, &first), ID_FIRST);   /* puts memory behind it */
            uint64_t seen = ld_acq(bucket_at(9));
            EQ(claim(9, 3, gap * 20 * MS + 6 * MS, &first), ID_FIRST);
            CHECK(!cas(bucket_at(9), seen, seen + 1));
        }
}

TEST(chain, "a chain that leads from one generation into the last is walked to its end, and no further") {
    table(20 * MS, 1000);
    uint64_t first = 0, step = l->dedup.mask + 1;   /* all in one bucket */
    for (uint64_t i = 0; i < 10; i++) EQ(claim(7 + i * step, 1 + i, 15 * MS, &first), ID_FIRST);
    for (uint64_t i = 10; i < 20; i++) EQ(claim(7 + i * step, 1 + i, 25 * MS, &first), ID_FIRST);
    for (uint64_t i = 0; i < 20; i++) {
        EQ(claim(7 + i * step, 100 + i, 30 * MS, &first), ID_DUPLICATE);
        EQ(first, 1 + i);
    }
    for (uint64_t i = 0; i < 10; i++) EQ(claim(7 + i * step, 200 + i, 40 * MS, &first), ID_FIRST);   /* out of their window */
    for (uint64_t i = 10; i < 20; i++) {
        EQ(claim(7 + i * step, 300 + i, 44 * MS, &first), ID_DUPLICATE);
        EQ(first, 1 + i);
    }
    for (uint64_t i = 0; i < 10; i++) {
        EQ(claim(7 + i * step, 400 + i, 50 * MS, &first), ID_DUPLICATE);
        EQ(first, 200 + i);
    }
    EQ(ld32_acq(&c->header->corrupt), 0);
}

TEST(folds, "each id of a bucket is known in its generation and the next, whatever its bits are in the filter of one and of two") {
    for (uint64_t seed = 1, n = 0; n < 300; n++) {
        if (n % 30 == 0) table(20 * MS, 1000);
        uint64_t first = 0, at = n % 30 * 100 * MS, id = 10 * n + 1;
        hash128 k[3];
        for (int i = 0; i < 3; i++) k[i] = (hash128){ 9, rnd(&seed) << 32 | rnd(&seed) >> 32 };
        /* two are of the next */
        for (uint64_t i = 0; i < 3; i++) EQ(ids_claim(c, l, &k[i], id + i, base + at + 19 * MS + i * MS, &first), ID_FIRST);
        for (uint64_t i = 0; i < 3; i++) {
            EQ(ids_claim(c, l, &k[i], id + 5, base + at + 30 * MS, &first), ID_DUPLICATE);
            EQ(first, id + i);
        }
        EQ(ids_claim(c, l, &k[2], id + 6, base + at + 40 * MS, &first), ID_DUPLICATE);
    }
}

TEST(long_ago, "a bucket of long ago, whatever generation it passes for and wherever it leads, hides no id and moves no clock") {
    for (int64_t off = -3; off <= 3; off++)
        for (uint64_t later_by = 0; later_by < 2; later_by++)
            for (uint64_t entry = 0; entry <= 1001; entry = entry * 10 + 1) {
                table(20 * MS, 1000);
                uint64_t first = 0, gen = base / MS / 20 + 1;
                EQ(claim(10, 1, 0, &first), ID_FIRST);   /* puts memory behind it */
                st_rel(bucket_at(9), (gen + (uint64_t)off) << GEN_AT | entry);   /* as 2^19 generations before */
                EQ(claim(9, 2, 5 * MS, &first), ID_FIRST);
                EQ(claim(9, 3, later_by * 18 * MS + 6 * MS, &first), ID_DUPLICATE);
                EQ(first, 2);
                EQ(claim(10, 4, 20 * MS, &first), ID_DUPLICATE);
                EQ(first, 1);
            }
    EQ(ld32_acq(&c->header->corrupt), 0);
}

TEST(filter_knows, "an id that is new to the filter is claimed without a look at the chain") {
    table(20 * MS, 1000);
    uint64_t first = 0;
    EQ(claim(9, 1, 5 * MS, &first), ID_FIRST);
    st_rel(bucket_at(9), ld_acq(bucket_at(9)) & ~FILTER);   /* a filter that has lost its bits: so it is asked, and believed */
    EQ(claim(9, 2, 5 * MS, &first), ID_FIRST);
}

TEST(lots, "numbers are given out in lots; those of one who is gone are missed for a generation only") {
    table(20 * MS, 100000);
    uint64_t first = 0, gen = base / MS / 20 + 1, lot = UINT64_C(1) << l->dedup.lot_lg;
    shmq_au64 *next = (shmq_au64 *)(l->dedup.base + (gen & 1) * 128);
    CHECK(lot > 1);
    for (uint64_t i = 1; i <= lot; i++) EQ(claim(i, i, 0, &first), ID_FIRST);
    EQ(ld_acq(next) & 0xffffff, lot);
    EQ(claim(1, 1000, 0, &first), ID_DUPLICATE);   /* takes a number, and keeps it for the next */
    EQ(ld_acq(next) & 0xffffff, 2 * lot);
    for (uint64_t i = 1; i <= lot; i++) EQ(claim(1000 + i, 1000 + i, 0, &first), ID_FIRST);
    EQ(ld_acq(next) & 0xffffff, 2 * lot);
    for (uint64_t i = 1; i <= lot; i++) EQ(claim(1000 + i, 3000 + i, 1 * MS, &first), ID_DUPLICATE);
    l->dedup.lot_gen = 0;   /* as one who attaches now */
    EQ(claim(5000, 5000, 0, &first), ID_FIRST);
    EQ(ld_acq(next) & 0xffffff, 4 * lot);
    table(20 * MS, 100);
    EQ(l->dedup.lot_lg, 0);   /* of a small table each number counts */
}

TEST(far_apart, "the first message of an id is known by its own id, however far the ids of the messages of one lot are apart") {
    table(20 * MS, 100000);
    static const uint64_t IDS[] = {
        5, 6, (1 << 27) + 4, (1 << 27) + 5, UINT64_C(1) << 40, 7, 8, (UINT64_C(1) << 40) + 1, UINT64_MAX >> 1, 1
    };
    uint64_t first = 0;
    for (uint64_t i = 0; i < sizeof IDS / sizeof *IDS; i++) EQ(claim(100 + i, IDS[i], 5 * MS, &first), ID_FIRST);
    for (uint64_t i = 0; i < sizeof IDS / sizeof *IDS; i++) {
        EQ(claim(100 + i, 1000 + i, 15 * MS, &first), ID_DUPLICATE);
        EQ(first, IDS[i]);
        EQ(claim(100 + i, IDS[i], 15 * MS, &first), ID_FIRST);   /* its own */
    }
}

TEST(recovered_late,
     "who was stopped while the half was given to later generations writes nothing there, be it for the same message again") {
    uint64_t first = 0, gen;
    for (uint64_t again = 2; again <= 4; again += 2) {
        table(20 * MS, 100000);
        gen = base / MS / 20 + 1;
        uint8_t *entries = l->dedup.base + SHMQ_PAGE + l->dedup.bucket_bytes + (gen & 1) * l->dedup.half_bytes;
        shmq_au64 *words[3] = { (shmq_au64 *)entries, (shmq_au64 *)entries + 1, (shmq_au64 *)(entries + l->dedup.entry_bytes) }, seen[3];
        EQ(claim(9, 1, 5 * MS, &first), ID_FIRST);   /* by one who is killed */
        for (int i = 0; i < 3; i++) seen[i] = ld_acq(words[i]);   /* by one who is stopped in the next generation of this half */
        l->dedup.lot_gen = 0;
        EQ(claim(9, 1, again * 20 * MS + 5 * MS, &first), ID_FIRST);   /* by who recovers the dead one's */
        for (int i = 0; i < 3; i++) CHECK(!cas(words[i], seen[i], seen[i] + 1));
    }
}

TEST(long_windows, "an id of a long window is known until it is over, and forgotten a four-thousandth of it later") {
    static const uint64_t WINDOWS[] = { 4096, 4097, 8193, 86400000, 86400001 };
    for (uint64_t i = 0; i < sizeof WINDOWS / sizeof *WINDOWS; i++) {
        uint64_t window = WINDOWS[i] * MS, first = 0, id = 1;
        for (uint64_t at = 0; at < window; at += window / 7 + 1) {
            table(window, 1000);
            EQ(claim(5, id, at, &first), ID_FIRST);
            EQ(claim(5, id + 1, at + window, &first), ID_DUPLICATE);
            EQ(first, id);
            EQ(claim(5, id + 2, at + window + window / 4096 + 2 * MS, &first), ID_FIRST);
            id += 10;
        }
    }
}

TEST(own, "a message that has claimed its id before has it, however old that is") {
    table(20 * MS, 1000);
    uint64_t first = 0;
    EQ(claim(9, 1, 0, &first), ID_FIRST);
    EQ(claim(9, 1, 1 * MS, &first), ID_FIRST);
    EQ(claim(9, 1, 30 * MS, &first), ID_FIRST);
    EQ(claim(9, 2, 30 * MS, &first), ID_FIRST);   /* out of its window */
    EQ(claim(9, 1, 31 * MS, &first), ID_DUPLICATE);
    EQ(first, 2);
}

TEST(overtaken, "what is found in a half that has been given to a later generation meanwhile does not count") {
    for (uint64_t later_by = 1; later_by <= 2; later_by++) {   /* the half of what was claimed, and of what was claimed before */
        table(20 * MS, 1000);
        uint64_t first = 0, gen = base / MS / 20 + 1;
        EQ(claim(9, 1, 5 * MS, &first), ID_FIRST);
        shmq_au64 *next = (shmq_au64 *)(l->dedup.base + (gen & 1) * 128);
        EQ(ld_acq(next) >> 24, gen);
        st_rel(next, (gen + 2) << 24);   /* others have begun to use its entries again */
        EQ(claim(9, 2, 5 * MS + (later_by - 1) * 20 * MS, &first), ID_FIRST);
        EQ(claim(9, 3, 45 * MS, &first), ID_DUPLICATE);
        EQ(first, 2);
    }
}

TEST(many, "ten thousand ids in few buckets, over several generations: each once per window") {
    table(20 * MS, 20000);
    static uint64_t last[1000];
    uint64_t seed = 5, first, won = 0;
    memset(last, 0, sizeof last);
    for (uint64_t i = 1; i < 60000; i++) {
        uint64_t key = rnd(&seed) % 1000, at = i * 10000, ms = (base + at) / MS;   /* 600 ms in all */
        int rc = claim(key << 20 | key, i, at, &first), free_ = last[key] == 0 || ms - last[key] > 20;
        EQ(rc, free_ ? ID_FIRST : ID_DUPLICATE);
        if (rc == ID_FIRST) {
            last[key] = ms;
            won++;
        }
    }
    CHECK(won > 10000);
    EQ(ld32_acq(&c->header->corrupt), 0);
}

TEST(capacity, "a full table refuses the next id, keeps what it knows, and has room again a window later") {
    table(20 * MS, 3000);
    uint64_t first;
    for (uint64_t i = 1; i <= 3000; i++) EQ(claim(i * 7919, i, 0, &first), ID_FIRST);
    EQ(claim(1, 5000, 0, &first), SHMQ_E_NOMEM);
    shmq_detail detail;
    shmq_ctx_detail(c, &detail);
    EQ(detail.what, WHAT_DEDUP);
    EQ(detail.expected, 3000);
    EQ(claim(7919, 5001, 0, &first), ID_DUPLICATE);
    EQ(claim(1, 5002, 21 * MS, &first), ID_FIRST);
    EQ(claim(7919, 5003, 15 * MS, &first), ID_DUPLICATE);
}

TEST(full_table, "a publish into a full table publishes nothing and frees its block") {
    c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 100, .dedup_window_ns = 3600 * SECONDS, .dedup_capacity = 2);
    EQ(put_id(c, q, 1, "a", NULL), 0);
    EQ(put_id(c, q, 2, "b", NULL), 0);
    EQ(put_id(c, q, 3, "c", NULL), SHMQ_E_NOMEM);
    EQ(put_id(c, q, 3, "a", NULL), 0);
    EQ(get(c, q), 1);
    EQ(get(c, q), 2);
    CHECK(empty(c, q));
    nothing_left(c);
}

TEST(full_queue, "FULL and CLOSED are answered before the claim: the id stays free") {
    c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 2, .dedup_window_ns = 60 * SECONDS);
    EQ(put_id(c, q, 1, "a", NULL), 0);
    EQ(put_id(c, q, 2, "b", NULL), 0);
    EQ(put_id(c, q, 3, "c", NULL), SHMQ_FULL);
    EQ(get(c, q), 1);
    EQ(put_id(c, q, 3, "c", NULL), 0);
    EQ(get(c, q), 2);
    EQ(get(c, q), 3);
    EQ(shmq_queue_close(c, q), 0);
    EQ(put_id(c, q, 4, "d", NULL), SHMQ_CLOSED);
    nothing_left(c);
}

TEST(redelivered, "a redelivery is not asked for its id again: nack and death bring it back") {
    c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 10, .dedup_window_ns = 1 * MS);
    EQ(put_id(c, q, 1, "a", NULL), 0);
    nap(5 * MS);
    EQ(put_id(c, q, 2, "a", NULL), 0);   /* the window is over: another message of the same id */
    shmq_ctx *x = join();
    shmq_delivery d[2];
    EQ(shmq_take(x, q, 2, 0, d), 2);
    EQ(shmq_nack(x, &d[0], 0, NULL, 0), 0);
    int self = shmq_self(x);
    die(x);
    EQ(shmq_owner_declare(c, (uint32_t)self, x->me->word), 0);
    EQ(shmq_recover(c, (uint32_t)self), 0);
    EQ(get(c, q) + get(c, q), 3);
    nothing_left(c);
}

TEST(delayed, "a delayed message and a loan claim their id when they are published") {
    c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 10, .dedup_window_ns = 60 * SECONDS), v = 5, first;
    shmq_message m = { .data = &v, .size = 8, .dedup = "a", .dedup_size = 1, .delay_ns = 20 * MS, .meta = "meta!", .meta_size = 5 };
    EQ(shmq_publish(c, q, &m), 0);
    first = m.id;
    EQ(put_id(c, q, 6, "a", NULL), 0);
    CHECK(empty(c, q));
    nap(25 * MS);
    EQ(fire_due(c), 1);
    EQ(get(c, q), 5);
    shmq_delivery loan;
    EQ(shmq_loan(c, q, 8, 0, &loan), 0);
    m = (shmq_message){ .dedup = "a", .dedup_size = 1 };
    EQ(shmq_loan_publish(c, q, &loan, &m), 0);
    EQ(m.id, first);
    EQ(loan.ctl, 0);
    EQ(shmq_loan(c, q, 8, 0, &loan), 0);
    memcpy((uint8_t *)(uintptr_t)loan.data, &v, 8);
    m = (shmq_message){ .dedup = "b", .dedup_size = 1 };
    EQ(shmq_loan_publish(c, q, &loan, &m), 0);
    EQ(get(c, q), 5);
    CHECK(empty(c, q));
    nothing_left(c);
}

TEST(sizes, "payloads of all sizes, with and without headers, keep their bytes beside the id") {
    c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 10, .dedup_window_ns = 60 * SECONDS);
    static uint8_t bytes[70000];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 31);
    char id[32];
    for (uint64_t size = 0, n = 0; size < sizeof bytes; size = size < 300 ? size + 1 : size * 3 / 2)
        for (uint32_t meta = 0; meta < 40; meta += 13) {
            int length = snprintf(id, sizeof id, "%lu", (unsigned long)n++);
            shmq_message m = { .data = bytes, .size = size, .meta = bytes, .meta_size = meta, .dedup = id, .dedup_size = (uint32_t)length };
            EQ(shmq_publish(c, q, &m), 0);
            EQ(shmq_publish(c, q, &m), 0);
            shmq_delivery d = take1(c, q);
            EQ(d.size, size);
            EQ(d.meta_size, meta);
            CHECK(memcmp(d.data, bytes, size) == 0 && (meta == 0 || memcmp(d.meta, bytes, meta) == 0));
            EQ(shmq_ack(c, &d, 1), 1);
            CHECK(empty(c, q));
        }
    nothing_left(c);
}

TEST(anew, "a queue made anew in the place of a deleted one remembers nothing") {
    c = segment(64 << 20, 1 << 20);
    for (int i = 0; i < 70; i++) {
        uint64_t q = QUEUE(c, "q", 10, .dedup_window_ns = 3600 * SECONDS, .dedup_capacity = 100000),
                 other = QUEUE(c, "other", 10, .dedup_window_ns = SECONDS);
        EQ(put_id(c, q, 1, "a", NULL), 0);
        EQ(put_id(c, q, 1, "a", NULL), 0);
        EQ(put_id(c, other, 2, "a", NULL), 0);
        EQ(get(c, q), 1);
        EQ(get(c, other), 2);
        CHECK(empty(c, q));
        EQ(shmq_queue_delete(c, q), 0);
        EQ(shmq_queue_delete(c, other), 0);
    }
    nothing_left(c);
}

TEST(memory, "a table takes memory as it is used, not for what it could hold") {
    c = segment(64 << 20, 1 << 20);
    uint64_t before = memory_used();
    uint64_t q = QUEUE(c, "q", 10, .dedup_window_ns = 3600 * SECONDS);
    CHECK(memory_used() - before < 200000);
    before = memory_used();
    char id[32];
    for (int i = 0; i < 100; i++) {
        snprintf(id, sizeof id, "%d", i);
        EQ(put_id(c, q, 1, id, NULL), 0);
        get(c, q);
    }
    CHECK(memory_used() - before < 9 << 20);
}

TEST_LIMIT(race, 60, "of several processes that publish the same ids exactly one gets each through, while some are killed") {
    enum { PROCESSES = 4, IDS = 20000 };
    c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 65536, .dedup_window_ns = 3600 * SECONDS);
    static uint8_t seen[IDS];
    pid_t pids[PROCESSES];
    for (int p = 0; p < PROCESSES; p++) {
        pids[p] = fork();
        if (pids[p] == 0) {
            alarm(50);
            shmq_ctx *x = join();
            char id[32];
            for (int i = 0; i < IDS; i++) {
                snprintf(id, sizeof id, "id %d", i);
                if (put_id(x, q, (uint64_t)i, id, NULL) != 0) _exit(3);
            }
            _exit(0);   /* without a farewell */
        }
    }
    nap(5 * MS);
    kill_wait(pids[0]);
    for (int p = 1; p < PROCESSES; p++) {
        int status;
        CHECK(waitpid(pids[p], &status, 0) == pids[p]);
        EQ(status, 0);
    }
    CHECK(shmq_reap(c, 0) >= 1);
    fire_due(c);
    shmq_delivery d;
    while (shmq_take(c, q, 1, 0, &d) == 1) {
        CHECK(value_of(&d) < IDS);
        EQ(seen[value_of(&d)]++, 0);
        EQ(shmq_ack(c, &d, 1), 1);
    }
    for (int i = 0; i < IDS; i++) EQ(seen[i], 1);
    nothing_left(c);
}

MAIN
