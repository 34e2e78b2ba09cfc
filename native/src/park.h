/* park.h: messages that are due and wait for room at their queue. See park.c. */
#ifndef SHMQ_PARK_H
#define SHMQ_PARK_H

#include "ctx.h"

void park(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl);
uint64_t park_turn_of(shmq_ctx *ctx);
int park_turn_take(shmq_ctx *ctx, local_queue *q);
parked_line *park_line(shmq_ctx *ctx, local_queue *q);
uint32_t park_next(shmq_ctx *ctx, local_queue *q, parked_line *l);
int park_over(local_queue *q, parked_line *l);
int park_waits_next(shmq_ctx *ctx, local_queue *q, parked_line *l, uint64_t *ctl);
int park_waits_at(shmq_ctx *ctx, uint32_t idx, uint32_t index, uint64_t *ctl);
void park_disturb(shmq_ctx *ctx, uint32_t index);

/* May some wait there? After the CAS that has made room (PARKED). */
static inline int park_some(local_queue *q) { return (int)RARE(ld32_sc(&q->shared->parked) & 1); }

#endif
