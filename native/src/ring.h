/* ring.h: a bounded many-producer many-consumer ring of block references. See ring.c. */
#ifndef SHMQ_RING_H
#define SHMQ_RING_H
#include "ctx.h"

typedef struct {
    uint64_t ctl, slot, position;
    uint32_t idx;
} ring_item;

#define RING_CHUNK 4096   /* slots of a long ring that get memory at a time */
#define RING_HINTS 16     /* the shared ends are moved up every so many positions */
#define RING_SLACK 64     /* so many slots beyond the tail have memory: readers look a little ahead */
#define RING_LONG 12      /* a ring of more than 2^RING_LONG slots gets its memory as it goes */

uint64_t ring_backed(local_ring *r);
int ring_enqueue(shmq_ctx *ctx, local_ring *r, uint32_t idx, uint64_t ctl, uint64_t max_depth);
int ring_find(shmq_ctx *ctx, local_ring *r, ring_item *out);
int ring_next(shmq_ctx *ctx, local_ring *r, uint64_t *at, ring_item *out);
int ring_passed(local_ring *r, uint64_t position);
int ring_still(local_ring *r, const ring_item *item);
void ring_taken(local_ring *r, const ring_item *item);
int ring_holds(local_ring *r, uint64_t position, uint32_t idx);
int ring_clear(local_ring *r, uint64_t position, uint32_t idx);
uint64_t ring_depth(local_ring *r);
int ring_full(local_ring *r, uint64_t most);
uint64_t ring_about(local_ring *r);
uint64_t ring_filled(local_ring *r);
int ring_rebuild(local_ring *r);
void ring_settle_in(local_ring *r);
int ring_seems_empty(local_ring *r);
/* Nothing has come since this process had taken all: what ring_find would say EMPTY to, for the price of one look. */
static inline int ring_unmoved(local_ring *r) {
    uint64_t s = ld_sc(&r->slots[r->head & r->mask]);   /* EVT: before a sleep, after the bit was set */
    return slot_is_empty(s) && round_diff(slot_round(s), r->head >> r->lg) == 0;
}
#endif
