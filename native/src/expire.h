/* expire.h: messages that outlive their time to live, found without anybody asking for them. See expire.c. */
#ifndef SHMQ_EXPIRE_H
#define SHMQ_EXPIRE_H
#include "ctx.h"

void expire_lower(shmq_ctx *ctx, uint64_t at);

/* Whoever made a message READY or DELAYED calls this afterwards, with the expiry it gave it: one load in the usual case. */
static inline void expire_hint(shmq_ctx *ctx, uint64_t at) {
    if (at && ld_sc(&ctx->header->next_expiry) > at) expire_lower(ctx, at);   /* EXPIRY: after the ctl CAS */
}
#endif
