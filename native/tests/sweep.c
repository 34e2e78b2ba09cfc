/* sweep.c: every operation of the core, killed or stopped after every instruction.
 *
 * For each operation a child process is stepped through it by single instructions (PTRACE_SINGLESTEP). Between two of them:
 *   kill    the child is declared dead as it stands, recovered, and the world is checked
 *   others  before that, other processes publish, take and ack: nobody may have to wait for the stopped one
 *   stop    the child is not dead: its leases are ended, everything is taken, blocks are re-used; then it runs on to its end
 *   pair    its recoverer is stepped as well, and declared dead after each of its instructions that changed something
 *   real    a fresh child is stepped so far and killed with SIGKILL; its death is proven as in production
 * A kill leaves behind exactly the bytes of the segment: two instructions with equal bytes in between are one state. All
 * instructions are stepped and compared; kill, others, pair and real are tried once per distinct state (--every: after each
 * instruction), stop after each instruction.
 *
 * The world is checked by shmq_audit, by a stricter audit of the rings here, by draining all queues (each message the right
 * number of times, byte by byte), by filling a queue to its depth, and by counting that every block is FREE and hinted.
 *
 *   sweep [--full] [--every] [--only NAME] [--shard I/N] [--list] [--fail-fast] [--no-pair] [--no-real] [--no-stop]
 */
#define _GNU_SOURCE
#include "sweep_vm.h"
#include "arena.h"
#include "dedup.h"
#include "fan.h"
#include "free.h"
#include "route.h"
#include "owner.h"
#include "publish.h"
#include "queue.h"
#include "ring.h"
#include "settle.h"
#include "topic.h"
#include "waiter.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#define TAGS 64
#define DEPTH 8
#define FAR UINT64_C(3600000000000)
#define WHY "because of this"

enum {
    LEASE = 1,
    BACKOFF = 2,
    RETRY0 = 4,
    DROP = 8,
    NO_DLQ = 16,
    TTL = 32,
    SLOW = 64,
    NO_CAP = 128,
    CLOSES = 256,
    DEAD_X = 512,
    WAITER = 1024,
    BYTES = 2048,
    DLQ1 = 4096,
    REUSE = 8192,
    NOSTOP = 16384,
    NO_ATTACH = 32768,
    LIVE_X = 65536,
    ONLY_FULL = 131072,
    LEVELS = 1 << 18,
    AGED = 1 << 19,
    KEYED = 1 << 20,
    STRICT = 1 << 21,
    DEDUP = 1 << 22,
    TOPIC = 1 << 23,
    CUT = 1 << 24,
    COUNTS = 1 << 25,
    NARROW = 1 << 26,       /* q of 2 messages */
    TIGHT = 1 << 27,        /* of 128 bytes */
    DLQ_DROP = 1 << 28,
    DLQ_REJECT = 1 << 29
};   /* the overflow of dlq */

typedef struct {
    const char *name;
    unsigned flags;
    void (*world)(void);
    void (*prep)(plane *);
    void (*op)(plane *);
    void (*expect)(plane *, int finished);
} scenario;

static struct {
    int fd;
    uint64_t total;
    shmq_ctx *p, *x, *y;     /* the parent's own attachments: observer, a dead one, a late-comer */
    uint64_t q, q2, dlq, t;   /* t: a topic whose subscriptions are q and q2 */
    vm a, r;
    pages pages;
    const scenario *s;
    int lo[TAGS], hi[TAGS], got[TAGS];
    uint64_t expired;        /* tags of messages that are past their time in q: never delivered there */
    int last_tag[3];         /* by level or key */
    int last_parked;
    int stuck;               /* nobody can take anything before the sidecar's next look */
    int disorder;            /* in this world the order of those that wait is not promised */
    /* if waits: how many wait for room when the dead are recovered; after: when the operation was over */
    int waits, waits_least, waits_most, waits_after;
    uint64_t begun;          /* of this branch */
    uint64_t evt[8];
    uint64_t violations, kills, stops, reals, pairs, instructions, states;
    const char *mode;
    uint64_t at;
    jmp_buf out;
} W;

static int shard, shards = 1, opt_full, opt_every, opt_fast, opt_nopair, opt_noreal, opt_nostop;
static uint64_t total_instructions, total_states, total_kills, total_stops, total_reals, total_pairs, total_violations;
static shmq_geometry geometry;

/* ---- saying what is wrong ---- */
static void where(vm *v) {
    if (v->pid <= 0) return;
    char cmd[128], exe[256];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return;
    exe[n] = 0;
    uint64_t base = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    if (f) {
        if (fscanf(f, "%lx", &base) != 1) base = 0;
        fclose(f);
    }
    snprintf(cmd, sizeof cmd, "addr2line -s -f -p -i -e /proc/%d/exe 0x%lx 2>/dev/null", (int)getpid(), vm_pc(v) - base);
    f = popen(cmd, "r");
    char line[256];
    while (f && fgets(line, sizeof line, f)) printf("      next instruction: %s", line);
    if (f) pclose(f);
}

static _Noreturn void violation(const char *fmt, ...) {
    va_list ap;
    if (++W.violations <= 6) {
        printf("  VIOLATION %s, %s after instruction %lu: ", W.s->name, W.mode, W.at);
        va_start(ap, fmt);
        vprintf(fmt, ap);
        va_end(ap);
        printf("\n");
        if (strcmp(W.mode, "real") != 0 && strcmp(W.mode, "stop") != 0) where(&W.a);
        if (strcmp(W.mode, "pair") == 0) where(&W.r);
        fflush(stdout);
    }
    if (opt_fast) {
        printf("0 passed, 1 failed\n");
        fflush(stdout);
        vm_kill(&W.a);
        vm_kill(&W.r);
        _exit(1);
    }
    longjmp(W.out, 1);
}
#define MUST(x, ...) \
    do { \
        if (!(x)) violation(__VA_ARGS__); \
    } while (0)
#define CHILD(x) \
    do { \
        if (!(x)) { \
            p->bad = __LINE__; \
        } \
    } while (0)

#include "sweep_state.h"

#include "sweep_branches.h"

/* ---- worlds ---- */
static void attach_own(shmq_ctx *c) {
    ctx_make(c);
    if (shmq_map_fd(c, W.fd, W.total) != 0 || shmq_verify(c) != 0) DIE("map");
}
static shmq_ctx *own_ctx(void) {
    shmq_ctx *c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c == MAP_FAILED) DIE("mmap");
    return c;
}
static int64_t make_queue(const char *name, shmq_queue_options *o) {
    int64_t q = shmq_queue_create(W.p, name, o);
    if (q < 0) DIE("create %s: %ld", name, (long)q);
    return q;
}
static void cycle(uint64_t q, int n) {   /* so that rounds, generations and both rings have been used */
    shmq_delivery d;
    for (int i = 0; i < n; i++) {
        if (put(W.p, q, 1, 64, i & 1, 0) != 0 || shmq_take(W.p, q, 1, i % 5 == 2 ? SHMQ_TAKE_AHEAD : 0, &d) != 1) DIE("cycle");
        if (i % 5 == 2 && (shmq_release(W.p, &d) != 0 || shmq_take(W.p, q, 1, 0, &d) != 1)) DIE("cycle");
        if (shmq_ack(W.p, &d, 1) != 1) DIE("cycle");
    }
}
static void want(uint32_t tag) { base_lo[tag]++; }
static void put_world(uint64_t q, uint32_t tag, uint32_t size, int meta) {
    if (put(W.p, q, tag, size, meta, 0) != 0) DIE("world publish");
    want(tag);
}

static uint64_t world_limit = 1u << 28;
static void build(void) {
    unsigned f = W.s->flags;
    shmq_config cfg = { .memory_limit = world_limit, .max_message = 1u << 20, .provider = SHMQ_POSIX };
    W.total = shmq_plan(&cfg, &geometry);
    W.fd = memfd_create("shmq-sweep", MFD_CLOEXEC);
    if (W.fd < 0 || ftruncate(W.fd, (off_t)W.total) != 0) DIE("memfd");
    W.p = own_ctx();
    ctx_make(W.p);
    if (shmq_map_fd(W.p, W.fd, W.total) != 0 || shmq_format(W.p, &cfg) != 0 || shmq_verify(W.p) != 0) DIE("format");
    if (shmq_attach(W.p, SHMQ_CLIENT) != 0) DIE("attach");
    memset(base_lo, 0, sizeof base_lo);
    W.expired = 0;
    W.waits = W.disorder = W.stuck = 0;
    shmq_queue_options o = { .max_depth = f & DLQ1 ? 1 : 32, .max_retries = UINT32_MAX, .dead_letter = SHMQ_NO_QUEUE };
    if (f & (DLQ_DROP | DLQ_REJECT)) o.overflow = f & DLQ_DROP ? SHMQ_DROP_OLDEST : SHMQ_REJECT;
    W.dlq = (uint64_t)make_queue("dead", &o);
    o = (shmq_queue_options){ .max_depth = DEPTH, .max_retries = f & RETRY0 ? 0 : 5, .dead_letter = SHMQ_NO_QUEUE };
    if (!(f & NO_DLQ)) {
        o.dead_letter = (uint32_t)(W.dlq & 0xffff);
        o.dead_word = queue_make(W.dlq >> 16, SHMQ_Q_LIVE);
    }
    if (f & LEASE) o.ack_timeout_ns = FAR;
    if (f & BACKOFF) o.backoff_ns = FAR;
    if (f & DROP) o.overflow = SHMQ_DROP_OLDEST;
    if (f & LEVELS) o.priorities = 10;
    if (f & AGED) o.aging_ns = 1000000;
    if (f & (KEYED | STRICT)) o.order = f & STRICT ? SHMQ_STRICT : SHMQ_BY_KEY;
    if (f & COUNTS) o.flags = SHMQ_COUNTED | SHMQ_JOINED;
    if (f & BYTES) o.max_bytes = 1u << 20;
    if (f & TIGHT) o.max_bytes = 128;
    if (f & NARROW) o.max_depth = 2;
    if (f & DEDUP) {   /* one page of buckets: secrets differ from run to run */
        o.dedup_window_ns = FAR;
        o.dedup_capacity = 500;
    }
    if (f & TOPIC) {
        shmq_queue_options t = { .max_depth = 1, .dead_letter = SHMQ_NO_QUEUE, .kind = SHMQ_KIND_TOPIC };
        W.t = (uint64_t)make_queue("/t", &t);
        o.kind = SHMQ_KIND_SUBSCRIPTION;
        o.topic = W.t;
        if (f & CUT) o.overflow = SHMQ_DISCONNECT;
    }
    W.q = (uint64_t)make_queue("q", &o);
    if (f & NARROW) {   /* and the shortest rings: to fill 1024 places takes a while */
        if (W.p->local[W.q & 0xffff].live) DIE("q is open already");
        W.p->queues[W.q & 0xffff].place[SHMQ_LANE_AGAIN].lg = 1;
        W.p->queues[W.q & 0xffff].place[SHMQ_LANE_WORK].lg = 2;
    }
    o.max_depth = 16;
    o.max_bytes = f & BYTES ? o.max_bytes : 0;
    o.overflow = 0;
    W.q2 = (uint64_t)make_queue("q2", &o);
    cycle(W.q, 13);
    cycle(W.q2, 3);
    cycle(W.dlq, 3);
    W.x = W.y = NULL;
    if (f & (DEAD_X | LIVE_X)) {
        W.x = own_ctx();
        attach_own(W.x);
        if (shmq_attach(W.x, SHMQ_CLIENT) < 0) DIE("attach x");
    }
    if (f & REUSE) {
        W.y = own_ctx();
        attach_own(W.y);
    }
    if (W.s->world) W.s->world();
    if (f & WAITER) {
        waiter_prepare(&W.p->queues[W.q & 0xffff].evt);
        waiter_prepare(&W.p->queues[W.q & 0xffff].space);
    }
}
static void demolish(void) {
    vm_kill(&W.a);
    vm_kill(&W.r);
    shmq_ctx *c[] = { W.p, W.x, W.y };
    for (int i = 0; i < 3; i++)
        if (c[i]) {
            munmap(c[i]->base, c[i]->size);
            munmap(c[i], sizeof(shmq_ctx));
        }
    vm *v[] = { &W.a, &W.r };
    for (int i = 0; i < 2; i++)
        if (v[i]->p) {
            munmap(v[i]->p, sizeof(plane));
            v[i]->p = NULL;
        }
    close(W.fd);
    W.p = W.x = W.y = NULL;
}

static void child_common(plane *p, int attach) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ctx_make(&p->ctx);
    if (shmq_map_fd(&p->ctx, p->fd, p->total) != 0 || shmq_verify(&p->ctx) != 0) _exit(9);
    if (attach && shmq_attach(&p->ctx, SHMQ_CLIENT) < 0) _exit(9);
}
static int body_a(void *arg) {
    plane *p = arg;
    child_common(p, !(W.s->flags & NO_ATTACH));
    if (W.s->prep) W.s->prep(p);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    p->phase = VM_READY;
    TRAP();
    W.s->op(p);
    p->phase = VM_DONE;
    TRAP();
    if (p->ctx.attached) {
        int rc = shmq_detach(&p->ctx);
        CHILD(rc == 0);
    }
    p->phase = VM_LEFT;
    TRAP();
    _exit(0);
}
static int body_r(void *arg) {
    plane *p = arg;
    child_common(p, 1);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    p->phase = VM_READY;
    TRAP();
    p->rc = shmq_recover(&p->ctx, (uint32_t)p->arg);
    p->phase = VM_DONE;
    TRAP();
    _exit(0);
}
static void start_child(vm *v, int (*body)(void *)) {
    if (v->p == NULL) {
        v->p = mmap(NULL, sizeof(plane), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (v->p == MAP_FAILED) DIE("mmap");
    }
    static uint8_t big[1 << 20];
    v->p->fd = W.fd;
    v->p->total = W.total;
    v->p->q = W.q;
    v->p->q2 = W.q2;
    v->p->dlq = W.dlq;
    v->p->t = W.t;
    v->p->big = big;
    vm_start(v, body);
}

/* Every page that has memory now, but for the zero pages of the big tables that format reserves. */
static void find_pages(void) {
    W.pages.base = W.p->base;
    off_t at = 0, end = (off_t)W.total;
    while (at < end) {
        off_t from = lseek(W.fd, at, SEEK_DATA);
        if (from < 0) break;
        off_t to = lseek(W.fd, from, SEEK_HOLE);
        for (off_t o = from; o < to; o += 4096) {
            uint64_t u = (uint64_t)o;
            if ((u >= geometry.owners + 4096 && u < geometry.timers) || (u >= geometry.timers + 4096 && u < geometry.l1)) continue;
            if (u >= geometry.l1 && u < geometry.l0) {
                int used = 0;
                for (unsigned k = 0; k < SHMQ_CLASSES; k++) used |= (geometry.l1 + W.p->classes[k].first / 64 / 64 * 8) / 4096 == u / 4096;
                if (!used) continue;
            }
            uint32_t i = W.pages.n, have = 0;
            while (i > 0 && W.pages.at[i - 1] >= u) have |= W.pages.at[--i] == u;
            if (have) continue;
            if (W.pages.n == MAX_PAGES) DIE("too many pages");
            memmove(&W.pages.at[i + 1], &W.pages.at[i], (W.pages.n++ - i) * sizeof W.pages.at[0]);
            W.pages.at[i] = u;
        }
        at = to;
    }
}

static uint64_t hits[65536];   /* instruction counts after which a distinct state was seen */
static uint64_t hit_n;

/* Let a child that was begun anew run to the h-th of those states, from the one that it is in; the segment as in seg_a. */
static uint64_t at_state;
static void begin_anew(void) {
    vm_kill(&W.a);
    seg_restore(&W.pages, &seg_base);
    own_restore();
    munmap(W.a.p, sizeof(plane));
    W.a.p = NULL;
    start_child(&W.a, body_a);
    seg_save(&W.pages, &seg_a);
    vm_protect(&W.a, PROT_READ);
    at_state = 0;
}
static void run_to_state(uint64_t h) {
    while (at_state < h && W.a.p->phase < VM_DONE) {
        int st = vm_store(&W.a);
        if (st) DIE("%s: a store on the way to state %lu: status %x", W.s->name, h, st);
        if (W.a.again % 997) vm_string(&W.a, 997 - W.a.again % 997);
        if (seg_follow(&W.pages, &seg_a) && !(W.a.again && W.a.again % 997)) at_state++;
    }
    W.at = hits[h];
}

static void report(double seconds) {
    printf("%-20s %6lu instructions %5lu states %6lu kills %6lu stops %5lu real %6lu pairs %3lu violations %5.1fs\n", W.s->name,
           W.instructions, W.states, W.kills, W.stops, W.reals, W.pairs, W.violations, seconds);
    fflush(stdout);
}
static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run(const scenario *s) {
    volatile double t0 = now_s();
    W.s = s;
    W.violations = W.kills = W.stops = W.reals = W.pairs = W.instructions = W.states = 0;
    W.at = 0;
    /* rehearsal: which pages does this world ever use? */
    build();
    start_child(&W.r, body_r);
    start_child(&W.a, body_a);
    W.pages.n = 0;
    find_pages();
    if (vm_run(&W.a) != 0) DIE("%s: the operation fails when left alone", s->name);
    if (W.a.p->bad) DIE("%s: child line %u, rc %ld", s->name, W.a.p->bad, (long)W.a.p->rc);
    W.mode = "rehearsal";
    model();
    if (setjmp(W.out) == 0) {
        others_go_on();
        recycle(1);
        scribble();
        declare(&W.a, 0);
        recover_all(W.p, 0);
        drain(0);
        x_leaves();
        drain(0);
        all_free();
    }
    find_pages();
    static uint64_t used[MAX_PAGES];
    uint64_t used_n = W.pages.n;
    memcpy(used, W.pages.at, sizeof used);
    demolish();
    /* the real thing */
    build();
    start_child(&W.r, body_r);
    W.pages.base = W.p->base;
    memcpy(W.pages.at, used, sizeof used);
    W.pages.n = (uint32_t)used_n;
    own_save();
    seg_save(&W.pages, &seg_base);   /* before the child attached */
    start_child(&W.a, body_a);
    seg_save(&W.pages, &seg_a);
    vm_save(&W.r, &snap_r);
    hit_n = 0;
    uint64_t last_pc = 0, rep = 0, vdso = getauxval(AT_SYSINFO_EHDR);
    int slow = (s->flags & SLOW) != 0, fresh_stop = 1;
    for (uint64_t n = 0;; n++) {
        W.at = n;
        int changed = n == 0 || seg_follow(&W.pages, &seg_a);
        uint64_t pc = vm_pc(&W.a);
        rep = pc == last_pc ? rep + 1 : 0;   /* one repetition of a string instruction */
        last_pc = pc;
        /* In the kernel's clock code nothing shared is touched, and it starts again whenever a tick passes: no dallying there. */
        int clock = pc - vdso < 16384;
        int over = W.a.p->phase >= VM_DONE;
        if (changed || over) fresh_stop = 1;
        if (rep && rep % 997) changed = 0;
        if (changed || over) {
            W.states++;
            if (hit_n < 65536) hits[hit_n++] = n;
        }
        if (changed || over || (opt_every && !rep && !clock && (!(s->flags & CLOSES) || n % 16 == 0))) {
            for (int others = 0; others < 2; others++) {
                branch_kill(others);
                seg_restore(&W.pages, &seg_a);
                own_restore();
            }
        }
        if (!opt_nostop && !(s->flags & NOSTOP) && !rep && (!clock || changed) && (!slow || fresh_stop || opt_full)
            && (!(s->flags & REUSE) || fresh_stop || opt_full || n % 3 == 0)) {
            fresh_stop = 0;
            vm_save(&W.a, &snap_a);
            for (int leave = 0; leave < 2; leave++) {
                if (!opt_full && !changed && leave != (int)(n & 1)) continue;   /* both around each store; else one by turns */
                branch_stop((s->flags & REUSE) != 0, leave);
                vm_restore(&W.a, &snap_a);
                seg_restore(&W.pages, &seg_a);
                own_restore();
            }
        }
        if (over) break;
        int st = vm_step(&W.a);
        if (st) {
            W.mode = "step";
            if (setjmp(W.out) == 0) violation("the child ended with status %x", st);
            break;
        }
        W.instructions++;
    }
    /* pairs: a bounded choice of states, evenly spread; all with --full */
    if (!opt_nopair && (opt_full ? !(s->flags & (CLOSES | NOSTOP)) : !slow) && !(s->flags & NO_ATTACH)) {
        uint64_t most = opt_full ? hit_n : 4, done = 0;
        begin_anew();
        for (uint64_t h = 0; h < hit_n && W.a.p->phase < VM_DONE; h++) {
            if (h * most / hit_n == done && h + 1 != hit_n) continue;
            done = h * most / hit_n;
            run_to_state(h);
            vm_restore(&W.r, &snap_r);
            branch_pair();
            seg_restore(&W.pages, &seg_a);
            own_restore();
        }
    }
    /* SIGKILL itself, and a proof of death by pidfd */
    if (!opt_noreal) {
        volatile uint64_t step = opt_full || hit_n < 24 ? 1 : hit_n / 24;
        for (volatile uint64_t h = 0; h < hit_n; h += step) {
            vm_restore(&W.r, &snap_r);
            begin_anew();
            run_to_state(h);
            W.mode = "real";
            W.reals++;
            model();
            int was = attached_now(&W.a);
            vm_kill(&W.a);
            if (setjmp(W.out) == 0) {
                died_attached = 0;
                int dead = shmq_reap(W.p, 0);
                /* it died before its record came into everybody's sight: the next attach shows it */
                if ((s->flags & NO_ATTACH) && dead < was) {
                    shmq_ctx *y = own_ctx();
                    attach_own(y);
                    MUST(shmq_attach(y, SHMQ_CLIENT) >= 0, "attach");
                    dead = shmq_reap(W.p, 0);
                    MUST(shmq_detach(y) == 0, "detach");
                    munmap(y->base, y->size);
                    munmap(y, sizeof *y);
                }
                MUST(dead >= was, "%d proven dead instead of %d", dead, was);
                check_after_death(finished_now(), 0);
            }
        }
    }
    /* was any page in use that was not put back each time? */
    find_pages();
    for (uint32_t i = 0, j = 0; i < W.pages.n; i++) {
        while (j < used_n && used[j] < W.pages.at[i]) j++;
        uint64_t at = W.pages.at[i];
        if ((j < used_n && used[j] == at) || (at >= geometry.counters && at < geometry.held)) continue;
        uint64_t *word = (uint64_t *)(void *)(W.p->base + at), any = 0;
        for (int k = 0; k < 512; k++) any |= word[k];
        if (any) DIE("%s: page at %lx was not foreseen (rings %lx blocks %lx)", s->name, at, geometry.rings, geometry.blocks);
    }
    report(now_s() - t0);
    total_instructions += W.instructions;
    total_states += W.states;
    total_kills += W.kills;
    total_stops += W.stops;
    total_reals += W.reals;
    total_pairs += W.pairs;
    total_violations += W.violations;
    demolish();
}

static void on_alarm(int sig) {
    (void)sig;
    printf("  VIOLATION %s, %s after instruction %lu: hangs\n0 passed, 1 failed\n", W.s ? W.s->name : "?", W.mode ? W.mode : "?", W.at);
    fflush(stdout);
    if (W.a.pid > 0) kill(W.a.pid, SIGKILL);
    if (W.r.pid > 0) kill(W.r.pid, SIGKILL);
    _exit(1);
}

#include "sweep_ops.h"
#include "sweep_targeted.h"
#include "sweep_park.h"

static const struct {
    const scenario *at;
    size_t n;
} TABLES[] = {
    { OPS, sizeof OPS / sizeof *OPS },
    { PARK_OPS, sizeof PARK_OPS / sizeof *PARK_OPS },
};

/* Stepping is a ping-pong of two processes: on one core it needs no wake-up across cores. But two sweeps on one core are in each
 * other's way at every step, nine times as slow: each takes a core of its own, whose name it holds while it lives. */
static void stay_on_one_core(void) {
    cpu_set_t all, one;
    int cpu = sched_getcpu();
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET((size_t)i, &all)) continue;
        struct sockaddr_un name = { .sun_family = AF_UNIX };
        int n = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "shmq-sweep-core-%d", i),
            s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (s >= 0 && bind(s, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) == 0) {
            cpu = i;
            break;
        }
        if (s >= 0) close(s);
    }
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

int main(int argc, char **argv) {
    const char *only = NULL;
    int passed = 0, failed = 0, list = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--full")) opt_full = 1;
        else if (!strcmp(argv[i], "--every")) opt_every = 1;
        else if (!strcmp(argv[i], "--fail-fast")) opt_fast = 1;
        else if (!strcmp(argv[i], "--no-pair")) opt_nopair = 1;
        else if (!strcmp(argv[i], "--no-real")) opt_noreal = 1;
        else if (!strcmp(argv[i], "--no-stop")) opt_nostop = 1;
        else if (!strcmp(argv[i], "--list")) list = 1;
        else if (!strcmp(argv[i], "--shard") && i + 1 < argc && sscanf(argv[i + 1], "%d/%d", &shard, &shards) == 2 && shards > 0) i++;
        else if (!strcmp(argv[i], "--only") && i + 1 < argc) only = argv[++i];
        else {
            fprintf(stderr, "unknown option %s\n", argv[i]);
            return 2;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGALRM, on_alarm);
    stay_on_one_core();
    for (int i = 0; i < 3; i++) ctx_saved[i] = malloc(CTX_SAVED);
    seg_alloc(&seg_a);
    seg_alloc(&seg_r);
    seg_alloc(&seg_base);
    double t0 = now_s();
    for (size_t t = 0, i = 0; t < sizeof TABLES / sizeof *TABLES; t++)
        for (const scenario *s = TABLES[t].at; s < TABLES[t].at + TABLES[t].n; s++, i++) {
            if (list) {
                printf("%s\n", s->name);
                continue;
            }
            if (only ? strcmp(only, s->name) != 0 : (s->flags & ONLY_FULL) && !opt_full) continue;
            if (!only && (int)(i % (size_t)shards) != shard) continue;
            alarm(opt_full || opt_every ? 3600 : 250);   /* of a crowded machine, too */
            run(s);
            if (W.violations) failed++;
            else passed++;
        }
    for (size_t i = 0; i < sizeof TARGETED / sizeof *TARGETED; i++) {
        if (list) {
            printf("%s\n", TARGETED[i].name);
            continue;
        }
        if (only && strcmp(only, TARGETED[i].name)) continue;
        if (!only && (int)(i % (size_t)shards) != shard) continue;
        double t1 = now_s();
        alarm(250);
        W.violations = 0;
        int bad = TARGETED[i].run();
        printf("%-20s %s %5.1fs\n", TARGETED[i].name, bad ? "FAILED" : "fine", now_s() - t1);
        if (bad) failed++;
        else passed++;
        total_violations += (uint64_t)bad;
        if (bad && opt_fast) break;
    }
    if (list) return 0;
    printf("all: %lu instructions, %lu states, %lu kills at a frozen state, %lu stops, "
           "%lu real SIGKILLs, %lu pairs of deaths, %lu violations, %.1f s\n",
           total_instructions, total_states, total_kills, total_stops, total_reals, total_pairs, total_violations, now_s() - t0);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
