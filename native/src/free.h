/* free.h: the end of a block, in all its forms. See free.c. */
#ifndef SHMQ_FREE_H
#define SHMQ_FREE_H
#include "ctx.h"

int free_block(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
int free_whole(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
void free_limbo(shmq_ctx *ctx, uint32_t idx);
void free_quarantine(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
void free_child_over(shmq_ctx *ctx, uint32_t parent);
void free_parent_check(shmq_ctx *ctx, uint32_t idx);
void extra_attach(shmq_ctx *ctx, uint32_t idx, const void *bytes, uint32_t n);
uint32_t extra_of(shmq_ctx *ctx, uint32_t idx);
#endif
