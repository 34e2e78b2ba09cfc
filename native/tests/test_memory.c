/* What a broker takes and what it gives back: the geometry follows the limits, payloads stay within memory_limit, free memory of
 * one size class serves another, and what must not fail finds memory on a file system that payloads have filled. */
#include "harness.h"
#include "ring.h"
#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#define MIB (UINT64_C(1) << 20)

static uint64_t planned(uint64_t memory, uint64_t message, uint32_t processes, uint32_t queues, shmq_geometry *g) {
    shmq_config c = { .memory_limit = memory, .max_message = message, .max_processes = processes, .max_queues = queues };
    return shmq_plan(&c, g);
}

TEST(plan, "address space follows memory_limit and the limits on processes and queues") {
    shmq_geometry g, h;
    CHECK(planned(16 * MIB, MIB, 8, 8, &g) <= 256 * MIB);
    EQ(g.processes, 8);
    EQ(g.queue_count, 8);
    CHECK(planned(MIB, MIB, 4, 4, &g) <= 64 * MIB);
    CHECK(planned(64 * MIB, MIB, 0, 0, &g) < 16384 * MIB);
    EQ(g.processes, SHMQ_OWNERS);
    EQ(g.queue_count, SHMQ_QUEUES);
    EQ(g.held_each, SHMQ_HELD);
    CHECK(planned(64 * MIB, (1024 + 1) * MIB, 16, 16, &h) < 2048 * MIB);   /* one message of 1 GiB */
    EQ(h.limit[SHMQ_CLASSES - 1], 1);
    CHECK(planned(UINT64_C(1) << 40, 1024 * MIB, 0, 0, &g) > 0);
    CHECK(g.indices <= SHMQ_BLOCKS);
    EQ(g.limit[0], 1 << 23);
}

TEST(deal, "whatever the limits, parts do not overlap, each class has room for its blocks, and each block finds its class") {
    for (uint64_t memory = MIB; memory <= UINT64_C(1) << 42; memory = memory * 3 / 2 + 4096) {
        for (uint64_t message = 1; message <= 1024 * MIB; message *= 8) {
            shmq_geometry g;
            planned(memory, message, 64, 64, &g);
            uint64_t parts[] = { g.owners, g.timers, g.l1, g.l0, g.queues, g.counters, g.held, g.blocks, g.cold, g.rings };
            for (unsigned i = 1; i < sizeof parts / sizeof *parts; i++) CHECK(parts[i] > parts[i - 1] && parts[i] % SHMQ_PAGE == 0);
            CHECK(g.blocks + g.indices * 64 <= g.cold && g.cold + g.indices * 64 <= g.rings && g.rings + g.rings_size <= g.payload[0]);
            CHECK(g.indices <= SHMQ_BLOCKS && g.indices >> g.unit_lg <= SHMQ_UNITS && g.unit_lg >= 12);
            for (int k = 0; k < SHMQ_CLASSES; k++) {
                uint64_t next = k + 1 < SHMQ_CLASSES ? g.first[k + 1] : g.indices;
                CHECK(g.first[k] % (UINT64_C(1) << g.unit_lg) == 0 && g.first[k] + g.limit[k] <= next && g.first[k] < next);
                CHECK(g.payload[k] + g.limit[k] * g.stride[k] <= (k + 1 < SHMQ_CLASSES ? g.payload[k + 1] : g.total));
                if (g.stride[k] <= message) CHECK(g.limit[k] >= 1);
            }
        }
    }
    shmq_ctx *c = segment(16 * MIB, 8 * MIB);
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) {
        uint32_t first = (uint32_t)c->geometry.first[k], last = first + (uint32_t)c->geometry.limit[k];
        for (uint32_t idx = first; idx < last; idx += 997) EQ(class_of(c, idx), k);
        if (last > first) EQ(class_of(c, last - 1), k);
    }
    EQ(block_known(c, (uint32_t)c->geometry.indices), 0);
    EQ(block_known(c, SHMQ_BLOCKS - 1), 0);
}

static shmq_ctx *small(uint32_t processes, uint32_t queues) {
    shmq_config config = { .memory_limit = 16 * MIB, .max_message = MIB, .max_processes = processes, .max_queues = queues };
    seg.config = config;
    seg.total = shmq_plan(&config, &seg.g);
    seg.fd = memfd_create("shmq-test", MFD_CLOEXEC);
    CHECK(seg.fd >= 0 && ftruncate(seg.fd, (off_t)seg.total) == 0);
    shmq_ctx *c = shmq_ctx_new();
    EQ(shmq_map_fd(c, seg.fd, seg.total), SHMQ_OK);
    EQ(shmq_format(c, &config), SHMQ_OK);
    EQ(shmq_verify(c), SHMQ_OK);
    EQ(shmq_attach(c, SHMQ_CLIENT), 0);
    return c;
}

TEST(few, "a broker for few processes and queues lets in exactly as many, and counts for each of them") {
    shmq_ctx *c = small(5, 37), *all[5] = { c };
    uint64_t q[37];
    char name[16];
    for (int i = 0; i < 37; i++) {
        snprintf(name, sizeof name, "q%d", i);
        q[i] = QUEUE(c, name, 10);
    }
    shmq_queue_options o = { .max_depth = 1, .dead_letter = SHMQ_NO_QUEUE };
    EQ(shmq_queue_create(c, "more", &o), SHMQ_E_QUEUES);
    for (int i = 1; i < 5; i++) all[i] = join();
    shmq_ctx *more = look();
    EQ(shmq_attach(more, SHMQ_CLIENT), SHMQ_E_OWNERS);
    for (int i = 0; i < 37; i++) EQ(put(all[i % 5], q[i], (uint64_t)i), SHMQ_OK);
    for (int i = 0; i < 37; i++) {
        EQ(get(all[(i + 1) % 5], q[i]), i);
        shmq_queue_info s;
        EQ(shmq_queue_snapshot(c, (uint32_t)i, &s), SHMQ_OK);
        EQ(s.counters[0], 1);   /* published */
        EQ(s.counters[4], 1);   /* acked */
    }
    die(all[4]);
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_attach(more, SHMQ_CLIENT), 4);
    EQ(shmq_queue_delete(c, q[36]), SHMQ_OK);
    QUEUE(c, "more", 1);
    shmq_owner_info info;
    EQ(shmq_owner_snapshot(c, 5, &info), SHMQ_E_ARG);
    nothing_left(c);
}

TEST(held_few, "a process of a small broker may hold so many deliveries as its table has room for, and is told") {
    shmq_ctx *c = small(4, 4);
    uint64_t q = QUEUE(c, "q", 100000), n = c->geometry.held_each;
    CHECK(n < SHMQ_HELD);
    for (uint64_t i = 0; i < n + 1; i++) EQ(put(c, q, i), SHMQ_OK);
    static shmq_delivery d[1024];
    for (uint64_t i = 0; i < n; i += 1024) EQ(shmq_take(c, q, 1024, 0, d), 1024);
    EQ(shmq_take(c, q, 1, 0, d), SHMQ_E_HELD);
    shmq_detail detail;
    shmq_ctx_detail(c, &detail);
    EQ(detail.expected, n);
}

/* Publish blocks of that size until there is no room; how many, taken again. */
static uint64_t burst(shmq_ctx *c, uint64_t q, uint64_t size, uint64_t most) {
    static uint8_t bytes[2 << 20];
    uint64_t n = 0;
    shmq_message m = { .data = bytes, .size = size };
    while (n < most && shmq_publish(c, q, &m) == SHMQ_OK) n++;
    for (uint64_t i = 0; i < n; i++) {
        shmq_delivery d = take1(c, q);
        EQ(shmq_ack(c, &d, 1), 1);
    }
    return n;
}

TEST(bound, "payloads of all size classes together have no more memory than memory_limit, however it is asked for") {
    shmq_ctx *c = segment(8 * MIB, MIB);
    uint64_t q = QUEUE(c, "q", 1000000), n = 0, before;
    static const uint64_t sizes[] = { 40, 200, 900, 3000, 9000, 60000, 200000, 1000000 };
    static uint8_t bytes[1 << 20];
    for (int s = 0; s < 8; s++) {   /* nothing is taken: all of it stays */
        shmq_message m = { .data = bytes, .size = sizes[s] };
        for (int i = 0; i < 200000 && shmq_publish(c, q, &m) == SHMQ_OK; i++) n++;
        shmq_segment_info info;
        EQ(shmq_segment_snapshot(c, &info), SHMQ_OK);
        CHECK(info.payload_bytes <= 8 * MIB);
        if (s == 0) before = memory_used();
        else CHECK(memory_used() < 8 * MIB + 32 * MIB);   /* headers of the small ones, and the ring, come to it */
    }
    (void)before;
    shmq_message m = { .data = bytes, .size = MIB };
    EQ(shmq_publish(c, q, &m), SHMQ_E_NOMEM);
    shmq_detail detail;
    shmq_ctx_detail(c, &detail);
    CHECK(strcmp(shmq_what(detail.what), "memory limit") == 0);
    EQ(detail.expected, 8 * MIB);
    for (uint64_t i = 0; i < n; i++) {
        shmq_delivery d = take1(c, q);
        EQ(shmq_ack(c, &d, 1), 1);
    }
    EQ(shmq_publish(c, q, &m), SHMQ_OK);
    shmq_delivery d = take1(c, q);
    EQ(shmq_ack(c, &d, 1), 1);
    nothing_left(c);
}

TEST(largest, "a broker whose memory_limit is one message of the greatest size takes that message, with headers") {
    shmq_ctx *c = segment(MIB, MIB);
    uint64_t q = QUEUE(c, "q", 10);
    static uint8_t bytes[1 << 20], meta[65535];
    for (int i = 0; i < 3; i++) {
        shmq_message m = { .data = bytes, .size = sizeof bytes, .meta = meta, .meta_size = i ? sizeof meta : 0 };
        EQ(shmq_publish(c, q, &m), SHMQ_OK);
        shmq_delivery d = take1(c, q);
        EQ(shmq_ack(c, &d, 1), 1);
    }
    nothing_left(c);
}

TEST(drift, "a count of payload memory that is wrong is found out before anything is refused for it") {
    shmq_ctx *c = segment(8 * MIB, MIB);
    uint64_t q = QUEUE(c, "q", 1000);
    EQ(burst(c, q, 900, 100), 100);
    EQ(shmq_trim(c, UINT64_MAX), 0);
    uint64_t right = ld_acq(&c->header->payload_bytes);
    CHECK(right > 0 && right < MIB);
    st_rel(&c->header->payload_bytes, UINT64_C(1) << 60);
    EQ(burst(c, q, 100000, 1), 1);
    CHECK(ld_acq(&c->header->payload_bytes) < 8 * MIB);
    st_rel(&c->header->payload_bytes, 5);
    shmq_trim(c, 0);
    EQ(ld_acq(&c->header->payload_bytes), 0);
}

TEST(classes, "the memory of a drained burst of small messages serves large ones at once, without a trim") {
    shmq_ctx *c = segment(16 * MIB, MIB), *b = join();
    uint64_t q = QUEUE(c, "q", 1000000);
    CHECK(burst(c, q, 40, 1000000) > 100000);
    CHECK(burst(b, q, 200, 1000000) > 20000);
    CHECK(burst(c, q, 900, 1000000) > 5000);
    EQ(burst(b, q, 1000000, 10), 10);
    EQ(burst(c, q, 40, 10000), 10000);
    nothing_left(c);
}

TEST(storm, "being refused again and again does not mean to look at every block again and again") {
    shmq_ctx *c = segment(32 * MIB, MIB);
    uint64_t q = QUEUE(c, "q", 1000000), n = 0;
    static uint8_t bytes[1 << 20];
    while (put_sized(c, q, n, 60) == SHMQ_OK) n++;   /* takes all the memory there may be, and keeps it */
    shmq_message m = { .data = bytes, .size = 1000000 };
    EQ(shmq_publish(c, q, &m), SHMQ_E_NOMEM);
    uint64_t tried = 0, last = 0;
    for (int i = 0; i < 10000; i++) {
        EQ(shmq_publish(c, q, &m), SHMQ_E_NOMEM);
        tried += c->reclaim.much_later != last;
        last = c->reclaim.much_later;
    }
    CHECK(tried < 5000);
    shmq_delivery d = take1(c, q);   /* who has freed something since need not wait that long */
    EQ(shmq_ack(c, &d, 1), 1);
    CHECK(c->frees != c->reclaim.frees);
}

/* ---- on a small file system ---- */
static char dir[64];

static shmq_ctx *on_tmpfs(uint64_t bytes) {
    char options[64], path[96];
    snprintf(dir, sizeof dir, "/tmp/shmq-memory-%d", (int)getpid());
    snprintf(options, sizeof options, "size=%llu", (unsigned long long)bytes);
    if (unshare(CLONE_NEWNS) != 0 || mkdir(dir, 0700) != 0) return NULL;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("none", dir, "tmpfs", 0, options) != 0) {
        rmdir(dir);
        return NULL;
    }
    snprintf(path, sizeof path, "%s/shmq.test", dir);
    return segment_on(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), 1024 * MIB, MIB);
}
static void done(void) {
    umount2(dir, MNT_DETACH);
    rmdir(dir);
}
static uint64_t free_there(void) {
    struct statfs f;
    CHECK(statfs(dir, &f) == 0);
    return (uint64_t)f.f_bavail * (uint64_t)f.f_bsize;
}
#define ON_TMPFS(c, bytes) \
    shmq_ctx *c = on_tmpfs(bytes); \
    if (c == NULL) { \
        printf("     skipped: may not mount a tmpfs\n"); \
        return; \
    }

TEST_LIMIT(left, 60,
           "payloads leave some of the file system: on one that they have filled, messages come back, die and find new consumers") {
    ON_TMPFS(c, 32 * MIB);
    uint64_t dead = QUEUE(c, "dead", 100000), q = QUEUE(c, "q", 100000, .max_retries = 1, .priorities = 10, DEAD_TO(dead)), n = 0;
    while (put_sized(c, q, n, 900) == SHMQ_OK) n++;
    CHECK(free_there() >= MIB / 2);
    for (int i = 0; i < 20; i++) {
        shmq_ctx *b = join();
        shmq_delivery d = take1(b, q);
        EQ(shmq_nack(b, &d, 0, "text", 4), SHMQ_OK);
        d = take1(b, q);
        EQ(d.attempt, 2);
        EQ(shmq_nack(b, &d, 0, "text", 4), SHMQ_OK);
        EQ(shmq_depth(b, dead), i + 1);
    }
    QUEUE(c, "another", 100000);
    for (uint64_t i = 20; i < n; i++) get(c, q);
    for (int i = 0; i < 20; i++) get(c, dead);
    nothing_left(c);
    done();
}

TEST_LIMIT(nothing, 60,
           "with no page left at all, a message comes back, the next processes attach, and a level without memory is the lowest") {
    ON_TMPFS(c, 8 * MIB);
    uint64_t q = QUEUE(c, "q", 100000, .priorities = 10);
    for (uint64_t i = 0; i < 64; i++) EQ(put(c, q, i), SHMQ_OK);   /* a page of blocks, to be had again */
    for (int i = 0; i < 10; i++) get(c, q);
    shmq_trim(c, 0);
    char path[96];
    snprintf(path, sizeof path, "%s/stuffing", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && fallocate(fd, 0, 0, (off_t)free_there()) == 0);
    EQ(free_there(), 0);
    for (uint64_t i = 0; i < 8; i++) {
        shmq_ctx *b = join();
        shmq_delivery d = take1(b, q);
        EQ(value_of(&d), 10 + i);
        EQ(shmq_nack(b, &d, 0, NULL, 0), SHMQ_OK);
        EQ(get(b, q), 10 + i);
    }
    uint64_t value = 99;
    shmq_message high = { .data = &value, .size = 8, .priority = 9 };
    EQ(shmq_publish(c, q, &high), SHMQ_OK);
    for (uint64_t i = 18; i < 64; i++) EQ(get(c, q), i);
    EQ(get(c, q), 99);
    CHECK(ftruncate(fd, 0) == 0);
    for (uint64_t i = 0; i < 3; i++) EQ(put(c, q, i), SHMQ_OK);
    EQ(shmq_publish(c, q, &high), SHMQ_OK);
    EQ(get(c, q), 99);
    for (uint64_t i = 0; i < 3; i++) EQ(get(c, q), i);
    nothing_left(c);
    done();
}

TEST_LIMIT(again_grows, 60,
           "a redelivery ring grows as it fills; without memory for more of it messages wait, and come when there is some") {
    ON_TMPFS(c, 24 * MIB);
    uint64_t q = QUEUE(c, "q", 100000), n = 2 * RING_CHUNK;
    for (uint64_t i = 0; i < n; i++) EQ(put(c, q, i), SHMQ_OK);
    static shmq_delivery d[2 * RING_CHUNK];
    for (uint64_t i = 0; i < n; i += 1024) EQ(shmq_take(c, q, 1024, 0, d + i), 1024);
    char path[96];
    snprintf(path, sizeof path, "%s/stuffing", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && fallocate(fd, 0, 0, (off_t)free_there()) == 0);
    for (uint64_t i = 0; i < n; i++) EQ(shmq_nack(c, &d[i], 0, NULL, 0), SHMQ_OK);
    sound(c);
    CHECK(shmq_depth(c, q) >= RING_CHUNK - 64 && (uint64_t)shmq_depth(c, q) < n);
    CHECK(ftruncate(fd, 0) == 0);
    CHECK(shmq_parked_sweep(c) > 0);   /* as the sidecar does once a second */
    EQ(shmq_depth(c, q), n);
    CHECK(ld32_acq(&c->queues[q & 0xffff].chunks[SHMQ_LANE_AGAIN].n) >= 2);
    for (uint64_t i = 0; i < n; i++) get(c, q);
    nothing_left(c);
    done();
}
MAIN
