/* queue.h: queue records: create, open, close, delete, and the private view of an open one. See queue.c. */
#ifndef SHMQ_QUEUE_H
#define SHMQ_QUEUE_H
#include "ctx.h"

int64_t queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size, int ephemeral);
int queue_turn(shmq_ctx *ctx, uint64_t qref, unsigned state);
int queue_open_local(shmq_ctx *ctx, uint32_t index, local_queue **out);
local_queue *queue_dead(shmq_ctx *ctx, local_queue *q);
int queue_again_ready(shmq_ctx *ctx, local_queue *q);
int queue_admin_enter(shmq_ctx *ctx);
void queue_admin_leave(shmq_ctx *ctx);
int queue_count_here(shmq_ctx *ctx, uint32_t index);
int queue_settled(shmq_ctx *ctx, uint32_t index);
int queue_drained(shmq_ctx *ctx, uint32_t index);
int queue_level_ready(shmq_ctx *ctx, local_queue *q, unsigned level);
uint32_t queue_lanes_open(shmq_ctx *ctx, local_queue *q, uint32_t lanes);
local_ring *queue_ring(shmq_ctx *ctx, unsigned ring);
void queue_bytes_in(local_queue *q, uint64_t size);
void queue_bytes_out(local_queue *q, uint64_t size);

static inline uint32_t qref_index(uint64_t qref) { return (uint32_t)(qref & SHMQ_INDEX_MASK); }
static inline uint64_t qref_gen(uint64_t qref) { return qref >> 16; }
#define QREF_GEN ((UINT64_C(1) << 47) - 1)
/* Never negative. Of a word with a longer gen, which no history can produce, it names a life that is gone. */
static inline uint64_t qref_make(uint64_t word, uint32_t index) { return (queue_gen(word) & QREF_GEN) << 16 | index; }

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
