/* lease.c: the end of a lease: settled, or forwarded. accel.h says who owns it. */
#include "accel.h"

/* Views outlive the lease: what keeps the block for them, 0 for none. Negative: the reason why not; STALE is found again by the settle. */
static int keep_for_views(shmq_ctx *ctx, lease *l) { return l->views ? shmq_view_keep(ctx, &l->d) : 0; }

/* The lease after a call that gave rc: over, or as it was (`stays`). */
HOT static int lease_after(ConsumerObject *c, shmq_ctx *ctx, lease *l, int rc, int keep, bool stays) {
    if (stays) {
        if (keep > 0) shmq_view_end(ctx, (uint32_t)keep, l->d.idx);
        return rc;
    }
    if (keep > 0) l->d.held = (uint32_t)keep;
    l->state = l->views ? VIEWED : SETTLED;
    lease_unlink(c, l);
    return rc;
}

/* Settle a LIVE lease that is not in the hands of another call. Returns the core's result; unlinks unless the call failed
 * for a reason that leaves the lease as it is. */
HOT int lease_settle(ConsumerObject *c, shmq_ctx *ctx, lease *l, int kind, uint64_t delay_ns, const void *extra, uint32_t size) {
    int rc, keep = kind == SHMQ_ACK ? 0 : keep_for_views(ctx, l);
    if (keep < 0 && keep != SHMQ_STALE) return keep;
    switch (kind) {
    case SHMQ_ACK: rc = l->views ? shmq_settle_viewed(ctx, &l->d) : shmq_ack(ctx, &l->d, 1); break;
    case SHMQ_NACK: rc = shmq_nack(ctx, &l->d, delay_ns, extra, size); break;
    case SHMQ_REJECTED: rc = shmq_reject(ctx, &l->d, extra, size); break;
    default: rc = shmq_release(ctx, &l->d); break;
    }
    return lease_after(c, ctx, l, rc, keep, rc < 0 && rc != SHMQ_STALE && rc != SHMQ_GONE);
}

/* The same for a forward. Only STALE is for good: any other reason is the target's, and the lease stays. */
int lease_forward(ConsumerObject *c, shmq_ctx *ctx, lease *l, uint64_t target, shmq_message *m) {
    int keep = keep_for_views(ctx, l);
    if (keep < 0 && keep != SHMQ_STALE) return keep;
    int rc = shmq_forward(ctx, &l->d, target, m);
    return lease_after(c, ctx, l, rc, keep, rc < 0 && rc != SHMQ_STALE);
}
