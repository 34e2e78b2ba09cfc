/* forward.h: settle a delivery and publish what becomes of it, both or neither. See forward.c. */
#ifndef SHMQ_FORWARD_H
#define SHMQ_FORWARD_H
#include "ctx.h"
int forward_decided(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
int forward_send(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
void forward_finish(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);
#endif
