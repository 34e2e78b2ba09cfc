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
 * I6  payload_bytes counts the memory behind payloads, pages of small blocks and units of large ones, before it is reserved: no
 *     more than memory_limit, however many grow at a time. It is a hint all the same: who dies in between leaves it too high or
 *     too low, and whoever goes over all groups counts anew (recount), at the latest before "no memory" is said.
 * I7  Before "no memory" is said, free blocks of all classes give theirs back, whatever trim would keep (reclaim). The last of a
 *     file system is left to what must not fail: redeliveries, dead letters, attachments, other brokers (leave_some).
 * I5  hwm[k] only grows, after the headers below it were made FREE. A late second grower finds every ctl nonzero.
 *
 * Who dies where: after the allocation CAS: NEW(dead), recovery frees it. After fallocate, before hwm: memory behind unused
 * headers, found reserved by the next grower. After hwm, before the hints: FREE blocks without bits (I2). In give_back: a bit
 * less, same. In trim between the mark and the punch: pages that are marked as not there; the next trim punches them again.
 */
#define _GNU_SOURCE
#include "arena.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#ifndef MADV_REMOVE
#define MADV_REMOVE 9
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define LEFT_SHARE 32           /* payloads leave this share of the file system, */
#define LEFT_MOST (16u << 20)   /* but no more than that, to others */
#define CREDIT_MOST (64u << 20)
#define RECLAIM_MORE (256u << 10)   /* so much more than is asked for is given back at a time */
#define RECLAIM_TRIES 3
#define RECLAIM_REST 16         /* after going through all blocks in vain a process rests so many times as long as that took */

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

void arena_return_some(shmq_ctx *ctx, magazine *m, uint32_t n) {   /* the n longest unused ones */
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

void arena_return_all(shmq_ctx *ctx) {
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) arena_return_some(ctx, &ctx->magazines[k], ctx->magazines[k].n);
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
HOT static uint32_t take_bits(shmq_ctx *ctx, magazine *m, uint32_t w, uint64_t allowed, uint32_t want) {
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

/* I7 */
static int leave_some(shmq_ctx *ctx, uint64_t bytes) {
    struct statfs f;
    if (bytes <= ctx->credit) {
        ctx->credit -= bytes;
        return SHMQ_OK;
    }
    int fd = segment_fd(ctx);
    if (fd < 0 || fstatfs(fd, &f) != 0 || f.f_blocks == 0) return SHMQ_OK;
    uint64_t left = (uint64_t)f.f_blocks * (uint64_t)f.f_bsize / LEFT_SHARE, free = (uint64_t)f.f_bavail * (uint64_t)f.f_bsize;
    if (left > LEFT_MOST) left = LEFT_MOST;
    if (free < left + bytes && !MUTANT(66)) {
        ctx->credit = 0;
        return fail(ctx, SHMQ_E_NOMEM, WHAT_RESERVE, 0, free, left + bytes, ENOSPC);
    }
    uint64_t credit = (free - left - bytes) / 16;   /* others take of it at the same time */
    ctx->credit = credit > CREDIT_MOST ? CREDIT_MOST : credit;
    return SHMQ_OK;
}

/* I6: before the memory is there, and taken back when it is not to be had. */
static int payload_more(shmq_ctx *ctx, uint64_t bytes) {
    uint64_t now = add(&ctx->header->payload_bytes, bytes) + bytes;
    int rc = now > ctx->bound && !MUTANT(67) ? fail(ctx, SHMQ_E_NOMEM, WHAT_LIMIT, 0, now, ctx->geometry.memory_limit, 0)
                                             : leave_some(ctx, bytes);
    if (rc != SHMQ_OK) sub(&ctx->header->payload_bytes, bytes);
    return rc;
}

static int payload_reserve(shmq_ctx *ctx, uint64_t offset, uint64_t length, uint64_t more) {
    int rc = more ? payload_more(ctx, more) : SHMQ_OK;
    if (rc != SHMQ_OK) return rc;
    CRASH_POINT("payload_counted");
    rc = shmq_reserve(ctx, offset, length);
    if (rc != SHMQ_OK) sub(&ctx->header->payload_bytes, more);
    return rc;
}

/* Blocks whose memory comes and goes together: those of a page; a large one by itself. */
static uint32_t group_of(const class_place *c) { return c->stride < SHMQ_PAGE ? (uint32_t)(SHMQ_PAGE / c->stride) : 1; }

static uint64_t units_bytes(const class_place *c, uint32_t units) { return units * c->unit > c->stride ? c->stride : units * c->unit; }

/* How much memory is behind a group. */
static uint64_t group_bytes(shmq_ctx *ctx, const class_place *c, uint32_t first, uint32_t group) {
    if (group == 1) return units_bytes(c, ld32_rlx(&block_at(ctx, first)->extra) & 255);
    for (uint32_t i = 0; i < group; i++)   /* one unmarked block: the page is there */
        if (!(ld32_acq(&block_at(ctx, first + i)->extra) & 255)) return SHMQ_PAGE;
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
    uint32_t first = c->first + (uint32_t)n;
    int rc = SHMQ_OK;
    for (int tries = 0; tries < 2; tries++, step = 64) {   /* when there is no room for many, then for a few */
        if (step > c->limit - n) step = c->limit - n;
        uint64_t bytes = c->stride < SHMQ_PAGE ? step * c->stride : 0;
        rc = bytes ? payload_reserve(ctx, (uint64_t)(c->payload - ctx->base) + n * c->stride, bytes, bytes) : SHMQ_OK;
        if (rc == SHMQ_OK) {
            rc = shmq_reserve(ctx, ctx->geometry.blocks + (uint64_t)first * 64, step * 64);
            if (rc == SHMQ_OK) rc = shmq_reserve(ctx, ctx->geometry.l0 + first / 64 * 8, step / 8 + 8);
            if (rc != SHMQ_OK) sub(&ctx->header->payload_bytes, bytes);
        }
        if (rc != SHMQ_E_NOMEM || step <= 64) break;
    }
    if (rc != SHMQ_OK) return rc;
    for (uint64_t i = 0; i < step; i++) cas(&block_at(ctx, first + (uint32_t)i)->ctl, 0, ctl_make(SHMQ_FREE, 0, 0, 0));
    CRASH_POINT("grown");
    if (!cas(&ctx->header->hwm[k].n, n, n + step)) {   /* another one grew it, and counted; look again */
        if (c->stride < SHMQ_PAGE) sub(&ctx->header->payload_bytes, step * c->stride);
        return SHMQ_OK;
    }
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
        uint32_t group = group_of(c);
        /* a neighbour has seen to it, and I4 keeps the page while we have this block */
        int rc = group_bytes(ctx, c, c->first + (idx - c->first) / group * group, group)
                     ? SHMQ_OK
                     : payload_reserve(ctx, offset, c->stride, SHMQ_PAGE);
        if (rc == SHMQ_OK) st32_rel(&b->extra, 0);
        return rc;
    }
    if (bytes <= marked * c->unit) return SHMQ_OK;
    uint64_t units = (bytes + c->unit - 1) / c->unit, length = units * c->unit;
    if (length > c->stride) length = c->stride;
    int rc = payload_reserve(ctx, offset, length, length - units_bytes(c, marked));
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
        if (back(ctx, k, b, bytes) == SHMQ_OK) {
            *idx = b;
            return SHMQ_OK;
        }
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
            if (rc == SHMQ_OK) {
                *idx = i;
                return SHMQ_OK;
            }
            if (cas(&block_at(ctx, i)->ctl, *ctl, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(*ctl)))) arena_hint(ctx, i);
            return rc;   /* others may have memory behind them already: see scan */
        }
        if (refill(ctx, k)) continue;
        rc = grow(ctx, k);
        if (rc != SHMQ_OK) return rc;
    }
    return SHMQ_BUSY;
}

static int punch(shmq_ctx *ctx, uint64_t offset, uint64_t length) {
    int fd = segment_fd(ctx);
    if (fd >= 0) return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    return madvise(ctx->base + offset, length, MADV_REMOVE);
}

/* I4. Take group g of class k, of which `have` bytes are there, if all its blocks are free, and punch it. Bytes given back. */
static uint64_t punch_group(shmq_ctx *ctx, unsigned k, uint64_t g, uint64_t have) {
    class_place *c = &ctx->classes[k];
    uint32_t group = group_of(c), first = c->first + (uint32_t)g * group, got = 0;
    uint64_t ctl[64], back = 0;
    while (got < group && claim(ctx, first + got, &ctl[got])) got++;
    if (got == group) {
        for (uint32_t i = 0; i < group; i++) st32_rel(&block_at(ctx, first + i)->extra, group > 1 ? 1 : 0);
        CRASH_POINT("trim");
        uint64_t at = (uint64_t)(c->payload - ctx->base) + g * group * c->stride;
        if (punch(ctx, at, have ? have : group > 1 ? SHMQ_PAGE : c->stride) == 0) back = have;
        CRASH_POINT("punched");
        if (have) sub(&ctx->header->payload_bytes, have);
    }
    for (uint32_t i = 0; i < got; i++)
        if (cas(&block_at(ctx, first + i)->ctl, ctl[i], ctl_make(SHMQ_FREE, 0, 0, ctl_gen(ctl[i])))) arena_hint(ctx, first + i);
    return back;
}

/* I6: `there` was found by one who went over all groups, when payload_bytes stood at `counted`, and has given `back` of it. */
static int recount(shmq_ctx *ctx, uint64_t counted, uint64_t there, uint64_t back) {
    if (counted == there || MUTANT(68)) return 0;
    /* fails while others grow: another time */
    return cas(&ctx->header->payload_bytes, counted - back, there - back) && there < counted;
}

/* I7: memory for `want` bytes from free blocks of whatever class, from where the last time ended on. 1 = it may be there now.
 * Going over all blocks in vain is not cheap: then this process rests, for as long as that took if it has freed a block since,
 * else longer. So a storm of publishes that are refused does little else than being refused. */
static int reclaim(shmq_ctx *ctx, uint64_t want) {
    uint64_t begun = shmq_now(), given = 0, counted = ld_acq(&ctx->header->payload_bytes), there = 0;
    if (begun < (ctx->frees != ctx->reclaim.frees ? ctx->reclaim.not_before : ctx->reclaim.much_later)) return 0;
    if (MUTANT(69)) return 0;
    uint64_t middle = ctx->reclaim.group;
    for (unsigned i = 0; i <= SHMQ_CLASSES; i++) {   /* the first class comes twice: from its middle, and up to there */
        unsigned k = ctx->reclaim.class = ctx->reclaim.class % SHMQ_CLASSES;
        class_place *c = &ctx->classes[k];
        uint32_t group = group_of(c);
        uint64_t n = class_hwm(ctx, k) / group;
        if (i == SHMQ_CLASSES && n > middle) n = middle;
        for (; ctx->reclaim.group < n; ctx->reclaim.group++) {
            uint32_t first = c->first + (uint32_t)ctx->reclaim.group * group;
            uint64_t have = group_bytes(ctx, c, first, group);
            there += have;
            if (have && ctl_state(ld_rlx(&block_at(ctx, first)->ctl)) == SHMQ_FREE) given += punch_group(ctx, k, ctx->reclaim.group, have);
            if (given >= want + RECLAIM_MORE) return 1;
        }
        ctx->reclaim.class++;
        ctx->reclaim.group = 0;
    }
    if (recount(ctx, counted, there, given) || given) return 1;
    uint64_t ended = shmq_now();
    ctx->reclaim.frees = ctx->frees;
    ctx->reclaim.not_before = ended + (ended - begun);
    ctx->reclaim.much_later = ended + RECLAIM_REST * (ended - begun);
    return 0;
}

/* Memory for what is no payload, from free blocks if there is none else. Under the ctx lock. */
int arena_reserve(shmq_ctx *ctx, uint64_t offset, uint64_t length) {
    int rc = shmq_reserve(ctx, offset, length);
    for (int tries = 0; rc == SHMQ_E_NOMEM && tries < RECLAIM_TRIES && reclaim(ctx, length); tries++)
        rc = shmq_reserve(ctx, offset, length);
    return rc;
}

/* The same for what is written soon, in many places: mapped here in one call, instead of by a fault each. */
int arena_reserve_mapped(shmq_ctx *ctx, uint64_t offset, uint64_t length) {
    int rc = arena_reserve(ctx, offset, length);
    uint64_t from = offset / SHMQ_PAGE * SHMQ_PAGE, end = (offset + length + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE;
    /* a hint: before Linux 5.14 nothing comes of it */
    if (rc == SHMQ_OK && ctx->provider == SHMQ_POSIX) (void)madvise(ctx->base + from, end - from, MADV_POPULATE_WRITE);
    return rc;
}

/* How much has to come back before `bytes` can be had: what was just found says it. */
static uint64_t lacking(shmq_ctx *ctx, uint64_t bytes) {
    uint64_t more = ctx->detail.what == WHAT_LIMIT ? ctx->detail.found - ctx->bound
                    : ctx->detail.what == WHAT_RESERVE && ctx->detail.expected > ctx->detail.found
                        ? ctx->detail.expected - ctx->detail.found
                        : 0;
    return more > bytes && more < ctx->bound ? more : bytes;
}

HOT int arena_alloc(shmq_ctx *ctx, uint64_t bytes, uint32_t *idx, uint64_t *ctl) {
    int k = arena_class_for(ctx, bytes), rc = SHMQ_E_NOMEM;
    if (k < 0) return fail(ctx, SHMQ_E_TOOBIG, WHAT_CLASS, 0, bytes, ctx->classes[SHMQ_CLASSES - 1].stride, 0);
    for (int tries = 0;; tries++) {
        for (int j = k; j < SHMQ_CLASSES && j <= k + 2; j++) {
            if (ctx->classes[j].limit == 0) break;
            rc = alloc_in(ctx, (unsigned)j, bytes, idx, ctl);
            if (rc != SHMQ_E_NOMEM) return rc;
        }
        if (tries == RECLAIM_TRIES || !reclaim(ctx, lacking(ctx, bytes))) break;
    }
    for (int j = k; j < SHMQ_CLASSES && j <= k + 2 && ctx->classes[j].limit; j++)
        if (scan(ctx, (unsigned)j, bytes, idx, ctl) == SHMQ_OK) return SHMQ_OK;
    return rc;
}

/* A child of a topic's message: a block of 64 bytes that says CHILD from its first moment on. */
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

/* Give back the memory of free blocks beyond the lowest keep_bytes of each class. Returns bytes given back. */
int64_t shmq_trim(shmq_ctx *ctx, uint64_t keep_bytes) {
    int64_t total = 0;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    uint64_t counted = ld_acq(&ctx->header->payload_bytes), there = 0;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) {
        class_place *c = &ctx->classes[k];
        uint32_t group = group_of(c);
        uint64_t n = class_hwm(ctx, k) / group, kept = 0;
        for (uint64_t g = 0; g < n; g++) {
            if (g % 64 == 63) {
                ctx_unlock(ctx);
                if ((rc = ctx_enter(ctx)) != SHMQ_OK) return rc;
            }
            uint32_t first = c->first + (uint32_t)g * group;
            uint64_t have = group_bytes(ctx, c, first, group);
            there += have;
            if (ctl_state(ld_rlx(&block_at(ctx, first)->ctl)) != SHMQ_FREE) continue;
            if (have == 0 && ctx->trimmed) continue;
            if (have && kept + have <= keep_bytes) {
                kept += have;
                continue;
            }
            /* have == 0: marked by one who may have died before the punch; punched silently by the first trim of a context */
            total += (int64_t)punch_group(ctx, k, g, have);
        }
    }
    ctx->trimmed = 1;
    recount(ctx, counted, there, (uint64_t)total);
    ctx_unlock(ctx);
    return total;
}
