/* recover.c: what a dead process held comes back: on-line, by anyone, restartable, several at a time.
 *
 *   state of a block of the dead p      what recovery does                                             who else may do it
 *   NEW(p), in the slot that pos names  CAS to READY (it was published)                                takers take it as it is
 *   NEW(p), not there                   CAS to FREE (it never was)                                     nobody
 *   NEW(p), tied to a forwarded S       CAS to MOVE(me), route                                         who recovers S
 *   NEW(p), child of a FAN              CAS to MOVE(me), route: published with its siblings (topic.c)  nobody
 *   FAN                                 FREE if its children are all over, its count put right         who ends the last one
 *   MOVE(p), in its slot                CAS to READY                                                   takers
 *   MOVE(p), not there                  CAS to MOVE(me), route by fate and due_ns, no attempt counted   nobody
 *   MOVE(p) from the parked             the same: it goes on being the first of those (park.c)         nobody
 *   DELAYED, PARKED                     its queue is told that some wait there                         nobody
 *   MOVE(p), forwarded                  CAS to MOVE(me), send its replacement on, free it              nobody
 *   OWNED(p)                            clear the slot, CAS to MOVE(me), attempt++ if STARTED, route    lease expiry
 *   FREE without hint bit               set the bit                                                    alloc's scan
 *   LIMBO                               FREE if no living held entry names it                          whoever clears an entry
 *
 * I1  p is dead: nobody stores as p any more, and only p could have put b into a slot. So "is it in its slot" is decidable; and
 *     if it was put there and taken meanwhile, ctl has changed and our exact CAS fails.
 * I2  After each ctl load the owner word is read again (DEAD): only while it still shows this very death may that ctl be acted
 *     on. A recoverer that was stopped while the record was re-used stops there.
 * I3  The record becomes FREE only after one full pass by the one who frees it. Recovery never writes held entries: a late
 *     recoverer could hit the next owner's; they mean nothing once ctl has changed, and the next owner clears them before use.
 * I4  Sleepers are woken first, unconditionally, on every queue: the dead may have carried a wake-up (waiter.c, I3). Those of
 *     closed queues again at the end: what was freed may have been the last that they waited for.
 * I5  Only what was in somebody's hands goes to the front. FRESH says that it was in none, whatever pos its process had stored.
 * A recoverer that dies leaves p DEAD and its own blocks OWNED/MOVE(me): the next one recovers both, in any order.
 */
#include "arena.h"
#include "fan.h"
#include "forward.h"
#include "free.h"
#include "park.h"
#include "queue.h"
#include "ring.h"
#include "route.h"
#include "sort.h"
#include "topic.h"
#include "unpark.h"
#include "waiter.h"

static int still_dead(shmq_ctx *ctx, uint32_t p, uint64_t word) {   /* I2 (DEAD) */
    return MUTANT(7) || ld_acq(&ctx->owners[p].word) == word;
}

static void clear_slot(shmq_ctx *ctx, uint32_t idx, uint64_t c) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t pos = ld_rlx(&b->pos);
    if (ld_acq(&b->ctl) != c) return;   /* pos belongs to a later life */
    local_ring *r = queue_ring(ctx, pos_ring(pos));
    if (r && !MUTANT(13)) ring_clear(r, pos_position(pos), idx);
}

static int in_slot(shmq_ctx *ctx, uint32_t idx) {
    uint64_t pos = ld_rlx(&block_at(ctx, idx)->pos);   /* INTENT */
    local_ring *r = queue_ring(ctx, pos_ring(pos));
    return r != NULL && ring_holds(r, pos_position(pos), idx);
}

/* topic.c, I1: was child idx, NEW in the hands of a dead publisher under exactly ctl, published with its siblings? */
static int committed(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    uint32_t p = ld32_rlx(&block_at(ctx, idx)->size);
    if (MUTANT(40)) return 0;
    if (!block_known(ctx, p)) return 0;
    shmq_block *b = block_at(ctx, p);
    uint64_t c = ld_acq(&b->ctl), n;
    /* to be forwarded by the same dead process: decided by the delivery that it is tied to, for good (forward.c, I5) */
    if (ctl_state(c) == SHMQ_NEW && ctl_owner(c) == ctl_owner(ctl) && (ld_rlx(&b->fate) & FATE_CHILDREN) && !MUTANT(29)
        && ld_acq(&block_at(ctx, idx)->ctl) == ctl) {   /* DEAD: as long as the child is not recovered, nobody else has that record */
        if (forward_decided(ctx, p, c)) topic_commit(ctx, p, c);
        c = ld_acq(&b->ctl);
    }
    if (ctl_state(c) != SHMQ_FAN && !MUTANT(41)) return 0;
    shmq_au64 *child = fan_children(ctx, p, &n);
    int found = 0;
    for (uint64_t i = 0; child && i < n && !found; i++) found = ld_rlx(&child[i]) == child_make(idx, ctl_gen(ctl));
    return found && ld_acq(&b->ctl) == c;
}

static void announce(shmq_ctx *ctx, int closed_only) {
    uint32_t n = queues_used(ctx);
    for (uint32_t i = 0; i < n; i++) {
        unsigned st = queue_state(ld_acq(&ctx->queues[i].word));
        if (st == SHMQ_Q_FREE || (closed_only && st != SHMQ_Q_CLOSED)) continue;
        waiter_announce_all(&ctx->queues[i]);
    }
}

/* The leases of p, in the order in which they were published. 0 = somebody else finished this death. */
static int recover_held(shmq_ctx *ctx, uint32_t p, uint64_t word) {
    shmq_held *h = held_of(ctx, p);
    uint32_t used = held_used(ctx, p), n = 0;
    for (uint32_t i = 0; i < used; i++) {
        uint64_t e = ld_acq(&h[i].word);
        if (e == 0) continue;
        uint32_t idx = held_idx(e);
        uint64_t c = block_known(ctx, idx) ? ld_acq(&block_at(ctx, idx)->ctl) : 0;
        if (!still_dead(ctx, p, word)) return 0;
        if (ctl_state(c) != SHMQ_OWNED || ctl_owner(c) != p || (held_flags(e) & SHMQ_HELD_VIEW)) continue;
        if (!held_names(e, c) && !held_names(e, c + 1)) continue;   /* of an older lease; gen+1: it died in touch or start */
        uint64_t pos = ld_rlx(&block_at(ctx, idx)->pos);
        ctx->scratch[n].idx = idx;
        ctx->scratch[n].entry = i;
        ctx->scratch[n++].key = pos_position(pos) | (uint64_t)(pos_ring(pos) % SHMQ_LANES != SHMQ_LANE_AGAIN) << 63;
    }
    keyed_sort(ctx->scratch, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t idx = ctx->scratch[i].idx;
        uint64_t e = ld_acq(&h[ctx->scratch[i].entry].word), c = ld_acq(&block_at(ctx, idx)->ctl);
        if (!still_dead(ctx, p, word)) return 0;
        if (e && ctl_state(c) == SHMQ_OWNED && ctl_owner(c) == p) {
            clear_slot(ctx, idx, c);
            local_queue *q;
            if (queue_open_local(ctx, fate_home(ld_rlx(&block_at(ctx, idx)->fate)), &q) == SHMQ_OK) bump(&q->counters->recovered, 1);
            route_back(ctx, idx, c, (held_flags(e) & SHMQ_HELD_STARTED) != 0);
            CRASH_POINT("recovered_one");
        }
    }
    return 1;
}

static int recover_blocks(shmq_ctx *ctx, uint32_t p, uint64_t word) {
    int delayed = 0;
    uint64_t parked[SHMQ_QUEUES / 64] = { 0 };   /* queues at which something waits for room, or was the first to */
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        uint32_t idx = walk.idx;
        shmq_block *b = block_at(ctx, idx);
        uint64_t c = ld_acq(&b->ctl);
        unsigned st = ctl_state(c);
        if (st == SHMQ_FREE) {
            if (!(ld_rlx(&ctx->l0[idx / 64]) >> (idx % 64) & 1)) arena_hint(ctx, idx);
            continue;
        }
        if (st == SHMQ_LIMBO) {
            free_limbo(ctx, idx);
            continue;
        }
        uint32_t home = fate_home(ld_rlx(&b->fate)) % SHMQ_QUEUES;
        if (st == SHMQ_DELAYED) {
            delayed = 1;
            if (ctl_flags(c) & SHMQ_FLAG_PARKED) parked[home / 64] |= UINT64_C(1) << (home % 64);
            continue;
        }
        if (st == SHMQ_FAN) {   /* p may have ended a child and not said so */
            if (!MUTANT(43)) free_parent_check(ctx, idx);
            continue;
        }
        if (ctl_owner(c) != p || (st != SHMQ_NEW && st != SHMQ_OWNED && st != SHMQ_MOVE)) continue;
        if (!still_dead(ctx, p, word)) return 0;
        if (st == SHMQ_OWNED) {
            clear_slot(ctx, idx, c);
            route_back(ctx, idx, c, 0);
        } else if (in_slot(ctx, idx)) cas(&b->ctl, c, ctl_to(c, SHMQ_READY, 0));
        else if (st == SHMQ_NEW && (ctl_flags(c) & SHMQ_FLAG_CHILD) && committed(ctx, idx, c)) {
            uint64_t m = ctl_next(c, SHMQ_MOVE, ctx->self);   /* all or none: this one was published with the others */
            if (!cas(&b->ctl, c, m)) continue;
            CRASH_POINT("adopted_child");
            if (MUTANT(49)) st_rlx(&b->fate, ld_rlx(&b->fate) & ~FATE_DEDUP);
            route_on(ctx, idx, m);
        } else if (st == SHMQ_NEW) {
            if (forward_decided(ctx, idx, c)) forward_send(ctx, idx, c);
            else if (cas(&b->ctl, c, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(c)))) arena_hint(ctx, idx);
        } else {
            /* taken from a ring of its home queue: it was on its way back there, to the front, maybe not yet marked so.
             * But one on its first way goes behind those before it, whatever place it had in mind when its process died. */
            unsigned from = pos_ring(ld_rlx(&b->pos)) / SHMQ_LANES;
            uint64_t m = ctl_next(c, SHMQ_MOVE, ctx->self) | (c & PARKED_CTL), f = ld_rlx(&b->fate);
            if (!cas(&b->ctl, c, m)) continue;
            if (ctl_flags(c) & SHMQ_FLAG_PARKED) parked[home / 64] |= UINT64_C(1) << (home % 64);
            if ((f & FATE_FORWARD) && !MUTANT(27)) {
                forward_finish(ctx, idx, m);
                continue;
            }
            if ((f & FATE_LEAVING) && !MUTANT(26)) {
                st_rlx(&b->due_ns, 0);
                st_rel(&b->fate, f &= ~FATE_LEAVING);
            }
            /* died just now; route_dead may not have said when */
            if (fate_reason(f) && !fate_again(f) && fate_attempts(f) == 0 && ld_rlx(&b->due_ns)) st_rlx(&b->expires_ns, ld_rlx(&b->due_ns));
            if (from == fate_home(f) && !(ctl_flags(c) & SHMQ_FLAG_PARKED) && (!(ctl_flags(c) & SHMQ_FLAG_FRESH) || MUTANT(54)))
                st_rlx(&b->fate, f | FATE_AGAIN);
            CRASH_POINT("adopted");
            route_on(ctx, idx, m);
        }
    }
    for (uint32_t q = 0; q < SHMQ_QUEUES && !MUTANT(85); q++)
        if (parked[q / 64] >> (q % 64) & 1) park_disturb(ctx, q);   /* before p's record is FREE: so long nobody takes a turn of p's */
    if (!MUTANT(53)) st_rel(&ctx->header->next_expiry, 0);   /* p may have died between READY and the look at it */
    if (delayed) st32_rel(&ctx->header->timer_lost, 1);   /* p may have died between DELAYED and its hint */
    add32(&ctx->header->timer_evt, 2);
    futex_wake(&ctx->header->timer_evt, 1);
    return 1;
}

/* Recover what a record that is DEAD held. OK, or STALE when it is not dead (any more). */
int shmq_recover(shmq_ctx *ctx, uint32_t p) {
    if (p >= ctx->geometry.processes) return SHMQ_E_ARG;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    uint64_t word = ld_acq(&ctx->owners[p].word);
    rc = SHMQ_STALE;
    if (owner_state(word) == SHMQ_OWNER_DEAD) {
        op_begin(ctx);
        if (!MUTANT(14)) announce(ctx, 0);   /* I4 */
        rc = SHMQ_OK;
        if (recover_held(ctx, p, word) && recover_blocks(ctx, p, word)) {
            announce(ctx, 1);   /* what was freed may have been the last of a closed queue: its consumers are done */
            CRASH_POINT("recovered");
            st_rlx(&ctx->owners[p].image, 0);   /* owner.c, I5; if another one has been quicker, an exec goes unnoticed here, no more */
            cas(&ctx->owners[p].word, word, owner_make(SHMQ_OWNER_FREE, owner_epoch(word) + 1, 0, 0));   /* I3 */
            CRASH_POINT("recovered_free");
            if (!MUTANT(86)) unpark_all(ctx);   /* p may have had the turn to send on what waits for room */
        }
        op_end(ctx);
    }
    ctx_unlock(ctx);
    if (rc == SHMQ_OK) shmq_topic_sweep(ctx);   /* subscriptions that end with p */
    return rc;
}
