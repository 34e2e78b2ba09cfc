/* dedup.c: of all publishes with one id within the window exactly one becomes a message.
 *
 *   page      next[2]: gen:40 | count:24     backed[2]: entries with memory     chunks[2]: bit = those buckets have memory
 *   half 0, 1 buckets  gen:39 | sealed:1 | entry+1:24      entries of 32 bytes: key, id, time:40 (ms) | next entry+1:24
 *
 *   generation g = time / window; it lives in half g & 1, and ids in g - 1 and g are looked at: older ones are out of the window
 *
 *   claim(key):  seal the bucket of g-1  ->  walk its chain  ->  walk the chain of g  ->  own entry -> CAS on the head (CLAIM)
 *
 * A message with an id is committed by NEW -> MOVE(me); from there it is either published or found to be a duplicate, by its
 * publisher, or by whoever recovers it: fate's DEDUP bit says that this is still to be decided. So a claim never belongs to a
 * message that can vanish, and who meets it may answer "duplicate" at once, whether its publisher is dead, stopped or alive.
 *
 * I1  The head CAS is the claim. It fails when the bucket has changed since it was read, that is when any claim of this bucket
 *     was made meanwhile: in this generation there, in the next one by the seal, two later by the new head. So of those who
 *     found nothing exactly one succeeds, however long one of them was stopped.
 * I2  A linked entry is not changed while its generation is g or g-1. An entry is written by CASes from what stood there when
 *     its number was given out, the id first, everything mixed with the id (which occurs once): one who was stopped in the
 *     midst for two generations fails, instead of writing into what belongs to another one by now.
 * I3  What a walk says, match or none, is believed only when neither half has been given to a later generation meanwhile (R2).
 * I4  Nothing is ever cleared: a bucket of another generation is empty. Times decide within the two generations.
 * I5  Buckets and entries are touched only after memory was reserved for them, and that was noted.
 *
 * Who dies where: before the head CAS: an entry is lost until its generation is over. After it: the block is MOVE(dead) with
 * the DEDUP bit; the recoverer finds its own id and publishes it. If that comes so late that the claim is forgotten, the claim
 * is made anew, and fails if another message has the id by then.
 */
#include "dedup.h"
#include "clock.h"
#include "settle.h"
#include "topic.h"

#define NO_ENTRY UINT32_C(0xffffffff)
#define MOVED (-100)         /* the half belongs to a later generation by now: look again from there */
#define ENTRIES_STEP 2048u

typedef struct { shmq_au64 word[4]; } entry;   /* key.lo, key.hi, id, time and next; all but the id mixed with it (I2) */
typedef struct { shmq_au64 next, backed, chunks; uint8_t pad[104]; } head;

static inline uint64_t bucket_make(uint64_t gen, int sealed, uint32_t idx) { return gen << 25 | (uint64_t)sealed << 24 | (uint32_t)(idx + 1); }
static inline uint64_t bucket_gen(uint64_t w) { return w >> 25; }
static inline int bucket_sealed(uint64_t w) { return w >> 24 & 1; }
static inline uint32_t bucket_idx(uint64_t w) { return (uint32_t)(w & 0xffffff) - 1; }
static inline uint64_t next_gen(uint64_t w) { return w >> 24; }
static inline uint64_t mix(uint64_t id, unsigned n) {
    static const uint64_t ODD[4] = { UINT64_C(0x9e3779b97f4a7c15), UINT64_C(0xc2b2ae3d27d4eb4f), 0, UINT64_C(0xd6e8feb86659fd93) };
    return id * ODD[n];
}

static uint64_t window_of(const shmq_queue_options *o) { return o->dedup_window_ns / 1000000 + (o->dedup_window_ns % 1000000 != 0); }

static void measure(local_dedup *t, const shmq_queue_options *o) {
    uint64_t buckets = 512;
    t->capacity = o->dedup_capacity ? o->dedup_capacity : DEDUP_DEFAULT;
    if (t->capacity > DEDUP_MOST) t->capacity = DEDUP_MOST;
    while (buckets < t->capacity / 2) buckets *= 2;   /* chains of two entries in a full table: each may be a cache miss */
    t->window_ms = window_of(o);
    t->mask = buckets - 1;
    t->chunk = buckets / 64 > 512 ? (uint32_t)(buckets / 64) : 512;
    t->bucket_bytes = buckets * 8;
    t->half_bytes = t->bucket_bytes + ((uint64_t)t->capacity * sizeof(entry) + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE;
}

/* How much room the table of a queue needs; most of it gets memory only when it is used. 0 = none. */
uint64_t dedup_bytes(const shmq_queue_options *o) {
    local_dedup t;
    if (!o->dedup_window_ns || o->kind == SHMQ_KIND_TOPIC || o->kind == SHMQ_KIND_MEMBER) return 0;   /* a topic's is its subscriptions' default */
    measure(&t, o);
    return SHMQ_PAGE + 2 * t.half_bytes;
}

void dedup_open(local_queue *q, uint8_t *base) {
    measure(&q->dedup, &q->options);
    q->dedup.base = base;
}

static head *half(local_dedup *t, uint64_t gen) { return (head *)t->base + (gen & 1); }
static uint8_t *half_at(local_dedup *t, uint64_t gen) { return t->base + SHMQ_PAGE + (gen & 1) * t->half_bytes; }
static entry *entry_at(local_dedup *t, uint64_t gen, uint32_t n) { return (entry *)(half_at(t, gen) + t->bucket_bytes) + n; }

/* For a segment whose pages cannot be punched: nothing of the old queue may be taken for the next one's. */
void dedup_forget(uint8_t *base, const shmq_queue_options *o) {
    local_dedup t = { .base = base };
    measure(&t, o);
    for (uint64_t h = 0; h < 2; h++)
        for (uint64_t c = 0; c < 64; c++)
            if (ld_acq(&half(&t, h)->chunks) >> c & 1) memset(half_at(&t, h) + c * t.chunk * 8, 0, (uint64_t)t.chunk * 8);
    memset(base, 0, SHMQ_PAGE);
}

/* I5 */
static shmq_au64 *bucket(shmq_ctx *ctx, local_dedup *t, uint64_t gen, hash128 key) {
    head *h = half(t, gen);
    uint64_t n = key.lo & t->mask, c = n / t->chunk, bytes = (uint64_t)t->chunk * 8;
    uint8_t *at = half_at(t, gen);
    if (!(ld_acq(&h->chunks) >> c & 1)) {
        if (shmq_reserve(ctx, (uint64_t)(at - ctx->base) + c * bytes, bytes) != SHMQ_OK) return NULL;
        or64(&h->chunks, UINT64_C(1) << c);
    }
    return (shmq_au64 *)at + n;
}

static int back(shmq_ctx *ctx, local_dedup *t, uint64_t gen, uint64_t backed) {
    uint64_t n = backed + (backed / 4 > ENTRIES_STEP ? backed / 4 / ENTRIES_STEP * ENTRIES_STEP : ENTRIES_STEP);
    if (n > t->capacity) n = t->capacity;
    int rc = shmq_reserve(ctx, (uint64_t)((uint8_t *)entry_at(t, gen, (uint32_t)backed) - ctx->base), (n - backed) * sizeof(entry));
    if (rc == SHMQ_OK) cas(&half(t, gen)->backed, backed, n);   /* else another one did, as far or farther */
    return rc;
}

/* An entry of our own in generation gen, written and not linked. OK, MOVED, or why there is none. */
static int make_entry(shmq_ctx *ctx, local_dedup *t, uint64_t gen, const uint64_t value[4], uint32_t *out) {
    head *h = half(t, gen);
    for (unsigned tries = 0; tries < 1000; tries++) {
        uint64_t w = ld_acq(&h->next), n = next_gen(w) == gen ? w & 0xffffff : 0, backed = ld_acq(&h->backed), old[4];
        if (next_gen(w) > gen) return MOVED;
        if (n >= t->capacity) return fail(ctx, SHMQ_E_NOMEM, WHAT_DEDUP, 0, n, t->capacity, 0);
        if (n >= backed || backed > t->capacity) {
            int rc = backed > t->capacity ? SHMQ_E_CORRUPT : back(ctx, t, gen, backed);
            if (rc != SHMQ_OK) return rc;
            continue;
        }
        if (!cas(&h->next, w, gen << 24 | (n + 1))) continue;
        CRASH_POINT("dedup_numbered");
        entry *e = entry_at(t, gen, (uint32_t)n);
        for (int i = 0; i < 4; i++) old[i] = ld_acq(&e->word[i]);
        if (next_gen(ld_acq(&h->next)) != gen) return MOVED;   /* I2: what was read may be a later one's */
        if (!cas(&e->word[2], old[2], value[2]) || !cas(&e->word[0], old[0], value[0]) || !cas(&e->word[1], old[1], value[1])
            || !cas(&e->word[3], old[3], value[3])) continue;   /* one who slept for two generations has spoilt it */
        *out = (uint32_t)n;
        return SHMQ_OK;
    }
    return SHMQ_BUSY;
}

enum { NOTHING, OURS, THEIRS };

/* Walk the chain from entry idx on. Ours: the claim of this very message, however old. */
static int find(local_dedup *t, uint64_t gen, uint32_t idx, hash128 key, uint64_t id, uint64_t ms, uint64_t *first) {
    uint64_t backed = ld_acq(&half(t, gen)->backed);
    for (uint32_t n = 0; idx != NO_ENTRY && idx < backed && idx < t->capacity && n <= t->capacity; n++) {
        entry *e = entry_at(t, gen, idx);
        uint64_t eid = ld_acq(&e->word[2]), last = ld_acq(&e->word[3]) ^ mix(eid, 3);
        if ((ld_acq(&e->word[0]) ^ mix(eid, 0)) == key.lo && (ld_acq(&e->word[1]) ^ mix(eid, 1)) == key.hi) {
            *first = eid;
            if (eid == id && !MUTANT(23)) return OURS;
            if ((last >> 24) + t->window_ms >= ms) return THEIRS;
        }
        idx = (uint32_t)(last & 0xffffff) - 1;
    }
    return NOTHING;
}

/* A later generation than ours was seen: time has passed. 0 = no time can have brought that word. */
static int catch_up(shmq_ctx *ctx, local_dedup *t, uint64_t seen, uint64_t *gen, uint64_t *ms) {
    if (seen > shmq_now() / 1000000 / t->window_ms + 2) { add32(&ctx->header->corrupt, 1); return 0; }   /* + 2: two clocks differ a little */
    *gen = seen;
    if (*ms < (seen - 1) * t->window_ms) *ms = (seen - 1) * t->window_ms;
    return 1;
}

/* Both buckets of a key that is to be claimed soon: they lie anywhere in a large table. */
void dedup_prefetch(local_queue *q, hash128 key, uint64_t now) {
    local_dedup *t = &q->dedup;
    uint64_t gen = now / 1000000 / t->window_ms + 1, at = (key.lo & t->mask) * 8;
    __builtin_prefetch(half_at(t, gen) + at, 1);
    __builtin_prefetch(half_at(t, gen - 1) + at);
}

/* And a little later: where its chain begins, and the entry that comes next. Hints, of memory that may not be there (I5). */
void dedup_prefetch_entry(local_queue *q, hash128 key, uint64_t now) {
    local_dedup *t = &q->dedup;
    uint64_t gen = now / 1000000 / t->window_ms + 1, n = key.lo & t->mask;
    head *h = half(t, gen);
    if (!(ld_rlx(&h->chunks) >> (n / t->chunk) & 1)) return;
    uint32_t idx = bucket_idx(ld_rlx((shmq_au64 *)half_at(t, gen) + n));
    if (idx < t->capacity) __builtin_prefetch(entry_at(t, gen, idx));
    __builtin_prefetch(entry_at(t, gen, (uint32_t)(ld_rlx(&h->next) & 0xffffff)), 1);
}

/* FIRST: the id is this message's. DUPLICATE: *first has it. */
int dedup_claim(shmq_ctx *ctx, local_queue *q, hash128 key, uint64_t id, uint64_t now, uint64_t *first) {
    local_dedup *t = &q->dedup;
    uint64_t ms = now / 1000000, gen = ms / t->window_ms + 1, mine_gen = 0;
    uint64_t value[4] = { key.lo ^ mix(id, 0), key.hi ^ mix(id, 1), id, 0 };
    uint32_t mine = NO_ENTRY;
    for (unsigned tries = 0; tries < 100000; tries++) {
        shmq_au64 *a = bucket(ctx, t, gen, key), *b = bucket(ctx, t, gen - 1, key);
        if (a == NULL || b == NULL) return SHMQ_E_NOMEM;
        uint64_t wa = ld_acq(a), wb = ld_acq(b), later_gen = bucket_gen(wa) + (bucket_gen(wa) >= gen && bucket_sealed(wa));
        if (later_gen > gen || bucket_gen(wb) > gen) {
            int by_a = later_gen > gen;
            if (!catch_up(ctx, t, by_a ? later_gen : bucket_gen(wb), &gen, &ms)) cas(by_a ? a : b, by_a ? wa : wb, 0);
            continue;
        }
        uint64_t seal = bucket_gen(wb) == gen - 1 ? wb | UINT64_C(1) << 24 : bucket_make(gen - 1, 1, NO_ENTRY);
        if (wb != seal && !MUTANT(20) && !cas(b, wb, seal)) continue;   /* I1: nobody claims there any more */
        CRASH_POINT("dedup_sealed");
        uint32_t chain = bucket_gen(wa) == gen ? bucket_idx(wa) : NO_ENTRY;
        int found = find(t, gen, chain, key, id, ms, first);
        if (found == NOTHING && bucket_gen(wb) == gen - 1) found = find(t, gen - 1, bucket_idx(wb), key, id, ms, first);
        uint64_t after = ld_acq(&half(t, gen)->next), before = ld_acq(&half(t, gen - 1)->next);
        if ((next_gen(after) > gen || next_gen(before) >= gen) && !MUTANT(21)) {   /* I3 (R2) */
            int by_a = next_gen(after) > gen;
            if (!catch_up(ctx, t, next_gen(by_a ? after : before), &gen, &ms))
                cas(&half(t, by_a ? gen : gen - 1)->next, by_a ? after : before, 0);
            continue;
        }
        if (found != NOTHING) return found == OURS ? DEDUP_FIRST : DEDUP_DUPLICATE;
        uint64_t last = (ms << 24 | (uint32_t)(chain + 1)) ^ mix(id, 3);
        if (mine != NO_ENTRY && mine_gen == gen) {   /* lost to another claim of this bucket: link behind it */
            if (!cas(&entry_at(t, gen, mine)->word[3], value[3], last)) mine = NO_ENTRY;
            value[3] = last;
        } else mine = NO_ENTRY;
        if (mine == NO_ENTRY) {
            value[3] = last;
            int rc = make_entry(ctx, t, gen, value, &mine);
            if (rc == MOVED) {
                uint64_t w = ld_acq(&half(t, gen)->next);
                if (!catch_up(ctx, t, next_gen(w), &gen, &ms)) cas(&half(t, gen)->next, w, 0);
                mine = NO_ENTRY;
                continue;
            }
            if (rc != SHMQ_OK) return rc;
            mine_gen = gen;
        }
        CRASH_POINT("dedup_entry");
        if (cas(a, wa, bucket_make(gen, 0, mine))) { CRASH_POINT("dedup_claimed"); return DEDUP_FIRST; }   /* CLAIM */
    }
    return SHMQ_BUSY;
}

/* Has the id of a message been claimed within the window? Claims nothing; a hint for who looks for room: only the claim tells. */
int dedup_known(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now) {
    local_dedup *t = &q->dedup;
    uint64_t ms = now / 1000000, gen = ms / t->window_ms + 1, first;
    hash128 key = hash_bytes(ctx->header->secret, m->dedup, m->dedup_size);
    for (int back = 0; back < 2; back++) {
        shmq_au64 *at = bucket(ctx, t, gen - (uint64_t)back, key);
        uint64_t w = at ? ld_acq(at) : 0;
        if (bucket_gen(w) != gen - (uint64_t)back || find(t, gen - (uint64_t)back, bucket_idx(w), key, 0, ms, &first) == NOTHING) continue;
        return next_gen(ld_acq(&half(t, gen)->next)) <= gen && next_gen(ld_acq(&half(t, gen - 1)->next)) < gen;   /* I3 (R2) */
    }
    return 0;
}

/* Is there room for the id of a message now, if it needs any? A hint; for those who cannot go back once they have begun. */
int dedup_room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now) {
    local_dedup *t = &q->dedup;
    uint64_t gen = now / 1000000 / t->window_ms + 1, w = ld_acq(&half(t, gen)->next);
    if (next_gen(w) != gen || (w & 0xffffff) < t->capacity || dedup_known(ctx, q, m, now)) return SHMQ_OK;
    return fail(ctx, SHMQ_E_NOMEM, WHAT_DEDUP, 0, w & 0xffffff, t->capacity, 0);
}

/* Where the trailer of a block lies, or NULL when its lengths cannot be. */
uint8_t *dedup_trailer(shmq_ctx *ctx, uint32_t idx) {
    shmq_block *b = block_at(ctx, idx);
    if ((ctl_flags(ld_rlx(&b->ctl)) & SHMQ_FLAG_CHILD) && !MUTANT(47)) {   /* without a payload of its own */
        uint32_t parent = ld32_rlx(&b->size);
        return topic_parent_of(ctx, parent, ld_rlx(&b->id)) ? topic_trailer(ctx, parent) : NULL;
    }
    if (ld_rlx(&b->fate) & FATE_KIDS) return topic_trailer(ctx, idx);
    class_place *k = &ctx->classes[class_of(ctx, idx)];
    uint64_t room = k->stride < SHMQ_PAGE ? k->stride : (ld32_rlx(&b->extra) & 255) * k->unit, at = ld32_rlx(&b->size);
    if (room > k->stride) room = k->stride;
    if (fate_meta(ld_rlx(&b->fate))) {
        uint32_t n;
        at = (at + 7) & ~UINT64_C(7);
        if (at + 4 > room) return NULL;
        memcpy(&n, payload_of(ctx, idx) + at, 4);
        at += 4 + (uint64_t)n;
    }
    at = (at + 7) & ~UINT64_C(7);
    return at + DEDUP_TRAILER <= room ? payload_of(ctx, idx) + at : NULL;
}

/* A message with an id that the caller owns in MOVE: claim it. DUPLICATE: it was freed. An error: nothing has changed. */
int dedup_settle(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t *first) {
    shmq_block *b = block_at(ctx, idx);
    uint8_t *at = dedup_trailer(ctx, idx);
    int rc = DEDUP_FIRST;
    if (at && q->dedup.base) {
        hash128 key;
        memcpy(&key, at, sizeof key);
        rc = dedup_claim(ctx, q, key, ld_rlx(&b->id), clock_now(ctx), first);
    }
    if (rc == DEDUP_FIRST && !MUTANT(48)) st_rlx(&b->fate, ld_rlx(&b->fate) & ~FATE_DEDUP);   /* decided; a redelivery must not ask again */
    if (rc == DEDUP_DUPLICATE) {
        bump(&q->counters->deduped, 1);
        settle_free(ctx, idx, ctl);
    }
    return rc;
}
