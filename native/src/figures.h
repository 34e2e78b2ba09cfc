/* figures.h: how long messages waited and were held, of one in SAMPLE_EVERY. See figures.c. */
#ifndef SHMQ_FIGURES_H
#define SHMQ_FIGURES_H
#include "ctx.h"

#define SAMPLE_EVERY 32u

void figures_taken(shmq_ctx *ctx, local_queue *q, const shmq_delivery *d);
void figures_moved(shmq_ctx *ctx, uint32_t held, uint32_t idx, uint64_t from, uint64_t to);
void figures_acked(shmq_ctx *ctx, local_queue *q, uint32_t held, uint32_t idx, uint64_t ctl);

/* One entry for 32 neighbours: of a batch, one in 32 is measured. */
static inline unsigned figures_place(uint32_t held) { return (held - 1) / SAMPLE_EVERY & 63; }
static inline int figures_timed(shmq_ctx *ctx, uint32_t held) { return (int)(ctx->timed >> figures_place(held) & 1); }
#endif
