/* life.h: the life of a queue, for topics and for who leaves. See life.c. */
#ifndef SHMQ_LIFE_H
#define SHMQ_LIFE_H
#include "ctx.h"

int64_t queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size,
                     int ephemeral);
int queue_turn(shmq_ctx *ctx, uint64_t qref, unsigned state);
int life_widowed(shmq_ctx *ctx, const shmq_queue *rec);
void life_end_mine(shmq_ctx *ctx);
#endif
