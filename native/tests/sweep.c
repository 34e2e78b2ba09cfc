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

/* ---- messages ---- */
static void fill(uint8_t *b, uint32_t tag, uint32_t size) {
    memcpy(b, &tag, 4);
    memcpy(b + 4, &size, 4);
    for (uint32_t i = 8; i < size; i++) b[i] = (uint8_t)(tag * 31 + i * 7);
}
static uint32_t tag_of(const shmq_delivery *d) {
    uint32_t tag = 0, size = 0;
    if (d->size >= 8) {
        memcpy(&tag, d->data, 4);
        memcpy(&size, d->data + 4, 4);
    }
    if (tag == 0 || tag >= TAGS || size != d->size) return 0;
    for (uint32_t i = 8; i < size; i++)
        if (d->data[i] != (uint8_t)(tag * 31 + i * 7)) return 0;
    return tag;
}
static int meta_right(const shmq_delivery *d, uint32_t tag) {
    return d->meta_size == 0 || (d->meta_size == 5 && memcmp(d->meta, "meta", 4) == 0 && d->meta[4] == tag);
}
/* Queues of several levels or keys: which one a tag has. */
static uint32_t level_of_tag(uint32_t tag) { return W.s->flags & LEVELS ? tag % 3 : 0; }
static const uint8_t *key_of_tag(uint32_t tag) {
    static const uint8_t keys[TAGS] = { 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63 };
    return &keys[tag < 40 ? tag % 3 : tag];
}
static int put(shmq_ctx *c, uint64_t q, uint32_t tag, uint32_t size, int meta, uint64_t delay) {
    uint8_t *b = malloc(size), h[5] = "meta";
    h[4] = (uint8_t)tag;
    fill(b, tag, size);
    shmq_message m = { .data = b,
                       .size = size,
                       .meta = meta ? h : NULL,
                       .meta_size = meta ? 5 : 0,
                       .delay_ns = delay,
                       .priority = level_of_tag(tag),
                       .key = key_of_tag(tag),
                       .key_size = 1 };
    int rc = shmq_publish(c, q, &m);
    free(b);
    return rc;
}
static int put_id(shmq_ctx *c, uint64_t q, uint32_t tag) {   /* equal tags have equal ids */
    uint8_t b[64];
    fill(b, tag, 64);
    shmq_message m = { .data = b, .size = 64, .dedup = &tag, .dedup_size = 4 };
    return shmq_publish(c, q, &m);
}
static void child_message(plane *p, uint32_t i, uint32_t tag, uint32_t size, int meta) {
    uint8_t *b = size <= 112 ? p->bytes[i] : p->big;
    fill(b, tag, size);
    memcpy(&p->bytes[i][116], "meta", 4);
    p->bytes[i][120] = (uint8_t)tag;
    p->m[i] = (shmq_message){ .data = b,
                              .size = size,
                              .meta = meta ? &p->bytes[i][116] : NULL,
                              .meta_size = meta ? 5 : 0,
                              .priority = level_of_tag(tag),
                              .key = key_of_tag(tag),
                              .key_size = 1 };
}

/* ---- stricter than shmq_audit: every slot is where its block says, and no hole lies between filled positions ---- */
static void audit_ring_strictly(shmq_ctx *c, local_ring *r, int quiet) {
    uint64_t tail = UINT64_MAX, top = 0, any = 0;
    for (uint64_t i = 0; i <= r->mask; i++) {
        uint64_t s = ld_acq(&r->slots[i]), pos = slot_round(s) << r->lg | i;
        if (slot_is_empty(s)) {
            if (pos < tail) tail = pos;
            continue;
        }
        uint32_t idx = slot_idx(s);
        MUST(block_known(c, idx), "slot %lu of ring %u names no block", i, r->ring);
        shmq_block *b = block_at(c, idx);
        unsigned st = ctl_state(ld_acq(&b->ctl));
        if (quiet) MUST(st == SHMQ_READY, "slot %lu of ring %u names block %u in state %u", i, r->ring, idx, st);
        if (st == SHMQ_READY)
            MUST(ld_rlx(&b->pos) == pos_make(r->ring, pos), "block %u is READY for another place than slot %lu of ring %u", idx, i,
                 r->ring);
        if (!any++ || pos > top) top = pos;
    }
    MUST(!any || tail == UINT64_MAX || top < tail, "ring %u: filled position %lu beyond empty position %lu", r->ring, top, tail);
}
static void audit(int quiet) {
    shmq_audit_report a;
    int rc = shmq_audit(W.p, &a);
    MUST(rc == 0, "audit says %d", rc);
    MUST(a.orphans == 0, "%lu orphans", a.orphans);
    MUST(a.unlinked == 0, "%lu unlinked", a.unlinked);
    MUST(a.dangling == 0, "%lu dangling", a.dangling);
    MUST(a.limbo == 0, "%lu in limbo for nobody", a.limbo);
    MUST(a.attached == 0, "%lu attached to nothing", a.attached);
    MUST(a.fans == 0, "%lu parents without children, or children without a parent", a.fans);
    MUST(a.held == 0, "%lu held entries that name no block", a.held);
    MUST(a.bad == 0 && a.states[SHMQ_BAD] == 0 && ld32_acq(&W.p->header->corrupt) == 0, "bad words");
    if (quiet)
        MUST(a.states[SHMQ_NEW] + a.states[SHMQ_OWNED] + a.states[SHMQ_MOVE] == 0, "blocks of nobody in flight: NEW %lu OWNED %lu MOVE %lu",
             a.states[SHMQ_NEW], a.states[SHMQ_OWNED], a.states[SHMQ_MOVE]);
    uint32_t queues = ld32_acq(&W.p->header->queue_hwm);
    for (uint32_t i = 0; i < queues; i++)
        for (unsigned lane = 0; lane < SHMQ_LANES; lane++) {
            local_ring *r = queue_ring(W.p, i * SHMQ_LANES + lane);
            if (r) audit_ring_strictly(W.p, r, quiet);
        }
}

/* ---- what others do ---- */
static int take_one(uint64_t q, int order) {
    shmq_delivery d;
    int rc = shmq_take(W.p, q, 1, 0, &d);
    if (rc == SHMQ_EMPTY || rc == SHMQ_CLOSED || rc == SHMQ_GONE) return 0;
    MUST(rc == 1, "take says %d", rc);
    uint32_t tag = tag_of(&d);
    MUST(tag, "a message with wrong bytes (block %u, size %u)", d.idx, d.size);
    MUST(meta_right(&d, tag), "message %u has wrong headers", tag);
    MUST(d.attempt >= 1 && d.attempt <= 3, "message %u: attempt %u", tag, d.attempt);
    MUST(d.extra_size == 0 || (d.extra_size == sizeof WHY && memcmp(d.extra, WHY, sizeof WHY) == 0), "message %u has a wrong error text",
         tag);
    MUST(!(W.expired >> tag & 1) || q != W.q, "message %u was delivered past its time", tag);
    W.got[tag]++;
    /* what waited for room: 31 to 34 from the start, 35 to 39 from the operation on; a turn is taken from the living after a second */
    if (tag > 30 && tag < 40 && !W.disorder && !d.redelivered && (tag < 35 || strcmp(W.mode, "stop") != 0)
        && shmq_now() - W.begun < 900000000) {
        MUST((int)tag > W.last_parked, "message %u after %d, which came later to wait for room", tag, W.last_parked);
        W.last_parked = (int)tag;
    }
    int ordered = (W.s->flags & (KEYED | STRICT)) != 0, *last = &W.last_tag[W.s->flags & (LEVELS | KEYED) ? tag % 3 : 0];
    if (order && (tag < 10 || (tag == 20 && !(W.s->flags & LEVELS))) && ((d.attempt == 1 && !d.redelivered) || ordered) && !d.reason) {
        MUST((int)tag > *last, "message %u after %d", tag, *last);
        *last = (int)tag;
    }
    rc = shmq_ack(W.p, &d, 1);
    MUST(rc == 1, "ack says %d", rc);
    return 1;
}
static void put_tag(uint64_t q, uint32_t tag, int refusable) {
    int rc = put(W.p, q, tag, 64, tag & 1, 0);
    if (refusable && (rc == SHMQ_FULL || rc == SHMQ_CLOSED || rc == SHMQ_GONE)) return;
    MUST(rc == 0, "publish says %d", rc);
    W.lo[tag]++;
    W.hi[tag]++;
}
static int fire_delayed(void) {
    int any = 0;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) {
        uint64_t n = ld_acq(&W.p->header->hwm[k].n);
        for (uint64_t i = 0; i < n; i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i;
            uint64_t due;
            uint64_t c = ld_acq(&block_at(W.p, idx)->ctl);
            if (ctl_state(c) != SHMQ_DELAYED || (ctl_flags(c) & SHMQ_FLAG_PARKED)) continue;
            st_rlx(&block_at(W.p, idx)->due_ns, 1);
            int rc = shmq_timer_fire(W.p, idx, shmq_now(), &due);
            MUST(rc == SHMQ_OK || rc == SHMQ_FULL, "timer_fire says %d", rc);
            any = 1;
        }
    }
    if (W.s->flags & TIGHT) shmq_bytes_resync(W.p, W.q);   /* a death lets it drift */
    int sent = shmq_parked_sweep(W.p);
    MUST(sent >= 0, "parked_sweep says %d", sent);
    return any + sent;
}
static void drain(int order) {
    for (int turn = 0;; turn++) {
        MUST(turn < 100, "draining does not end");
        int n = 0;
        uint64_t qs[3] = { W.q, W.q2, W.dlq };
        for (int i = 0; i < 3; i++)
            while (qs[i] && take_one(qs[i], order && i == 0)) MUST(++n < 1000, "endless messages");
        n += fire_delayed();
        if (n == 0) return;
    }
}
static void nothing_left_behind(uint64_t q) {   /* take said EMPTY: then no slot may hold something takeable */
    for (uint32_t i = (uint32_t)(q & 0xffff), once = 1; once; once = 0)
        for (unsigned lane = 0; lane <= SHMQ_LANE_AGAIN && !(W.s->flags & (KEYED | STRICT)); lane++) {
            local_ring *r = queue_ring(W.p, i * SHMQ_LANES + lane);
            for (uint64_t j = 0; r && j <= r->mask; j++) {
                uint64_t s = ld_acq(&r->slots[j]);
                if (slot_is_empty(s)) continue;
                unsigned st = ctl_state(ld_acq(&block_at(W.p, slot_idx(s))->ctl));
                MUST(st != SHMQ_READY && st != SHMQ_NEW && st != SHMQ_MOVE, "EMPTY, but slot %lu of ring %u holds a message in state %u", j,
                     r->ring, st);
            }
        }
}
static void others_go_on(void) {
    int refusable = (W.s->flags & CLOSES) != 0;
    while (take_one(W.q, 0)) {}
    if (shmq_depth(W.p, W.q) >= 0) nothing_left_behind(W.q);   /* it may be being deleted */
    for (uint32_t t = 40; t < 44; t++) put_tag(W.q, t, refusable || (W.s->flags & (DROP | STRICT | NARROW | TIGHT)));
    for (int i = W.s->flags & TIGHT ? 1 : 0; i < 2; i++)
        MUST(take_one(W.q, 0) || refusable || W.stuck || (W.s->flags & STRICT), "nothing to take while another process is stopped");
    put_tag(W.q2, 44, refusable);
    if (W.s->flags & DEDUP) {   /* the very id that the stopped one may have claimed; whoever was first, there is one of it */
        int rc = put_id(W.p, W.q, 20);
        MUST(rc == 0, "publish of an id says %d while another process is stopped", rc);
        if (!(W.s->flags & TOPIC)) W.lo[20] = W.hi[20] = 1;
    }
}
static void recycle(int leave) {   /* the same blocks again and again; left FREE, or READY in another queue */
    int refusable = (W.s->flags & (CLOSES | DROP | NARROW | TIGHT)) != 0;
    for (uint32_t t = 45; t < 48; t++) {
        put_tag(W.q, t, refusable);
        while (take_one(W.q, 0)) {}
    }
    for (uint32_t t = 48; leave && t < 54; t++) put_tag(W.q2, t, refusable);
}

/* Write over every small FREE block: whoever still reads one of them has to notice. */
static void scribble(void) {
    for (unsigned k = 0; k < SHMQ_CLASSES && W.p->classes[k].stride < SHMQ_PAGE; k++)
        for (uint64_t i = 0; i < ld_acq(&W.p->header->hwm[k].n); i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i;
            shmq_block *b = block_at(W.p, idx);
            uint64_t c = ld_acq(&b->ctl), mine = ctl_make(SHMQ_NEW, 0, W.p->self, ctl_gen(c) + 1);
            if (ctl_state(c) != SHMQ_FREE || !cas(&b->ctl, c, mine)) continue;
            if ((ld32_rlx(&b->extra) & 255) == 0) memset(payload_of(W.p, idx), 0xee, W.p->classes[k].stride);
            MUST(cas(&b->ctl, mine, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(mine))), "a block of mine was taken away");
            arena_hint(W.p, idx);   /* who lost it to us meanwhile has forgotten it */
        }
}

/* ---- checking the end ---- */
static void all_free(void) {
    shmq_audit_report a;
    if (W.s->flags & CLOSES) {   /* a deletion that was cut off is finished by the next who collects */
        int rc = shmq_queue_collect(W.p);
        MUST(rc >= 0, "collect says %d", rc);
        for (uint32_t i = 0; i < ld32_acq(&W.p->header->queue_hwm); i++)
            MUST(queue_state(ld_acq(&W.p->queues[i].word)) != SHMQ_Q_DELETING, "queue %u stays DELETING", i);
    }
    audit(1);
    arena_return_all(W.p);
    MUST(shmq_audit(W.p, &a) == 0, "audit");
    uint64_t sum = 0, made = 0;
    for (int i = 0; i < 16; i++) sum += a.states[i];
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) made += ld_acq(&W.p->header->hwm[k].n);
    MUST(sum == made, "%lu blocks of %lu", sum, made);
    MUST(a.states[SHMQ_FREE] == made,
         "leaked: of %lu blocks only %lu are FREE (NEW %lu READY %lu OWNED %lu MOVE %lu DELAYED %lu LIMBO %lu ATTACHED %lu FAN %lu)", made,
         a.states[SHMQ_FREE], a.states[SHMQ_NEW], a.states[SHMQ_READY], a.states[SHMQ_OWNED], a.states[SHMQ_MOVE], a.states[SHMQ_DELAYED],
         a.states[SHMQ_LIMBO], a.states[SHMQ_ATTACHED], a.states[SHMQ_FAN]);
    MUST(a.unhinted == 0, "%lu free blocks without hint", a.unhinted);
}
static void counts(plane *p, int finished) {
    if (W.s->expect) W.s->expect(p, finished);
    for (int t = 1; t < TAGS; t++)
        MUST(W.got[t] >= W.lo[t] && W.got[t] <= W.hi[t], "message %d seen %d times instead of %d..%d (op %s, rc %ld)", t, W.got[t], W.lo[t],
             W.hi[t], finished ? "returned" : "in flight", (long)p->rc);
}
static void capacity(void) {
    if (W.s->flags & (NO_CAP | CLOSES)) return;
    for (int round = 0; round < 2; round++) {
        int want = (int)W.p->local[W.q & 0xffff].max_depth;
        memset(W.got, 0, sizeof W.got);
        for (int i = 0; i < want; i++) {
            int rc = put(W.p, W.q, 55, 64, 0, 0);
            MUST(rc == 0, "an empty queue takes %d messages only (%d)", i, rc);
        }
        if (!(W.s->flags & DROP)) MUST(put(W.p, W.q, 55, 64, 0, 0) == SHMQ_FULL, "a queue takes more than max_depth");
        for (int i = 0; i < want; i++) MUST(take_one(W.q, 0), "a message of a full queue is missing");
        MUST(!take_one(W.q, 0), "one message too many");
    }
}

/* Declared dead: the record of that ctx, or (attach) any that this pid left behind. */
static void declare(vm *v, int must) {
    int n = 0;
    for (uint32_t i = 0; i < 16; i++) {
        uint64_t w = ld_acq(&W.p->owners[i].word);
        if (owner_state(w) != SHMQ_OWNER_ALIVE || owner_pid(w) != (uint32_t)v->pid) continue;
        int rc = shmq_owner_declare(W.p, i, w);
        MUST(rc == 0, "declare says %d", rc);
        n++;
    }
    MUST(n || !must, "no record of the dead");
}
static void recover_all(shmq_ctx *c, int downwards) {
    for (uint32_t j = 0; j < 16; j++) {
        uint32_t i = downwards ? 15 - j : j;
        if (owner_state(ld_acq(&c->owners[i].word)) != SHMQ_OWNER_DEAD) continue;
        int rc = shmq_recover(c, i);
        MUST(rc == 0, "recover says %d", rc);
        MUST(owner_state(ld_acq(&c->owners[i].word)) == SHMQ_OWNER_FREE, "record %u not free after its recovery", i);
    }
}
static void evt_before(void) {
    for (uint32_t i = 0; i < ld32_acq(&W.p->header->queue_hwm) && i < 8; i++) W.evt[i] = ld32_acq(&W.p->queues[i].evt);
}
static void evt_after(void) {
    for (uint32_t i = 0; i < ld32_acq(&W.p->header->queue_hwm) && i < 8; i++)
        if (queue_state(ld_acq(&W.p->queues[i].word)) != SHMQ_Q_FREE)
            MUST(W.evt[i] != ld32_acq(&W.p->queues[i].evt), "a death was not announced on queue %u", i);
}
static void timers_known(void) {   /* each DELAYED block is in the mailbox, or the sidecar is told to look at all; or it is parked */
    int lost = ld32_acq(&W.p->header->timer_lost) != 0;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++)
        for (uint64_t i = 0; i < ld_acq(&W.p->header->hwm[k].n); i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i, at;
            uint64_t c = ld_acq(&block_at(W.p, idx)->ctl);
            if (ctl_state(c) != SHMQ_DELAYED) continue;
            if (ctl_flags(c) & SHMQ_FLAG_PARKED) {   /* waits for room, not for a time: its queue says so (park.c, I1) */
                unsigned home = fate_home(ld_acq(&block_at(W.p, idx)->fate));
                MUST(home < 8 && (ld32_acq(&W.p->queues[home].parked) & 1), "parked block %u is known to no queue", idx);
                continue;
            }
            if (lost) continue;
            for (at = 0; at < SHMQ_TIMERS && ld_acq(&W.p->timers[at]) != idx + 1; at++) {}
            MUST(at < SHMQ_TIMERS, "DELAYED block %u is known to no sidecar", idx);
        }
}
static uint64_t size_of_first(uint64_t q) {   /* of those that wait there */
    uint64_t ticket = UINT64_MAX, size = 0;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++)
        for (uint64_t i = 0; i < ld_acq(&W.p->header->hwm[k].n); i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i;
            shmq_block *b = block_at(W.p, idx);
            uint64_t c = ld_acq(&b->ctl), t = pos_position(ld_rlx(&b->pos));
            if (ctl_state(c) != SHMQ_DELAYED || !(ctl_flags(c) & SHMQ_FLAG_PARKED) || fate_home(ld_rlx(&b->fate)) != (q & 0xffff)
                || t >= ticket)
                continue;
            ticket = t;
            size = size_at(W.p, b);
        }
    return size;
}
/* Nobody waits where there is room, now that the dead are recovered; and as many do as should. */
static void waiting_right(int finished) {
    if (!W.waits) return;
    if (W.s->flags & TIGHT) {
        shmq_bytes_resync(W.p, W.q);
        shmq_parked_sweep(W.p);
    }
    int n = 0;
    uint64_t qs[3] = { W.q, W.q2, W.dlq };
    for (int i = 0; i < 3; i++) {
        shmq_census c;
        if (shmq_queue_census(W.p, qs[i], &c) != SHMQ_OK || c.parked == 0) continue;
        n += (int)c.parked;
        local_queue *q = &W.p->local[qs[i] & 0xffff];
        if (q->max_bytes)
            MUST(ld_rlx(&q->shared->bytes) + size_of_first(qs[i]) > q->max_bytes, "%lu wait for room, and of %lu bytes %lu are used",
                 c.parked, q->max_bytes, ld_rlx(&q->shared->bytes));
        else
            MUST(ring_depth(&q->work) >= q->max_depth, "%lu wait for room, and there are %lu of %lu", c.parked, ring_depth(&q->work),
                 q->max_depth);
    }
    if (strcmp(W.mode, "others") == 0) return;
    MUST(n >= W.waits_least && n <= W.waits_most && (!finished || n == W.waits_after),
         "%d wait for room instead of %d to %d, in the end %d", n, W.waits_least, W.waits_most, W.waits_after);
}
static int died_attached;
static void x_leaves(void) {
    if (!(W.s->flags & LIVE_X)) return;
    int rc = shmq_detach(W.x);
    MUST(rc == 0, "detach says %d", rc);
}

static void check_after_death(int finished, int downwards) {
    int some = died_attached;
    evt_before();
    recover_all(W.p, downwards);
    if (some) evt_after();
    waiting_right(finished);
    audit(!(W.s->flags & LIVE_X));
    timers_known();
    drain(1);
    x_leaves();
    audit(1);
    drain(1);
    counts(W.a.p, finished);
    all_free();
    capacity();
    all_free();
}

/* ---- the branches ---- */
static uint8_t *ctx_saved[3];
static void own_save(void) {
    shmq_ctx *c[] = { W.p, W.x, W.y };
    for (int i = 0; i < 3; i++)
        if (c[i]) ctx_copy(ctx_saved[i], c[i], 1);
}
static void own_restore(void) {
    shmq_ctx *c[] = { W.p, W.x, W.y };
    for (int i = 0; i < 3; i++)
        if (c[i]) ctx_copy(ctx_saved[i], c[i], 0);
}

static void reset_model(void) {
    memset(W.got, 0, sizeof W.got);
    memset(W.lo, 0, sizeof W.lo);
    memset(W.hi, 0, sizeof W.hi);
    memset(W.last_tag, 0, sizeof W.last_tag);
    W.last_parked = 0;
    W.begun = shmq_now();
}
static int base_lo[TAGS];   /* what the world published */
static void model(void) {
    reset_model();
    memcpy(W.lo, base_lo, sizeof W.lo);
    memcpy(W.hi, base_lo, sizeof W.hi);
}

static int finished_now(void) { return W.a.p->phase >= VM_DONE; }
static int attached_now(vm *v) {
    for (uint32_t i = 0; i < 16; i++) {
        uint64_t w = ld_acq(&W.p->owners[i].word);
        if (owner_state(w) == SHMQ_OWNER_ALIVE && owner_pid(w) == (uint32_t)v->pid) return 1;
    }
    return 0;
}

static void branch_kill(int others) {
    W.mode = others ? "others" : "kill";
    W.kills++;
    model();
    if (setjmp(W.out) == 0) {
        if (others) others_go_on();
        died_attached = attached_now(&W.a);
        declare(&W.a, 0);
        check_after_death(finished_now(), 0);
    }
}

static void end_leases(void) {
    uint64_t next;
    int rc = shmq_leases_expire(W.p, shmq_now() + 100 * FAR, &next);
    MUST(rc >= 0, "leases_expire says %d", rc);
}

static void branch_stop(int reuse, int leave) {
    W.mode = "stop";
    W.stops++;
    model();
    if (setjmp(W.out) == 0) {
        end_leases();
        if (reuse) recover_all(W.p, 0);
        shmq_delivery yd = { 0 }, yl = { 0 };
        if (reuse) {   /* a new process gets the record of the dead one, takes what came back and starts to write */
            if (shmq_attach(W.y, SHMQ_CLIENT) < 0) violation("attach");
            MUST(shmq_loan(W.y, W.q2, 64, 0, &yl) == 0, "loan");
            fill((uint8_t *)(uintptr_t)yl.data, 60, 64);
            MUST(shmq_take(W.y, W.q, 1, 0, &yd) == 1, "take after recovery");
        } else {
            drain(0);
            recycle(leave);
            scribble();
        }
        int st = vm_run(&W.a);
        MUST(st == 0, "the stopped process ended with status %x", st);
        MUST(W.a.p->phase == VM_DONE, "phase %u", W.a.p->phase);
        MUST(W.a.p->bad == 0, "the stopped process saw something wrong: line %u", W.a.p->bad);
        int64_t rc = W.a.p->rc;
        if (reuse) {
            uint32_t t = tag_of(&yd);
            MUST(t, "a taken message changed");
            W.got[t]++;
            int arc = shmq_ack(W.y, &yd, 1);
            MUST(arc == 1, "a living process's lease was taken away by a late recoverer (ack says %d)", arc);
            shmq_message m = { 0 };
            MUST(shmq_loan_publish(W.y, W.q2, &yl, &m) == 0, "a living process's block was taken away by a late recoverer");
            W.lo[60]++;
            W.hi[60]++;
            MUST(shmq_detach(W.y) == 0, "detach");
        }
        audit(0);
        st = vm_run(&W.a);
        MUST(st == 0 && W.a.p->phase == VM_LEFT, "detach of the stopped process: status %x", st);
        W.a.p->rc = rc;
        x_leaves();
        audit(1);
        drain(0);
        counts(W.a.p, 1);
        all_free();
        capacity();
        all_free();
    }
}

static vm_snap snap_a, snap_r;
static seg_snap seg_a, seg_r, seg_base;
static uint64_t pair_states;

/* The recoverer of a dead child, killed after each of its instructions that changed something. */
static void branch_pair(void) {
    volatile uint32_t dead = NOBODY;   /* volatile: setjmp follows */
    model();
    W.mode = "pair";
    for (uint32_t i = 0; i < 16; i++) {
        uint64_t w = ld_acq(&W.p->owners[i].word);
        if (owner_state(w) == SHMQ_OWNER_ALIVE && owner_pid(w) == (uint32_t)W.a.pid) dead = i;
    }
    if (dead == NOBODY) return;
    if (setjmp(W.out) == 0) declare(&W.a, 1);
    W.r.p->arg = dead;
    seg_save(&W.pages, &seg_r);
    W.r.again = 0;
    vm_protect(&W.r, PROT_READ);
    for (volatile int first = 1;; first = 0) {
        if (first || seg_follow(&W.pages, &seg_r)) {
            W.pairs++;
            model();
            if (setjmp(W.out) == 0) {
                died_attached = 1;
                declare(&W.r, 1);
                check_after_death(finished_now(), (int)(W.pairs & 1));
            }
            seg_restore(&W.pages, &seg_r);
            own_restore();
        }
        if (W.r.p->phase >= VM_DONE) break;
        int st = vm_store(&W.r);
        if (st) {
            if (setjmp(W.out) == 0) violation("the recoverer ended with status %x", st);
            break;
        }
        pair_states++;
    }
}

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
