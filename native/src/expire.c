/* expire.c: the TTL sweep: expired messages leave their queue though nobody takes them; the sidecar's side.
 *
 *   header.next_expiry   no READY or DELAYED message expires before it, as far as known; UINT64_MAX: none does; 0: look at once
 *
 *   sweep    next_expiry = MAX --> look at every block --> expired:      READY --> OWNED(me), slot cleared --> MOVE(me) --> killed
 *                                                                        DELAYED --> MOVE(me) --> killed
 *                                                          soon:         handed to the caller, who comes back with it in time
 *                                                          later:        next_expiry lowered to the earliest of them, at the end
 *   publish  ... slot CAS, ctl CAS to READY (or to DELAYED) --> next_expiry above mine? lower it, wake the sidecar
 *
 * Truth is block.expires_ns; takers look at it themselves, so that an expired message is never delivered whatever happens here.
 *
 * I1  The hint is reset before the first block is looked at, and looked at by whoever makes a block READY or DELAYED after its
 *     ctl CAS (EXPIRY): either that one sees the reset and lowers the hint, or the sweep sees the block as READY or DELAYED. So
 *     NEW, OWNED and MOVE need no look: they come through that door later.
 * I2  A death may have been just there: recovery sets the hint to 0. A process that is stopped there makes its message late: the
 *     sidecar sweeps every now and then without any hint, and a new sidecar begins with a sweep.
 * I3  An expired block is taken as a consumer takes it: one exact ctl CAS decides against takers, other sweeps, timers and looks.
 *
 * Who dies where: after the reset: the successor sweeps first. OWNED(dead): recovery clears the slot and routes it, where it is
 * found expired. MOVE(dead): the same. With candidates in hand: they are found again.
 */
#include "hints.h"
#include "park.h"
#include "queue.h"
#include "ring.h"
#include "route.h"
#include "unpark.h"
#include "waiter.h"
#include <limits.h>

#define SLICE_BLOCKS 16384
#define SLICE_KILLS 1024

/* room for who waits, messages or producers; and a closed queue may be empty now */
static void taken_out(shmq_ctx *ctx, local_queue *q) {
    if (park_some(q)) unpark_share(ctx, q, 1);
    waiter_wake(&q->shared->space);
    if (ld_rlx(&q->shared->word) != q->live) waiter_announce(&q->shared->evt);
}

/* 1 = expired and gone. 0: *at = when it expires, 0 = not at all, or not here. */
static int expire_one(shmq_ctx *ctx, uint32_t idx, uint64_t now, uint64_t *at) {
    shmq_block *b = block_at(ctx, idx);
    *at = 0;
    for (int tries = 0; tries < 8; tries++) {   /* a look (peek) may change a flag under us */
        uint64_t c = ld_sc(&b->ctl);   /* EXPIRY: after the reset */
        unsigned st = ctl_state(c);
        if (st != SHMQ_READY && st != SHMQ_DELAYED) return 0;
        uint64_t e = ld_rlx(&b->expires_ns), pos = ld_rlx(&b->pos), f = ld_rlx(&b->fate);   /* of this life, if the CAS succeeds */
        if (e == 0 || fate_reason(f)) return 0;
        *at = e;
        if (e > now) return 0;
        local_queue *q;
        if (queue_open_local(ctx, fate_home(f), &q) != SHMQ_OK || queue_status(q) == SHMQ_GONE) {   /* collected soon */
            *at = 0;
            return 0;
        }
        uint64_t own = ctl_next(c, st == SHMQ_READY ? SHMQ_OWNED : SHMQ_MOVE, ctx->self);
        local_ring *r = st == SHMQ_READY ? queue_ring(ctx, pos_ring(pos)) : NULL;
        if (!cas(&b->ctl, c, own)) continue;   /* I3 */
        CRASH_POINT("expiring");
        if (st == SHMQ_READY) {
            if (r && !MUTANT(52)) ring_clear(r, pos_position(pos), idx);
            queue_bytes_out(q, size_at(ctx, b));
            uint64_t m = ctl_next(own, SHMQ_MOVE, ctx->self);
            if (!cas(&b->ctl, own, m)) return 1;
            own = m;
        }
        route_dead(ctx, idx, own, SHMQ_R_EXPIRED);
        taken_out(ctx, q);
        return 1;
    }
    return 0;
}

/* One slice of a sweep, from index *from on; *from = 0 begins one, SHMQ_BLOCKS = done. What expires by `soon` and not by `now` is
 * handed out in idx[] and due[] (max = 0: is not); *earliest goes down to what expires first of the rest. Returns how many
 * were handed out. */
int shmq_expire_scan(shmq_ctx *ctx, uint32_t *from, uint64_t now, uint64_t soon, uint32_t *idx, uint64_t *due, uint32_t max,
                     uint64_t *earliest) {
    int n = 0, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    if (*from == 0) {
        *earliest = UINT64_MAX;
        if (!MUTANT(51)) st_sc(&ctx->header->next_expiry, UINT64_MAX);   /* I1 */
        CRASH_POINT("expiry_reset");
    }
    uint32_t looked = 0, killed = 0;
    while (*from < SHMQ_BLOCKS && looked < SLICE_BLOCKS && killed < SLICE_KILLS && ((uint32_t)n < max || max == 0)) {
        unsigned k = class_of(ctx, *from);
        uint64_t at, hwm = class_hwm(ctx, k);
        if (*from - ctx->classes[k].first >= hwm) {
            *from = k + 1 < SHMQ_CLASSES ? ctx->classes[k + 1].first : SHMQ_BLOCKS;
            continue;
        }
        looked++;
        if (expire_one(ctx, *from, now, &at)) killed++;
        else if (at && at <= soon && max) {
            idx[n] = *from;
            due[n++] = at;
        } else if (at && at < *earliest) *earliest = at;
        ++*from;
    }
    if (*from >= SHMQ_BLOCKS) {
        if (MUTANT(51)) st_sc(&ctx->header->next_expiry, UINT64_MAX);
        hints_lower(ctx, *earliest);
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return n;
}

/* Of the blocks in idx[], those that are expired by now. Returns how many. */
int shmq_expire(shmq_ctx *ctx, const uint32_t *idx, uint32_t n, uint64_t now) {
    int done = 0, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t at;
        if (!block_known(ctx, idx[i])) continue;
        if (expire_one(ctx, idx[i], now, &at)) done++;
        else if (at) hints_expiry(ctx, at);   /* another message lives there now, or this one could not be had */
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return done;
}

uint64_t shmq_next_expiry(shmq_ctx *ctx) {
    if (!ld32_rlx(&ctx->alive) || !ctx->mapped) return UINT64_MAX;
    return ld_acq(&ctx->header->next_expiry);
}
