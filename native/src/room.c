/* room.c: is there room in a queue, and, where the oldest may be dropped for it, making some.
 *
 *   full     max_depth messages are in the rings, or this one's bytes would be too many      a look; only the ring decides
 *   make     first READY of the lowest level --CAS--> OWNED(me) --CAS--> MOVE(me) --> its dead-letter queue, or over
 *
 * I1  The one that goes is taken as a consumer takes it: nobody else has it. Lanes of keys are not asked: what is over is no lane's.
 * I2  A message that goes may displace another one in its dead-letter queue, and that one the next: MOST_DEEP in a row, and never into a
 *     queue in which room is just being made; then it is over. So queues that are each other's dead-letter queues do not go round.
 * I3  Who waits for room asks what who publishes asks: or it would go round between the two and never sleep.
 * Who dies where: as a taker, or one who settles; the message comes back.
 */
#include "room.h"
#include "free.h"
#include "level.h"
#include "queue.h"
#include "ring.h"
#include "settle.h"

/* `counted`: the way into the ring is bounded itself, and what we remember of its ends will do. Not so for a message with an id,
 * a copy, a forward, the first one of its level. */
static inline int full(shmq_ctx *ctx, local_queue *q, uint64_t size, unsigned priority, int counted) {
    if (q->max_bytes) {
        uint64_t b = ld_rlx(&q->shared->bytes);
        if (b && b + size > q->max_bytes) return 1;
    }
    uint32_t lanes = queue_lanes(ctx, q);
    if (RARE(lanes || priority)) return level_full(q, lanes);
    if (counted && (int64_t)(q->work.tail - q->work.head) < (int64_t)q->max_depth) return 0;
    return ring_full(&q->work, q->max_depth);
}

int room_full(shmq_ctx *ctx, local_queue *q, uint64_t size, unsigned priority, int counted) {
    int rc = full(ctx, q, size, priority, counted);
    if (RARE(rc)) q->wanted = size;
    return rc;
}

/* For n more, of which the first has that size? For those that wait (I3). */
int room_for(shmq_ctx *ctx, local_queue *q, uint32_t n, uint64_t size) {
    uint64_t b = q->max_bytes ? ld_rlx(&q->shared->bytes) : 0;
    return level_room(ctx, q, n) && (b == 0 || b + (MUTANT(89) ? 1 : size) <= q->max_bytes);
}

static int goes_round(shmq_ctx *ctx, local_queue *q) {   /* I2 */
    local_queue *to = queue_dead(ctx, q);
    for (uint32_t i = 0; i < ctx->deep; i++)
        if (to && to->shared == ctx->making[i]) return 1;
    return ctx->deep == MOST_DEEP;
}

static void displaced(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t move) {
    if (!goes_round(ctx, q)) {
        ctx->making[ctx->deep++] = q->shared;
        settle_kill(ctx, idx, move, SHMQ_R_OVERFLOW);
        ctx->deep--;
        return;
    }
    bump(&q->counters->dropped, 1);
    free_whole(ctx, idx, move);
}

int room_make(shmq_ctx *ctx, local_queue *q) {   /* overflow = drop-oldest */
    ring_item item;
    if (q->options.overflow != SHMQ_DROP_OLDEST) return SHMQ_FULL;
    for (int tries = 0; tries < 64; tries++) {
        uint32_t lanes = queue_lanes(ctx, q);
        local_ring *r = &q->work;
        int rc = lanes & SHMQ_LANES_ORDERED ? ring_find(ctx, r, &item) : level_lowest(ctx, q, lanes, &r, &item);
        if (rc != SHMQ_OK) return SHMQ_OK;   /* none is ready any more: others were quicker */
        uint64_t own = ctl_next(item.ctl, SHMQ_OWNED, ctx->self);
        if (!cas(&block_at(ctx, item.idx)->ctl, item.ctl, own)) continue;
        ring_taken(r, &item);
        uint64_t move = ctl_next(own, SHMQ_MOVE, ctx->self);
        queue_bytes_out(q, size_at(ctx, block_at(ctx, item.idx)));
        if (cas(&block_at(ctx, item.idx)->ctl, own, move)) displaced(ctx, q, item.idx, move);
        return SHMQ_OK;
    }
    return SHMQ_FULL;
}
