/* dedup.c: a message with an id, once it is committed: does it become a message, or is it a duplicate?
 *
 *   NEW(me) --COMMIT, with the DEDUP bit--> MOVE(me) --claim (ids.c)--> first: DEDUP off, on its way
 *                                                                  \--> duplicate: FREE
 *   trailer   behind payload and headers (of a child: behind its parent's list): key of the id 16 | what a forward is tied to 8
 *
 * I1  A claim never belongs to a message that can vanish: it is made for one that is committed. So whoever meets it may answer
 *     "duplicate" at once, whether its publisher is dead, stopped or alive.
 * I2  fate's DEDUP bit says that this is still to be decided, by its publisher or by whoever recovers it. It goes when the claim has
 *     been made; a redelivery must not ask again.
 *
 * Who dies where: before the claim: MOVE(dead) with the bit, decided by the recoverer. Between the claim and the bit: the recoverer finds
 * the block's own id and publishes it. If that comes so late that the claim is forgotten, the claim is made anew, and fails if another
 * message has the id by then.
 */
#include "dedup.h"
#include "clock.h"
#include "fan.h"
#include "free.h"
#include "hash.h"
#include "ids.h"

/* Where the trailer of a block lies, or NULL when its lengths cannot be. */
uint8_t *dedup_trailer(shmq_ctx *ctx, uint32_t idx) {
    shmq_block *b = block_at(ctx, idx);
    if ((ctl_flags(ld_rlx(&b->ctl)) & SHMQ_FLAG_CHILD) && !MUTANT(47)) {   /* without a payload of its own */
        uint32_t parent = ld32_rlx(&b->size);
        return fan_carries(ctx, parent, ld_rlx(&b->id)) ? fan_trailer(ctx, parent) : NULL;
    }
    if (ld_rlx(&b->fate) & FATE_CHILDREN) return fan_trailer(ctx, idx);
    uint64_t at = payload_end(ctx, idx);
    return at + FAN_TRAILER <= payload_room(ctx, idx) ? payload_of(ctx, idx) + at : NULL;
}

/* A message with an id that the caller owns in MOVE: claim it. DUPLICATE: it was freed. An error: nothing has changed. */
int dedup_decide(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, const hash128 *key, uint64_t now, uint64_t *first) {
    shmq_block *b = block_at(ctx, idx);
    int rc = ids_claim(ctx, q, key, ld_rlx(&b->id), now, first);
    if (rc == ID_FIRST && !MUTANT(48)) st_rlx(&b->fate, ld_rlx(&b->fate) & ~FATE_DEDUP);   /* decided; a redelivery must not ask again */
    if (rc == ID_DUPLICATE) {
        bump(&q->counters->deduped, 1);
        free_whole(ctx, idx, ctl);
    }
    return rc;
}

/* The same for one whose key is to be read from behind its payload. Without one there, or in a queue without a table: decided. */
int dedup_settle(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t *first) {
    shmq_block *b = block_at(ctx, idx);
    uint8_t *at = dedup_trailer(ctx, idx);
    hash128 key;
    if (!at || !q->dedup.base) {
        st_rlx(&b->fate, ld_rlx(&b->fate) & ~FATE_DEDUP);
        return ID_FIRST;
    }
    memcpy(&key, at, sizeof key);
    return dedup_decide(ctx, q, idx, ctl, &key, clock_now(ctx), first);
}
