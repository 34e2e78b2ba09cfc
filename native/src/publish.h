/* publish.h: publishing inside the lock, in one step or in its parts, for callers that do several. See publish.c. */
#ifndef SHMQ_PUBLISH_H
#define SHMQ_PUBLISH_H
#include "hash.h"
#include "ctx.h"
uint64_t publish_id(shmq_ctx *ctx);
uint64_t publish_header(shmq_ctx *ctx, shmq_block *b, uint32_t index, shmq_message *m, local_queue *q, uint64_t now);
void publish_meta(uint8_t *payload, const shmq_message *m);
const hash128 *publish_key(shmq_ctx *ctx, local_queue *q, const shmq_message *m, hash128 *key);
void publish_trailer(shmq_ctx *ctx, uint32_t idx, const shmq_message *m, const hash128 *key, uint64_t tie, uint64_t flags);
uint64_t publish_footprint(uint64_t size, uint32_t meta_size);
int publish_room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, const hash128 *once, uint64_t now);
int publish_launch(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t size, unsigned priority, uint64_t most);
#endif
