/* clock.h: CLOCK_MONOTONIC in nanoseconds, and a cheaper reading of it for the hot path.
 *
 * clock_now(ctx) interpolates with the time stamp counter between readings of the real clock that are at most 10 ms apart:
 * 8 ns instead of 22 ns, off by well under a microsecond, however often the process is stopped, and wherever: a reading of both
 * counts only when the counter says that they are of one moment. Only where the kernel itself trusts the counter (its clock source
 * is "tsc"); otherwise, and whenever the counter looks odd, the real clock. Called under the ctx lock: its state is the ctx's.
 */
#ifndef SHMQ_CLOCK_H
#define SHMQ_CLOCK_H
#include "ctx.h"

uint64_t clock_resync(shmq_ctx *ctx);
void clock_init(shmq_ctx *ctx);

static inline uint64_t clock_now(shmq_ctx *ctx) {
#if defined(__x86_64__)
    uint64_t d = __builtin_ia32_rdtsc() - ctx->clock.tsc;
    if (d < ctx->clock.window) return ctx->clock.ns + (uint64_t)((unsigned __int128)d * ctx->clock.scale >> 32);
#endif
    return clock_resync(ctx);
}
#endif
