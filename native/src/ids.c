/* ids.c: the table of ids that a queue remembers for a while: of all claims of one id within the window exactly one succeeds.
 *
 *   page      next[2]: gen:40 | count:24     backed[2]: entries with memory     chunks: bit = those buckets have memory
 *   buckets   gen:19 | filter:21 | entry+1:24
 *   half 0, 1 entries of 16 bytes: key, id - first of the lot:27 | time within the generation:12 | before:1 | next entry+1:24
 *             firsts: of each lot of numbers of entries the lowest id that an entry of it can have
 *
 *   generation g = time / window; its entries live in half g & 1, and ids in g - 1 and g are looked at: older ones are out of
 *   the window. A chain leads from the newest id of a bucket to the older ones; `before` = the next entry is of generation g - 1.
 *   The filter knows the keys of the chain, so that a new id need not walk it: a walk is one miss of the cache for each entry.
 *
 *   claim(key):  write half an entry  ->  look at the bucket, and if its filter knows the key, walk  ->  CAS on the bucket (CLAIM)
 *
 * I1  The bucket's CAS is the claim. It fails when any claim of this bucket was made since the word was read: of those who found
 *     nothing exactly one succeeds, however long one of them was stopped. (A word can come back only 2^19 generations
 *     later, by chance: when that bucket is then given the same number of an entry.)
 * I2  A linked entry, and the first of its lot, are not changed while their generation is g or g-1. They are written by CASes
 *     from what stood there while the number was still good, each mixed with the generation (in which a number is given once; an
 *     id, of a message that is recovered late, may come again): one who was stopped in the midst for two generations fails,
 *     instead of writing into what belongs to another one by now.
 * I3  What a walk says, match or none, is believed only when neither half has been given to a later generation meanwhile (R2).
 * I4  Nothing is ever cleared: a bucket whose gen is neither g nor g-1 is empty. Times decide within the two generations. One
 *     of somebody who is ahead of us is taken for empty as well; but he took a number before he wrote it, so that R2, which
 *     looks at numbers after the bucket was read, sends us back.
 * I5  Buckets and entries are touched only after memory was reserved for them, and that was noted.
 * I6  The filter knows every key of the chain, for it changes in the same CAS. It may know too much.
 *
 * An id is known by the strong half of its key and by its bucket: of two ids, one is taken for the other once in 2^64 that a walk
 * compares. Times are rounded up by at most 1/4096 of the window, and by no more than a millisecond where that is more.
 *
 * Numbers of entries are given out in lots. Who dies where: before the CAS on the bucket: the lot is lost until its generation is
 * over. After it: dedup.c.
 */
#include "ids.h"
#include "arena.h"
#include "hash.h"

#define NO_ENTRY UINT32_C(0xffffffff)
#define MOVED (-100)         /* the half belongs to a later generation by now: look again from there */
#define ENTRIES_STEP 2048u
#define ENTRIES_MOST 16384u   /* a quarter of a megabyte: what one claim may have to wait for */
#define LOT_MOST_LG 4        /* two pairs of cache lines */

typedef struct {
    shmq_au64 word[2];
} entry;   /* key.hi; what the drawing says: mixed with the generation (I2) */
typedef shmq_au64 bucket;
typedef struct {
    shmq_au64 next, backed, chunks;
    uint8_t pad[104];
} head;   /* chunks: the first one's */

static inline uint64_t next_gen(uint64_t w) { return w >> 24; }
static inline uint64_t mix(uint64_t gen, unsigned n) { return gen * (n ? UINT64_C(0xc2b2ae3d27d4eb4f) : UINT64_C(0x9e3779b97f4a7c15)); }

/* ---- the second word of an entry ---- */
#define ENTRY_MASK UINT64_C(0xffffff)
#define BEFORE (UINT64_C(1) << 24)
#define TIME_AT 25
#define TIME_MASK UINT64_C(0xfff)
#define ID_AT 37
#define ID_SPAN (UINT64_C(1) << (64 - ID_AT))

/* ---- the word of a bucket. Its filter: 20 bits for the keys of one generation, or, when there are two, 10 for the one before and
 * 10 for this one, and the bit that says so. Wide filters fold to narrow ones. ---- */
#define FILTER_AT 24
#define HALF 10
#define HALF_MASK ((UINT64_C(1) << HALF) - 1)
#define NARROW (UINT64_C(1) << (FILTER_AT + 2 * HALF))
#define GEN_AT (FILTER_AT + 2 * HALF + 1)

static inline uint64_t filter_bits(const hash128 *key) {   /* two or one; the bits of lo say which bucket */
    return UINT64_C(1) << ((key->hi & 0xffffffff) * (2 * HALF) >> 32) | UINT64_C(1) << ((key->hi >> 32) * (2 * HALF) >> 32);
}
static inline uint64_t folded(uint64_t wide) { return (wide | wide >> HALF) & HALF_MASK; }
static inline uint64_t age_of(uint64_t w, uint64_t gen) { return (gen - (w >> GEN_AT)) & (UINT64_MAX >> GEN_AT); }

/* What the word means in generation gen (I4). Which buckets are empty cannot be foretold: no branch for that. */
static inline uint64_t bucket_as_of(uint64_t w, uint64_t gen) {
    uint64_t age = age_of(w, gen), f = w >> FILTER_AT, as_of = age == 0 ? w : gen << GEN_AT;
    if (RARE(age == 1)) as_of |= NARROW | (MUTANT(58) ? 0 : w & NARROW ? f >> HALF & HALF_MASK : folded(f)) << FILTER_AT | (w & ENTRY_MASK);
    return as_of;
}
static inline int bucket_knows(uint64_t w, const hash128 *key) {   /* w: as of now */
    uint64_t f = w >> FILTER_AT, wide = filter_bits(key), narrow = folded(wide);
    return w & NARROW ? (f & narrow) == narrow || (f >> HALF & narrow) == narrow : (f & wide) == wide;
}
static inline uint64_t bucket_with(uint64_t w, const hash128 *key, uint32_t number) {
    uint64_t wide = MUTANT(20) ? 0 : filter_bits(key);
    return ((w & ~ENTRY_MASK) | (w & NARROW ? folded(wide) << HALF : wide) << FILTER_AT) + number + 1;
}

static uint64_t window_of(const shmq_queue_options *o) { return o->dedup_window_ns / 1000000 + (o->dedup_window_ns % 1000000 != 0); }

static uint64_t pages(uint64_t bytes) { return (bytes + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE; }

static void measure(local_dedup *t, const shmq_queue_options *o) {
    uint64_t buckets = 512;
    t->capacity = o->dedup_capacity ? o->dedup_capacity : SHMQ_DEDUP_DEFAULT;
    if (t->capacity > SHMQ_DEDUP_MOST) t->capacity = SHMQ_DEDUP_MOST;
    while (buckets < t->capacity / 2) buckets *= 2;   /* chains of two in a full table; the filter spares most ids their walk */
    t->window_ms = window_of(o);
    t->tick_ms = (t->window_ms - 1) / (TIME_MASK + 1) + 1;
    t->mask = buckets - 1;
    t->chunk_lg = (uint32_t)__builtin_ctzll(buckets / 64 > 512 ? buckets / 64 : 512);   /* a page at least */
    t->bucket_bytes = buckets * sizeof(bucket);
    t->lot_lg = 0;
    /* one that dies costs less than 1 in 256 ids */
    while (UINT32_C(2) << t->lot_lg <= t->capacity / 256 + 1 && t->lot_lg < LOT_MOST_LG) t->lot_lg++;
    t->entry_bytes = pages((uint64_t)t->capacity * sizeof(entry));
    t->half_bytes = t->entry_bytes + pages(((uint64_t)(t->capacity - 1) >> t->lot_lg) * 8 + 8);
}

/* How much room the table of a queue needs; most of it gets memory only when it is used. 0 = none. */
uint64_t ids_bytes(const shmq_queue_options *o) {
    local_dedup t;
    /* a topic's is its subscriptions' default */
    if (!o->dedup_window_ns || o->kind == SHMQ_KIND_TOPIC || o->kind == SHMQ_KIND_MEMBER) return 0;
    measure(&t, o);
    return SHMQ_PAGE + t.bucket_bytes + 2 * t.half_bytes;
}

void ids_open(local_queue *q, uint8_t *base) {
    measure(&q->dedup, &q->options);
    q->dedup.base = base;
    q->dedup.gen_begin = 0;
    q->dedup.gen_now = 1;
}

static head *half(local_dedup *t, uint64_t gen) { return (head *)t->base + (gen & 1); }
static bucket *buckets(local_dedup *t) { return (bucket *)(t->base + SHMQ_PAGE); }
static entry *entry_at(local_dedup *t, uint64_t gen, uint32_t n) {
    return (entry *)(t->base + SHMQ_PAGE + t->bucket_bytes + (gen & 1) * t->half_bytes) + n;
}
static shmq_au64 *first_of(local_dedup *t, uint64_t gen, uint32_t n) {
    return (shmq_au64 *)((uint8_t *)entry_at(t, gen, 0) + t->entry_bytes) + (n >> t->lot_lg);
}

/* For a segment whose pages cannot be punched: nothing of the old queue may be taken for the next one's. */
void ids_forget(uint8_t *base, const shmq_queue_options *o) {
    local_dedup t = { .base = base };
    measure(&t, o);
    for (uint64_t c = 0; c < 64; c++)
        if (ld_acq(&half(&t, 0)->chunks) >> c & 1) memset(buckets(&t) + (c << t.chunk_lg), 0, sizeof(bucket) << t.chunk_lg);
    memset(base, 0, SHMQ_PAGE);
}

/* I5 */
static bucket *bucket_of(shmq_ctx *ctx, local_dedup *t, const hash128 *key) {
    head *h = half(t, 0);
    uint64_t n = key->lo & t->mask, c = n >> t->chunk_lg, bytes = sizeof(bucket) << t->chunk_lg;
    if (RARE(!(ld_acq(&h->chunks) >> c & 1))) {
        if (arena_reserve_mapped(ctx, (uint64_t)((uint8_t *)buckets(t) - ctx->base) + c * bytes, bytes) != SHMQ_OK) return NULL;
        or64(&h->chunks, UINT64_C(1) << c);
    }
    return buckets(t) + n;
}

static int back(shmq_ctx *ctx, local_dedup *t, uint64_t gen, uint64_t backed) {
    uint64_t step = backed / 4 / ENTRIES_STEP * ENTRIES_STEP;
    uint64_t n = backed + (step < ENTRIES_STEP ? ENTRIES_STEP : step > ENTRIES_MOST ? ENTRIES_MOST : step);
    if (n > t->capacity) n = t->capacity;
    uint64_t at = (uint64_t)((uint8_t *)first_of(t, gen, (uint32_t)backed) - ctx->base);
    uint64_t end = (uint64_t)((uint8_t *)first_of(t, gen, (uint32_t)n - 1) - ctx->base) + 8;
    int rc = arena_reserve_mapped(ctx, (uint64_t)((uint8_t *)entry_at(t, gen, (uint32_t)backed) - ctx->base), (n - backed) * sizeof(entry));
    if (rc == SHMQ_OK && pages(end) > pages(at)) rc = arena_reserve_mapped(ctx, pages(at), end - pages(at));
    if (rc == SHMQ_OK) cas(&half(t, gen)->backed, backed, n);   /* else another one did, as far or farther */
    return rc;
}

/* Does the half still belong to generation gen? Then what was read before this of the memory behind a number of ours is no later
 * one's (I2). OK, MOVED, or BUSY: no time does that, somebody has damaged it. */
static int still(local_dedup *t, uint64_t gen) {
    uint64_t now = next_gen(ld_acq(&half(t, gen)->next));
    return now == gen ? SHMQ_OK : now > gen ? MOVED : SHMQ_BUSY;
}

/* Numbers of our own in generation gen, for entries of ids from `id` on. OK, BUSY, MOVED, or why there are none. */
static int take_lot(shmq_ctx *ctx, local_dedup *t, uint64_t gen, uint64_t id) {
    head *h = half(t, gen);
    uint64_t w = ld_acq(&h->next), n = next_gen(w) == gen ? w & 0xffffff : 0, backed = ld_acq(&h->backed);
    uint64_t end = n + (UINT64_C(1) << t->lot_lg);
    if (next_gen(w) > gen) return MOVED;
    if (n >= t->capacity) return fail(ctx, SHMQ_E_NOMEM, WHAT_DEDUP, 0, n, t->capacity, 0);
    if (backed > t->capacity) return SHMQ_E_CORRUPT;
    if (n >= backed) {
        int rc = back(ctx, t, gen, backed);
        return rc == SHMQ_OK ? SHMQ_BUSY : rc;
    }
    if (end > backed) end = backed;
    if (!cas(&h->next, w, gen << 24 | end)) return SHMQ_BUSY;
    CRASH_POINT("dedup_numbered");
    shmq_au64 *first = first_of(t, gen, (uint32_t)n);
    uint64_t old = ld_acq(first);
    int rc = still(t, gen);
    if (rc != SHMQ_OK) return rc;
    if (!cas(first, old, MUTANT(59) ? id : id ^ mix(gen, 0))) return SHMQ_BUSY;   /* one who slept for two generations has spoilt it */
    t->lot_gen = gen;
    t->lot_first = id;
    t->lot_next = (uint32_t)n;
    t->lot_end = (uint32_t)end;
    return SHMQ_OK;
}

/* An entry of our own in generation gen, written but for its last word, in which *last stands. OK, MOVED, or why there is none. */
static int make_entry(shmq_ctx *ctx, local_dedup *t, uint64_t gen, const hash128 *key, uint64_t id, uint64_t *last, uint32_t *out) {
    for (unsigned tries = 0; tries < 1000; tries++) {
        int rc = SHMQ_OK;
        if (t->lot_gen != gen || t->lot_next == t->lot_end || RARE(id - t->lot_first >= ID_SPAN)) rc = take_lot(ctx, t, gen, id);
        if (rc == SHMQ_BUSY) continue;
        if (rc != SHMQ_OK) return rc;
        entry *e = entry_at(t, gen, t->lot_next);
        uint64_t old = ld_acq(&e->word[0]), stands = ld_acq(&e->word[1]);
        rc = still(t, gen);
        if (rc == MOVED) return rc;
        if (rc != SHMQ_OK) {
            t->lot_gen = 0;
            continue;
        }
        if (!cas(&e->word[0], old, key->hi ^ mix(gen, 0))) {
            t->lot_next++;   /* spoilt, likewise */
            continue;
        }
        *last = stands;
        *out = t->lot_next;
        return SHMQ_OK;
    }
    return SHMQ_BUSY;
}

enum { NOTHING, OURS, THEIRS };

/* Walk the chain of this bucket. Ours: the claim of this very message, however old. */
static int find(local_dedup *t, uint64_t gen, uint64_t w, const hash128 *key, uint64_t id, uint64_t ms, uint64_t *first) {
    uint64_t g = gen - age_of(w, gen);
    uint32_t idx = (uint32_t)(w & ENTRY_MASK) - 1;
    if (!bucket_knows(bucket_as_of(w, gen), key)) return NOTHING;   /* I6 */
    for (uint64_t n = 0; idx < t->capacity && idx < ld_acq(&half(t, g)->backed) && n <= 2 * (uint64_t)t->capacity; n++) {
        entry *e = entry_at(t, g, idx);
        uint64_t last = ld_acq(&e->word[1]) ^ mix(g, 1);
        if ((ld_acq(&e->word[0]) ^ mix(g, 0)) == key->hi) {
            uint64_t eid = (ld_acq(first_of(t, g, idx)) ^ (MUTANT(59) ? 0 : mix(g, 0))) + (last >> ID_AT);
            uint64_t ticks = (last >> TIME_AT & TIME_MASK) + 1;
            *first = eid;
            if (eid == id && !MUTANT(23)) return OURS;
            if ((g - 1) * t->window_ms + ticks * t->tick_ms - 1 + t->window_ms >= ms) return THEIRS;
        }
        if ((last & BEFORE) && g-- != gen) break;
        idx = (uint32_t)(last & ENTRY_MASK) - 1;
    }
    return NOTHING;
}

/* A later generation than ours was seen: time has passed. 0 = no time can have brought that word. */
static int catch_up(shmq_ctx *ctx, local_dedup *t, uint64_t seen, uint64_t *gen, uint64_t *ms) {
    if (seen > shmq_now() / 1000000 / t->window_ms + 2) {   /* + 2: two clocks differ a little */
        add32(&ctx->header->corrupt, 1);
        return 0;
    }
    *gen = seen;
    if (*ms < (seen - 1) * t->window_ms) *ms = (seen - 1) * t->window_ms;
    return 1;
}

/* I3: has one of the two halves been given to a later generation? Then gen and ms are made those. */
static int overtaken(shmq_ctx *ctx, local_dedup *t, uint64_t *gen, uint64_t *ms) {
    shmq_au64 *at[2] = { &half(t, *gen)->next, &half(t, *gen - 1)->next };
    for (uint64_t i = 0; i < 2; i++) {
        uint64_t w = ld_acq(at[i]);
        if (next_gen(w) <= *gen - i) continue;
        if (!catch_up(ctx, t, next_gen(w), gen, ms)) cas(at[i], w, 0);
        return 1;
    }
    return 0;
}

/* Which bucket an id belongs to. */
uint64_t ids_spot(shmq_ctx *ctx, const shmq_message *m) {
    return m->spotted == ids_tag(ctx) ? m->spot : hash_spot(ctx->secret, m->dedup, m->dedup_size);
}

hash128 ids_key(shmq_ctx *ctx, const shmq_message *m) {
    return (hash128){ ids_spot(ctx, m), hash_sip(ctx->secret, m->dedup, m->dedup_size) };
}

/* The bucket of a key that is to be claimed soon, which lies anywhere in a large table. A hint, of memory that may not be there (I5). */
void ids_prefetch(local_queue *q, uint64_t spot) {
    local_dedup *t = &q->dedup;
    prefetch_to_write(buckets(t) + (spot & t->mask));
    prefetch_to_write(entry_at(t, t->lot_gen, t->lot_next));
}

/* The generation of a time. A division takes as long as all else here, so its last result is kept. */
static uint64_t gen_at(local_dedup *t, uint64_t ms) {
    if (ms - t->gen_begin >= t->window_ms) {
        t->gen_now = ms / t->window_ms + 1;
        t->gen_begin = (t->gen_now - 1) * t->window_ms;
    }
    return t->gen_now;
}

/* FIRST: the id is this message's. DUPLICATE: *first has it. */
int ids_claim(shmq_ctx *ctx, local_queue *q, const hash128 *key, uint64_t id, uint64_t now, uint64_t *first) {
    local_dedup *t = &q->dedup;
    uint64_t ms = now / 1000000, gen = gen_at(t, ms), mine_gen = 0, stands = 0;
    uint32_t mine = NO_ENTRY;
    int none = SHMQ_OK;
    for (unsigned tries = 0; tries < 100000; tries++) {
        if (mine == NO_ENTRY || mine_gen != gen) {   /* before the bucket is looked at: it is on its way to the cache meanwhile */
            none = make_entry(ctx, t, gen, key, id, &stands, &mine);
            if (none == MOVED) {
                overtaken(ctx, t, &gen, &ms);
                mine = NO_ENTRY;
                continue;
            }
            mine_gen = gen;
        }
        bucket *at = bucket_of(ctx, t, key);
        if (at == NULL) return SHMQ_E_NOMEM;
        uint64_t w = ld_acq(at), as_of = bucket_as_of(w, gen);
        int found = find(t, gen, w, key, id, ms, first);
        if (!MUTANT(21) && overtaken(ctx, t, &gen, &ms)) continue;   /* I3 (R2) */
        if (found != NOTHING) return found == OURS ? ID_FIRST : ID_DUPLICATE;
        if (none != SHMQ_OK) return none;   /* a full table knows its ids, and takes no new one */
        uint64_t ticks = (ms - (gen - 1) * t->window_ms) / t->tick_ms;
        uint64_t last = (id - t->lot_first) << ID_AT | (ticks < TIME_MASK ? ticks : TIME_MASK) << TIME_AT
                        | (age_of(w, gen) == 1 ? BEFORE : 0) | (as_of & ENTRY_MASK);
        last ^= mix(gen, 1);
        if (!cas(&entry_at(t, gen, mine)->word[1], stands, last)) {
            t->lot_next++;
            mine = NO_ENTRY;
            continue;
        }
        stands = last;
        CRASH_POINT("dedup_entry");
        if (cas(at, w, bucket_with(as_of, key, mine))) {   /* CLAIM */
            CRASH_POINT("dedup_claimed");
            t->lot_next++;
            return ID_FIRST;
        }
    }
    return SHMQ_BUSY;
}

/* Has the id of a message been claimed within the window? Claims nothing; a hint for who looks for room: only the claim tells. */
int ids_known(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now) {
    local_dedup *t = &q->dedup;
    uint64_t ms = now / 1000000, gen = gen_at(t, ms), first;
    hash128 key = ids_key(ctx, m);
    bucket *at = bucket_of(ctx, t, &key);
    if (!at || find(t, gen, ld_acq(at), &key, 0, ms, &first) == NOTHING) return 0;
    return next_gen(ld_acq(&half(t, gen)->next)) <= gen && next_gen(ld_acq(&half(t, gen - 1)->next)) < gen;   /* I3 (R2) */
}

/* Is there room for the id of a message now, if it needs any? A hint; for those who cannot go back once they have begun. */
int ids_room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now) {
    local_dedup *t = &q->dedup;
    uint64_t gen = gen_at(t, now / 1000000), w = ld_acq(&half(t, gen)->next);
    if (next_gen(w) != gen || (w & 0xffffff) < t->capacity || (t->lot_gen == gen && t->lot_next < t->lot_end)) return SHMQ_OK;
    if (ids_known(ctx, q, m, now)) return SHMQ_OK;
    return fail(ctx, SHMQ_E_NOMEM, WHAT_DEDUP, 0, w & 0xffffff, t->capacity, 0);
}
