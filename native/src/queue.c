/* queue.c: queue records and the life of a queue.
 *
 *   word  gen:56 | state:8       FREE --create--> LIVE --close--> CLOSED --delete--> DELETING --> RETIRING --> FREE(gen)
 *                                  LIVE ------------------------delete----^
 *   record: word | options | name | evt | space | bytes | ring ends | ring places | name of its dead-letter queue      two pages, reserved at create
 *
 * I1  Records are changed under header.admin, which holds the owner word of who is at it; a proven-dead holder is replaced.
 *     The word is stored last by create: a record whose creator died stays FREE, whatever else stands in it.
 * I2  Ring space belongs to a queue exactly while its record is not FREE: there is no allocator state that could leak.
 * I3  A record is re-used only after (a) every living owner was seen outside an operation after DELETING became visible
 *     (barrier.c: a fence on this slow side, plain stores on the fast one; where there is none yet, records wait), so that nobody publishes or takes there, (b) no block in
 *     any live state calls it home, and (c) the same as (a) after RETIRING, so that no recovery looks into its rings either.
 *     So no process can act on a ring of one queue in the name of another, or touch a ring whose memory is gone.
 *
 * Data paths never wait for header.admin: a stopped creator delays creation and deletion only.
 */
#define _GNU_SOURCE
#include "queue.h"
#include "arena.h"
#include "barrier.h"
#include "ids.h"
#include "level.h"
#include "ring.h"
#include "settle.h"
#include "waiter.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- the admin lock (I1) ---- */

static int holder_gone(shmq_ctx *ctx, uint64_t word) {
    uint32_t n = owners_used(ctx);
    for (uint32_t i = 0; i < n; i++) {
        if (ld_acq(&ctx->owners[i].word) != word) continue;
        return shmq_owner_prove(ctx, i, 0) == SHMQ_OK;   /* OK = proven dead */
    }
    return 1;   /* an owner word occurs once: no record shows it, so that attachment is over */
}

static int admin_lock(shmq_ctx *ctx) {   /* called without the ctx lock; waits for living holders, 10 s at most */
    uint64_t deadline = shmq_now() + UINT64_C(10000000000);
    for (;;) {
        uint64_t w = ld_acq(&ctx->header->admin);
        if (w == 0 ? cas(&ctx->header->admin, 0, ctx->self_word)
                   : (holder_gone(ctx, w) && cas(&ctx->header->admin, w, ctx->self_word))) return SHMQ_OK;
        if (shmq_now() > deadline) return SHMQ_BUSY;
        struct timespec t = { 0, 200000 };
        nanosleep(&t, NULL);
    }
}

static void admin_unlock(shmq_ctx *ctx) { cas(&ctx->header->admin, ctx->self_word, 0); }

/* Two threads of one process share an owner word: they exclude each other here. */
int queue_admin_enter(shmq_ctx *ctx) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ld32_rlx(&ctx->attached)) return SHMQ_E_DETACHED;
    for (unsigned n = 0; xchg32(&ctx->admin_lock, 1); n++) {
        struct timespec t = { 0, 100000 };
        nanosleep(&t, NULL);
        if (n > 150000) return SHMQ_BUSY;
    }
    int rc = admin_lock(ctx);
    if (rc != SHMQ_OK) st32_rel(&ctx->admin_lock, 0);
    return rc;
}

void queue_admin_leave(shmq_ctx *ctx) {
    admin_unlock(ctx);
    st32_rel(&ctx->admin_lock, 0);
}

/* ---- opening ---- */

static int counters_ready(shmq_ctx *ctx, uint32_t index) {
    uint32_t bit = 1u << (index / 32), from = index / 32 * 32;
    if (ld32_acq(&ctx->me->counters) & bit) return SHMQ_OK;
    uint64_t at = (uint64_t)((uint8_t *)counters_of(ctx, ctx->self, from) - ctx->base);
    int rc = arena_reserve(ctx, at, clamped(32, (uint32_t)ctx->geometry.queue_count - from) * sizeof(shmq_counters));
    if (rc == SHMQ_OK) or32(&ctx->me->counters, bit);
    return rc;
}

/* Count this process's share of an open queue, for which there was no memory when it was opened. */
int queue_count_here(shmq_ctx *ctx, uint32_t index) {
    int rc = counters_ready(ctx, index);
    if (rc == SHMQ_OK) ctx->local[index].counters = counters_of(ctx, ctx->self, index);
    return rc;
}

/* All places in the ring region that belong to a record: its rings, its key lanes, its table of ids (in words of 8 bytes). */
#define PLACES 13
#define DEDUP_LG 28   /* the largest table: 2^24 ids in each half */
static shmq_ring_place *place_of(shmq_queue *rec, unsigned n) { return n < 11 ? &rec->place[n] : n == 11 ? &rec->keys : &rec->dedup; }

/* Bytes of a ring, or of another table of at most 2^most words, whose place is sound, else 0. */
static uint64_t place_bytes(shmq_ctx *ctx, shmq_ring_place p, uint32_t most) {
    if (p.lg < 1 || p.lg > most || p.offset < ctx->geometry.rings || p.offset % SHMQ_PAGE) return 0;
    uint64_t bytes = ((UINT64_C(8) << p.lg) + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE;
    return p.offset <= ctx->geometry.rings + ctx->geometry.rings_size - bytes ? bytes : 0;
}

static int ring_open(shmq_ctx *ctx, shmq_queue *rec, uint32_t index, unsigned lane, local_ring *r) {
    shmq_ring_place p = rec->place[lane];
    if (place_bytes(ctx, p, 24) == 0)
        return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)&rec->place[lane] - ctx->base), p.offset, ctx->geometry.rings, 0);
    *r = (local_ring){ .slots = (shmq_au64 *)(ctx->base + p.offset), .ends = &rec->ends[lane], .mask = (UINT64_C(1) << p.lg) - 1,
                       .lg = p.lg, .ring = index * SHMQ_LANES + lane, .backed = UINT64_MAX };
    if (p.lg > RING_LONG) {
        r->chunks = &rec->chunks[lane].n;
        r->backed = 0;
    }
    return SHMQ_OK;
}

int queue_open_local(shmq_ctx *ctx, uint32_t index, local_queue **out) {
    if (index >= queues_used(ctx)) return SHMQ_E_NOTFOUND;
    shmq_queue *rec = &ctx->queues[index];
    local_queue *q = &ctx->local[index];
    uint64_t w = ld_acq(&rec->word);
    if (queue_state(w) == SHMQ_Q_FREE || queue_state(w) == SHMQ_Q_RETIRING) return SHMQ_E_NOTFOUND;
    if (queue_state(w) > SHMQ_Q_RETIRING)
        return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)rec - ctx->base), w, SHMQ_Q_RETIRING, 0);
    if (q->live == queue_make(queue_gen(w), SHMQ_Q_LIVE)) { *out = q; return SHMQ_OK; }
    local_queue fresh = { .shared = rec, .options = rec->options };
    if (fresh.options.priorities > SHMQ_LEVELS) fresh.options.priorities = SHMQ_LEVELS;   /* indexes rings: whatever stands there */
    memcpy(fresh.dead_name, rec->dead_name, sizeof fresh.dead_name - 1);
    int counted = counters_ready(ctx, index) == SHMQ_OK;   /* a full file system must not cost messages, only their count */
    int rc = ring_open(ctx, rec, index, SHMQ_LANE_WORK, &fresh.work);
    if (rc == SHMQ_OK) rc = ring_open(ctx, rec, index, SHMQ_LANE_AGAIN, &fresh.again);
    if (rc == SHMQ_OK && ids_bytes(&fresh.options)) {
        shmq_ring_place ids = rec->dedup;
        if (place_bytes(ctx, ids, DEDUP_LG) < ids_bytes(&fresh.options))
            rc = fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)&rec->dedup - ctx->base), ids.offset, ctx->geometry.rings, 0);
        else ids_open(&fresh, ctx->base + ids.offset);
    }
    if (rc != SHMQ_OK) return rc;
    if (queue_gen(ld_acq(&rec->word)) != queue_gen(w)) return SHMQ_E_NOTFOUND;
    ring_settle_in(&fresh.work);
    if (__atomic_load_n(&rec->place[SHMQ_LANE_AGAIN].ready, __ATOMIC_ACQUIRE)) ring_settle_in(&fresh.again);
    fresh.lanes = 0;
    if (fresh.options.order != SHMQ_FIFO) {
        if (place_bytes(ctx, rec->keys, 24) < (UINT64_C(8) << (fresh.options.order == SHMQ_STRICT ? 9 : 12)))
            return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)&rec->keys - ctx->base), rec->keys.offset, ctx->geometry.rings, 0);
        fresh.keys = (shmq_au64 *)(ctx->base + rec->keys.offset);
        fresh.lanes = SHMQ_LANES_ORDERED;
    }
    fresh.counters = counted ? counters_of(ctx, ctx->self, index) : &ctx->spare;
    fresh.max_depth = fresh.options.max_depth;
    if (fresh.max_depth < 1 || fresh.max_depth > fresh.work.mask + 1) fresh.max_depth = fresh.work.mask + 1;
    fresh.most = fresh.lanes ? fresh.work.mask + 1 : fresh.max_depth;
    fresh.max_bytes = fresh.options.max_bytes;
    fresh.lot = fresh.max_depth / 4 > 32 ? 32 : fresh.max_depth / 4 < 1 ? 1 : (uint32_t)(fresh.max_depth / 4);
    fresh.sampled = ld_rlx(&ctx->header->user_word) >> SHMQ_NO_LATENCIES & 1 ? UINT32_MAX : 0;
    st_rlx(&fresh.spin_ns, 20000);
    st_rlx(&fresh.room_ns, 5000);
    fresh.live = queue_make(queue_gen(w), SHMQ_Q_LIVE);
    fresh.closed = queue_make(queue_gen(w), SHMQ_Q_CLOSED);
    *q = fresh;
    *out = q;
    return SHMQ_OK;
}

/* The private ring for a ring number found in shared memory, or NULL when there is no such queue. */
local_ring *queue_ring(shmq_ctx *ctx, unsigned ring) {
    local_queue *q;
    unsigned lane = ring % SHMQ_LANES;
    if (queue_open_local(ctx, ring / SHMQ_LANES, &q) != SHMQ_OK) return NULL;
    if (lane == SHMQ_LANE_WORK) return &q->work;
    if (lane < SHMQ_LEVELS) return queue_lanes(ctx, q) >> lane & 1 ? &q->level[lane] : NULL;
    return lane == SHMQ_LANE_AGAIN && __atomic_load_n(&q->shared->place[lane].ready, __ATOMIC_ACQUIRE) ? &q->again : NULL;
}

/* What of a ring has memory before its first message: all of a short one. */
static uint64_t first_bytes(shmq_ring_place p) { return p.lg > RING_LONG ? RING_CHUNK * 8 : ((UINT64_C(8) << p.lg) + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE; }

/* The redelivery ring has memory from create on: a message that comes back must find room. */
int queue_again_ready(shmq_ctx *ctx, local_queue *q) {
    (void)ctx;
    return __atomic_load_n(&q->shared->place[SHMQ_LANE_AGAIN].ready, __ATOMIC_ACQUIRE) ? SHMQ_OK : SHMQ_E_CORRUPT;
}

/* Levels that others have begun to use. What cannot be opened stays closed to us: a hostile word costs its own queue only. */
uint32_t queue_lanes_open(shmq_ctx *ctx, local_queue *q, uint32_t lanes) {
    uint32_t index = queue_index(ctx, q);
    for (unsigned n = 1; n < SHMQ_LEVELS; n++) {
        if (!(lanes & ~q->lanes & 1u << n) || (q->lanes & SHMQ_LANES_ORDERED)) continue;
        if (ring_open(ctx, q->shared, index, n, &q->level[n]) != SHMQ_OK) continue;
        ring_settle_in(&q->level[n]);
        q->lanes |= 1u << n;
    }
    return q->lanes;
}

/* Memory for the ring of a level when its first message comes; then the bit that makes takers look there: before the message. */
int queue_level_ready(shmq_ctx *ctx, local_queue *q, unsigned level) {
    if (level == 0 || (queue_lanes(ctx, q) & 1u << level)) return SHMQ_OK;
    shmq_ring_place *p = &q->shared->place[level];
    uint64_t bytes = place_bytes(ctx, *p, 24);
    int rc = bytes ? arena_reserve(ctx, p->offset, first_bytes(*p)) : SHMQ_E_CORRUPT;
    if (rc != SHMQ_OK) return rc;
    if (p->lg > RING_LONG) cas32(&q->shared->chunks[level].n, 0, 1);
    __atomic_store_n(&p->ready, 1, __ATOMIC_RELEASE);
    CRASH_POINT("level_ready");
    if (!MUTANT(30)) or32(&q->shared->lanes, 1u << level);
    CRASH_POINT("level_used");
    return queue_lanes_open(ctx, q, 1u << level) & 1u << level ? SHMQ_OK : SHMQ_E_CORRUPT;
}

void queue_bytes_in(local_queue *q, uint64_t size) { if (q->max_bytes) add(&q->shared->bytes, size); }
void queue_bytes_out(local_queue *q, uint64_t size) {
    if (!q->max_bytes) return;
    uint64_t b = ld_rlx(&q->shared->bytes);
    while (!atomic_compare_exchange_weak(&q->shared->bytes, &b, b > size ? b - size : 0)) {}
}

/* ---- creating ---- */

static int64_t find_name(shmq_ctx *ctx, const char *name, uint32_t *free_index) {
    uint32_t n = queues_used(ctx);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t w = ld_acq(&ctx->queues[i].word);
        unsigned st = queue_state(w);
        if (st == SHMQ_Q_FREE && free_index && *free_index == NOBODY) *free_index = i;
        if ((st == SHMQ_Q_LIVE || st == SHMQ_Q_CLOSED) && strncmp(ctx->queues[i].name, name, sizeof ctx->queues[i].name) == 0)
            return (int64_t)qref_make(w, i);
    }
    return SHMQ_E_NOTFOUND;
}

/* Where dead letters of q go: to the queue of that name, whichever has it now. NULL: none has. The number is a hint of this process. */
local_queue *queue_dead(shmq_ctx *ctx, local_queue *q) {
    local_queue *dead;
    if (q->options.dead_letter == SHMQ_NO_QUEUE) return NULL;
    for (int tries = 0; tries < 2; tries++) {
        if (queue_open_local(ctx, q->options.dead_letter, &dead) == SHMQ_OK && queue_gen(dead->live) == queue_gen(q->options.dead_word)
            && queue_status(dead) != SHMQ_GONE) return dead == q ? NULL : dead;
        int64_t found = MUTANT(77) ? SHMQ_E_NOTFOUND : find_name(ctx, q->dead_name, NULL);
        if (found < 0) return NULL;
        q->options.dead_letter = qref_index((uint64_t)found);
        q->options.dead_word = queue_make(qref_gen((uint64_t)found), SHMQ_Q_LIVE);
    }
    return NULL;
}

/* Is that the word of a queue that can be told by its name? */
static int dead_letter_sound(shmq_ctx *ctx, const shmq_queue_options *options) {
    uint32_t i = options->dead_letter;
    if (i == SHMQ_NO_QUEUE) return 1;
    uint64_t w = i < queues_used(ctx) ? ld_acq(&ctx->queues[i].word) : 0;
    return queue_gen(w) == queue_gen(options->dead_word) && (queue_state(w) == SHMQ_Q_LIVE || queue_state(w) == SHMQ_Q_CLOSED);
}

/* First fit between the rings of all records that are not FREE (I2). CORRUPT: of one of them nobody can tell what is its own. */
static int ring_space(shmq_ctx *ctx, uint64_t bytes, uint64_t also_at, uint64_t also_bytes, uint64_t *found) {
    uint64_t at = ctx->geometry.rings, end = at + ctx->geometry.rings_size;
    uint32_t n = queues_used(ctx);
    for (int moved = 1; moved;) {
        moved = 0;
        if (also_bytes && at < also_at + also_bytes && also_at < at + bytes) { at = also_at + also_bytes; moved = 1; }
        for (uint32_t i = 0; i < n; i++) {
            if (queue_state(ld_acq(&ctx->queues[i].word)) == SHMQ_Q_FREE) continue;
            for (unsigned n_th = 0; n_th < PLACES; n_th++) {
                shmq_ring_place *its = place_of(&ctx->queues[i], n_th), p = *its;
                if (p.offset == 0) continue;
                uint64_t size = place_bytes(ctx, p, DEDUP_LG);
                if (size == 0) return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)its - ctx->base), p.offset, ctx->geometry.rings, 0);
                if (at >= p.offset + size || p.offset >= at + bytes) continue;
                at = p.offset + size;
                moved = 1;
            }
        }
    }
    *found = at;
    return at + bytes <= end ? SHMQ_OK : SHMQ_FULL;
}

/* Here nobody has the ctx lock. */
static int reserve(shmq_ctx *ctx, uint64_t offset, uint64_t length) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = arena_reserve(ctx, offset, length);
    ctx_unlock(ctx);
    return rc;
}

/* The word of a record that may have no memory yet: a FREE one then. */
static uint64_t queue_word_at(shmq_ctx *ctx, uint32_t index) {
    if (index >= ctx->geometry.queue_count || reserve(ctx, ctx->geometry.queues + (uint64_t)index * sizeof(shmq_queue), sizeof(shmq_queue)) != SHMQ_OK) return 0;
    return ld_acq(&ctx->queues[index].word);
}

static uint32_t lg_for(uint64_t n) {
    uint32_t lg = 1;
    while ((UINT64_C(1) << lg) < n) lg++;
    return lg;
}

static void ring_punch(shmq_ctx *ctx, shmq_ring_place p, const shmq_queue_options *ids);

#define COUNTERS (sizeof(shmq_counters) / 8)

static uint64_t published(shmq_ctx *ctx, uint32_t index) {
    uint64_t sum = 0;
    uint32_t n = owners_used(ctx);
    for (uint32_t o = 0; o < n; o++)
        if (ld32_acq(&ctx->owners[o].counters) & 1u << (index / 32)) sum += ld_acq(&counters_of(ctx, o, index)->published);
    return sum;
}

static void sum_counters(shmq_ctx *ctx, uint32_t index, uint64_t out[COUNTERS]) {
    memset(out, 0, COUNTERS * sizeof *out);
    uint32_t n = owners_used(ctx);
    for (uint32_t o = 0; o < n; o++) {
        if (!(ld32_acq(&ctx->owners[o].counters) & 1u << (index / 32))) continue;
        shmq_au64 *c = (shmq_au64 *)counters_of(ctx, o, index);
        for (unsigned i = 0; i < COUNTERS; i++) out[i] += ld_rlx(&c[i]);
    }
}

/* What the counters of record `index` stood at when it was made: the row behind those of all owners. */
static uint64_t *base_counters(shmq_ctx *ctx, uint32_t index) {
    return (uint64_t *)counters_of(ctx, (uint32_t)ctx->geometry.processes, index);
}

int64_t queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size, int ephemeral) {
    size_t length = strnlen(name, SHMQ_NAME_MAX + 1);
    if (length == 0 || length > SHMQ_NAME_MAX) return fail(ctx, SHMQ_E_ARG, WHAT_QUEUE, 0, length, SHMQ_NAME_MAX, 0);
    if (filter_size > sizeof ctx->queues->filter) return fail(ctx, SHMQ_E_TOOBIG, WHAT_QUEUE, 0, filter_size, sizeof ctx->queues->filter, 0);
    if (options->max_depth < 1 || options->max_depth > SHMQ_BLOCKS)
        return fail(ctx, SHMQ_E_ARG, WHAT_QUEUE, 1, options->max_depth, SHMQ_BLOCKS, 0);
    if (options->priorities > SHMQ_LEVELS || options->order > SHMQ_STRICT)
        return fail(ctx, SHMQ_E_ARG, WHAT_QUEUE, 2, options->priorities > SHMQ_LEVELS ? options->priorities : options->order, SHMQ_LEVELS, 0);
    int rc = queue_admin_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    uint32_t hwm = queues_used(ctx), index = NOBODY;
    int64_t found = find_name(ctx, name, &index);
    if (found >= 0) { queue_admin_leave(ctx); return SHMQ_E_EXISTS; }
    if (!dead_letter_sound(ctx, options)) { queue_admin_leave(ctx); return SHMQ_GONE; }   /* deleted since its number was asked for */
    if (index == NOBODY || (hwm < 64 && hwm < ctx->geometry.queue_count && queue_state(queue_word_at(ctx, hwm)) == SHMQ_Q_FREE)) index = hwm;   /* a fresh record while they are cheap: old numbers live on in dead letters */
    while (index == hwm && index < ctx->geometry.queue_count && queue_state(queue_word_at(ctx, index)) != SHMQ_Q_FREE)
        st32_rel(&ctx->header->queue_hwm, index = ++hwm);   /* the hint was too low: that record lives */
    if (index >= ctx->geometry.queue_count) { queue_admin_leave(ctx); return fail(ctx, SHMQ_E_QUEUES, WHAT_QUEUE, 0, hwm, ctx->geometry.queue_count, 0); }
    shmq_queue *rec = &ctx->queues[index];
    int subscription = options->kind == SHMQ_KIND_SUBSCRIPTION || options->kind == SHMQ_KIND_PATTERN;
    uint64_t depth = subscription || options->kind == SHMQ_KIND_QUEUE ? options->max_depth : 1;   /* nothing ever lies in a topic itself */
    /* more slots than max_depth: who has seen room, then committed a share, an id or a forward, finds it though others were quicker */
    uint64_t slots = depth + (subscription || options->dedup_window_ns ? SHMQ_OWNERS : depth < 64 ? depth : 64);
    uint64_t most = ctx->indices;   /* no more messages than blocks */
    uint32_t lg[2] = { lg_for(slots > most ? most : slots), lg_for(depth > AGAIN_MOST ? AGAIN_MOST : depth) };
    if (options->order != SHMQ_FIFO) lg[0] = lg[0] < 8 ? 10 : lg[0] > 22 ? 24 : lg[0] + 2;   /* messages passed over keep their places */
    uint64_t bytes[2], at[2];
    for (int i = 0; i < 2; i++) bytes[i] = ((UINT64_C(8) << lg[i]) + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE;
    if (bytes[1] < 2 * SHMQ_PAGE) { lg[1] = lg_for(1024); bytes[1] = 2 * SHMQ_PAGE; }   /* room for many consumers of a small queue */
    /* one span: a ring for each level, of which only the first has memory yet; the redelivery ring; the lanes of keys */
    unsigned levels = options->order != SHMQ_FIFO || options->priorities < 1 ? 1 : options->priorities;
    shmq_ring_place keys = { .lg = options->order == SHMQ_FIFO ? 0 : options->order == SHMQ_STRICT ? 9 : 12, .ready = options->order != SHMQ_FIFO };
    uint64_t span = levels * bytes[0] + bytes[1] + (keys.ready ? UINT64_C(8) << keys.lg : 0);
    rc = ring_space(ctx, span, 0, 0, &at[0]);
    if (rc == SHMQ_FULL) rc = fail(ctx, SHMQ_E_QUEUES, WHAT_QUEUE, 1, span, ctx->geometry.rings_size, 0);
    if (rc != SHMQ_OK) { queue_admin_leave(ctx); return rc; }
    at[1] = at[0] + levels * bytes[0];
    keys.offset = keys.ready ? at[1] + bytes[1] : 0;
    rc = reserve(ctx, (uint64_t)((uint8_t *)rec - ctx->base), sizeof *rec);
    if (rc == SHMQ_OK) rc = reserve(ctx, (uint64_t)((uint8_t *)base_counters(ctx, index) - ctx->base), sizeof(shmq_counters));
    /* memory for the first messages and the first redeliveries; long rings get the rest as they go */
    shmq_ring_place work = { at[0], lg[0], 1 }, again = { at[1], lg[1], 1 };
    for (int i = 0; i < 2 && rc == SHMQ_OK; i++) {
        shmq_ring_place p = i ? again : work;
        if (p.lg > RING_LONG) ring_punch(ctx, p, NULL);
        rc = reserve(ctx, p.offset, first_bytes(p));
    }
    if (rc == SHMQ_OK && keys.ready) rc = reserve(ctx, keys.offset, UINT64_C(8) << keys.lg);
    /* the table of ids, if there is to be one; its first page only, the rest gets its memory when it is used */
    uint64_t ids = ids_bytes(options), ids_at = 0;
    uint32_t ids_lg = lg_for(ids / 8);
    if (rc == SHMQ_OK && ids) {
        rc = ring_space(ctx, UINT64_C(8) << ids_lg, at[0], span, &ids_at);
        if (rc == SHMQ_OK) rc = reserve(ctx, ids_at, SHMQ_PAGE);
        else if (rc == SHMQ_FULL) rc = fail(ctx, SHMQ_E_NOMEM, WHAT_DEDUP, 0, ids, ctx->geometry.rings_size, 0);
    }
    if (rc != SHMQ_OK) { queue_admin_leave(ctx); return rc; }
    if (ids) memset(ctx->base + ids_at, 0, SHMQ_PAGE);
    uint64_t gen = queue_gen(ld_acq(&rec->word)) & (QREF_GEN >> 1);
    memset(ctx->base + at[0], 0, first_bytes(work));   /* a creator that died here before us may have left its rounds */
    memset(ctx->base + at[1], 0, first_bytes(again));
    if (keys.ready) memset(ctx->base + keys.offset, 0, UINT64_C(8) << keys.lg);
    memset(rec->name, 0, sizeof rec->name);
    memcpy(rec->name, name, length);
    rec->options = *options;
    memset(rec->dead_name, 0, sizeof rec->dead_name);
    if (options->dead_letter != SHMQ_NO_QUEUE) memcpy(rec->dead_name, ctx->queues[options->dead_letter].name, sizeof rec->dead_name - 1);
    rec->created_ns = shmq_now();
    for (int lane = 0; lane < 11; lane++) {
        rec->place[lane] = (shmq_ring_place){ 0 };
        st_rlx(&rec->ends[lane].head, 0);
        st_rlx(&rec->ends[lane].tail, 0);
    }
    for (unsigned n = 1; n < levels; n++) rec->place[n] = (shmq_ring_place){ at[0] + n * bytes[0], lg[0], 0 };
    st32_rel(&rec->lanes, keys.ready ? SHMQ_LANES_ORDERED : 0);
    for (int lane = 0; lane < 11; lane++) st32_rlx(&rec->chunks[lane].n, 0);
    if (lg[0] > RING_LONG) st32_rlx(&rec->chunks[SHMQ_LANE_WORK].n, 1);
    if (lg[1] > RING_LONG) st32_rlx(&rec->chunks[SHMQ_LANE_AGAIN].n, 1);
    st32_rlx(&rec->marks, 0);
    st32_rlx(&rec->parked, 0);
    st_rlx(&rec->turn, 0);
    st_rlx(&rec->tickets, 0);
    st32_rlx(&rec->disturbed, 0);
    memset((void *)rec->note, 0, sizeof rec->note);
    rec->keys = keys;
    rec->dedup = ids ? (shmq_ring_place){ ids_at, ids_lg, 1 } : (shmq_ring_place){ 0 };
    rec->ephemeral = ephemeral ? ctx->self_word : 0;
    rec->ephemeral_owner = ctx->self;
    rec->filter_size = filter_size;
    memset(rec->filter, 0, sizeof rec->filter);
    if (filter_size) memcpy(rec->filter, filter, filter_size);
    rec->place[SHMQ_LANE_WORK] = work;
    rec->place[SHMQ_LANE_AGAIN] = again;
    st_rlx(&rec->bytes, 0);
    sum_counters(ctx, index, base_counters(ctx, index));
    CRASH_POINT("create");
    st_rel(&rec->word, queue_make(gen + 1, SHMQ_Q_LIVE));   /* I1: last */
    if (index == hwm) st32_rel(&ctx->header->queue_hwm, hwm + 1);
    add32(&ctx->header->topology, 1);   /* when the record is in everybody's sight */
    if (options->ack_timeout_ns) {   /* the sidecar has leases to watch from now on */
        st32_rel(&ctx->header->leases, 1);
        add32(&ctx->header->timer_evt, 2);
        futex_wake(&ctx->header->timer_evt, 1);
    }
    queue_admin_leave(ctx);
    return (int64_t)((gen + 1) << 16 | index);
}

int64_t shmq_queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options) {
    return queue_create(ctx, name, options, NULL, 0, 0);
}

int64_t shmq_queue_open(shmq_ctx *ctx, const char *name) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    local_queue *q;
    int64_t found = find_name(ctx, name, NULL);
    if (found >= 0) {
        rc = queue_open_local(ctx, qref_index((uint64_t)found), &q);
        if (rc != SHMQ_OK) found = rc;
    }
    ctx_unlock(ctx);
    return found;
}

int64_t shmq_queue_adopt(shmq_ctx *ctx, uint32_t index) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    local_queue *q;
    rc = queue_open_local(ctx, index, &q);
    int64_t out = rc == SHMQ_OK ? (int64_t)qref_make(q->live, index) : rc;
    ctx_unlock(ctx);
    return out;
}

/* ---- closing and deleting ---- */

static void wake_all(shmq_queue *rec) {
    waiter_announce(&rec->evt);
    waiter_announce(&rec->space);
}

/* Safe without header.admin too: creators touch FREE records only, collectors those that are being deleted. */
int queue_turn(shmq_ctx *ctx, uint64_t qref, unsigned state) {
    uint32_t i = qref_index(qref);
    if (i >= queues_used(ctx)) return SHMQ_GONE;
    shmq_queue *rec = &ctx->queues[i];
    for (;;) {
        uint64_t w = ld_acq(&rec->word);
        if (queue_gen(w) != qref_gen(qref) || queue_state(w) == SHMQ_Q_FREE || queue_state(w) == SHMQ_Q_RETIRING) return SHMQ_GONE;
        if (queue_state(w) == SHMQ_Q_DELETING) return state == SHMQ_Q_DELETING ? SHMQ_OK : SHMQ_GONE;
        if (queue_state(w) == state || cas(&rec->word, w, queue_make(queue_gen(w), state))) break;
    }
    add32(&ctx->header->topology, 1);
    if (barrier_everywhere(ctx) != 0) nanosleep(&(struct timespec){ 0, 10000000 }, NULL);   /* no barrier: stores are in sight in nanoseconds */
    /* whoever saw it LIVE has its message's header in sight now: queue_drained can trust its scan */
    wake_all(rec);
    return SHMQ_OK;
}

int shmq_queue_close(shmq_ctx *ctx, uint64_t qref) {
    int rc = queue_admin_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = queue_turn(ctx, qref, SHMQ_Q_CLOSED);
    queue_admin_leave(ctx);
    return rc;
}

int shmq_queue_delete(shmq_ctx *ctx, uint64_t qref) {
    int rc = queue_admin_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = queue_turn(ctx, qref, SHMQ_Q_DELETING);
    queue_admin_leave(ctx);
    if (rc == SHMQ_OK) shmq_queue_collect(ctx);
    return rc;
}

static int counted(unsigned state) {
    return state == SHMQ_READY || state == SHMQ_OWNED || state == SHMQ_MOVE || state == SHMQ_DELAYED;
}

static void count_block(shmq_ctx *ctx, shmq_block *b, uint64_t ctl, shmq_census *out) {
    unsigned st = ctl_state(ctl);
    if (st == SHMQ_READY) {
        out->ready++;
        out->bytes += size_at(ctx, b);
        uint64_t at = ld_rlx(&b->published_ns);
        if (out->oldest_ns == 0 || at < out->oldest_ns) out->oldest_ns = at;
    } else if (st == SHMQ_OWNED) out->unsettled++;
    else if (st == SHMQ_DELAYED && (ctl_flags(ctl) & SHMQ_FLAG_PARKED)) out->parked++;
    else if (st == SHMQ_DELAYED) out->delayed++;
    else if (st == SHMQ_MOVE) out->moving++;
    else out->fresh++;
}

/* Of the queues from..from+n-1, in one pass over all blocks. */
static void census_of(shmq_ctx *ctx, uint32_t from, uint32_t queues, shmq_census *out) {
    memset(out, 0, queues * sizeof *out);
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) {
        uint64_t n = class_hwm(ctx, k);
        for (uint64_t i = 0; i < n; i++) {
            shmq_block *b = block_at(ctx, ctx->classes[k].first + (uint32_t)i);
            uint64_t ctl = ld_acq(&b->ctl);
            unsigned st = ctl_state(ctl);
            if (!counted(st) && st != SHMQ_NEW) continue;
            uint32_t home = fate_home(ld_rlx(&b->fate));
            if (home - from < queues) count_block(ctx, b, ctl, &out[home - from]);
        }
    }
}

static void census(shmq_ctx *ctx, uint32_t home, shmq_census *out) { census_of(ctx, home, 1, out); }

static int somebody_holds(shmq_ctx *ctx, uint32_t home) {
    uint32_t owners = owners_used(ctx);
    for (uint32_t o = 0; o < owners; o++) {
        if (owner_state(ld_acq(&ctx->owners[o].word)) != SHMQ_OWNER_ALIVE) continue;
        uint32_t n = held_used(ctx, o);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t e = ld_acq(&held_of(ctx, o)[i].word);
            if (e == 0 || (held_flags(e) & SHMQ_HELD_VIEW) || !block_known(ctx, held_idx(e))) continue;
            shmq_block *b = block_at(ctx, held_idx(e));
            uint64_t c = ld_acq(&b->ctl);
            if (ctl_state(c) == SHMQ_OWNED && ctl_owner(c) == o && held_names(e, c) && fate_home(ld_rlx(&b->fate)) == home) return 1;
        }
    }
    return 0;
}

/* After close: does no block anywhere belong to the queue any more? One pass decides, since a message keeps its block. */
int queue_drained(shmq_ctx *ctx, uint32_t index) {
    shmq_census c;
    if (somebody_holds(ctx, index)) return 0;   /* cheap, and the usual answer */
    census(ctx, index, &c);
    if (ld_acq(&ctx->header->closing)) c.delayed = 0;   /* the broker ends: their time will not come */
    return c.ready + c.unsettled + c.delayed + c.parked + c.moving + c.fresh == 0;
}

/* Is every message that was published settled? Messages may come while we look: if one has, its publisher may have settled
 * another one behind our back, and the pass decides nothing. (A publish counts before it returns.) */
int queue_settled(shmq_ctx *ctx, uint32_t index) {
    uint64_t before = published(ctx, index);
    return queue_drained(ctx, index) && published(ctx, index) == before;
}

int shmq_queue_census(shmq_ctx *ctx, uint64_t qref, shmq_census *out) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped) return SHMQ_E_DETACHED;
    census(ctx, qref_index(qref), out);
    return SHMQ_OK;
}

/* All queues at once: out[i] is of queue number i. */
int shmq_census_all(shmq_ctx *ctx, shmq_census *out, uint32_t n) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    census_of(ctx, 0, n, out);
    return SHMQ_OK;
}

/* Is some living process inside an operation that may have begun before the last barrier? */
static int somebody_inside(shmq_ctx *ctx) {
    uint32_t owners = owners_used(ctx);
    for (uint32_t o = 0; o < owners; o++)
        if (o != ctx->self && owner_state(ld_acq(&ctx->owners[o].word)) == SHMQ_OWNER_ALIVE && (ld_acq(&ctx->owners[o].op) & 1)) return 1;
    return 0;
}

/* For a segment whose pages cannot be punched: a fresh ring is a zero page, however it comes. What has no memory is reserved first. */
static void ring_wipe(shmq_ctx *ctx, shmq_ring_place p, uint64_t bytes) {
    for (uint64_t at = p.offset, end = p.offset + bytes; at < end; at += RING_CHUNK * 8) {
        uint64_t n = end - at < RING_CHUNK * 8 ? end - at : RING_CHUNK * 8;
        if (shmq_reserve(ctx, at, n) == SHMQ_OK) memset(ctx->base + at, 0, n);
    }
}

static void ring_punch(shmq_ctx *ctx, shmq_ring_place p, const shmq_queue_options *ids) {
    uint64_t bytes = place_bytes(ctx, p, ids ? DEDUP_LG : 24);
    if (bytes == 0) return;
    int fd = segment_fd(ctx), bad = fd >= 0
        ? fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)p.offset, (off_t)bytes)
        : madvise(ctx->base + p.offset, bytes, MADV_REMOVE);
    if (bad && ids) { if (ids_bytes(ids) && ids_bytes(ids) <= bytes) ids_forget(ctx->base + p.offset, ids); }
    else if (bad && p.ready) ring_wipe(ctx, p, bytes);
}

/* I3: finish deletions. Returns how many records became FREE; others are tried again by the next caller. */
int shmq_queue_collect(shmq_ctx *ctx) {
    int done = 0, rc = queue_admin_enter(ctx), fenced = 0, turned = 0;
    if (rc != SHMQ_OK) return rc;
    shmq_topic_sweep(ctx);   /* in here nobody writes a record that it reads */
    uint32_t queues = queues_used(ctx);
    for (uint32_t i = 0; i < queues; i++) {
        uint64_t w = ld_acq(&ctx->queues[i].word);
        if (queue_state(w) != SHMQ_Q_DELETING && queue_state(w) != SHMQ_Q_RETIRING) continue;
        if (!fenced++ && barrier_everywhere(ctx) != 0) { queue_admin_leave(ctx); return 0; }   /* no barrier, no re-use: all stay as they are */
        if (queue_state(w) == SHMQ_Q_RETIRING) continue;
        int busy = somebody_inside(ctx);   /* one who still publishes or takes there */
        shmq_census c;
        ctx_lock(ctx);
        op_begin(ctx);
        settle_discard_home(ctx, i);
        census(ctx, i, &c);
        op_end(ctx);
        ctx_unlock(ctx);
        /* NEW as well: of the dead it may be published yet (forwards, shares), and must not get into the next queue of this number */
        if (!busy && c.ready + c.unsettled + c.delayed + c.parked + c.moving + (MUTANT(56) ? 0 : c.fresh) == 0) turned |= cas(&ctx->queues[i].word, w, queue_make(queue_gen(w), SHMQ_Q_RETIRING));
    }
    if (turned && barrier_everywhere(ctx) != 0) fenced = 0;   /* one for all of them: each takes milliseconds */
    for (uint32_t i = 0; fenced && i < queues; i++) {
        shmq_queue *rec = &ctx->queues[i];
        uint64_t w = ld_acq(&rec->word);
        if (queue_state(w) != SHMQ_Q_RETIRING || somebody_inside(ctx)) continue;   /* a recoverer that saw it DELETING may still look into its rings */
        for (unsigned n = 0; n < PLACES; n++) ring_punch(ctx, *place_of(rec, n), n == PLACES - 1 ? &rec->options : NULL);
        CRASH_POINT("collect");
        if (cas(&rec->word, w, queue_make(queue_gen(w), SHMQ_Q_FREE))) done++;
    }
    queue_admin_leave(ctx);
    return done;
}

/* ---- looking ---- */

static int snapshot(shmq_ctx *ctx, uint32_t index, shmq_queue_info *out) {
    shmq_queue *rec = &ctx->queues[index];
    memset(out, 0, sizeof *out);
    out->word = ld_acq(&rec->word);
    out->state = queue_state(out->word);
    out->index = index;
    out->ref = qref_make(out->word, index);
    /* in any other state its words may be changing under a creator: op keeps only records that were seen alive */
    if (out->state != SHMQ_Q_LIVE && out->state != SHMQ_Q_CLOSED) return SHMQ_OK;
    out->created_ns = rec->created_ns;
    out->options = rec->options;
    out->bytes = ld_rlx(&rec->bytes);
    out->marks = ld32_rlx(&rec->marks);
    memcpy(out->name, rec->name, sizeof out->name);
    out->name[sizeof out->name - 1] = 0;
    memcpy(out->dead_name, rec->dead_name, sizeof out->dead_name - 1);
    out->ephemeral = rec->ephemeral;
    out->owner = rec->ephemeral_owner;
    out->filter_size = rec->filter_size <= sizeof out->filter ? rec->filter_size : 0;
    memcpy(out->filter, rec->filter, sizeof out->filter);
    sum_counters(ctx, index, out->counters);
    for (unsigned i = 0; i < COUNTERS; i++) out->counters[i] -= base_counters(ctx, index)[i];
    for (unsigned lane = 0; lane < 11 && ld_acq(&rec->word) == out->word; lane++) {
        local_ring r;
        if (!__atomic_load_n(&rec->place[lane].ready, __ATOMIC_ACQUIRE)) continue;
        if (ring_open(ctx, rec, index, lane, &r) != SHMQ_OK) continue;
        ring_settle_in(&r);
        out->ready += lane == SHMQ_LANE_AGAIN || rec->options.order != SHMQ_FIFO ? ring_filled(&r) : ring_depth(&r);
    }
    return queue_gen(ld_acq(&rec->word)) == queue_gen(out->word) ? SHMQ_OK : SHMQ_BUSY;
}

int shmq_queue_snapshot(shmq_ctx *ctx, uint32_t index, shmq_queue_info *out) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    if (index >= queues_used(ctx)) return SHMQ_E_NOTFOUND;
    int counted = ctx_enter(ctx) == SHMQ_OK, rc = SHMQ_BUSY;   /* an observer has no op word: it looks, and looks again */
    if (counted) op_begin(ctx);
    for (int tries = 0; rc == SHMQ_BUSY && tries < 100; tries++) rc = snapshot(ctx, index, out);
    if (counted) { op_end(ctx); ctx_unlock(ctx); }
    return rc;
}

int64_t shmq_depth(shmq_ctx *ctx, uint64_t qref) {
    local_queue *q;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = queue_local(ctx, qref, &q);
    int64_t n = rc;
    if (rc == SHMQ_OK && queue_status(q) == SHMQ_GONE) n = SHMQ_GONE;
    else if (rc == SHMQ_OK) {
        n = (int64_t)level_depth(ctx, q);
        if (__atomic_load_n(&q->shared->place[SHMQ_LANE_AGAIN].ready, __ATOMIC_ACQUIRE)) n += (int64_t)(q->lanes ? ring_filled(&q->again) : ring_depth(&q->again));
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return n;
}
