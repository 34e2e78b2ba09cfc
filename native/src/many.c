/* many.c: one thread waits for many queues, for messages or for room.
 *
 *   set      control | one[0] .. one[n-1]       a queue each; one.seen: the value to sleep on, 0 = not armed
 *
 *   arm      seen = the queue's word with its bit set; then look there: ready, or to be slept on       (wait.c)
 *   sleep    futex_waitv over control and all words, while all of them are as seen
 *   look     arm those again whose word has changed; after a whole slice, all
 *
 * I1  As in waiter.c: the bit of each word is set before the look, and the sleep is only while no word has changed since.
 * I2  A wake-up changes its word before it wakes. So whatever woke this thread, be it for several queues at once, is found in the words.
 *     (The kernel names one of them, which is looked at first. A second wake-up that comes before the thread runs counts as well: it woke
 *     nobody else.)
 * I3  The baton. What is reported as ready has to be looked at by somebody: by a take, which wakes the next one, or by shmq_pass, when
 *     nobody here wants it any more. The same for an entry that leaves the set unreported: a wake-up may have been its own.
 * I4  A sleep lasts a slice at most: a process that is stopped with the baton in its hands costs others a second. Who has slept half of
 *     that in vain, in one sleep or in many, looks for dead processes, once for all queues of a broker.
 *
 * Who dies where: the set is private; what was woken for it is announced anew by whoever recovers the death (waiter.c).
 */
#define _GNU_SOURCE
#include "queue.h"
#include "wait.h"
#include "waiter.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449   /* on every machine; kernels before 5.16 do not have it */
#endif
#define WORD_32 2             /* FUTEX_32, FUTEX2_SIZE_U32 */

typedef struct {
    uint64_t value, address;
    uint32_t flags, reserved;
} waitv;

/* Does the kernel have it, and is it allowed? Of no words it says EINVAL. */
int shmq_waits_many(void) { return syscall(SYS_futex_waitv, NULL, 0, 0, NULL, CLOCK_MONOTONIC) < 0 && errno == EINVAL; }

uint32_t shmq_wait_seen(shmq_wait_set *set) { return ld32_acq(&set->control); }

/* Whoever waits with this set looks up. */
void shmq_wait_nudge(shmq_wait_set *set) {
    add32(&set->control, 1);
    syscall(SYS_futex, &set->control, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

static shmq_au32 *word_of(shmq_queue *rec, uint32_t what) { return what == SHMQ_FOR_SPACE ? &rec->space : &rec->evt; }
static shmq_au32 *its_word(const shmq_wait_one *w) { return word_of(&w->ctx->queues[qref_index(w->queue)], w->what); }
static int is_ready(shmq_ctx *ctx, local_queue *q, uint32_t what) {
    return what == SHMQ_FOR_SPACE ? wait_space_ready(ctx, q) : wait_items_ready(ctx, q);
}

/* EMPTY: armed; else what its wait is over with. */
static int arm(shmq_wait_one *w, int changed) {
    local_queue *q;
    int status, rc = wait_enter(w->ctx, w->queue, &q, &status);
    w->seen = 0;
    if (rc != SHMQ_OK) return rc;
    if (status == SHMQ_GONE) return SHMQ_GONE;
    if (w->what == SHMQ_FOR_CALL) {
        if (changed) return SHMQ_OK;
        w->seen = waiter_prepare(&q->shared->evt);
        w->slice_ns = WAIT_SLICE;
        return SHMQ_EMPTY;
    }
    if (w->what != SHMQ_FOR_SPACE) return wait_prepare_items(w->ctx, w->queue, q, &w->seen, &w->slice_ns);
    return status != SHMQ_OK ? status : wait_prepare_space(w->ctx, q, &w->seen, &w->slice_ns);
}

/* After a slice in vain: has nothing come to an open queue? 0 = arm it again, which looks properly. */
static int nothing_new(const shmq_wait_one *w) {
    local_queue *q;
    int status;
    if (w->what == SHMQ_FOR_CALL || wait_enter(w->ctx, w->queue, &q, &status) != SHMQ_OK || status != SHMQ_OK) return 0;
    return !is_ready(w->ctx, q, w->what) && (w->what == SHMQ_FOR_SPACE || !mark_acq(&q->shared->ahead));
}

/* Arm that one (again). How many are ready now. */
static int look_at(shmq_wait_set *set, uint32_t i, int changed, int ready) {
    shmq_wait_one *w = &set->one[i];
    w->result = arm(w, changed);
    if (w->result == SHMQ_EMPTY) return ready;
    w->seen = 0;
    set->ready[ready] = (uint8_t)i;
    return ready + 1;
}

/* How many are ready; `all`: those too whose word has not changed. */
static int look(shmq_wait_set *set, uint32_t n, int all) {
    int ready = 0;
    for (uint32_t i = 0; i < n; i++) {
        shmq_wait_one *w = &set->one[i];
        int changed = w->seen && ld32_sc(its_word(w)) != w->seen && !MUTANT(110);   /* I2 */
        if (w->seen && !changed && (!all || nothing_new(w))) continue;
        ready = look_at(set, i, changed, ready);
    }
    return ready;
}

/* OK: something has changed, or the slice is over (*over); TIMEOUT: the deadline is; INTR; E_SYS. *woken: the entry whose word the kernel
 * names, + 1. */
static int sleep_many(shmq_wait_set *set, uint32_t n, uint32_t seen, uint64_t deadline_ns, uint64_t slice, int *over, uint32_t *woken) {
    waitv v[SHMQ_WAIT_MANY + 1];
    v[0] = (waitv){ seen, (uintptr_t)&set->control, WORD_32 | FUTEX_PRIVATE_FLAG, 0 };
    for (uint32_t i = 0; i < n; i++) v[i + 1] = (waitv){ set->one[i].seen, (uintptr_t)its_word(&set->one[i]), WORD_32, 0 };
    uint64_t now = shmq_now(), end = now + slice;
    if (deadline_ns) {
        if (now >= deadline_ns) return SHMQ_TIMEOUT;
        if (deadline_ns < end) end = deadline_ns;
    }
    struct timespec until = { .tv_sec = (time_t)(end / 1000000000), .tv_nsec = (long)(end % 1000000000) };
    long rc = syscall(SYS_futex_waitv, v, n + 1, 0, &until, CLOCK_MONOTONIC);
    if (rc > 0) *woken = (uint32_t)rc;
    if (rc >= 0 || errno == EAGAIN) return SHMQ_OK;
    if (errno == EINTR) return SHMQ_INTR;
    *over = errno == ETIMEDOUT;
    if (*over) return deadline_ns && end == deadline_ns ? SHMQ_TIMEOUT : SHMQ_OK;
    return SHMQ_E_SYS;
}

/* I4. Brokers are few: their entries are compared with the one before. */
static void look_for_the_dead(shmq_wait_set *set, uint32_t n) {
    shmq_ctx *last = NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (set->one[i].ctx != last) shmq_reap(set->one[i].ctx, 0);
        last = set->one[i].ctx;
    }
}

/* Wait until some of the set's queues are ready: how many; their numbers are in set->ready, why in one.result. `seen` is what
 * shmq_wait_seen said before the set was put together: 0 = it has been nudged since, or a slice is over. TIMEOUT, INTR. E_SYS: the
 * kernel does not do it, or not any more (shmq_waits_many). Of no queue: sleeps until it is nudged, a second at most. An entry that is ready is armed anew if it is still there at the next call. */
int shmq_wait_many(shmq_wait_set *set, uint32_t seen, uint64_t deadline_ns) {
    uint32_t n = set->n;
    uint64_t slice = WAIT_SLICE;
    if (n > SHMQ_WAIT_MANY) return SHMQ_E_ARG;
    int ready = look(set, n, 0);
    if (ready) {
        set->idle_ns = 0;
        return ready;
    }
    for (uint32_t i = 0; i < n; i++)
        if (set->one[i].slice_ns < slice) slice = set->one[i].slice_ns;
    slice -= slice / 8 * ((uintptr_t)set >> 12 & 7) / 8;   /* so that the threads of a process do not look all at once */
    uint64_t before = shmq_now();
    uint32_t woken = 0;
    int over = 0, rc = sleep_many(set, n, seen, deadline_ns, slice, &over, &woken);
    if (woken && woken <= n) ready = look_at(set, woken - 1, 1, 0);   /* at once; the others' words tell it at the next call */
    if (!ready) ready = look(set, n, over);
    set->idle_ns = ready ? 0 : set->idle_ns + (shmq_now() - before);
    if (ready) return ready;
    if (set->idle_ns > WAIT_SLICE / 2) {
        look_for_the_dead(set, n);
        set->idle_ns = 0;
    }
    return rc;
}

/* I3. Somebody else may want what is there. */
int shmq_pass(shmq_ctx *ctx, uint64_t qref, uint32_t what) {
    local_queue *q;
    int status, rc = wait_enter(ctx, qref, &q, &status);
    if (rc != SHMQ_OK || status == SHMQ_GONE || MUTANT(111)) return rc;
    if (is_ready(ctx, q, what)) waiter_wake(word_of(q->shared, what));
    return SHMQ_OK;
}
