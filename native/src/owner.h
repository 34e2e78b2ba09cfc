/* owner.h: attached processes: identity, proof of death, and their held tables. See owner.c. */
#ifndef SHMQ_OWNER_H
#define SHMQ_OWNER_H
#include "ctx.h"

int owner_held_get(shmq_ctx *ctx, uint32_t *entry);
static inline void owner_held_put(shmq_ctx *ctx, uint32_t entry) { ctx->held_free[ctx->held_n++] = entry; }
void owner_ping(shmq_ctx *ctx);
uint64_t owner_start_of(uint32_t pid);
int owner_word_dead(uint64_t w, uint64_t *stack);
#endif
