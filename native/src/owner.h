/* owner.h: attached processes: identity, proof of death, and their held tables. See owner.c. */
#ifndef SHMQ_OWNER_H
#define SHMQ_OWNER_H
#include "ctx.h"

int owner_held_get(shmq_ctx *ctx, uint32_t *entry);
static inline void owner_held_put(shmq_ctx *ctx, uint32_t entry) { ctx->held_free[ctx->held_n++] = entry; }
int owner_stat(uint32_t pid, uint64_t *start, uint64_t *stack, int *ended);
uint64_t owner_image(shmq_ctx *ctx);
void owner_ready_ahead(shmq_ctx *ctx);
void owner_ping(shmq_ctx *ctx);
uint64_t owner_start_of(uint32_t pid);
int owner_word_dead(uint64_t w, uint64_t *stack);
#endif
