/* settle.h: what becomes of a delivery: freed, routed back, delayed, dead-lettered. See settle.c. */
#ifndef SHMQ_SETTLE_H
#define SHMQ_SETTLE_H
#include "ctx.h"

int settle_route(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
int settle_enter(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl);
int settle_kill(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, unsigned reason);
void settle_again(shmq_ctx *ctx, uint32_t idx, int attempted);
int settle_return(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, int attempted);
int settle_holds(shmq_ctx *ctx, const shmq_delivery *delivery);
int settle_leave(shmq_ctx *ctx, shmq_delivery *delivery, uint64_t *move);
void settle_left(local_queue *q);
#endif
