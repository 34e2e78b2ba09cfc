/* stress_roles.h: producers, consumers, a sidecar, observers and churners as threads over one mapping, each with a context
 * of its own, some of which die half-way through an operation. Every message carries its number in every word of its payload.
 */
#ifndef SHMQ_STRESS_ROLES_H
#define SHMQ_STRESS_ROLES_H
#include "harness.h"
#include "arena.h"
#include "queue.h"
#include "ring.h"
#include <pthread.h>

#define MOST 4000000u
typedef struct {
    uint64_t seed;
    int which;
    pthread_t thread;
} role;
static struct {
    void *base;
    uint64_t q, dlq;
    atomic_uint stop, next, deaths, pids, expired, viewed, peeked, dead_letters;
    _Atomic unsigned char *acked, *sent;
} st;

static shmq_ctx *enlist(void) {
    shmq_ctx *c = shmq_ctx_new();
    CHECK(c != NULL);
    EQ(shmq_map_address(c, st.base, seg.total, 1), SHMQ_OK);
    EQ(shmq_verify(c), SHMQ_OK);
    CHECK(shmq_attach(c, SHMQ_CLIENT) >= 0);
    return c;
}

static void base_segment(uint64_t memory_limit, uint64_t max_message) {
    seg.config = (shmq_config){ .memory_limit = memory_limit, .max_message = max_message, .provider = SHMQ_SYSV };
    seg.total = shmq_plan(&seg.config, &seg.g);
    seg.fd = memfd_create("shmq-stress", MFD_CLOEXEC);
    CHECK(seg.fd >= 0 && ftruncate(seg.fd, (off_t)seg.total) == 0);
    st.base = mmap(NULL, seg.total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, seg.fd, 0);
    CHECK(st.base != MAP_FAILED);
    shmq_ctx *c = shmq_ctx_new();
    EQ(shmq_map_address(c, st.base, seg.total, 1), SHMQ_OK);
    EQ(shmq_format(c, &seg.config), SHMQ_OK);
    shmq_ctx_delete(c);
    st.acked = calloc(MOST, 1);
    st.sent = calloc(MOST, 1);
}

/* This context is dead from here on: its record names a process that does not exist. */
static shmq_ctx *fall(shmq_ctx *c) {
    uint32_t pid;
    do pid = 4194303 - atomic_fetch_add(&st.pids, 1);
    while (kill((pid_t)pid, 0) == 0 || errno != ESRCH);
    die_as(c, pid);
    atomic_fetch_add(&st.deaths, 1);
    return enlist();
}

static void paint(void *to, uint64_t n, uint64_t value) {
    for (uint64_t i = 0; i + 8 <= n; i += 8) memcpy((char *)to + i, &value, 8);
}
static void painted(const uint8_t *p, uint64_t n, uint64_t value, const char *who) {
    for (uint64_t i = 0; i + 8 <= n; i += 8) {
        uint64_t w;
        memcpy(&w, p + i, 8);
        if (w != value) {
            printf("     %s: word %llu of %llu is %llx, expected %llx\n", who, (unsigned long long)i / 8, (unsigned long long)n / 8,
                   (unsigned long long)w, (unsigned long long)value);
            fflush(stdout);
            _exit(1);
        }
    }
}

static uint64_t some_size(uint64_t *s) {
    uint64_t r = rnd(s) % 1000;
    return (r < 600 ? 8 + rnd(s) % 56 : r < 900 ? 8 + rnd(s) % 1000 : r < 995 ? 8 + rnd(s) % 9000 : 8 + rnd(s) % 150000) & ~UINT64_C(7);
}

static void *producer(void *arg) {
    role *me = arg;
    shmq_ctx *c = enlist();
    static _Thread_local uint64_t buffer[8][20000];
    while (!st.stop) {
        uint32_t n = rnd(&me->seed) % 16 == 0 ? 8 : 1;
        uint32_t first = atomic_fetch_add(&st.next, n);
        if (first + n >= MOST) break;
        shmq_message m[8];
        for (uint32_t i = 0; i < n; i++) {
            uint64_t size = some_size(&me->seed);
            paint(buffer[i], size, first + i);
            m[i] = (shmq_message){ .data = buffer[i], .size = size, .delay_ns = rnd(&me->seed) % 64 == 0 ? rnd(&me->seed) % (5 * MS) : 0 };
            if (rnd(&me->seed) % 8 == 0) {
                m[i].meta = "head";
                m[i].meta_size = 4;
            }
        }
        uint64_t fate = rnd(&me->seed) % 2000;
        if (fate < 3) {   /* dies with a loan in its hands */
            shmq_delivery loan;
            if (shmq_loan(c, st.q, 100, 0, &loan) == SHMQ_OK) paint((void *)(uintptr_t)loan.data, 96, 1);
            c = fall(c);
            continue;
        }
        if (fate < 6) {   /* dies right after the slot CAS: published, but still NEW */
            uint32_t idx;
            uint64_t ctl;
            if (shmq_depth(c, st.q) < 0) continue;
            local_queue *q = &c->local[st.q & 0xffff];
            ctx_lock(c);
            op_begin(c);
            if (arena_alloc(c, 64, &idx, &ctl) == SHMQ_OK) {
                shmq_block *b = block_at(c, idx);
                paint(payload_of(c, idx), 64, first);
                b->id = 1;
                b->published_ns = shmq_now();
                b->expires_ns = 0;
                b->size = 64;
                st_rlx(&b->due_ns, 0);
                st32_rlx(&b->extra, ld32_rlx(&b->extra) & 255);
                unsigned home = st.q & 0xffff;
                st_rlx(&b->fate, fate_make(home, home, 0, 0, 0, 0, 0, 0));
                st.sent[first] = 1;   /* before anybody can ack it */
                /* a wrong ctl: its CAS to READY fails */
                if (ring_enqueue(c, &q->work, idx, ctl ^ 1, q->max_depth) != SHMQ_OK) st.sent[first] = 0;
            }
            ctx_unlock(c);
            c = fall(c);
            continue;
        }
        for (uint32_t done = 0; done < n && !st.stop;) {
            for (uint32_t i = done; i < n; i++) st.sent[first + i] = 1;
            int rc = shmq_publish_many(c, st.q, m + done, n - done);
            if (rc < 0) rc = rc == SHMQ_FULL || rc == SHMQ_E_NOMEM ? 0 : rc;
            CHECK(rc >= 0);
            done += (uint32_t)rc;
            for (uint32_t i = done; i < n; i++) st.sent[first + i] = 0;
            if (done < n) shmq_wait_space(c, st.q, shmq_now() + 20 * MS, 5000);
        }
    }
    EQ(shmq_detach(c), SHMQ_OK);
    return NULL;
}

static void settled(uint64_t value) {
    CHECK(value < MOST);
    if (atomic_fetch_add(&st.acked[value], 1) != 0) {
        printf("     message %llu was acked twice\n", (unsigned long long)value);
        fflush(stdout);
        _exit(1);
    }
}

static void *consumer(void *arg) {
    role *me = arg;
    shmq_ctx *c = enlist();
    shmq_delivery d[8];
    while (!st.stop) {
        uint64_t q = rnd(&me->seed) % 8 == 0 ? st.dlq : st.q;
        uint32_t max = 1 + rnd(&me->seed) % 8;
        uint64_t way = rnd(&me->seed) % 3000;
        if (way < 3) {   /* dies between the ctl CAS and the slot CAS */
            ring_item item;
            uint32_t entry;
            if (shmq_depth(c, q) > 0) {
                ctx_lock(c);
                op_begin(c);
                local_ring *r = &c->local[q & 0xffff].work;
                if (ring_find(c, r, &item) == SHMQ_OK && c->held_fresh < 200) {
                    uint64_t own = ctl_next(item.ctl, SHMQ_OWNED, c->self);
                    entry = c->held_fresh;
                    st_rlx(&c->held[entry].deadline, 0);
                    st_sc(&c->held[entry].word, held_make(SHMQ_HELD_STARTED, ctl_gen(own), item.idx));
                    st32_rel(&c->me->held_hwm, entry + 1);
                    cas(&block_at(c, item.idx)->ctl, item.ctl, own);
                }
                ctx_unlock(c);
                c = fall(c);
            }
            continue;
        }
        int n = shmq_take(c, q, max, way < 100 ? SHMQ_TAKE_AHEAD : 0, d);
        if (n == SHMQ_EMPTY) {
            shmq_wait_items(c, q, shmq_now() + 5 * MS, 2000);
            continue;
        }
        if (n <= 0) printf("     take: %d\n", n);
        CHECK(n > 0);
        for (int i = 0; i < n; i++) painted(d[i].data, d[i].size, value_of(&d[i]), "taken");
        if (way < 6) {   /* dies with all of them */
            c = fall(c);
            continue;
        }
        if (way < 9) {                            /* dies in the middle of a nack */
            uint64_t m = ctl_next(d[0].ctl, SHMQ_MOVE, c->self);
            cas(&block_at(c, d[0].idx)->ctl, d[0].ctl, m);
            c = fall(c);
            continue;
        }
        if (way >= 100 && way < 108) nap(40 * MS);   /* the leases expire meanwhile */
        for (int i = 0; i < n; i++) {
            uint64_t v = value_of(&d[i]), what = rnd(&me->seed) % 100;
            painted(d[i].data, d[i].size, v, "before settling");
            if (d[i].extra_size) CHECK(d[i].extra != NULL);
            int rc;
            if (way < 100) {
                rc = shmq_start(c, &d[i]);
                if (rc == SHMQ_STALE) continue;
                EQ(rc, SHMQ_OK);
            }
            if (what < 6) {
                rc = shmq_nack(c, &d[i], rnd(&me->seed) % 4 ? 0 : rnd(&me->seed) % (3 * MS), "why it failed", what < 3 ? 13 : 0);
                CHECK(rc == SHMQ_OK || rc == SHMQ_STALE);
                continue;
            }
            if (what < 8 && q == st.q) {
                rc = shmq_reject(c, &d[i], "no", 2);
                CHECK(rc == SHMQ_OK || rc == SHMQ_STALE);
                continue;
            }
            if (what < 10) {
                rc = shmq_release(c, &d[i]);
                CHECK(rc == SHMQ_OK || rc == SHMQ_STALE);
                continue;
            }
            if (what < 20) {
                rc = shmq_touch(c, &d[i], 25 * MS);
                if (rc == SHMQ_STALE) continue;
                EQ(rc, SHMQ_OK);
            }
            if (what < 30) {
                uint32_t held = d[i].held, idx = d[i].idx, size = d[i].size;
                const uint8_t *p = d[i].data;
                rc = shmq_settle_viewed(c, &d[i]);
                CHECK(rc == SHMQ_OK || rc == SHMQ_STALE);
                if (rc == SHMQ_OK) settled(v);
                if (what < 21) nap(MS);
                painted(p, size, v, "viewed after the ack");
                rc = shmq_view_end(c, held, idx);
                CHECK(rc == SHMQ_OK || rc == SHMQ_STALE);
                atomic_fetch_add(&st.viewed, 1);
                continue;
            }
            rc = shmq_ack(c, &d[i], 1);
            CHECK(rc == 1 || rc == SHMQ_STALE);
            if (rc == 1) settled(v);
        }
    }
    EQ(shmq_detach(c), SHMQ_OK);
    return NULL;
}

static void housekeeping(shmq_ctx *c) {
    uint32_t idx[256], scan = 0, from = 0;
    uint64_t due[256], next, again;
    int n = shmq_timers_collect(c, idx, due, 256, &scan);
    CHECK(n >= 0);
    n = shmq_leases_expire(c, shmq_now(), &next);
    CHECK(n >= 0);
    atomic_fetch_add(&st.expired, (unsigned)n);
    CHECK(shmq_reap(c, 0) >= 0);
    while (from < SHMQ_BLOCKS) {
        n = shmq_timers_scan(c, &from, idx, due, 256);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++)
            if (due[i] <= shmq_now()) {
                int rc = shmq_timer_fire(c, idx[i], shmq_now(), &again);
                CHECK(rc == SHMQ_OK || rc == SHMQ_FULL || rc == SHMQ_STALE);
            }
    }
}

static void *sidecar(void *arg) {
    role *me = arg;
    shmq_ctx *c = enlist();
    for (int i = 0; !st.stop; i++) {
        housekeeping(c);
        if (i % 16 == 0) CHECK(shmq_trim(c, rnd(&me->seed) % (1 << 20)) >= 0);
        if (i % 8 == 0) CHECK(shmq_queue_collect(c) >= 0);
        shmq_wait_word(c, SHMQ_WORD_TIMER, shmq_read_word(c, SHMQ_WORD_TIMER), shmq_now() + 2 * MS);
    }
    EQ(shmq_detach(c), SHMQ_OK);
    return NULL;
}

static void *observer(void *arg) {
    role *me = arg;
    shmq_ctx *c = enlist();
    while (!st.stop) {
        uint64_t cursor = 0, q = rnd(&me->seed) & 1 ? st.q : st.dlq;
        shmq_delivery d;
        for (int i = 0; i < 50; i++) {
            int rc = shmq_peek(c, q, &cursor, &d);
            if (rc == SHMQ_EMPTY) break;
            EQ(rc, SHMQ_OK);
            painted(d.data, d.size, value_of(&d), "peeked");
            if (i % 16 == 0) {
                nap(MS / 2);
                painted(d.data, d.size, value_of(&d), "peeked and kept");
            }
            EQ(shmq_view_end(c, d.held, d.idx), SHMQ_OK);
            atomic_fetch_add(&st.peeked, 1);
        }
        shmq_queue_info qi;
        shmq_owner_info oi;
        shmq_segment_info si;
        shmq_census s;
        shmq_audit_report r;
        for (uint32_t i = 0; i < 8; i++) {
            shmq_queue_snapshot(c, i, &qi);
            shmq_owner_snapshot(c, i, &oi);
        }
        EQ(shmq_segment_snapshot(c, &si), SHMQ_OK);
        EQ(shmq_queue_census(c, q, &s), SHMQ_OK);
        EQ(shmq_audit(c, &r), SHMQ_OK);
        EQ(r.bad, 0);
        CHECK(shmq_depth(c, q) >= 0);
        if (rnd(&me->seed) % 64 == 0) c = fall(c);
    }
    EQ(shmq_detach(c), SHMQ_OK);
    return NULL;
}

static void *churner(void *arg) {   /* queues that come and go, drop, are purged */
    role *me = arg;
    shmq_ctx *c = enlist();
    uint64_t buffer[16];
    while (!st.stop) {
        char name[16];
        snprintf(name, sizeof name, "t%d", (int)(rnd(&me->seed) % 3));
        shmq_queue_options o = { .max_depth = 1 + rnd(&me->seed) % 40,
                                 .overflow = rnd(&me->seed) & 1 ? SHMQ_DROP_OLDEST : SHMQ_REJECT,
                                 .max_retries = 1,
                                 .max_bytes = rnd(&me->seed) % 3 ? 0 : 800,
                                 .dead_letter = SHMQ_NO_QUEUE };
        int64_t q = shmq_queue_create(c, name, &o);
        if (q == SHMQ_E_EXISTS) q = shmq_queue_open(c, name);
        if (q < 0) {
            CHECK(q == SHMQ_E_NOTFOUND || q == SHMQ_BUSY || q == SHMQ_E_NOMEM);
            continue;
        }
        for (int i = 0; i < 60; i++) {
            shmq_delivery d;
            paint(buffer, sizeof buffer, 5);
            shmq_message m = { .data = buffer, .size = 8 + rnd(&me->seed) % 15 * 8, .ttl_ns = rnd(&me->seed) % 4 ? 0 : 1000 };
            int rc = shmq_publish(c, (uint64_t)q, &m);
            CHECK(rc == SHMQ_OK || rc == SHMQ_FULL || rc == SHMQ_GONE || rc == SHMQ_CLOSED || rc == SHMQ_E_NOMEM);
            if (rnd(&me->seed) % 2) continue;
            rc = shmq_take(c, (uint64_t)q, 1, rnd(&me->seed) % 4 ? 0 : SHMQ_TAKE_FREE, &d);
            CHECK(rc == 1 || rc == SHMQ_EMPTY || rc == SHMQ_GONE || rc == SHMQ_CLOSED);
            if (rc != 1) continue;
            painted(d.data, d.size, 5, "churned");
            rc = rnd(&me->seed) % 3 ? shmq_ack(c, &d, 1) : shmq_nack(c, &d, 0, "x", 1);
            CHECK(rc == SHMQ_OK || rc == 1 || rc == SHMQ_STALE);
        }
        if (rnd(&me->seed) % 2) CHECK(shmq_purge(c, (uint64_t)q) >= SHMQ_GONE);
        if (rnd(&me->seed) % 4 == 0) shmq_queue_close(c, (uint64_t)q);
        if (rnd(&me->seed) % 2) {
            int rc = shmq_queue_delete(c, (uint64_t)q);
            CHECK(rc == SHMQ_OK || rc == SHMQ_GONE || rc == SHMQ_BUSY);
        }
        if (rnd(&me->seed) % 16 == 0) c = fall(c);
    }
    EQ(shmq_detach(c), SHMQ_OK);
    return NULL;
}

/* Let n roles work for some seconds, then see that everything that was sent was settled exactly once. */
static void stage(void *(*const *what)(void *), int n, unsigned seconds) {
    const char *text = getenv("STRESS_SEED"), *longer = getenv("STRESS_SECONDS");
    uint64_t seed = text ? strtoull(text, NULL, 0) : shmq_now() ^ (uint64_t)getpid() << 40;
    if (longer) seconds = (unsigned)atoi(longer);
    role roles[16];
    for (int i = 0; i < n; i++) {
        roles[i] = (role){ .seed = seed + (uint64_t)i * 977, .which = i };
        CHECK(pthread_create(&roles[i].thread, NULL, what[i], &roles[i]) == 0);
    }
    nap(seconds * SECONDS);
    st.stop = 1;
    for (int i = 0; i < n; i++) pthread_join(roles[i].thread, NULL);
    shmq_ctx *c = enlist();
    uint64_t sent = 0, lost = 0, end = shmq_now() + 30 * SECONDS;
    for (int quiet = 0; quiet < 3 && shmq_now() < end;) {
        shmq_delivery d;
        nap(2 * MS);
        housekeeping(c);
        int moved = 0;
        for (int which = 0; which < 2; which++)
            while (shmq_take(c, which ? st.dlq : st.q, 1, 0, &d) == 1) {
                painted(d.data, d.size, value_of(&d), "drained");
                if (which) atomic_fetch_add(&st.dead_letters, 1);
                settled(value_of(&d));
                EQ(shmq_ack(c, &d, 1), 1);
                moved = 1;
            }
        shmq_census a, b;
        shmq_queue_census(c, st.q, &a);
        shmq_queue_census(c, st.dlq, &b);
        quiet = moved || a.delayed + b.delayed + a.unsettled + b.unsettled + a.moving + b.moving ? 0 : quiet + 1;
    }
    uint32_t most = st.next < MOST ? st.next : MOST;
    for (uint32_t i = 0; i < most; i++) {
        sent += st.sent[i];
        if (st.sent[i] && !st.acked[i] && lost++ < 5) printf("     message %u is lost\n", i);
        CHECK(st.sent[i] || !st.acked[i]);
    }
    printf("     seed %llu: %llu messages, %u deaths, %u leases expired, %u viewed, %u peeked\n", (unsigned long long)seed,
           (unsigned long long)sent, st.deaths, st.expired, st.viewed, st.peeked);
    EQ(lost, 0);
    for (uint32_t i = 0; i < SHMQ_QUEUES; i++) {   /* the churned queues end empty, too */
        int64_t q = shmq_queue_adopt(c, i);
        if (q > 0 && (uint64_t)q != st.q && (uint64_t)q != st.dlq) shmq_queue_delete(c, (uint64_t)q);
    }
    housekeeping(c);
    shmq_queue_collect(c);
    nothing_left(c);
}
#endif
