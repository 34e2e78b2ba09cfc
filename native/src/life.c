/* life.c: the life of a queue: created, opened by name, deleted.
 *
 *   word  gen:56 | state:8       FREE --create--> LIVE --close--> CLOSED --delete--> DELETING --> RETIRING --> FREE(gen)
 *                                  LIVE ------------------------delete----^          (close.c)     (collect.c)
 *
 * I1  Records are made and collected under header.admin (admin.c). The word is stored last by create: a record whose creator died stays
 *     FREE, whatever else stands in it.
 *
 * Who dies where: before the word: nothing was made. After DELETING: any later collection goes on.
 */
#include "life.h"
#include "admin.h"
#include "arena.h"
#include "census.h"
#include "close.h"
#include "ids.h"
#include "queue.h"
#include "ring.h"
#include "span.h"
#include "waiter.h"

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
    int rc = span_find(ctx, p->span, 0, 0, &at);
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
        if (ring[i]->lg > RING_LONG) span_punch(ctx, *ring[i], NULL);
        rc = reserve(ctx, ring[i]->offset, queue_first_bytes(*ring[i]));
    }
    if (rc == SHMQ_OK && p->keys.ready) rc = reserve(ctx, p->keys.offset, UINT64_C(8) << p->keys.lg);
    p->ids_bytes = ids_bytes(options);
    if (rc != SHMQ_OK || p->ids_bytes == 0) return rc;
    p->ids = (shmq_ring_place){ .lg = lg_for(p->ids_bytes / 8), .ready = 1 };
    rc = span_find(ctx, UINT64_C(8) << p->ids.lg, p->work.offset, p->span, &p->ids.offset);
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

int shmq_queue_delete(shmq_ctx *ctx, uint64_t qref) {
    int rc = close_turn(ctx, qref, SHMQ_Q_DELETING);
    if (rc == SHMQ_OK) shmq_queue_collect(ctx);
    return rc;
}
