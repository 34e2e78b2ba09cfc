/* A full file system: the answer is NOMEM, never a signal; nothing is lost; and all goes on when there is room again. */
#include "harness.h"
#include <sys/mount.h>
#include <sys/vfs.h>
#include <sched.h>

static char dir[64];

/* A tmpfs of so many bytes, visible to this process only. Without the right to mount: skipped. */
static int tmpfs(uint64_t bytes) {
    char options[64];
    snprintf(dir, sizeof dir, "/tmp/shmq-enospc-%d", (int)getpid());
    snprintf(options, sizeof options, "size=%llu", (unsigned long long)bytes);
    if (unshare(CLONE_NEWNS) != 0 || mkdir(dir, 0700) != 0) return -1;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("none", dir, "tmpfs", 0, options) != 0) {
        rmdir(dir);
        return -1;
    }
    char path[96];
    snprintf(path, sizeof path, "%s/shmq.test", dir);
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}
static int stuffing = -1;
static void stuff(void) {   /* the rest of the file system is taken by somebody else */
    char path[96];
    struct statfs f;
    snprintf(path, sizeof path, "%s/stuffing", dir);
    stuffing = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(stuffing >= 0 && statfs(dir, &f) == 0);
    CHECK(fallocate(stuffing, 0, 0, (off_t)(f.f_bfree * (uint64_t)f.f_bsize)) == 0);
    CHECK(statfs(dir, &f) == 0 && f.f_bfree == 0);
}
static void room(void) {
    CHECK(ftruncate(stuffing, 0) == 0);
    close(stuffing);
}
static void done(void) {
    umount2(dir, MNT_DETACH);
    rmdir(dir);
}
#define FULLABLE(c) \
    int fd_ = tmpfs(16 << 20); \
    if (fd_ < 0) { \
        printf("     skipped: may not mount a tmpfs\n"); \
        return; \
    } \
    shmq_ctx *c = segment_on(fd_, 1 << 30, 8 << 20)

TEST(fill, "a queue filled until the file system is full says NOMEM, gives all back, and goes on after trim or room") {
    FULLABLE(c);
    uint64_t q = QUEUE(c, "q", 1000000), n = 0;
    int rc;
    for (int round = 0; round < 3; round++) {
        const uint64_t sizes[] = { 2000, 60, 100000, 1 << 20 };
        for (int s = 0; s < 4; s++)
            while ((rc = put_sized(c, q, n, sizes[s] > 4096 ? 4096 : sizes[s])) == SHMQ_OK) n++;
        EQ(rc, SHMQ_E_NOMEM);
        shmq_detail detail;
        shmq_ctx_detail(c, &detail);
        CHECK(detail.what != 0);
        static uint8_t big[1 << 20];
        shmq_message m = { .data = big, .size = sizeof big };
        EQ(shmq_publish(c, q, &m), SHMQ_E_NOMEM);
        CHECK(n > 1000);
        shmq_audit_report r = sound(c);
        EQ(r.states[SHMQ_READY], n);
        while (n) {
            get(c, q);
            n--;
        }
        CHECK(shmq_trim(c, 0) > 0);
        EQ(shmq_publish(c, q, &m), SHMQ_OK);
        shmq_delivery d = take1(c, q);
        EQ(shmq_ack(c, &d, 1), 1);
        EQ(shmq_trim(c, 0) > 0, 1);
    }
    nothing_left(c);
    done();
}

TEST(ids, "on a full file system an id that needs more of the table is refused, and its block comes back") {
    FULLABLE(c);
    uint64_t q = QUEUE(c, "q", 100, .dedup_window_ns = 3600 * SECONDS), n = 0;
    shmq_message m = { .data = "12345678", .size = 8, .dedup = &n, .dedup_size = 8 };
    EQ(shmq_publish(c, q, &m), SHMQ_OK);
    get(c, q);
    stuff();
    int rc = SHMQ_OK;
    for (n = 1; n < 100000 && (rc = shmq_publish(c, q, &m)) == SHMQ_OK; n++) get(c, q);
    EQ(rc, SHMQ_E_NOMEM);
    CHECK(empty(c, q));
    shmq_delivery d;
    m.dedup = NULL;
    EQ(shmq_publish(c, q, &m), SHMQ_OK);
    d = take1(c, q);
    m.dedup = &n;
    EQ(shmq_forward(c, &d, q, &m), SHMQ_OK);   /* committed before it could know: it comes when there is room */
    CHECK(empty(c, q));
    sound(c);
    room();
    nap(60 * MS);
    EQ(fire_due(c), 1);
    get(c, q);
    nothing_left(c);
    done();
}

TEST(all_calls, "on a full file system every call answers, none raises a signal, no message is lost") {
    FULLABLE(c);
    shmq_ctx *b = join();
    uint64_t dlq = QUEUE(c, "dead", 100), q = QUEUE(c, "q", 100, .max_retries = 2, .ack_timeout_ns = 1, DEAD_TO(dlq)),
             z = QUEUE(c, "z", 100);
    for (uint64_t i = 0; i < 60; i++) EQ(put(c, q, i), SHMQ_OK);
    shmq_delivery d[32];
    shmq_message later = { .data = "12345678", .size = 8, .delay_ns = 1 };
    EQ(shmq_publish(c, q, &later), SHMQ_OK);
    stuff();
    shmq_ctx *late = look();
    int attached = shmq_attach(late, SHMQ_CLIENT);
    CHECK(attached >= 0 || attached == SHMQ_E_NOMEM);
    shmq_queue_options o = { .max_depth = 100000, .dead_letter = SHMQ_NO_QUEUE };
    EQ(shmq_queue_create(c, "new", &o), SHMQ_E_NOMEM);
    EQ(shmq_purge(c, z), 0);
    uint64_t cursor = 1, next;
    shmq_delivery p;
    int rc = shmq_peek(c, z, &cursor, &p);
    EQ(rc, SHMQ_EMPTY);
    for (int i = 0; i < 3; i++) EQ(shmq_nack(c, (d[0] = take1(c, q), &d[0]), 0, "text", 4), SHMQ_OK);
    EQ(shmq_reject(c, (d[0] = take1(c, q), &d[0]), "text", 4), SHMQ_OK);
    rc = shmq_take(b, q, 10, 0, d);   /* b has never opened it: its counters have no memory */
    CHECK(rc == 10);
    shmq_leases_expire(c, shmq_now() + SECONDS, &next);
    rc = shmq_take(b, q, 5, 0, d);
    CHECK(rc > 0);
    die(b);
    shmq_reap(c, 0);
    fire_due(c);
    shmq_segment_info si;
    shmq_queue_info qi;
    shmq_owner_info oi;
    for (uint32_t i = 0; i < 4; i++) {
        shmq_queue_snapshot(c, i, &qi);
        shmq_owner_snapshot(c, i, &oi);
    }
    EQ(shmq_segment_snapshot(c, &si), SHMQ_OK);
    CHECK(shmq_depth(c, dlq) >= 0 && shmq_depth(c, z) == 0);
    sound(c);
    room();
    int n = 0;
    for (int i = 0; i < 10; i++) {
        fire_due(c);
        shmq_leases_expire(c, shmq_now() + SECONDS, &next);
        while (shmq_take(c, q, 1, 0, d) == 1) {
            EQ(shmq_ack(c, d, 1), 1);
            n++;
        }
        while (shmq_take(c, dlq, 1, 0, d) == 1) {
            EQ(shmq_ack(c, d, 1), 1);
            n++;
        }
    }
    EQ(n, 61);
    nothing_left(c);
    done();
}

TEST(recovery, "a process that never saw the queue recovers the dead on a full file system and loses nothing") {
    FULLABLE(c);
    shmq_ctx *a = join(), *fresh = join();
    uint64_t dlq = QUEUE(c, "dead", 100), q = QUEUE(c, "q", 100, .max_retries = 0, DEAD_TO(dlq)), r = QUEUE(c, "r", 100);
    shmq_delivery d[20];
    for (uint64_t i = 0; i < 20; i++) {
        EQ(put(a, q, i), SHMQ_OK);
        EQ(put(a, r, i), SHMQ_OK);
    }
    EQ(shmq_take(a, q, 10, 0, d), 10);   /* become dead letters */
    EQ(shmq_take(a, r, 10, 0, d), 10);   /* come back */
    for (uint32_t i = 0; i < 64; i++) {  /* and some were just published when it died */
        uint64_t w = ld_acq(&c->blocks[i].ctl);
        if (ctl_state(w) == SHMQ_READY && i % 2) st_sc(&c->blocks[i].ctl, ctl_to(w, SHMQ_NEW, a->self));
    }
    stuff();
    die(a);
    EQ(shmq_reap(fresh, 0), 1);
    sound(fresh);
    room();
    fire_due(c);
    EQ(shmq_depth(c, dlq), 10);
    EQ(shmq_depth(c, q), 10);
    EQ(shmq_depth(c, r), 20);
    for (int i = 0; i < 10; i++) {
        get(c, dlq);
        get(c, q);
        get(c, r);
        get(c, r);
    }
    nothing_left(c);
    done();
}

TEST(punched, "looking at a deleted queue touches no memory that was given back") {
    FULLABLE(c);
    shmq_ctx *b = join();
    uint64_t q = QUEUE(c, "q", 10);
    EQ(put(b, q, 1), SHMQ_OK);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    stuff();
    shmq_queue_info qi;
    shmq_delivery d;
    uint64_t cursor = 0;
    EQ(shmq_depth(b, q), SHMQ_GONE);
    EQ(shmq_take(b, q, 1, 0, &d), SHMQ_GONE);
    EQ(shmq_wait_items(b, q, 0, 0), SHMQ_GONE);
    EQ(shmq_wait_space(b, q, 0, 0), SHMQ_GONE);
    EQ(shmq_peek(b, q, &cursor, &d), SHMQ_GONE);
    EQ(shmq_purge(b, q), SHMQ_GONE);
    shmq_queue_snapshot(b, 0, &qi);
    sound(b);
    done();
}

TEST(format_full, "a file system too small for the header is refused, not used") {
    int fd = tmpfs(64 << 10);
    if (fd < 0) {
        printf("     skipped: may not mount a tmpfs\n");
        return;
    }
    shmq_config config = { .memory_limit = 1 << 30, .max_message = 1 << 20 };
    shmq_geometry g;
    uint64_t total = shmq_plan(&config, &g);
    CHECK(ftruncate(fd, (off_t)total) == 0);
    shmq_ctx *c = shmq_ctx_new();
    EQ(shmq_map_fd(c, fd, total), SHMQ_OK);
    EQ(shmq_format(c, &config), SHMQ_E_NOMEM);
    done();
}
TEST(cap, "memory for leases is what was reserved, whatever the record says that it has") {
    FULLABLE(c);
    uint64_t q = QUEUE(c, "q", 1000);
    for (uint64_t n = 0; n < 600; n++) EQ(put(c, q, n), SHMQ_OK);
    shmq_delivery d = take1(c, q);
    EQ(shmq_ack(c, &d, 1), 1);
    st32_rel(&c->me->held_cap, SHMQ_HELD);
    stuff();
    uint64_t n = 0;
    while (shmq_take(c, q, 1, 0, &d) == 1) n++;
    EQ(n, SHMQ_PAGE / sizeof(shmq_held));   /* the rest waits: NOMEM, no SIGBUS */
    room();
    for (; n < 599; n++) take1(c, q);
    done();
}
MAIN
