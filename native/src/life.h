/* life.h: queues are made, for topics. See life.c. */
#ifndef SHMQ_LIFE_H
#define SHMQ_LIFE_H
#include "ctx.h"

int64_t queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size,
                     int ephemeral);
#endif
