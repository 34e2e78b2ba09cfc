/* settle.c: the end of a delivery.
 *
 *   ack      OWNED(me) --> FREE (LIMBO while a view may be alive)
 *   nack     OWNED(me) --> MOVE(me) --> in the redelivery ring: READY | due later: DELAYED | too often: dead-letter queue
 *   reject   OWNED(me) --> MOVE(me) --> dead-letter queue, or FREE when there is none
 *   x-error  parent.extra -> block E in ATTACHED, E.due_ns = parent: believed only when both sides say so
 *
 * I1  The lease is the exact ctl word: one CAS ends it, and fails when it has moved on (STALE).
 * I2  The held entry is cleared before the CAS that ends the lease; so no stale entry can keep a later life of the block in
 *     LIMBO. A holder whose CAS fails looks whether the block became LIMBO meanwhile, and re-examines it.
 * I3  Only the owner of MOVE writes fate, due_ns, expires_ns, extra. fate is one word: attempts, home and reason change together.
 * I4  A MOVE that loses its owner is routed again from fate and due_ns alone, without counting another attempt.
 * I5  An attached block is freed before its parent leaves MOVE, and becomes ATTACHED only after parent.extra names it.
 *
 * Who dies where: after OWNED -> MOVE: recovery routes it (redelivery; the ack or reject had not returned). After fate, before
 * the slot CAS: routed to the new home. After the slot CAS: recovery makes it READY. DELAYED without its timer hint: recovery
 * and every new sidecar scan for DELAYED. E still NEW: freed; E ATTACHED and parent dead in MOVE: kept with the parent.
 */
#include "settle.h"
#include "clock.h"
#include "dedup.h"
#include "figures.h"
#include "free.h"
#include "hints.h"
#include "ids.h"
#include "level.h"
#include "order.h"
#include "owner.h"
#include "park.h"
#include "queue.h"
#include "ring.h"
#include "room.h"
#include "waiter.h"

/* Has it been tried too often? A dead letter stays where it is, unless its queue has a dead-letter queue of its own. */
static int spent(local_queue *q, uint64_t fate) {
    return fate_attempts(fate) > q->options.max_retries && (fate_reason(fate) == 0 || q->options.dead_letter != SHMQ_NO_QUEUE);
}

/* The queue where fate says that idx is at home. *q = NULL: there is none, and the block, which the caller owned, is over. */
static int home_of(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, uint64_t fate, local_queue **q) {
    int rc = queue_open_local(ctx, fate_home(fate), q);
    if (rc == SHMQ_OK && queue_status(*q) != SHMQ_GONE) return SHMQ_OK;
    *q = NULL;
    if (rc != SHMQ_OK && rc != SHMQ_E_NOTFOUND) { free_quarantine(ctx, idx, ctl); return rc; }   /* never lost for a reason of ours */
    free_whole(ctx, idx, ctl);   /* ends with its queue */
    return SHMQ_OK;
}

/* Let a dead letter go to its queue, or free it where there is none. The caller owns idx in MOVE. */
int settle_kill(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, unsigned reason) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t f = ld_rlx(&b->fate), plain = ctl & ~PARKED_CTL;
    if (plain != ctl && !cas(&b->ctl, ctl, plain)) return SHMQ_OK;   /* the first of its old queue's, not of where it goes */
    ctl = plain;
    local_queue *q;
    int rc = home_of(ctx, idx, ctl, f, &q);
    if (q == NULL) return rc;
    if (reason == SHMQ_R_EXPIRED) bump(&q->counters->expired, 1);
    local_queue *dead = reason == SHMQ_R_EXPIRED && q->options.expired ? NULL : queue_dead(ctx, q);
    if (dead == NULL) {
        bump(&q->counters->dropped, 1);
        free_whole(ctx, idx, ctl);
        order_over(q);
        return SHMQ_OK;
    }
    bump(&q->counters->dead_lettered, 1);
    if (MUTANT(57)) st_rlx(&b->expires_ns, 0);   /* before fate: whoever routes it anew would not know that it has expired */
    st_rlx(&b->due_ns, clock_now(ctx));
    st_rel(&b->fate, fate_make(queue_index(ctx, dead), fate_home(f), 0, fate_attempts(f), reason, 0, fate_prio(f), fate_meta(f)));   /* I3 */
    CRASH_POINT("fate");
    st_rlx(&b->expires_ns, ld_rlx(&b->due_ns));   /* the time of its death, which a backoff in its new queue leaves alone; after fate */
    order_over(q);
    return settle_route(ctx, idx, ctl);
}

static int delay(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    uint64_t expires = expires_of(block_at(ctx, idx));
    if (cas(&block_at(ctx, idx)->ctl, ctl, ctl_to(ctl, SHMQ_DELAYED, 0))) {
        CRASH_POINT("delayed");
        hints_delayed(ctx, idx);
        hints_expiry(ctx, expires);
    }
    return SHMQ_OK;
}

/* FRESH: room was found before the commit; that others were quicker must not put it behind its producer's next one. Not so what
 * was delayed, or is dead: none was looked for. */
static int fresh(shmq_block *b, uint64_t ctl) { return (ctl_flags(ctl) & SHMQ_FLAG_FRESH) && !ld_rlx(&b->due_ns) && !MUTANT(55); }

/* Would a full queue refuse such a message, not let it wait? A dead letter that is refused has nowhere else to go. */
static int refuses(local_queue *q, uint64_t fate) { return q->options.overflow == SHMQ_REJECT && fate_reason(fate); }

static int refuse(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl) {
    bump(&q->counters->dropped, 1);
    free_whole(ctx, idx, ctl);
    order_over(q);
    return SHMQ_OK;
}

/* Into a ring of its home for new messages, if there is room or some can be made. FULL: there is none. */
static int enter_new(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t size) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t f = ld_rlx(&b->fate);
    local_ring *r;
    int free_way = fresh(b, ctl) || fate_again(f);   /* to the places beyond max_depth */
    if (level_open(ctx, q, fate_prio(f), &r) != SHMQ_OK) r = &q->work;   /* no memory for its level: the lowest has some */
    for (int tries = 0; tries < 64; tries++) {
        if (free_way || !room_full(ctx, q, size, fate_prio(f), 0)) {
            queue_bytes_in(q, size);
            int rc = ring_enqueue(ctx, r, idx, ctl, free_way ? r->mask + 1 : q->most);
            if (rc != SHMQ_OK) queue_bytes_out(q, size);
            if (rc != SHMQ_FULL || free_way) return rc;
        }
        if (q->options.overflow != SHMQ_DROP_OLDEST || room_make(ctx, q) != SHMQ_OK) break;
    }
    return refuses(q, f) ? refuse(ctx, q, idx, ctl) : SHMQ_FULL;
}

/* Into the ring that fate says, of the queue where it is at home. OK: it is there, or over. FULL: there is no room. */
int settle_enter(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t size = size_at(ctx, b), expires = expires_of(b);   /* before it is visible: then it is others' */
    int rc = SHMQ_FULL;
    if (fate_again(ld_rlx(&b->fate)) && queue_again_ready(ctx, q) == SHMQ_OK) {
        queue_bytes_in(q, size);
        rc = ring_enqueue(ctx, &q->again, idx, ctl, q->again.mask + 1);
        if (rc != SHMQ_OK) queue_bytes_out(q, size);
    }
    if (rc == SHMQ_FULL || rc == SHMQ_E_NOMEM) rc = enter_new(ctx, q, idx, ctl, size);
    if (rc == SHMQ_E_NOMEM) rc = SHMQ_FULL;   /* no memory for more of its ring: that is room as well */
    if (rc == SHMQ_OK) {
        waiter_wake(&q->shared->evt);
        hints_expiry(ctx, expires);
    } else if (rc != SHMQ_FULL) free_quarantine(ctx, idx, ctl);
    return rc;
}

/* Send a block that the caller owns in MOVE where fate and due_ns say. Nothing is ever dropped for want of room. */
int settle_route(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t f = ld_rlx(&b->fate);
    local_queue *q;
    int rc = home_of(ctx, idx, ctl, f, &q);
    if (q == NULL) return rc;
    if ((f & FATE_DEDUP) && !MUTANT(22)) {   /* committed, and its publisher could not say whether it is the first */
        uint64_t first;
        rc = dedup_settle(ctx, q, idx, ctl, &first);
        if (rc == ID_DUPLICATE) return SHMQ_OK;
        if (rc != ID_FIRST) {   /* the table is full: later */
            uint64_t again = clock_now(ctx) + UINT64_C(50000000);
            if (ld_rlx(&b->due_ns) < again) st_rlx(&b->due_ns, again);
            return delay(ctx, idx, ctl);
        }
        f = ld_rlx(&b->fate);
    }
    uint64_t expires = expires_of(b);
    if (expires && expires <= clock_now(ctx)) return settle_kill(ctx, idx, ctl, SHMQ_R_EXPIRED);   /* it expired in somebody's hands */
    if (fate_again(f) && spent(q, f)) return settle_kill(ctx, idx, ctl, SHMQ_R_RETRIES);
    if (ld_rlx(&b->due_ns) > clock_now(ctx)) return delay(ctx, idx, ctl);
    /* those that wait come first; what found its room before it was committed (FRESH) does not wait, nor what goes to the front */
    int waits = park_some(q) && !fate_again(f) && !fresh(b, ctl) && q->options.overflow != SHMQ_DROP_OLDEST && !MUTANT(83);
    if (waits && refuses(q, f) && room_full(ctx, q, size_at(ctx, b), fate_prio(f), 0) && !MUTANT(87)) return refuse(ctx, q, idx, ctl);
    rc = waits ? SHMQ_FULL : settle_enter(ctx, q, idx, ctl);
    if (rc != SHMQ_FULL) return rc;
    park(ctx, q, idx, ctl);
    if (!MUTANT(84)) park_send(ctx, q, UINT32_MAX);   /* PARKED: there may be room by now, and whoever made it has not seen it */
    return SHMQ_OK;
}

/* Mark a block owned in MOVE for redelivery; an attempt counts only for what was handed out. */
void settle_again(shmq_ctx *ctx, uint32_t idx, int attempted) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t f = ld_rlx(&b->fate);
    if (attempted && fate_attempts(f) < SHMQ_ATTEMPTS_MAX) f += FATE_ATTEMPT;
    st_rlx(&b->fate, f | FATE_AGAIN);
}

/* OWNED (of me, or of a proven-dead owner whose slot entry the caller has cleared) -> back to its queue. */
int settle_return(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, int attempted) {
    uint64_t m = ctl_next(ctl, SHMQ_MOVE, ctx->self);
    if (!cas(&block_at(ctx, idx)->ctl, ctl, m)) return SHMQ_STALE;
    CRASH_POINT("returned");
    settle_again(ctx, idx, attempted);
    st_rlx(&block_at(ctx, idx)->due_ns, 0);
    return settle_route(ctx, idx, m);
}

/* ---- what consumers call ---- */

static int lease_ours(shmq_ctx *ctx, const shmq_delivery *d) {
    if (!block_known(ctx, d->idx) || ctl_state(d->ctl) != SHMQ_OWNED || ctl_owner(d->ctl) != ctx->self) return 0;
    if (d->held == 0) return 1;
    if (d->held > SHMQ_HELD || d->held > ctx->held_fresh) return 0;
    uint64_t e = ld_rlx(&ctx->held[d->held - 1].word);
    return e && held_idx(e) == d->idx && held_names(e, d->ctl);
}

/* I2. Call before the CAS that ends the lease. */
static void let_go(shmq_ctx *ctx, shmq_delivery *d) {
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

static void wake_closed(local_queue *q) {   /* the last settled message of a closed queue ends its consumers' loops */
    if ((q->options.flags & SHMQ_JOINED) && waiter_present(&q->shared->space) && ring_seems_empty(&q->work)) waiter_wake_all(&q->shared->space);   /* maybe the last one */
    if (ld_rlx(&q->shared->word) != q->live) waiter_announce(&q->shared->evt);
    else if (!MUTANT(36)) order_over(q);
}

/* For who settles a delivery in a way of its own: is the lease held; OWNED -> MOVE(me), which ends it; and it is done. */
int settle_holds(shmq_ctx *ctx, const shmq_delivery *d) { return lease_ours(ctx, d); }

int settle_leave(shmq_ctx *ctx, shmq_delivery *d, uint64_t *move) {
    uint32_t held = d->held;
    *move = ctl_next(d->ctl, SHMQ_MOVE, ctx->self);
    let_go(ctx, d);
    if (!cas(&block_at(ctx, d->idx)->ctl, d->ctl, *move)) return stale(ctx, d, held);
    if (held == 0 && ctx->bare) ctx->bare--;
    d->ctl = 0;
    return SHMQ_OK;
}

void settle_left(local_queue *q) { wake_closed(q); }

int shmq_ack(shmq_ctx *ctx, shmq_delivery *d, uint32_t n) {
    int rc = ctx_enter(ctx), done = 0;
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    for (uint32_t i = 0; i < n; i++, d++) {
        if (!lease_ours(ctx, d)) { d->ctl = 0; continue; }
        uint32_t leased = d->held;
        let_go(ctx, d);
        if (!leased && ctx->bare) ctx->bare--;
        if (!free_whole(ctx, d->idx, d->ctl)) { stale(ctx, d, leased); continue; }
        done++;
        local_queue *q = &ctx->local[d->queue % SHMQ_QUEUES];
        if (q->live && leased && figures_timed(ctx, leased)) figures_acked(ctx, q, leased, d->idx, d->ctl);
        d->ctl = 0;
        if (RARE(q->lanes & SHMQ_LANES_ORDERED) && q->live && queue_status(q) != SHMQ_GONE) order_settled(q, d);
        if (q->live && leased) {
            bump(&q->counters->acked, 1);
            wake_closed(q);
        } else if (q->live) wake_closed(q);
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
        ctx->random ^= ctx->random >> 12; ctx->random ^= ctx->random << 25; ctx->random ^= ctx->random >> 27;
        uint64_t r = (ctx->random * UINT64_C(2685821657736338717)) >> 40, span = ns / 1000000 * (q->options.jitter_ppm > 2000000 ? 2000000 : q->options.jitter_ppm);
        ns = ns - span / 2 + (span >> 24) * r + (((span & 0xffffff) * r) >> 24);
    }
    return ns;
}

enum verdict { NACK, REJECT, RELEASE };

static int settle(shmq_ctx *ctx, shmq_delivery *d, enum verdict v, uint64_t delay_ns, const void *extra, uint32_t extra_size) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = SHMQ_STALE;
    if (lease_ours(ctx, d)) {
        shmq_block *b = block_at(ctx, d->idx);
        uint64_t m = ctl_next(d->ctl, SHMQ_MOVE, ctx->self);
        int attempted = v == NACK || (d->held && (held_flags(ld_rlx(&ctx->held[d->held - 1].word)) & SHMQ_HELD_STARTED));
        uint32_t held = d->held;
        if (held == 0 && ctx->bare) ctx->bare--;
        let_go(ctx, d);
        if (!cas(&b->ctl, d->ctl, m)) stale(ctx, d, held);
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
                rc = settle_kill(ctx, d->idx, m, SHMQ_R_REJECTED);
            } else {
                bump(v == NACK ? &q->counters->nacked : &q->counters->returned, 1);
                settle_again(ctx, d->idx, attempted);
                unsigned attempts = fate_attempts(ld_rlx(&b->fate));
                if (v == NACK && delay_ns == SHMQ_DELAY_DEFAULT) delay_ns = backoff(ctx, q, attempts);
                st_rlx(&b->due_ns, v == NACK && delay_ns ? later(clock_now(ctx), delay_ns) : 0);
                rc = q != &none && spent(q, ld_rlx(&b->fate)) ? settle_kill(ctx, d->idx, m, SHMQ_R_RETRIES) : settle_route(ctx, d->idx, m);
            }
            if (q != &none) wake_closed(q);
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
    if (lease_ours(ctx, d) && d->held) {
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
int shmq_start(shmq_ctx *ctx, shmq_delivery *d) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = SHMQ_STALE;
    if (lease_ours(ctx, d) && d->held) {
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
                settle_kill(ctx, idx, m, SHMQ_R_EXPIRED);
                if (q->live) wake_closed(q);
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
        }
        else {
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
    if (lease_ours(ctx, d) && d->held) {
        shmq_block *b = block_at(ctx, d->idx);
        uint64_t m = ctl_next(d->ctl, SHMQ_MOVE, ctx->self) | (uint64_t)SHMQ_FLAG_VIEWED << 56;
        st_sc(&ctx->held[d->held - 1].word, held_make(SHMQ_HELD_VIEW, ctl_gen(d->ctl), d->idx));
        if (cas(&b->ctl, d->ctl, m)) {
            free_whole(ctx, d->idx, m);
            local_queue *q = &ctx->local[d->queue % SHMQ_QUEUES];
            if (q->live && figures_timed(ctx, d->held)) figures_acked(ctx, q, d->held, d->idx, d->ctl);
            if (q->live) { bump(&q->counters->acked, 1); wake_closed(q); }
            rc = SHMQ_OK;
        }   /* stale: the entry stays too, the view still reads the block */
        d->ctl = 0;
    }
    ctx_unlock(ctx);
    return rc;
}

/* Before a delivery with living views is settled otherwise (nack, reject, release): a second entry keeps the block for them.
 * Returns its number + 1, to be ended by shmq_view_end. */
int shmq_view_keep(shmq_ctx *ctx, shmq_delivery *d) {
    uint32_t entry;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = lease_ours(ctx, d) && d->held ? owner_held_get(ctx, &entry) : SHMQ_STALE;
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
