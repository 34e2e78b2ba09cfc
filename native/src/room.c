/* room.c: is there room in a queue?
 *
 *   full   max_depth messages are in the rings, or this one's bytes would be too many      a look; only the ring decides
 *
 * I1  Who waits for room asks what who publishes asks: or it would go round between the two and never sleep.
 *
 * Nothing is written here. How room is made: route.c.
 */
#include "room.h"
#include "level.h"
#include "queue.h"
#include "ring.h"

/* `counted`: the ring checks max_depth itself when the message enters, so what we remember of its ends is good enough here. A message with
 * an id, a copy, a forward and the first one of its level enter without that check: they need the exact count. */
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

HOT int room_full(shmq_ctx *ctx, local_queue *q, uint64_t size, unsigned priority, int counted) {
    int rc = full(ctx, q, size, priority, counted);
    if (RARE(rc)) q->wanted = size;
    return rc;
}

/* For n more, of which the first has that size? For those that wait (I1). */
int room_for(shmq_ctx *ctx, local_queue *q, uint32_t n, uint64_t size) {
    uint64_t b = q->max_bytes ? ld_rlx(&q->shared->bytes) : 0;
    return level_room(ctx, q, n) && (b == 0 || b + (MUTANT(89) ? 1 : size) <= q->max_bytes);
}
