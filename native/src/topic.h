/* topic.h: what the rest of the core asks about messages with several subscribers. See topic.c. */
#ifndef SHMQ_TOPIC_H
#define SHMQ_TOPIC_H
#include "ctx.h"

/* A message of a topic that is being made; its children are in ctx->scratch. */
typedef struct {
    uint64_t ctl;
    uint32_t parent, n, made;
} fan;

int topic_write(shmq_ctx *ctx, local_queue *t, uint64_t tref, shmq_message *m, uint64_t now, uint64_t tie, uint64_t flags, fan *f);
void topic_unwrite(shmq_ctx *ctx, fan *f);
int topic_commit(shmq_ctx *ctx, uint32_t parent, uint64_t ctl);
void topic_launch(shmq_ctx *ctx, local_queue *t, shmq_message *m, fan *f);
uint32_t topic_sleepers(shmq_ctx *ctx, uint64_t tref, shmq_au32 **evt);
#endif
