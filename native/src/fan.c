/* fan.c: a block in FAN, the payload of a topic's message, and the list of its children.
 *
 *   parent P    payload | headers | n | child[0] .. child[n-1] | trailer       child: gen:40 | block+1:24, the child's life
 *               due_ns: 1 | gen:39 | n:24, how many are left
 *   child D     size = P, id = P's id, home = a subscription; no payload of its own
 *
 * I1  That a child is over (FREE, or another life) stays true for ever, so one look at each is enough, whoever looks.
 * I2  How many are left is a hint. It carries P's generation, so that a late decrement cannot hit another life of P.
 *
 * Everything here only looks. What is counted and freed: free.c.
 */
#include "fan.h"

/* The children of a block that was FAN when the caller looked; NULL when no history can have produced what stands there. */
shmq_au64 *fan_children(shmq_ctx *ctx, uint32_t idx, uint64_t *n) {
    uint64_t room = payload_room(ctx, idx), at = payload_end(ctx, idx);
    if (at + 8 > room) return NULL;
    shmq_au64 *children = (shmq_au64 *)(payload_of(ctx, idx) + at);
    *n = ld_rlx(children);
    return *n <= SHMQ_QUEUES && at + 8 + *n * 8 <= room ? children + 1 : NULL;
}

/* I1: has this life of a child come to its end? */
static int child_over(shmq_ctx *ctx, uint32_t parent, uint64_t child) {
    uint32_t d = (uint32_t)(child & 0xffffff) - 1;
    if (!block_known(ctx, d)) return 1;
    shmq_block *b = block_at(ctx, d);
    uint64_t c = ld_acq(&b->ctl);
    unsigned st = ctl_state(c);
    if (st == SHMQ_VOID || st == SHMQ_FREE || st == SHMQ_BAD) return 1;
    if (!(ctl_flags(c) & SHMQ_FLAG_CHILD)) return 1;
    if (st == SHMQ_NEW) return child_make(d, ctl_gen(c)) != child;   /* its header may not be written yet */
    return ld32_rlx(&b->size) != parent;
}

/* How many children are not over; 0 is final. */
uint64_t fan_left(shmq_ctx *ctx, uint32_t idx) {
    uint64_t n, left = 0;
    shmq_au64 *child = fan_children(ctx, idx, &n);
    for (uint64_t i = 0; child && i < n; i++) {
        uint32_t d = (uint32_t)(ld_rlx(&child[i]) & 0xffffff) - 1;
        if (d < SHMQ_BLOCKS) prefetch_to_read(block_at(ctx, d));
    }
    for (uint64_t i = 0; child && i < n; i++) left += !child_over(ctx, idx, ld_rlx(&child[i]));
    return left;
}

/* What lies behind the list of children: the key of the id, what a forward is tied to. NULL when lengths cannot be. */
uint8_t *fan_trailer(shmq_ctx *ctx, uint32_t idx) {
    uint64_t n;
    shmq_au64 *child = fan_children(ctx, idx, &n);
    if (child == NULL || (uint64_t)((uint8_t *)(child + n) - payload_of(ctx, idx)) + FAN_TRAILER > payload_room(ctx, idx)) return NULL;
    return (uint8_t *)(child + n);
}
