/* take.h: taking inside the lock, for callers that do several things. See take.c. */
#ifndef SHMQ_TAKE_H
#define SHMQ_TAKE_H
#include "ctx.h"
int take_some(shmq_ctx *ctx, local_queue *q, uint32_t index, uint32_t max, uint32_t flags, shmq_delivery *out, uint32_t *freed);
int take_none_left(shmq_ctx *ctx, local_queue *q);
shmq_au32 *take_space(shmq_ctx *ctx, local_queue *q, uint32_t freed, int leaving);
#endif
