/* arena.h: blocks by size class: allocate, grow, give memory back. See arena.c for the drawing and the invariants. */
#ifndef SHMQ_ARENA_H
#define SHMQ_ARENA_H
#include "ctx.h"

int arena_class_for(shmq_ctx *ctx, uint64_t bytes);
int arena_alloc(shmq_ctx *ctx, uint64_t bytes, uint32_t *idx, uint64_t *ctl);
int arena_alloc_child(shmq_ctx *ctx, uint32_t *idx, uint64_t *ctl);
void arena_hint(shmq_ctx *ctx, uint32_t idx);
void arena_return_all(shmq_ctx *ctx);
void arena_return_some(shmq_ctx *ctx, magazine *m, uint32_t n);
int arena_reserve(shmq_ctx *ctx, uint64_t offset, uint64_t length);
int arena_reserve_mapped(shmq_ctx *ctx, uint64_t offset, uint64_t length);

/* A block that the caller has made FREE: others find it by its hint, this process in its magazine. */
static inline void arena_give_back(shmq_ctx *ctx, uint32_t idx) {
    magazine *m = &ctx->magazines[class_of(ctx, idx)];
    ctx->frees++;
    if (m->cap == 1) {   /* large: the next to allocate shall have the one that is still in the caches */
        arena_hint(ctx, idx);
        return;
    }
    if (m->n >= m->cap) arena_return_some(ctx, m, (m->cap + 1) / 2);
    m->idx[m->n++] = idx;
}

static inline void arena_prefetch_next(shmq_ctx *ctx, unsigned k) {   /* the block that the next publish will write */
    magazine *m = &ctx->magazines[k];
    if (m->n == 0) return;
    uint32_t idx = m->idx[m->n - 1];
    prefetch_to_write(block_at(ctx, idx));
    PREFETCH_PAYLOAD(ctx, idx, prefetch_to_write);
}
#endif
