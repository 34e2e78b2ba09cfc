/* span.h: where the rings of queues lie. See span.c. */
#ifndef SHMQ_SPAN_H
#define SHMQ_SPAN_H
#include "ctx.h"

void span_punch(shmq_ctx *ctx, shmq_ring_place p, const shmq_queue_options *ids);
int span_find(shmq_ctx *ctx, uint64_t bytes, uint64_t also_at, uint64_t also_bytes, uint64_t *found);
#endif
