/* ctx.h: the private context through which the core reaches a segment, and what every operation begins and ends with.
 *
 * A context lives in an anonymous mapping of its own with MADV_WIPEONFORK: in a forked child it reads as zeros, so that
 * `alive` is 0 there and every call answers SHMQ_E_FORKED before it touches the segment (which MADV_DONTFORK keeps out of
 * the child). Nothing in a context is shared; all of it can be lost at any instruction.
 */
#ifndef SHMQ_CTX_H
#define SHMQ_CTX_H

#include "atomic.h"
#include "words.h"
#include <sched.h>
#include <string.h>

typedef struct {             /* what this process knows of one ring; head and tail are lower bounds of the true ones */
    shmq_au64 *slots;
    shmq_ring_ends *ends;
    shmq_au32 *chunks;       /* NULL: all slots have memory, as far as this process knows or has seen */
    uint64_t backed;         /* positions below need no look at chunks before they are filled */
    uint64_t head, tail, mask;
    uint32_t lg, ring;       /* ring = queue*16 + lane */
} local_ring;

#define TABLE_OF_IDS 5       /* part of the fingerprint: to be raised with the drawing in ids.c */
typedef struct {             /* the table of ids of a queue; base == NULL: it has none. See ids.c */
    uint8_t *base;
    uint64_t window_ms, tick_ms, bucket_bytes, entry_bytes, half_bytes, mask;
    /* ids in each half; buckets that get their memory together; numbers that are given together */
    uint32_t capacity, chunk_lg, lot_lg;
    uint64_t gen_begin, gen_now;   /* one generation, and the ms in which it began: gen_at() */
    uint64_t lot_gen, lot_first;   /* numbers of entries that are this process' own, of that generation, for ids from lot_first on */
    uint32_t lot_next, lot_end;
} local_dedup;

typedef struct {             /* one queue as this process sees it; options are a private copy */
    uint64_t live, closed;   /* its word when LIVE and when CLOSED; live == 0: not opened */
    shmq_queue *shared;
    shmq_counters *counters;
    uint64_t max_depth, max_bytes;
    uint64_t most;           /* positions of a ring in use at a time: max_depth; of an ordered queue: all */
    local_ring work, again;
    uint32_t lanes;          /* what of shared->lanes this process has opened */
    uint64_t taken_ns;       /* when this process last took, kept only while producers sleep */
    uint32_t sampled;        /* latency of every message whose number modulo SAMPLE_EVERY is this is measured */
    uint32_t space_owed;     /* slots freed since producers were last woken */
    uint32_t lot;            /* how many make a wake-up worth while */
    uint32_t odd;            /* room left over when it was last halved between those that wait and publishers */
    uint64_t wanted;         /* payload of the last message that found no room: what its publisher waits for */
    uint64_t turn_seen, turn_op, turn_since;   /* who had the turn when we last wanted it, and since when that has not moved */
    uint64_t held_seen;      /* what a dead one's turn leaves us waiting for, by its ctl: block held_at */
    uint32_t held_at;
    shmq_au64 spin_ns;       /* adaptive: how long a consumer spins before it sleeps */
    shmq_au64 room_ns;       /* the same for a producer */
    shmq_au32 gather_skip, gather_rest;   /* how often gathering is still left out, and how often after it was last in vain: wait.c */
    shmq_au64 idle_ns;       /* how long this process has slept here in vain */
    shmq_queue_options options;
    char dead_name[256];
    uint64_t again_from[SHMQ_LEVELS];   /* before this position no redelivered message of that level waits */
    local_ring level[SHMQ_LEVELS];      /* levels 1 to 9; level 0 is work */
    uint64_t room_until;     /* ordered: up to this position of the ring there is room, as counted one by one */
    shmq_au64 *keys;         /* order = key, strict: what each lane is busy with */
    local_dedup dedup;
} local_queue;

typedef struct {
    uint32_t idx, entry;
    uint64_t key;
} keyed_block;   /* a block to be sorted by something */

#define MOST_DEEP 4
#define LINES 4
#define LINE 4096
typedef struct {             /* of a queue: who waits for room, as far as known, in the order of tickets. See park.c */
    uint64_t live;           /* the queue's word; another one: this line is not of that queue */
    uint32_t count, disturbed, known, whole, n, next;   /* known: as of these; whole: nobody else waited then */
    keyed_block at[LINE];    /* key: its ticket, as of the look */
} parked_line;

#define FANS 8
/* the subscriptions of a topic, as of that topology */
typedef struct {
    uint64_t topic;
    uint32_t topology, n;
    uint16_t to[SHMQ_QUEUES];
} fan_list;

#define USUAL_DEPTH 100064   /* the default max_depth, and what slots a queue has more */
#define AGAIN_MOST 65536     /* slots of a redelivery ring */

#define MAGAZINE 64
typedef struct {
    uint32_t n, cap, window, next;
    uint32_t idx[MAGAZINE];
} magazine;   /* window: of how many blocks; next: within it */

typedef struct {             /* how a size class is reached */
    uint8_t *payload;
    uint64_t stride, limit, unit;   /* unit: bytes per count of block.extra's reserved field */
    uint32_t first;                 /* index of its first block */
} class_place;

struct shmq_ctx {
    shmq_au32 alive;         /* 0 = fresh, or wiped by a fork */
    shmq_au32 lock;
    shmq_au32 admin_lock;
    uint32_t self;           /* owner record */
    shmq_au32 attached;
    shmq_counters spare;     /* counts go here while a full file system denies us our own */
    uint64_t self_word;
    uint8_t *base;
    uint64_t size, inode, device;
    int fd;                  /* asked by segment_fd whether it still is ours */
    uint32_t provider, mapped, used;
    shmq_header *header;
    uint32_t fences;         /* operations have a fence, since others may not use membarrier; decided at attach, for good */
    shmq_owner *owners, *me;
    shmq_au64 *timers, *l1, *l0;
    shmq_queue *queues;
    shmq_counters *counters;
    shmq_held *held_base, *held;   /* all tables; mine */
    shmq_block *blocks;
    shmq_geometry geometry;
    class_place classes[SHMQ_CLASSES];
    uint32_t unit_lg, indices;       /* block indices come in units of 2^unit_lg; how many there are */
    uint8_t unit_class[SHMQ_UNITS];
    uint64_t next_id, end_id;
    uint64_t random;
    struct {
        uint64_t ns, tsc, window, scale, first_ns, first_tsc;
        uint32_t trusted;
    } clock;
    magazine magazines[SHMQ_CLASSES];
    shmq_detail detail;
    uint64_t timed;          /* bit = that entry of samples may be of a delivery that is not settled */
    uint32_t started;        /* read-ahead deliveries handed out */
    struct {
        uint64_t ctl, ns;
        uint32_t idx;
    } samples[64];   /* by held entry: see figures_place */
    uint64_t blocker;        /* the subscription without room for which the last publish of a topic would have had to wait */
    uint32_t bare;           /* blocks in the user's hands without a held entry: loans, and takes for good not yet acked */
    uint32_t trimmed;        /* this context has trimmed before: marks of punched pages can be trusted */
    uint64_t frees;          /* blocks that this attachment has freed */
    struct {
        uint64_t not_before, much_later, frees, group;
        uint32_t class;
    } reclaim;   /* see reclaim() in arena.c */
    uint64_t bound, credit;  /* memory that payloads may have; bytes of it that may be had before the file system is looked at again */
    uint32_t held_n;         /* entries on the free stack */
    uint32_t held_fresh;     /* entries never used by this attachment start here */
    uint32_t held_cap;       /* entries that this attachment has put memory behind */
    uint32_t held_free[SHMQ_HELD];
    uint64_t secret[2];      /* the broker's, copied */
    local_queue local[SHMQ_QUEUES];   /* an entry changes under the lock only */
    fan_list fans[FANS];
    keyed_block scratch[SHMQ_HELD];   /* recovery sorts here */
    parked_line lines[LINES];
    keyed_block pick[LINE];        /* of which a line is made */
    uint8_t leaving[SHMQ_QUEUES];   /* records that are collected (collect.c) */
    uint32_t deep;           /* queues in which room is being made, one in the course of the other: room.c */
    shmq_queue *making[MOST_DEEP];
};

/* detail.what */
/* clang-format off */
enum { WHAT_NONE, WHAT_MAGIC, WHAT_VERSION, WHAT_FINGERPRINT, WHAT_CHECKSUM, WHAT_SIZE, WHAT_UID, WHAT_PIDNS, WHAT_BOOT,
       WHAT_RESERVE, WHAT_SLOT, WHAT_BLOCK, WHAT_QUEUE, WHAT_CLASS, WHAT_MAP, WHAT_GEOMETRY, WHAT_PROVIDER, WHAT_DEDUP, WHAT_TIMENS, WHAT_LIMIT };
/* clang-format on */

static inline int fail(shmq_ctx *ctx, int rc, uint32_t what, uint64_t offset, uint64_t found, uint64_t expected, int err) {
    ctx->detail = (shmq_detail){ .sys_errno = err, .what = what, .offset = offset, .found = found, .expected = expected };
    return rc;
}

/* How far tables are in use. Each is a word that anybody may have damaged: read here and nowhere else, and never beyond its table. */
static inline uint32_t clamped(uint32_t n, uint32_t most) { return n < most ? n : most; }
static inline uint32_t owners_used(shmq_ctx *ctx) { return clamped(ld32_acq(&ctx->header->owner_hwm), (uint32_t)ctx->geometry.processes); }
static inline uint32_t queues_used(shmq_ctx *ctx) {
    return clamped(ld32_acq(&ctx->header->queue_hwm), (uint32_t)ctx->geometry.queue_count);
}
/* held entries of that record which have memory, and were ever used */
static inline uint32_t held_used(shmq_ctx *ctx, uint32_t owner) {
    shmq_owner *o = &ctx->owners[owner];
    uint32_t n = ld32_acq(&o->held_hwm);
    return clamped(clamped(n, ld32_acq(&o->held_cap)), (uint32_t)ctx->geometry.held_each);
}
static inline shmq_held *held_of(shmq_ctx *ctx, uint32_t owner) { return ctx->held_base + owner * ctx->geometry.held_each; }
static inline shmq_counters *counters_of(shmq_ctx *ctx, uint32_t owner, uint32_t queue) {
    return &ctx->counters[owner * ctx->geometry.queue_count + queue];
}

static inline shmq_block *block_at(shmq_ctx *ctx, uint32_t idx) { return &ctx->blocks[idx]; }
static inline unsigned class_of(shmq_ctx *ctx, uint32_t idx) { return ctx->unit_class[idx >> ctx->unit_lg]; }   /* idx < indices */
static inline uint64_t expires_of(shmq_block *b) {   /* 0 = never: a dead letter's says when it died */
    return fate_reason(ld_rlx(&b->fate)) ? 0 : ld_rlx(&b->expires_ns);
}
static inline uint8_t *payload_of(shmq_ctx *ctx, uint32_t idx) {
    class_place *k = &ctx->classes[class_of(ctx, idx)];
    return k->payload + (uint64_t)(idx - k->first) * k->stride;
}
/* Bytes that the block has memory for, whatever its header says: of a large class as much as was reserved. */
static inline uint64_t payload_room(shmq_ctx *ctx, uint32_t idx) {
    class_place *k = &ctx->classes[class_of(ctx, idx)];
    if (k->stride < SHMQ_PAGE) return k->stride;
    uint64_t room = (ld32_rlx(&block_at(ctx, idx)->extra) & 255) * k->unit;
    return room < k->stride ? room : k->stride;
}
/* Where payload and headers end, in steps of 8: the whole room, if lengths cannot be. */
static inline uint64_t payload_end(shmq_ctx *ctx, uint32_t idx) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t room = payload_room(ctx, idx), at = ((uint64_t)ld32_rlx(&b->size) + 7) & ~UINT64_C(7);
    uint32_t meta;
    if (!fate_meta(ld_rlx(&b->fate))) return at;
    if (at + 4 > room) return room;
    memcpy(&meta, payload_of(ctx, idx) + at, 4);
    return (at + 4 + meta + 7) & ~UINT64_C(7);
}
/* The lines of a block's payload that are needed first: fields lie in the second. Of a shorter block that is another's line. */
#define PREFETCH_PAYLOAD(ctx, idx, prefetch) \
    do { \
        uint8_t *payload_ = payload_of(ctx, idx); \
        prefetch(payload_); \
        if ((ctx)->classes[class_of(ctx, idx)].stride > 64) prefetch(payload_ + 64); \
    } while (0)
/* blocks of class k ever made; never more than there is room for, whatever the word says */
static inline uint64_t class_hwm(shmq_ctx *ctx, unsigned k) {
    uint64_t n = ld_acq(&ctx->header->hwm[k].n);
    return n < ctx->classes[k].limit ? n : ctx->classes[k].limit;
}
/* is that a block that has ever been made? every index read from shared memory passes here */
static inline int block_known(shmq_ctx *ctx, uint32_t idx) {
    if (idx >= ctx->indices) return 0;
    unsigned k = class_of(ctx, idx);
    return idx - ctx->classes[k].first < class_hwm(ctx, k);
}
/* All blocks that were ever made: for (block_walk w = { 0 }; block_next(ctx, &w);) looks at w.idx. */
typedef struct {
    uint32_t idx, left, k;
} block_walk;   /* left: of the class before k */
static inline int block_next(shmq_ctx *ctx, block_walk *w) {
    for (; w->left == 0; w->k++) {
        if (w->k == SHMQ_CLASSES) return 0;
        w->left = (uint32_t)class_hwm(ctx, w->k);
        w->idx = ctx->classes[w->k].first - 1;
    }
    w->left--;
    w->idx++;
    return 1;
}
/* What the living hold: for (held_walk w = held_all(ctx); held_next(ctx, &w);) looks at w.e, the entry at w.h of owner w.owner; never 0.
 * Both words are read as free_limbo needs them, the strictest of those who look. */
typedef struct {
    uint32_t owners, next, owner, used, at;
    shmq_held *h;
    uint64_t e;
} held_walk;
static inline held_walk held_all(shmq_ctx *ctx) { return (held_walk){ .owners = owners_used(ctx) }; }
static inline int held_next(shmq_ctx *ctx, held_walk *w) {
    for (;;) {
        while (w->at < w->used) {
            w->h = &held_of(ctx, w->owner)[w->at++];
            w->e = ld_sc(&w->h->word);
            if (w->e) return 1;
        }
        do {
            if (w->next == w->owners) return 0;
            w->owner = w->next++;
        } while (owner_state(ld_sc(&ctx->owners[w->owner].word)) != SHMQ_OWNER_ALIVE);
        w->used = held_used(ctx, w->owner);
        w->at = 0;
    }
}
/* payload bytes of a block that the caller owns, or that cannot vanish meanwhile; a child has its parent's */
static inline uint32_t size_at(shmq_ctx *ctx, shmq_block *b) {
    uint32_t n = ld32_rlx(&b->size);
    if (!(ctl_flags(ld_rlx(&b->ctl)) & SHMQ_FLAG_CHILD)) return n;
    return block_known(ctx, n) ? ld32_rlx(&block_at(ctx, n)->size) : 0;
}

int shmq_reserve(shmq_ctx *ctx, uint64_t offset, uint64_t length);
int segment_fd(shmq_ctx *ctx);
uint32_t segment_where(void);
int segment_is_here(const shmq_header *h);

/* short critical sections among the threads of one process; never held over a sleep or a system call that may block */
static inline void ctx_lock(shmq_ctx *ctx) {
    for (unsigned n = 0; xchg32(&ctx->lock, 1); n++) {
        if (n < 64) pause_cpu();
        else sched_yield();
    }
}
static inline void ctx_unlock(shmq_ctx *ctx) { st32_rel(&ctx->lock, 0); }

/* every entry point that touches the segment as an owner */
static inline int ctx_enter(shmq_ctx *ctx) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ld32_rlx(&ctx->attached)) return SHMQ_E_DETACHED;
    ctx_lock(ctx);
    if (!ld32_rlx(&ctx->attached)) {
        ctx_unlock(ctx);
        return SHMQ_E_DETACHED;
    }
    return SHMQ_OK;
}

/* The number of a queue's record. */
static inline uint32_t queue_index(const shmq_ctx *ctx, const local_queue *q) { return (uint32_t)(q->shared - ctx->queues); }

/* op: odd while inside an operation on rings; era: when it began, and which record it may touch. A deleted queue's record is re-used
 * only after every operation that may touch it is over (collect.c, I1); the barrier is on the slow side (membarrier). Plain stores of
 * one writer. Where somebody may not use membarrier, each side has a fence of its own (barrier.c, I2). */
#define OP_ANY UINT32_C(0xffff)
#define OP_FAN UINT32_C(0x8000)   /* of that topic, and of its subscriptions that were made before the era */
static inline void op_fence(shmq_ctx *ctx) {
    if (RARE(ctx->fences)) fence_sc();
    else fence_here();
}
/* An operation on that record alone, or on that topic (OP_FAN). Before it looks into others: op_widen. */
static inline void op_begin_at(shmq_ctx *ctx, uint32_t index) {
    st_rel(&ctx->me->era, ld_acq(&ctx->header->era) << 16 | index);   /* ERA */
    st_rel(&ctx->me->op, ld_rlx(&ctx->me->op) + 1);
    op_fence(ctx);
}
static inline void op_begin(shmq_ctx *ctx) { op_begin_at(ctx, OP_ANY); }
static inline void op_widen(shmq_ctx *ctx) {
    st_rel(&ctx->me->era, ld_rlx(&ctx->me->era) | OP_ANY);
    op_fence(ctx);
}
/* The record, OP_ANY, or a topic and OP_FAN. */
static inline uint32_t op_at(uint64_t era) { return (uint32_t)(era & OP_ANY); }
/* May an operation of that era look into the record? Asked by who is about to, and by who collects it. */
static inline int op_reaches(uint64_t era, shmq_queue *rec, uint32_t index) {
    uint32_t at = op_at(era), topic = at & ~OP_FAN;
    if (at == index || at == OP_ANY) return 1;
    if (!(at & OP_FAN)) return 0;
    if (index == topic) return 1;
    int its = rec->options.kind == SHMQ_KIND_PATTERN
              || (rec->options.kind == SHMQ_KIND_SUBSCRIPTION && (rec->options.topic & SHMQ_INDEX_MASK) == topic);
    return its && era >> 16 >= ld_rlx(&rec->born);
}
/* Before a look into a record that the operation may not have begun on. */
static inline void op_touch(shmq_ctx *ctx, uint32_t index) {
    if (!op_reaches(ld_rlx(&ctx->me->era), &ctx->queues[index], index)) op_widen(ctx);
}
static inline void op_end(shmq_ctx *ctx) {
    fence_here();
    st_rel(&ctx->me->op, ld_rlx(&ctx->me->op) + 1);
}

#endif
