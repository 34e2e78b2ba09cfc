/* level.c: priorities: a ring for each level, of which most queues only ever use the lowest.
 *
 *   record.lanes   bit n: level n > 0 has been used            set once, before the first message of the level; never cleared
 *   place[0..9]    rings of max_depth each: places from create on, memory from the first message of the level on
 *   place[10]      the redelivery ring: one for all levels; looked through by level, taken from the middle
 *
 *   next:  for each level from the top: the first redelivered message of the level, else the head of its ring
 *          aging: of these, the one with the earliest (since when it waits - level * aging)
 *
 * I1  The bit comes before the slot CAS of the level's first message, and whoever is about to sleep loads it after setting
 *     evt's bit (EVT): a message in a ring that nobody looks into cannot be.
 * I2  Within a level nothing overtakes: redelivered before new, each in the order of its ring. A place in the redelivery ring
 *     is looked at once for each level by each process: what has been passed never becomes of that level again.
 * I3  Aging compares fixed times, not clocks that run: a message of level l goes before every one of level l+k that was
 *     published k * aging after it. So nothing starves, and two processes never disagree.
 * I4  max_depth counts all levels. With one level the bound is exact; with several it may be passed by as many messages as
 *     there are processes publishing at that moment.
 * I5  Without memory for the ring of its level, a message goes to the lowest: later than its priority promises, but not refused.
 * I6  When it comes back it has its level, which may then be in no process's lanes: the redelivery ring is looked through for all levels.
 * I7  What comes back is taken in the order of publish among the first AGAIN_LOOK of it, not in that of coming back: two consumers that
 *     give back what they had, in whatever order, leave the queue as it was. A look at more would make each take longer.
 *
 * Who dies where: before the bit: memory and `ready`, which the next one finds. After it: an empty ring more to look into.
 * A stopped one delays nobody: the place is fixed at create, reserving twice is harmless, the bit is one OR.
 */
#include "level.h"
#include "order.h"
#include "queue.h"
#include "ring.h"

#define AGAIN_LOOK 32

/* The first redelivered message of a level (I2). */
static int again_find(shmq_ctx *ctx, local_queue *q, unsigned level, ring_item *out) {
    uint64_t at = q->again_from[level];
    for (uint64_t n = 0; n <= 4 * (q->again.mask + 1); n++) {
        int rc = ring_next(ctx, &q->again, &at, out);
        q->again_from[level] = at;
        if (rc != SHMQ_OK) return rc;
        unsigned l = level_of(q, fate_prio(ld_rlx(&block_at(ctx, out->idx)->fate)));
        if (!ring_still(&q->again, out)) continue;   /* taken meanwhile: that fate may be another life's */
        if (l == level) return SHMQ_OK;
        at++;
    }
    return SHMQ_EMPTY;
}

/* Of what came back, the one that was published first (I7): among AGAIN_LOOK of them from *out on, those of its level; level < 0: all. */
void level_oldest_again(shmq_ctx *ctx, local_queue *q, int level, ring_item *out) {
    uint64_t at = out->position, first = ld_rlx(&block_at(ctx, out->idx)->published_ns), id = ld_rlx(&block_at(ctx, out->idx)->id);
    for (unsigned n = 1; n < AGAIN_LOOK && !MUTANT(107); n++) {
        ring_item other;
        at++;
        if (ring_next(ctx, &q->again, &at, &other) != SHMQ_OK) return;
        shmq_block *b = block_at(ctx, other.idx);
        uint64_t its = ld_rlx(&b->published_ns), its_id = ld_rlx(&b->id);
        int fits = level < 0 || level_of(q, fate_prio(ld_rlx(&b->fate))) == (unsigned)level;
        if (!fits || its > first || (its == first && its_id > id) || !ring_still(&q->again, &other)) continue;
        first = its;
        id = its_id;
        *out = other;
    }
}

/* Since when a message waits: published, or due later. */
static uint64_t waits_since(shmq_ctx *ctx, uint32_t idx) {
    uint64_t published = ld_rlx(&block_at(ctx, idx)->published_ns), due = ld_rlx(&block_at(ctx, idx)->due_ns);
    return due > published ? due : published;
}

/* What a consumer gets next when several levels are in use; without taking it. */
int level_find(shmq_ctx *ctx, local_queue *q, uint32_t lanes, local_ring **from, ring_item *out) {
    int again = queue_has_again(q) && !ring_unmoved(&q->again) && !ring_seems_empty(&q->again), found = SHMQ_EMPTY;
    int64_t aging = (int64_t)(q->options.aging_ns >> 60 ? UINT64_C(1) << 58 : q->options.aging_ns), best = 0;
    for (unsigned level = SHMQ_LEVELS; level-- > 0;) {
        /* I6 */
        int open = level == 0 || lanes & 1u << level;
        if (!open && (!again || MUTANT(98))) continue;
        ring_item first, head;
        int back = again ? again_find(ctx, q, level, &first) : SHMQ_EMPTY, rc = back;
        if (back == SHMQ_OK) level_oldest_again(ctx, q, (int)level, &first);
        if (!open) rc = SHMQ_EMPTY;
        else if (back != SHMQ_OK || aging) rc = ring_find(ctx, level_ring(q, level), &head);
        if (back != SHMQ_OK && rc != SHMQ_OK) {
            if (rc != SHMQ_EMPTY && found != SHMQ_OK) found = rc;
            continue;
        }
        int64_t since = 0;
        if (aging) {   /* I3 */
            since = INT64_MAX;
            if (back == SHMQ_OK) since = (int64_t)waits_since(ctx, first.idx);
            if (rc == SHMQ_OK && (int64_t)waits_since(ctx, head.idx) < since) since = (int64_t)waits_since(ctx, head.idx);
            since -= (int64_t)level * aging;
            if (found == SHMQ_OK && since >= best) continue;
            best = since;
        }
        *out = back == SHMQ_OK ? first : head;
        *from = back == SHMQ_OK ? &q->again : level_ring(q, level);
        found = SHMQ_OK;
        if (!aging) break;
    }
    return found;
}

/* The ring for a message of that priority, with memory behind it. (I5) */
int level_open(shmq_ctx *ctx, local_queue *q, unsigned priority, local_ring **r) {
    unsigned level = level_of(q, priority);
    int rc = queue_level_ready(ctx, q, level);
    *r = level_ring(q, rc == SHMQ_E_NOMEM && !MUTANT(71) ? 0 : level);
    return rc == SHMQ_E_NOMEM && !MUTANT(71) ? SHMQ_OK : rc;
}

/* What goes first when room has to be made: the oldest new message of the lowest level. */
int level_lowest(shmq_ctx *ctx, local_queue *q, uint32_t lanes, local_ring **from, ring_item *out) {
    int rc = SHMQ_EMPTY;
    for (unsigned level = 0; level < SHMQ_LEVELS && rc == SHMQ_EMPTY; level++)
        if (level == 0 || (lanes & 1u << level)) rc = ring_find(ctx, *from = level_ring(q, level), out);
    return rc;
}

int level_none_left(local_queue *q, uint32_t lanes) {
    for (unsigned level = 1; level < SHMQ_LEVELS; level++)
        if ((lanes & 1u << level) && !ring_seems_empty(&q->level[level])) return 0;
    return 1;
}

static uint64_t sum(local_queue *q, uint32_t lanes, uint64_t (*count)(local_ring *)) {
    uint64_t n = count(&q->work);
    for (unsigned level = 1; level < SHMQ_LEVELS; level++)
        if (lanes & 1u << level) n += count(&q->level[level]);
    return n;
}

int level_full(local_queue *q, uint32_t lanes) {   /* I4: exact only where it may be close */
    if (lanes & SHMQ_LANES_ORDERED) return order_full(q);
    return sum(q, lanes, ring_about) + 256 >= q->max_depth && sum(q, lanes, ring_depth) >= q->max_depth;
}

/* New messages ready in all levels. */
uint64_t level_depth(shmq_ctx *ctx, local_queue *q) {
    uint32_t lanes = queue_lanes(ctx, q);
    return lanes == 0 ? ring_depth(&q->work) : lanes & SHMQ_LANES_ORDERED ? ring_filled(&q->work) : sum(q, lanes, ring_depth);
}

/* Room for n more? For producers that wait. In an ordered queue places that are kept behind an unsettled message are none (order.c, I5). */
int level_room(shmq_ctx *ctx, local_queue *q, uint64_t n) {
    if (queue_lanes(ctx, q) & SHMQ_LANES_ORDERED) {
        uint64_t depth = ring_depth(&q->work);
        if (depth + n <= q->max_depth) return 1;
        if (depth + n > q->work.mask + 1 && !MUTANT(90)) return 0;
    }
    return level_depth(ctx, q) + n <= q->max_depth;
}
