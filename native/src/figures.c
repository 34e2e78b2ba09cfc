/* figures.c: latencies in shared memory: publish to delivery (waited), delivery to ack (held).
 *
 *   counters.waited[20], held[20]     1 us | 3 us | 10 us | ... | 1000 s | above         written by their owner only
 *
 * One message in SAMPLE_EVERY of each process and queue is measured, the first one included. The others pay a test of a register
 * at delivery and of one bit at ack. Nobody decides anything by these numbers: a death loses at most the samples in hand.
 *
 * When a measured delivery was handed out is private memory, found again by its held entry; an entry whose delivery is still out
 * is not written over, so that long ones are not lost to short ones.
 */
#include "figures.h"
#include "clock.h"

/* clang-format off */
static const uint64_t BOUNDS[19] = {
    1000, 3000, 10000, 30000, 100000, 300000, 1000000, 3000000, 10000000, 30000000, 100000000, 300000000, 1000000000,
    UINT64_C(3000000000), UINT64_C(10000000000), UINT64_C(30000000000), UINT64_C(100000000000), UINT64_C(300000000000),
    UINT64_C(1000000000000),
};
/* clang-format on */

static unsigned bucket(uint64_t ns) {
    unsigned i = 0;
    while (i < 19 && ns > BOUNDS[i]) i++;
    return i;
}

/* A measured message is handed out: since it was published, or due, or dead. */
void figures_taken(shmq_ctx *ctx, local_queue *q, const shmq_delivery *d) {
    uint64_t now = clock_now(ctx), due = ld_rlx(&block_at(ctx, d->idx)->due_ns);
    uint64_t since = due > d->published_ns ? due : d->published_ns, ns = now > since ? now - since : 0;
    bump(&q->counters->waited[bucket(ns)].n, 1);
    bump(&q->counters->waited_ns, ns);
    if (d->held == 0) return;
    unsigned i = figures_place(d->held);
    if (figures_timed(ctx, d->held) && block_known(ctx, ctx->samples[i].idx)
        && ld_rlx(&block_at(ctx, ctx->samples[i].idx)->ctl) == ctx->samples[i].ctl)
        return;
    ctx->samples[i].ctl = d->ctl;
    ctx->samples[i].ns = now;
    ctx->samples[i].idx = d->idx;
    ctx->timed |= UINT64_C(1) << i;
}

/* Its lease has got another ctl (touch, a view). */
void figures_moved(shmq_ctx *ctx, uint32_t held, uint32_t idx, uint64_t from, uint64_t to) {
    unsigned i = figures_place(held);
    if (ctx->samples[i].ctl == from && ctx->samples[i].idx == idx) ctx->samples[i].ctl = to;
}

void figures_acked(shmq_ctx *ctx, local_queue *q, uint32_t held, uint32_t idx, uint64_t ctl) {
    unsigned i = figures_place(held);
    if (ctx->samples[i].ctl != ctl || ctx->samples[i].idx != idx) return;
    ctx->timed &= ~(UINT64_C(1) << i);
    uint64_t now = clock_now(ctx), ns = now > ctx->samples[i].ns ? now - ctx->samples[i].ns : 0;
    bump(&q->counters->held[bucket(ns)].n, 1);
    bump(&q->counters->held_ns, ns);
}
