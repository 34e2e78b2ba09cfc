/* waiter.c: sleeping without lost wake-ups, whoever dies.
 *
 *   evt   seq:31 | bit:1          one word per queue for consumers (evt), one for producers (space)
 *
 *   wait:  v = evt; set the bit by CAS if it is not set; look at the ring again; FUTEX_WAIT(evt, v|1)
 *   wake:  (after the slot CAS) if the bit is set: evt += 2; FUTEX_WAKE(1); if that woke nobody: clear the bit under a new
 *          seq, then FUTEX_WAKE(all)
 *   death: evt += 2; FUTEX_WAKE(all), unconditionally, on every queue, by whoever recovers, before anything else
 *
 * I1  Who sleeps has set the bit (or seen it set) before looking at the ring, and sleeps only while evt is unchanged: a
 *     publisher either made the message visible before that look, or sees the bit and changes evt. (EVT pair)
 * I2  The bit is cleared only under a new seq, and everyone is woken after that: nobody sleeps on a word without the bit.
 * I3  A woken process that leaves without a message wakes the next one (the baton); one that dies is covered by "death".
 *     One that is stopped, not dead, keeps the baton: every sleep is bounded by a second.
 *
 * No counts and no undo: a process killed anywhere in here leaves at most the bit set, which costs the next publisher one
 * futile FUTEX_WAKE. The futex is shared (no FUTEX_PRIVATE_FLAG): sleepers are in other processes.
 */
#define _GNU_SOURCE
#include "waiter.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int futex_wake(shmq_au32 *word, int n) { return (int)syscall(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0); }

/* The value to sleep on. The caller must look at what it waits for after this and before waiter_sleep. */
uint32_t waiter_prepare(shmq_au32 *evt) {
    for (;;) {   /* bounded by others' progress: evt changed under us */
        uint32_t v = ld32_sc(evt);
        if (v & 1) return v;
        if (cas32(evt, v, v | 1)) return v | 1;
    }
}

/* OK: woken or the word changed; TIMEOUT: the deadline passed; INTR: a signal. Sleeps at most most_ns (I3). */
int waiter_sleep(shmq_au32 *evt, uint32_t seen, uint64_t deadline_ns, uint64_t most_ns) {
    uint64_t now = shmq_now(), ns = most_ns;
    if (deadline_ns) {
        if (now >= deadline_ns) return SHMQ_TIMEOUT;
        if (deadline_ns - now < ns) ns = deadline_ns - now;
    }
    struct timespec t = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };
    if (syscall(SYS_futex, evt, FUTEX_WAIT, seen, &t, NULL, 0) == 0) return SHMQ_OK;
    if (errno == EINTR) return SHMQ_INTR;
    if (errno == ETIMEDOUT && deadline_ns && shmq_now() >= deadline_ns) return SHMQ_TIMEOUT;
    return SHMQ_OK;   /* EAGAIN: the word had changed; or a slice is over */
}

void waiter_wake_slow(shmq_au32 *evt) {
    add32(evt, 2);
    CRASH_POINT("woken_one");
    if (futex_wake(evt, 1) > 0) return;
    uint32_t v = ld32_sc(evt);
    if ((v & 1) && cas32(evt, v, (v + 2) & ~1u)) {   /* I2 */
        CRASH_POINT("bit_cleared");
        futex_wake(evt, INT_MAX);
    }
}

/* For those who wait for the same thing: all of them, while there are any. */
void waiter_wake_all(shmq_au32 *evt) {
    add32(evt, 2);
    if (futex_wake(evt, INT_MAX) > 0) return;
    uint32_t v = ld32_sc(evt);
    if ((v & 1) && cas32(evt, v, (v + 2) & ~1u)) futex_wake(evt, INT_MAX);   /* I2 */
}

void waiter_announce(shmq_au32 *evt) {
    add32(evt, 2);
    futex_wake(evt, INT_MAX);
}
