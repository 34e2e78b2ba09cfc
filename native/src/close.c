/* close.c: a queue is closed, or is to be deleted: asked for, or since what it belonged to has ended.
 *
 * I1  The word of a record goes forward only, LIVE, CLOSED, DELETING, by a CAS on the life that was meant: no lock is needed, since creators
 *     touch FREE records only, collectors those that are being deleted.
 * I2  After CLOSED and a barrier, whoever saw it LIVE has its message's header in sight: census_drained can trust its pass.
 * I3  A subscription that ends with its owner, or whose topic is gone, is deleted by whoever notices: recovery, and each collection.
 *
 * Who dies where: before the CAS: nothing was closed. After it, before those that wait were woken: they look once a second.
 */
#include "close.h"
#include "barrier.h"
#include "queue.h"
#include "waiter.h"
#include <time.h>

/* I1 */
int queue_turn(shmq_ctx *ctx, uint64_t qref, unsigned state) {
    uint32_t i = qref_index(qref);
    if (i >= queues_used(ctx)) return SHMQ_GONE;
    shmq_queue *rec = &ctx->queues[i];
    for (;;) {
        uint64_t w = ld_acq(&rec->word);
        if (queue_gen(w) != qref_gen(qref) || queue_state(w) == SHMQ_Q_FREE || queue_state(w) == SHMQ_Q_RETIRING) return SHMQ_GONE;
        if (queue_state(w) == SHMQ_Q_DELETING) return state == SHMQ_Q_DELETING ? SHMQ_OK : SHMQ_GONE;
        if (queue_state(w) == state || cas(&rec->word, w, queue_make(queue_gen(w), state))) break;
    }
    add32(&ctx->header->topology, 1);
    /* no barrier: stores are in sight in nanoseconds */
    if (state == SHMQ_Q_CLOSED && barrier_everywhere(ctx) != 0) nanosleep(&(struct timespec){ 0, 10000000 }, NULL);   /* I2 */
    waiter_announce_all(rec);
    return SHMQ_OK;
}

/* Not under header.admin: its barrier may take milliseconds. */
int close_turn(shmq_ctx *ctx, uint64_t qref, unsigned state) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ld32_rlx(&ctx->attached)) return SHMQ_E_DETACHED;
    return queue_turn(ctx, qref, state);
}

int shmq_queue_close(shmq_ctx *ctx, uint64_t qref) { return close_turn(ctx, qref, SHMQ_Q_CLOSED); }

/* ---- what ends without anybody's asking (I3) ---- */

/* Has the process that it ends with ended? Its record is FREE, DEAD or somebody else's then. */
int close_widowed(shmq_ctx *ctx, const shmq_queue *rec) {
    return rec->ephemeral && ld_acq(&ctx->owners[rec->ephemeral_owner % (uint32_t)ctx->geometry.processes].word) != rec->ephemeral
           && !MUTANT(45);
}

static int topic_gone(shmq_ctx *ctx, uint64_t tref) {
    if (tref == 0) return 0;
    uint64_t w = qref_index(tref) < queues_used(ctx) ? ld_acq(&ctx->queues[qref_index(tref)].word) : 0;
    return queue_gen(w) != qref_gen(tref) || (queue_state(w) != SHMQ_Q_LIVE && queue_state(w) != SHMQ_Q_CLOSED);
}

/* End what belonged to a process or a topic that is no more. Waits for nobody; the records are collected later. */
int shmq_topic_sweep(shmq_ctx *ctx) {
    int ended = 0, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);   /* once seen alive, a record stays what it is */
    uint32_t n = queues_used(ctx);
    for (uint32_t i = 0; i < n; i++) {
        shmq_queue *rec = &ctx->queues[i];
        uint64_t w = ld_acq(&rec->word);
        if ((queue_state(w) != SHMQ_Q_LIVE && queue_state(w) != SHMQ_Q_CLOSED) || rec->options.kind < SHMQ_KIND_SUBSCRIPTION) continue;
        if (!close_widowed(ctx, rec) && !topic_gone(ctx, rec->options.topic)) continue;
        ended += queue_turn(ctx, qref_make(w, i), SHMQ_Q_DELETING) == SHMQ_OK;   /* of exactly that life of the record */
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return ended;
}

/* A process that leaves takes its own with it. */
void close_mine(shmq_ctx *ctx) {
    uint32_t n = queues_used(ctx);
    op_begin(ctx);
    for (uint32_t i = 0; i < n; i++) {
        shmq_queue *rec = &ctx->queues[i];
        uint64_t w = ld_acq(&rec->word);
        if ((queue_state(w) == SHMQ_Q_LIVE || queue_state(w) == SHMQ_Q_CLOSED) && rec->ephemeral == ctx->self_word)
            queue_turn(ctx, qref_make(w, i), SHMQ_Q_DELETING);
    }
    op_end(ctx);
}
