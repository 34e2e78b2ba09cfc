/* census.c: counting and looking: what a queue holds, by one pass over all blocks; what happened there, by its counters.
 *
 *   census     block by block, of those that call the queue home: exact when nothing moves meanwhile
 *   counters   [owner][queue], one writer each; what they stood at when the record was made lies behind the last owner's
 *
 * I1  DRAINED. After close no new message begins, and a message keeps its block: one pass that meets none is final.
 * I2  SETTLED. Where messages may still come, a pass decides only if none was published meanwhile: a publish counts before it returns.
 *
 * Nothing is written here.
 */
#include "census.h"
#include "barrier.h"
#include "level.h"
#include "queue.h"
#include "ring.h"

static uint64_t published(shmq_ctx *ctx, uint32_t index) {
    uint64_t sum = 0;
    uint32_t n = owners_used(ctx);
    for (uint32_t o = 0; o < n; o++)
        if (ld32_acq(&ctx->owners[o].counters) & 1u << (index / 32)) sum += ld_acq(&counters_of(ctx, o, index)->published);
    return sum;
}

void census_counters(shmq_ctx *ctx, uint32_t index, uint64_t out[CENSUS_COUNTERS]) {
    memset(out, 0, CENSUS_COUNTERS * sizeof *out);
    uint32_t n = owners_used(ctx);
    for (uint32_t o = 0; o < n; o++) {
        if (!(ld32_acq(&ctx->owners[o].counters) & 1u << (index / 32))) continue;
        shmq_au64 *c = (shmq_au64 *)counters_of(ctx, o, index);
        for (unsigned i = 0; i < CENSUS_COUNTERS; i++) out[i] += ld_rlx(&c[i]);
    }
}

/* What the counters of record `index` stood at when it was made: the row behind those of all owners. */
uint64_t *census_base(shmq_ctx *ctx, uint32_t index) { return (uint64_t *)counters_of(ctx, (uint32_t)ctx->geometry.processes, index); }

int census_counts(unsigned state) { return state == SHMQ_READY || state == SHMQ_OWNED || state == SHMQ_MOVE || state == SHMQ_DELAYED; }

static void count_block(shmq_ctx *ctx, shmq_block *b, uint64_t ctl, shmq_census *out) {
    unsigned st = ctl_state(ctl);
    if (st == SHMQ_READY) {
        out->ready++;
        out->bytes += size_at(ctx, b);
        uint64_t at = ld_rlx(&b->published_ns);
        if (out->oldest_ns == 0 || at < out->oldest_ns) out->oldest_ns = at;
    } else if (st == SHMQ_OWNED) out->unsettled++;
    else if (st == SHMQ_DELAYED && (ctl_flags(ctl) & SHMQ_FLAG_PARKED)) out->parked++;
    else if (st == SHMQ_DELAYED) out->delayed++;
    else if (st == SHMQ_MOVE) out->moving++;
    else out->fresh++;
}

/* Of the queues from..from+n-1, in one pass over all blocks. */
static void census_of(shmq_ctx *ctx, uint32_t from, uint32_t queues, shmq_census *out) {
    memset(out, 0, queues * sizeof *out);
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        shmq_block *b = block_at(ctx, walk.idx);
        uint64_t ctl = ld_acq(&b->ctl);
        unsigned st = ctl_state(ctl);
        if (!census_counts(st) && st != SHMQ_NEW) continue;
        uint32_t home = fate_home(ld_rlx(&b->fate));
        if (home - from < queues) count_block(ctx, b, ctl, &out[home - from]);
    }
}

void census(shmq_ctx *ctx, uint32_t home, shmq_census *out) { census_of(ctx, home, 1, out); }

static int somebody_holds(shmq_ctx *ctx, uint32_t home) {
    for (held_walk w = held_all(ctx); held_next(ctx, &w);) {
        if ((held_flags(w.e) & SHMQ_HELD_VIEW) || !block_known(ctx, held_idx(w.e))) continue;
        shmq_block *b = block_at(ctx, held_idx(w.e));
        uint64_t c = ld_acq(&b->ctl);
        if (ctl_state(c) == SHMQ_OWNED && ctl_owner(c) == w.owner && held_names(w.e, c) && fate_home(ld_rlx(&b->fate)) == home) return 1;
    }
    return 0;
}

/* After close: does no block anywhere belong to the queue any more? One pass decides, since a message keeps its block. */
int census_drained(shmq_ctx *ctx, uint32_t index) {
    shmq_census c;
    if (somebody_holds(ctx, index)) return 0;   /* cheap, and the usual answer */
    barrier_soon(ctx);   /* who saw it LIVE has its message's header in sight, be it that whoever closes it is not there yet */
    census(ctx, index, &c);
    if (ld_acq(&ctx->header->closing)) c.delayed = 0;   /* the broker ends: their time will not come */
    return c.ready + c.unsettled + c.delayed + c.parked + c.moving + c.fresh == 0;
}

/* Is every message that was published settled? Messages may come while we look: if one has, its publisher may have settled
 * another one behind our back, and the pass decides nothing. (A publish counts before it returns.) */
int census_settled(shmq_ctx *ctx, uint32_t index) {
    uint64_t before = published(ctx, index);
    return census_drained(ctx, index) && published(ctx, index) == before;
}

int shmq_queue_census(shmq_ctx *ctx, uint64_t qref, shmq_census *out) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped) return SHMQ_E_DETACHED;
    census(ctx, qref_index(qref), out);
    return SHMQ_OK;
}

/* All queues at once: out[i] is of queue number i. */
int shmq_census_all(shmq_ctx *ctx, shmq_census *out, uint32_t n) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    census_of(ctx, 0, n, out);
    return SHMQ_OK;
}

static int snapshot(shmq_ctx *ctx, uint32_t index, shmq_queue_info *out) {
    shmq_queue *rec = &ctx->queues[index];
    memset(out, 0, sizeof *out);
    out->word = ld_acq(&rec->word);
    out->state = queue_state(out->word);
    out->index = index;
    out->ref = qref_make(out->word, index);
    /* in any other state its words may be changing under a creator: op keeps only records that were seen alive */
    if (out->state != SHMQ_Q_LIVE && out->state != SHMQ_Q_CLOSED) return SHMQ_OK;
    out->created_ns = rec->created_ns;
    out->options = rec->options;
    out->bytes = ld_rlx(&rec->bytes);
    out->marks = ld32_rlx(&rec->marks);
    memcpy(out->name, rec->name, sizeof out->name);
    out->name[sizeof out->name - 1] = 0;
    memcpy(out->dead_name, rec->dead_name, sizeof out->dead_name - 1);
    out->ephemeral = rec->ephemeral;
    out->owner = rec->ephemeral_owner;
    out->filter_size = rec->filter_size <= sizeof out->filter ? rec->filter_size : 0;
    memcpy(out->filter, rec->filter, sizeof out->filter);
    census_counters(ctx, index, out->counters);
    for (unsigned i = 0; i < CENSUS_COUNTERS; i++) out->counters[i] -= census_base(ctx, index)[i];
    for (unsigned lane = 0; lane < 11 && ld_acq(&rec->word) == out->word; lane++) {
        local_ring r;
        if (!mark_acq(&rec->place[lane].ready)) continue;
        if (queue_ring_open(ctx, rec, index, lane, &r) != SHMQ_OK) continue;
        ring_settle_in(&r);
        out->ready += lane == SHMQ_LANE_AGAIN || rec->options.order != SHMQ_FIFO ? ring_filled(&r) : ring_depth(&r);
    }
    return queue_gen(ld_acq(&rec->word)) == queue_gen(out->word) ? SHMQ_OK : SHMQ_BUSY;
}

int shmq_queue_snapshot(shmq_ctx *ctx, uint32_t index, shmq_queue_info *out) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    if (index >= queues_used(ctx)) return SHMQ_E_NOTFOUND;
    int counted = ctx_enter(ctx) == SHMQ_OK, rc = SHMQ_BUSY;   /* an observer has no op word: it looks, and looks again */
    if (counted) op_begin(ctx);
    for (int tries = 0; rc == SHMQ_BUSY && tries < 100; tries++) rc = snapshot(ctx, index, out);
    if (counted) {
        op_end(ctx);
        ctx_unlock(ctx);
    }
    return rc;
}

int64_t shmq_depth(shmq_ctx *ctx, uint64_t qref) {
    local_queue *q;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = queue_local(ctx, qref, &q);
    int64_t n = rc;
    if (rc == SHMQ_OK && queue_status(q) == SHMQ_GONE) n = SHMQ_GONE;
    else if (rc == SHMQ_OK) {
        n = (int64_t)level_depth(ctx, q);
        if (queue_has_again(q)) n += (int64_t)(q->lanes ? ring_filled(&q->again) : ring_depth(&q->again));
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return n;
}
