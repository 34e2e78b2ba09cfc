/* harness.h: what every C test needs: test cases with sentences for names, each in a process of its own under an alarm, and
 * a fresh segment to work on. Tests may look inside: they include the private headers of the core.
 */
#ifndef SHMQ_TEST_HARNESS_H
#define SHMQ_TEST_HARNESS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ctx.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            printf("     %s:%d: not so: %s\n", __FILE__, __LINE__, #x); \
            fflush(stdout); \
            _exit(1); \
        } \
    } while (0)
#define EQ(a, b) \
    do { \
        long long a_ = (long long)(a), b_ = (long long)(b); \
        if (a_ != b_) { \
            printf("     %s:%d: %s = %lld, expected %s = %lld\n", __FILE__, __LINE__, #a, a_, #b, b_); \
            fflush(stdout); \
            _exit(1); \
        } \
    } while (0)

#pragma GCC diagnostic ignored "-Woverride-init"   /* QUEUE: defaults first */

#define SECONDS UINT64_C(1000000000)
#define MS UINT64_C(1000000)

/* ---- test cases ---- */
typedef struct {
    const char *says;
    void (*run)(void);
    unsigned seconds;
} test_case;
static test_case cases_[128];
static int cases_n_;

static inline void case_add_(const char *says, void (*run)(void), unsigned seconds) {
    if (cases_n_ < 128) cases_[cases_n_++] = (test_case){ says, run, seconds };
}

#define TEST_LIMIT(id, limit, sentence) \
    static void id(void); \
    __attribute__((constructor)) static void add_##id(void) { case_add_(sentence, id, limit); } \
    static void id(void)
#define TEST(id, sentence) TEST_LIMIT(id, 20, sentence)

/* Run every case (or those whose sentence holds argv[1]) in a child of its own. */
static inline int run_cases(int argc, char **argv) {
    int failed = 0, passed = 0;
    for (int i = 0; i < cases_n_; i++) {
        if (argc > 1 && !strstr(cases_[i].says, argv[1])) continue;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            alarm(cases_[i].seconds);
            cases_[i].run();
            fflush(stdout);
            exit(0);
        }
        int status = 0;
        waitpid(pid, &status, 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            passed++;
            continue;
        }
        failed++;
        printf("   FAILED  %s (%s %d%s)\n", cases_[i].says, WIFSIGNALED(status) ? "signal" : "exit",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
               WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? ": hung" : "");
    }
    printf("   %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
#define MAIN \
    int main(int argc, char **argv) { return run_cases(argc, argv); }

/* ---- a segment ---- */
static struct {
    int fd;
    uint64_t total;
    shmq_config config;
    shmq_geometry g;
} seg;

static inline shmq_ctx *look(void) {   /* mapped, not attached */
    shmq_ctx *c = shmq_ctx_new();
    CHECK(c != NULL);
    EQ(shmq_map_fd(c, seg.fd, seg.total), SHMQ_OK);
    EQ(shmq_verify(c), SHMQ_OK);
    return c;
}

static inline shmq_ctx *join(void) {
    shmq_ctx *c = look();
    CHECK(shmq_attach(c, SHMQ_CLIENT) >= 0);
    return c;
}

static inline shmq_ctx *segment_on(int fd, uint64_t memory_limit, uint64_t max_message) {
    seg.config = (shmq_config){ .memory_limit = memory_limit, .max_message = max_message, .provider = SHMQ_POSIX };
    seg.total = shmq_plan(&seg.config, &seg.g);
    seg.fd = fd;
    CHECK(fd >= 0 && ftruncate(fd, (off_t)seg.total) == 0);
    shmq_ctx *c = shmq_ctx_new();
    CHECK(c != NULL);
    EQ(shmq_map_fd(c, fd, seg.total), SHMQ_OK);
    EQ(shmq_format(c, &seg.config), SHMQ_OK);
    EQ(shmq_verify(c), SHMQ_OK);
    EQ(shmq_attach(c, SHMQ_CLIENT), 0);
    return c;
}

static inline shmq_ctx *segment(uint64_t memory_limit, uint64_t max_message) {
    return segment_on(memfd_create("shmq-test", MFD_CLOEXEC), memory_limit, max_message);
}

static inline uint64_t memory_used(void) {
    struct stat st;
    CHECK(fstat(seg.fd, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

/* ---- queues and messages ---- */
static inline uint64_t make_queue(shmq_ctx *c, const char *name, shmq_queue_options o) {
    int64_t q = shmq_queue_create(c, name, &o);
    if (q < 0) printf("     create %s: %lld\n", name, (long long)q);
    CHECK(q > 0);
    return (uint64_t)q;
}
#define QUEUE(c, name, depth, ...) \
    make_queue(c, name, (shmq_queue_options){ .max_depth = (depth), .max_retries = 3, .dead_letter = SHMQ_NO_QUEUE, __VA_ARGS__ })
#define DEAD_TO(q) .dead_letter = (uint32_t)((q) & 0xffff), .dead_word = ((q) >> 16) << 8 | SHMQ_Q_LIVE

static inline int put_sized(shmq_ctx *c, uint64_t q, uint64_t value, uint64_t size) {
    static _Thread_local uint8_t small[4096];
    memcpy(small, &value, 8);
    shmq_message m = { .data = small, .size = size };
    return shmq_publish(c, q, &m);
}
static inline int put(shmq_ctx *c, uint64_t q, uint64_t value) { return put_sized(c, q, value, 8); }
static inline uint64_t value_of(const shmq_delivery *d) {
    uint64_t v = 0;
    memcpy(&v, d->data, 8);
    return v;
}
static inline shmq_delivery take1(shmq_ctx *c, uint64_t q) {
    shmq_delivery d = { 0 };
    EQ(shmq_take(c, q, 1, 0, &d), 1);
    return d;
}
static inline uint64_t get(shmq_ctx *c, uint64_t q) {   /* take and ack */
    shmq_delivery d = take1(c, q);
    uint64_t v = value_of(&d);
    EQ(shmq_ack(c, &d, 1), 1);
    return v;
}
static inline int empty(shmq_ctx *c, uint64_t q) {
    shmq_delivery d;
    return shmq_take(c, q, 1, 0, &d) == SHMQ_EMPTY;
}

static inline unsigned state_of(shmq_ctx *c, uint32_t idx) { return ctl_state(ld_acq(&c->blocks[idx].ctl)); }
static inline local_ring *ring_at(shmq_ctx *c, uint64_t q, unsigned lane) {   /* the private view, opened */
    shmq_depth(c, q);
    local_queue *l = &c->local[q & 0xffff];
    return lane == SHMQ_LANE_WORK ? &l->work : &l->again;
}

/* All delayed blocks that are due by the clock are fired, as a sidecar would. */
static inline int fire_due(shmq_ctx *c) {
    uint32_t idx[64], from = 0;
    uint64_t due[64], again;
    int fired = 0;
    while (from < SHMQ_BLOCKS) {
        int n = shmq_timers_scan(c, &from, idx, due, 64);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++)
            if (due[i] <= shmq_now() && shmq_timer_fire(c, idx[i], shmq_now(), &again) == SHMQ_OK) fired++;
    }
    return fired;
}

/* Every invariant of the segment holds, nobody being at work. */
static inline shmq_audit_report sound(shmq_ctx *c) {
    shmq_audit_report r;
    EQ(shmq_audit(c, &r), SHMQ_OK);
    if (r.orphans + r.unlinked + r.dangling + r.limbo + r.attached + r.fans + r.held + r.bad)
        printf("     audit: orphans %llu unlinked %llu dangling %llu limbo %llu attached %llu fans %llu held %llu bad %llu\n",
               (unsigned long long)r.orphans, (unsigned long long)r.unlinked, (unsigned long long)r.dangling, (unsigned long long)r.limbo,
               (unsigned long long)r.attached, (unsigned long long)r.fans, (unsigned long long)r.held, (unsigned long long)r.bad);
    EQ(r.orphans + r.unlinked + r.dangling + r.limbo + r.attached + r.fans + r.held + r.bad, 0);
    return r;
}
/* ... and no message is left anywhere. */
static inline void nothing_left(shmq_ctx *c) {
    shmq_audit_report r = sound(c);
    for (int s = SHMQ_NEW; s <= SHMQ_FAN; s++) {
        if (r.states[s]) printf("     %llu blocks left in state %d\n", (unsigned long long)r.states[s], s);
        EQ(r.states[s], 0);
    }
}

/* ---- processes ---- */
static inline uint32_t pid_of_nobody(void) {   /* the pid of a process that has been and gone */
    pid_t p = fork();
    if (p == 0) _exit(0);
    CHECK(p > 0 && waitpid(p, NULL, 0) == p);
    return (uint32_t)p;
}
/* From now on the process of c passes for dead: its record names one that has gone. c must not be used any more. */
static inline void die_as(shmq_ctx *c, uint32_t pid) {
    uint64_t w = owner_make(SHMQ_OWNER_ALIVE, owner_epoch(c->self_word), owner_start(c->self_word), pid);
    st_sc(&c->me->word, w);
}
static inline void die(shmq_ctx *c) { die_as(c, pid_of_nobody()); }

static inline void nap(uint64_t ns) {
    struct timespec t = { (time_t)(ns / SECONDS), (long)(ns % SECONDS) };
    nanosleep(&t, NULL);
}

typedef struct {
    int down[2], up[2];
    pid_t pid;
} partner;   /* a child that says and is told single bytes */
static inline partner split(void) {
    partner p;
    CHECK(pipe(p.down) == 0 && pipe(p.up) == 0);
    fflush(stdout);
    p.pid = fork();
    CHECK(p.pid >= 0);
    if (p.pid == 0) alarm(30);
    return p;
}
static inline void say(int *pipe_) { CHECK(write(pipe_[1], "x", 1) == 1); }
static inline void hear(int *pipe_) {
    char x;
    CHECK(read(pipe_[0], &x, 1) == 1);
}
static inline void kill_wait(pid_t pid) {
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid);
}

static inline uint64_t rnd(uint64_t *s) {   /* splitmix64 */
    uint64_t z = (*s += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
#endif
