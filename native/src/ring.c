/* ring.c: the ring of a queue: N = 2^lg slots of 64 bits, head and tail hints.
 *
 *   position p  = round << lg | index          slot[p & mask] : round:40 | idx+1:24
 *
 *   (r, EMPTY)  --enqueue CAS-->  (r, idx)  --clear CAS-->  (r+1, EMPTY)
 *
 * Each (round, idx) and each (round, EMPTY) stands in a slot at most once ever: an exact CAS cannot be fooled.
 *
 * I1  Filled positions are contiguous from the true head to the true tail, but for cleared ones: an enqueuer passes a
 *     position only when it is filled or already cleared. No claimed but unpublished hole can exist.
 * I2  A slot names a block only while the block is NEW, READY or MOVE, or OWNED and not yet cleared (R1): whoever finds
 *     another state under an unchanged slot (R2) may clear it.
 * I3  head and tail (shared and private) are lower bounds of the true ends. They are moved up every 16th position, by CAS;
 *     everyone walks the rest. Any process can rebuild them from the slots.
 *
 * I4  A long ring gets its memory while its first round goes: who fills a position has seen to it that all slots up to some
 *     beyond it have memory. So no one reads a slot without memory, and a page that was never used is a fresh ring.
 *
 * Who dies where: before the slot CAS: nothing happened, the block is freed by recovery (pos names a slot that does not
 * hold it). After it: the message is published; takers accept NEW and MOVE, recovery makes it READY. A taker after the ctl
 * CAS, before the slot CAS: the block is OWNED(dead); recovery clears the slot through pos; others clear it in passing.
 *
 * Enqueue follows the helping cell-CAS of bounded index queues (as iceoryx's MpmcIndexQueue); that the block's own word
 * decides ownership at take is ours.
 */
#include "ring.h"
#include "arena.h"
#ifdef SHMQ_CRASHPOINTS
#include <stdio.h>
#include <stdlib.h>
#endif

/* a - b, as far as slots can tell: a slot keeps 40 bits of the round, so positions are circular in 40 + lg bits. */
static int64_t gap(local_ring *r, uint64_t a, uint64_t b) { return (int64_t)((a - b) << (24 - r->lg)) >> (24 - r->lg); }

static uint64_t later_of(local_ring *r, uint64_t a, uint64_t b) { return gap(r, a, b) > 0 ? a : b; }

static void raise_to(local_ring *r, shmq_au64 *hint, uint64_t to) {
    for (int i = 0; i < 8; i++) {
        uint64_t h = ld_rlx(hint);
        if (gap(r, h, to) >= 0 || cas(hint, h, to)) return;
    }
}

/* Slots with memory behind them, counted from slot 0; the first round fills them in order (I4). */
uint64_t ring_backed(local_ring *r) {
    uint64_t n = r->chunks ? (uint64_t)ld32_acq(r->chunks) * RING_CHUNK : UINT64_MAX;
    if (n > r->mask) {   /* from now on without a look */
        r->chunks = NULL;
        return r->mask + 1;
    }
    return n ? n : RING_CHUNK;   /* the first one is there, whatever the word says */
}

/* I4. Before position t is filled. Anyone may do it, several at a time. */
static int ring_back(shmq_ctx *ctx, local_ring *r, uint64_t t) {
    uint32_t all = (uint32_t)((r->mask + 1) / RING_CHUNK), have = all;
    uint64_t need = t > r->mask ? all : (t + RING_SLACK) / RING_CHUNK + 1;
    if (need > all) need = all;
    while (r->chunks && (have = ld32_acq(r->chunks)) < need) {
        int rc = arena_reserve(ctx, (uint64_t)((uint8_t *)(r->slots + (uint64_t)have * RING_CHUNK) - ctx->base), RING_CHUNK * 8);
        if (rc != SHMQ_OK) return rc;
        CRASH_POINT("ring_backed");
        cas32(r->chunks, have, have + 1);
    }
    r->backed = have >= all ? UINT64_MAX : (uint64_t)have * RING_CHUNK - RING_SLACK;
    return SHMQ_OK;
}

/* Is t what a tail can be: is the position before it filled, or filled and cleared? */
static int tail_credible(local_ring *r, uint64_t t) {
    if (r->chunks && ((t - 1) & r->mask) >= ring_backed(r)) return t == 0;
    uint64_t s = ld_acq(&r->slots[(t - 1) & r->mask]);
    int64_t d = round_diff(slot_round(s), (t - 1) >> r->lg);
    return t == 0 || d > 0 || (d == 0 && !slot_is_empty(s));
}

static int head_credible(local_ring *r, uint64_t h) {   /* what a head can be: the position before it is cleared */
    if (r->chunks && ((h - 1) & r->mask) >= ring_backed(r)) return h == 0;
    return h == 0 || round_diff(slot_round(ld_acq(&r->slots[(h - 1) & r->mask])), (h - 1) >> r->lg) > 0;
}

/* The best lower bounds: the shared hint where it is ahead of ours and its slots bear it out, else ours. */
static uint64_t head_hint(local_ring *r) {
    uint64_t h = ld_acq(&r->ends->head);
    return gap(r, h, r->head) > 0 && head_credible(r, h) ? h : r->head;
}

static uint64_t tail_hint(local_ring *r) {
    uint64_t t = ld_acq(&r->ends->tail);
    t = gap(r, t, r->tail) > 0 && tail_credible(r, t) ? t : r->tail;
    return later_of(r, t, r->head);   /* the true tail is not below the true head */
}

/* First sight of a ring: hints that its slots bear out, else rebuilt ones. */
void ring_settle_in(local_ring *r) {
    r->head = ld_acq(&r->ends->head);
    r->tail = ld_acq(&r->ends->tail);
    if (!head_credible(r, r->head) || !tail_credible(r, r->tail) || gap(r, r->tail, r->head) > (int64_t)r->mask + 1) ring_rebuild(r);
}

static int takeable(unsigned state) { return state == SHMQ_READY || (!MUTANT(4) && state == SHMQ_NEW) || state == SHMQ_MOVE; }

/* has the block that slot value s names been taken already? */
static int consumed(shmq_ctx *ctx, local_ring *r, uint64_t position, uint64_t s) {
    uint32_t idx = slot_idx(s);
    if (!block_known(ctx, idx)) return 1;
    uint64_t c = ld_acq(&block_at(ctx, idx)->ctl);
    if (ld_acq(&r->slots[position & r->mask]) != s) return 0;   /* R2 */
    unsigned st = ctl_state(c);
    return !(st == SHMQ_READY || st == SHMQ_NEW || st == SHMQ_MOVE);
}

/* One step up from position `at`, whose slot is d rounds ahead. Every 64th step jumps: to the shared hint, or over the rounds
 * that the slot says are over (its predecessors were all cleared): one who was stopped long need not walk all of it. */
static uint64_t step(local_ring *r, uint64_t (*hint)(local_ring *), uint64_t at, int64_t d, uint64_t n) {
    if ((n & 63) != 63) return at + 1;
    uint64_t h = hint(r);
    if (d > 2) h = later_of(r, h, at + 1 + ((uint64_t)(d - 2) << r->lg));   /* filled ones may lie in the round before the last */
    return gap(r, h, at) > 0 ? h : at + 1;
}

/* Does a place below `tail` wait for its first message of the round? Then that tail is a lie: enqueuers leave no such place (I1). */
static int hole_below(local_ring *r, uint64_t tail) {
    if (gap(r, tail, r->head) <= 0 || MUTANT(94)) return 0;
    uint64_t s = ld_acq(&r->slots[r->head & r->mask]);
    return slot_is_empty(s) && round_diff(slot_round(s), r->head >> r->lg) == 0;
}

#define RING_TURNS(r) (4 * ((r)->mask + 1) + 65536)   /* by then others made that much progress, or the hints are lies */

static uint64_t walk_head(local_ring *r, uint64_t to) {
    uint64_t h = head_hint(r);
    for (uint64_t n = 0; gap(r, to, h) > 0 && n < RING_TURNS(r); n++) {
        int64_t d = round_diff(slot_round(ld_acq(&r->slots[h & r->mask])), h >> r->lg);
        if (d <= 0) break;
        h = step(r, head_hint, h, d, n);
    }
    r->head = h;
    return h;
}

/* The test build says so when an operation uses the ring of a record that it does not reach (collect.c, I1). */
#ifdef SHMQ_CRASHPOINTS
static void in_reach(shmq_ctx *ctx, const local_ring *r) {
    if (!(ld_rlx(&ctx->me->op) & 1) || op_reaches(ld_rlx(&ctx->me->era), &ctx->queues[r->ring / SHMQ_LANES], r->ring / SHMQ_LANES)) return;
    fprintf(stderr, "VIOLATION: an operation that may touch record %u uses ring %u\n", op_at(ld_rlx(&ctx->me->era)), r->ring);
    abort();
}
#else
#define in_reach(ctx, r) ((void)0)
#endif

HOT int ring_enqueue(shmq_ctx *ctx, local_ring *r, uint32_t idx, uint64_t ctl, uint64_t max_depth) {
    in_reach(ctx, r);
    shmq_block *b = block_at(ctx, idx);
    uint64_t t = tail_hint(r);   /* I3 */
    int rc;
    for (int rebuilt = 0;; rebuilt = 1) {
        for (uint64_t n = 0; n < RING_TURNS(r); n++) {
            if (gap(r, t, r->head) < 0) t = r->head;   /* both are lower bounds, and the true tail is not below the true head */
            if (gap(r, t, r->head) >= (int64_t)max_depth && gap(r, t, walk_head(r, t)) >= (int64_t)max_depth) {
                if (!rebuilt && (!tail_credible(r, t) || hole_below(r, t))) break;
                r->tail = t;
                return SHMQ_FULL;
            }
            shmq_au64 *slot = &r->slots[t & r->mask];
            uint64_t s = ld_acq(slot);
            int64_t d = round_diff(slot_round(s), t >> r->lg);
            if (d > 0 || (d == 0 && !slot_is_empty(s))) {
                t = step(r, tail_hint, t, d, n);
                continue;
            }
            if (d == 0) {
                if (t >= r->backed && (rc = ring_back(ctx, r, t)) != SHMQ_OK) return rc;
                if (!MUTANT(6)) st_rlx(&b->pos, pos_make(r->ring, t));   /* INTENT: before the slot CAS */
                CRASH_POINT("intent");
                /* PUBLISH: here the message becomes visible. COMMIT publish, COMMIT route */
                if (!cas(slot, s, slot_make(t >> r->lg, idx))) continue;
                CRASH_POINT("enqueued");
                if (MUTANT(6)) st_rlx(&b->pos, pos_make(r->ring, t));
                r->tail = t + 1;
                if ((t + 1) % RING_HINTS == 0) raise_to(r, &r->ends->tail, t + 1);
                if (MUTANT(3)) st_rel(&b->ctl, ctl_to(ctl, SHMQ_READY, 0));
                else cas(&b->ctl, ctl, ctl_to(ctl, SHMQ_READY, 0));   /* fails when it was taken meanwhile: fine */
                return SHMQ_OK;
            }
            if (slot_is_empty(s)) break;   /* empty at an older round: a hint ran ahead */
            if (!consumed(ctx, r, t, s)) {   /* the round before is still there, though head is said to be beyond it */
                if (!rebuilt) break;
                r->tail = t;
                return SHMQ_FULL;
            }
            cas(slot, s, slot_empty(slot_round(s) + 1));
        }
        if (rebuilt || ring_rebuild(r) != SHMQ_OK) return SHMQ_E_CORRUPT;
        t = r->tail;
    }
}

/* A process that takes what is at h will soon take what is four places on. */
static inline void fetch_ahead(shmq_ctx *ctx, local_ring *r, uint64_t h) {
    uint64_t ahead = ld_rlx(&r->slots[(h + 4) & r->mask]);
    if (slot_is_empty(ahead) || slot_idx(ahead) >= ctx->indices) return;
    prefetch_to_write(block_at(ctx, slot_idx(ahead)));
    PREFETCH_PAYLOAD(ctx, slot_idx(ahead), prefetch_to_read);
}

/* The first takeable block, without taking it: the caller CASes its ctl from out->ctl, then calls ring_taken. */
HOT int ring_find(shmq_ctx *ctx, local_ring *r, ring_item *out) {
    in_reach(ctx, r);
    uint64_t h = head_hint(r);
    for (int rebuilt = 0;; rebuilt = 1) {
        for (uint64_t n = 0; n < RING_TURNS(r); n++) {
            shmq_au64 *slot = &r->slots[h & r->mask];
            uint64_t s = ld_acq(slot);   /* TAKE: acquire; pairs with PUBLISH */
            int64_t d = round_diff(slot_round(s), h >> r->lg);
            if (d > 0) {
                h = step(r, head_hint, h, d, n);
                continue;
            }
            if (d < 0) break;   /* a hint ran ahead */
            if (slot_is_empty(s)) {
                r->head = h;
                return SHMQ_EMPTY;   /* linearizes at the load of s */
            }
            uint32_t idx = slot_idx(s);
            if (!block_known(ctx, idx)) {
                if (cas(slot, s, slot_empty(slot_round(s) + 1))) add32(&ctx->header->corrupt, 1);
                h++;
                continue;
            }
            fetch_ahead(ctx, r, h);
            uint64_t c = ld_acq(&block_at(ctx, idx)->ctl);
            if (!MUTANT(2) && ld_acq(slot) != s) continue;   /* R2: c belongs to the incarnation that s names */
            if (takeable(ctl_state(c))) {
                *out = (ring_item){ .ctl = c, .slot = s, .position = h, .idx = idx };
                r->head = h;
                return SHMQ_OK;
            }
            if (MUTANT(4) && ctl_state(c) == SHMQ_NEW) return SHMQ_EMPTY;
            cas(slot, s, slot_empty(slot_round(s) + 1));   /* taken and not cleared: help (I2) */
            h++;
        }
        if (rebuilt || ring_rebuild(r) != SHMQ_OK) return SHMQ_E_CORRUPT;
        h = r->head;
    }
}

/* R1: the taker clears the slot right after its CAS to OWNED, before anything else can happen to the block. */
HOT void ring_taken(local_ring *r, const ring_item *item) {
    CRASH_POINT("taken");
    if (!MUTANT(1)) cas(&r->slots[item->position & r->mask], item->slot, slot_empty(slot_round(item->slot) + 1));
    if (item->position == r->head) r->head++;   /* else it was taken from the middle: those before it stay */
    if (r->head % RING_HINTS == 0) raise_to(r, &r->ends->head, r->head);
}

/* The first takeable block from *at on, without moving head; *at moves to its position, or to where the ring ends. Positions
 * below the true tail are never filled again: a walk may start where an earlier one has seen nothing. */
int ring_next(shmq_ctx *ctx, local_ring *r, uint64_t *at, ring_item *out) {
    in_reach(ctx, r);
    uint64_t h = later_of(r, *at, head_hint(r));
    for (uint64_t n = 0; n < RING_TURNS(r); n++) {
        shmq_au64 *slot = &r->slots[h & r->mask];
        uint64_t s = ld_acq(slot);   /* TAKE */
        int64_t d = round_diff(slot_round(s), h >> r->lg);
        if (d > 0) {
            h = step(r, head_hint, h, d, n);
            continue;
        }
        if (d < 0 || slot_is_empty(s)) {
            *at = h;
            return SHMQ_EMPTY;
        }
        uint32_t idx = slot_idx(s);
        fetch_ahead(ctx, r, h);
        uint64_t c = block_known(ctx, idx) ? ld_acq(&block_at(ctx, idx)->ctl) : 0;
        if (ld_acq(slot) != s) continue;   /* R2 */
        if (takeable(ctl_state(c))) {
            *at = h;
            *out = (ring_item){ .ctl = c, .slot = s, .position = h, .idx = idx };
            return SHMQ_OK;
        }
        cas(slot, s, slot_empty(slot_round(s) + 1));   /* taken and not cleared (I2), or no block at all */
        h++;
    }
    *at = h;
    return SHMQ_EMPTY;
}

/* Is that position, at most RING_SLACK beyond the tail, filled, or filled and cleared? */
int ring_passed(local_ring *r, uint64_t position) {
    uint64_t s = ld_acq(&r->slots[position & r->mask]);
    int64_t d = round_diff(slot_round(s), position >> r->lg);
    return d > 0 || (d == 0 && !slot_is_empty(s));
}

/* Does the slot still name that life of the block? Then what was read of its header before this was that life's. */
int ring_still(local_ring *r, const ring_item *item) { return ld_acq(&r->slots[item->position & r->mask]) == item->slot; }

/* Does slot value s hold idx at `position`, of which 48 bits are known and, in the slot, 40 bits of the round? */
static int names(local_ring *r, uint64_t s, uint64_t position, uint32_t idx) {
    unsigned bits = 48 - r->lg < 40 ? 48 - r->lg : 40;
    uint64_t mask = (UINT64_C(1) << bits) - 1;
    return !slot_is_empty(s) && slot_idx(s) == idx && ((slot_round(s) ^ position >> r->lg) & mask) == 0;
}

int ring_holds(local_ring *r, uint64_t position, uint32_t idx) { return names(r, ld_acq(&r->slots[position & r->mask]), position, idx); }

/* Clear the slot at `position` if it holds idx of that round: safe however late, since (round, idx) occurs once ever. */
int ring_clear(local_ring *r, uint64_t position, uint32_t idx) {
    uint64_t s = ld_acq(&r->slots[position & r->mask]);
    return names(r, s, position, idx) && cas(&r->slots[position & r->mask], s, slot_empty(slot_round(s) + 1));
}

static uint64_t walk_tail(local_ring *r) {
    for (int rebuilt = 0;; rebuilt = 1) {
        uint64_t t = tail_hint(r);
        int64_t d = 0;
        for (uint64_t n = 0; n < RING_TURNS(r); n++) {
            uint64_t s = ld_acq(&r->slots[t & r->mask]);
            d = round_diff(slot_round(s), t >> r->lg);
            if (d < 0 || (d == 0 && slot_is_empty(s))) break;
            t = step(r, tail_hint, t, d, n);
        }
        /* d < 0: the ring is full up to t, or the hint ran ahead */
        if ((d < 0 && !tail_credible(r, t)) && !rebuilt && ring_rebuild(r) == SHMQ_OK) continue;
        r->tail = t;
        return t;
    }
}

uint64_t ring_depth(local_ring *r) {
    uint64_t t = walk_tail(r), h = walk_head(r, t);
    if (RARE(hole_below(r, t)) && ring_rebuild(r) == SHMQ_OK) {
        t = walk_tail(r);
        h = walk_head(r, t);
    }
    return gap(r, t, h) > 0 ? (uint64_t)gap(r, t, h) : 0;
}

/* Are `most` there? For who must not rely on an enqueue that counts: what others have put in is looked for, but the shared
 * head, which their takers write, only when ours does not show that there is room. */
int ring_full(local_ring *r, uint64_t most) { return gap(r, tail_hint(r), r->head) + RING_HINTS >= (int64_t)most && ring_depth(r) >= most; }

/* How many slots are filled: less than the depth where messages were taken from the middle. Looks at each. */
uint64_t ring_filled(local_ring *r) {
    uint64_t n = 0, left = ring_depth(r);
    for (uint64_t p = r->head; left && left <= r->mask + 1; p++, left--) {
        uint64_t s = ld_acq(&r->slots[p & r->mask]);
        n += !slot_is_empty(s) && round_diff(slot_round(s), p >> r->lg) == 0;
    }
    return n;
}

/* Near enough and cheap: hints move every 16th position. */
uint64_t ring_about(local_ring *r) {
    uint64_t t = tail_hint(r), h = head_hint(r);
    return (gap(r, t, h) > 0 ? (uint64_t)gap(r, t, h) : 0) + RING_HINTS;
}

int ring_seems_empty(local_ring *r) {
    uint64_t h = head_hint(r);
    for (uint64_t n = 0; n < RING_TURNS(r); n++) {
        uint64_t s = ld_sc(&r->slots[h & r->mask]);
        int64_t d = round_diff(slot_round(s), h >> r->lg);
        if (d > 0) {
            h = step(r, head_hint, h, d, n);
            continue;
        }
        r->head = h;
        return d == 0 && slot_is_empty(s);   /* d < 0: let ring_find rebuild the hints */
    }
    return 0;   /* cannot tell: look properly */
}

/* Hints from the slots: tail = lowest position that an EMPTY slot waits for, head = lowest filled position. */
int ring_rebuild(local_ring *r) {
    uint64_t n = r->mask + 1, tail = UINT64_MAX, head = UINT64_MAX, backed = ring_backed(r);
    for (uint64_t i = 0; i < backed; i++) {
        uint64_t s = ld_acq(&r->slots[i]), p = slot_round(s) << r->lg | i;
        if (slot_is_empty(s)) {
            if (p < tail) tail = p;
        } else if (p < head) head = p;
    }
    if (tail == UINT64_MAX) tail = head + n;
    if (head == UINT64_MAX || head > tail) head = tail;
    if (tail - head > 2 * n) return SHMQ_E_CORRUPT;   /* a cleared slot in the middle waits for its next round already */
    st_rlx(&r->ends->head, head);
    st_rlx(&r->ends->tail, head);   /* everyone walks up from here */
    r->head = r->tail = head;
    return SHMQ_OK;
}
