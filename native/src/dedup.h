/* dedup.h: a committed message with an id: the first one, or a duplicate. See dedup.c. */
#ifndef SHMQ_DEDUP_H
#define SHMQ_DEDUP_H
#include "ids.h"

uint8_t *dedup_trailer(shmq_ctx *ctx, uint32_t idx);
int dedup_decide(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, const hash128 *key, uint64_t now, uint64_t *first);
int dedup_settle(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t *first);
#endif
