/* publish.c: from bytes to a message that others see.
 *
 *   FREE --claim--> NEW(me): header, payload, headers written --slot CAS--> visible --CAS--> READY
 *
 * I1  Nothing of a message is visible before its slot CAS, and all of it after (PUBLISH): the process may be killed at any
 *     instruction, the message is there whole or not at all.
 * I2  fate (with the home queue) is written before the queue's word is read: after close + barrier, a scan of all blocks sees
 *     every message that will still arrive.
 * I3  A message with an id goes another way: NEW --CAS--> MOVE(me), which commits it; then the id is claimed, and it is routed
 *     or, as a duplicate, freed (dedup.c). Room is looked for before the commit.
 * Who dies where: in NEW before the slot CAS: recovery frees the block. After it: recovery makes it READY. A killed
 * publish_many has published a prefix.
 */
#include "publish.h"
#include "arena.h"
#include "clock.h"
#include "dedup.h"
#include "fan.h"
#include "free.h"
#include "hash.h"
#include "hints.h"
#include "ids.h"
#include "level.h"
#include "order.h"
#include "queue.h"
#include "ring.h"
#include "room.h"
#include "route.h"
#include "waiter.h"

#define ID_LOT 4096

HOT uint64_t publish_id(shmq_ctx *ctx) {
    if (ctx->next_id == ctx->end_id) {
        ctx->next_id = add(&ctx->header->next_id, ID_LOT);
        ctx->end_id = ctx->next_id + ID_LOT;
    }
    return ctx->next_id++;
}

/* Returns when the message expires, 0 = never. */
HOT uint64_t publish_header(shmq_ctx *ctx, shmq_block *b, uint32_t index, shmq_message *m, local_queue *q, uint64_t now) {
    uint64_t ttl = m->ttl_ns == SHMQ_DELAY_DEFAULT ? q->options.ttl_ns : m->ttl_ns;
    uint64_t expires = ttl && ttl < UINT64_MAX - now ? now + ttl : 0;
    m->id = publish_id(ctx);
    st_rlx(&b->pos, pos_make(0xffff, 0));   /* in no ring in this life: recovery must not believe a former life's pos */
    st_rlx(&b->id, m->id);
    st_rlx(&b->published_ns, now);
    st_rlx(&b->expires_ns, expires);
    st32_rlx(&b->size, (uint32_t)m->size);
    st_rlx(&b->due_ns, m->delay_ns ? later(now, m->delay_ns) : 0);
    st32_rlx(&b->extra, ld32_rlx(&b->extra) & 255);
    unsigned origin = RARE(q->lanes & SHMQ_LANES_ORDERED) ? order_lane(ctx, q, m, m->id) : index;
    st_rlx(&b->fate, fate_make(index, origin, 0, 0, 0, 0, m->priority > 15 ? 15 : m->priority, m->meta_size != 0));   /* I2 */
    return expires;
}

HOT void publish_meta(uint8_t *payload, const shmq_message *m) {
    if (m->meta_size == 0) return;
    uint8_t *at = payload + align8((uint32_t)m->size);
    memcpy(at, &m->meta_size, 4);
    memcpy(at + 4, m->meta, m->meta_size);
}

uint64_t publish_footprint(uint64_t size, uint32_t meta_size) { return meta_size ? ((size + 7) & ~UINT64_C(7)) + 4 + meta_size : size; }

/* The key of the id that a message is to be published with, where it counts; NULL: none. */
const hash128 *publish_key(shmq_ctx *ctx, local_queue *q, const shmq_message *m, hash128 *key) {
    if (!m->dedup || !ids_asked(q, m)) return NULL;
    key->lo = ids_spot(ctx, m);
    ids_prefetch(q, key->lo);
    key->hi = hash_sip(ctx->secret, m->dedup, m->dedup_size);
    return key;
}

/* A hint for who has the id of a message before the rest of it: the bucket of the id is far away in a large table, and comes
 * while the rest is made. Without the lock and without a look at the segment: a stale base is a prefetch in vain. */
void shmq_publish_soon(shmq_ctx *ctx, uint64_t qref, shmq_message *m) {
    local_queue *q = &ctx->local[qref_index(qref) % SHMQ_QUEUES];
    if (!ids_asked(q, m)) return;
    m->spot = ids_spot(ctx, m);
    m->spotted = ids_tag(ctx);
    ids_prefetch(q, m->spot);
}

/* What lies behind payload and headers: the key of the id, if there is one, and the delivery that this message replaces. */
void publish_trailer(shmq_ctx *ctx, uint32_t idx, const shmq_message *m, const hash128 *key, uint64_t tie, uint64_t flags) {
    uint8_t *at = payload_of(ctx, idx) + ((publish_footprint(m->size, m->meta_size) + 7) & ~UINT64_C(7));
    if (key) memcpy(at, key, sizeof *key);
    memcpy(at + sizeof *key, &tie, sizeof tie);
    st_rlx(&block_at(ctx, idx)->fate, ld_rlx(&block_at(ctx, idx)->fate) | flags | (key ? FATE_DEDUP : 0));
}

/* Put a complete NEW block on its way, unless `most` are there already. On FULL the caller still owns it. */
HOT int publish_launch(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, uint64_t size, unsigned priority, uint64_t most) {
    shmq_block *b = block_at(ctx, idx);
    if (ld_rlx(&b->due_ns)) {   /* delayed: visible to the sidecar only */
        if (!cas(&b->ctl, ctl, ctl_to(ctl, SHMQ_DELAYED, 0))) return SHMQ_E_CORRUPT;   /* COMMIT delay */
        hints_delayed(ctx, idx);
        return SHMQ_OK;
    }
    local_ring *r = &q->work;
    int rc;
    if (RARE(priority) && (rc = level_open(ctx, q, priority, &r)) != SHMQ_OK) return rc;
    queue_bytes_in(q, size);
    rc = ring_enqueue(ctx, r, idx, ctl, most);
    if (rc != SHMQ_OK) queue_bytes_out(q, size);
    return rc;
}

/* OK when there is room for one more, be it by dropping the oldest; else FULL. */
static inline int room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, int counted) {
    for (int tries = 0; room_full(ctx, q, m->size, m->priority, counted); tries++)
        if (tries == 64 || route_make_room(ctx, q) != SHMQ_OK) {
            bump(&q->counters->full, 1);
            return SHMQ_FULL;
        }
    return SHMQ_OK;
}
/* What is delayed comes later, and a duplicate not at all: neither waits for room, nor costs others theirs. */
static inline int needs_room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, const hash128 *once, uint64_t now) {
    return !m->delay_ns && !(once && room_full(ctx, q, m->size, m->priority, 0) && ids_known(ctx, q, m, now));
}
int publish_room(shmq_ctx *ctx, local_queue *q, const shmq_message *m, const hash128 *once, uint64_t now) {
    return needs_room(ctx, q, m, once, now) ? room(ctx, q, m, 0) : SHMQ_OK;
}

/* A complete NEW block without an id, visible from its slot CAS on (I1). An error: the caller owns it still. */
HOT static inline int launch(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl, const shmq_message *m, uint64_t expires) {
    int rc;
    for (int tries = 0; (rc = publish_launch(ctx, q, idx, ctl, m->size, m->priority, q->most)) == SHMQ_FULL; tries++)
        if (tries == 64 || route_make_room(ctx, q) != SHMQ_OK) break;
    if (rc != SHMQ_OK) return rc;
    if (expires) hints_expiry(ctx, expires);
    bump(&q->counters->published, 1);
    bump(&q->counters->published_bytes, m->size);
    return SHMQ_OK;
}

/* A complete NEW block with an id (I3). An error: the caller owns it still, under *ctl. Of a duplicate m->id is the first one's. */
static int launch_once(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t *ctl, shmq_message *m, const hash128 *key, uint64_t now) {
    uint64_t move = ctl_next(*ctl, SHMQ_MOVE, ctx->self), first = 0;
    if (!cas(&block_at(ctx, idx)->ctl, *ctl, move)) return SHMQ_E_CORRUPT;   /* COMMIT id */
    *ctl = move;
    CRASH_POINT("committed");
    int rc = dedup_decide(ctx, q, idx, move, key, now, &first);
    if (rc < 0) return rc;
    if (rc == ID_DUPLICATE) {
        m->id = first;
        return SHMQ_OK;
    }
    bump(&q->counters->published, 1);
    bump(&q->counters->published_bytes, m->size);
    /* as route_on does it, but for what it asks anew: this message is ours, decided, and of now */
    local_ring *r;
    if (m->delay_ns || level_open(ctx, q, m->priority, &r) != SHMQ_OK) return route_on(ctx, idx, move);
    uint64_t expires = ld_rlx(&block_at(ctx, idx)->expires_ns);
    queue_bytes_in(q, m->size);
    if (ring_enqueue(ctx, r, idx, move, r->mask + 1) != SHMQ_OK) {
        queue_bytes_out(q, m->size);
        return route_on(ctx, idx, move);
    }
    hints_expiry(ctx, expires);
    return SHMQ_OK;
}

/* One message, and the key of its id if it has one; the caller holds the lock and is inside op. */
HOT static int publish_one(shmq_ctx *ctx, local_queue *q, uint64_t qref, shmq_message *m, const hash128 *once, uint64_t now) {
    uint32_t idx;
    uint64_t ctl;
    int rc = queue_status(q);
    if (rc != SHMQ_OK) return rc;
    if (m->size > ctx->geometry.max_message) return fail(ctx, SHMQ_E_TOOBIG, WHAT_NONE, 0, m->size, ctx->geometry.max_message, 0);
    rc = needs_room(ctx, q, m, once, now) ? room(ctx, q, m, once == NULL) : SHMQ_OK;
    if (rc != SHMQ_OK) return rc;
    rc = arena_alloc(ctx, publish_footprint(m->size, m->meta_size) + (once ? FAN_TRAILER + 7 : 0), &idx, &ctl);
    if (rc != SHMQ_OK) return rc;
    uint8_t *payload = payload_of(ctx, idx);
    uint64_t expires = publish_header(ctx, block_at(ctx, idx), qref_index(qref), m, q, now);
    if (m->size) memcpy(payload, m->data, m->size);
    publish_meta(payload, m);
    if (once) publish_trailer(ctx, idx, m, once, 0, 0);
    CRASH_POINT("written");
    op_fence(ctx);
    rc = queue_status(q);   /* I2: after fate */
    if (rc == SHMQ_OK) rc = once ? launch_once(ctx, q, idx, &ctl, m, once, now) : launch(ctx, q, idx, ctl, m, expires);
    if (rc != SHMQ_OK) free_block(ctx, idx, ctl);
    else arena_prefetch_next(ctx, class_of(ctx, idx));
    return rc;
}

HOT int shmq_publish(shmq_ctx *ctx, uint64_t qref, shmq_message *m) {
    local_queue *q;
    shmq_au32 *evt = NULL;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin_at(ctx, qref_index(qref));
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK) {
        hash128 key;
        const hash128 *once = publish_key(ctx, q, m, &key);   /* first of all: its bucket takes a while to come */
        rc = publish_one(ctx, q, qref, m, once, clock_now(ctx));
        if (rc == SHMQ_OK && waiter_present(&q->shared->evt)) {
            evt = &q->shared->evt;
            bump(&q->counters->wakes, 1);
        }
    }
    op_end(ctx);
    ctx_unlock(ctx);
    if (evt) waiter_wake(evt);
    return rc;
}

HOT int shmq_publish_many(shmq_ctx *ctx, uint64_t qref, shmq_message *m, uint32_t n) {
    local_queue *q;
    shmq_au32 *evt = NULL;
    uint32_t done = 0;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin_at(ctx, qref_index(qref));
    rc = queue_local(ctx, qref, &q);
    uint64_t now = clock_now(ctx);
    hash128 key[2];
    const hash128 *once = rc == SHMQ_OK && n ? publish_key(ctx, q, &m[0], &key[0]) : NULL;
    while (rc == SHMQ_OK && done < n) {
        const hash128 *next = done + 1 < n ? publish_key(ctx, q, &m[done + 1], &key[(done + 1) & 1]) : NULL;
        rc = publish_one(ctx, q, qref, &m[done], once, now);
        once = next;
        done += rc == SHMQ_OK;
    }
    if (done && waiter_present(&q->shared->evt)) {
        evt = &q->shared->evt;
        bump(&q->counters->wakes, 1);
    }
    op_end(ctx);
    ctx_unlock(ctx);
    if (evt) waiter_wake(evt);   /* one; a taker that sees more wakes the next */
    return done ? (int)done : rc;
}

/* Room for a message of `size` bytes, to be written in place: out->data. Not visible before shmq_loan_publish. */
int shmq_loan(shmq_ctx *ctx, uint64_t qref, uint64_t size, uint32_t meta_size, shmq_delivery *out) {
    local_queue *q;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK) rc = queue_status(q);
    if (rc == SHMQ_OK && size > ctx->geometry.max_message) rc = fail(ctx, SHMQ_E_TOOBIG, WHAT_NONE, 0, size, ctx->geometry.max_message, 0);
    memset(out, 0, sizeof *out);
    if (rc == SHMQ_OK)
        rc = arena_alloc(ctx, publish_footprint(size, meta_size) + (q->dedup.base ? FAN_TRAILER + 7 : 0), &out->idx, &out->ctl);
    if (rc == SHMQ_OK) {
        st_rlx(&block_at(ctx, out->idx)->fate, fate_make(SHMQ_NO_QUEUE, 0, 0, 0, 0, 0, 0, 0));
        out->data = payload_of(ctx, out->idx);
        out->size = (uint32_t)size;
        out->meta_size = meta_size;
        out->queue = qref_index(qref);
        ctx->bare++;
    }
    ctx_unlock(ctx);
    return rc;
}

static int loan_ours(shmq_ctx *ctx, shmq_delivery *loan) {
    return block_known(ctx, loan->idx) && ctl_state(loan->ctl) == SHMQ_NEW && ctl_owner(loan->ctl) == ctx->self
           && ld_acq(&block_at(ctx, loan->idx)->ctl) == loan->ctl;
}

/* Publish a loan; message->data is ignored. On FULL, CLOSED or GONE the loan stays with the caller. */
int shmq_loan_publish(shmq_ctx *ctx, uint64_t qref, shmq_delivery *loan, shmq_message *m) {
    local_queue *q;
    shmq_au32 *evt = NULL;
    uint64_t expires = 0;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin_at(ctx, qref_index(qref));
    rc = queue_local(ctx, qref, &q);
    if (rc == SHMQ_OK && !loan_ours(ctx, loan)) rc = SHMQ_STALE;
    if (rc == SHMQ_OK) {
        m->size = loan->size;
        if (m->meta_size > loan->meta_size) rc = SHMQ_E_ARG;
    }
    if (rc == SHMQ_OK) {
        hash128 key;
        uint64_t now = clock_now(ctx);
        const hash128 *once = publish_key(ctx, q, m, &key);
        expires = publish_header(ctx, block_at(ctx, loan->idx), qref_index(qref), m, q, now);
        publish_meta(payload_of(ctx, loan->idx), m);
        op_fence(ctx);
        rc = queue_status(q);   /* I2 */
        if (once && dedup_trailer(ctx, loan->idx) == NULL) rc = SHMQ_E_ARG;   /* lent for a queue without ids: no room for the key */
        else if (once) publish_trailer(ctx, loan->idx, m, once, 0, 0);
        if (once && rc == SHMQ_OK) {
            rc = publish_room(ctx, q, m, once, now);
            if (rc == SHMQ_OK) {
                rc = launch_once(ctx, q, loan->idx, &loan->ctl, m, once, now);
                if (rc != SHMQ_OK) free_block(ctx, loan->idx, loan->ctl);   /* committed: no loan any more */
                loan->ctl = 0;
                ctx->bare--;
                if (rc == SHMQ_OK && waiter_present(&q->shared->evt)) evt = &q->shared->evt;
            }
        } else {
            for (int tries = 0; rc == SHMQ_OK; tries++) {
                rc = !m->delay_ns && room_full(ctx, q, m->size, m->priority, 1)
                         ? SHMQ_FULL
                         : publish_launch(ctx, q, loan->idx, loan->ctl, m->size, m->priority, q->most);
                if (rc != SHMQ_FULL || tries == 64 || route_make_room(ctx, q) != SHMQ_OK) break;
                rc = SHMQ_OK;
            }
        }
        /* still a loan: no queue's census may count it */
        if (rc != SHMQ_OK && loan->ctl) st_rlx(&block_at(ctx, loan->idx)->fate, fate_make(SHMQ_NO_QUEUE, 0, 0, 0, 0, 0, 0, 0));
    }
    if (rc == SHMQ_OK && loan->ctl) {
        loan->ctl = 0;
        ctx->bare--;
        hints_expiry(ctx, expires);
        bump(&q->counters->published, 1);
        bump(&q->counters->published_bytes, m->size);
        if (waiter_present(&q->shared->evt)) evt = &q->shared->evt;
    }
    op_end(ctx);
    ctx_unlock(ctx);
    if (evt) waiter_wake(evt);
    return rc;
}

int shmq_loan_abort(shmq_ctx *ctx, shmq_delivery *loan) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    rc = loan_ours(ctx, loan) && free_block(ctx, loan->idx, loan->ctl) ? SHMQ_OK : SHMQ_STALE;
    if (rc == SHMQ_OK) ctx->bare--;
    loan->ctl = 0;
    ctx_unlock(ctx);
    return rc;
}
