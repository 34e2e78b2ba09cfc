/* order.h: order = key and strict: one unsettled message for each key at a time. See order.c. */
#ifndef SHMQ_ORDER_H
#define SHMQ_ORDER_H
#include "ring.h"
#include "waiter.h"

unsigned order_lane(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t id);
int order_find(shmq_ctx *ctx, local_queue *q, local_ring **from, ring_item *out);
int order_full(local_queue *q);
void order_settled(local_queue *q, const shmq_delivery *d);
int order_none_left(shmq_ctx *ctx, local_queue *q);

/* After a message of an ordered queue is over: the next one of its lane can be taken, and somebody may sleep until it can. */
static inline void order_over(local_queue *q) {
    if (q->lanes & SHMQ_LANES_ORDERED) waiter_wake(&q->shared->evt);
}
#endif
