/* settle.c: the end of a delivery.
 *
 *   ack      OWNED(me) --> FREE (LIMBO while a view may be alive)
 *   nack     OWNED(me) --> MOVE(me) --> in the redelivery ring: READY | due later: DELAYED | too often: dead-letter queue      (route.c)
 *   reject   OWNED(me) --> MOVE(me) --> dead-letter queue, or FREE when there is none
 *
 * I1  The lease is the exact ctl word: one CAS ends it, and fails when it has moved on (STALE).
 * I2  The held entry is cleared before the CAS that ends the lease; so no stale entry can keep a later life of the block in
 *     LIMBO. A holder whose CAS fails looks whether the block became LIMBO meanwhile, and re-examines it.
 *
 * Who dies where: after OWNED -> MOVE: recovery routes it (redelivery; the ack or reject had not returned). Afterwards: route.c.
 */
#include "settle.h"
#include "clock.h"
#include "figures.h"
#include "free.h"
#include "order.h"
#include "owner.h"
#include "queue.h"
#include "ring.h"
#include "route.h"
#include "waiter.h"

HOT int settle_holds(shmq_ctx *ctx, const shmq_delivery *d) {
    if (!block_known(ctx, d->idx) || ctl_state(d->ctl) != SHMQ_OWNED || ctl_owner(d->ctl) != ctx->self) return 0;
    if (d->held == 0) return 1;
    if (d->held > SHMQ_HELD || d->held > ctx->held_fresh) return 0;
    uint64_t e = ld_rlx(&ctx->held[d->held - 1].word);
    return e && held_idx(e) == d->idx && held_names(e, d->ctl);
}

/* I2. Call before the CAS that ends the lease. */
HOT static void let_go(shmq_ctx *ctx, shmq_delivery *d) {
    if (d->held == 0) return;
    st_rel(&ctx->held[d->held - 1].word, 0);
    st_rlx(&ctx->held[d->held - 1].deadline, 0);
    owner_held_put(ctx, d->held - 1);
    d->held = 0;
}

static int stale(shmq_ctx *ctx, shmq_delivery *d, uint32_t held) {   /* held: what d->held was */
    /* HELD: cleared before the look at ctl, in the one order of all seq_cst accesses; a failed CAS alone orders nothing */
    if (held) st_sc(&ctx->held[held - 1].word, 0);
    free_limbo(ctx, d->idx);
    d->ctl = 0;
    return SHMQ_STALE;
}

HOT void settle_left(local_queue *q) {   /* the last settled message of a closed queue ends its consumers' loops */
    /* maybe the last one */
    if ((q->options.flags & SHMQ_JOINED) && waiter_present(&q->shared->space) && ring_seems_empty(&q->work))
        waiter_wake_all(&q->shared->space);
    if (ld_rlx(&q->shared->word) != q->live) waiter_announce(&q->shared->evt);
    else if (!MUTANT(36)) order_over(q);
}

/* For who settles a delivery in a way of its own: OWNED -> MOVE(me), which ends the lease. */
int settle_leave(shmq_ctx *ctx, shmq_delivery *d, uint64_t *move) {
    uint32_t held = d->held;
    *move = ctl_next(d->ctl, SHMQ_MOVE, ctx->self);
    let_go(ctx, d);
    if (!cas(&block_at(ctx, d->idx)->ctl, d->ctl, *move)) return stale(ctx, d, held);
    if (held == 0 && ctx->bare) ctx->bare--;
    d->ctl = 0;
    return SHMQ_OK;
}

HOT int shmq_ack(shmq_ctx *ctx, shmq_delivery *d, uint32_t n) {
    int rc = ctx_enter(ctx), done = 0;
    if (rc != SHMQ_OK) return rc;
    op_begin_at(ctx, n == 1 ? d->queue % SHMQ_QUEUES : OP_ANY);
    for (uint32_t i = 0; i < n; i++, d++) {
        if (!settle_holds(ctx, d)) {
            d->ctl = 0;
            continue;
        }
        uint32_t leased = d->held;
        let_go(ctx, d);
        if (!leased && ctx->bare) ctx->bare--;
        if (!free_whole(ctx, d->idx, d->ctl)) {
            stale(ctx, d, leased);
            continue;
        }
        done++;
        local_queue *q = &ctx->local[d->queue % SHMQ_QUEUES];
        if (q->live && leased && figures_timed(ctx, leased)) figures_acked(ctx, q, leased, d->idx, d->ctl);
        d->ctl = 0;
        if (RARE(q->lanes & SHMQ_LANES_ORDERED) && q->live && queue_status(q) != SHMQ_GONE) order_settled(q, d);
        if (!q->live) continue;
        if (leased) bump(&q->counters->acked, 1);
        settle_left(q);
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return n == 1 && done == 0 ? SHMQ_STALE : done;
}

static uint64_t backoff(shmq_ctx *ctx, local_queue *q, unsigned attempts) {
    uint64_t ns = q->options.backoff_ns, most = q->options.backoff_max_ns;
    for (unsigned i = 1; i < attempts && ns < UINT64_MAX / 4 && (most == 0 || ns < most); i++) ns *= 2;
    if (most && ns > most) ns = most;
    if (q->options.jitter_ppm && ns) {   /* xorshift64*: spread retries, nothing more */
        ctx->random ^= ctx->random >> 12;
        ctx->random ^= ctx->random << 25;
        ctx->random ^= ctx->random >> 27;
        uint64_t r = (ctx->random * UINT64_C(2685821657736338717)) >> 40;
        uint64_t span = ns / 1000000 * (q->options.jitter_ppm > 2000000 ? 2000000 : q->options.jitter_ppm);
        ns = ns - span / 2 + (span >> 24) * r + (((span & 0xffffff) * r) >> 24);
    }
    return ns;
}

enum verdict { NACK, REJECT, RELEASE };

static int settle(shmq_ctx *ctx, shmq_delivery *d, enum verdict v, uint64_t delay_ns, const void *extra, uint32_t extra_size) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin_at(ctx, d->queue % SHMQ_QUEUES);
    rc = SHMQ_STALE;
    if (settle_holds(ctx, d)) {
        shmq_block *b = block_at(ctx, d->idx);
        uint64_t m = ctl_next(d->ctl, SHMQ_MOVE, ctx->self);
        int attempted = v == NACK || (d->held && (held_flags(ld_rlx(&ctx->held[d->held - 1].word)) & SHMQ_HELD_STARTED));
        uint32_t held = d->held;
        if (held == 0 && ctx->bare) ctx->bare--;
        let_go(ctx, d);
        if (!cas(&b->ctl, d->ctl, m)) stale(ctx, d, held);   /* COMMIT give-back */
        else {
            CRASH_POINT("settling");
            local_queue none = { .counters = &ctx->spare, .shared = NULL }, *q = &none;   /* a deleted queue: route frees it */
            if (queue_open_local(ctx, d->queue, &q) != SHMQ_OK) q = &none;
            d->ctl = 0;
            rc = SHMQ_OK;
            extra_attach(ctx, d->idx, extra, extra_size);
            if (v == REJECT) {
                bump(&q->counters->rejected, 1);
                uint64_t f = ld_rlx(&b->fate);
                if (fate_attempts(f) < SHMQ_ATTEMPTS_MAX) st_rlx(&b->fate, f + FATE_ATTEMPT);
                rc = route_dead(ctx, d->idx, m, SHMQ_R_REJECTED);
            } else {
                bump(v == NACK ? &q->counters->nacked : &q->counters->returned, 1);
                route_again(ctx, d->idx, attempted);
                unsigned attempts = fate_attempts(ld_rlx(&b->fate));
                if (v == NACK && delay_ns == SHMQ_DELAY_DEFAULT) delay_ns = backoff(ctx, q, attempts);
                st_rlx(&b->due_ns, v == NACK && delay_ns ? later(clock_now(ctx), delay_ns) : 0);
                rc = q != &none && route_spent(q, ld_rlx(&b->fate)) ? route_dead(ctx, d->idx, m, SHMQ_R_RETRIES) : route_on(ctx, d->idx, m);
            }
            if (q != &none) settle_left(q);
        }
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return rc;
}

int shmq_nack(shmq_ctx *ctx, shmq_delivery *d, uint64_t delay_ns, const void *extra, uint32_t extra_size) {
    return settle(ctx, d, NACK, delay_ns, extra, extra_size);
}
int shmq_reject(shmq_ctx *ctx, shmq_delivery *d, const void *extra, uint32_t extra_size) {
    return settle(ctx, d, REJECT, 0, extra, extra_size);
}
int shmq_release(shmq_ctx *ctx, shmq_delivery *d) { return settle(ctx, d, RELEASE, 0, NULL, 0); }

/* A longer lease is a new lease: deadline, then held gen+1, then ctl gen+1. An expiry in between wins or loses whole. */
int shmq_touch(shmq_ctx *ctx, shmq_delivery *d, uint64_t extend_ns) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = SHMQ_STALE;
    if (settle_holds(ctx, d) && d->held) {
        shmq_held *h = &ctx->held[d->held - 1];
        uint64_t next = ctl_next(d->ctl, SHMQ_OWNED, ctx->self), e = ld_rlx(&h->word);
        int timed = ctx->local[d->queue % SHMQ_QUEUES].options.ack_timeout_ns != 0;   /* others end with their holder only */
        st_rel(&h->deadline, timed && extend_ns ? later(clock_now(ctx), extend_ns) : 0);
        st_rel(&h->word, held_make(held_flags(e), ctl_gen(next), d->idx));
        CRASH_POINT("touched");
        if (cas(&block_at(ctx, d->idx)->ctl, d->ctl, next)) {
            if (figures_timed(ctx, d->held)) figures_moved(ctx, d->held, d->idx, d->ctl, next);
            d->ctl = next;
            rc = SHMQ_OK;
        } else {
            uint32_t held = d->held;
            let_go(ctx, d);
            stale(ctx, d, held);
        }
    }
    ctx_unlock(ctx);
    return rc;
}

/* Hand out a delivery that was read ahead. STALE when it was given to another consumer meanwhile, or has expired. */
HOT int shmq_start(shmq_ctx *ctx, shmq_delivery *d) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = SHMQ_STALE;
    if (settle_holds(ctx, d) && d->held) {
        shmq_held *h = &ctx->held[d->held - 1];
        uint64_t timeout = ctx->local[d->queue % SHMQ_QUEUES].options.ack_timeout_ns;
        uint64_t next = ctl_next(d->ctl, SHMQ_OWNED, ctx->self);
        if (d->expires_ns && d->expires_ns <= clock_now(ctx)) {   /* nobody was given it: it expired in its queue, so to say */
            uint64_t m = ctl_next(d->ctl, SHMQ_MOVE, ctx->self);
            uint32_t held = d->held, idx = d->idx;
            local_queue *q = &ctx->local[d->queue % SHMQ_QUEUES];
            op_begin(ctx);   /* into the ring of another queue */
            let_go(ctx, d);
            if (cas(&block_at(ctx, idx)->ctl, d->ctl, m)) {
                d->ctl = 0;
                route_dead(ctx, idx, m, SHMQ_R_EXPIRED);
                if (q->live) settle_left(q);
            } else stale(ctx, d, held);
            op_end(ctx);
            ctx_unlock(ctx);
            return SHMQ_STALE;
        }
        st_rel(&h->deadline, timeout ? later(clock_now(ctx), timeout) : 0);
        st_rel(&h->word, held_make(SHMQ_HELD_STARTED, ctl_gen(next), d->idx));
        if (cas(&block_at(ctx, d->idx)->ctl, d->ctl, next)) {
            d->ctl = next;
            rc = SHMQ_OK;
            local_queue *q = &ctx->local[d->queue % SHMQ_QUEUES];
            if (q->live) {
                if ((ctx->started++ & (SAMPLE_EVERY - 1)) == q->sampled) figures_taken(ctx, q, d);
                bump(&q->counters->delivered, 1);
                bump(&q->counters->delivered_bytes, d->size);
                if (d->redelivered) bump(&q->counters->redelivered, 1);
            }
        } else {
            uint32_t held = d->held;
            let_go(ctx, d);
            stale(ctx, d, held);
        }
    }
    ctx_unlock(ctx);
    return rc;
}

/* Ack while a view of the payload lives on: the entry stays and names the block, which waits in LIMBO. */
int shmq_settle_viewed(shmq_ctx *ctx, shmq_delivery *d) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = SHMQ_STALE;
    op_begin_at(ctx, d->queue % SHMQ_QUEUES);   /* the message keeps its queue's record, the operation does when it has gone */
    if (settle_holds(ctx, d) && d->held) {
        shmq_block *b = block_at(ctx, d->idx);
        uint64_t m = ctl_next(d->ctl, SHMQ_MOVE, ctx->self) | (uint64_t)SHMQ_FLAG_VIEWED << 56;
        st_sc(&ctx->held[d->held - 1].word, held_make(SHMQ_HELD_VIEW, ctl_gen(d->ctl), d->idx));
        if (cas(&b->ctl, d->ctl, m)) {   /* COMMIT ack */
            free_whole(ctx, d->idx, m);
            local_queue *q = &ctx->local[d->queue % SHMQ_QUEUES];
            if (q->live && figures_timed(ctx, d->held)) figures_acked(ctx, q, d->held, d->idx, d->ctl);
            if (q->live) {
                bump(&q->counters->acked, 1);
                settle_left(q);
            }
            rc = SHMQ_OK;
        }   /* stale: the entry stays too, the view still reads the block */
        d->ctl = 0;
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return rc;
}

/* Before a delivery with living views is settled otherwise (nack, reject, release): a second entry keeps the block for them.
 * Returns its number + 1, to be ended by shmq_view_end. */
int shmq_view_keep(shmq_ctx *ctx, shmq_delivery *d) {
    uint32_t entry;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = settle_holds(ctx, d) && d->held ? owner_held_get(ctx, &entry) : SHMQ_STALE;
    if (rc == SHMQ_OK) {
        uint64_t flagged = d->ctl | (uint64_t)SHMQ_FLAG_VIEWED << 56;
        st_sc(&ctx->held[entry].word, held_make(SHMQ_HELD_VIEW, ctl_gen(d->ctl), d->idx));
        if (cas(&block_at(ctx, d->idx)->ctl, d->ctl, flagged)) {
            if (figures_timed(ctx, d->held)) figures_moved(ctx, d->held, d->idx, d->ctl, flagged);
            d->ctl = flagged;
            rc = (int)entry + 1;
        } else {   /* the lease is over: its own entry, in place, goes on as the view's; a scan may be past the new one already */
            st_sc(&ctx->held[d->held - 1].word, held_make(SHMQ_HELD_VIEW, ctl_gen(d->ctl), d->idx));
            st_sc(&ctx->held[entry].word, 0);
            owner_held_put(ctx, entry);
            rc = (int)d->held;
            d->ctl = 0;
            d->held = 0;
        }
    }
    ctx_unlock(ctx);
    return rc;
}

/* The last view of an entry has died. */
int shmq_view_end(shmq_ctx *ctx, uint32_t held, uint32_t idx) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = SHMQ_STALE;
    if (held >= 1 && held <= ctx->held_fresh) {
        uint64_t e = ld_rlx(&ctx->held[held - 1].word);
        if (e && held_idx(e) == idx && (held_flags(e) & SHMQ_HELD_VIEW)) {
            st_sc(&ctx->held[held - 1].word, 0);   /* HELD: cleared before the look at ctl */
            owner_held_put(ctx, held - 1);
            free_limbo(ctx, idx);
            rc = SHMQ_OK;
        }
    }
    ctx_unlock(ctx);
    return rc;
}
