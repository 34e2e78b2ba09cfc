/* queue.h: what a process sees of a queue: the private view of its record. See queue.c. */
#ifndef SHMQ_QUEUE_H
#define SHMQ_QUEUE_H
#include "ctx.h"

/* All places in the ring region that belong to a record: its rings, its key lanes, its table of ids (in words of 8 bytes). */
#define QUEUE_PLACES 13
#define IDS_LG 28   /* the largest table: 2^24 ids in each half */
shmq_ring_place *queue_place(shmq_queue *rec, unsigned n);
uint64_t queue_place_bytes(shmq_ctx *ctx, shmq_ring_place p, uint32_t most);
uint64_t queue_first_bytes(shmq_ring_place p);
int queue_ring_open(shmq_ctx *ctx, shmq_queue *rec, uint32_t index, unsigned lane, local_ring *r);
int64_t queue_find(shmq_ctx *ctx, const char *name, uint32_t *free_index);
int queue_open_reached(shmq_ctx *ctx, uint32_t index, local_queue **out);
int queue_open_local(shmq_ctx *ctx, uint32_t index, local_queue **out);
local_queue *queue_dead(shmq_ctx *ctx, local_queue *q);
int queue_again_ready(shmq_ctx *ctx, local_queue *q);
int queue_count_here(shmq_ctx *ctx, uint32_t index);
int queue_level_ready(shmq_ctx *ctx, local_queue *q, unsigned level);
uint32_t queue_lanes_open(shmq_ctx *ctx, local_queue *q, uint32_t lanes);
local_ring *queue_ring(shmq_ctx *ctx, unsigned ring);
void queue_bytes_less(local_queue *q, uint64_t size);
static inline void queue_bytes_in(local_queue *q, uint64_t size) {
    if (RARE(q->max_bytes)) add(&q->shared->bytes, size);
}
static inline void queue_bytes_out(local_queue *q, uint64_t size) {
    if (RARE(q->max_bytes)) queue_bytes_less(q, size);
}

static inline uint32_t qref_index(uint64_t qref) { return (uint32_t)(qref & SHMQ_INDEX_MASK); }
static inline uint64_t qref_gen(uint64_t qref) { return qref >> 16; }
#define QREF_GEN ((UINT64_C(1) << 47) - 1)
/* Never negative. Of a word with a longer gen, which no history can produce, it names a life that is gone. */
static inline uint64_t qref_make(uint64_t word, uint32_t index) { return (queue_gen(word) & QREF_GEN) << 16 | index; }

/* Is there a redelivery ring with memory? Another one is none: its first redelivery makes it. */
static inline int queue_has_again(const local_queue *q) { return mark_acq(&q->shared->place[SHMQ_LANE_AGAIN].ready) != 0; }

/* The private view for a reference, opening it when this process has not yet. */
static inline int queue_local(shmq_ctx *ctx, uint64_t qref, local_queue **out) {
    uint32_t i = qref_index(qref);
    if (i >= SHMQ_QUEUES) return SHMQ_E_ARG;
    local_queue *q = &ctx->local[i];
    if (q->live != queue_make(qref_gen(qref), SHMQ_Q_LIVE)) {
        int rc = queue_open_local(ctx, i, &q);
        if (rc != SHMQ_OK) return rc == SHMQ_E_NOTFOUND ? SHMQ_GONE : rc;
        if (q->live != queue_make(qref_gen(qref), SHMQ_Q_LIVE)) return SHMQ_GONE;
    }
    *out = q;
    return SHMQ_OK;
}

/* Which levels beside 0 have ever been used, each opened here; and whether the queue is ordered. 0 = a plain queue. */
static inline uint32_t queue_lanes(shmq_ctx *ctx, local_queue *q) {
    uint32_t lanes = ld32_sc(&q->shared->lanes);   /* EVT: before the rings, when looking again */
    return lanes == q->lanes ? lanes : queue_lanes_open(ctx, q, lanes);
}

static inline int queue_status(local_queue *q) {   /* OK, CLOSED or GONE */
    uint64_t w = ld_acq(&q->shared->word);
    return w == q->live ? SHMQ_OK : w == q->closed ? SHMQ_CLOSED : SHMQ_GONE;
}
#endif
