/* queue.c: a queue as one process sees it: the private view of its record, opened once and checked.
 *
 *   record   word | options | name | evt | space | bytes | ring ends | ring places | name of its dead-letter queue      two pages, reserved at create
 *   view     rings, options, counters, copied while the word says LIVE or CLOSED           (ctx.local; life.c, close.c and collect.c change the word)
 *
 * I1  A view is of exactly one life of the record: `live` and `closed` are its word in these states. It is void when the word is another.
 * I2  What the record says of rings and tables is checked before it is used; what does not fit is CORRUPT, and no view is made.
 * I3  A dead-letter queue is found by its name: numbers of records are used again.
 *
 * Who dies where: a view is private.
 */
#include "queue.h"
#include "arena.h"
#include "ids.h"
#include "ring.h"

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

shmq_ring_place *queue_place(shmq_queue *rec, unsigned n) { return n < 11 ? &rec->place[n] : n == 11 ? &rec->keys : &rec->dedup; }

/* Bytes of a ring, or of another table of at most 2^most words, whose place is sound, else 0. */
uint64_t queue_place_bytes(shmq_ctx *ctx, shmq_ring_place p, uint32_t most) {
    if (p.lg < 1 || p.lg > most || p.offset < ctx->geometry.rings || p.offset % SHMQ_PAGE) return 0;
    uint64_t bytes = ((UINT64_C(8) << p.lg) + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE;
    return p.offset <= ctx->geometry.rings + ctx->geometry.rings_size - bytes ? bytes : 0;
}

int queue_ring_open(shmq_ctx *ctx, shmq_queue *rec, uint32_t index, unsigned lane, local_ring *r) {
    shmq_ring_place p = rec->place[lane];
    if (queue_place_bytes(ctx, p, 24) == 0)
        return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)&rec->place[lane] - ctx->base), p.offset, ctx->geometry.rings,
                    0);
    *r = (local_ring){ .slots = (shmq_au64 *)(ctx->base + p.offset),
                       .ends = &rec->ends[lane],
                       .mask = (UINT64_C(1) << p.lg) - 1,
                       .lg = p.lg,
                       .ring = index * SHMQ_LANES + lane,
                       .backed = UINT64_MAX };
    if (p.lg > RING_LONG) {
        r->chunks = &rec->chunks[lane].n;
        r->backed = 0;
    }
    return SHMQ_OK;
}

/* For an operation that reaches the record. */
int queue_open_reached(shmq_ctx *ctx, uint32_t index, local_queue **out) {
    if (index >= queues_used(ctx)) return SHMQ_E_NOTFOUND;
    shmq_queue *rec = &ctx->queues[index];
    local_queue *q = &ctx->local[index];
    uint64_t w = ld_acq(&rec->word);
    if (queue_state(w) == SHMQ_Q_FREE || queue_state(w) == SHMQ_Q_RETIRING) return SHMQ_E_NOTFOUND;
    if (queue_state(w) > SHMQ_Q_RETIRING)
        return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)rec - ctx->base), w, SHMQ_Q_RETIRING, 0);
    if (q->live == queue_make(queue_gen(w), SHMQ_Q_LIVE)) {
        *out = q;
        return SHMQ_OK;
    }
    local_queue fresh = { .shared = rec, .options = rec->options };
    if (fresh.options.priorities > SHMQ_LEVELS) fresh.options.priorities = SHMQ_LEVELS;   /* indexes rings: whatever stands there */
    memcpy(fresh.dead_name, rec->dead_name, sizeof fresh.dead_name - 1);
    int counted = counters_ready(ctx, index) == SHMQ_OK;   /* a full file system must not cost messages, only their count */
    int rc = queue_ring_open(ctx, rec, index, SHMQ_LANE_WORK, &fresh.work);
    if (rc == SHMQ_OK) rc = queue_ring_open(ctx, rec, index, SHMQ_LANE_AGAIN, &fresh.again);
    if (rc == SHMQ_OK && ids_bytes(&fresh.options)) {
        shmq_ring_place ids = rec->dedup;
        if (queue_place_bytes(ctx, ids, IDS_LG) < ids_bytes(&fresh.options))
            rc = fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)&rec->dedup - ctx->base), ids.offset, ctx->geometry.rings, 0);
        else ids_open(&fresh, ctx->base + ids.offset);
    }
    if (rc != SHMQ_OK) return rc;
    if (queue_gen(ld_acq(&rec->word)) != queue_gen(w)) return SHMQ_E_NOTFOUND;
    ring_settle_in(&fresh.work);
    if (mark_acq(&rec->place[SHMQ_LANE_AGAIN].ready)) ring_settle_in(&fresh.again);
    fresh.lanes = 0;
    if (fresh.options.order != SHMQ_FIFO) {
        if (queue_place_bytes(ctx, rec->keys, 24) < (UINT64_C(8) << (fresh.options.order == SHMQ_STRICT ? 9 : 12)))
            return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)&rec->keys - ctx->base), rec->keys.offset,
                        ctx->geometry.rings, 0);
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

int queue_open_local(shmq_ctx *ctx, uint32_t index, local_queue **out) {
    if (index >= queues_used(ctx)) return SHMQ_E_NOTFOUND;
    if (ld_rlx(&ctx->me->op) & 1) {
        if (!MUTANT(106)) op_touch(ctx, index);
        return queue_open_reached(ctx, index, out);
    }
    op_begin_at(ctx, index);   /* of a call that is no operation: the record is that of one life while it is copied */
    int rc = queue_open_reached(ctx, index, out);
    op_end(ctx);
    return rc;
}

/* The private ring for a ring number found in shared memory, or NULL when there is no such queue. */
local_ring *queue_ring(shmq_ctx *ctx, unsigned ring) {
    local_queue *q;
    unsigned lane = ring % SHMQ_LANES;
    if (queue_open_local(ctx, ring / SHMQ_LANES, &q) != SHMQ_OK) return NULL;
    if (lane == SHMQ_LANE_WORK) return &q->work;
    if (lane < SHMQ_LEVELS) return queue_lanes(ctx, q) >> lane & 1 ? &q->level[lane] : NULL;
    return lane == SHMQ_LANE_AGAIN && mark_acq(&q->shared->place[lane].ready) ? &q->again : NULL;
}

/* What of a ring has memory before its first message: all of a short one. */
uint64_t queue_first_bytes(shmq_ring_place p) {
    return p.lg > RING_LONG ? RING_CHUNK * 8 : ((UINT64_C(8) << p.lg) + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE;
}

/* The redelivery ring has memory from create on: a message that comes back must find room. */
int queue_again_ready(shmq_ctx *ctx, local_queue *q) {
    (void)ctx;
    return queue_has_again(q) ? SHMQ_OK : SHMQ_E_CORRUPT;
}

/* Levels that others have begun to use. What cannot be opened stays closed to us: a hostile word costs its own queue only. */
uint32_t queue_lanes_open(shmq_ctx *ctx, local_queue *q, uint32_t lanes) {
    uint32_t index = queue_index(ctx, q);
    for (unsigned n = 1; n < SHMQ_LEVELS; n++) {
        if (!(lanes & ~q->lanes & 1u << n) || (q->lanes & SHMQ_LANES_ORDERED)) continue;
        if (queue_ring_open(ctx, q->shared, index, n, &q->level[n]) != SHMQ_OK) continue;
        ring_settle_in(&q->level[n]);
        q->lanes |= 1u << n;
    }
    return q->lanes;
}

/* Memory for the ring of a level when its first message comes; then the bit that makes takers look there: before the message. */
int queue_level_ready(shmq_ctx *ctx, local_queue *q, unsigned level) {
    if (level == 0 || (queue_lanes(ctx, q) & 1u << level)) return SHMQ_OK;
    shmq_ring_place *p = &q->shared->place[level];
    uint64_t bytes = queue_place_bytes(ctx, *p, 24);
    int rc = bytes ? arena_reserve(ctx, p->offset, queue_first_bytes(*p)) : SHMQ_E_CORRUPT;
    if (rc != SHMQ_OK) return rc;
    if (p->lg > RING_LONG) cas32(&q->shared->chunks[level].n, 0, 1);
    mark_rel(&p->ready, 1);
    CRASH_POINT("level_ready");
    if (!MUTANT(30)) or32(&q->shared->lanes, 1u << level);
    CRASH_POINT("level_used");
    return queue_lanes_open(ctx, q, 1u << level) & 1u << level ? SHMQ_OK : SHMQ_E_CORRUPT;
}

void queue_bytes_less(local_queue *q, uint64_t size) {
    for (uint64_t b = ld_rlx(&q->shared->bytes); !cas(&q->shared->bytes, b, b > size ? b - size : 0); b = ld_rlx(&q->shared->bytes)) {}
}

int64_t queue_find(shmq_ctx *ctx, const char *name, uint32_t *free_index) {
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
            && queue_status(dead) != SHMQ_GONE)
            return dead == q ? NULL : dead;
        op_widen(ctx);
        int64_t found = MUTANT(77) ? SHMQ_E_NOTFOUND : queue_find(ctx, q->dead_name, NULL);
        if (found < 0) return NULL;
        q->options.dead_letter = qref_index((uint64_t)found);
        q->options.dead_word = queue_make(qref_gen((uint64_t)found), SHMQ_Q_LIVE);
    }
    return NULL;
}
