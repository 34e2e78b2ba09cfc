/* ids.h: the table of ids that a queue remembers for a while. See ids.c. */
#ifndef SHMQ_IDS_H
#define SHMQ_IDS_H
#include "hash.h"
#include "ctx.h"

enum { ID_FIRST = 0, ID_DUPLICATE = 1 };   /* ids_claim; or an error */

uint64_t ids_bytes(const shmq_queue_options *options);
/* Does its id count here? Elsewhere it is a word like any other. */
static inline int ids_asked(const local_queue *q, const shmq_message *m) { return m->dedup && q->dedup.base; }
void ids_open(local_queue *q, uint8_t *base);
void ids_forget(uint8_t *base, const shmq_queue_options *options);
int ids_claim(shmq_ctx *ctx, local_queue *q, const hash128 *key, uint64_t id, uint64_t now, uint64_t *first);
hash128 ids_key(shmq_ctx *ctx, const shmq_message *m);
static inline uint64_t ids_tag(shmq_ctx *ctx) { return ctx->secret[0] | 1; }   /* of a message whose spot is known: in this broker */
uint64_t ids_spot(shmq_ctx *ctx, const shmq_message *m);
void ids_prefetch(local_queue *q, uint64_t spot);
int ids_known(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now);
int ids_room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now);
#endif
