/* fan.h: the children of a block in FAN. See fan.c. */
#ifndef SHMQ_FAN_H
#define SHMQ_FAN_H
#include "ctx.h"

#define CHILD_GEN ((UINT64_C(1) << 40) - 1)
/* Bytes behind payload and headers, or the list of children: the key of the id (16), what a forward is tied to (8). */
#define FAN_TRAILER 24

static inline uint64_t child_make(uint32_t idx, uint64_t gen) { return (gen & CHILD_GEN) << 24 | (idx + 1); }
static inline uint64_t left_make(uint64_t ctl, uint64_t n) {
    return UINT64_C(1) << 63 | (ctl_gen(ctl) & ((UINT64_C(1) << 39) - 1)) << 24 | n;
}
static inline uint64_t left_of(uint64_t left) { return left & 0xffffff; }

shmq_au64 *fan_children(shmq_ctx *ctx, uint32_t idx, uint64_t *n);
uint64_t fan_left(shmq_ctx *ctx, uint32_t idx);
uint8_t *fan_trailer(shmq_ctx *ctx, uint32_t idx);

/* Does block `of` carry the payload of a living child with that message id? */
static inline int fan_carries(shmq_ctx *ctx, uint32_t of, uint64_t id) {
    return block_known(ctx, of) && ctl_state(ld_acq(&block_at(ctx, of)->ctl)) == SHMQ_FAN && ld_rlx(&block_at(ctx, of)->id) == id;
}
#endif
