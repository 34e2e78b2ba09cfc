/* audit.c: do the invariants hold? For tests and the curious: reads only, decides nothing.
 *
 * Counts are exact when nobody is at work on the segment; under traffic they may show steps in flight.
 */
#include "fan.h"
#include "free.h"
#include "queue.h"
#include "ring.h"

static int alive(shmq_ctx *ctx, unsigned owner) {
    return owner < ctx->geometry.processes && owner_state(ld_acq(&ctx->owners[owner].word)) == SHMQ_OWNER_ALIVE;
}

static int named_by_living(shmq_ctx *ctx, uint32_t idx) {   /* itself, or, of an attached block, its parent */
    shmq_block *b = block_at(ctx, idx);
    uint32_t parent = fate_home(ld_rlx(&b->fate)) == SHMQ_NO_QUEUE ? (uint32_t)ld_rlx(&b->due_ns) : idx;
    for (held_walk w = held_all(ctx); held_next(ctx, &w);)
        if (held_idx(w.e) == idx || held_idx(w.e) == parent) return 1;
    return 0;
}

static void audit_block(shmq_ctx *ctx, uint32_t idx, shmq_audit_report *r) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t c = ld_acq(&b->ctl);
    unsigned st = ctl_state(c);
    r->states[st]++;
    switch (st) {
    case SHMQ_NEW:
    case SHMQ_OWNED:
    case SHMQ_MOVE:
        if (!alive(ctx, ctl_owner(c))) r->orphans++;
        break;
    case SHMQ_READY: {
        local_ring *ring = queue_ring(ctx, pos_ring(ld_rlx(&b->pos)));
        if (ring == NULL || !ring_holds(ring, pos_position(ld_rlx(&b->pos)), idx)) r->unlinked++;
        break;
    }
    case SHMQ_LIMBO:
        if (!named_by_living(ctx, idx)) r->limbo++;
        break;
    case SHMQ_ATTACHED:
        if (ld_rlx(&b->due_ns) >= ctx->indices || extra_of(ctx, (uint32_t)ld_rlx(&b->due_ns)) != idx) r->attached++;
        break;
    case SHMQ_FREE:
        if (!(ld_rlx(&ctx->l0[idx / 64]) >> (idx % 64) & 1)) r->unhinted++;
        break;
    case SHMQ_FAN: r->fans += !fan_left(ctx, idx); break;
    case SHMQ_DELAYED:
    case SHMQ_BAD: break;
    default: r->bad++;
    }
    /* in a ring, or taken out of one */
    if ((ctl_flags(c) & SHMQ_FLAG_FRESH) && st != SHMQ_MOVE && st != SHMQ_DELAYED && st != SHMQ_BAD) r->bad++;
    if ((ctl_flags(c) & SHMQ_FLAG_PARKED) && st != SHMQ_MOVE && st != SHMQ_DELAYED && st != SHMQ_BAD) r->bad++;
    if ((ctl_flags(c) & SHMQ_FLAG_CHILD) && st != SHMQ_FREE && st != SHMQ_BAD && st != SHMQ_NEW)
        r->fans += !fan_carries(ctx, ld32_rlx(&b->size), ld_rlx(&b->id));
}

static void audit_ring(shmq_ctx *ctx, local_ring *ring, shmq_audit_report *r) {
    for (uint64_t i = 0, backed = ring_backed(ring); i < backed; i++) {
        uint64_t s = ld_acq(&ring->slots[i]);
        if (slot_is_empty(s)) continue;
        if (!block_known(ctx, slot_idx(s))) {
            r->bad++;
            continue;
        }
        uint64_t c = ld_acq(&block_at(ctx, slot_idx(s))->ctl);
        unsigned st = ctl_state(c);
        if (st != SHMQ_READY && !((st == SHMQ_NEW || st == SHMQ_MOVE) && alive(ctx, ctl_owner(c)))) r->dangling++;
    }
}

int shmq_audit(shmq_ctx *ctx, shmq_audit_report *out) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);   /* no ring is punched under us */
    memset(out, 0, sizeof *out);
    for (block_walk w = { 0 }; block_next(ctx, &w);) audit_block(ctx, w.idx, out);
    uint32_t queues = queues_used(ctx);
    for (uint32_t i = 0; i < queues; i++) {
        for (unsigned lane = 0; lane < SHMQ_LANES; lane++) {
            local_ring *ring = queue_ring(ctx, i * SHMQ_LANES + lane);
            if (ring) audit_ring(ctx, ring, out);
        }
    }
    for (held_walk w = held_all(ctx); held_next(ctx, &w);) out->held += !block_known(ctx, held_idx(w.e));
    op_end(ctx);
    ctx_unlock(ctx);
    return SHMQ_OK;
}

int shmq_block_snapshot(shmq_ctx *ctx, uint32_t idx, uint64_t *ctl, uint64_t *pos, uint64_t *fate) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL || !block_known(ctx, idx)) return SHMQ_E_NOTFOUND;
    shmq_block *b = block_at(ctx, idx);
    *ctl = ld_acq(&b->ctl);
    *pos = ld_rlx(&b->pos);
    *fate = ld_rlx(&b->fate);
    return SHMQ_OK;
}
