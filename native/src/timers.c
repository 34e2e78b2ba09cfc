/* timers.c: delayed blocks; the sidecar's side of the shared memory.
 *
 *   timers[4096]   word: idx+1, 0 = empty       a lossy mailbox: truth is ctl DELAYED and block.due_ns
 *
 * I1  DELAYED has no owner: whoever CASes it to MOVE(me) fires it; two sidecars cannot fire one block twice.
 * I2  A hint may be lost (its writer died, the mailbox was full): timer_lost is set then, or by recovery, and a new sidecar
 *     scans all blocks anyway. Late, never lost.
 */
#include "free.h"
#include "queue.h"
#include "route.h"
#include <limits.h>

/* Is it delayed, by which word, and until when? */
static int due_of(shmq_ctx *ctx, uint32_t idx, uint64_t *ctl, uint64_t *due) {
    if (!block_known(ctx, idx)) return 0;
    shmq_block *b = block_at(ctx, idx);
    *ctl = ld_acq(&b->ctl);
    if (ctl_state(*ctl) != SHMQ_DELAYED || (ctl_flags(*ctl) & SHMQ_FLAG_PARKED)) return 0;   /* what waits for room is not ours */
    *due = ld_rlx(&b->due_ns);
    return 1;
}

/* Empty the mailbox into idx[] and due[]. *scan = 1: hints were lost, look at all blocks with shmq_timers_scan. */
int shmq_timers_collect(shmq_ctx *ctx, uint32_t *idx, uint64_t *due, uint32_t max, uint32_t *scan) {
    int n = 0, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    *scan = ld32_acq(&ctx->header->timer_lost) ? xchg32(&ctx->header->timer_lost, 0) : 0;
    for (uint32_t i = 0; i < SHMQ_TIMERS && (uint32_t)n < max; i++) {
        uint64_t w = ld_acq(&ctx->timers[i]), c;
        if (w == 0 || !cas(&ctx->timers[i], w, 0)) continue;
        if (w <= SHMQ_BLOCKS && due_of(ctx, (uint32_t)w - 1, &c, &due[n])) idx[n++] = (uint32_t)w - 1;
    }
    if ((uint32_t)n == max) *scan |= 2;   /* more to collect */
    ctx_unlock(ctx);
    return n;
}

/* All DELAYED blocks from index *from on; *from moves on, SHMQ_BLOCKS = done. LIMBO and FAN blocks are re-examined in passing. */
int shmq_timers_scan(shmq_ctx *ctx, uint32_t *from, uint32_t *idx, uint64_t *due, uint32_t max) {
    int n = 0, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    while (*from < SHMQ_BLOCKS && (uint32_t)n < max) {
        unsigned k = class_of(ctx, *from);
        uint64_t hwm = class_hwm(ctx, k), c;
        if (*from - ctx->classes[k].first >= hwm) {
            *from = k + 1 < SHMQ_CLASSES ? ctx->classes[k + 1].first : SHMQ_BLOCKS;
            continue;
        }
        if (due_of(ctx, *from, &c, &due[n])) idx[n++] = *from;
        else if (ctl_state(ld_acq(&block_at(ctx, *from)->ctl)) == SHMQ_LIMBO) free_limbo(ctx, *from);
        else free_parent_check(ctx, *from);
        ++*from;
    }
    ctx_unlock(ctx);
    return n;
}

/* OK: on its way, or waiting for room at its queue (park.c). FULL: not yet; *due says when. STALE: not delayed any more. */
int shmq_timer_fire(shmq_ctx *ctx, uint32_t idx, uint64_t now, uint64_t *due) {
    uint64_t c;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = SHMQ_STALE;
    op_begin(ctx);
    if (due_of(ctx, idx, &c, due)) {
        uint64_t m = ctl_next(c, SHMQ_MOVE, ctx->self);
        if (*due > now) rc = SHMQ_FULL;
        else if (cas(&block_at(ctx, idx)->ctl, c, m)) {
            /* I1 */
            CRASH_POINT("fired");
            route_on(ctx, idx, m);
            rc = SHMQ_OK;
        }
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return rc;
}

/* max_bytes counts what is ready; deaths make it drift. When nothing moved meanwhile, put the exact sum there. */
int shmq_bytes_resync(shmq_ctx *ctx, uint64_t qref) {
    local_queue *q;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = queue_local(ctx, qref, &q);
    ctx_unlock(ctx);
    if (rc != SHMQ_OK || !q->max_bytes) return rc;
    uint64_t before = ld_acq(&q->shared->bytes);
    shmq_census c;
    rc = shmq_queue_census(ctx, qref, &c);
    if (rc == SHMQ_OK && c.moving + c.fresh == 0) cas(&q->shared->bytes, before, c.bytes);
    return rc;
}
