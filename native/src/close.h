/* close.h: the end of a queue, for topics and for who leaves. See close.c. */
#ifndef SHMQ_CLOSE_H
#define SHMQ_CLOSE_H
#include "ctx.h"

int queue_turn(shmq_ctx *ctx, uint64_t qref, unsigned state);
int close_turn(shmq_ctx *ctx, uint64_t qref, unsigned state);
int close_widowed(shmq_ctx *ctx, const shmq_queue *rec);
void close_mine(shmq_ctx *ctx);
#endif
