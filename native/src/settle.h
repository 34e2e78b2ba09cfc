/* settle.h: what becomes of a delivery: freed, routed back, delayed, dead-lettered. See settle.c. */
#ifndef SHMQ_SETTLE_H
#define SHMQ_SETTLE_H
#include "ctx.h"

int settle_holds(shmq_ctx *ctx, const shmq_delivery *delivery);
int settle_leave(shmq_ctx *ctx, shmq_delivery *delivery, uint64_t *move);
void settle_left(local_queue *q);
#endif
