/* wait.h: what is done before a sleep, for one queue or for many. See wait.c. */
#ifndef SHMQ_WAIT_H
#define SHMQ_WAIT_H
#include "ctx.h"

#define WAIT_SLICE UINT64_C(1000000000)

int wait_enter(shmq_ctx *ctx, uint64_t qref, local_queue **q, int *status);
int wait_items_ready(shmq_ctx *ctx, local_queue *q);
int wait_space_ready(shmq_ctx *ctx, local_queue *q);
int wait_prepare_items(shmq_ctx *ctx, uint64_t qref, local_queue *q, uint32_t *seen, uint64_t *slice);
int wait_prepare_space(shmq_ctx *ctx, local_queue *q, uint32_t *seen, uint64_t *slice);
#endif
