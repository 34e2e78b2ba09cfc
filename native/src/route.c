/* route.c: where a MOVE goes.
 *
 *   MOVE(me) --> a ring of its home: READY | due later: DELAYED | no room: parked (park.c) | tried too often, expired: dead-letter queue
 *            --> FREE: its home is gone, it is a duplicate, it is refused, or dead and there is no dead-letter queue
 *
 *   full and drop-oldest   first READY of the lowest level --CAS--> OWNED(me) --CAS--> MOVE(me) --> its dead-letter queue, or over
 *   parked and room        DELAYED+PARKED --CAS--> MOVE(me)+PARKED --> into the ring, or parked again
 *
 * These call each other in the middle of things: what enters may displace another, whose dead-letter queue may be full as well, and whoever
 * has parked a message sends on what may go. So they are one file.
 *
 * I1  Only the owner of MOVE writes fate, due_ns, expires_ns. fate is one word: attempts, home and reason change together.
 * I2  A MOVE that loses its owner is routed again from fate and due_ns alone, without counting another attempt.
 * I3  Nothing is ever dropped for want of room, but by a policy that says so.
 * I4  The one that goes for another is taken as a consumer takes it: nobody else has it. Lanes of keys are not asked: what is over is no
 *     lane's.
 * I5  A message that goes may displace another one in its dead-letter queue, and that one the next: MOST_DEEP in a row, and never into a
 *     queue in which room is just being made; then it is over. So queues that are each other's dead-letter queues do not go round.
 * I6  OWN WAY. What came back and waits for room needs a place in the redelivery ring, not below max_depth: in an ordered queue the new ones
 *     may all wait for the very keys of those that wait here, and nobody would make room.
 * I7  Who gives the turn of the parked back looks once more: room may have been made by one who found the turn taken.
 *
 * Who dies where: after fate, before the slot CAS: routed to the new home. After the slot CAS: recovery makes it READY. DELAYED without its
 * timer hint: recovery and every new sidecar scan for DELAYED. With another's message, to make room: as a taker, the message comes back.
 * In MOVE+PARKED, or with the turn: park.c.
 */
#include "route.h"
#include "clock.h"
#include "dedup.h"
#include "free.h"
#include "hints.h"
#include "ids.h"
#include "level.h"
#include "order.h"
#include "park.h"
#include "queue.h"
#include "ring.h"
#include "room.h"
#include "waiter.h"

#define VAIN 4

/* Has it been tried too often? A dead letter stays where it is, unless its queue has a dead-letter queue of its own. */
int route_spent(local_queue *q, uint64_t fate) {
    return fate_attempts(fate) > q->options.max_retries && (fate_reason(fate) == 0 || q->options.dead_letter != SHMQ_NO_QUEUE);
}

/* The queue where fate says that idx is at home. *q = NULL: there is none, and the block, which the caller owned, is over. */
static int home_of(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, uint64_t fate, local_queue **q) {
    int rc = queue_open_local(ctx, fate_home(fate), q);
    if (rc == SHMQ_OK && queue_status(*q) != SHMQ_GONE) return SHMQ_OK;
    *q = NULL;
    if (rc != SHMQ_OK && rc != SHMQ_E_NOTFOUND) {   /* never lost for a reason of ours */
        free_quarantine(ctx, idx, ctl);
        return rc;
    }
    free_whole(ctx, idx, ctl);   /* ends with its queue */
    return SHMQ_OK;
}

/* Let a dead letter go to its queue, or free it where there is none. The caller owns idx in MOVE. */
int route_dead(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, unsigned reason) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t f = ld_rlx(&b->fate), plain = ctl & ~PARKED_CTL;
    if (plain != ctl && !cas(&b->ctl, ctl, plain)) return SHMQ_OK;   /* the first of its old queue's, not of where it goes */
    ctl = plain;
    local_queue *q;
    int rc = home_of(ctx, idx, ctl, f, &q);
    if (q == NULL) return rc;
    if (reason == SHMQ_R_EXPIRED) bump(&q->counters->expired, 1);
    local_queue *dead = reason == SHMQ_R_EXPIRED && q->options.expired ? NULL : queue_dead(ctx, q);
    if (dead == NULL) {
        bump(&q->counters->dropped, 1);
        free_whole(ctx, idx, ctl);
        order_over(q);
        return SHMQ_OK;
    }
    bump(&q->counters->dead_lettered, 1);
    if (MUTANT(57)) st_rlx(&b->expires_ns, 0);   /* before fate: whoever routes it anew would not know that it has expired */
    st_rlx(&b->due_ns, clock_now(ctx));
    /* I1, COMMIT dead */
    st_rel(&b->fate, fate_make(queue_index(ctx, dead), fate_home(f), 0, fate_attempts(f), reason, 0, fate_prio(f), fate_meta(f)));
    CRASH_POINT("fate");
    st_rlx(&b->expires_ns, ld_rlx(&b->due_ns));   /* the time of its death, which a backoff in its new queue leaves alone; after fate */
    order_over(q);
    return route_on(ctx, idx, ctl);
}

static int delay(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    uint64_t expires = expires_of(block_at(ctx, idx));
    if (cas(&block_at(ctx, idx)->ctl, ctl, ctl_to(ctl, SHMQ_DELAYED, 0))) {   /* COMMIT route */
        CRASH_POINT("delayed");
        hints_delayed(ctx, idx);
        hints_expiry(ctx, expires);
    }
    return SHMQ_OK;
}

static int goes_round(shmq_ctx *ctx, local_queue *q) {   /* I5 */
    local_queue *to = queue_dead(ctx, q);
    for (uint32_t i = 0; i < ctx->deep; i++)
        if (to && to->shared == ctx->making[i]) return 1;
    return ctx->deep == MOST_DEEP;
}

static void displaced(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t move) {
    if (!goes_round(ctx, q)) {
        ctx->making[ctx->deep++] = q->shared;
        route_dead(ctx, idx, move, SHMQ_R_OVERFLOW);
        ctx->deep--;
        return;
    }
    bump(&q->counters->dropped, 1);
    free_whole(ctx, idx, move);
}

int route_make_room(shmq_ctx *ctx, local_queue *q) {   /* overflow = drop-oldest */
    ring_item item;
    if (q->options.overflow != SHMQ_DROP_OLDEST) return SHMQ_FULL;
    for (int tries = 0; tries < 64; tries++) {
        uint32_t lanes = queue_lanes(ctx, q);
        local_ring *r = &q->work;
        int rc = lanes & SHMQ_LANES_ORDERED ? ring_find(ctx, r, &item) : level_lowest(ctx, q, lanes, &r, &item);
        if (rc != SHMQ_OK) return SHMQ_OK;   /* none is ready any more: others were quicker */
        uint64_t own = ctl_next(item.ctl, SHMQ_OWNED, ctx->self);
        if (!cas(&block_at(ctx, item.idx)->ctl, item.ctl, own)) continue;
        ring_taken(r, &item);
        uint64_t move = ctl_next(own, SHMQ_MOVE, ctx->self);
        queue_bytes_out(q, size_at(ctx, block_at(ctx, item.idx)));
        if (cas(&block_at(ctx, item.idx)->ctl, own, move)) displaced(ctx, q, item.idx, move);
        return SHMQ_OK;
    }
    return SHMQ_FULL;
}

/* FRESH: room was found before the commit; that others were quicker must not put it behind its producer's next one. Not so what
 * was delayed, or is dead: none was looked for. */
static int fresh(shmq_block *b, uint64_t ctl) { return (ctl_flags(ctl) & SHMQ_FLAG_FRESH) && !ld_rlx(&b->due_ns) && !MUTANT(55); }

/* Would a full queue refuse such a message, not let it wait? A dead letter that is refused has nowhere else to go. */
static int refuses(local_queue *q, uint64_t fate) { return q->options.overflow == SHMQ_REJECT && fate_reason(fate); }

static int refuse(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl) {
    bump(&q->counters->dropped, 1);
    free_whole(ctx, idx, ctl);
    order_over(q);
    return SHMQ_OK;
}

/* Into a ring of its home for new messages, if there is room or some can be made. FULL: there is none. */
static int enter_new(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t size) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t f = ld_rlx(&b->fate);
    local_ring *r;
    int free_way = fresh(b, ctl) || fate_again(f);   /* to the places beyond max_depth */
    if (level_open(ctx, q, fate_prio(f), &r) != SHMQ_OK) r = &q->work;   /* no memory for its level: the lowest has some */
    for (int tries = 0; tries < 64; tries++) {
        if (free_way || !room_full(ctx, q, size, fate_prio(f), 0)) {
            queue_bytes_in(q, size);
            int rc = ring_enqueue(ctx, r, idx, ctl, free_way ? r->mask + 1 : q->most);
            if (rc != SHMQ_OK) queue_bytes_out(q, size);
            if (rc != SHMQ_FULL || free_way) return rc;
        }
        if (q->options.overflow != SHMQ_DROP_OLDEST || route_make_room(ctx, q) != SHMQ_OK) break;
    }
    return refuses(q, f) ? refuse(ctx, q, idx, ctl) : SHMQ_FULL;
}

/* Into the ring that fate says, of the queue where it is at home. OK: it is there, or over. FULL: there is no room. */
int route_enter(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t size = size_at(ctx, b), expires = expires_of(b);   /* before it is visible: then it is others' */
    int rc = SHMQ_FULL;
    if (fate_again(ld_rlx(&b->fate)) && queue_again_ready(ctx, q) == SHMQ_OK) {
        queue_bytes_in(q, size);
        rc = ring_enqueue(ctx, &q->again, idx, ctl, q->again.mask + 1);
        if (rc != SHMQ_OK) queue_bytes_out(q, size);
    }
    if (rc == SHMQ_FULL || rc == SHMQ_E_NOMEM) rc = enter_new(ctx, q, idx, ctl, size);
    if (rc == SHMQ_E_NOMEM) rc = SHMQ_FULL;   /* no memory for more of its ring: that is room as well */
    if (rc == SHMQ_OK) {
        waiter_wake(&q->shared->evt);
        hints_expiry(ctx, expires);
    } else if (rc != SHMQ_FULL) free_quarantine(ctx, idx, ctl);
    return rc;
}

/* I6. */
static int room_back(shmq_ctx *ctx, local_queue *q) {
    return queue_again_ready(ctx, q) == SHMQ_OK && ring_depth(&q->again) <= q->again.mask;
}

static int room_of(shmq_ctx *ctx, local_queue *q, uint32_t idx) {
    return room_for(ctx, q, 1, 1) || (fate_again(ld_rlx(&block_at(ctx, idx)->fate)) && room_back(ctx, q) && !MUTANT(95));
}

/* With the turn: while there is room. 0 = it is no use to go on: nobody waits, or the first one cannot get in. */
static int send_some(shmq_ctx *ctx, local_queue *q, uint32_t most, uint32_t *sent) {
    uint32_t vain = 0;
    uint64_t c;
    for (uint32_t tries = 0; *sent < most && vain < VAIN && tries < LINE; tries++) {
        parked_line *l = park_line(ctx, q);   /* each time: the message that we sent may have made another queue's */
        uint32_t idx = park_next(ctx, q, l);
        if (idx == NOBODY) {
            if (park_over(q, l)) return 0;
            vain++;   /* somebody has come, or words are damaged: not for ever */
            continue;
        }
        if (!park_waits_next(ctx, q, l, &c)) {
            l->next++;
            continue;
        }
        if (!room_of(ctx, q, idx)) return 0;
        uint64_t m = ctl_next(c, SHMQ_MOVE, ctx->self) | PARKED_CTL;
        if (!cas(&block_at(ctx, idx)->ctl, c, m)) continue;
        CRASH_POINT("unparked");
        if (route_enter(ctx, q, idx, m) != SHMQ_FULL) {
            if (l->live == q->live) l->next++;
            ++*sent;
            continue;
        }
        park(ctx, q, idx, m);   /* it stays where it is in the line */
        return 0;
    }
    return vain < VAIN;
}

/* Send on what waits, `most` messages at most, as far as there is room. How many it were. Under the ctx lock, in op. */
uint32_t route_parked(shmq_ctx *ctx, local_queue *q, uint32_t most) {
    uint32_t sent = 0;
    for (int rounds = 0; rounds < ROUNDS; rounds++) {
        fence_sc();   /* PARKED: what we have parked, or the slot that we have cleared, before this look; and the turn, I7 */
        if (sent >= most || !park_some(q) || !(room_for(ctx, q, 1, 1) || room_back(ctx, q)) || !park_turn_take(ctx, q)) break;
        CRASH_POINT("turn");
        int on = send_some(ctx, q, most, &sent);
        cas(&q->shared->turn, park_turn_of(ctx), 0);
        CRASH_POINT("turn_over");
        if (!on) break;
    }
    return sent;
}

/* Send a block that the caller owns in MOVE where fate and due_ns say. Nothing is ever dropped for want of room. */
int route_on(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t f = ld_rlx(&b->fate);
    local_queue *q;
    int rc = home_of(ctx, idx, ctl, f, &q);
    if (q == NULL) return rc;
    if ((f & FATE_DEDUP) && !MUTANT(22)) {   /* committed, and its publisher could not say whether it is the first */
        uint64_t first;
        rc = dedup_settle(ctx, q, idx, ctl, &first);
        if (rc == ID_DUPLICATE) return SHMQ_OK;
        if (rc != ID_FIRST) {   /* the table is full: later */
            uint64_t again = clock_now(ctx) + UINT64_C(50000000);
            if (ld_rlx(&b->due_ns) < again) st_rlx(&b->due_ns, again);
            return delay(ctx, idx, ctl);
        }
        f = ld_rlx(&b->fate);
    }
    uint64_t expires = expires_of(b);
    if (expires && expires <= clock_now(ctx)) return route_dead(ctx, idx, ctl, SHMQ_R_EXPIRED);   /* it expired in somebody's hands */
    if (fate_again(f) && route_spent(q, f)) return route_dead(ctx, idx, ctl, SHMQ_R_RETRIES);
    if (ld_rlx(&b->due_ns) > clock_now(ctx)) return delay(ctx, idx, ctl);
    /* those that wait come first; what found its room before it was committed (FRESH) does not wait, nor what goes to the front */
    int waits = park_some(q) && !fate_again(f) && !fresh(b, ctl) && q->options.overflow != SHMQ_DROP_OLDEST && !MUTANT(83);
    if (waits && refuses(q, f) && room_full(ctx, q, size_at(ctx, b), fate_prio(f), 0) && !MUTANT(87)) return refuse(ctx, q, idx, ctl);
    rc = waits ? SHMQ_FULL : route_enter(ctx, q, idx, ctl);
    if (rc != SHMQ_FULL) return rc;
    park(ctx, q, idx, ctl);
    if (!MUTANT(84)) route_parked(ctx, q, UINT32_MAX);   /* PARKED: there may be room by now, and whoever made it has not seen it */
    return SHMQ_OK;
}

/* Mark a block owned in MOVE for redelivery; an attempt counts only for what was handed out. */
void route_again(shmq_ctx *ctx, uint32_t idx, int attempted) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t f = ld_rlx(&b->fate);
    if (attempted && fate_attempts(f) < SHMQ_ATTEMPTS_MAX) f += FATE_ATTEMPT;
    st_rlx(&b->fate, f | FATE_AGAIN);
}

/* OWNED (of me, or of a proven-dead owner whose slot entry the caller has cleared) -> back to its queue. */
int route_back(shmq_ctx *ctx, uint32_t idx, uint64_t ctl, int attempted) {
    uint64_t m = ctl_next(ctl, SHMQ_MOVE, ctx->self);
    if (!cas(&block_at(ctx, idx)->ctl, ctl, m)) return SHMQ_STALE;
    CRASH_POINT("returned");
    route_again(ctx, idx, attempted);
    st_rlx(&block_at(ctx, idx)->due_ns, 0);
    return route_on(ctx, idx, m);
}
