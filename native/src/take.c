/* take.c: from a ring into a consumer's hands; and looking without taking.
 *
 *   slot, ctl, slot again (R2) -> held entry -> CAS ctl to OWNED(me, gen+1) -> clear the slot (R1) -> read the header
 *
 * I1  The delivery happens at the ctl CAS and nowhere else. The header is only read, and only after it (H29: a consumer never
 *     writes a header; its lease may end by the clock while it is stopped).
 * I2  The held entry is written before the CAS, with the generation that the CAS will make: recovery finds every lease through
 *     it within microseconds, and lease expiry has its deadline. A failed CAS clears it and re-examines LIMBO.
 * I3  Redelivered messages come first; with several levels in use: first within their level (level.c). Ordered queues: order.c.
 * Who dies where: entry written, CAS not done: the entry names a generation that never was ours; recovery skips it. After the
 * CAS: OWNED(dead), returned by recovery; the slot is cleared by anyone in passing.
 */
#include "take.h"
#include "census.h"
#include "clock.h"
#include "fan.h"
#include "figures.h"
#include "free.h"
#include "level.h"
#include "order.h"
#include "owner.h"
#include "park.h"
#include "queue.h"
#include "ring.h"
#include "route.h"
#include "settle.h"
#include "unpark.h"
#include "waiter.h"

/* Read what the header says, checking every length: the memory is everybody's. 0 = fine. */
HOT static int describe(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, shmq_delivery *d) {
    shmq_block *b = block_at(ctx, idx), *at_payload = b;
    uint32_t of = idx;
    if (ctl_flags(ctl) & SHMQ_FLAG_CHILD) {   /* the payload is its parent's, who cannot go while this child lives */
        of = ld32_rlx(&b->size);
        if (!fan_carries(ctx, of, ld_rlx(&b->id))) {
            d->size = 0;
            return SHMQ_E_CORRUPT;
        }
        at_payload = block_at(ctx, of);
    }
    uint64_t room = payload_room(ctx, of), f = ld_rlx(&b->fate);   /* no length reaches beyond it */
    uint32_t size = ld32_rlx(&at_payload->size);
    d->data = payload_of(ctx, of);
    d->size = size;
    d->meta = d->extra = NULL;
    d->meta_size = d->extra_size = 0;
    if (size > room) return SHMQ_E_CORRUPT;
    if (fate_meta(f)) {
        uint64_t at = ((uint64_t)size + 7) & ~UINT64_C(7);
        uint32_t n;
        if (at + 4 > room) return SHMQ_E_CORRUPT;
        memcpy(&n, d->data + at, 4);
        if (at + 4 + n > room) return SHMQ_E_CORRUPT;
        d->meta = d->data + at + 4;
        d->meta_size = n;
    }
    d->idx = idx;
    d->queue = fate_home(f);
    d->attempt = fate_attempts(f) + 1;
    d->priority = fate_prio(f);
    d->reason = fate_reason(f);
    d->origin = fate_origin(f);
    d->died_attempts = fate_died(f);
    d->redelivered = fate_again(f);
    d->id = ld_rlx(&b->id);
    d->published_ns = ld_rlx(&b->published_ns);
    d->expires_ns = ld_rlx(&b->expires_ns);
    d->died_ns = 0;
    if (d->reason) {
        d->died_ns = d->expires_ns ? d->expires_ns : ld_rlx(&b->due_ns);   /* 0: its killer died at it */
        d->expires_ns = 0;
    }
    if (ld32_rlx(&b->extra) >> 8) {
        uint32_t e = extra_of(ctx, idx);
        uint32_t n = e != NOBODY ? ld32_rlx(&block_at(ctx, e)->size) : UINT32_MAX;
        if (e != NOBODY && n <= payload_room(ctx, e)) {
            d->extra = payload_of(ctx, e);
            d->extra_size = n;
        }
    }
    return SHMQ_OK;
}

static void unheld(shmq_ctx *ctx, uint32_t entry, uint32_t idx) {
    st_sc(&ctx->held[entry].word, 0);
    owner_held_put(ctx, entry);
    free_limbo(ctx, idx);
}

/* What comes next, and from where; without taking it. */
HOT static int take_next(shmq_ctx *ctx, local_queue *q, local_ring **from, ring_item *item) {
    uint32_t lanes = queue_lanes(ctx, q);
    if (RARE(lanes)) return lanes & SHMQ_LANES_ORDERED ? order_find(ctx, q, from, item) : level_find(ctx, q, lanes, from, item);
    if (!queue_has_again(q) || ring_unmoved(&q->again) || ring_find(ctx, *from = &q->again, item) != SHMQ_OK)
        return ring_find(ctx, *from = &q->work, item);
    level_oldest_again(ctx, q, -1, item);
    return SHMQ_OK;
}

HOT int take_some(shmq_ctx *ctx, local_queue *q, uint32_t index, uint32_t max, uint32_t flags, shmq_delivery *out, uint32_t *freed) {
    uint32_t n = 0, entry = 0;
    uint64_t now = 0, deadline = 0;
    int rc = SHMQ_EMPTY;
    for (uint64_t tries = 0; n < max && tries < (uint64_t)max + 1000000; tries++) {
        ring_item item;
        local_ring *r;
        rc = take_next(ctx, q, &r, &item);
        if (rc != SHMQ_OK) break;
        uint64_t own = ctl_next(item.ctl, SHMQ_OWNED, ctx->self);
        int leased = !(flags & SHMQ_TAKE_FREE);
        if (leased) {
            rc = owner_held_get(ctx, &entry);
            if (rc != SHMQ_OK) break;
            if (q->options.ack_timeout_ns && !(flags & SHMQ_TAKE_AHEAD)) {
                if (now == 0) now = clock_now(ctx);
                deadline = later(now, q->options.ack_timeout_ns);
            }
            if (deadline || ld_rlx(&ctx->held[entry].deadline)) st_rlx(&ctx->held[entry].deadline, deadline);
            /* HELD */
            if (!MUTANT(8))
                st_rel(&ctx->held[entry].word, held_make(flags & SHMQ_TAKE_AHEAD ? 0 : SHMQ_HELD_STARTED, ctl_gen(own), item.idx));
            CRASH_POINT("held");
        }
        if (!cas(&block_at(ctx, item.idx)->ctl, item.ctl, own)) {   /* I1 */
            if (leased) unheld(ctx, entry, item.idx);
            continue;
        }
        ring_taken(r, &item);   /* R1 */
        ++*freed;
        shmq_delivery *d = &out[n];
        shmq_block *b = block_at(ctx, item.idx);
        rc = describe(ctx, item.idx, own, d);
        queue_bytes_out(q, d->size);
        d->ctl = own;
        d->held = leased ? entry + 1 : 0;
        if (rc != SHMQ_OK || d->queue != index) {   /* no history can produce that */
            if (leased) unheld(ctx, entry, item.idx);
            free_quarantine(ctx, item.idx, own);
            continue;
        }
        if (d->expires_ns) {
            if (now == 0) now = clock_now(ctx);
            if (d->expires_ns <= now) {
                if (leased) unheld(ctx, entry, item.idx);
                uint64_t m = ctl_next(own, SHMQ_MOVE, ctx->self);
                if (cas(&b->ctl, own, m)) route_dead(ctx, item.idx, m, SHMQ_R_EXPIRED);
                settle_left(q);   /* it may have been the last of a closed queue */
                continue;
            }
        }
        n++;
        if (flags & SHMQ_TAKE_AHEAD) continue;   /* delivered when it is handed out: shmq_start */
        uint64_t nth = ld_rlx(&q->counters->delivered);
        st_rlx(&q->counters->delivered, nth + 1);
        if ((nth & (SAMPLE_EVERY - 1)) == q->sampled) figures_taken(ctx, q, d);
        bump(&q->counters->delivered_bytes, d->size);
        if (d->redelivered) bump(&q->counters->redelivered, 1);
    }
    return n ? (int)n : rc == SHMQ_OK ? SHMQ_EMPTY : rc;
}

HOT int take_none_left(shmq_ctx *ctx, local_queue *q) {
    uint32_t lanes = queue_lanes(ctx, q);
    if (lanes & SHMQ_LANES_ORDERED) return order_none_left(ctx, q);
    if (!ring_unmoved(&q->work) && !ring_seems_empty(&q->work)) return 0;
    if (lanes && !level_none_left(q, lanes)) return 0;
    return !queue_has_again(q) || ring_unmoved(&q->again) || ring_seems_empty(&q->again);
}

/* Producers sleep: is it time to wake one? In lots, since a wake-up costs more than a message; at once when this consumer is
 * slow, has emptied the queue, or is about to sleep or leave. Returns the word to wake on, after the lock is released. */
shmq_au32 *take_space(shmq_ctx *ctx, local_queue *q, uint32_t freed, int leaving) {
    if (!waiter_present(&q->shared->space)) {
        q->space_owed = 0;
        return NULL;
    }
    q->space_owed += freed;
    if (q->space_owed == 0) return NULL;
    uint64_t now = clock_now(ctx), before = q->taken_ns;
    q->taken_ns = now;
    if (!leaving && q->space_owed < q->lot && now - before < 20000 && !take_none_left(ctx, q)) return NULL;
    q->space_owed = 0;
    return &q->shared->space;
}

HOT int shmq_take(shmq_ctx *ctx, uint64_t qref, uint32_t max, uint32_t flags, shmq_delivery *out) {
    local_queue *q;
    shmq_au32 *space = NULL, *evt = NULL;
    uint32_t freed = 0;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin_at(ctx, qref_index(qref));
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK) {
        if ((flags & SHMQ_TAKE_AHEAD) && !mark_rlx(&q->shared->ahead)) mark_rel(&q->shared->ahead, 1);
        int status = queue_status(q);
        rc = status == SHMQ_GONE ? SHMQ_GONE : take_some(ctx, q, qref_index(qref), max, flags, out, &freed);
        uint32_t told = 0;   /* so much of `freed` has been offered to those that wait */
        /* PARKED: after the slots were cleared */
        for (int rounds = 0; rounds < ROUNDS && park_some(q) && status != SHMQ_GONE && (freed != told || rc == SHMQ_EMPTY); rounds++) {
            uint32_t made = freed - told, sent;
            told = freed;
            sent = rc == SHMQ_EMPTY ? route_parked(ctx, q, UINT32_MAX) : unpark_share(ctx, q, made);
            if (!sent || rc != SHMQ_EMPTY) break;
            rc = take_some(ctx, q, qref_index(qref), max, flags, out, &freed);   /* it has made room as well: once more */
            if (MUTANT(97)) break;
        }
        if (freed) space = take_space(ctx, q, freed, 0);   /* expired ones make room too */
        if (rc > 0) {
            if (flags & SHMQ_TAKE_FREE) ctx->bare += (uint32_t)rc;
            /* more work: wake one more */
            if (waiter_present(&q->shared->evt) && ((flags & SHMQ_TAKE_AHEAD) || !take_none_left(ctx, q))) evt = &q->shared->evt;
        } else if (rc == SHMQ_EMPTY && status == SHMQ_CLOSED && census_drained(ctx, qref_index(qref))) rc = SHMQ_CLOSED;
    }
    op_end(ctx);
    ctx_unlock(ctx);
    if (space) waiter_wake(space);
    if (evt) waiter_wake(evt);
    return rc;
}

/* Take one message that is ready out and end it, whoever its lane waits for: redelivered ones, then new ones. 1 = it was dropped,
 * 0 = it had expired. */
static int purge_one(shmq_ctx *ctx, local_queue *q, uint64_t now) {
    ring_item item;
    uint32_t lanes = queue_lanes(ctx, q) & ~SHMQ_LANES_ORDERED;
    for (unsigned level = 0; level <= SHMQ_LEVELS; level++) {   /* level 0 stands for what came back */
        local_ring *r = level ? level_ring(q, level - 1) : &q->again;
        if (level == 0 ? !queue_has_again(q) : level > 1 && !(lanes & 1u << (level - 1))) continue;
        while (ring_find(ctx, r, &item) == SHMQ_OK) {   /* bounded by others' progress: the CAS fails when somebody took it */
            shmq_block *b = block_at(ctx, item.idx);
            uint64_t own = ctl_next(item.ctl, SHMQ_OWNED, ctx->self);
            if (!cas(&b->ctl, item.ctl, own)) continue;
            ring_taken(r, &item);
            queue_bytes_out(q, size_at(ctx, b));
            uint64_t expires = expires_of(b), move = ctl_next(own, SHMQ_MOVE, ctx->self);
            if (expires && expires <= now) {
                if (cas(&b->ctl, own, move)) route_dead(ctx, item.idx, move, SHMQ_R_EXPIRED);
                return 0;
            }
            bump(&q->counters->dropped, 1);
            free_whole(ctx, item.idx, own);
            order_over(q);
            return 1;
        }
    }
    return SHMQ_EMPTY;
}

/* Free all that is ready now, and what waits for room. */
int64_t shmq_purge(shmq_ctx *ctx, uint64_t qref) {
    local_queue *q = NULL;
    uint32_t freed = 0;
    int64_t n = 0;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK && queue_status(q) == SHMQ_GONE) rc = SHMQ_GONE;
    uint64_t left = rc == SHMQ_OK ? level_depth(ctx, q) : 0, now = clock_now(ctx);
    if (rc == SHMQ_OK && queue_has_again(q)) left += ring_depth(&q->again);
    if (rc == SHMQ_OK) n = unpark_purge(ctx, q, now);
    op_end(ctx);
    while (rc >= 0 && left--) {
        op_begin(ctx);
        rc = queue_status(q) == SHMQ_GONE ? SHMQ_GONE : purge_one(ctx, q, now);
        if (rc >= 0) {
            n += rc;
            freed++;
        }
        op_end(ctx);
    }
    if (freed && rc != SHMQ_GONE) {   /* some may have begun to wait meanwhile */
        op_begin(ctx);
        if (queue_status(q) != SHMQ_GONE || MUTANT(108)) route_parked(ctx, q, UINT32_MAX);   /* deleted since the operation before */
        op_end(ctx);
    }
    shmq_au32 *space = freed && q ? &q->shared->space : NULL, *evt = space && ld_rlx(&q->shared->word) != q->live ? &q->shared->evt : NULL;
    ctx_unlock(ctx);
    if (space) waiter_announce(space);
    if (evt) waiter_announce(evt);   /* a closed queue may be drained now */
    return n || rc == SHMQ_EMPTY || rc >= 0 ? n : rc;
}

/* Where a look stands: stage:5 | position. Level by level from the top, the redelivered ones first: 2n is what came back of
 * level 9 - n, 2n + 1 is its ring. Where one level is in use, what came back is all of level 0. */
#define PEEK_SHIFT 59
static local_ring *peek_stage(local_queue *q, uint32_t lanes, unsigned stage) {
    unsigned level = SHMQ_LEVELS - 1 - stage / 2;
    if (level && (lanes == 0 || (lanes & SHMQ_LANES_ORDERED))) return NULL;
    if (stage & 1) return level && !(lanes & 1u << level) ? NULL : level_ring(q, level);
    return queue_has_again(q) ? &q->again : NULL;
}

/* Look at the next ready message from *cursor on (0 = the first). The block is kept by a VIEW entry until shmq_view_end.
 * In the order in which they would be taken, aging and lanes of keys apart. EMPTY at the end. */
int shmq_peek(shmq_ctx *ctx, uint64_t qref, uint64_t *cursor, shmq_delivery *out) {
    local_queue *q;
    uint32_t entry;
    const uint64_t POSITION = (UINT64_C(1) << PEEK_SHIFT) - 1;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK && queue_status(q) == SHMQ_GONE) rc = SHMQ_GONE;
    if (rc == SHMQ_OK) rc = owner_held_get(ctx, &entry);
    if (rc != SHMQ_OK) {
        op_end(ctx);
        ctx_unlock(ctx);
        return rc;
    }
    rc = SHMQ_EMPTY;
    uint32_t lanes = queue_lanes(ctx, q);
    for (uint64_t tries = 0; tries < 4 * (SHMQ_LEVELS * (q->work.mask + q->again.mask + 2)); tries++) {
        unsigned stage = (unsigned)(*cursor >> PEEK_SHIFT);
        if (stage >= 2 * SHMQ_LEVELS) break;
        local_ring *r = peek_stage(q, lanes, stage);
        uint64_t p = *cursor & POSITION, here = *cursor & ~POSITION;
        if (r) ring_depth(r);   /* brings head and tail up */
        if (r && p < r->head) p = r->head;
        if (r == NULL || p >= r->tail) {
            *cursor = (uint64_t)(stage + 1) << PEEK_SHIFT;
            continue;
        }
        *cursor = here | (p + 1);
        uint64_t s = ld_acq(&r->slots[p & r->mask]);
        if (round_diff(slot_round(s), p >> r->lg) != 0 || slot_is_empty(s) || !block_known(ctx, slot_idx(s))) continue;
        uint32_t idx = slot_idx(s);
        shmq_block *b = block_at(ctx, idx);
        uint64_t c = ld_acq(&b->ctl);
        if (ld_acq(&r->slots[p & r->mask]) != s || ctl_state(c) != SHMQ_READY) continue;
        if (!(stage & 1) && lanes && level_of(q, fate_prio(ld_rlx(&b->fate))) != SHMQ_LEVELS - 1 - stage / 2) continue;
        st_sc(&ctx->held[entry].word, held_make(SHMQ_HELD_VIEW, ctl_gen(c), idx));
        if (!cas(&b->ctl, c, c | (uint64_t)SHMQ_FLAG_VIEWED << 56)) {   /* taken, or flagged by another look: again */
            st_sc(&ctx->held[entry].word, 0);
            free_limbo(ctx, idx);
            *cursor = here | p;
            continue;
        }
        if (describe(ctx, idx, c, out) != SHMQ_OK) {
            st_sc(&ctx->held[entry].word, 0);
            free_limbo(ctx, idx);
            continue;
        }
        out->ctl = c;
        out->held = entry + 1;
        op_end(ctx);
        ctx_unlock(ctx);
        return SHMQ_OK;
    }
    owner_held_put(ctx, entry);
    op_end(ctx);
    ctx_unlock(ctx);
    return rc;
}
