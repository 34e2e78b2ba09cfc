/* wait.c: a consumer waits for messages, a producer for room, the processes behind a broker for work.
 *
 * Spin first, sleep then. The spin adapts: it grows while spinning pays and shrinks while it does not, so that an idle
 * consumer costs nothing and a busy one never pays a wake-up. Every sleep is bounded by a second; whoever has slept half that
 * long in vain, in one sleep or in many short ones, looks for dead processes itself, so that recovery needs no supervisor.
 */
#include "wait.h"
#include "census.h"
#include "lease.h"
#include "queue.h"
#include "ring.h"
#include "room.h"
#include "take.h"
#include "waiter.h"
#include <sched.h>

#define SPIN_MIN UINT64_C(2000)
/* A consumer that is at it takes a lot in 5 to 15 microseconds; and one that is to wake us looks at the clock for each message:
 * 4.3 instead of 5.0 M/s, for as long as our spins are too short. */
#define ROOM_MIN UINT64_C(20000)
#define SPIN_MAX UINT64_C(60000)
#define GATHER_STALL UINT64_C(3000)
#define GATHER_MOST UINT64_C(16000)
#define GATHER_REST 4095u
#define GLANCES 48   /* 1.5 microseconds */

int wait_items_ready(shmq_ctx *ctx, local_queue *q) {
    if (ctx_enter(ctx) != SHMQ_OK) return 1;   /* look again, and hear why */
    op_begin_at(ctx, queue_index(ctx, q));
    int ready = queue_status(q) == SHMQ_GONE || !take_none_left(ctx, q);
    op_end(ctx);
    ctx_unlock(ctx);
    return ready;
}

static int space_for(shmq_ctx *ctx, local_queue *q, uint32_t n) {
    if (ctx_enter(ctx) != SHMQ_OK) return 1;
    op_begin_at(ctx, queue_index(ctx, q));
    if (queue_status(q) != SHMQ_OK) {
        op_end(ctx);
        ctx_unlock(ctx);
        return 1;
    }
    int ready = room_for(ctx, q, n, q->wanted);
    op_end(ctx);
    ctx_unlock(ctx);
    return ready;
}

int wait_space_ready(shmq_ctx *ctx, local_queue *q) { return space_for(ctx, q, 1); }

/* Room for many: a producer that follows the consumer slot by slot takes its cache lines away for each message, and four
 * times as long for each (2.1 against 8 M/s, 64 B, two processes). */
static int space_lot(shmq_ctx *ctx, local_queue *q) { return space_for(ctx, q, q->lot); }

/* Spin until ready or for *spin_ns. Yields between looks once it takes longer: others may need this core to get there. */
static int spin(shmq_ctx *ctx, local_queue *q, int (*ready)(shmq_ctx *, local_queue *), uint64_t spin_ns, uint64_t deadline) {
    if (spin_ns == 0) return 0;
    uint64_t start = shmq_now(), end = start + spin_ns, now = start;
    if (deadline && end > deadline) end = deadline;
    do {
        for (int i = 0; i < 16; i++) {
            if (ready(ctx, q)) return 1;
            pause_cpu();
            pause_cpu();
        }
        now = shmq_now();
        if (now - start > 10000) sched_yield();
    } while (now < end);
    return 0;
}

/* positions are of one queue only: another thread may open another one here meanwhile */
typedef struct {
    uint64_t live, from;
} place;

/* How many messages have come since a consumer had taken all: of `most` positions from at->from on, where n are known to be filled.
 * at->live == 0: from the first one that it has not taken. */
static uint32_t come(shmq_ctx *ctx, local_queue *q, place *at, uint32_t n, uint32_t most) {
    if (ctx_enter(ctx) != SHMQ_OK) return most;
    op_begin_at(ctx, queue_index(ctx, q));
    if (at->live == 0) *at = (place){ q->live, q->work.head };
    if (q->live != at->live || queue_status(q) != SHMQ_OK) n = most;
    while (n < most && ring_passed(&q->work, at->from + n)) n++;
    op_end(ctx);
    ctx_unlock(ctx);
    return n;
}

/* A consumer that follows its producer slot by slot takes the producer's cache lines away for each message, as space_lot says of the other
 * way round. So a consumer that has just waited lets a lot come together: for 16 microseconds, or until less than two messages come in
 * three microseconds. (Measured: a producer followed slot by slot from a distant core needs up to 0.6 microseconds for a message with an
 * id, and 0.5 when it is not followed.) The consumer looks at the last place, far from where the producer writes. If that was in vain, it is
 * left out the next times, twice as many each time it is in vain again. Messages that come one by one are held up only once in thousands. */
static void gather(shmq_ctx *ctx, local_queue *q) {
    uint32_t lot = q->lot, skip = ld32_rlx(&q->gather_skip), rest = ld32_rlx(&q->gather_rest), n = 0;
    place at = { 0, 0 };
    if (skip) {
        st32_rlx(&q->gather_skip, skip - 1);
        return;
    }
    if (lot < 2) return;
    uint64_t last = shmq_now(), end = last + GATHER_MOST;
    for (;;) {
        for (int i = 0; i < 8; i++) {
            if (come(ctx, q, &at, lot - 1, lot) == lot) {
                st32_rlx(&q->gather_rest, 0);
                return;
            }
            pause_cpu();
            pause_cpu();
        }
        uint64_t now = shmq_now();
        if (now - last < GATHER_STALL) continue;
        uint32_t before = n;
        n = come(ctx, q, &at, n, lot);
        if (n < before + 2) break;
        if (now > end) return;
        last = now;
    }
    rest = rest < GATHER_REST ? 2 * rest + 1 : GATHER_REST;
    st32_rlx(&q->gather_rest, rest);
    st32_rlx(&q->gather_skip, rest);
}

int wait_enter(shmq_ctx *ctx, uint64_t qref, local_queue **q, int *status) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = queue_local(ctx, qref, q);
    if (rc == SHMQ_OK) *status = queue_status(*q);
    ctx_unlock(ctx);
    return rc;
}

/* Spin for as long as has paid lately: longer after a success, shorter after a failure, but not below `least`. */
static int spin_adaptive(shmq_ctx *ctx, local_queue *q, int (*ready)(shmq_ctx *, local_queue *), shmq_au64 *budget, uint64_t least,
                         uint64_t spin_ns, uint64_t deadline) {
    uint64_t adaptive = ld_rlx(budget);
    if (spin_ns != UINT64_MAX) return spin(ctx, q, ready, spin_ns, deadline);
    int done = spin(ctx, q, ready, adaptive, deadline);
    if (done && adaptive < SPIN_MAX) st_rlx(budget, adaptive + adaptive / 4);
    if (!done && adaptive > least) st_rlx(budget, adaptive - adaptive / 4);
    return done;
}

/* After a sleep of `ns`: when sleeping has led to nothing for long, somebody may be dead who could have ended it. */
static void slept(shmq_ctx *ctx, local_queue *q, uint64_t ns, int in_vain) {
    uint64_t idle = in_vain ? ld_rlx(&q->idle_ns) + ns : 0;
    st_rlx(&q->idle_ns, idle > WAIT_SLICE / 2 ? 0 : idle);
    if (idle > WAIT_SLICE / 2) shmq_reap(ctx, 0);
}

/* The caller looks in vain and waits again, each time: other processes have it, or the ring is damaged. So "ready" after the
 * deadline is TIMEOUT, and the wake-up that it may have cost goes on to the next one. */
static int in_time(shmq_au32 *evt, int rc, uint64_t deadline_ns) {
    if (MUTANT(99) || rc != SHMQ_OK || deadline_ns == 0 || shmq_now() < deadline_ns) return rc;
    waiter_wake(evt);
    return SHMQ_TIMEOUT;
}

/* Before a sleep: the value to sleep on, and for how long at most. EMPTY: nothing is there, sleep; else what the wait is over with. */
int wait_prepare_items(shmq_ctx *ctx, uint64_t qref, local_queue *q, uint32_t *seen, uint64_t *slice) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    shmq_au32 *space = take_space(ctx, q, 0, 1);   /* what we owe, before we sleep */
    op_begin(ctx);
    int stolen = lease_steal(ctx, q, qref_index(qref));
    op_end(ctx);
    ctx_unlock(ctx);
    if (space) waiter_wake(space);
    if (stolen) return SHMQ_OK;
    *seen = MUTANT(5) ? (ld32_sc(&q->shared->evt) | 1) : waiter_prepare(&q->shared->evt);
    if (!MUTANT(9) && wait_items_ready(ctx, q)) return SHMQ_OK;   /* EVT: bit set, then the ring */
    int status = queue_status(q);
    if (status == SHMQ_GONE) return SHMQ_GONE;
    *slice = WAIT_SLICE;
    if (status == SHMQ_CLOSED) {
        if ((rc = ctx_enter(ctx)) != SHMQ_OK) return rc;
        int over = census_drained(ctx, qref_index(qref));
        ctx_unlock(ctx);
        if (over) return SHMQ_CLOSED;
        *slice = 20000000;
    }
    bump(&q->counters->sleeps, 1);
    return SHMQ_EMPTY;
}

static int wait_items(shmq_ctx *ctx, uint64_t qref, local_queue *q, uint64_t deadline_ns, uint64_t spin_ns) {
    uint32_t seen;
    uint64_t slice;
    if (wait_items_ready(ctx, q)) return SHMQ_OK;
    if (spin_adaptive(ctx, q, wait_items_ready, &q->spin_ns, SPIN_MIN, spin_ns, deadline_ns)) {
        gather(ctx, q);
        return SHMQ_OK;
    }
    int rc = wait_prepare_items(ctx, qref, q, &seen, &slice);
    if (rc != SHMQ_EMPTY) return rc;
    uint64_t before = shmq_now();
    rc = waiter_sleep(&q->shared->evt, seen, deadline_ns, slice);
    slept(ctx, q, shmq_now() - before, !wait_items_ready(ctx, q));
    if (rc == SHMQ_OK) return SHMQ_OK;
    if (wait_items_ready(ctx, q)) waiter_wake(&q->shared->evt);   /* leaving without a message: pass the baton */
    return rc;
}

/* Wait until the queue may have something to take. spin_ns: at most so long without sleeping; UINT64_MAX = adaptive.
 * A deadline of 1 asks what there is now: OK, if there is something, and nobody waits for it. */
int shmq_wait_items(shmq_ctx *ctx, uint64_t qref, uint64_t deadline_ns, uint64_t spin_ns) {
    local_queue *q;
    int status, rc = wait_enter(ctx, qref, &q, &status);
    if (rc != SHMQ_OK) return rc;
    if (status == SHMQ_GONE) return SHMQ_GONE;
    rc = wait_items(ctx, qref, q, deadline_ns, spin_ns);
    return deadline_ns == 1 ? rc : in_time(&q->shared->evt, rc, deadline_ns);
}

/* Is something there, or does it come within a microsecond or two? For callers that hold a lock others want: no sleep, no yield. */
int shmq_glance(shmq_ctx *ctx, uint64_t qref, uint64_t deadline_ns) {
    local_queue *q;
    int status, rc = wait_enter(ctx, qref, &q, &status);
    if (rc != SHMQ_OK) return rc;
    for (int i = 0; i < GLANCES; i++) {
        if (wait_items_ready(ctx, q)) {
            gather(ctx, q);
            return in_time(&q->shared->evt, SHMQ_OK, deadline_ns);
        }
        pause_cpu();
    }
    return SHMQ_EMPTY;
}

/* The same for who waits for room. */
int wait_prepare_space(shmq_ctx *ctx, local_queue *q, uint32_t *seen, uint64_t *slice) {
    *seen = waiter_prepare(&q->shared->space);
    if (wait_space_ready(ctx, q)) return SHMQ_OK;
    int status = queue_status(q);
    *slice = q->lot > 1 ? 20000000 : WAIT_SLICE;   /* a taker wakes in lots, and may stop half-way */
    return status != SHMQ_OK ? status : SHMQ_EMPTY;
}

static int wait_space(shmq_ctx *ctx, local_queue *q, uint64_t deadline_ns, uint64_t spin_ns) {
    uint32_t seen;
    uint64_t slice;
    if (space_lot(ctx, q)) return SHMQ_OK;
    if (spin_adaptive(ctx, q, space_lot, &q->room_ns, ROOM_MIN, spin_ns, deadline_ns)) return SHMQ_OK;
    int rc = wait_prepare_space(ctx, q, &seen, &slice);
    if (rc != SHMQ_EMPTY) return rc;
    uint64_t before = shmq_now();
    rc = waiter_sleep(&q->shared->space, seen, deadline_ns, slice);
    slept(ctx, q, shmq_now() - before, !wait_space_ready(ctx, q));
    if (rc == SHMQ_OK) return SHMQ_OK;
    if (wait_space_ready(ctx, q)) waiter_wake(&q->shared->space);
    return rc;
}

/* Wait until the queue may have room. A taker wakes us in lots; the bound on each sleep covers one that stops half-way. */
int shmq_wait_space(shmq_ctx *ctx, uint64_t qref, uint64_t deadline_ns, uint64_t spin_ns) {
    local_queue *q;
    int status, rc = wait_enter(ctx, qref, &q, &status);
    if (rc != SHMQ_OK || status != SHMQ_OK) return rc != SHMQ_OK ? rc : status;
    return in_time(&q->shared->space, wait_space(ctx, q, deadline_ns, spin_ns), deadline_ns);
}

/* Wait until every message of a JOINED queue is settled. OK: they are; BUSY: something has changed, look again. */
int shmq_wait_settled(shmq_ctx *ctx, uint64_t qref, uint64_t deadline_ns) {
    local_queue *q;
    int status, rc = wait_enter(ctx, qref, &q, &status);
    if (rc != SHMQ_OK) return rc;
    if (status == SHMQ_GONE) return SHMQ_GONE;
    uint32_t seen = waiter_prepare(&q->shared->space);
    if ((rc = ctx_enter(ctx)) != SHMQ_OK) return rc;
    op_begin_at(ctx, qref_index(qref));
    int gone = queue_status(q) == SHMQ_GONE, over = !gone && take_none_left(ctx, q) && census_settled(ctx, qref_index(qref));
    op_end(ctx);
    ctx_unlock(ctx);
    if (gone) return SHMQ_GONE;
    if (over || (ld32_acq(&q->shared->marks) & SHMQ_TERMINATED)) return SHMQ_OK;
    uint64_t before = shmq_now();
    rc = waiter_sleep(&q->shared->space, seen, deadline_ns, WAIT_SLICE);
    slept(ctx, q, shmq_now() - before, 1);
    return rc == SHMQ_OK ? SHMQ_BUSY : rc;
}

uint32_t shmq_read_word(shmq_ctx *ctx, uint32_t which) {
    if (!ld32_rlx(&ctx->alive) || !ctx->mapped) return 0;
    return ld32_acq(which == SHMQ_WORD_TIMER ? &ctx->header->timer_evt : &ctx->header->attach_evt);
}

int shmq_wait_word(shmq_ctx *ctx, uint32_t which, uint32_t seen, uint64_t deadline_ns) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped) return SHMQ_E_DETACHED;
    return waiter_sleep(which == SHMQ_WORD_TIMER ? &ctx->header->timer_evt : &ctx->header->attach_evt, seen, deadline_ns, WAIT_SLICE);
}

int shmq_wake_queue(shmq_ctx *ctx, uint64_t qref) {
    local_queue *q;
    int status, rc = wait_enter(ctx, qref, &q, &status);
    if (rc != SHMQ_OK) return rc;
    waiter_announce_all(q->shared);
    return SHMQ_OK;
}
