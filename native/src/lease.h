/* lease.h: taking a lease back from a living holder. See lease.c. */
#ifndef SHMQ_LEASE_H
#define SHMQ_LEASE_H
#include "ctx.h"
int lease_steal(shmq_ctx *ctx, local_queue *q, uint32_t index);
#endif
