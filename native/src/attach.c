/* attach.c: a process comes and goes: its record, what it leaves, and what others who died have left.
 *
 *   attach   memory --> owner word FREE --CAS--> ALIVE(me) --> the rest of the record --> former attachments of this process recovered
 *   detach   leases back, views let go, subscriptions that end with me --> FREE(epoch+1)
 *   reap     of each record: proven dead --> declared --> recovered
 *
 * I1  A record is taken by one CAS; its memory is there before, so that a full file system leaves no trace.
 * I2  What is behind the word is stored after it: who reads it under an ALIVE word, by exactly that word, reads this life's, or nothing.
 * I3  A record becomes FREE only by its own owner with nothing held, or after a full recovery (recover.c).
 *
 * Who dies where: after the attach CAS: ALIVE(dead), proven by word alone. In detach: blocks already given back are free, the
 * rest is recovered.
 */
#include "arena.h"
#include "barrier.h"
#include "clock.h"
#include "free.h"
#include "close.h"
#include "owner.h"
#include "route.h"
#include <sys/mman.h>
#include <unistd.h>

static int attach(shmq_ctx *ctx, uint32_t role) {
    if (ld32_rlx(&ctx->attached)) return (int)ctx->self;
    uint64_t start = 0, stack = 0;
    int ended = 0;
    uint32_t pid = (uint32_t)getpid();
    int err = owner_stat(pid, &start, &stack, &ended);
    if (err) return fail(ctx, SHMQ_E_SYS, WHAT_NONE, 0, pid, 0, err);
    uint32_t owners = (uint32_t)ctx->geometry.processes;
    barrier_join(ctx);
    for (uint32_t i = 0; i < owners; i++) {
        shmq_owner *o = &ctx->owners[i];
        uint64_t w = ld_acq(&o->word);
        if (owner_state(w) != SHMQ_OWNER_FREE) continue;
        /* memory first, so that a full file system leaves no trace; whatever the record says that it has */
        int rc = shmq_reserve(ctx, (uint64_t)((uint8_t *)held_of(ctx, i) - ctx->base), SHMQ_PAGE);
        if (rc != SHMQ_OK) return rc;
        uint64_t mine = owner_make(SHMQ_OWNER_ALIVE, owner_epoch(w), start, pid);
        if (!cas(&o->word, w, mine)) continue;   /* I1 */
        ctx->fences = ld32_sc(&ctx->header->fences);   /* after the word: who sets it and then sees no such word, is seen by us */
        st32_rel(&o->fenced, ctx->fences);
        CRASH_POINT("attach");
        ctx->held_cap = SHMQ_PAGE / sizeof(shmq_held);
        if (ld32_acq(&o->held_cap) < ctx->held_cap) st32_rel(&o->held_cap, ctx->held_cap);
        st_rlx(&o->start, start);
        st_rlx(&o->stack, stack);
        st_rel(&o->image, owner_image(ctx));   /* I2 */
        st_rlx(&o->attached_ns, shmq_now());
        st32_rlx(&o->role, role);
        st32_rlx(&o->settled, 0);
        st32_rel(&o->held_hwm, 0);
        if (ld_rlx(&o->op) & 1) st_rlx(&o->op, ld_rlx(&o->op) + 1);
        for (uint32_t h = ld32_acq(&ctx->header->owner_hwm); h <= i; h = ld32_acq(&ctx->header->owner_hwm))
            if (cas32(&ctx->header->owner_hwm, h, i + 1)) break;
        ctx->self = i;
        ctx->self_word = mine;
        ctx->me = o;
        ctx->held = held_of(ctx, i);
        ctx->held_n = ctx->held_fresh = 0;
        ctx->next_id = ctx->end_id = 0;
        ctx->bare = ctx->trimmed = 0;
        ctx->timed = 0;
        if (ctx->used) memset(ctx->local, 0, sizeof ctx->local);
        ctx->used = 1;
        clock_init(ctx);
        memcpy(ctx->secret, ctx->header->secret, sizeof ctx->secret);
        st32_rel(&ctx->attached, 1);
        owner_ready_ahead(ctx);
        return (int)i;
    }
    return fail(ctx, SHMQ_E_OWNERS, WHAT_NONE, 0, owners, owners, 0);
}

/* What this process had attached before it exec'ed: nobody else can tell, as soon as its maps hold the segment again. */
static void bury_former(shmq_ctx *ctx) {
    uint32_t owners = owners_used(ctx), pid = (uint32_t)getpid();
    for (uint32_t i = 0; i < owners; i++) {
        uint64_t w = ld_acq(&ctx->owners[i].word);
        if (owner_state(w) != SHMQ_OWNER_ALIVE || owner_pid(w) != pid || i == ctx->self) continue;
        if (shmq_owner_prove(ctx, i, 1) == SHMQ_OK && shmq_owner_declare(ctx, i, w) == SHMQ_OK) shmq_recover(ctx, i);
    }
}

int shmq_attach(shmq_ctx *ctx, uint32_t role) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    ctx_lock(ctx);
    int rc = attach(ctx, role);
    ctx_unlock(ctx);
    if (rc >= 0) {
        owner_ping(ctx);
        bury_former(ctx);
    }
    return rc;
}

/* Detaching: blocks of ours that no held entry names go back (taken for good, not acked) or are freed (loans). */
static void abandon(shmq_ctx *ctx) {
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        uint32_t idx = walk.idx;
        uint64_t c = ld_acq(&block_at(ctx, idx)->ctl);
        if (ctl_owner(c) != ctx->self) continue;
        if (ctl_state(c) == SHMQ_NEW) free_block(ctx, idx, c);
        else if (ctl_state(c) == SHMQ_OWNED) route_back(ctx, idx, c, 0);
    }
    ctx->bare = 0;
}

/* Give back what is held (an attempt counts only for what was handed out), then leave. */
int shmq_detach(shmq_ctx *ctx) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    for (uint32_t i = 0; i < ctx->held_fresh; i++) {
        uint64_t e = ld_rlx(&ctx->held[i].word);
        if (e == 0) continue;
        uint32_t idx = held_idx(e);
        uint64_t c = block_known(ctx, idx) ? ld_acq(&block_at(ctx, idx)->ctl) : 0;
        st_sc(&ctx->held[i].word, 0);
        int ours = ctl_state(c) == SHMQ_OWNED && ctl_owner(c) == ctx->self && held_names(e, c);
        if (ours && route_back(ctx, idx, c, (held_flags(e) & SHMQ_HELD_STARTED) != 0) != SHMQ_STALE) continue;
        if (c) free_limbo(ctx, idx);   /* whatever c was: it may have become LIMBO before we let go */
    }
    if (ctx->bare) abandon(ctx);
    op_end(ctx);
    close_mine(ctx);
    arena_return_all(ctx);
    CRASH_POINT("detach");
    st32_rel(&ctx->attached, 0);
    st_rlx(&ctx->me->image, 0);   /* owner.c, I4 */
    cas(&ctx->me->word, ctx->self_word, owner_make(SHMQ_OWNER_FREE, owner_epoch(ctx->self_word) + 1, 0, 0));   /* I3 */
    ctx_unlock(ctx);
    owner_ping(ctx);
    return SHMQ_OK;
}

int shmq_attached(shmq_ctx *ctx) { return !ld32_rlx(&ctx->alive) ? SHMQ_E_FORKED : ld32_rlx(&ctx->attached) ? 1 : 0; }

int shmq_self(shmq_ctx *ctx) { return ld32_rlx(&ctx->attached) ? (int)ctx->self : SHMQ_E_DETACHED; }

/* Prove, declare and recover whoever is dead. Returns how many were. */
int shmq_reap(shmq_ctx *ctx, int look_for_exec) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ld32_rlx(&ctx->attached)) return SHMQ_E_DETACHED;
    int n = 0;
    uint32_t owners = owners_used(ctx);
    for (uint32_t i = 0; i < owners; i++) {
        uint64_t w = ld_acq(&ctx->owners[i].word);   /* the word first, then the proof, then the CAS of exactly that word */
        if (owner_state(w) == SHMQ_OWNER_FREE) continue;
        if (shmq_owner_prove(ctx, i, look_for_exec) != SHMQ_OK) continue;
        if (owner_state(w) == SHMQ_OWNER_ALIVE && shmq_owner_declare(ctx, i, w) != SHMQ_OK) continue;
        if (shmq_recover(ctx, i) == SHMQ_OK) n++;
    }
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    owner_ready_ahead(ctx);
    ctx_unlock(ctx);
    return n;
}

/* The System V provider attaches and detaches its own address; we only forget it. */
int shmq_unmap(shmq_ctx *ctx) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped) return SHMQ_OK;
    if (ld32_rlx(&ctx->attached)) return fail(ctx, SHMQ_E_ARG, WHAT_MAP, 0, 1, 0, 0);
    if (ctx->provider == SHMQ_POSIX) munmap(ctx->base, ctx->size);
    ctx->mapped = 0;
    ctx->base = NULL;
    ctx->header = NULL;
    return SHMQ_OK;
}

void shmq_ctx_delete(shmq_ctx *ctx) {
    if (ctx == NULL) return;
    if (ld32_rlx(&ctx->alive)) {
        if (ctx->mapped && ld32_rlx(&ctx->attached)) shmq_detach(ctx);
        shmq_unmap(ctx);
    }
    munmap(ctx, sizeof *ctx);
}
