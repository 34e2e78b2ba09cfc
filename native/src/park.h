/* park.h: messages that are due and wait for room at their queue. See park.c. */
#ifndef SHMQ_PARK_H
#define SHMQ_PARK_H

#include "ctx.h"

void park(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl);
uint32_t park_send(shmq_ctx *ctx, local_queue *q, uint32_t most);
uint32_t park_send_share(shmq_ctx *ctx, local_queue *q, uint32_t freed);
void park_disturb(shmq_ctx *ctx, uint32_t index);
int park_send_all(shmq_ctx *ctx);
int64_t park_purge(shmq_ctx *ctx, local_queue *q, uint64_t now);

/* May some wait there? After the CAS that has made room (PARKED). */
static inline int park_some(local_queue *q) { return RARE(ld32_sc(&q->shared->parked) & 1); }

#endif
