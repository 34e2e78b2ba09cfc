/* topic.c: one message for many subscriptions.
 *
 *   parent P    FREE -> NEW(me) --COMMIT--> FAN --------------------------------------------------> FREE
 *               payload | headers | n | child[0] .. child[n-1]     child: gen:40 | block+1:24, the child's life
 *   child D     FREE -> NEW(me)+CHILD ------> launched: slot CAS -> READY -> OWNED -> ... any way ... -> FREE
 *               size = P, id = P's id, home = a subscription; no payload of its own
 *
 * A subscription is a queue like any other, of which only topics publish into: leases, retries, dead letters, delays and all
 * that work on its children unchanged. A child is a block header; what a consumer reads are the parent's bytes.
 *
 * I1  ALL OR NONE. The CAS of P from NEW to FAN publishes to all subscriptions at once: before it no child is in any ring, and
 *     children of a dead publisher are freed; after it they are sent on by recovery. Which of the two is decided by P's word,
 *     and by P's list of children naming exactly this life of D.
 * I2  Room is looked for before the commit; the ring of a subscription has 1,024 slots more than its max_depth, one per
 *     process that may be between look and launch. So nothing committed finds a ring full; if it does, it is DELAYED, due now.
 * I3  The list of subscriptions is private, and of exactly the topology that it was read under. A publisher that finds a
 *     subscription that exists changes the topology: its maker may have died just before it did.
 * I4  An id counts in each subscription with a dedup_window by itself, in its own table: a share with an id goes from NEW to
 *     MOVE(me), is claimed or found to be a duplicate there (dedup.c), and is routed or freed. Its key is its parent's.
 *
 * I5  Children are written before the words of their queues are looked at once more (publish.c, I2): after close + barrier, a scan of all
 *     blocks sees every share that will still arrive there.
 *
 * Who dies where: before the commit: P and children are NEW(dead), freed. After it: children still NEW(dead) are sent on;
 * READY ones are nobody's. Stopped between commit and launch: the others get theirs when it goes on, or is dead. The end of P: free.c.
 */
#include "topic.h"
#include "arena.h"
#include "clock.h"
#include "close.h"
#include "dedup.h"
#include "fan.h"
#include "free.h"
#include "hash.h"
#include "hints.h"
#include "ids.h"
#include "life.h"
#include "order.h"
#include "publish.h"
#include "queue.h"
#include "room.h"
#include "route.h"
#include "waiter.h"

/* ---- who gets a message ---- */

static const char *word_end(const char *at, const char *end) {
    while (at < end && *at != '.') at++;
    return at;
}

/* Words separated by dots; `*` is one word, `#` any number of them. */
static int words_match(const char *p, const char *pe, const char *t, const char *te) {
    const char *hash = NULL, *from = NULL;   /* behind the last `#`, and where that one's rest begins */
    while (t <= te) {
        const char *pw = p <= pe ? word_end(p, pe) : p, *tw = word_end(t, te);
        if (p <= pe && pw - p == 1 && *p == '#') {
            p = hash = pw + 1;
            from = t;
            continue;
        }
        if (p <= pe && ((pw - p == 1 && *p == '*') || (pw - p == tw - t && memcmp(p, t, (size_t)(tw - t)) == 0))) {
            p = pw + 1;
            t = tw + 1;
            continue;
        }
        if (hash == NULL) return 0;
        t = from = word_end(from, te) + 1;
        p = hash;
    }
    while (p <= pe && *p == '#' && word_end(p, pe) - p == 1) p += 2;
    return p > pe;
}

int shmq_topic_matches(const char *pattern, uint32_t pattern_size, const char *topic, uint32_t topic_size) {
    return words_match(pattern, pattern + pattern_size, topic, topic + topic_size);
}

/* Does a record "/pattern/name" want the messages of a record "/topic"? */
static int pattern_wants(const shmq_queue *sub, const shmq_queue *topic) {
    size_t n = strnlen(sub->name, sizeof sub->name), m = strnlen(topic->name, sizeof topic->name);
    const char *slash = n > 1 ? memchr(sub->name + 1, '/', n - 1) : NULL;
    return slash && m > 1 && words_match(sub->name + 1, slash, topic->name + 1, topic->name + m);
}

/* I3. An operation on the topic reaches all of them (collect.c, I1). */
static fan_list *subscriptions(shmq_ctx *ctx, uint64_t tref, const shmq_queue *topic) {
    fan_list *l = &ctx->fans[qref_index(tref) % FANS];
    uint32_t topology = ld32_acq(&ctx->header->topology);
    if (l->topic == tref && l->topology == topology) return l;
    l->n = 0;
    uint32_t n = queues_used(ctx);
    for (uint32_t i = 0; i < n; i++) {
        shmq_queue *rec = &ctx->queues[i];
        if (queue_state(ld_acq(&rec->word)) != SHMQ_Q_LIVE) continue;   /* once seen alive, op keeps it */
        if (rec->options.kind == SHMQ_KIND_SUBSCRIPTION ? rec->options.topic == tref
                                                        : rec->options.kind == SHMQ_KIND_PATTERN && pattern_wants(rec, topic))
            l->to[l->n++] = (uint16_t)i;
    }
    l->topic = tref;
    l->topology = topology;
    /* Some may have been made since the operation began, and be gone by now: it says that it may touch any, and looks once more. */
    uint64_t mine = ld_rlx(&ctx->me->era);
    if (op_at(mine) != OP_ANY && !MUTANT(105) && ld_acq(&ctx->header->era) != mine >> 16) {
        op_widen(ctx);
        l->topic = 0;
        return subscriptions(ctx, tref, topic);
    }
    return l;
}

/* Bytes of one encoded header: kind, name, value; 0 = not sound. */
static uint64_t header_at(const uint8_t *b, uint64_t n) {
    uint64_t at = 1;
    if (n < 2) return 0;
    for (int part = 0; part < 2; part++) {   /* the name, then the value of those that have a length */
        if (part && b[0] <= 2) break;
        if (part && b[0] == 4) {
            at += 8;
            break;
        }
        uint64_t size = 0;
        for (unsigned shift = 0;; shift += 7) {
            if (at >= n || shift > 28) return 0;
            size |= (uint64_t)(b[at] & 0x7f) << shift;
            if (b[at++] < 0x80) break;
        }
        at += size;
    }
    return at <= n ? at : 0;
}

/* Are all headers of the filter among those of the message? One and the same value has one encoding only. */
static int filter_passes(const shmq_queue *sub, const uint8_t *meta, uint64_t meta_size) {
    uint64_t n = sub->filter_size, size, other;
    if (n > sizeof sub->filter) return 0;
    for (uint64_t at = 0; at < n; at += size) {
        int found = 0;
        size = header_at(sub->filter + at, n - at);
        if (size == 0) return 0;
        for (uint64_t m = 0; !found && m < meta_size; m += other) {
            other = header_at(meta + m, meta_size - m);
            if (other == 0) break;
            found = other == size && memcmp(meta + m, sub->filter + at, size) == 0;
        }
        if (!found) return 0;
    }
    return 1;
}

/* 1 = it gets the message, 0 = it does not, FULL = its policy is to wait. */
static int admits(shmq_ctx *ctx, uint32_t index, local_queue *q, const shmq_message *m, uint64_t now) {
    if (queue_status(q) != SHMQ_OK || close_widowed(ctx, q->shared)) return 0;
    if (q->shared->filter_size && !filter_passes(q->shared, m->meta, m->meta_size)) return 0;
    for (int tries = 0; !m->delay_ns && room_full(ctx, q, m->size, m->priority, 0); tries++) {
        if (tries == 0 && ids_asked(q, m) && ids_known(ctx, q, m, now)) break;   /* a duplicate needs no room */
        if (q->options.overflow == SHMQ_DISCONNECT) {
            bump(&q->counters->disconnected, 1);   /* before: who finds it closed asks whether it was cut off */
            queue_turn(ctx, qref_make(q->live, index), SHMQ_Q_CLOSED);
            return 0;
        }
        if (q->options.overflow == SHMQ_DROP_OLDEST) {   /* it never holds a publisher back */
            if (tries < 64 && route_make_room(ctx, q) == SHMQ_OK) continue;
            break;   /* others are as quick as we are; I2 has room */
        }
        bump(&q->counters->full, 1);
        ctx->blocker = qref_make(q->live, index);
        return SHMQ_FULL;
    }
    return 1;
}

/* ---- publishing ---- */

static void put_child(shmq_ctx *ctx, uint32_t d, uint32_t parent, uint32_t index, local_queue *q, const shmq_message *m, uint64_t now) {
    shmq_block *b = block_at(ctx, d);
    uint64_t ttl = m->ttl_ns == SHMQ_DELAY_DEFAULT ? q->options.ttl_ns : m->ttl_ns;
    st32_rlx(&b->size, parent);
    st_rlx(&b->pos, pos_make(0xffff, 0));
    st_rlx(&b->id, m->id);
    st_rlx(&b->published_ns, now);
    st_rlx(&b->expires_ns, ttl && ttl < UINT64_MAX - now ? now + ttl : 0);
    st_rlx(&b->due_ns, m->delay_ns ? later(now, m->delay_ns) : 0);
    st32_rlx(&b->extra, ld32_rlx(&b->extra) & 255);
    unsigned origin = q->lanes & SHMQ_LANES_ORDERED ? order_lane(ctx, q, m, m->id) : index;
    uint64_t once = ids_asked(q, m) ? FATE_DEDUP : 0;
    st_rlx(&b->fate, fate_make(index, origin, 0, 0, 0, 0, m->priority > 15 ? 15 : m->priority, m->meta_size != 0) | once);
}

/* After the commit: a child into its ring. 1 = it was a duplicate there. */
static int launch(shmq_ctx *ctx, uint32_t index, uint32_t d, uint64_t ctl, const shmq_message *m, uint64_t *first) {
    local_queue *q;
    shmq_block *b = block_at(ctx, d);
    if (queue_open_reached(ctx, index, &q) != SHMQ_OK || queue_status(q) == SHMQ_GONE) {   /* unsubscribed meanwhile */
        free_block(ctx, d, ctl);
        return 0;
    }
    uint64_t expires = ld_rlx(&b->expires_ns), move = ctl_next(ctl, SHMQ_MOVE, ctx->self);
    int rc = SHMQ_FULL, once = (ld_rlx(&b->fate) & FATE_DEDUP) != 0;
    if (once) {   /* I4 */
        if (!cas(&b->ctl, ctl, move)) return 0;
        CRASH_POINT("share_committed");
        if (dedup_settle(ctx, q, d, move, first) == ID_DUPLICATE) return 1;
    }
    bump(&q->counters->published, 1);
    bump(&q->counters->published_bytes, m->size);
    if (!once) rc = publish_launch(ctx, q, d, ctl, m->size, m->priority, q->work.mask + 1);
    if (rc == SHMQ_OK) hints_expiry(ctx, expires);
    else if (once || cas(&b->ctl, ctl, move)) route_on(ctx, d, move);   /* I2; a table without room is asked again later */
    return 0;
}

static int write_once(shmq_ctx *ctx, local_queue *t, uint64_t tref, shmq_message *m, uint64_t now, uint64_t tie, uint64_t flags, fan *f) {
    uint32_t n = 0;
    int rc = queue_status(t);
    f->n = f->made = 0;
    if (rc != SHMQ_OK) return rc;
    if (m->size > ctx->geometry.max_message) return fail(ctx, SHMQ_E_TOOBIG, WHAT_NONE, 0, m->size, ctx->geometry.max_message, 0);
    fan_list *l = subscriptions(ctx, tref, t->shared);
    for (uint32_t i = 0; i < l->n; i++) {
        local_queue *q;
        if (queue_open_reached(ctx, l->to[i], &q) != SHMQ_OK) continue;
        rc = admits(ctx, l->to[i], q, m, now);
        if (rc == SHMQ_FULL) {
            bump(&t->counters->full, 1);
            return rc;
        }
        if (rc == 0) continue;
        if (ids_asked(q, m)) {
            flags |= FATE_DEDUP;
            if ((rc = ids_room(ctx, q, m, now)) != SHMQ_OK) return rc;
        }
        ctx->scratch[n++].entry = l->to[i];
    }
    if (n == 0) {
        m->id = publish_id(ctx);
        return SHMQ_OK;
    }
    uint64_t at = (publish_footprint(m->size, m->meta_size) + 7) & ~UINT64_C(7);
    rc = arena_alloc(ctx, at + 8 + 8 * (uint64_t)n + (flags ? FAN_TRAILER : 0), &f->parent, &f->ctl);
    if (rc != SHMQ_OK) return rc;
    f->n = n;
    shmq_block *b = block_at(ctx, f->parent);
    publish_header(ctx, b, qref_index(tref), m, t, now);
    st_rlx(&b->due_ns, left_make(f->ctl, n));
    uint8_t *payload = payload_of(ctx, f->parent);
    if (m->size) memcpy(payload, m->data, m->size);
    publish_meta(payload, m);
    shmq_au64 *child = (shmq_au64 *)(payload + at);
    st_rlx(child, n);
    if (flags & FATE_DEDUP) {
        hash128 key = ids_key(ctx, m);
        memcpy(child + 1 + n, &key, sizeof key);
    }
    if (flags) memcpy((uint8_t *)(child + 1 + n) + sizeof(hash128), &tie, sizeof tie);
    for (; f->made < n; f->made++) {
        uint32_t i = f->made, d;
        local_queue *q = &ctx->local[ctx->scratch[i].entry];   /* open: admits had it */
        rc = arena_alloc_child(ctx, &d, &ctx->scratch[i].key);
        if (rc != SHMQ_OK) {
            topic_unwrite(ctx, f);
            return rc;
        }
        ctx->scratch[i].idx = d;
        put_child(ctx, d, f->parent, ctx->scratch[i].entry, q, m, now);
        st_rlx(&child[1 + i], child_make(d, ctl_gen(ctx->scratch[i].key)));
    }
    st_rlx(&b->fate, ld_rlx(&b->fate) | FATE_CHILDREN | (flags & FATE_TIED));
    CRASH_POINT("fan_written");
    if (MUTANT(46)) launch(ctx, ctx->scratch[0].entry, ctx->scratch[0].idx, ctx->scratch[0].key, m, &tie);
    return SHMQ_OK;
}

void topic_unwrite(shmq_ctx *ctx, fan *f) {
    while (f->made) {
        f->made--;
        free_block(ctx, ctx->scratch[f->made].idx, ctx->scratch[f->made].key);
    }
    if (f->n) free_block(ctx, f->parent, f->ctl);
    f->n = 0;
}

/* I5. Was none of them closed while their children were written? */
static int still_open(shmq_ctx *ctx, const fan *f) {
    op_fence(ctx);
    for (uint32_t i = 0; i < f->n && !MUTANT(112); i++)
        if (queue_status(&ctx->local[ctx->scratch[i].entry]) != SHMQ_OK) return 0;
    return 1;
}

/* Parent and children, complete and in NEW; f->n = 0: nobody is to get it. What is said to be behind the list of children is written
 * when `flags` says so: TIED to the delivery `tie` (forward.c). */
int topic_write(shmq_ctx *ctx, local_queue *t, uint64_t tref, shmq_message *m, uint64_t now, uint64_t tie, uint64_t flags, fan *f) {
    int rc;
    for (uint32_t tries = 0; (rc = write_once(ctx, t, tref, m, now, tie, flags, f)) == SHMQ_OK && !still_open(ctx, f); tries++) {
        topic_unwrite(ctx, f);   /* the next time it does not get it */
        if (tries == SHMQ_QUEUES) return SHMQ_BUSY;
    }
    return rc;
}

/* COMMIT (I1) of a parent that was written, under exactly ctl; whoever does it. 0 = somebody else has. */
int topic_commit(shmq_ctx *ctx, uint32_t parent, uint64_t ctl) {
    int rc = cas(&block_at(ctx, parent)->ctl, ctl, ctl_to(ctl, SHMQ_FAN, 0));   /* COMMIT topic */
    CRASH_POINT("committed");
    return rc;
}

/* After the commit. */
void topic_launch(shmq_ctx *ctx, local_queue *t, shmq_message *m, fan *f) {
    uint32_t doubled = 0;
    uint64_t first = 0;
    for (uint32_t i = MUTANT(46) ? 1 : 0; i < f->n; i++)
        doubled += (uint32_t)launch(ctx, ctx->scratch[i].entry, ctx->scratch[i].idx, ctx->scratch[i].key, m, &first);
    if (f->n && doubled == f->n) {   /* known to all: it was there before */
        m->id = first;
        bump(&t->counters->deduped, 1);
        return;
    }
    bump(&t->counters->published, 1);
    bump(&t->counters->published_bytes, m->size);
}

/* The event counts of those who sleep over subscriptions of a topic. */
uint32_t topic_sleepers(shmq_ctx *ctx, uint64_t tref, shmq_au32 **evt) {
    uint32_t n = 0;
    fan_list *l = &ctx->fans[qref_index(tref) % FANS];
    for (uint32_t i = 0; l->topic == tref && i < l->n; i++) {
        local_queue *q = &ctx->local[l->to[i]];
        if (q->live == 0 || !waiter_present(&q->shared->evt)) continue;
        evt[n++] = &q->shared->evt;
        bump(&q->counters->wakes, 1);
    }
    return n;
}

/* Publish up to n messages, in order, each to all its subscriptions or to none. How many; or why not the first one: FULL when
 * a subscription has no room and its policy is to wait (shmq_topic_blocker says which). */
int shmq_topic_publish_many(shmq_ctx *ctx, uint64_t tref, shmq_message *m, uint32_t n) {
    shmq_au32 *evt[SHMQ_QUEUES];
    uint32_t done = 0, asleep = 0;
    local_queue *t = NULL;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin_at(ctx, qref_index(tref) | OP_FAN);
    rc = queue_local(ctx, tref, &t);
    if (rc == SHMQ_OK && t->options.kind != SHMQ_KIND_TOPIC) rc = SHMQ_E_ARG;
    uint64_t now = clock_now(ctx);
    for (; rc == SHMQ_OK && done < n; done++) {
        fan f;
        rc = topic_write(ctx, t, tref, &m[done], now, 0, 0, &f);
        if (rc == SHMQ_OK && f.n && !topic_commit(ctx, f.parent, f.ctl)) {
            topic_unwrite(ctx, &f);
            rc = SHMQ_E_CORRUPT;
        }
        if (rc != SHMQ_OK) break;
        topic_launch(ctx, t, &m[done], &f);
    }
    asleep = done ? topic_sleepers(ctx, tref, evt) : 0;
    op_end(ctx);
    ctx_unlock(ctx);
    for (uint32_t i = 0; i < asleep; i++) waiter_wake(evt[i]);
    return done ? (int)done : rc;
}

int shmq_topic_publish(shmq_ctx *ctx, uint64_t tref, shmq_message *m) {
    int rc = shmq_topic_publish_many(ctx, tref, m, 1);
    return rc == 1 ? SHMQ_OK : rc;
}

/* The subscription for which this process's last publish would have had to wait. Another thread's may be the last: do not
 * sleep for long on it. */
int64_t shmq_topic_blocker(shmq_ctx *ctx, uint64_t tref) {
    (void)tref;
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    int64_t q = (int64_t)ctx->blocker;
    ctx_unlock(ctx);
    return q;
}

/* ---- subscriptions come and go ---- */

int64_t shmq_topic_subscribe(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size,
                             uint32_t ephemeral) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    int64_t rc = queue_create(ctx, name, options, filter, filter_size, ephemeral != 0);
    if (rc == SHMQ_E_EXISTS) add32(&ctx->header->topology, 1);   /* I3 */
    return rc;
}

/* References of all subscriptions that get something of a topic; how many there are. */
int shmq_topic_subscribers(shmq_ctx *ctx, uint64_t tref, uint64_t *out, uint32_t max) {
    local_queue *t, *q;
    int rc = ctx_enter(ctx), n = 0;
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    rc = queue_local(ctx, tref, &t);
    if (rc == SHMQ_OK && queue_status(t) == SHMQ_GONE) rc = SHMQ_GONE;
    if (rc == SHMQ_OK && t->options.kind != SHMQ_KIND_TOPIC) rc = SHMQ_E_ARG;
    fan_list *l = rc == SHMQ_OK ? subscriptions(ctx, tref, t->shared) : NULL;
    for (uint32_t i = 0; l && i < l->n; i++) {
        if (queue_open_reached(ctx, l->to[i], &q) != SHMQ_OK || queue_status(q) != SHMQ_OK || close_widowed(ctx, q->shared)) continue;
        if ((uint32_t)n < max) out[n] = qref_make(q->live, l->to[i]);
        n++;
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return rc == SHMQ_OK ? n : rc;
}

/* Members of a group that take strict turns: say that this one has had `taken` messages; returns the least that any living
 * member of the same source has had. */
int64_t shmq_member_turn(shmq_ctx *ctx, uint64_t member, uint64_t taken) {
    int rc = ctx_enter(ctx);
    if (rc != SHMQ_OK) return rc;
    op_begin(ctx);
    uint32_t n = queues_used(ctx), me = qref_index(member);
    uint64_t least = taken;
    if (me >= n || ld_acq(&ctx->queues[me].word) != queue_make(qref_gen(member), SHMQ_Q_LIVE)) rc = SHMQ_GONE;
    else if (ctx->queues[me].options.kind != SHMQ_KIND_MEMBER) rc = SHMQ_E_ARG;   /* a queue's `bytes` says something else */
    if (rc == SHMQ_OK) st_rel(&ctx->queues[me].bytes, taken);
    for (uint32_t i = 0; rc == SHMQ_OK && i < n; i++) {
        shmq_queue *rec = &ctx->queues[i];
        if (i == me || queue_state(ld_acq(&rec->word)) != SHMQ_Q_LIVE || rec->options.kind != SHMQ_KIND_MEMBER) continue;
        if (rec->options.topic != ctx->queues[me].options.topic || close_widowed(ctx, rec)) continue;
        uint64_t had = ld_acq(&rec->bytes);
        if (had < least) least = had;
    }
    op_end(ctx);
    ctx_unlock(ctx);
    return rc == SHMQ_OK ? (int64_t)least : rc;
}
