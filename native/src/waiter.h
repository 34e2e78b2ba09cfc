/* waiter.h: an event count in one 32-bit futex word: seq << 1 | bit. See waiter.c. */
#ifndef SHMQ_WAITER_H
#define SHMQ_WAITER_H
#include "ctx.h"

uint32_t waiter_prepare(shmq_au32 *evt);
int waiter_sleep(shmq_au32 *evt, uint32_t seen, uint64_t deadline_ns, uint64_t most_ns);
void waiter_wake_slow(shmq_au32 *evt);
void waiter_announce(shmq_au32 *evt);
int futex_wake(shmq_au32 *word, int n);

static inline int waiter_present(shmq_au32 *evt) { return ld32_sc(evt) & 1; }   /* EVT: after the slot CAS */
void waiter_wake_all(shmq_au32 *evt);
/* Both counts of a queue: consumers, and who waits for room or for the end. */
static inline void waiter_announce_all(shmq_queue *rec) {
    waiter_announce(&rec->evt);
    waiter_announce(&rec->space);
}
static inline void waiter_wake(shmq_au32 *evt) {
    if (waiter_present(evt)) waiter_wake_slow(evt);
}
#endif
