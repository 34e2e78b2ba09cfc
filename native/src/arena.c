/* arena.c: the blocks of a broker, by size class.
 *
 *   block index   0 ........ 8M | 8M .. 10M | 10M .. 12M | 12M .. 12.5M | ...      class 0, 1, 2, 3, ... 10
 *   header        blocks + idx*64            dense, never given back: stale readers may always look at a ctl
 *   payload       payload[k] + (idx-first)*stride      1:1 with the header: one CAS allocates both
 *   hints         l0: bit per block (may be FREE)      l1: bit per l0 word (may be nonzero)
 *   magazine      up to 64 indices in private memory, their hint bits cleared; lost with the process
 *
 * I1  A block is allocated by the CAS FREE -> NEW(me, gen+1) on its ctl and by nothing else.
 * I2  Hints never make a block usable or unusable: a FREE block without a bit is found by the scan before "no memory" is
 *     said, and gets its bit back from the next recovery; a bit without a FREE block costs one failed CAS.
 * I3  Memory stands behind a payload before its header says so: small classes are reserved when the class grows and marked
 *     (reserved = 1) before their page is punched; large ones count reserved units after fallocate and before use.
 * I4  A page is punched only by one who holds every block of it in NEW(me).
 * I5  hwm[k] only grows, after the headers below it were made FREE. A late second grower finds every ctl nonzero.
 *
 * Who dies where: after the allocation CAS: NEW(dead), recovery frees it. After fallocate, before hwm: memory behind unused
 * headers, found reserved by the next grower. After hwm, before the hints: FREE blocks without bits (I2). In give_back: a bit
 * less, same. In trim between the mark and the punch: pages that are marked as not there; the next trim punches them again.
 */
#define _GNU_SOURCE
#include "arena.h"
#include "topic.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#ifndef MADV_REMOVE
#define MADV_REMOVE 9
#endif

int arena_class_for(shmq_ctx *ctx, uint64_t bytes) {
    if (bytes <= 64) return 0;
    for (int k = 1; k < SHMQ_CLASSES; k++)
        if (bytes <= ctx->classes[k].stride) return ctx->classes[k].limit ? k : SHMQ_E_TOOBIG;
    return SHMQ_E_TOOBIG;
}

void arena_hint(shmq_ctx *ctx, uint32_t idx) {
    uint32_t w = idx / 64;
    or64(&ctx->l0[w], UINT64_C(1) << (idx % 64));
    uint64_t bit = UINT64_C(1) << (w % 64);
    if (!(ld_sc(&ctx->l1[w / 64]) & bit)) or64(&ctx->l1[w / 64], bit);
}

static void hint_word(shmq_ctx *ctx, uint32_t w, uint64_t bits) {   /* 32 blocks for the price of one */
    or64(&ctx->l0[w], bits);
    uint64_t bit = UINT64_C(1) << (w % 64);
    if (!(ld_sc(&ctx->l1[w / 64]) & bit)) or64(&ctx->l1[w / 64], bit);
}

static void return_some(shmq_ctx *ctx, magazine *m, uint32_t n) {   /* the n longest unused ones */
    uint32_t word = NOBODY;
    uint64_t bits = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (m->idx[i] / 64 != word) {
            if (bits) hint_word(ctx, word, bits);
            word = m->idx[i] / 64;
            bits = 0;
        }
        bits |= UINT64_C(1) << (m->idx[i] % 64);
    }
    if (bits) hint_word(ctx, word, bits);
    memmove(m->idx, m->idx + n, (m->n - n) * sizeof *m->idx);
    m->n -= n;
}

static void give_back(shmq_ctx *ctx, uint32_t idx) {
    magazine *m = &ctx->magazines[class_of(ctx, idx)];
    if (m->cap == 1) { arena_hint(ctx, idx); return; }   /* large: the next to allocate shall have the one that is still in the caches */
    if (m->n >= m->cap) return_some(ctx, m, (m->cap + 1) / 2);
    m->idx[m->n++] = idx;
}

void arena_return_all(shmq_ctx *ctx) {
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) return_some(ctx, &ctx->magazines[k], ctx->magazines[k].n);
}

/* I1 */
static int claim_as(shmq_ctx *ctx, uint32_t idx, unsigned flags, uint64_t *ctl) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t c = ld_acq(&b->ctl);
    if (ctl_state(c) != SHMQ_FREE) return 0;
    uint64_t n = ctl_make(SHMQ_NEW, flags, ctx->self, ctl_gen(c) + 1);
    if (!cas(&b->ctl, c, n)) return 0;
    *ctl = n;
    CRASH_POINT("claimed");
    return 1;
}

static int claim(shmq_ctx *ctx, uint32_t idx, uint64_t *ctl) { return claim_as(ctx, idx, 0, ctl); }

/* Take up to `want` of the hint bits `allowed` of word w; the lowest will be popped first. How many were got. */
static uint32_t take_bits(shmq_ctx *ctx, magazine *m, uint32_t w, uint64_t allowed, uint32_t want) {
    uint64_t x = ld_acq(&ctx->l0[w]) & allowed, take = 0;
    for (uint32_t i = 0; i < want && x; i++, x &= x - 1) take |= x & -x;
    if (take) take &= and64(&ctx->l0[w], ~take);
    uint32_t n = (uint32_t)__builtin_popcountll(take);
    while (take) {   /* highest first */
        uint32_t bit = 63 - (uint32_t)__builtin_clzll(take);
        take &= ~(UINT64_C(1) << bit);
        m->idx[m->n++] = w * 64 + bit;
    }
    return n;
}

/* Large payloads go round a window of 4 MiB, more than a core's own cache: a block that its reader has just let go is still
 * in the reader's cache, and writing to it pulls every line from there (64 KiB between two cores: 9 GB/s against 20). */
static int go_round(shmq_ctx *ctx, unsigned k) {
    magazine *m = &ctx->magazines[k];
    uint64_t hwm = class_hwm(ctx, k);   /* behind it there may be no memory, not even for hints */
    uint32_t window = hwm < m->window ? (uint32_t)hwm : m->window;
    if (window == 0) return 0;
    uint32_t first = ctx->classes[k].first / 64, words = window / 64 ? window / 64 : 1;
    uint32_t bits = window / 64 ? 64 : window;
    uint64_t inside = bits == 64 ? ~UINT64_C(0) : (UINT64_C(1) << bits) - 1;
    for (uint32_t tries = 0; tries <= words; tries++) {
        uint32_t w = m->next / 64 % words, from = m->next % 64;
        uint32_t n = from < bits ? take_bits(ctx, m, first + w, inside & (~UINT64_C(0) << from), m->cap) : 0;
        if (n) {   /* on behind the highest one taken, which lies lowest */
            m->next = m->idx[m->n - n] - first * 64 + 1;
            return 1;
        }
        m->next = (w + 1) % words * 64;
    }
    return 0;
}

/* Move up to half a magazine of hint bits of the lowest word that has some into the magazine. */
static int refill(shmq_ctx *ctx, unsigned k) {
    magazine *m = &ctx->magazines[k];
    if (m->window && go_round(ctx, k)) return 1;
    uint32_t first = ctx->classes[k].first / 64;
    uint64_t hwm = class_hwm(ctx, k);
    if (hwm == 0) return 0;
    uint32_t last = first + (uint32_t)((hwm - 1) / 64), want = m->cap > 32 ? 32 : m->cap;
    for (uint32_t v = first / 64; v <= last / 64; v++) {
        for (uint64_t seen = ld_acq(&ctx->l1[v]); seen; seen &= seen - 1) {
            uint32_t w = v * 64 + (uint32_t)__builtin_ctzll(seen);
            if (w < first || w > last) continue;
            if (ld_acq(&ctx->l0[w]) == 0) {   /* clear the l1 bit, then look again: pairs with arena_hint's order l0, l1 */
                and64(&ctx->l1[v], ~(UINT64_C(1) << (w % 64)));
                if (ld_sc(&ctx->l0[w])) or64(&ctx->l1[v], UINT64_C(1) << (w % 64));
                continue;
            }
            if (take_bits(ctx, m, w, ~UINT64_C(0), want)) return 1;
        }
    }
    return 0;
}

/* Make more blocks of class k. Any number of processes may be at it; each step is idempotent. */
static int grow(shmq_ctx *ctx, unsigned k) {
    class_place *c = &ctx->classes[k];
    uint64_t n = class_hwm(ctx, k), step;
    if (n >= c->limit) return fail(ctx, SHMQ_E_NOMEM, WHAT_CLASS, k, n, c->limit, 0);
    step = c->stride < SHMQ_PAGE ? n / 8 / 64 * 64 : 0;
    if (step < 64) step = 64;
    if (step > 8192) step = 8192;
    if (step > c->limit - n) step = c->limit - n;
    uint32_t first = c->first + (uint32_t)n;
    int rc = shmq_reserve(ctx, ctx->geometry.blocks + (uint64_t)first * 64, step * 64);
    if (rc == SHMQ_OK) rc = shmq_reserve(ctx, ctx->geometry.l0 + first / 64 * 8, step / 8 + 8);
    if (rc == SHMQ_OK && c->stride < SHMQ_PAGE)
        rc = shmq_reserve(ctx, (uint64_t)(c->payload - ctx->base) + n * c->stride, step * c->stride);
    if (rc != SHMQ_OK) return rc;
    for (uint64_t i = 0; i < step; i++) cas(&block_at(ctx, first + (uint32_t)i)->ctl, 0, ctl_make(SHMQ_FREE, 0, 0, 0));
    CRASH_POINT("grown");
    if (!cas(&ctx->header->hwm[k].n, n, n + step)) return SHMQ_OK;   /* another one grew it; look again */
    CRASH_POINT("grown_unhinted");
    for (uint64_t i = 0; i < step;) {
        uint32_t idx = first + (uint32_t)i, in_word = 64 - idx % 64;
        if (in_word > step - i) in_word = (uint32_t)(step - i);
        uint64_t bits = in_word == 64 ? ~UINT64_C(0) : ((UINT64_C(1) << in_word) - 1) << (idx % 64);
        hint_word(ctx, idx / 64, bits);
        i += in_word;
    }
    return SHMQ_OK;
}

/* Put memory behind the first `bytes` of a block's payload; the caller owns it in NEW. */
static int back(shmq_ctx *ctx, unsigned k, uint32_t idx, uint64_t bytes) {
    class_place *c = &ctx->classes[k];
    shmq_block *b = block_at(ctx, idx);
    uint64_t offset = (uint64_t)(c->payload - ctx->base) + (uint64_t)(idx - c->first) * c->stride;
    uint32_t marked = ld32_rlx(&b->extra) & 255;
    if (c->stride < SHMQ_PAGE) {
        if (!marked) return SHMQ_OK;
        int rc = shmq_reserve(ctx, offset, c->stride);
        if (rc == SHMQ_OK) st32_rel(&b->extra, 0);
        return rc;
    }
    if (bytes <= marked * c->unit) return SHMQ_OK;
    uint64_t units = (bytes + c->unit - 1) / c->unit, length = units * c->unit;
    if (length > c->stride) length = c->stride;
    int rc = shmq_reserve(ctx, offset, length);
    if (rc == SHMQ_OK) st32_rel(&b->extra, (uint32_t)units);   /* I3: after fallocate */
    return rc;
}

/* I2: hint bits may all be in magazines, of the living or the dead; and after a trim the lowest blocks are those without
 * memory. So before "no memory" is said: all blocks of the class, those with memory behind them only. */
static int scan(shmq_ctx *ctx, unsigned k, uint64_t bytes, uint32_t *idx, uint64_t *ctl) {
    class_place *c = &ctx->classes[k];
    uint64_t n = class_hwm(ctx, k);
    for (uint64_t i = 0; !MUTANT(12) && i < n; i++) {
        uint32_t b = c->first + (uint32_t)i, marked = ld32_rlx(&block_at(ctx, b)->extra) & 255;
        if (c->stride < SHMQ_PAGE ? marked != 0 : bytes > marked * c->unit) continue;
        if (!claim(ctx, b, ctl)) continue;
        if (back(ctx, k, b, bytes) == SHMQ_OK) { *idx = b; return SHMQ_OK; }
        if (cas(&block_at(ctx, b)->ctl, *ctl, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(*ctl)))) arena_hint(ctx, b);
    }
    return SHMQ_E_NOMEM;
}

static int alloc_in(shmq_ctx *ctx, unsigned k, uint64_t bytes, uint32_t *idx, uint64_t *ctl) {
    magazine *m = &ctx->magazines[k];
    int rc;
    for (unsigned tries = 0; tries < 100000; tries++) {
        while (m->n) {
            uint32_t i = m->idx[--m->n];
            if (!claim(ctx, i, ctl)) continue;   /* a stale bit, or stolen by a scan */
            rc = back(ctx, k, i, bytes);
            if (rc == SHMQ_OK) { *idx = i; return SHMQ_OK; }
            if (cas(&block_at(ctx, i)->ctl, *ctl, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(*ctl)))) arena_hint(ctx, i);
            if (rc != SHMQ_E_NOMEM) return rc;
            return scan(ctx, k, bytes, idx, ctl);   /* others may have memory behind them already */
        }
        if (refill(ctx, k)) continue;
        rc = grow(ctx, k);
        if (rc == SHMQ_OK) continue;
        return rc == SHMQ_E_NOMEM ? scan(ctx, k, bytes, idx, ctl) : rc;
    }
    return SHMQ_BUSY;
}

int arena_alloc(shmq_ctx *ctx, uint64_t bytes, uint32_t *idx, uint64_t *ctl) {
    int k = arena_class_for(ctx, bytes), rc = SHMQ_E_NOMEM;
    if (k < 0) return fail(ctx, SHMQ_E_TOOBIG, WHAT_CLASS, 0, bytes, ctx->classes[SHMQ_CLASSES - 1].stride, 0);
    for (int j = k; j < SHMQ_CLASSES && j <= k + 2; j++) {
        if (ctx->classes[j].limit == 0) break;
        rc = alloc_in(ctx, (unsigned)j, bytes, idx, ctl);
        if (rc != SHMQ_E_NOMEM) return rc;
    }
    return rc;
}

/* A subscriber's share of a message: a block of 64 bytes that says CHILD from its first moment on. */
int arena_alloc_child(shmq_ctx *ctx, uint32_t *idx, uint64_t *ctl) {
    magazine *m = &ctx->magazines[0];
    while (m->n) {
        uint32_t i = m->idx[--m->n];
        if (!claim_as(ctx, i, SHMQ_FLAG_CHILD, ctl)) continue;
        *idx = i;   /* nothing is read or written behind it: memory or not, that is the next one's business */
        return SHMQ_OK;
    }
    int rc = arena_alloc(ctx, 0, idx, ctl);
    if (rc != SHMQ_OK) return rc;
    uint64_t child = *ctl | (uint64_t)SHMQ_FLAG_CHILD << 56;
    if (!cas(&block_at(ctx, *idx)->ctl, *ctl, child)) return SHMQ_E_CORRUPT;
    *ctl = child;
    return SHMQ_OK;
}

__attribute__((noinline, cold)) static int free_flagged(shmq_ctx *ctx, uint32_t idx, uint64_t ctl);

/* Free a block that the caller owns under exactly `ctl` (NEW, OWNED or MOVE). 0 = the lease had moved on, nothing done. */
int arena_free(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    if (ctl_flags(ctl)) return free_flagged(ctx, idx, ctl);
    if (!cas(&b->ctl, ctl, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(ctl)))) return 0;
    CRASH_POINT("freed");
    give_back(ctx, idx);
    return 1;
}

static int free_flagged(shmq_ctx *ctx, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    if (!(ctl_flags(ctl) & SHMQ_FLAG_VIEWED)) {
        uint32_t parent = ctl_flags(ctl) & SHMQ_FLAG_CHILD ? ld32_rlx(&b->size) : NOBODY;   /* before the CAS: after it the header is others' */
        if (!cas(&b->ctl, ctl, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(ctl)))) return 0;
        CRASH_POINT("child_freed");
        give_back(ctx, idx);
        if (parent != NOBODY) topic_child_over(ctx, parent);
        return 1;
    }
    if (!cas(&b->ctl, ctl, ctl_to(ctl, SHMQ_LIMBO, 0))) return 0;   /* HELD: LIMBO before the scan of held tables */
    CRASH_POINT("limbo");
    arena_limbo_check(ctx, idx);
    return 1;
}

/* LIMBO -> FREE when no entry of a living owner names the block, whatever its generation. Called by whoever makes a block
 * LIMBO, whoever clears an entry and finds it LIMBO, by recovery, and by the sidecar's scan. */
void arena_limbo_check(shmq_ctx *ctx, uint32_t idx) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t c = ld_sc(&b->ctl);
    if (ctl_state(c) != SHMQ_LIMBO) return;
    /* an attached block (home: no queue) is kept by an entry that names its parent: the text is read through that lease */
    uint32_t parent = fate_home(ld_rlx(&b->fate)) == SHMQ_NO_QUEUE ? (uint32_t)ld_rlx(&b->due_ns) : idx;
    uint32_t owners = owners_used(ctx);
    for (uint32_t o = 0; o < owners; o++) {
        if (owner_state(ld_sc(&ctx->owners[o].word)) != SHMQ_OWNER_ALIVE) continue;
        uint32_t n = held_used(ctx, o);
        shmq_held *h = ctx->held_base + (uint64_t)o * SHMQ_HELD;
        for (uint32_t i = 0; i < n; i++) {
            uint64_t e = ld_sc(&h[i].word);
            if (e && (held_idx(e) == idx || held_idx(e) == parent) && !MUTANT(10)) return;
        }
    }
    uint32_t e = ld32_acq(&b->extra) >> 8;   /* its attached block waits with it, and is looked at by nobody else */
    if (e && block_known(ctx, e - 1)) {
        shmq_block *x = block_at(ctx, e - 1);
        uint64_t xc = ld_acq(&x->ctl);
        if (ctl_state(xc) == SHMQ_LIMBO && fate_home(ld_rlx(&x->fate)) == SHMQ_NO_QUEUE && ld_rlx(&x->due_ns) == idx
            && ld_acq(&b->ctl) == c   /* xc belongs to this life of the parent */
            && cas(&x->ctl, xc, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(xc)))) arena_hint(ctx, e - 1);
    }
    uint32_t of = ctl_flags(c) & SHMQ_FLAG_CHILD ? ld32_rlx(&b->size) : NOBODY;
    if (!cas(&b->ctl, c, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(c)))) return;
    arena_hint(ctx, idx);
    if (of != NOBODY && !MUTANT(42)) topic_child_over(ctx, of);
}

static int punch(shmq_ctx *ctx, uint64_t offset, uint64_t length) {
    int fd = segment_fd(ctx);
    if (fd >= 0) return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    return madvise(ctx->base + offset, length, MADV_REMOVE);
}

/* Give back the memory of free blocks beyond the lowest keep_bytes of each class. Returns bytes given back. */
int64_t shmq_trim(shmq_ctx *ctx, uint64_t keep_bytes) {
    int64_t total = 0;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) {
        class_place *c = &ctx->classes[k];
        uint32_t group = c->stride < SHMQ_PAGE ? (uint32_t)(SHMQ_PAGE / c->stride) : 1;
        uint64_t n = class_hwm(ctx, k) / group, kept = 0;
        for (uint64_t g = 0; g < n; g++) {
            uint32_t first = c->first + (uint32_t)g * group, got = 0, marked = 0;
            uint64_t ctl[64];
            if (ctl_state(ld_rlx(&block_at(ctx, first)->ctl)) != SHMQ_FREE) continue;
            uint64_t have = group > 1 ? 0 : (ld32_rlx(&block_at(ctx, first)->extra) & 255) * c->unit;
            for (uint32_t i = 0; group > 1 && i < group; i++)   /* one unmarked block: the page is there */
                if (!(ld32_rlx(&block_at(ctx, first + i)->extra) & 255)) have = SHMQ_PAGE;
            if (have > c->stride && group == 1) have = c->stride;
            if (have == 0 && ctx->trimmed) continue;
            if (have && kept + have <= keep_bytes) { kept += have; continue; }
            /* have == 0: marked by one who may have died before the punch; punched silently by the first trim of a context */
            while (got < group && claim(ctx, first + got, &ctl[got])) got++;
            if (got == group) {   /* I4 */
                for (uint32_t i = 0; i < group; i++, marked++) st32_rel(&block_at(ctx, first + i)->extra, group > 1 ? 1 : 0);
                CRASH_POINT("trim");
                uint64_t at = (uint64_t)(c->payload - ctx->base) + g * group * c->stride;
                if (punch(ctx, at, have ? have : group > 1 ? SHMQ_PAGE : c->stride) == 0) total += (int64_t)have;
            }
            for (uint32_t i = 0; i < got; i++)
                if (cas(&block_at(ctx, first + i)->ctl, ctl[i], ctl_make(SHMQ_FREE, 0, 0, ctl_gen(ctl[i]))))
                    arena_hint(ctx, first + i);
            if (g % 64 == 63) { ctx_unlock(ctx); ctx_lock(ctx); }
        }
    }
    ctx->trimmed = 1;
    ctx_unlock(ctx);
    return total;
}
