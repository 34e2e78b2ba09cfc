/* hints.h: what a publisher leaves for the sidecar. See hints.c. */
#ifndef SHMQ_HINTS_H
#define SHMQ_HINTS_H
#include "ctx.h"

void hints_delayed(shmq_ctx *ctx, uint32_t idx);
void hints_lower(shmq_ctx *ctx, uint64_t at);
void hints_expiry_lower(shmq_ctx *ctx, uint64_t at);

/* Whoever made a message READY or DELAYED calls this afterwards, with the expiry it gave it: one load in the usual case. */
static inline void hints_expiry(shmq_ctx *ctx, uint64_t at) {
    if (at && ld_sc(&ctx->header->next_expiry) > at) hints_expiry_lower(ctx, at);   /* EXPIRY: after the ctl CAS */
}
#endif
