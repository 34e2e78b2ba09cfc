/* dedup.h: the ids that a queue remembers for a while. See dedup.c. */
#ifndef SHMQ_DEDUP_H
#define SHMQ_DEDUP_H
#include "hash.h"
#include "ctx.h"

enum { DEDUP_FIRST = 0, DEDUP_DUPLICATE = 1 };   /* dedup_claim, dedup_decide, dedup_settle; or an error */

uint64_t dedup_bytes(const shmq_queue_options *options);
/* Does its id count here? Elsewhere it is a word like any other. */
static inline int dedup_asked(const local_queue *q, const shmq_message *m) { return m->dedup && q->dedup.base; }
void dedup_open(local_queue *q, uint8_t *base);
void dedup_forget(uint8_t *base, const shmq_queue_options *options);
int dedup_claim(shmq_ctx *ctx, local_queue *q, const hash128 *key, uint64_t id, uint64_t now, uint64_t *first);
hash128 dedup_key(shmq_ctx *ctx, const shmq_message *m);
static inline uint64_t dedup_tag(shmq_ctx *ctx) { return ctx->secret[0] | 1; }   /* of a message whose spot is known: in this broker */
uint64_t dedup_spot(shmq_ctx *ctx, const shmq_message *m);
void dedup_prefetch(local_queue *q, uint64_t spot);
int dedup_known(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now);
int dedup_room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now);
uint8_t *dedup_trailer(shmq_ctx *ctx, uint32_t idx);
int dedup_decide(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, const hash128 *key, uint64_t now, uint64_t *first);
int dedup_settle(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t *first);
#endif
