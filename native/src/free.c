/* free.c: the end of a block, in all its forms.
 *
 *   NEW, OWNED, MOVE (mine)  --CAS--> FREE                        its index goes into the magazine
 *                            --CAS--> LIMBO                       VIEWED: a view of somebody may still read it
 *                                       --CAS--> FREE             no living held entry names it any more
 *   a child                  --CAS--> FREE, one less at its parent; the last one: FAN --CAS--> FREE
 *   with a text attached     --CAS--> MOVE (mine), the text goes first
 *   words that cannot be     --CAS--> BAD                         kept: neither lost nor used
 *
 *   x-error  parent.extra -> block E in ATTACHED, E.due_ns = parent: believed only when both sides say so
 *
 * I1  An end is one exact CAS: it fails when the block has moved on, and whoever succeeds gives the block back, alone.
 * I2  A block becomes LIMBO before the held tables are looked at (HELD). So either its viewer's entry is seen, or the viewer sees LIMBO.
 * I3  An attached block is freed before its parent leaves MOVE, and becomes ATTACHED only after parent.extra names it.
 * I4  Who ends a child counts down after the child's CAS to FREE, and looks at all children when it comes to 0. A death in between
 *     leaves it too high: recovery and the sidecar's scan count anew.
 * I5  A parent is freed by the exact CAS FAN -> FREE after all its children were seen to be over (fan.c, I1).
 *
 * Who dies where: before the CAS: the block is still the dead one's, recovered. After it: a hint bit less (arena.c, I2). In LIMBO: the
 * sidecar's scan and recovery look again. Between a child's end and the count: P stays until the next recovery. While it counts
 * anew: a lower count, which costs looks. E still NEW: freed; E ATTACHED and parent dead in MOVE: kept with the parent.
 */
#include "free.h"
#include "arena.h"
#include "fan.h"

/* A child of block p has ended (its CAS to FREE was the caller's). Nothing is owned here: p may be in another life already. */
void free_child_over(shmq_ctx *ctx, uint32_t p) {
    if (!block_known(ctx, p)) return;
    shmq_block *b = block_at(ctx, p);
    uint64_t c = ld_acq(&b->ctl);
    if (ctl_state(c) != SHMQ_FAN) return;
    for (uint64_t left;;) {
        left = ld_acq(&b->due_ns);
        if ((left ^ left_make(c, 0)) >> 24) return;   /* fan.c, I2: of another life; or lies, which the scan puts right */
        if (left_of(left) && !cas(&b->due_ns, left, left - 1)) continue;
        CRASH_POINT("counted");
        if (left_of(left) > 1) return;
        break;
    }
    if (fan_left(ctx, p) == 0 || MUTANT(44)) free_block(ctx, p, c);   /* I5: fails when another one was quicker */
}

/* LIMBO -> FREE when no entry of a living owner names the block, whatever its generation. Called by whoever makes a block
 * LIMBO, whoever clears an entry and finds it LIMBO, by recovery, and by the sidecar's scan. */
void free_limbo(shmq_ctx *ctx, uint32_t idx) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t c = ld_sc(&b->ctl);
    if (ctl_state(c) != SHMQ_LIMBO) return;
    /* an attached block (home: no queue) is kept by an entry that names its parent: the text is read through that lease */
    uint32_t parent = fate_home(ld_rlx(&b->fate)) == SHMQ_NO_QUEUE ? (uint32_t)ld_rlx(&b->due_ns) : idx;
    for (held_walk w = held_all(ctx); held_next(ctx, &w);)
        if ((held_idx(w.e) == idx || held_idx(w.e) == parent) && !MUTANT(10)) return;
    uint32_t e = ld32_acq(&b->extra) >> 8;   /* its attached block waits with it, and is looked at by nobody else */
    if (e && block_known(ctx, e - 1)) {
        shmq_block *x = block_at(ctx, e - 1);
        uint64_t xc = ld_acq(&x->ctl);
        if (ctl_state(xc) == SHMQ_LIMBO && fate_home(ld_rlx(&x->fate)) == SHMQ_NO_QUEUE && ld_rlx(&x->due_ns) == idx
            && ld_acq(&b->ctl) == c   /* xc belongs to this life of the parent */
            && cas(&x->ctl, xc, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(xc))))
            arena_hint(ctx, e - 1);
    }
    uint32_t of = ctl_flags(c) & SHMQ_FLAG_CHILD ? ld32_rlx(&b->size) : NOBODY;
    if (!cas(&b->ctl, c, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(c)))) return;
    arena_hint(ctx, idx);
    if (of != NOBODY && !MUTANT(42)) free_child_over(ctx, of);
}

__attribute__((noinline, cold)) static int free_flagged(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    if (!(ctl_flags(ctl) & SHMQ_FLAG_VIEWED)) {
        /* before the CAS: after it the header is others' */
        uint32_t parent = ctl_flags(ctl) & SHMQ_FLAG_CHILD ? ld32_rlx(&b->size) : NOBODY;
        if (!cas(&b->ctl, ctl, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(ctl)))) return 0;   /* COMMIT ack */
        CRASH_POINT("child_freed");
        arena_give_back(ctx, idx);
        if (parent != NOBODY) free_child_over(ctx, parent);
        return 1;
    }
    if (!cas(&b->ctl, ctl, ctl_to(ctl, SHMQ_LIMBO, 0))) return 0;   /* HELD: LIMBO before the scan of held tables */
    CRASH_POINT("limbo");
    free_limbo(ctx, idx);
    return 1;
}

/* Free a block that the caller owns under exactly `ctl` (NEW, OWNED or MOVE). 0 = the lease had moved on, nothing done. */
HOT int free_block(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    if (ctl_flags(ctl)) return free_flagged(ctx, idx, ctl);
    if (!cas(&b->ctl, ctl, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(ctl)))) return 0;   /* COMMIT ack */
    CRASH_POINT("freed");
    arena_give_back(ctx, idx);
    return 1;
}

/* I4: the count put right, and the end that nobody noticed. By recovery and by the sidecar. */
void free_parent_check(shmq_ctx *ctx, uint32_t idx) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t c = ld_acq(&b->ctl);
    if (ctl_state(c) != SHMQ_FAN) return;
    for (int tries = 0; tries < 2 * SHMQ_QUEUES; tries++) {
        uint64_t left = ld_acq(&b->due_ns), n = fan_left(ctx, idx);
        if (ld_acq(&b->ctl) != c) return;
        if (n == 0) {
            if (cas(&b->ctl, c, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(c)))) arena_hint(ctx, idx);
            return;
        }
        if (left == left_make(c, n) || (left < left_make(c, n) && left >= left_make(c, 0))) return;
        if (cas(&b->due_ns, left, left_make(c, n))) return;   /* fails when somebody counted down meanwhile */
    }
}

void free_quarantine(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    if (cas(&block_at(ctx, idx)->ctl, ctl, ctl_to(ctl, SHMQ_BAD, 0))) add32(&ctx->header->corrupt, 1);
}

/* The attached block of idx, or NOBODY (I3). */
uint32_t extra_of(shmq_ctx *ctx, uint32_t idx) {
    uint32_t e = ld32_acq(&block_at(ctx, idx)->extra) >> 8;
    if (e == 0 || !block_known(ctx, e - 1)) return NOBODY;
    shmq_block *x = block_at(ctx, e - 1);
    return ctl_state(ld_acq(&x->ctl)) == SHMQ_ATTACHED && ld_rlx(&x->due_ns) == idx ? e - 1 : NOBODY;
}

static void extra_drop(shmq_ctx *ctx, uint32_t idx) {   /* owner of MOVE only */
    shmq_block *b = block_at(ctx, idx);
    uint32_t e = extra_of(ctx, idx);
    if (e != NOBODY) {
        uint64_t c = ld_acq(&block_at(ctx, e)->ctl);
        if (ctl_state(c) == SHMQ_ATTACHED && (ctl_flags(ld_rlx(&b->ctl)) & SHMQ_FLAG_VIEWED)) {
            /* somebody may read the text through an older lease of the parent: LIMBO, until the parent leaves LIMBO */
            cas(&block_at(ctx, e)->ctl, c, ctl_to(c, SHMQ_LIMBO, 0));
            free_limbo(ctx, e);
            if (ctl_state(ld_acq(&block_at(ctx, e)->ctl)) == SHMQ_LIMBO) return;   /* the parent goes on naming it */
        } else if (ctl_state(c) == SHMQ_ATTACHED) free_block(ctx, e, c);
        CRASH_POINT("extra_freed");
    }
    st32_rel(&b->extra, ld32_rlx(&b->extra) & 255);
}

/* Best effort: without memory the dead letter goes without its text. */
void extra_attach(shmq_ctx *ctx, uint32_t idx, const void *bytes, uint32_t n) {
    if (bytes == NULL || n == 0) return;
    if (ld32_rlx(&block_at(ctx, idx)->extra) >> 8) extra_drop(ctx, idx);   /* one in LIMBO that we rename here: the sidecar's scan */
    uint32_t e;
    uint64_t c;
    if (arena_alloc(ctx, n, &e, &c) != SHMQ_OK) return;
    shmq_block *x = block_at(ctx, e), *b = block_at(ctx, idx);
    memcpy(payload_of(ctx, e), bytes, n);
    st32_rlx(&x->size, n);
    st_rlx(&x->fate, fate_make(SHMQ_NO_QUEUE, 0, 0, 0, 0, 0, 0, 0));
    st_rlx(&x->due_ns, idx);
    st32_rel(&b->extra, (e + 1) << 8 | (ld32_rlx(&b->extra) & 255));
    CRASH_POINT("extra_named");
    cas(&x->ctl, c, ctl_to(c, SHMQ_ATTACHED, 0));
}

/* Free a block owned under exactly ctl, with what is attached to it. 0 = stale. */
HOT int free_whole(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    if (ld32_rlx(&b->extra) >> 8) {
        if (ctl_state(ctl) != SHMQ_MOVE) {
            uint64_t m = ctl_next(ctl, SHMQ_MOVE, ctx->self);
            if (!cas(&b->ctl, ctl, m)) return 0;
            ctl = m;
        }
        extra_drop(ctx, idx);
    }
    return free_block(ctx, idx, ctl);
}
