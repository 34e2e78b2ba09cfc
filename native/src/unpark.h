/* unpark.h: the parked, for who makes room, purges or recovers. See unpark.c. */
#ifndef SHMQ_UNPARK_H
#define SHMQ_UNPARK_H
#include "ctx.h"

uint32_t unpark_share(shmq_ctx *ctx, local_queue *q, uint32_t freed);
int64_t unpark_purge(shmq_ctx *ctx, local_queue *q, uint64_t now);
int unpark_all(shmq_ctx *ctx);
#endif
