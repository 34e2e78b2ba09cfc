/* dedup.c: of all publishes with one id within the window exactly one becomes a message.
 *
 *   page      next[2]: gen:40 | count:24     backed[2]: entries with memory     chunks: bit = those buckets have memory
 *   buckets   gen:40 | entry+1:24   and, beside it, the filter   gen:16 | of this one:24 | of the one before:24
 *   half 0, 1 entries of 32 bytes: key, id, time:39 (ms) | before:1 | next entry+1:24
 *
 *   generation g = time / window; its entries live in half g & 1, and ids in g - 1 and g are looked at: older ones are out of
 *   the window. A chain leads from the newest id of a bucket to the older ones; `before` = the next entry is of generation g - 1.
 *
 *   claim(key):  write an entry  ->  look at the filter, and if it knows the key, walk  ->  filter bit  ->  CAS on the head (CLAIM)
 *
 * A message with an id is committed by NEW -> MOVE(me); from there it is either published or found to be a duplicate, by its
 * publisher, or by whoever recovers it: fate's DEDUP bit says that this is still to be decided. So a claim never belongs to a
 * message that can vanish, and who meets it may answer "duplicate" at once, whether its publisher is dead, stopped or alive.
 *
 * I1  The head CAS is the claim. A head's value never comes back, so it fails when any claim of this bucket was made since the
 *     head was read: of those who found nothing exactly one succeeds, however long one of them was stopped.
 * I2  A linked entry is not changed while its generation is g or g-1. An entry is written by CASes from what stood there while
 *     its number was still good, the id first, everything mixed with the id (which occurs once): one who was stopped in the
 *     midst for two generations fails, instead of writing into what belongs to another one by now.
 * I3  What a walk says, match or none, is believed only when neither half has been given to a later generation meanwhile (R2).
 * I4  Nothing is ever cleared: a bucket of the generation before the last is empty. Times decide within the two generations.
 * I5  Buckets and entries are touched only after memory was reserved for them, and that was noted.
 * I6  The filter may know too much, never too little: a key's bit is set before the head that leads to it (partner: the filter
 *     is read after the head), and is given up two generations later. A filter of one who is ahead of us is taken for an empty
 *     one; but he took a number before he wrote it, so that R2, which looks at numbers after the filter was read, sends us back.
 *
 * Numbers of entries are given out in lots. Who dies where: before the head CAS: the lot is lost until its generation is over,
 * and a filter bit more is set. After it: the block is MOVE(dead) with the DEDUP bit; the recoverer finds its own id and
 * publishes it. If that comes so late that the claim is forgotten, the claim is made anew, and fails if another message has the
 * id by then.
 */
#include "dedup.h"
#include "clock.h"
#include "settle.h"
#include "topic.h"

#define NO_ENTRY UINT32_C(0xffffffff)
#define MOVED (-100)         /* the half belongs to a later generation by now: look again from there */
#define ENTRIES_STEP 2048u
#define LOT_MOST 16u         /* four pairs of cache lines */

typedef struct { shmq_au64 word[4]; } entry;   /* key.lo, key.hi, id, time and next; all but the id mixed with it (I2) */
typedef struct { shmq_au64 head, filter; } bucket;
typedef struct { shmq_au64 next, backed, chunks; uint8_t pad[104]; } head;   /* chunks: the first one's */

static inline uint64_t head_make(uint64_t gen, uint32_t idx) { return gen << 24 | (idx + 1); }
static inline uint64_t head_gen(uint64_t w) { return w >> 24; }
static inline uint32_t head_idx(uint64_t w) { return (uint32_t)(w & 0xffffff) - 1; }
static inline uint64_t next_gen(uint64_t w) { return w >> 24; }
static inline uint64_t mix(uint64_t id, unsigned n) {
    static const uint64_t ODD[4] = { UINT64_C(0x9e3779b97f4a7c15), UINT64_C(0xc2b2ae3d27d4eb4f), 0, UINT64_C(0xd6e8feb86659fd93) };
    return id * ODD[n];
}

/* ---- the filter (I6): its gen is short, so one of long ago may pass for a new one, and knows too much ---- */
#define FILTER_BITS 24
static inline uint64_t filter_bit(hash128 key) { return UINT64_C(1) << ((key.hi & 0xffffffff) * FILTER_BITS >> 32); }
static inline uint64_t filter_as_of(uint64_t f, uint64_t gen) {
    uint64_t age = (gen - (f >> 48)) & 0xffff, newest = f >> FILTER_BITS & ((UINT64_C(1) << FILTER_BITS) - 1);
    return age == 0 ? f : gen << 48 | (age == 1 && !MUTANT(58) ? newest : 0);
}
static inline int filter_knows(uint64_t f, uint64_t gen, hash128 key) {
    f = filter_as_of(f, gen);
    return ((f | f >> FILTER_BITS) & filter_bit(key)) != 0;
}
static inline uint64_t filter_with(uint64_t f, uint64_t gen, hash128 key) {
    return filter_as_of(f, gen) | filter_bit(key) << FILTER_BITS;
}

static uint64_t window_of(const shmq_queue_options *o) { return o->dedup_window_ns / 1000000 + (o->dedup_window_ns % 1000000 != 0); }

static void measure(local_dedup *t, const shmq_queue_options *o) {
    uint64_t buckets = 256;
    t->capacity = o->dedup_capacity ? o->dedup_capacity : DEDUP_DEFAULT;
    if (t->capacity > DEDUP_MOST) t->capacity = DEDUP_MOST;
    while (buckets < t->capacity / 2) buckets *= 2;   /* chains of two in a full table; the filter spares most ids their walk */
    t->window_ms = window_of(o);
    t->mask = buckets - 1;
    t->chunk = buckets / 64 > 256 ? (uint32_t)(buckets / 64) : 256;
    t->bucket_bytes = buckets * sizeof(bucket);
    t->half_bytes = ((uint64_t)t->capacity * sizeof(entry) + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE;
    t->lot = t->capacity / 256 + 1 < LOT_MOST ? t->capacity / 256 + 1 : LOT_MOST;   /* one that dies costs less than 1 in 256 ids */
}

/* How much room the table of a queue needs; most of it gets memory only when it is used. 0 = none. */
uint64_t dedup_bytes(const shmq_queue_options *o) {
    local_dedup t;
    if (!o->dedup_window_ns || o->kind == SHMQ_KIND_TOPIC || o->kind == SHMQ_KIND_MEMBER) return 0;   /* a topic's is its subscriptions' default */
    measure(&t, o);
    return SHMQ_PAGE + t.bucket_bytes + 2 * t.half_bytes;
}

void dedup_open(local_queue *q, uint8_t *base) {
    measure(&q->dedup, &q->options);
    q->dedup.base = base;
}

static head *half(local_dedup *t, uint64_t gen) { return (head *)t->base + (gen & 1); }
static bucket *buckets(local_dedup *t) { return (bucket *)(t->base + SHMQ_PAGE); }
static entry *entry_at(local_dedup *t, uint64_t gen, uint32_t n) {
    return (entry *)(t->base + SHMQ_PAGE + t->bucket_bytes + (gen & 1) * t->half_bytes) + n;
}

/* For a segment whose pages cannot be punched: nothing of the old queue may be taken for the next one's. */
void dedup_forget(uint8_t *base, const shmq_queue_options *o) {
    local_dedup t = { .base = base };
    measure(&t, o);
    for (uint64_t c = 0; c < 64; c++)
        if (ld_acq(&half(&t, 0)->chunks) >> c & 1) memset(buckets(&t) + c * t.chunk, 0, t.chunk * sizeof(bucket));
    memset(base, 0, SHMQ_PAGE);
}

/* I5 */
static bucket *bucket_of(shmq_ctx *ctx, local_dedup *t, hash128 key) {
    head *h = half(t, 0);
    uint64_t n = key.lo & t->mask, c = n / t->chunk, bytes = t->chunk * sizeof(bucket);
    if (RARE(!(ld_acq(&h->chunks) >> c & 1))) {
        if (segment_reserve_mapped(ctx, (uint64_t)((uint8_t *)buckets(t) - ctx->base) + c * bytes, bytes) != SHMQ_OK) return NULL;
        or64(&h->chunks, UINT64_C(1) << c);
    }
    return buckets(t) + n;
}

static int back(shmq_ctx *ctx, local_dedup *t, uint64_t gen, uint64_t backed) {
    uint64_t n = backed + (backed / 4 > ENTRIES_STEP ? backed / 4 / ENTRIES_STEP * ENTRIES_STEP : ENTRIES_STEP);
    if (n > t->capacity) n = t->capacity;
    int rc = segment_reserve_mapped(ctx, (uint64_t)((uint8_t *)entry_at(t, gen, (uint32_t)backed) - ctx->base), (n - backed) * sizeof(entry));
    if (rc == SHMQ_OK) cas(&half(t, gen)->backed, backed, n);   /* else another one did, as far or farther */
    return rc;
}

/* Numbers of our own in generation gen. OK, BUSY, MOVED, or why there are none. */
static int take_lot(shmq_ctx *ctx, local_dedup *t, uint64_t gen) {
    head *h = half(t, gen);
    uint64_t w = ld_acq(&h->next), n = next_gen(w) == gen ? w & 0xffffff : 0, backed = ld_acq(&h->backed), end = n + t->lot;
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
    t->lot_gen = gen;
    t->lot_next = (uint32_t)n;
    t->lot_end = (uint32_t)end;
    return SHMQ_OK;
}

/* An entry of our own in generation gen, written but for its last word, in which *last stands. OK, MOVED, or why there is none. */
static int make_entry(shmq_ctx *ctx, local_dedup *t, uint64_t gen, hash128 key, uint64_t id, uint64_t *last, uint32_t *out) {
    head *h = half(t, gen);
    for (unsigned tries = 0; tries < 1000; tries++) {
        if (t->lot_gen != gen || t->lot_next == t->lot_end) {
            int rc = take_lot(ctx, t, gen);
            if (rc == SHMQ_BUSY) continue;
            if (rc != SHMQ_OK) return rc;
        }
        entry *e = entry_at(t, gen, t->lot_next);
        uint64_t old[4], now;
        for (int i = 0; i < 4; i++) old[i] = ld_acq(&e->word[i]);
        now = next_gen(ld_acq(&h->next));
        if (now > gen) return MOVED;   /* I2: what was read may be a later one's */
        if (now < gen) { t->lot_gen = 0; continue; }   /* no time does that: somebody has damaged it */
        if (!cas(&e->word[2], old[2], id) || !cas(&e->word[0], old[0], key.lo ^ mix(id, 0)) || !cas(&e->word[1], old[1], key.hi ^ mix(id, 1))) {
            t->lot_next++;   /* one who slept for two generations has spoilt it */
            continue;
        }
        *last = old[3];
        *out = t->lot_next;
        return SHMQ_OK;
    }
    return SHMQ_BUSY;
}

enum { NOTHING, OURS, THEIRS };

/* Walk the chain that this head begins. Ours: the claim of this very message, however old. */
static int find(local_dedup *t, uint64_t gen, uint64_t w, hash128 key, uint64_t id, uint64_t ms, uint64_t *first) {
    uint64_t g = head_gen(w);
    uint32_t idx = head_idx(w);
    if (g + 1 < gen) return NOTHING;   /* I4 */
    for (uint64_t n = 0; idx < t->capacity && idx < ld_acq(&half(t, g)->backed) && n <= 2 * (uint64_t)t->capacity; n++) {
        entry *e = entry_at(t, g, idx);
        uint64_t eid = ld_acq(&e->word[2]), last = ld_acq(&e->word[3]) ^ mix(eid, 3);
        if ((ld_acq(&e->word[0]) ^ mix(eid, 0)) == key.lo && (ld_acq(&e->word[1]) ^ mix(eid, 1)) == key.hi) {
            *first = eid;
            if (eid == id && !MUTANT(23)) return OURS;
            if ((last >> 25) + t->window_ms >= ms) return THEIRS;
        }
        if (last >> 24 & 1 && g-- != gen) break;
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

/* The bucket of a key that is to be claimed soon, which lies anywhere in a large table. A hint, of memory that may not be there (I5). */
void dedup_prefetch(local_queue *q, hash128 key) {
    local_dedup *t = &q->dedup;
    __builtin_prefetch(buckets(t) + (key.lo & t->mask), 1);
    __builtin_prefetch(entry_at(t, t->lot_gen, t->lot_next), 1);
}

/* FIRST: the id is this message's. DUPLICATE: *first has it. */
int dedup_claim(shmq_ctx *ctx, local_queue *q, hash128 key, uint64_t id, uint64_t now, uint64_t *first) {
    local_dedup *t = &q->dedup;
    uint64_t ms = now / 1000000, gen = ms / t->window_ms + 1, mine_gen = 0, stands = 0;
    uint32_t mine = NO_ENTRY;
    int none = SHMQ_OK;
    for (unsigned tries = 0; tries < 100000; tries++) {
        if (mine == NO_ENTRY || mine_gen != gen) {   /* before the bucket is looked at: it is on its way to the cache meanwhile */
            none = make_entry(ctx, t, gen, key, id, &stands, &mine);
            if (none == MOVED) { overtaken(ctx, t, &gen, &ms); mine = NO_ENTRY; continue; }
            mine_gen = gen;
        }
        bucket *at = bucket_of(ctx, t, key);
        if (at == NULL) return SHMQ_E_NOMEM;
        uint64_t w = ld_acq(&at->head), f = ld_acq(&at->filter);   /* I6: in this order */
        if (head_gen(w) > gen) {
            if (!catch_up(ctx, t, head_gen(w), &gen, &ms)) cas(&at->head, w, 0);
            continue;
        }
        int found = filter_knows(f, gen, key) ? find(t, gen, w, key, id, ms, first) : NOTHING;
        if (!MUTANT(21) && overtaken(ctx, t, &gen, &ms)) continue;   /* I3 (R2) */
        if (found != NOTHING) return found == OURS ? DEDUP_FIRST : DEDUP_DUPLICATE;
        if (none != SHMQ_OK) return none;   /* a full table knows its ids, and takes no new one */
        uint64_t before = head_gen(w) + 1 == gen, chain = head_gen(w) + 1 >= gen ? w & 0xffffff : 0;
        uint64_t last = (ms << 25 | before << 24 | chain) ^ mix(id, 3);
        if (!cas(&entry_at(t, gen, mine)->word[3], stands, last)) { t->lot_next++; mine = NO_ENTRY; continue; }
        stands = last;
        CRASH_POINT("dedup_entry");
        uint64_t known = MUTANT(20) ? f : filter_with(f, gen, key);
        if (known != f && !cas(&at->filter, f, known)) continue;
        CRASH_POINT("dedup_known");
        if (cas(&at->head, w, head_make(gen, mine))) {   /* CLAIM */
            CRASH_POINT("dedup_claimed");
            t->lot_next++;
            return DEDUP_FIRST;
        }
    }
    return SHMQ_BUSY;
}

/* Has the id of a message been claimed within the window? Claims nothing; a hint for who looks for room: only the claim tells. */
int dedup_known(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now) {
    local_dedup *t = &q->dedup;
    uint64_t ms = now / 1000000, gen = ms / t->window_ms + 1, first;
    hash128 key = hash_bytes(ctx->header->secret, m->dedup, m->dedup_size);
    bucket *at = bucket_of(ctx, t, key);
    uint64_t w = at ? ld_acq(&at->head) : 0;
    if (!at || head_gen(w) > gen || !filter_knows(ld_acq(&at->filter), gen, key) || find(t, gen, w, key, 0, ms, &first) == NOTHING) return 0;
    return next_gen(ld_acq(&half(t, gen)->next)) <= gen && next_gen(ld_acq(&half(t, gen - 1)->next)) < gen;   /* I3 (R2) */
}

/* Is there room for the id of a message now, if it needs any? A hint; for those who cannot go back once they have begun. */
int dedup_room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, uint64_t now) {
    local_dedup *t = &q->dedup;
    uint64_t gen = now / 1000000 / t->window_ms + 1, w = ld_acq(&half(t, gen)->next);
    if (next_gen(w) != gen || (w & 0xffffff) < t->capacity || (t->lot_gen == gen && t->lot_next < t->lot_end)) return SHMQ_OK;
    if (dedup_known(ctx, q, m, now)) return SHMQ_OK;
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
int dedup_decide(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, hash128 key, uint64_t now, uint64_t *first) {
    shmq_block *b = block_at(ctx, idx);
    int rc = dedup_claim(ctx, q, key, ld_rlx(&b->id), now, first);
    if (rc == DEDUP_FIRST && !MUTANT(48)) st_rlx(&b->fate, ld_rlx(&b->fate) & ~FATE_DEDUP);   /* decided; a redelivery must not ask again */
    if (rc == DEDUP_DUPLICATE) {
        bump(&q->counters->deduped, 1);
        settle_free(ctx, idx, ctl);
    }
    return rc;
}

/* The same for one whose key is to be read from behind its payload. Without one there, or in a queue without a table: decided. */
int dedup_settle(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t *first) {
    shmq_block *b = block_at(ctx, idx);
    uint8_t *at = dedup_trailer(ctx, idx);
    hash128 key;
    if (!at || !q->dedup.base) {
        st_rlx(&b->fate, ld_rlx(&b->fate) & ~FATE_DEDUP);
        return DEDUP_FIRST;
    }
    memcpy(&key, at, sizeof key);
    return dedup_decide(ctx, q, idx, ctl, key, clock_now(ctx), first);
}
