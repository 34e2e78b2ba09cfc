/* Shared memory is everybody's: whatever stands in it, no call may crash or hang; the answer is a result code.
 *
 * Each batch is a child of its own with a segment full of life: messages ready, out, delayed, dead, with error texts, viewed,
 * left behind by a dead process. Then, again and again: one word is changed and every call is made, by a process that
 * attached before and by one that attaches after. CORRUPT_SEED, CORRUPT_FLIPS choose; a failure names seed and batch.
 */
#include "harness.h"
#include "queue.h"
#include "topic.h"
#include <poll.h>

#if defined(__SANITIZE_THREAD__)
#define FLIPS 600
#elif defined(__SANITIZE_ADDRESS__)
#define FLIPS 3000
#else
#define FLIPS 12000
#endif
#define BATCH 50
#define CHILDREN 4      /* at a time: they mostly wait, for the kernel's barriers */

typedef struct {
    uint64_t n, offset, from, to;
    const char *region, *op;
} note;
static note *log_;

/* ---- a segment full of life, and a copy of it ---- */
#define QS 8   /* dead letters, a plain queue, drop-oldest with ids, a closed one, levels, keys, and two subscriptions of topic t */
static uint64_t q[QS], t, member, ids_at, keys_at;
static struct {
    uint64_t at, n;
} extent[256];
static int extents;
static uint8_t *saved;

static shmq_ctx *life(void) {
    shmq_ctx *c = segment(4 << 20, 64 << 10), *dead = join();
    q[0] = QUEUE(c, "dead", 50);
    q[1] = QUEUE(c, "q", 40, .max_retries = 3, .ack_timeout_ns = 1000 * SECONDS, .max_bytes = 100000, DEAD_TO(q[0]));
    q[2] = QUEUE(c, "drop", 5, .overflow = SHMQ_DROP_OLDEST, .backoff_ns = 1, .jitter_ppm = 1000, .dedup_window_ns = 20 * MS,
                 .dedup_capacity = 600);
    ids_at = c->queues[q[2] & 0xffff].dedup.offset;
    q[3] = QUEUE(c, "gone", 9);
    q[4] = QUEUE(c, "levels", 20, .priorities = 10, .aging_ns = MS, .backoff_ns = 1);
    q[5] = QUEUE(c, "keys", 20, .order = SHMQ_BY_KEY, .backoff_ns = 1, DEAD_TO(q[0]));
    keys_at = c->queues[q[5] & 0xffff].keys.offset;
    t = QUEUE(c, "/t", 1, .kind = SHMQ_KIND_TOPIC);
    static const uint8_t filter[] = { 2, 4, 'p', 'a', 'i', 'd' };
    shmq_queue_options sub = { .max_depth = 20,
                               .max_retries = 3,
                               .kind = SHMQ_KIND_SUBSCRIPTION,
                               .topic = t,
                               .dedup_window_ns = SECONDS,
                               .dedup_capacity = 600,
                               .priorities = 3,
                               DEAD_TO(q[0]) };
    int64_t made[3];
    made[0] = shmq_topic_subscribe(c, "/t/levels", &sub, NULL, 0, 0);
    sub.order = SHMQ_STRICT;
    sub.overflow = SHMQ_DROP_OLDEST;
    made[1] = shmq_topic_subscribe(dead, "/t/strict", &sub, NULL, 0, 0);
    sub.overflow = SHMQ_DISCONNECT;
    made[2] = shmq_topic_subscribe(dead, "/t/filtered", &sub, filter, sizeof filter, 1);
    CHECK(made[0] > 0 && made[1] > 0 && made[2] > 0);
    member = QUEUE(c, "//q/m", 1, .kind = SHMQ_KIND_MEMBER, .topic = q[1]);
    QUEUE(c, "//q/n", 1, .kind = SHMQ_KIND_MEMBER, .topic = q[1]);
    q[6] = (uint64_t)made[0];
    q[7] = (uint64_t)made[1];
    for (int i = 0; i < QS; i++) {
        shmq_message m = { .data = "123456789012345678901234567890", .size = 30, .meta = "headers", .meta_size = 7 },
                     big = { .data = saved, .size = 20000 };
        for (int k = 0; k < 9; k++) {
            m.priority = (uint32_t)k;
            m.ttl_ns = k % 3 == 2 ? 1000 * SECONDS : k == 4;
            m.key = &m.priority;
            m.key_size = i == 5 ? 1 : 0;
            if (i >= 6) {
                m.dedup = &m.priority;
                m.dedup_size = 4;
                shmq_topic_publish(i & 1 ? dead : c, t, &m);
            } else shmq_publish(i & 1 ? dead : c, q[i], &m);
            big.delay_ns = k == 3 ? 1 : k == 4 ? 1000 * SECONDS : 0;
            if (k > 2 && k < 6) shmq_publish(c, q[i], &big);
        }
        shmq_delivery d[6];
        uint64_t cursor = 0;
        int n = shmq_take(i & 1 ? c : dead, q[i], 6, 0, d);
        for (int k = 0; k < n; k++) {
            shmq_ctx *w = i & 1 ? c : dead;
            if (k == 0) shmq_nack(w, &d[k], 0, "some text", 9);
            if (k == 1) shmq_reject(w, &d[k], "other text", 10);
            if (k == 2) shmq_settle_viewed(w, &d[k]);
        }
        shmq_peek(c, q[i], &cursor, d);
        shmq_take(dead, q[i], 1, SHMQ_TAKE_FREE, d);
        shmq_loan(i & 1 ? c : dead, q[i], 500, 0, d);
    }
    shmq_queue_close(c, q[3]);
    /* and it left behind: a message of a topic that is committed and not launched, one that is not committed, half a forward to
     * a topic */
    shmq_message m = { .data = "123456789012345678901234567890", .size = 30, .dedup = "left", .dedup_size = 4 };
    local_queue *l;
    EQ(queue_local(dead, t, &l), SHMQ_OK);
    for (int k = 0; k < 3; k++) {
        fan f;
        shmq_delivery d;
        int n = shmq_take(dead, q[4], 1, 0, &d);
        if (topic_write(dead, l, t, &m, shmq_now(), n == 1 ? d.idx : 0, k == 2 ? FATE_TIED : 0, &f) != SHMQ_OK || f.n == 0) continue;
        if (k == 0) topic_commit(dead, f.parent, f.ctl);
        if (k != 2 || n != 1) continue;
        shmq_block *s = &dead->blocks[d.idx];
        st_sc(&dead->held[d.held - 1].word, 0);
        CHECK(cas(&s->ctl, d.ctl, ctl_next(d.ctl, SHMQ_MOVE, dead->self)));
        st_rlx(&s->due_ns, (uint64_t)(f.parent + 1) << 40 | (ctl_gen(f.ctl) & 0xffffffffff));
        st_rlx(&s->fate, ld_rlx(&s->fate) | FATE_LEAVING | FATE_FORWARD);
    }
    die_as(dead, 4194300);
    return c;
}

static void save(void) {
    uint64_t total = 0;
    extents = 0;
    for (off_t at = 0; extents < 256;) {
        off_t from = lseek(seg.fd, at, SEEK_DATA), to = from < 0 ? 0 : lseek(seg.fd, from, SEEK_HOLE);
        if (from < 0) break;
        extent[extents].at = (uint64_t)from;
        extent[extents++].n = (uint64_t)(to - from);
        total += (uint64_t)(to - from);
        at = to;
    }
    CHECK(total > 0 && total < 64 << 20);
    saved = realloc(saved, total);
    for (int i = 0, n = 0; i < extents; n += (int)extent[i++].n)
        CHECK(pread(seg.fd, saved + n, extent[i].n, (off_t)extent[i].at) == (ssize_t)extent[i].n);
}
static void restore(uint8_t *base) {
    for (uint64_t i = 0, n = 0; i < (uint64_t)extents; n += extent[i++].n) memcpy(base + extent[i].at, saved + n, extent[i].n);
}

/* ---- what is changed ---- */
static uint64_t pick(shmq_ctx *c, uint64_t *s) {   /* the offset of a word that is in use */
    const shmq_geometry *g = &seg.g;
    uint32_t k = (uint32_t)(rnd(s) % 5);
    uint64_t first = c->classes[k].first, n = ld_rlx(&c->header->hwm[k].n), queue = rnd(s) % (QS + 5);
    if (n == 0 || n > 4096) {   /* itself a word that was changed */
        first = 0;
        n = 64;
    }
    switch (rnd(s) % 19) {
    case 17: log_->region = "lanes of keys"; return keys_at + rnd(s) % 4096 * 8;
    case 18: {
        shmq_ring_place *p = &c->queues[queue].place[rnd(s) % 4 ? 0 : rnd(s) % 11];
        log_->region = "slots of a queue";
        if (p->offset < g->rings || p->offset >= g->rings + g->rings_size - SHMQ_PAGE) return g->rings;
        return p->offset + rnd(s) % 64 * 8;
    }
    case 16: log_->region = "table of ids"; return ids_at + (rnd(s) & 1 ? rnd(s) % 32 : rnd(s) % 3000) * 8;
    case 0:
        log_->region = "header, live words";
        return offsetof(shmq_header, admin) + rnd(s) % ((sizeof(shmq_header) - offsetof(shmq_header, admin)) / 8) * 8;
    case 1: log_->region = "hwm"; return offsetof(shmq_header, hwm) + rnd(s) % SHMQ_CLASSES * 128;
    case 2: log_->region = "counts in the header"; return offsetof(shmq_header, attach_evt) + rnd(s) % 4 * 8;
    case 3: log_->region = "owner record"; return g->owners + rnd(s) % 4 * sizeof(shmq_owner) + rnd(s) % 7 * 8;
    case 4: log_->region = "queue record"; return g->queues + queue * sizeof(shmq_queue) + rnd(s) % (sizeof(shmq_queue) / 8) * 8;
    case 5: log_->region = "places"; return g->queues + queue * sizeof(shmq_queue) + offsetof(shmq_queue, place) + rnd(s) % 26 * 8;
    case 6: log_->region = "ring ends"; return g->queues + queue * sizeof(shmq_queue) + offsetof(shmq_queue, ends) + rnd(s) % 22 * 128;
    case 7:
        log_->region = "queue options";
        return g->queues + queue * sizeof(shmq_queue) + offsetof(shmq_queue, options) + rnd(s) % (sizeof(shmq_queue_options) / 8) * 8;
    case 8: log_->region = "slots"; return g->rings + rnd(s) % 4096 * 8;
    case 9: log_->region = "l0"; return g->l0 + (first / 64 + rnd(s) % (n / 64 + 1)) * 8;
    case 10: log_->region = "l1"; return g->l1 + (first / 4096) * 8;
    case 11:
    case 12: log_->region = "block header"; return g->blocks + (first + rnd(s) % n) * 64 + rnd(s) % 8 * 8;
    case 13: log_->region = "held"; return g->held + (rnd(s) % 3 * g->held_each + rnd(s) % 24) * 16 + rnd(s) % 2 * 8;
    case 14: log_->region = "timers"; return g->timers + rnd(s) % 64 * 8;
    default: log_->region = "payload"; return g->payload[k] + rnd(s) % 64 * (g->stride[k] / 8 ? g->stride[k] / 8 : 8) / 8 * 8;
    }
}
static uint64_t change(uint64_t old, shmq_au64 *other, uint64_t *s) {
    switch (rnd(s) % 8) {
    case 0:
    case 1:
    case 2: return old ^ UINT64_C(1) << rnd(s) % 64;
    case 3: return rnd(s);
    case 4: return rnd(s) & 1 ? 0 : ~UINT64_C(0);
    case 5: return old + (rnd(s) & 1 ? 1 : ~UINT64_C(0));
    case 6: return rnd(s) >> rnd(s) % 64;
    default: return ld_rlx(other);
    }
}

/* ---- every call ---- */
#define OP(x) (log_->op = #x, answered((int64_t)(x)))
static int64_t answered(int64_t rc) {
    if (rc < SHMQ_E_PIDNS) {
        printf("     %s answered %lld\n", log_->op, (long long)rc);
        fflush(stdout);
        _exit(2);
    }
    return rc;
}
static uint64_t sum_;
static void read_all(const shmq_delivery *d) {
    const char *op = log_->op;
    log_->op = "reading a delivery";
    for (uint32_t i = 0; i < d->size; i++) sum_ += d->data[i];
    for (uint32_t i = 0; i < d->meta_size; i++) sum_ += d->meta[i];
    for (uint32_t i = 0; d->extra && i < d->extra_size; i++) sum_ += d->extra[i];
    log_->op = op;
}

static void everything(shmq_ctx *c, uint64_t *s) {
    shmq_delivery d[6] = { 0 };
    uint32_t idx[64], scan, from = 0;
    uint64_t due[64], next, w[3], cursor;
    shmq_queue_info qi;
    shmq_owner_info oi;
    shmq_segment_info si;
    shmq_census ce;
    shmq_audit_report r;
    static uint8_t bytes[65536];
    int n;
    for (int i = 0; i < 4; i++) {
        uint64_t x = q[rnd(s) % QS];
        shmq_message m[3] = { { .data = bytes, .size = rnd(s) % 200, .meta = "abc", .meta_size = 3 },
                              { .data = bytes, .size = rnd(s) % 30000 },
                              { .data = bytes, .size = 1, .delay_ns = 1 } };
        uint64_t id = rnd(s) % 50;
        for (int k = 0; k < 2; k++) {
            m[k].dedup = &id;
            m[k].dedup_size = 8;
            m[k].priority = (uint32_t)(rnd(s) % 16);
            m[k].key = &id;
            m[k].key_size = 1;
            m[k].ttl_ns = rnd(s) % 3;
        }
        OP(shmq_depth(c, x));
        OP(shmq_publish(c, x, &m[0]));
        OP(shmq_publish_many(c, x, m, 3));
        OP(shmq_topic_publish(c, t, &m[rnd(s) % 3]));
        OP(shmq_topic_publish_many(c, rnd(s) % 8 ? t : x, m, 3));
        if (OP(shmq_loan(c, x, 300, 4, &d[0])) == SHMQ_OK) {
            memset((void *)(uintptr_t)d[0].data, 1, 300);
            if (OP(shmq_loan_publish(c, x, &d[0], &m[0])) != SHMQ_OK) OP(shmq_loan_abort(c, &d[0]));
        }
        n = (int)OP(shmq_take(c, x, 6, (uint32_t)(rnd(s) % 3), d));
        for (int k = 0; k < n; k++) {
            uint32_t held = d[k].held, at = d[k].idx;
            read_all(&d[k]);
            switch (rnd(s) % 8) {
            case 0: OP(shmq_nack(c, &d[k], rnd(s) & 1 ? 0 : SHMQ_DELAY_DEFAULT, "text", 4)); break;
            case 1: OP(shmq_reject(c, &d[k], "text", 4)); break;
            case 2: OP(shmq_release(c, &d[k])); break;
            case 3:
                OP(shmq_touch(c, &d[k], rnd(s)));
                OP(shmq_start(c, &d[k]));
                break;
            case 4:
                OP(shmq_settle_viewed(c, &d[k]));
                OP(shmq_view_end(c, held, at));
                break;
            case 5: OP(shmq_view_keep(c, &d[k])); break;
            case 6: OP(shmq_forward(c, &d[k], rnd(s) % 3 ? q[rnd(s) % QS] : t, &m[rnd(s) % 3])); break;
            default: OP(shmq_ack(c, &d[k], 1));
            }
        }
        cursor = rnd(s) % 4 ? 0 : rnd(s);
        for (int k = 0; k < 60 && OP(shmq_peek(c, x, &cursor, d)) == SHMQ_OK; k++) {
            read_all(d);
            OP(shmq_view_end(c, d->held, d->idx));
        }
        OP(shmq_wait_items(c, x, shmq_now() + 1000, 0));
        OP(shmq_wait_space(c, x, shmq_now() + 1000, 0));
        OP(shmq_wait_settled(c, x, shmq_now() + 1000));
        OP(shmq_pass(c, x, (uint32_t)rnd(s) % 3));
        shmq_wait_set set = { .n = 2,
                              .one = { { .ctx = c, .queue = x }, { .ctx = c, .queue = q[rnd(s) % QS], .what = (uint32_t)rnd(s) % 3 } } };
        OP(shmq_wait_many(&set, 0, shmq_now() + 1000));
        OP(shmq_glance(c, x, 0));
        OP(shmq_queue_mark(c, x, SHMQ_TRAVELLED));
        OP(shmq_refs(c, x));
        if (rnd(s) % 4 == 0) OP(shmq_ref(c, x, (int)(rnd(s) & 1)));
        shmq_publish_soon(c, x, &m[0]);
        OP(shmq_queue_census(c, x, &ce));
        OP(shmq_bytes_resync(c, x));
        OP(shmq_wake_queue(c, x));
    }
    OP(shmq_timers_collect(c, idx, due, 64, &scan));
    for (int k = 0; from < SHMQ_BLOCKS && k < 3000; k++) {
        n = (int)OP(shmq_timers_scan(c, &from, idx, due, 64));
        for (int i = 0; i < n; i++) OP(shmq_timer_fire(c, idx[i], shmq_now() + (rnd(s) & 1 ? 0 : 1 << 30), &next));
        if (n < 0) break;
    }
    for (from = 0; from < SHMQ_BLOCKS;) {
        uint64_t soon = shmq_now() + (rnd(s) & 1 ? 2000 * SECONDS : 0);
        n = (int)OP(shmq_expire_scan(c, &from, soon, shmq_now() + 2000 * SECONDS, idx, due, 64, &next));
        if (n < 0) break;
        OP(shmq_expire(c, idx, (uint32_t)n, shmq_now()));
    }
    uint64_t subscribers[4];
    OP(shmq_topic_subscribers(c, t, subscribers, 4));
    OP(shmq_topic_blocker(c, t));
    OP(shmq_topic_sweep(c));
    OP(shmq_member_turn(c, rnd(s) % 3 ? member : q[rnd(s) % QS], rnd(s) >> 1));
    OP(shmq_leases_expire(c, shmq_now() + 2000 * SECONDS * (rnd(s) & 1), &next));
    OP(shmq_leases_late(c));
    OP(shmq_reap(c, (int)(rnd(s) & 1)));
    OP(shmq_trim(c, rnd(s) % 100000));
    OP(shmq_audit(c, &r));
    for (uint32_t i = 0; i < QS + 5; i++) {
        OP(shmq_queue_snapshot(c, i, &qi));
        OP(shmq_owner_snapshot(c, i, &oi));
        OP(shmq_owner_prove(c, i, 1));
        OP(shmq_recover(c, i == c->self ? 1023 : i));
        OP(shmq_block_snapshot(c, (uint32_t)rnd(s), &w[0], &w[1], &w[2]));
        OP(shmq_queue_adopt(c, i));
        OP(shmq_refs_none(c, i) < 0);
    }
    static shmq_census all[SHMQ_QUEUES];
    shmq_geometry g;
    OP(shmq_census_all(c, all, SHMQ_QUEUES));
    OP(shmq_refs_settled(c));
    if (rnd(s) % 8 == 0) OP(shmq_refs_collect(c, &q[rnd(s) % QS], 1));
    OP(shmq_geometry_of(c, &g));
    shmq_next_expiry(c);
    OP(shmq_wait_word(c, SHMQ_WORD_TIMER, shmq_read_word(c, SHMQ_WORD_TIMER), shmq_now() + 1000));
    OP(shmq_set_flag(c, SHMQ_USER_WORD, rnd(s)));
    OP(shmq_segment_snapshot(c, &si));
    OP(shmq_queue_open(c, "q"));
    if (rnd(s) % 4 == 0) {   /* these wait for the kernel */
        const char *name = rnd(s) & 1 ? "fresh" : "drop";
        int64_t x = OP(shmq_queue_create(c, name, &(shmq_queue_options){ .max_depth = 30, .dead_letter = SHMQ_NO_QUEUE }));
        if (x > 0) {
            OP(shmq_publish(c, (uint64_t)x, &(shmq_message){ .data = bytes, .size = 5 }));
            OP(shmq_take(c, (uint64_t)x, 1, 0, d));
        }
        OP(shmq_purge(c, q[rnd(s) % QS]));
        OP(shmq_queue_discard(c, q[rnd(s) % QS]));
        if (rnd(s) % 8 == 0) {
            OP(shmq_queue_delete(c, rnd(s) % 9 ? q[rnd(s) % QS] : t));
            OP(shmq_queue_collect(c));
        }
        if (rnd(s) % 8 == 0) OP(shmq_queue_close(c, q[rnd(s) % QS]));
    }
}

static void batch(uint64_t seed) {
    uint64_t s = seed;
    saved = calloc(1, 65536);
    shmq_ctx *c = life();
    save();
    for (int i = 0; i < BATCH; i++) {
        if (rnd(&s) % 8) restore(c->base);   /* now and then the damage adds up */
        shmq_ctx *before = join();
        shmq_delivery d;
        for (int k = 0; k < QS; k++) shmq_take(before, q[k], 1, 0, &d);
        log_->n = (uint64_t)i;
        uint64_t other = pick(c, &s);
        log_->offset = pick(c, &s);
        shmq_au64 *word = (shmq_au64 *)(before->base + log_->offset);
        log_->from = ld_rlx(word);
        log_->to = change(log_->from, (shmq_au64 *)(before->base + other), &s);
        st_sc(word, log_->to);
        alarm(60);   /* on a crowded machine the kernel takes its time for each barrier */
        everything(before, &s);
        log_->op = "attach";
        shmq_ctx *after = shmq_ctx_new();
        if (shmq_map_fd(after, seg.fd, seg.total) == SHMQ_OK && shmq_verify(after) == SHMQ_OK && shmq_attach(after, SHMQ_CLIENT) >= 0) {
            everything(after, &s);
            OP(shmq_detach(after));
        }
        OP(shmq_detach(before));
        for (shmq_ctx *x = after; x; x = x == after ? before : NULL) {
            st32_rlx(&x->attached, 0);
            shmq_ctx_delete(x);
        }
    }
    _exit(0);
}

TEST_LIMIT(flips, 280, "no word of the segment, whatever it says, crashes or hangs a call") {
    const char *text = getenv("CORRUPT_SEED"), *many = getenv("CORRUPT_FLIPS"), *only = getenv("CORRUPT_BATCH");
    uint64_t seed = text ? strtoull(text, NULL, 0) : shmq_now() & 0xffffffff, flips = many ? strtoull(many, NULL, 0) : FLIPS;
    note *notes = mmap(NULL, CHILDREN * sizeof(note), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid[CHILDREN] = { 0 };
    uint64_t which[CHILDREN] = { 0 }, next = only ? strtoull(only, NULL, 0) : 0, end = only ? next + 1 : (flips + BATCH - 1) / BATCH,
             start = shmq_now();
    int failed = 0;
    while (failed < 8) {
        for (int i = 0; i < CHILDREN; i++) {
            if (pid[i] || next >= end) continue;
            which[i] = next++;
            fflush(stdout);
            pid[i] = fork();
            if (pid[i] == 0) {
                log_ = &notes[i];
                batch(seed * 1000003 + which[i]);
            }
        }
        int status, i = 0;
        pid_t p = wait(&status);
        if (p < 0) break;
        while (pid[i] != p) i++;
        pid[i] = 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
        failed++;
        printf("     CORRUPT_SEED=%llu CORRUPT_BATCH=%llu, change %llu: %s at 0x%llx: %llx -> %llx; %s %d in %s\n",
               (unsigned long long)seed, (unsigned long long)which[i], (unsigned long long)notes[i].n, notes[i].region,
               (unsigned long long)notes[i].offset, (unsigned long long)notes[i].from, (unsigned long long)notes[i].to,
               WIFSIGNALED(status) ? "signal" : "exit", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), notes[i].op);
    }
    printf("     seed %llu: %llu changes in %.1f s\n", (unsigned long long)seed, (unsigned long long)(next * BATCH),
           (double)(shmq_now() - start) / 1e9);
    EQ(failed, 0);
}

/* ---- the header, before anything is mapped ---- */
TEST_LIMIT(headers, 60, "no header that is cut short, changed or invented is taken for a sound one") {
    segment(64 << 20, 1 << 20);
    uint8_t good[SHMQ_PAGE], bad[SHMQ_PAGE];
    CHECK(pread(seg.fd, good, sizeof good, 0) == sizeof good);
    shmq_detail detail;
    uint64_t total = 0, seed = shmq_now();
    EQ(shmq_check_header(good, sizeof good, seg.total, &detail, &total), SHMQ_OK);
    EQ(total, seg.total);
    for (uint64_t n = 0; n < offsetof(shmq_header, admin); n++) {
        uint8_t *exact = malloc(n ? n : 1);   /* the sanitizer watches its end */
        memcpy(exact, good, n);
        EQ(shmq_check_header(exact, n, seg.total, &detail, &total), SHMQ_E_CORRUPT);
        free(exact);
    }
    EQ(shmq_check_header(good, sizeof good, seg.total - 1, &detail, &total), SHMQ_E_CORRUPT);
    EQ(detail.what, WHAT_SIZE);
    CHECK(shmq_check_header(good, sizeof good, 0, &detail, &total) < 0);
    uint64_t covered = offsetof(shmq_header, checksum) + 8;
    for (uint64_t bit = 0; bit < covered * 8; bit++) {
        memcpy(bad, good, sizeof bad);
        bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(shmq_check_header(bad, sizeof bad, seg.total, &detail, &total) < 0);
    }
    for (int i = 0; i < 100000; i++) {
        memcpy(bad, good, sizeof bad);
        uint64_t from = rnd(&seed) % covered, n = 1 + rnd(&seed) % 64;
        for (uint64_t k = from; k < from + n && k < sizeof bad; k++) bad[k] = (uint8_t)rnd(&seed);
        int rc = shmq_check_header(bad, sizeof bad, seg.total, &detail, &total);
        CHECK(rc < 0 || memcmp(bad, good, covered) == 0);
        CHECK(rc >= SHMQ_E_PIDNS);
        for (uint64_t k = 0; k < sizeof bad; k += 8) {
            uint64_t w = rnd(&seed);
            memcpy(bad + k, &w, 8);
        }
        uint64_t magic = SHMQ_MAGIC;
        if (i & 1) memcpy(bad, &magic, 8);
        CHECK(shmq_check_header(bad, rnd(&seed) % (sizeof bad + 1), rnd(&seed), &detail, &total) < 0);
    }
}

TEST(place, "where the rings of a queue lie is not believed: no other queue gets memory that may be its own") {
    shmq_ctx *c = segment(4 << 20, 64 << 10);
    uint64_t a = QUEUE(c, "a", 10), bad[] = { UINT64_MAX, 31, 0 };
    shmq_ring_place *p = &c->queues[a & 0xffff].place[SHMQ_LANE_WORK], sound = *p;
    shmq_queue_options plain = { .max_depth = 10, .max_retries = 3, .dead_letter = SHMQ_NO_QUEUE };
    for (unsigned i = 0; i < 4; i++) {
        *p = sound;
        if (i < 3) p->lg = (uint32_t)bad[i];
        else p->offset = 5;
        EQ(shmq_queue_create(c, "b", &plain), SHMQ_E_CORRUPT);
    }
    *p = sound;
    CHECK(shmq_queue_create(c, "b", &plain) > 0);
}

TEST(reasons, "each kind of wrong header is told apart") {
    segment(64 << 20, 1 << 20);
    static union {
        uint8_t page[8192];
        shmq_header h;
    } u;
    uint64_t total;
    shmq_detail d;
    const struct {
        uint64_t offset;
        int rc;
        uint32_t what;
    } table[] = { { offsetof(shmq_header, magic), SHMQ_E_LAYOUT, WHAT_MAGIC },
                  { offsetof(shmq_header, version), SHMQ_E_LAYOUT, WHAT_VERSION },
                  { offsetof(shmq_header, fingerprint), SHMQ_E_LAYOUT, WHAT_FINGERPRINT },
                  { offsetof(shmq_header, uid), SHMQ_E_CORRUPT, WHAT_CHECKSUM },
                  { offsetof(shmq_header, checksum), SHMQ_E_CORRUPT, WHAT_CHECKSUM },
                  { offsetof(shmq_header, geometry), SHMQ_E_CORRUPT, WHAT_CHECKSUM } };
    for (int i = 0; i < 6; i++) {
        CHECK(pread(seg.fd, u.page, sizeof u.page, 0) == sizeof u.page);
        u.page[table[i].offset] ^= 0x10;
        EQ(shmq_check_header(u.page, sizeof u.page, seg.total, &d, &total), table[i].rc);
        EQ(d.what, table[i].what);
        EQ(d.offset, table[i].offset == offsetof(shmq_header, uid) || i == 5 ? offsetof(shmq_header, checksum) : table[i].offset);
        CHECK(d.found != d.expected && strcmp(shmq_what(d.what), "unknown") != 0);
    }
    memset(u.page, 0, sizeof u.page);   /* a formatter that died before the magic */
    EQ(shmq_check_header(u.page, sizeof u.page, seg.total, &d, &total), SHMQ_E_CORRUPT);
    EQ(d.what, WHAT_MAGIC);
}

static uint64_t sum_of(const shmq_header *h) {
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (size_t i = offsetof(shmq_header, version); i < offsetof(shmq_header, checksum); i++)
        sum = (sum ^ ((const uint8_t *)h)[i]) * UINT64_C(0x100000001b3);
    return sum;
}

TEST(namespaces, "a sound header of another pid namespace, another time namespace or another user is refused") {
    segment(64 << 20, 1 << 20);
    static union {
        uint8_t page[8192];
        shmq_header h;
    } u;
    const struct {
        uint64_t offset;
        int rc;
        uint32_t what;
    } table[] = { { offsetof(shmq_header, pidns), SHMQ_E_PIDNS, WHAT_PIDNS },
                  { offsetof(shmq_header, timens), SHMQ_E_PIDNS, WHAT_TIMENS },
                  { offsetof(shmq_header, uid), SHMQ_E_ARG, WHAT_UID } };
    for (int i = 0; i < 3; i++) {
        uint64_t total, there;
        shmq_detail d;
        CHECK(pread(seg.fd, u.page, sizeof u.page, 0) == sizeof u.page);
        EQ(sum_of(&u.h), u.h.checksum);
        memcpy(&there, u.page + table[i].offset, 8);
        there++;
        memcpy(u.page + table[i].offset, &there, 8);
        u.h.checksum = sum_of(&u.h);
        EQ(shmq_check_header(u.page, sizeof u.page, seg.total, &d, &total), table[i].rc);
        EQ(d.what, table[i].what);
        EQ(d.found, there);
        EQ(d.expected, there - 1);
    }
}
MAIN
