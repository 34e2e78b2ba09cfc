/* route.h: where a MOVE goes. See route.c. */
#ifndef SHMQ_ROUTE_H
#define SHMQ_ROUTE_H
#include "ctx.h"

#define ROUNDS 64   /* of sending on what waits for room, in one call */

int route_on(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
int route_enter(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl);
int route_dead(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, unsigned reason);
void route_again(shmq_ctx *ctx, uint32_t idx, int attempted);
int route_back(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, int attempted);
int route_spent(local_queue *q, uint64_t fate);
int route_make_room(shmq_ctx *ctx, local_queue *q);
uint32_t route_parked(shmq_ctx *ctx, local_queue *q, uint32_t most);
#endif
