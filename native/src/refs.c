/* refs.c: a queue that ends when no process has a handle on it any more, however its processes went.
 *
 *   counters[owner][queue].ref_owner, ref_queue      "this attachment has a handle on this life of the queue"
 *
 * I1  A reference counts while it names an attachment that is alive and the queue's present life. So it ends with its
 *     process, without anybody having to take it back, and means nothing for who uses the record or the number next.
 * I2  References are made, and queues found to have none, under header.admin: a handle that arrives either keeps the queue
 *     or finds it gone.
 * I3  A queue is given up only by shmq_refs_collect, for a caller that has seen every relative of its processes settled:
 *     attached, and all its handles counted. (A forked child has handles that it has not counted yet; who looks is
 *     shmq/supervisor/handles.py.)
 * I4  A queue whose handle may lie in a message (TRAVELLED) is kept while it is not empty: who takes that message may want
 *     what is in it. An empty one has nothing to lose: the handle makes it anew.
 *
 * Who dies where: a reference half written names no attachment. In collect: DELETING queues are finished by the next collector.
 */
#include "admin.h"
#include "census.h"
#include "owner.h"
#include "queue.h"
#include "waiter.h"

static int refs_of(shmq_ctx *ctx, uint32_t index, uint64_t gen) {
    uint32_t owners = owners_used(ctx);
    int n = 0;
    for (uint32_t o = 0; o < owners; o++) {
        uint64_t w = ld_acq(&ctx->owners[o].word);
        if (owner_state(w) != SHMQ_OWNER_ALIVE || !(ld32_acq(&ctx->owners[o].counters) & 1u << (index / 32))) continue;
        shmq_counters *c = counters_of(ctx, o, index);
        n += ld_acq(&c->ref_owner) == w && ld_acq(&c->ref_queue) == gen;   /* I1 */
    }
    return n;
}

/* This process has a handle on the queue (on = 1), or none any more. GONE: there is no such queue. */
int shmq_ref(shmq_ctx *ctx, uint64_t qref, int on) {
    local_queue *q;
    int rc = on ? admin_enter(ctx) : SHMQ_OK;   /* I2; letting go waits for nobody */
    if (rc != SHMQ_OK) return rc;
    if ((rc = ctx_enter(ctx)) == SHMQ_OK) {
        rc = queue_local(ctx, qref, &q);
        if (rc == SHMQ_OK && queue_status(q) == SHMQ_GONE) rc = SHMQ_GONE;
        if (rc == SHMQ_OK && q->counters == &ctx->spare) rc = queue_count_here(ctx, qref_index(qref));
        if (rc == SHMQ_OK) {
            st_rel(&q->counters->ref_queue, qref_gen(qref));
            st_rel(&q->counters->ref_owner, on ? ctx->self_word : 0);
        }
        ctx_unlock(ctx);
    }
    if (on) admin_leave(ctx);
    if (!on && rc == SHMQ_OK) owner_ping(ctx);   /* the supervisor looks whether it was the last one */
    return rc;
}

/* How many processes have a handle on the queue. */
int shmq_refs(shmq_ctx *ctx, uint64_t qref) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    if (qref_index(qref) >= queues_used(ctx)) return SHMQ_GONE;
    return refs_of(ctx, qref_index(qref), qref_gen(qref));
}

/* The word of queue `index` if it is COUNTED, not on its way out, and nobody has a handle on it; else 0. */
static uint64_t abandoned(shmq_ctx *ctx, uint32_t index) {
    if (index >= queues_used(ctx)) return 0;
    shmq_queue *rec = &ctx->queues[index];
    uint64_t w = ld_acq(&rec->word);
    if (queue_state(w) != SHMQ_Q_LIVE && queue_state(w) != SHMQ_Q_CLOSED) return 0;
    return (rec->options.flags & SHMQ_COUNTED) && refs_of(ctx, index, queue_gen(w)) == 0 ? w : 0;
}

/* The reference of queue `index` if it is abandoned, else 0: a candidate, no more than that. */
int64_t shmq_refs_none(shmq_ctx *ctx, uint32_t index) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    uint64_t w = abandoned(ctx, index);
    return w ? (int64_t)qref_make(w, index) : 0;
}

/* Every handle that this process has is counted now. */
int shmq_refs_settled(shmq_ctx *ctx) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    st32_rel(&ctx->me->settled, 1);
    ctx_unlock(ctx);
    owner_ping(ctx);
    return SHMQ_OK;
}

int shmq_queue_mark(shmq_ctx *ctx, uint64_t qref, uint32_t marks) {
    local_queue *q;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK && queue_status(q) == SHMQ_GONE) rc = SHMQ_GONE;
    if (rc == SHMQ_OK) or32(&q->shared->marks, marks);
    ctx_unlock(ctx);
    if (rc == SHMQ_OK) waiter_announce(&q->shared->space);
    return rc;
}

static int given_up(shmq_ctx *ctx, uint64_t qref) {
    uint32_t i = qref_index(qref);
    uint64_t w = abandoned(ctx, i);
    if (w == 0 || queue_gen(w) != qref_gen(qref)) return 0;
    if ((ld32_acq(&ctx->queues[i].marks) & SHMQ_TRAVELLED) && !census_drained(ctx, i)) return 0;   /* I4 */
    return cas(&ctx->queues[i].word, w, queue_make(queue_gen(w), SHMQ_Q_DELETING));
}

/* Delete those of these queues that nobody has a handle on (I3). How many. */
int shmq_refs_collect(shmq_ctx *ctx, const uint64_t *qrefs, uint32_t n) {
    int rc = admin_enter(ctx), done = 0;
    if (rc != SHMQ_OK) return rc;
    for (uint32_t i = 0; i < n; i++) done += given_up(ctx, qrefs[i]);
    admin_leave(ctx);
    if (done == 0) return 0;
    add32(&ctx->header->topology, 1);
    shmq_queue_collect(ctx);
    return done;
}
