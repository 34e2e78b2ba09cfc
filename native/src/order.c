/* order.c: order = key and strict: the messages of one key are settled one after the other.
 *
 *   fate.origin   lane:12 of a message (as long as it is no dead letter): hash of its key; strict: 0
 *   keys[lane]    id:40 | idx+1:24     the message that the lane is busy with; 0 = none yet
 *
 *   busy(word):   that block still is that message: READY, OWNED, MOVE or DELAYED, with that id, at home in this queue
 *   a message may be taken when its lane names it, or when its lane is not busy and the CAS lane -> it succeeds
 *
 *   keys[7] = m4 ---busy---> m4 OWNED(a)                 m5 (lane 7) waits in the ring, m6 (lane 9) is taken past it
 *           = m4 ---over---> m4 freed, or another's home m5: CAS keys[7] m4 -> m5, then taken as ever
 *
 * There is no lock here and nothing that has to be given back: a lane is free because of what its message has become, whoever made
 * it so and whoever died meanwhile. (Who acks clears the word, after that: it saves others a look at the block.) A message that comes back (nack, backoff, death, lease) is still named: it goes before the others.
 *
 * I1  A lane is claimed before the ctl CAS of its message, and only for a message seen READY in its slot. So at any time at
 *     most one message of a lane, the named one, is out of the ring and not over (those being dropped apart: see below).
 * I2  A word is replaced only when its message is over, and over is for good: an id is never used twice. A claim that comes
 *     late replaces only a word that is over, by a message that is READY or over: the lane is then free again, not lost.
 * I3  A walk goes from the front, and passes over a lane for good where it has found it busy: a lane that becomes free behind
 *     the walker's back must not give it a later message than the one it has passed. But for the named one, wherever it is.
 * I4  The id of a block is its message's from NEW on only: a block in NEW has its former life's. So NEW is not busy, and what
 *     a walk finds in a slot still NEW or MOVE it makes READY first, as recovery would: that it is in the slot is its commit.
 * I5  A message passed over keeps head where it is. The ring has four places for each message that max_depth allows: a key that
 *     stays unsettled while 3 * max_depth later messages come and go holds up the producers, until it is settled.
 * I6  Who ends a message of an ordered queue wakes one sleeper (EVT): its lane may have more.
 *
 * Who dies where: after the claim, before the ctl CAS: the lane names a READY message, which anyone may take. After that: the
 * message is OWNED(dead) until recovery returns it, and its lane waits for that; others go on. A stopped consumer keeps the one
 * key that it is at, and no other; a stopped publisher none. A message that is being dropped (purge, expiry) is no lane's: if
 * its dropper dies just then, it comes back, perhaps after a later one of its key.
 */
#include "order.h"
#include "hash.h"
#include "queue.h"
#include "ring.h"

#define ID_MASK ((UINT64_C(1) << 40) - 1)

static uint64_t lane_word(uint64_t id, uint32_t idx) { return (id & ID_MASK) << 24 | (idx + 1); }

/* The lane of a message that is being published. Without a key it has no order to keep: any lane will do. */
unsigned order_lane(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t id) {
    if (q->options.order == SHMQ_STRICT) return 0;
    if (m->key_size == 0) return (unsigned)(id % SHMQ_KEY_LANES);
    return (unsigned)(hash_spot(ctx->secret, m->key, m->key_size) % SHMQ_KEY_LANES);
}

static unsigned lane_of(local_queue *q, unsigned reason, unsigned origin, uint64_t id) {
    if (q->options.order == SHMQ_STRICT) return 0;
    return (reason ? (unsigned)id : origin) % SHMQ_KEY_LANES;   /* a dead letter says there where it died */
}

static int busy(shmq_ctx *ctx, local_queue *q, uint64_t word) {
    uint32_t idx = (uint32_t)(word & 0xffffff) - 1;
    if (word == 0 || !block_known(ctx, idx)) return 0;
    shmq_block *b = block_at(ctx, idx);
    unsigned st = ctl_state(ld_acq(&b->ctl));   /* before id: over is for good (I2), so what is read later can only be truer */
    if (st != SHMQ_READY && st != SHMQ_OWNED && st != SHMQ_MOVE && (st != SHMQ_DELAYED || MUTANT(34))) return 0;
    if ((ld_rlx(&b->id) & ID_MASK) != word >> 24 && !MUTANT(38)) return 0;
    return fate_home(ld_rlx(&b->fate)) == q->work.ring / SHMQ_LANES || MUTANT(35);
}

static int walk(shmq_ctx *ctx, local_queue *q, int claim, local_ring **from, ring_item *out) {
    uint64_t passed[SHMQ_KEY_LANES / 64];   /* I3 */
    int any = 0;   /* most walks pass nothing */
    for (int turn = 0; turn < 2; turn++) {
        if (turn == 0 && (!queue_has_again(q) || ring_unmoved(&q->again))) continue;
        local_ring *r = turn == 0 ? &q->again : &q->work;
        uint64_t at = r->head;
        for (uint64_t n = 0; n < 8 * (r->mask + 1) + 65536 && ring_next(ctx, r, &at, out) == SHMQ_OK; n++) {
            shmq_block *b = block_at(ctx, out->idx);
            uint64_t fate = ld_rlx(&b->fate), id = ld_rlx(&b->id);
            if (!ring_still(r, out)) continue;   /* taken meanwhile: that may have been another life's */
            unsigned lane = lane_of(q, fate_reason(fate), fate_origin(fate), id);
            uint64_t word = ld_acq(&q->keys[lane]), own = lane_word(id, out->idx);
            if (word != own && any && (passed[lane / 64] >> (lane % 64) & 1)) {
                at++;
                continue;
            }
            if (ctl_state(out->ctl) != SHMQ_READY) {   /* I4 */
                uint64_t ready = ctl_to(out->ctl, SHMQ_READY, 0);
                if (!cas(&b->ctl, out->ctl, ready)) continue;
                out->ctl = ready;
            }
            if (word != own) {
                if (busy(ctx, q, word) && !MUTANT(32)) {
                    if (!any) memset(passed, 0, sizeof passed);
                    any = 1;
                    if (!MUTANT(33)) passed[lane / 64] |= UINT64_C(1) << (lane % 64);
                    at++;
                    continue;
                }
                if (claim && !cas(&q->keys[lane], word, own)) continue;   /* I1 */
                if (claim) CRASH_POINT("claimed");
            }
            *from = r;
            return SHMQ_OK;
        }
    }
    return SHMQ_EMPTY;
}

/* The first message whose lane is free or its own, the lane claimed for it. The caller CASes its ctl from out->ctl. */
int order_find(shmq_ctx *ctx, local_queue *q, local_ring **from, ring_item *out) { return walk(ctx, q, 1, from, out); }

/* A message is over: its lane need not name it any longer. The next process that looks at the lane is spared a look at the block,
 * which is in the hands, and in the cache, of somebody else by then. */
void order_settled(local_queue *q, const shmq_delivery *d) {
    shmq_au64 *lane = &q->keys[lane_of(q, d->reason, d->origin, d->id)];
    uint64_t own = lane_word(d->id, d->idx);
    if (ld_rlx(lane) == own) cas(lane, own, 0);   /* I2 */
}

/* max_depth counts messages; the ring has four times as many places, since those passed over keep theirs, and head with them. */
int order_full(local_queue *q) {
    uint64_t depth = ring_depth(&q->work);
    if (depth < q->max_depth) return 0;
    if (depth > q->work.mask) return 1;
    if ((int64_t)(q->room_until - q->work.tail) > 0) return 0;   /* whoever publishes moves the tail */
    uint64_t filled = ring_filled(&q->work);
    if (filled >= q->max_depth) return 1;
    q->room_until = q->work.tail + (q->max_depth - filled);
    return 0;
}

int order_none_left(shmq_ctx *ctx, local_queue *q) {
    local_ring *from;
    ring_item item;
    if (ring_seems_empty(&q->work) && (!queue_has_again(q) || ring_seems_empty(&q->again))) return 1;
    return walk(ctx, q, 0, &from, &item) != SHMQ_OK;
}
