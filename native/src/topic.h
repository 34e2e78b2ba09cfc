/* topic.h: what the rest of the core asks about messages with several subscribers. See topic.c. */
#ifndef SHMQ_TOPIC_H
#define SHMQ_TOPIC_H
#include "layout.h"

void topic_child_over(shmq_ctx *ctx, uint32_t parent);
void topic_parent_check(shmq_ctx *ctx, uint32_t idx);
int topic_committed(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
uint8_t *topic_key(shmq_ctx *ctx, uint32_t idx);
int topic_fan_over(shmq_ctx *ctx, uint32_t idx);
void topic_end_mine(shmq_ctx *ctx);

/* Does block `of` carry the payload of a living child with that message id? */
static inline int topic_parent_of(shmq_ctx *ctx, uint32_t of, uint64_t id) {
    return block_known(ctx, of) && ctl_state(ld_acq(&block_at(ctx, of)->ctl)) == SHMQ_FAN && ld_rlx(&block_at(ctx, of)->id) == id;
}
#endif
