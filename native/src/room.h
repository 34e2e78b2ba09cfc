/* room.h: is there room in a queue. See room.c. */
#ifndef SHMQ_ROOM_H
#define SHMQ_ROOM_H

#include "ctx.h"

int room_full(shmq_ctx *ctx, local_queue *q, uint64_t size, unsigned priority, int counted);
int room_for(shmq_ctx *ctx, local_queue *q, uint32_t n, uint64_t size);

#endif
