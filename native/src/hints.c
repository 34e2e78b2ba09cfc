/* hints.c: what a publisher leaves for the sidecar: this block became delayed; that message expires before all others.
 *
 *   timers[4096]         word: idx+1, 0 = empty       a lossy mailbox: truth is ctl DELAYED and block.due_ns       (read by timers.c)
 *   header.next_expiry   no READY or DELAYED message expires before it, as far as known                            (read by expire.c)
 *   header.timer_evt     the sidecar sleeps on it
 *
 * I1  A hint may be lost (its writer died, the mailbox was full): timer_lost is set then, or by recovery, and the sidecar scans.
 * I2  next_expiry is only lowered here, after the ctl CAS of the message that expires (EXPIRY).
 *
 * Who dies where: between CAS and hint: recovery sets timer_lost, and next_expiry to 0. Between hint and wake: the sidecar's next look
 * finds it. Late, never lost.
 */
#include "hints.h"
#include "waiter.h"
#include <limits.h>

void hints_delayed(shmq_ctx *ctx, uint32_t idx) {
    uint32_t at = add32(&ctx->header->timer_tail, 1) % SHMQ_TIMERS;
    if (!cas(&ctx->timers[at], 0, idx + 1)) st32_rel(&ctx->header->timer_lost, 1);   /* I1 */
    CRASH_POINT("hinted");
    add32(&ctx->header->timer_evt, 2);
    futex_wake(&ctx->header->timer_evt, INT_MAX);
}

void hints_lower(shmq_ctx *ctx, uint64_t at) {
    for (uint64_t h = ld_acq(&ctx->header->next_expiry); h > at; h = ld_acq(&ctx->header->next_expiry))   /* who loses met a lower one */
        if (cas(&ctx->header->next_expiry, h, at)) return;
}

void hints_expiry_lower(shmq_ctx *ctx, uint64_t at) {
    if (MUTANT(50)) return;
    hints_lower(ctx, at);
    CRASH_POINT("expiry_lowered");
    add32(&ctx->header->timer_evt, 2);
    futex_wake(&ctx->header->timer_evt, INT_MAX);
}
