/* forward.c: a delivery S is settled and a new message N is published: both or neither, wherever the process is killed.
 *
 *   S  OWNED(me) --CAS--> MOVE(me)   fate |= LEAVING, due_ns = N, fate |= FORWARD (COMMIT) ........................ --> FREE
 *   N  NEW(me), written, tied to S   .................................................... --CAS--> MOVE(me), routed ...
 *
 *   S.due_ns = idx+1:24 | gen:40 of N in NEW        N's trailer = S        each names the other
 *
 * I1  The COMMIT is one store in a block that nobody else can change: S is in MOVE(me). Before it N is nothing and S is still
 *     to be delivered; after it N is a message and S is over. The lease is ended by an exact CAS, as by an ack (STALE).
 * I2  S becomes FREE only after N has left NEW. So whoever has seen N in NEW, and then finds S not forwarded as this very
 *     N, may free N: its exact CAS fails if S was forwarded, and N sent on, in between.
 *     S is read under an unchanged ctl, or again: one that another recoverer has just adopted is as forwarded as before.
 * I3  due_ns is a time but for S between LEAVING and FREE: LEAVING is stored before, so that a recoverer who finds no COMMIT
 *     knows that what stands there is no delay.
 * I4  N is sent on by the CAS NEW -> MOVE, by its maker, by who recovers S or by who recovers N: once. What it has an id for
 *     is decided behind that (dedup.c): as a duplicate it is freed, and S is over all the same.
 * I5  N may be a topic's message: the parent is tied to S, and sent on by the CAS NEW -> FAN, which is its commit (topic.c).
 *     Children are of the process that made N. A process that recovers one while N is NEW decides N first, in the same way.
 *
 * Who dies where: before OWNED -> MOVE: S is OWNED(dead), delivered again with the attempt counted; N is freed. Before the
 * COMMIT: S is delivered again, as after a release; N is freed. After it: S and N each lead to the other (I2).
 */
#include "forward.h"
#include "arena.h"
#include "clock.h"
#include "dedup.h"
#include "fan.h"
#include "figures.h"
#include "free.h"
#include "hash.h"
#include "ids.h"
#include "publish.h"
#include "queue.h"
#include "route.h"
#include "settle.h"
#include "topic.h"
#include "waiter.h"

#define GEN40 ((UINT64_C(1) << 40) - 1)

static uint64_t ref_make(uint32_t idx, uint64_t ctl) { return (uint64_t)(idx + 1) << 40 | (ctl_gen(ctl) & GEN40); }

/* Send N on, if it is still in this very NEW. 0 = it was not. */
int forward_send(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    /* its children follow: committed() in recover.c */
    if (ld_rlx(&block_at(ctx, idx)->fate) & FATE_CHILDREN) return topic_commit(ctx, idx, ctl);
    uint64_t move = ctl_next(ctl, SHMQ_MOVE, ctx->self);
    if (!cas(&block_at(ctx, idx)->ctl, ctl, move)) return 0;
    CRASH_POINT("forward_sent");
    route_on(ctx, idx, move);
    return 1;
}

/* N is NEW of a dead process: has the delivery that it is tied to been forwarded as this? */
int forward_decided(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t tie;
    if (ctl_flags(ctl) & SHMQ_FLAG_CHILD) return 0;   /* its header may be a former life's: a share is tied to nothing */
    uint8_t *at = ld_rlx(&b->fate) & FATE_TIED && !MUTANT(25) ? dedup_trailer(ctx, idx) : NULL;
    if (at == NULL) return 0;
    memcpy(&tie, at + sizeof(hash128), sizeof tie);
    if (tie >= SHMQ_BLOCKS || !block_known(ctx, (uint32_t)tie)) return 0;
    shmq_block *s = block_at(ctx, (uint32_t)tie);
    for (uint64_t c = ld_acq(&s->ctl), again; ld_acq(&b->ctl) == ctl; c = again) {   /* until N goes: each turn somebody else got on */
        uint64_t f = ld_acq(&s->fate), due = ld_acq(&s->due_ns);
        again = ld_acq(&s->ctl);
        if (again == c) return ctl_state(c) == SHMQ_MOVE && (f & FATE_FORWARD) && due == ref_make(idx, ctl);
    }
    return 0;
}

/* S is ours in MOVE, and forwarded: see that its N is on its way, then end it (I2). */
void forward_finish(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    uint64_t due = ld_rlx(&block_at(ctx, idx)->due_ns);
    uint32_t n = (uint32_t)(due >> 40) - 1;
    if (block_known(ctx, n) && !MUTANT(24)) {
        uint64_t c = ld_acq(&block_at(ctx, n)->ctl);
        if (ctl_state(c) == SHMQ_NEW && (ctl_gen(c) & GEN40) == (due & GEN40)) forward_send(ctx, n, c);
    }
    CRASH_POINT("forward_finishing");
    local_queue *q;   /* after the announcement of the death: who looked then has seen S in its way */
    int live = queue_open_local(ctx, fate_home(ld_rlx(&block_at(ctx, idx)->fate)), &q) == SHMQ_OK;
    free_whole(ctx, idx, ctl);
    if (live) settle_left(q);
}

/* N for a queue: complete, in NEW, tied to S. */
static int write_one(shmq_ctx *ctx, local_queue *q, uint64_t target, shmq_message *m, uint64_t now, uint32_t s_idx, uint32_t *idx,
                     uint64_t *ctl) {
    hash128 key;
    const hash128 *once = publish_key(ctx, q, m, &key);
    int rc = queue_status(q);
    if (rc == SHMQ_OK && m->size > ctx->geometry.max_message)
        rc = fail(ctx, SHMQ_E_TOOBIG, WHAT_NONE, 0, m->size, ctx->geometry.max_message, 0);
    if (rc == SHMQ_OK && once) rc = ids_room(ctx, q, m, now);
    if (rc == SHMQ_OK) rc = publish_room(ctx, q, m, once, now);
    if (rc == SHMQ_OK) rc = arena_alloc(ctx, publish_footprint(m->size, m->meta_size) + FAN_TRAILER + 7, idx, ctl);
    if (rc != SHMQ_OK) return rc;
    publish_header(ctx, block_at(ctx, *idx), qref_index(target), m, q, now);
    if (m->size) memcpy(payload_of(ctx, *idx), m->data, m->size);
    publish_meta(payload_of(ctx, *idx), m);
    publish_trailer(ctx, *idx, m, once, s_idx, FATE_TIED);
    return SHMQ_OK;
}

/* After the COMMIT: N on its way to a queue. */
static void send_one(shmq_ctx *ctx, local_queue *q, shmq_message *m, uint32_t idx, uint64_t ctl) {
    uint64_t move = ctl_next(ctl, SHMQ_MOVE, ctx->self), first = 0;
    if (!cas(&block_at(ctx, idx)->ctl, ctl, move)) return;
    int once = (ld_rlx(&block_at(ctx, idx)->fate) & FATE_DEDUP) != 0;
    if (once && dedup_settle(ctx, q, idx, move, &first) == ID_DUPLICATE) {
        m->id = first;
        return;
    }
    bump(&q->counters->published, 1);
    bump(&q->counters->published_bytes, m->size);
    route_on(ctx, idx, move);   /* without room in the table: delayed, and tried again */
}

/* Publish `m` to `target` and ack `d`, both or neither. FULL, CLOSED, GONE and errors: neither, the delivery stays held. */
int shmq_forward(shmq_ctx *ctx, shmq_delivery *d, uint64_t target, shmq_message *m) {
    local_queue *q = NULL;
    shmq_au32 *evt[SHMQ_QUEUES];
    uint32_t asleep = 0;
    uint64_t s_ctl;
    fan f = { .n = 0 };
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = settle_holds(ctx, d) ? queue_local(ctx, target, &q) : SHMQ_STALE;
    /* STALE, before it costs others their place */
    if (rc == SHMQ_OK && ld_acq(&block_at(ctx, d->idx)->ctl) != d->ctl) rc = settle_leave(ctx, d, &s_ctl);
    uint64_t now = clock_now(ctx), leased = d->ctl;
    uint32_t s_idx = d->idx, home = d->queue, held = d->held;
    int fans = rc == SHMQ_OK && q->options.kind == SHMQ_KIND_TOPIC;
    if (rc == SHMQ_OK && !fans) {
        rc = write_one(ctx, q, target, m, now, s_idx, &f.parent, &f.ctl);
        f.n = rc == SHMQ_OK;   /* a parent without children */
    } else if (rc == SHMQ_OK) rc = topic_write(ctx, q, target, m, now, s_idx, FATE_TIED, &f);
    if (rc == SHMQ_OK) {
        CRASH_POINT("forward_written");
        op_fence(ctx);
        rc = queue_status(q);   /* after fate, as in publish.c (I2) */
        if (rc == SHMQ_OK) rc = settle_leave(ctx, d, &s_ctl);
        if (rc != SHMQ_OK) topic_unwrite(ctx, &f);
    }
    if (rc == SHMQ_OK) {
        shmq_block *s = block_at(ctx, s_idx);
        uint64_t fate = ld_rlx(&s->fate);
        CRASH_POINT("forward_left");
        if (f.n) {   /* a topic without subscribers: an ack */
            st_rel(&s->fate, fate | FATE_LEAVING);   /* I3 */
            st_rel(&s->due_ns, ref_make(f.parent, f.ctl));
            CRASH_POINT("forward_named");
            st_rel(&s->fate, fate | FATE_LEAVING | FATE_FORWARD);   /* COMMIT forward */
            CRASH_POINT("forward_committed");
        }
        if (!fans) send_one(ctx, q, m, f.parent, f.ctl);
        else if (f.n == 0 || topic_commit(ctx, f.parent, f.ctl)) topic_launch(ctx, q, m, &f);
        free_whole(ctx, s_idx, s_ctl);
        local_queue *from = &ctx->local[home % SHMQ_QUEUES];
        if (from->live) {
            if (held && figures_timed(ctx, held)) figures_acked(ctx, from, held, s_idx, leased);
            bump(&from->counters->acked, 1);
            bump(&from->counters->forwarded, 1);
            settle_left(from);
        }
        if (fans) asleep = topic_sleepers(ctx, target, evt);
    }
    op_end(ctx);
    ctx_unlock(ctx);
    for (uint32_t i = 0; i < asleep; i++) waiter_wake(evt[i]);
    return rc;
}
