/* lease.c: leases that end although their holder lives: by the clock (ack_timeout), or because the message was only read
 * ahead and somebody else waits idle.
 *
 * I1  A lease is ended only when its held entry names exactly the ctl generation that is replaced; one CAS decides against
 *     the holder's own ack, touch or start.
 * I2  The slot is cleared first: the taker may be stopped between its CAS to OWNED and its own clear.
 * I3  VIEWED is set: the old holder may still be reading (or be stopped inside its copy). Its held entry keeps the block in
 *     LIMBO after the last free, until it lets go of the entry.
 * Who dies where: after the CAS to MOVE: recovery routes it, with or without the attempt. The holder loses nothing but the
 * right to settle.
 */
#include "lease.h"
#include "queue.h"
#include "ring.h"
#include "route.h"

/* 1 = the lease that entry e of owner o names was ended and the message is on its way back. */
static int take_back(shmq_ctx *ctx, uint32_t o, shmq_held *h, uint64_t e, uint64_t deadline) {
    uint32_t idx = held_idx(e);
    if (!block_known(ctx, idx)) return 0;
    shmq_block *b = block_at(ctx, idx);
    uint64_t c = ld_acq(&b->ctl);
    if (ctl_state(c) != SHMQ_OWNED || ctl_owner(c) != o || !held_names(e, c)) return 0;
    if (ld_acq(&h->deadline) != deadline || ld_acq(&h->word) != e) return 0;   /* touched or settled meanwhile */
    uint64_t pos = ld_rlx(&b->pos);
    if (ld_acq(&b->ctl) != c) return 0;   /* pos belongs to this lease */
    local_ring *r = queue_ring(ctx, pos_ring(pos));
    if (r) ring_clear(r, pos_position(pos), idx);   /* I2 */
    uint64_t m = ctl_next(c, SHMQ_MOVE, ctx->self) | (uint64_t)(MUTANT(11) ? 0 : SHMQ_FLAG_VIEWED) << 56;   /* I3 */
    if (!cas(&b->ctl, c, m)) return 0;   /* COMMIT give-back */
    CRASH_POINT("expired");
    route_again(ctx, idx, held_flags(e) & SHMQ_HELD_STARTED);
    st_rlx(&b->due_ns, 0);
    route_on(ctx, idx, m);
    return 1;
}

/* Returns how many leases ended; *next = the earliest deadline still to come, 0 = none. */
int shmq_leases_expire(shmq_ctx *ctx, uint64_t now, uint64_t *next) {
    int n = 0, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    *next = 0;
    held_walk w = held_all(ctx);
    if (!ld32_acq(&ctx->header->leases)) w.owners = 0;
    op_begin(ctx);
    while (held_next(ctx, &w)) {
        uint64_t deadline = ld_acq(&w.h->deadline);
        if (deadline == 0 || (held_flags(w.e) & SHMQ_HELD_VIEW) || ld_acq(&w.h->word) != w.e) continue;
        if (deadline > now) {
            if (*next == 0 || deadline < *next) *next = deadline;
        } else n += take_back(ctx, w.owner, w.h, w.e, deadline);
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return n;
}

/* For a consumer that would sleep: one message of this queue that another one has only read ahead. Under the ctx lock, in op. */
int lease_steal(shmq_ctx *ctx, local_queue *q, uint32_t index) {
    if (!mark_acq(&q->shared->ahead)) return 0;
    for (held_walk w = held_all(ctx); held_next(ctx, &w);) {
        if (held_flags(w.e) != 0 || !block_known(ctx, held_idx(w.e))) continue;
        if (fate_home(ld_rlx(&block_at(ctx, held_idx(w.e))->fate)) != index) continue;
        if (take_back(ctx, w.owner, w.h, w.e, ld_acq(&w.h->deadline))) return 1;
    }
    return 0;
}

/* Blocks in LIMBO whose memory comes back as soon as their former holder goes on: leases name them that are over, and no views. How many. */
int shmq_leases_late(shmq_ctx *ctx) {
    int n = 0, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    for (held_walk w = held_all(ctx); held_next(ctx, &w);) {
        if ((held_flags(w.e) & SHMQ_HELD_VIEW) || !block_known(ctx, held_idx(w.e))) continue;
        n += ctl_state(ld_acq(&block_at(ctx, held_idx(w.e))->ctl)) == SHMQ_LIMBO;
    }
    ctx_unlock(ctx);
    return n;
}
