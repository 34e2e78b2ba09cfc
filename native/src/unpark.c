/* unpark.c: the parked, for who makes room, purges, recovers, and for the sidecar.
 *
 *   a taker has made room for n   --> the first n are sent on; where publishers wait as well, every second room is theirs
 *   a queue is purged             --> what waits there goes, too
 *   a death, once a second        --> of all queues
 *
 * I1  The sidecar looks once a second: whoever made room may have been stopped before it sent on.
 * I2  If a new message is before one that came back in the line of an ordered queue, nobody may make room (route.c, I6): the sidecar's look
 *     takes that one from there. Its order is its key's, of which it is the only one that is out of the ring.
 *
 * Who dies where: in MOVE: as in park.c.
 */
#include "unpark.h"
#include "free.h"
#include "park.h"
#include "queue.h"
#include "room.h"
#include "route.h"
#include "waiter.h"

/* After making room for `freed`: all of it, or every second one where publishers wait. */
uint32_t unpark_share(shmq_ctx *ctx, local_queue *q, uint32_t freed) {
    if (!waiter_present(&q->shared->space)) return route_parked(ctx, q, UINT32_MAX);
    uint32_t share = (freed + q->odd) / 2;
    q->odd = (freed + q->odd) & 1;
    return share ? route_parked(ctx, q, share) : 0;
}

/* Drop what waits. How many. */
int64_t unpark_purge(shmq_ctx *ctx, local_queue *q, uint64_t now) {
    uint32_t index = queue_index(ctx, q);
    int64_t n = 0;
    uint64_t c;
    if (!park_some(q)) return 0;
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        uint32_t idx = walk.idx;
        if (!park_waits_at(ctx, idx, index, &c)) continue;
        uint64_t m = ctl_next(c, SHMQ_MOVE, ctx->self), expires = expires_of(block_at(ctx, idx));
        if (!cas(&block_at(ctx, idx)->ctl, c, m)) continue;
        if (expires && expires <= now) {
            route_dead(ctx, idx, m, SHMQ_R_EXPIRED);
            continue;
        }
        bump(&q->counters->dropped, 1);
        free_whole(ctx, idx, m);
        n++;
    }
    return n;
}

/* I2. As if it came back just now: to the front, where the bound of the queue does not count. */
static uint32_t take_back(shmq_ctx *ctx, local_queue *q) {
    uint32_t index = queue_index(ctx, q), n = 0;
    uint64_t c;
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        uint32_t idx = walk.idx;
        if (!park_waits_at(ctx, idx, index, &c) || !fate_again(ld_rlx(&block_at(ctx, idx)->fate))) continue;
        uint64_t m = ctl_next(c, SHMQ_MOVE, ctx->self);
        if (!cas(&block_at(ctx, idx)->ctl, c, m)) continue;
        CRASH_POINT("unparked_back");
        int rc = route_enter(ctx, q, idx, m);
        if (rc == SHMQ_FULL) {
            park(ctx, q, idx, m);
            return n;
        }
        n++;
    }
    return n;
}

/* Of all queues. How many were sent on. */
int unpark_all(shmq_ctx *ctx) {
    uint32_t queues = queues_used(ctx);
    int n = 0;
    for (uint32_t i = 0; i < queues; i++) {
        local_queue *q;
        unsigned st = queue_state(ld_acq(&ctx->queues[i].word));   /* in any other state the record may have no memory, or be changing */
        if ((st != SHMQ_Q_LIVE && st != SHMQ_Q_CLOSED) || !(ld32_acq(&ctx->queues[i].parked) & 1)) continue;
        if (queue_open_local(ctx, i, &q) != SHMQ_OK || queue_status(q) == SHMQ_GONE) continue;
        n += (int)route_parked(ctx, q, UINT32_MAX);
        if ((q->lanes & SHMQ_LANES_ORDERED) && park_some(q) && !room_for(ctx, q, 1, 1) && !MUTANT(92)) n += (int)take_back(ctx, q);
    }
    return n;
}

/* For the sidecar, now and then: whoever made room may have been stopped before it sent on. */
int shmq_parked_sweep(shmq_ctx *ctx) {
    int n, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    n = unpark_all(ctx);
    op_end(ctx);
    ctx_unlock(ctx);
    return n;
}
