/* words.h: how words are packed. Shifts and masks only: nothing here reads memory. */
#ifndef SHMQ_WORDS_H
#define SHMQ_WORDS_H

#include "shmq.h"

/* ---- ctl ---- */
#define GEN_MASK ((UINT64_C(1) << 44) - 1)
static inline uint64_t ctl_make(unsigned state, unsigned flags, unsigned owner, uint64_t gen) {
    return (uint64_t)state << 60 | (uint64_t)flags << 56 | (uint64_t)owner << 44 | (gen & GEN_MASK);
}
static inline unsigned ctl_state(uint64_t c) { return (unsigned)(c >> 60); }
static inline unsigned ctl_flags(uint64_t c) { return (unsigned)(c >> 56) & 15u; }
static inline unsigned ctl_owner(uint64_t c) { return (unsigned)(c >> 44) & 0xfffu; }
static inline uint64_t ctl_gen(uint64_t c) { return c & GEN_MASK; }
#define PARKED_CTL ((uint64_t)SHMQ_FLAG_PARKED << 56)
/* FRESH begins with NEW -> MOVE or DELAYED, and ends in the ring: who finds MOVE without it knows that it came out of one */
static inline unsigned flags_on(uint64_t c, unsigned state) {
    unsigned f = ctl_flags(c) & ~(unsigned)SHMQ_FLAG_PARKED;   /* said anew by who parks it (park.c) */
    if (state == SHMQ_READY || state == SHMQ_OWNED) return f & ~(unsigned)SHMQ_FLAG_FRESH;
    if ((state == SHMQ_MOVE || state == SHMQ_DELAYED) && ctl_state(c) == SHMQ_NEW) return f | SHMQ_FLAG_FRESH;
    return f;
}
/* same generation, other state and owner */
static inline uint64_t ctl_to(uint64_t c, unsigned state, unsigned owner) { return ctl_make(state, flags_on(c, state), owner, ctl_gen(c)); }
/* the next generation: entering NEW, OWNED or MOVE */
static inline uint64_t ctl_next(uint64_t c, unsigned state, unsigned owner) {
    return ctl_make(state, flags_on(c, state), owner, ctl_gen(c) + 1);
}

/* ---- slot and pos ---- */
#define NOBODY UINT32_C(0xffffffff)
static inline uint64_t slot_make(uint64_t round, uint32_t idx) { return round << 24 | (idx + 1); }
static inline uint64_t slot_empty(uint64_t round) { return round << 24; }
static inline uint64_t slot_round(uint64_t s) { return s >> 24; }
static inline int slot_is_empty(uint64_t s) { return (s & 0xffffff) == 0; }
static inline uint32_t slot_idx(uint64_t s) { return (uint32_t)(s & 0xffffff) - 1; }
static inline int64_t round_diff(uint64_t a, uint64_t b) { return (int64_t)((a - b) << 24) >> 24; }   /* 40-bit circular */
#define POSITION_MASK ((UINT64_C(1) << 48) - 1)
static inline uint64_t pos_make(unsigned ring, uint64_t position) { return (uint64_t)ring << 48 | (position & POSITION_MASK); }
static inline unsigned pos_ring(uint64_t p) { return (unsigned)(p >> 48); }
static inline uint64_t pos_position(uint64_t p) { return p & POSITION_MASK; }

/* ---- fate ---- */
static inline unsigned fate_home(uint64_t f) { return (unsigned)f & 0xfff; }
static inline unsigned fate_origin(uint64_t f) { return (unsigned)(f >> 12) & 0xfff; }
static inline unsigned fate_attempts(uint64_t f) { return (unsigned)(f >> 24) & 0xfff; }
static inline unsigned fate_died(uint64_t f) { return (unsigned)(f >> 36) & 0xfff; }
static inline unsigned fate_reason(uint64_t f) { return (unsigned)(f >> 48) & 7; }
static inline unsigned fate_again(uint64_t f) { return (unsigned)(f >> 51) & 1; }
static inline unsigned fate_prio(uint64_t f) {   /* never above the highest level, whatever the word says */
    unsigned p = (unsigned)(f >> 52) & 15;
    return p < SHMQ_LEVELS ? p : SHMQ_LEVELS - 1;
}
static inline unsigned fate_meta(uint64_t f) { return (unsigned)(f >> 56) & 1; }
static inline uint64_t fate_make(unsigned home, unsigned origin, unsigned attempts, unsigned died, unsigned reason, unsigned again,
                                 unsigned prio, unsigned meta) {
    return (uint64_t)home | (uint64_t)origin << 12 | (uint64_t)(attempts > SHMQ_ATTEMPTS_MAX ? SHMQ_ATTEMPTS_MAX : attempts) << 24
           | (uint64_t)(died > SHMQ_ATTEMPTS_MAX ? SHMQ_ATTEMPTS_MAX : died) << 36 | (uint64_t)reason << 48 | (uint64_t)again << 51
           | (uint64_t)prio << 52 | (uint64_t)meta << 56;
}
#define FATE_AGAIN (UINT64_C(1) << 51)
#define FATE_DEDUP (UINT64_C(1) << 57)     /* the id's key lies behind the payload */
#define FATE_FORWARD (UINT64_C(1) << 58)   /* settled by a forward: due_ns names the new message */
#define FATE_TIED (UINT64_C(1) << 59)      /* NEW: to be published if the delivery that is named behind the payload was forwarded */
#define FATE_LEAVING (UINT64_C(1) << 60)   /* MOVE: due_ns is no time, but the reference of what it is forwarded as */
#define FATE_CHILDREN (UINT64_C(1) << 61)      /* a topic's message: what would lie behind the payload lies behind the list of children */
#define FATE_ATTEMPT (UINT64_C(1) << 24)

/* ---- held ---- */
static inline uint64_t held_make(unsigned flags, uint64_t gen, uint32_t idx) {
    return (uint64_t)flags << 60 | (gen & ((UINT64_C(1) << 36) - 1)) << 24 | (idx + 1);
}
static inline unsigned held_flags(uint64_t h) { return (unsigned)(h >> 60); }
static inline uint32_t held_idx(uint64_t h) { return (uint32_t)(h & 0xffffff) - 1; }
static inline int held_names(uint64_t h, uint64_t ctl) {   /* entry of exactly this lease */
    return ((h >> 24) & ((UINT64_C(1) << 36) - 1)) == (ctl_gen(ctl) & ((UINT64_C(1) << 36) - 1));
}

/* ---- owner word, queue word ---- */
static inline uint64_t owner_make(unsigned state, unsigned epoch, uint64_t start, uint32_t pid) {
    return (uint64_t)state << 62 | (uint64_t)(epoch & 0xffff) << 46 | (start & 0xffffff) << 22 | (pid & 0x3fffff);
}
static inline unsigned owner_state(uint64_t w) { return (unsigned)(w >> 62); }
static inline unsigned owner_epoch(uint64_t w) { return (unsigned)(w >> 46) & 0xffff; }
static inline uint64_t owner_start(uint64_t w) { return (w >> 22) & 0xffffff; }
static inline uint32_t owner_pid(uint64_t w) { return (uint32_t)w & 0x3fffff; }
static inline uint64_t owner_with(uint64_t w, unsigned state) { return (w & ~(UINT64_C(3) << 62)) | (uint64_t)state << 62; }
static inline uint64_t queue_make(uint64_t gen, unsigned state) { return gen << 8 | state; }
static inline unsigned queue_state(uint64_t w) { return (unsigned)w & 0xff; }
static inline uint64_t queue_gen(uint64_t w) { return w >> 8; }

/* ---- numbers ---- */
static inline uint32_t extra_idx(uint32_t extra) { return (extra >> 8) - 1; }      /* NOBODY-like when none: check extra>>8 */
static inline uint32_t align8(uint32_t n) { return (n + 7) & ~7u; }
/* times from outside saturate: "for ever" must not wrap into the past */
static inline uint64_t later(uint64_t now, uint64_t ns) { return ns > UINT64_MAX - now ? UINT64_MAX : now + ns; }

#endif
