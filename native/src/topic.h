/* topic.h: what the rest of the core asks about messages with several subscribers. See topic.c. */
#ifndef SHMQ_TOPIC_H
#define SHMQ_TOPIC_H
#include "ctx.h"

/* A message of a topic that is being made; its children are in ctx->scratch. */
typedef struct { uint64_t ctl; uint32_t parent, n, made; } fan;

int topic_write(shmq_ctx *ctx, local_queue *t, uint64_t tref, shmq_message *m, uint64_t now, uint64_t tie, uint64_t flags, fan *f);
void topic_unwrite(shmq_ctx *ctx, fan *f);
int topic_commit(shmq_ctx *ctx, uint32_t parent, uint64_t ctl);
void topic_launch(shmq_ctx *ctx, local_queue *t, shmq_message *m, fan *f);
uint32_t topic_sleepers(shmq_ctx *ctx, uint64_t tref, shmq_au32 **evt);
void topic_child_over(shmq_ctx *ctx, uint32_t parent);
void topic_parent_check(shmq_ctx *ctx, uint32_t idx);
int topic_committed(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
uint8_t *topic_trailer(shmq_ctx *ctx, uint32_t idx);
int topic_fan_over(shmq_ctx *ctx, uint32_t idx);
void topic_end_mine(shmq_ctx *ctx);

/* Does block `of` carry the payload of a living child with that message id? */
static inline int topic_parent_of(shmq_ctx *ctx, uint32_t of, uint64_t id) {
    return block_known(ctx, of) && ctl_state(ld_acq(&block_at(ctx, of)->ctl)) == SHMQ_FAN && ld_rlx(&block_at(ctx, of)->id) == id;
}
#endif
