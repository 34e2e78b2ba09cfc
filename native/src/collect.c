/* collect.c: the record of a deleted queue becomes FREE.
 *
 *   word  DELETING --retire--> RETIRING --set_free--> FREE        record.ended: the era of that step, 0 = not known yet
 *
 * I1  A record is re-used only after (a) every operation that may touch it, and began before DELETING was in everybody's sight, is over,
 *     so that nobody publishes or takes there, (b) no block in any live state calls it home, and (c) the same as (a) after RETIRING, so
 *     that no recovery looks into its rings either.
 *     So no process can act on a ring of one queue in the name of another, or touch a ring whose memory is gone.
 *
 *         collector                                          an operation
 *         sees the word (DELETING)                           e = header.era
 *         barrier                                            owner.era = e | which record
 *         E = ++header.era, record.ended = E                 owner.op odd
 *         looks at each owner's op and era                   looks at the word of each record before its rings
 *
 *     Which operations the record waits for (may_touch): op is odd, e < E, and the record is the one, or any. After the barrier no such
 *     operation is hidden in a store buffer; one with e >= E has read E, so it sees the word (ERA). A stopped process holds back the
 *     records that its operation may touch, and no others. A topic's publisher may touch its subscriptions that were made before e
 *     (record.born): its list is of that time, or it says that it may touch any (topic.c).
 *
 * Who dies where: any later collection goes on.
 */
#include "admin.h"
#include "barrier.h"
#include "census.h"
#include "free.h"
#include "queue.h"
#include "ring.h"
#include "span.h"
#include "waiter.h"

/* End a message that is ready or delayed. 0 = it is in somebody's hands. Called under the ctx lock. */
static int discard(shmq_ctx *ctx, uint32_t idx, uint64_t c) {
    shmq_block *b = block_at(ctx, idx);
    unsigned st = ctl_state(c), home = fate_home(ld_rlx(&b->fate));
    if (st != SHMQ_READY && st != SHMQ_DELAYED) return 0;
    uint64_t pos = ld_rlx(&b->pos), own = ctl_next(c, st == SHMQ_READY ? SHMQ_OWNED : SHMQ_MOVE, ctx->self);
    local_ring *r = st == SHMQ_READY ? queue_ring(ctx, pos_ring(pos)) : NULL;
    if (!cas(&b->ctl, c, own)) return 0;   /* as a taker does: own it, clear its slot, then the rest */
    if (r) ring_clear(r, pos_position(pos), idx);
    local_queue *q;
    if (st == SHMQ_READY && queue_open_local(ctx, home, &q) == SHMQ_OK) queue_bytes_out(q, size_at(ctx, b));
    free_whole(ctx, idx, own);
    return 1;
}

/* Drop all that is ready or delayed: shutdown(immediate). What consumers hold is theirs to settle. */
int shmq_queue_discard(shmq_ctx *ctx, uint64_t qref) {
    local_queue *q = NULL;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK && queue_status(q) == SHMQ_GONE) rc = SHMQ_GONE;
    for (block_walk walk = { 0 }; rc == SHMQ_OK && block_next(ctx, &walk);)
        if (fate_home(ld_rlx(&block_at(ctx, walk.idx)->fate)) == qref_index(qref))
            discard(ctx, walk.idx, ld_acq(&block_at(ctx, walk.idx)->ctl));
    op_end(ctx);
    ctx_unlock(ctx);
    if (rc == SHMQ_OK) waiter_announce_all(q->shared);
    return rc;
}

/* Records that were seen on their way out before a barrier: the barrier counts for them as long as they have that word. */
#define LOT 256
typedef struct {
    uint64_t word;
    uint32_t index;
} leaving;

static uint32_t on_their_way(shmq_ctx *ctx, uint32_t *from, leaving *out) {
    uint32_t queues = queues_used(ctx), n = 0;
    for (; *from < queues && n < LOT; ++*from) {
        uint64_t w = ld_acq(&ctx->queues[*from].word);
        if (queue_state(w) == SHMQ_Q_DELETING || queue_state(w) == SHMQ_Q_RETIRING) out[n++] = (leaving){ w, *from };
    }
    return n;
}

/* May that attachment be in an operation that looks into the record, and began before it was out of everybody's sight? */
static int may_touch(shmq_ctx *ctx, shmq_owner *o, uint32_t index) {
    shmq_queue *rec = &ctx->queues[index];
    uint64_t op = ld_acq(&o->op);
    if (owner_state(ld_acq(&o->word)) != SHMQ_OWNER_ALIVE || !(op & 1)) return 0;
    uint64_t era = ld_acq(&o->era);
    if (ld_acq(&o->op) != op || era >> 16 >= ld_rlx(&rec->ended)) return 0;   /* it has moved on; or it began afterwards (ERA) */
    return op_reaches(era, rec, index) || MUTANT(102);
}

static int somebody_may_touch(shmq_ctx *ctx, uint32_t index) {
    uint32_t owners = owners_used(ctx);
    for (uint32_t o = 0; o < owners && !MUTANT(101); o++)
        if (may_touch(ctx, &ctx->owners[o], index)) return 1;
    return 0;
}

/* The era from which on nobody begins who may touch these records: known for those that have one, else a new one. */
static uint64_t new_era(shmq_ctx *ctx, const leaving *l, uint32_t n) {
    int some = 0, fans = 0;
    for (uint32_t i = 0; i < n; i++) {
        shmq_queue *rec = &ctx->queues[l[i].index];
        if (ld_acq(&rec->word) != l[i].word || ld_rlx(&rec->ended)) continue;
        some = 1;
        fans |= queue_state(l[i].word) == SHMQ_Q_DELETING && rec->options.kind >= SHMQ_KIND_SUBSCRIPTION;
    }
    if (fans && !MUTANT(104)) add32(&ctx->header->topology, 1);   /* before the era. Whoever deleted it may have died before that */
    return some ? add(&ctx->header->era, 1) + 1 : 0;   /* ERA: who begins in it has seen these words */
}

/* Is it out of everybody's sight since `era`, or since one before? */
static int out_of_sight(shmq_ctx *ctx, const leaving *l, uint64_t era) {
    shmq_queue *rec = &ctx->queues[l->index];
    if (ld_acq(&rec->word) != l->word) return 0;   /* others have got on with it */
    if (ld_rlx(&rec->ended) == 0) st_rel(&rec->ended, era);
    return !somebody_may_touch(ctx, l->index);
}

/* I1 (b), for all that ctx->leaving marks, in one pass, which is final: nobody publishes there any more, and a message keeps its block.
 * What is ready or delayed ends; a home of others is marked 2. */
static void clear_out(shmq_ctx *ctx) {
    op_begin(ctx);
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        shmq_block *b = block_at(ctx, walk.idx);
        uint64_t c = ld_acq(&b->ctl);
        unsigned st = ctl_state(c), home = fate_home(ld_rlx(&b->fate));
        if (home >= SHMQ_QUEUES || !ctx->leaving[home]) continue;
        /* NEW as well: of the dead it may be published yet (forwards, shares), and must not get into the next queue of this number */
        int living = census_counts(st) || (st == SHMQ_NEW && !MUTANT(56));
        if (living && !discard(ctx, walk.idx, c)) ctx->leaving[home] = 2;
    }
    op_end(ctx);
}

/* DELETING --> RETIRING: 1 = it is. */
static int retire(shmq_ctx *ctx, leaving *l) {
    shmq_queue *rec = &ctx->queues[l->index];
    uint64_t next = queue_make(queue_gen(l->word), SHMQ_Q_RETIRING);
    if (!MUTANT(103)) st_rel(&rec->ended, 0); /* of DELETING; RETIRING has its own */
    CRASH_POINT("retire");
    if (!cas(&rec->word, l->word, next)) return 0;
    l->word = next;
    return 1;
}

/* RETIRING --> FREE: 1 = it is. */
static int set_free(shmq_ctx *ctx, const leaving *l) {
    shmq_queue *rec = &ctx->queues[l->index];
    for (unsigned n = 0; n < QUEUE_PLACES; n++) span_punch(ctx, *queue_place(rec, n), n == QUEUE_PLACES - 1 ? &rec->options : NULL);
    CRASH_POINT("collect");
    return cas(&rec->word, l->word, queue_make(queue_gen(l->word), SHMQ_Q_FREE));
}

/* One step of each. How many have become FREE; *turned: RETIRING. */
static int step_all(shmq_ctx *ctx, leaving *l, uint32_t n, uint32_t *turned) {
    uint64_t era = new_era(ctx, l, n);
    int done = 0, some = 0;
    memset(ctx->leaving, 0, sizeof ctx->leaving);
    for (uint32_t i = 0; i < n; i++) {
        if (!out_of_sight(ctx, &l[i], era)) continue;
        if (queue_state(l[i].word) == SHMQ_Q_RETIRING) done += set_free(ctx, &l[i]);
        else some = ctx->leaving[l[i].index] = 1;
    }
    if (some) clear_out(ctx);
    for (uint32_t i = 0; some && i < n; i++)
        if (ctx->leaving[l[i].index] == 1) *turned += (uint32_t)retire(ctx, &l[i]);
    return done;
}

/* The same after a barrier, for which no lock is held. Then under both: other threads of this process are in no operation, and none
 * detaches it, so that the record of this process, and header.admin, stay its own. */
static int step_on(shmq_ctx *ctx, leaving *l, uint32_t n, uint32_t *turned) {
    if (barrier_everywhere(ctx) != 0) return 0; /* no barrier, no re-use: all stay as they are */
    int done = 0, rc = admin_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    if (MUTANT(109)) done = step_all(ctx, l, n, turned);
    else if ((rc = ctx_enter(ctx)) == SHMQ_OK) {
        if (ld_acq(&ctx->header->admin) == ctx->self_word) done = step_all(ctx, l, n, turned);
        ctx_unlock(ctx);
    }
    admin_leave(ctx);
    return rc == SHMQ_OK ? done : rc;
}

/* I1: finish deletions. Returns how many records became FREE; others are tried again by the next caller. */
int shmq_queue_collect(shmq_ctx *ctx) {
    leaving lot[LOT];
    int done = 0, rc = shmq_topic_sweep(ctx);
    if (rc < 0) return rc;
    for (uint32_t from = 0, n; (n = on_their_way(ctx, &from, lot)) > 0;) {
        uint32_t turned = 0;
        for (int step = 0; step < 2; step++) {
            if ((rc = step_on(ctx, lot, n, &turned)) < 0) return done ? done : rc;
            done += rc;
            if (turned == 0) break;
        }
    }
    return done;
}
