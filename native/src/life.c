/* life.c: the life of a queue: created, opened by name, closed, deleted, and its record used again.
 *
 *   word  gen:56 | state:8       FREE --create--> LIVE --close--> CLOSED --delete--> DELETING --> RETIRING --> FREE(gen)
 *                                  LIVE ------------------------delete----^
 *
 * I1  Records are made and collected under header.admin (admin.c). The word is stored last by create: a record whose creator died stays
 *     FREE, whatever else stands in it.
 * I2  Ring space belongs to a queue exactly while its record is not FREE: there is no allocator state that could leak.
 * I3  A record is re-used only after (a) every operation that may touch it, and began before DELETING was in everybody's sight, is over,
 *     so that nobody publishes or takes there, (b) no block in any live state calls it home, and (c) the same as (a) after RETIRING, so
 *     that no recovery looks into its rings either.
 *     So no process can act on a ring of one queue in the name of another, or touch a ring whose memory is gone.
 *
 *         collector                                          an operation
 *         sees the word (DELETING)                           e = header.era
 *         barrier                                            owner.era = e | which record
 *         E = ++header.era, record.ended = E                 owner.op odd
 *         looks at each owner's op and era                   looks at the word of each record before its rings
 *
 *     Which operations the record waits for (may_touch): op is odd, e < E, and the record is the one, or any. After the barrier no such
 *     operation is hidden in a store buffer; one with e >= E has read E, so it sees the word (ERA). A stopped process holds back the
 *     records that its operation may touch, and no others. A topic's publisher may touch its subscriptions that were made before e
 *     (record.born): its list is of that time, or it says that it may touch any (topic.c).
 * I4  A subscription that ends with its owner, or whose topic is gone, is deleted by whoever notices: recovery, and each collection.
 *
 * Who dies where: before the word: nothing was made. After DELETING: any later collection goes on.
 */
#define _GNU_SOURCE
#include "life.h"
#include "admin.h"
#include "arena.h"
#include "barrier.h"
#include "census.h"
#include "free.h"
#include "ids.h"
#include "queue.h"
#include "ring.h"
#include "waiter.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>

/* ---- memory for rings ---- */

/* For a segment whose pages cannot be punched: a fresh ring is a zero page, however it comes. What has no memory is reserved first. */
static void ring_wipe(shmq_ctx *ctx, shmq_ring_place p, uint64_t bytes) {
    for (uint64_t at = p.offset, end = p.offset + bytes; at < end; at += RING_CHUNK * 8) {
        uint64_t n = end - at < RING_CHUNK * 8 ? end - at : RING_CHUNK * 8;
        if (shmq_reserve(ctx, at, n) == SHMQ_OK) memset(ctx->base + at, 0, n);
    }
}

static void ring_punch(shmq_ctx *ctx, shmq_ring_place p, const shmq_queue_options *ids) {
    uint64_t bytes = queue_place_bytes(ctx, p, ids ? IDS_LG : 24);
    if (bytes == 0) return;
    int fd = segment_fd(ctx);
    int bad = fd >= 0 ? fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)p.offset, (off_t)bytes)
                      : madvise(ctx->base + p.offset, bytes, MADV_REMOVE);
    if (bad && ids) {
        if (ids_bytes(ids) && ids_bytes(ids) <= bytes) ids_forget(ctx->base + p.offset, ids);
    } else if (bad && p.ready) ring_wipe(ctx, p, bytes);
}

/* First fit between the rings of all records that are not FREE (I2). CORRUPT: of one of them nobody can tell what is its own. */
static int ring_space(shmq_ctx *ctx, uint64_t bytes, uint64_t also_at, uint64_t also_bytes, uint64_t *found) {
    uint64_t at = ctx->geometry.rings, end = at + ctx->geometry.rings_size;
    uint32_t n = queues_used(ctx);
    for (int moved = 1; moved;) {
        moved = 0;
        if (also_bytes && at < also_at + also_bytes && also_at < at + bytes) {
            at = also_at + also_bytes;
            moved = 1;
        }
        for (uint32_t i = 0; i < n; i++) {
            if (queue_state(ld_acq(&ctx->queues[i].word)) == SHMQ_Q_FREE) continue;
            for (unsigned n_th = 0; n_th < QUEUE_PLACES; n_th++) {
                shmq_ring_place *its = queue_place(&ctx->queues[i], n_th), p = *its;
                if (p.offset == 0) continue;
                uint64_t size = queue_place_bytes(ctx, p, IDS_LG);
                if (size == 0)
                    return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)its - ctx->base), p.offset, ctx->geometry.rings, 0);
                if (at >= p.offset + size || p.offset >= at + bytes) continue;
                at = p.offset + size;
                moved = 1;
            }
        }
    }
    *found = at;
    return at + bytes <= end ? SHMQ_OK : SHMQ_FULL;
}

/* Here nobody has the ctx lock. */
static int reserve(shmq_ctx *ctx, uint64_t offset, uint64_t length) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = arena_reserve(ctx, offset, length);
    ctx_unlock(ctx);
    return rc;
}

/* The word of a record that may have no memory yet: a FREE one then. */
static uint64_t queue_word_at(shmq_ctx *ctx, uint32_t index) {
    if (index >= ctx->geometry.queue_count
        || reserve(ctx, ctx->geometry.queues + (uint64_t)index * sizeof(shmq_queue), sizeof(shmq_queue)) != SHMQ_OK)
        return 0;
    return ld_acq(&ctx->queues[index].word);
}

static uint32_t lg_for(uint64_t n) {
    uint32_t lg = 1;
    while ((UINT64_C(1) << lg) < n) lg++;
    return lg;
}

/* ---- creating and opening ---- */

/* Is that the word of a queue that can be told by its name? */
static int dead_letter_sound(shmq_ctx *ctx, const shmq_queue_options *options) {
    uint32_t i = options->dead_letter;
    if (i == SHMQ_NO_QUEUE) return 1;
    uint64_t w = i < queues_used(ctx) ? ld_acq(&ctx->queues[i].word) : 0;
    return queue_gen(w) == queue_gen(options->dead_word) && (queue_state(w) == SHMQ_Q_LIVE || queue_state(w) == SHMQ_Q_CLOSED);
}

typedef struct {   /* a record to be made: where everything goes */
    uint32_t index, hwm;
    unsigned levels;
    uint64_t span, ids_bytes;
    shmq_ring_place work, again, keys, ids;
} plan;

static int sound(shmq_ctx *ctx, size_t length, const shmq_queue_options *options, uint32_t filter_size) {
    if (length == 0 || length > SHMQ_NAME_MAX) return fail(ctx, SHMQ_E_ARG, WHAT_QUEUE, 0, length, SHMQ_NAME_MAX, 0);
    if (filter_size > sizeof ctx->queues->filter)
        return fail(ctx, SHMQ_E_TOOBIG, WHAT_QUEUE, 0, filter_size, sizeof ctx->queues->filter, 0);
    if (options->max_depth < 1 || options->max_depth > SHMQ_BLOCKS)
        return fail(ctx, SHMQ_E_ARG, WHAT_QUEUE, 1, options->max_depth, SHMQ_BLOCKS, 0);
    if (options->priorities > SHMQ_LEVELS || options->order > SHMQ_STRICT)
        return fail(ctx, SHMQ_E_ARG, WHAT_QUEUE, 2, options->priorities > SHMQ_LEVELS ? options->priorities : options->order, SHMQ_LEVELS,
                    0);
    return SHMQ_OK;
}

/* A FREE record for that name. */
static int find_record(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, plan *p) {
    uint32_t most = (uint32_t)ctx->geometry.queue_count;
    p->hwm = queues_used(ctx);
    p->index = NOBODY;
    if (queue_find(ctx, name, &p->index) >= 0) return SHMQ_E_EXISTS;
    if (!dead_letter_sound(ctx, options)) return SHMQ_GONE;   /* deleted since its number was asked for */
    if (p->index == NOBODY || (p->hwm < 64 && p->hwm < most && queue_state(queue_word_at(ctx, p->hwm)) == SHMQ_Q_FREE))
        p->index = p->hwm;   /* a fresh record while they are cheap: old numbers live on in dead letters */
    while (p->index == p->hwm && p->index < most && queue_state(queue_word_at(ctx, p->index)) != SHMQ_Q_FREE)
        st32_rel(&ctx->header->queue_hwm, p->index = ++p->hwm);   /* the hint was too low: that record lives */
    return p->index < most ? SHMQ_OK : fail(ctx, SHMQ_E_QUEUES, WHAT_QUEUE, 0, p->hwm, most, 0);
}

/* One span: a ring for each level, of which only the first has memory yet; the redelivery ring; the lanes of keys. */
static int find_span(shmq_ctx *ctx, const shmq_queue_options *options, plan *p) {
    int subscription = options->kind == SHMQ_KIND_SUBSCRIPTION || options->kind == SHMQ_KIND_PATTERN, ordered = options->order != SHMQ_FIFO;
    /* nothing ever lies in a topic itself */
    uint64_t depth = subscription || options->kind == SHMQ_KIND_QUEUE ? options->max_depth : 1;
    /* more slots than max_depth: who has seen room, then committed a child, an id or a forward, finds it though others were quicker */
    uint64_t slots = depth + (subscription || options->dedup_window_ns ? SHMQ_OWNERS : depth < 64 ? depth : 64);
    uint64_t most = ctx->indices;   /* no more messages than blocks */
    uint32_t lg[2] = { lg_for(slots > most ? most : slots), lg_for(depth > AGAIN_MOST ? AGAIN_MOST : depth) };
    if (ordered) lg[0] = lg[0] < 8 ? 10 : lg[0] > 22 ? 24 : lg[0] + 2;   /* messages passed over keep their places */
    uint64_t bytes[2], at;
    for (int i = 0; i < 2; i++) bytes[i] = ((UINT64_C(8) << lg[i]) + SHMQ_PAGE - 1) / SHMQ_PAGE * SHMQ_PAGE;
    if (bytes[1] < 2 * SHMQ_PAGE) {   /* room for many consumers of a small queue */
        lg[1] = lg_for(1024);
        bytes[1] = 2 * SHMQ_PAGE;
    }
    p->levels = ordered || options->priorities < 1 ? 1 : options->priorities;
    p->keys = (shmq_ring_place){ .lg = !ordered ? 0 : options->order == SHMQ_STRICT ? 9 : 12, .ready = (uint32_t)ordered };
    p->span = p->levels * bytes[0] + bytes[1] + (ordered ? UINT64_C(8) << p->keys.lg : 0);
    int rc = ring_space(ctx, p->span, 0, 0, &at);
    if (rc == SHMQ_FULL) return fail(ctx, SHMQ_E_QUEUES, WHAT_QUEUE, 1, p->span, ctx->geometry.rings_size, 0);
    if (rc != SHMQ_OK) return rc;
    p->work = (shmq_ring_place){ at, lg[0], 1 };
    p->again = (shmq_ring_place){ at + p->levels * bytes[0], lg[1], 1 };
    if (ordered) p->keys.offset = p->again.offset + bytes[1];
    return SHMQ_OK;
}

/* Memory for the record, for the first messages and the first redeliveries (long rings get the rest as they go), for key lanes, and for
 * the first page of a table of ids. */
static int reserve_all(shmq_ctx *ctx, const shmq_queue_options *options, plan *p) {
    shmq_ring_place *ring[2] = { &p->work, &p->again };
    int rc = reserve(ctx, (uint64_t)((uint8_t *)&ctx->queues[p->index] - ctx->base), sizeof *ctx->queues);
    if (rc == SHMQ_OK) rc = reserve(ctx, (uint64_t)((uint8_t *)census_base(ctx, p->index) - ctx->base), sizeof(shmq_counters));
    for (int i = 0; i < 2 && rc == SHMQ_OK; i++) {
        if (ring[i]->lg > RING_LONG) ring_punch(ctx, *ring[i], NULL);
        rc = reserve(ctx, ring[i]->offset, queue_first_bytes(*ring[i]));
    }
    if (rc == SHMQ_OK && p->keys.ready) rc = reserve(ctx, p->keys.offset, UINT64_C(8) << p->keys.lg);
    p->ids_bytes = ids_bytes(options);
    if (rc != SHMQ_OK || p->ids_bytes == 0) return rc;
    p->ids = (shmq_ring_place){ .lg = lg_for(p->ids_bytes / 8), .ready = 1 };
    rc = ring_space(ctx, UINT64_C(8) << p->ids.lg, p->work.offset, p->span, &p->ids.offset);
    if (rc == SHMQ_FULL) return fail(ctx, SHMQ_E_NOMEM, WHAT_DEDUP, 0, p->ids_bytes, ctx->geometry.rings_size, 0);
    return rc == SHMQ_OK ? reserve(ctx, p->ids.offset, SHMQ_PAGE) : rc;
}

/* All but the word. */
static void write_record(shmq_ctx *ctx, const char *name, size_t length, const shmq_queue_options *options, const plan *p) {
    shmq_queue *rec = &ctx->queues[p->index];
    if (p->ids_bytes) memset(ctx->base + p->ids.offset, 0, SHMQ_PAGE);
    /* a creator that died here before us may have left its rounds */
    memset(ctx->base + p->work.offset, 0, queue_first_bytes(p->work));
    memset(ctx->base + p->again.offset, 0, queue_first_bytes(p->again));
    if (p->keys.ready) memset(ctx->base + p->keys.offset, 0, UINT64_C(8) << p->keys.lg);
    memset(rec->name, 0, sizeof rec->name);
    memcpy(rec->name, name, length);
    rec->options = *options;
    memset(rec->dead_name, 0, sizeof rec->dead_name);
    if (options->dead_letter != SHMQ_NO_QUEUE) memcpy(rec->dead_name, ctx->queues[options->dead_letter].name, sizeof rec->dead_name - 1);
    rec->created_ns = shmq_now();
    for (int lane = 0; lane < 11; lane++) {
        rec->place[lane] = (shmq_ring_place){ 0 };
        st_rlx(&rec->ends[lane].head, 0);
        st_rlx(&rec->ends[lane].tail, 0);
        st32_rlx(&rec->chunks[lane].n, 0);
    }
    uint64_t each = (p->again.offset - p->work.offset) / p->levels;
    for (unsigned n = 1; n < p->levels; n++) rec->place[n] = (shmq_ring_place){ p->work.offset + n * each, p->work.lg, 0 };
    st32_rel(&rec->lanes, p->keys.ready ? SHMQ_LANES_ORDERED : 0);
    if (p->work.lg > RING_LONG) st32_rlx(&rec->chunks[SHMQ_LANE_WORK].n, 1);
    if (p->again.lg > RING_LONG) st32_rlx(&rec->chunks[SHMQ_LANE_AGAIN].n, 1);
    st32_rlx(&rec->marks, 0);
    st32_rlx(&rec->parked, 0);
    st_rlx(&rec->turn, 0);
    st_rlx(&rec->tickets, 0);
    st32_rlx(&rec->disturbed, 0);
    memset((void *)rec->note, 0, sizeof rec->note);
    rec->keys = p->keys;
    rec->dedup = p->ids;
    rec->place[SHMQ_LANE_WORK] = p->work;
    rec->place[SHMQ_LANE_AGAIN] = p->again;
    st_rlx(&rec->bytes, 0);
    census_counters(ctx, p->index, census_base(ctx, p->index));
}

static void write_subscription(shmq_ctx *ctx, shmq_queue *rec, const void *filter, uint32_t filter_size, int ephemeral) {
    rec->ephemeral = ephemeral ? ctx->self_word : 0;
    rec->ephemeral_owner = ctx->self;
    rec->filter_size = filter_size;
    memset(rec->filter, 0, sizeof rec->filter);
    if (filter_size) memcpy(rec->filter, filter, filter_size);
}

/* The word, last (I1); then who has to know. Returns the reference. */
static int64_t go_live(shmq_ctx *ctx, const plan *p) {
    shmq_queue *rec = &ctx->queues[p->index];
    uint64_t gen = queue_gen(ld_acq(&rec->word)) & (QREF_GEN >> 1);
    st_rlx(&rec->ended, 0);
    st_rlx(&rec->born, add(&ctx->header->era, 1) + 1);   /* before the word: who has it in a list has this era, or a later one */
    CRASH_POINT("create");
    st_rel(&rec->word, queue_make(gen + 1, SHMQ_Q_LIVE));
    if (p->index == p->hwm) st32_rel(&ctx->header->queue_hwm, p->hwm + 1);
    add32(&ctx->header->topology, 1);   /* when the record is in everybody's sight */
    if (rec->options.ack_timeout_ns) {   /* the sidecar has leases to watch from now on */
        st32_rel(&ctx->header->leases, 1);
        add32(&ctx->header->timer_evt, 2);
        futex_wake(&ctx->header->timer_evt, 1);
    }
    return (int64_t)((gen + 1) << 16 | p->index);
}

static int64_t create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size,
                      int ephemeral) {
    size_t length = strnlen(name, SHMQ_NAME_MAX + 1);
    plan p = { 0 };
    int64_t rc = sound(ctx, length, options, filter_size);
    if (rc == SHMQ_OK) rc = admin_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = find_record(ctx, name, options, &p);
    if (rc == SHMQ_OK) rc = find_span(ctx, options, &p);
    if (rc == SHMQ_OK) rc = reserve_all(ctx, options, &p);
    if (rc == SHMQ_OK) {
        write_record(ctx, name, length, options, &p);
        write_subscription(ctx, &ctx->queues[p.index], filter, filter_size, ephemeral);
        rc = go_live(ctx, &p);
    }
    admin_leave(ctx);
    return rc;
}

int64_t queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size,
                     int ephemeral) {
    int64_t rc = create(ctx, name, options, filter, filter_size, ephemeral);
    if ((rc != SHMQ_E_QUEUES && rc != SHMQ_E_NOMEM) || shmq_queue_collect(ctx) < 0) return rc;
    /* of what was deleted some may be had by now, whoever collected it */
    return create(ctx, name, options, filter, filter_size, ephemeral);
}

int64_t shmq_queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options) {
    return queue_create(ctx, name, options, NULL, 0, 0);
}

int64_t shmq_queue_open(shmq_ctx *ctx, const char *name) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    local_queue *q;
    op_begin(ctx);
    int64_t found = queue_find(ctx, name, NULL);
    if (found >= 0) {
        rc = queue_open_local(ctx, qref_index((uint64_t)found), &q);
        if (rc != SHMQ_OK) found = rc;
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return found;
}

int64_t shmq_queue_adopt(shmq_ctx *ctx, uint32_t index) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    local_queue *q;
    rc = queue_open_local(ctx, index, &q);
    int64_t out = rc == SHMQ_OK ? (int64_t)qref_make(q->live, index) : rc;
    ctx_unlock(ctx);
    return out;
}

/* ---- closing and deleting ---- */

/* Safe without header.admin too: creators touch FREE records only, collectors those that are being deleted. */
int queue_turn(shmq_ctx *ctx, uint64_t qref, unsigned state) {
    uint32_t i = qref_index(qref);
    if (i >= queues_used(ctx)) return SHMQ_GONE;
    shmq_queue *rec = &ctx->queues[i];
    for (;;) {
        uint64_t w = ld_acq(&rec->word);
        if (queue_gen(w) != qref_gen(qref) || queue_state(w) == SHMQ_Q_FREE || queue_state(w) == SHMQ_Q_RETIRING) return SHMQ_GONE;
        if (queue_state(w) == SHMQ_Q_DELETING) return state == SHMQ_Q_DELETING ? SHMQ_OK : SHMQ_GONE;
        if (queue_state(w) == state || cas(&rec->word, w, queue_make(queue_gen(w), state))) break;
    }
    add32(&ctx->header->topology, 1);
    /* no barrier: stores are in sight in nanoseconds */
    if (state == SHMQ_Q_CLOSED && barrier_everywhere(ctx) != 0) nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
    /* whoever saw it LIVE has its message's header in sight now: census_drained can trust its scan */
    waiter_announce_all(rec);
    return SHMQ_OK;
}

/* Not under header.admin: its barrier may take milliseconds. */
static int turn(shmq_ctx *ctx, uint64_t qref, unsigned state) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ld32_rlx(&ctx->attached)) return SHMQ_E_DETACHED;
    return queue_turn(ctx, qref, state);
}

int shmq_queue_close(shmq_ctx *ctx, uint64_t qref) { return turn(ctx, qref, SHMQ_Q_CLOSED); }

int shmq_queue_delete(shmq_ctx *ctx, uint64_t qref) {
    int rc = turn(ctx, qref, SHMQ_Q_DELETING);
    if (rc == SHMQ_OK) shmq_queue_collect(ctx);
    return rc;
}

/* ---- subscriptions that end without anybody's asking (I4) ---- */

/* Has the process that it ends with ended? Its record is FREE, DEAD or somebody else's then. */
int life_widowed(shmq_ctx *ctx, const shmq_queue *rec) {
    return rec->ephemeral && ld_acq(&ctx->owners[rec->ephemeral_owner % (uint32_t)ctx->geometry.processes].word) != rec->ephemeral
           && !MUTANT(45);
}

static int topic_gone(shmq_ctx *ctx, uint64_t tref) {
    if (tref == 0) return 0;
    uint64_t w = qref_index(tref) < queues_used(ctx) ? ld_acq(&ctx->queues[qref_index(tref)].word) : 0;
    return queue_gen(w) != qref_gen(tref) || (queue_state(w) != SHMQ_Q_LIVE && queue_state(w) != SHMQ_Q_CLOSED);
}

/* End what belonged to a process or a topic that is no more. Waits for nobody; the records are collected later. */
int shmq_topic_sweep(shmq_ctx *ctx) {
    int ended = 0, rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);   /* once seen alive, a record stays what it is */
    uint32_t n = queues_used(ctx);
    for (uint32_t i = 0; i < n; i++) {
        shmq_queue *rec = &ctx->queues[i];
        uint64_t w = ld_acq(&rec->word);
        if ((queue_state(w) != SHMQ_Q_LIVE && queue_state(w) != SHMQ_Q_CLOSED) || rec->options.kind < SHMQ_KIND_SUBSCRIPTION) continue;
        if (!life_widowed(ctx, rec) && !topic_gone(ctx, rec->options.topic)) continue;
        ended += queue_turn(ctx, qref_make(w, i), SHMQ_Q_DELETING) == SHMQ_OK;   /* of exactly that life of the record */
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return ended;
}

/* A process that leaves takes its own with it. */
void life_end_mine(shmq_ctx *ctx) {
    uint32_t n = queues_used(ctx);
    op_begin(ctx);
    for (uint32_t i = 0; i < n; i++) {
        shmq_queue *rec = &ctx->queues[i];
        uint64_t w = ld_acq(&rec->word);
        if ((queue_state(w) == SHMQ_Q_LIVE || queue_state(w) == SHMQ_Q_CLOSED) && rec->ephemeral == ctx->self_word)
            queue_turn(ctx, qref_make(w, i), SHMQ_Q_DELETING);
    }
    op_end(ctx);
}

/* ---- the record becomes FREE (I3) ---- */

/* End a message that is ready or delayed. 0 = it is in somebody's hands. Called under the ctx lock. */
static int discard(shmq_ctx *ctx, uint32_t idx, uint64_t c) {
    shmq_block *b = block_at(ctx, idx);
    unsigned st = ctl_state(c), home = fate_home(ld_rlx(&b->fate));
    if (st != SHMQ_READY && st != SHMQ_DELAYED) return 0;
    uint64_t pos = ld_rlx(&b->pos), own = ctl_next(c, st == SHMQ_READY ? SHMQ_OWNED : SHMQ_MOVE, ctx->self);
    local_ring *r = st == SHMQ_READY ? queue_ring(ctx, pos_ring(pos)) : NULL;
    if (!cas(&b->ctl, c, own)) return 0;   /* as a taker does: own it, clear its slot, then the rest */
    if (r) ring_clear(r, pos_position(pos), idx);
    local_queue *q;
    if (st == SHMQ_READY && queue_open_local(ctx, home, &q) == SHMQ_OK) queue_bytes_out(q, size_at(ctx, b));
    free_whole(ctx, idx, own);
    return 1;
}

/* Drop all that is ready or delayed: shutdown(immediate). What consumers hold is theirs to settle. */
int shmq_queue_discard(shmq_ctx *ctx, uint64_t qref) {
    local_queue *q = NULL;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK && queue_status(q) == SHMQ_GONE) rc = SHMQ_GONE;
    for (block_walk walk = { 0 }; rc == SHMQ_OK && block_next(ctx, &walk);)
        if (fate_home(ld_rlx(&block_at(ctx, walk.idx)->fate)) == qref_index(qref))
            discard(ctx, walk.idx, ld_acq(&block_at(ctx, walk.idx)->ctl));
    op_end(ctx);
    ctx_unlock(ctx);
    if (rc == SHMQ_OK) waiter_announce_all(q->shared);
    return rc;
}

/* Records that were seen on their way out before a barrier: the barrier counts for them as long as they have that word. */
#define LOT 256
typedef struct {
    uint64_t word;
    uint32_t index;
} leaving;

static uint32_t on_their_way(shmq_ctx *ctx, uint32_t *from, leaving *out) {
    uint32_t queues = queues_used(ctx), n = 0;
    for (; *from < queues && n < LOT; ++*from) {
        uint64_t w = ld_acq(&ctx->queues[*from].word);
        if (queue_state(w) == SHMQ_Q_DELETING || queue_state(w) == SHMQ_Q_RETIRING) out[n++] = (leaving){ w, *from };
    }
    return n;
}

/* May that attachment be in an operation that looks into the record, and began before it was out of everybody's sight? */
static int may_touch(shmq_ctx *ctx, shmq_owner *o, uint32_t index) {
    shmq_queue *rec = &ctx->queues[index];
    uint64_t op = ld_acq(&o->op);
    if (owner_state(ld_acq(&o->word)) != SHMQ_OWNER_ALIVE || !(op & 1)) return 0;
    uint64_t era = ld_acq(&o->era);
    if (ld_acq(&o->op) != op || era >> 16 >= ld_rlx(&rec->ended)) return 0;   /* it has moved on; or it began afterwards (ERA) */
    return op_reaches(era, rec, index) || MUTANT(102);
}

static int somebody_may_touch(shmq_ctx *ctx, uint32_t index) {
    uint32_t owners = owners_used(ctx);
    for (uint32_t o = 0; o < owners && !MUTANT(101); o++)
        if (may_touch(ctx, &ctx->owners[o], index)) return 1;
    return 0;
}

/* The era from which on nobody begins who may touch these records: known for those that have one, else a new one. */
static uint64_t new_era(shmq_ctx *ctx, const leaving *l, uint32_t n) {
    int some = 0, fans = 0;
    for (uint32_t i = 0; i < n; i++) {
        shmq_queue *rec = &ctx->queues[l[i].index];
        if (ld_acq(&rec->word) != l[i].word || ld_rlx(&rec->ended)) continue;
        some = 1;
        fans |= queue_state(l[i].word) == SHMQ_Q_DELETING && rec->options.kind >= SHMQ_KIND_SUBSCRIPTION;
    }
    if (fans && !MUTANT(104)) add32(&ctx->header->topology, 1);   /* before the era. Whoever deleted it may have died before that */
    return some ? add(&ctx->header->era, 1) + 1 : 0;   /* ERA: who begins in it has seen these words */
}

/* Is it out of everybody's sight since `era`, or since one before? */
static int out_of_sight(shmq_ctx *ctx, const leaving *l, uint64_t era) {
    shmq_queue *rec = &ctx->queues[l->index];
    if (ld_acq(&rec->word) != l->word) return 0;   /* others have got on with it */
    if (ld_rlx(&rec->ended) == 0) st_rel(&rec->ended, era);
    return !somebody_may_touch(ctx, l->index);
}

/* I3 (b), for all that ctx->leaving marks, in one pass, which is final: nobody publishes there any more, and a message keeps its block.
 * What is ready or delayed ends; a home of others is marked 2. */
static void clear_out(shmq_ctx *ctx) {
    op_begin(ctx);
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        shmq_block *b = block_at(ctx, walk.idx);
        uint64_t c = ld_acq(&b->ctl);
        unsigned st = ctl_state(c), home = fate_home(ld_rlx(&b->fate));
        if (home >= SHMQ_QUEUES || !ctx->leaving[home]) continue;
        /* NEW as well: of the dead it may be published yet (forwards, shares), and must not get into the next queue of this number */
        int living = census_counts(st) || (st == SHMQ_NEW && !MUTANT(56));
        if (living && !discard(ctx, walk.idx, c)) ctx->leaving[home] = 2;
    }
    op_end(ctx);
}

/* DELETING --> RETIRING: 1 = it is. */
static int retire(shmq_ctx *ctx, leaving *l) {
    shmq_queue *rec = &ctx->queues[l->index];
    uint64_t next = queue_make(queue_gen(l->word), SHMQ_Q_RETIRING);
    if (!MUTANT(103)) st_rel(&rec->ended, 0); /* of DELETING; RETIRING has its own */
    CRASH_POINT("retire");
    if (!cas(&rec->word, l->word, next)) return 0;
    l->word = next;
    return 1;
}

/* RETIRING --> FREE: 1 = it is. */
static int set_free(shmq_ctx *ctx, const leaving *l) {
    shmq_queue *rec = &ctx->queues[l->index];
    for (unsigned n = 0; n < QUEUE_PLACES; n++) ring_punch(ctx, *queue_place(rec, n), n == QUEUE_PLACES - 1 ? &rec->options : NULL);
    CRASH_POINT("collect");
    return cas(&rec->word, l->word, queue_make(queue_gen(l->word), SHMQ_Q_FREE));
}

/* One step of each. How many have become FREE; *turned: RETIRING. */
static int step_all(shmq_ctx *ctx, leaving *l, uint32_t n, uint32_t *turned) {
    uint64_t era = new_era(ctx, l, n);
    int done = 0, some = 0;
    memset(ctx->leaving, 0, sizeof ctx->leaving);
    for (uint32_t i = 0; i < n; i++) {
        if (!out_of_sight(ctx, &l[i], era)) continue;
        if (queue_state(l[i].word) == SHMQ_Q_RETIRING) done += set_free(ctx, &l[i]);
        else some = ctx->leaving[l[i].index] = 1;
    }
    if (some) clear_out(ctx);
    for (uint32_t i = 0; some && i < n; i++)
        if (ctx->leaving[l[i].index] == 1) *turned += (uint32_t)retire(ctx, &l[i]);
    return done;
}

/* The same after a barrier, for which no lock is held. Then under both: other threads of this process are in no operation, and none
 * detaches it, so that the record of this process, and header.admin, stay its own. */
static int step_on(shmq_ctx *ctx, leaving *l, uint32_t n, uint32_t *turned) {
    if (barrier_everywhere(ctx) != 0) return 0; /* no barrier, no re-use: all stay as they are */
    int done = 0, rc = admin_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    if (MUTANT(109)) done = step_all(ctx, l, n, turned);
    else if ((rc = ctx_enter(ctx)) == SHMQ_OK) {
        if (ld_acq(&ctx->header->admin) == ctx->self_word) done = step_all(ctx, l, n, turned);
        ctx_unlock(ctx);
    }
    admin_leave(ctx);
    return rc == SHMQ_OK ? done : rc;
}

/* I3: finish deletions. Returns how many records became FREE; others are tried again by the next caller. */
int shmq_queue_collect(shmq_ctx *ctx) {
    leaving lot[LOT];
    int done = 0, rc = shmq_topic_sweep(ctx);
    if (rc < 0) return rc;
    for (uint32_t from = 0, n; (n = on_their_way(ctx, &from, lot)) > 0;) {
        uint32_t turned = 0;
        for (int step = 0; step < 2; step++) {
            if ((rc = step_on(ctx, lot, n, &turned)) < 0) return done ? done : rc;
            done += rc;
            if (turned == 0) break;
        }
    }
    return done;
}
