/* level.h: priorities: one ring for each level. See level.c. */
#ifndef SHMQ_LEVEL_H
#define SHMQ_LEVEL_H
#include "ring.h"

void level_oldest_again(shmq_ctx *ctx, local_queue *q, int level, ring_item *out);
int level_find(shmq_ctx *ctx, local_queue *q, uint32_t lanes, local_ring **from, ring_item *out);
int level_lowest(shmq_ctx *ctx, local_queue *q, uint32_t lanes, local_ring **from, ring_item *out);
int level_open(shmq_ctx *ctx, local_queue *q, unsigned priority, local_ring **r);
int level_none_left(local_queue *q, uint32_t lanes);
int level_full(local_queue *q, uint32_t lanes);
uint64_t level_depth(shmq_ctx *ctx, local_queue *q);
int level_room(shmq_ctx *ctx, local_queue *q, uint64_t n);

static inline unsigned level_of(const local_queue *q, unsigned priority) {   /* ordered queues have one level */
    unsigned top = (q->lanes & SHMQ_LANES_ORDERED) || q->options.priorities < 1 ? 0 : q->options.priorities - 1;
    return priority < top ? priority : top;
}
static inline local_ring *level_ring(local_queue *q, unsigned level) { return level ? &q->level[level] : &q->work; }
#endif
