/* atomic.h: every atomic access of the core, by name; the only file that knows memory orders.
 *
 * Names say the order: ld_acq, ld_rlx, st_rel, st_rlx, cas (seq_cst; expected by value), or/and/add (seq_cst).
 * The orders that matter, each with its partner (tags are grepped by tools/check_pairs.py):
 *   PUBLISH  payload and header stores before the slot CAS (enqueue)      pairs with  TAKE: slot load, acquire (take)
 *   INTENT   pos store before the slot CAS (enqueue)                      pairs with  INTENT: pos load of a proven-dead owner (recover)
 *   R1       ctl CAS to OWNED before the slot CAS to EMPTY (take)         pairs with  R2: slot, ctl, slot again (take)
 *   HELD     held store before the ctl CAS to OWNED (take)                pairs with  HELD: ctl CAS to LIMBO before the held scan (free)
 *   EVT      evt bit set before the ring is looked at again (wait)        pairs with  EVT: slot CAS before the evt load (wake)
 *   DEAD     owner word DEAD before the ctl load that is acted on         pairs with  DEAD: owner word re-read after that ctl load (recover)
 *   EXPIRY   ctl CAS to READY or DELAYED before the look at next_expiry     pairs with  EXPIRY: next_expiry reset before the ctl load (expire)
 *   PARKED   a message parked and said so before the look for room (park)  pairs with  PARKED: a slot cleared before the look for the parked (take)
 *   ERA      a record's word before header.era grows (collect)            pairs with  ERA: header.era before the look at a record (op_begin)
 * On x86 a seq_cst read-modify-write is the plain locked instruction; acquire loads and release stores are plain moves.
 */
#ifndef SHMQ_ATOMIC_H
#define SHMQ_ATOMIC_H

#include "shmq.h"

static inline uint64_t ld_acq(shmq_au64 *p) { return atomic_load_explicit(p, memory_order_acquire); }
static inline uint64_t ld_rlx(shmq_au64 *p) { return atomic_load_explicit(p, memory_order_relaxed); }
static inline uint64_t ld_sc(shmq_au64 *p) { return atomic_load_explicit(p, memory_order_seq_cst); }
static inline void st_rel(shmq_au64 *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_release); }
static inline void st_rlx(shmq_au64 *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_relaxed); }
static inline void st_sc(shmq_au64 *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_seq_cst); }
static inline int cas(shmq_au64 *p, uint64_t from, uint64_t to) {
    return atomic_compare_exchange_strong_explicit(p, &from, to, memory_order_seq_cst, memory_order_acquire);
}
static inline uint64_t add(shmq_au64 *p, uint64_t v) { return atomic_fetch_add_explicit(p, v, memory_order_seq_cst); }
static inline uint64_t sub(shmq_au64 *p, uint64_t v) { return atomic_fetch_sub_explicit(p, v, memory_order_seq_cst); }
static inline uint64_t or64(shmq_au64 *p, uint64_t v) { return atomic_fetch_or_explicit(p, v, memory_order_seq_cst); }
static inline uint64_t and64(shmq_au64 *p, uint64_t v) { return atomic_fetch_and_explicit(p, v, memory_order_seq_cst); }

static inline uint32_t ld32_acq(shmq_au32 *p) { return atomic_load_explicit(p, memory_order_acquire); }
static inline uint32_t ld32_sc(shmq_au32 *p) { return atomic_load_explicit(p, memory_order_seq_cst); }
static inline uint32_t ld32_rlx(shmq_au32 *p) { return atomic_load_explicit(p, memory_order_relaxed); }
static inline void st32_rel(shmq_au32 *p, uint32_t v) { atomic_store_explicit(p, v, memory_order_release); }
static inline void st32_rlx(shmq_au32 *p, uint32_t v) { atomic_store_explicit(p, v, memory_order_relaxed); }
static inline int cas32(shmq_au32 *p, uint32_t from, uint32_t to) {
    return atomic_compare_exchange_strong_explicit(p, &from, to, memory_order_seq_cst, memory_order_acquire);
}
static inline uint32_t add32(shmq_au32 *p, uint32_t v) { return atomic_fetch_add_explicit(p, v, memory_order_seq_cst); }
static inline uint32_t or32(shmq_au32 *p, uint32_t v) { return atomic_fetch_or_explicit(p, v, memory_order_seq_cst); }
static inline uint32_t xchg32(shmq_au32 *p, uint32_t v) { return atomic_exchange_explicit(p, v, memory_order_seq_cst); }

/* Store before it, load after it, on two words: where the other side cannot have a membarrier (ctx.h, op_begin). */
static inline void fence_sc(void) {
#if defined(__SANITIZE_THREAD__)
    /* the sanitizer knows no fences: a read-modify-write that nobody else sees does the same on all machines it runs on */
    shmq_au32 own = 0;
    xchg32(&own, 1);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* Against the compiler and signal handlers only: the other side has the fence of both (barrier.c). */
static inline void fence_here(void) { atomic_signal_fence(memory_order_seq_cst); }

/* A mark in a struct that is copied as a whole, so that it is no atomic by type: set once, after what it says is there. */
static inline uint32_t mark_acq(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint32_t mark_rlx(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void mark_rel(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

#define RARE(x) __builtin_expect(!!(x), 0)
/* What runs for every message lies together. Where it lies otherwise is chance, which is worth five nanoseconds of a hundred. */
#define HOT __attribute__((hot))

/* A counter with one writer: the owner. Relaxed: nobody decides anything by it. */
static inline void bump(shmq_au64 *p, uint64_t n) { st_rlx(p, ld_rlx(p) + n); }

static inline void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static inline void prefetch_to_read(const void *p) { __builtin_prefetch(p); }

/* A hint: this line will be written. gcc makes a prefetch for reading of __builtin_prefetch(p, 1) on x86-64, and the line has to be
 * asked for a second time when it is written; prefetchw does nothing on the few processors that do not know it. */
static inline void prefetch_to_write(const void *p) {
#if defined(__x86_64__) || defined(__i386__)
    __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)p));
#else
    __builtin_prefetch(p, 1);
#endif
}

/* Named crash points of the test build: SHMQ_CRASH=name[:n] kills this process at the n-th passage of that point. */
#ifdef SHMQ_CRASHPOINTS
void shmq_crash_point(const char *name);
#define CRASH_POINT(name) shmq_crash_point(name)
#else
#define CRASH_POINT(name) ((void)0)
#endif

/* Guards that tools/mutants.py removes one at a time, to see that a test notices: MUTANT(name) is 1 in that build only. */
#ifdef SHMQ_MUTANT
#define MUTANT(n) (SHMQ_MUTANT == (n))
#else
#define MUTANT(n) 0
#endif

#endif
