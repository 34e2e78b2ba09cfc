/* chaos.c: producers, consumers and janitors killed and stopped at random, thousands of times.
 *
 * A controller forks small workers, kills them (SIGKILL) or stops them for a while (SIGSTOP) at random moments, and forks new
 * ones. What each worker did is noted in anonymous shared memory outside the segment, which survives it: before each call
 * (invoked) and after it (returned). At the end everything is drained, and the notes are held against what is there:
 *
 *   lost      publish returned, and the message was neither settled nor is it there; nobody died while settling it
 *   twice     two acks of one message returned success, or it is there although an ack returned
 *   nowhere   a message that nobody published
 *   torn      payload or headers with other bytes than published
 *   order     a first delivery overtook one of the same producer (work order: first deliveries only; of one level where there are several);
 *             what is committed before it has its place (copies of a topic, forwards, ids) may come late if its process died in that call
 *   partial   a message of a topic got to one of its two subscriptions
 *   leaked    a block that is not FREE at the end, or FREE and not hinted
 *   hung      nobody got on for seconds
 *
 * Features at once: levels, keys, ids, a topic with two subscriptions, forwards, times to live. A producer that was killed with an
 * id in its hands is followed by one that publishes this id again. What was forwarded is accounted for together with what it
 * became: a delivery and all its replacements are one message, wherever their processes died.
 *
 *   chaos [--kills N] [--rate PER_SECOND] [--seed S] [--quiet]
 */
#define _GNU_SOURCE
#include "arena.h"
#include "ctx.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 13
/* LEASED: leases end by the clock; KEYS and the subscriptions know ids */
enum { PLAIN, LEASED, DEAD, LEVELS, KEYS, SUB_LEVELS, SUB_KEYS, QUEUES, TOPIC = QUEUES };
#define MOST (UINT64_C(1) << 25)
#define HEAD 24

enum role { PRODUCER, CONSUMER, BURIER, JANITOR };
static const enum role ROLE[SLOTS] = { PRODUCER, PRODUCER, PRODUCER, PRODUCER, CONSUMER, CONSUMER, CONSUMER,
                                       CONSUMER, CONSUMER, CONSUMER, BURIER,   JANITOR,  JANITOR };

/* of what uid is in a queue, or in the first subscription: notes[2 uid]; in the second: notes[2 uid + 1] */
typedef struct {
    /* inherited: with an id, its process died before it had returned */
    _Atomic(uint8_t) pub_invoked, pub_returned, acked, doubt, drained, delivered, delayed, unsure, told, inherited;
    _Atomic(uint32_t) life;     /* which of its slot's processes has begun with it */
    _Atomic(uint32_t) parent;   /* what it is the replacement of, + 1 */
    uint32_t sum, sum_doubt;    /* with all its replacements: at the end */
} note;

static struct shared {
    _Atomic(uint64_t) next;                       /* message numbers */
    _Atomic(uint64_t) newest[QUEUES][SLOTS][3];   /* highest first delivery that has returned */
    struct {
        _Atomic(uint64_t) uid;
        uint32_t to, size;
    } open[SLOTS];   /* with an id: published, or to be published again */
    _Atomic(uint64_t) steps[SLOTS];
    _Atomic(uint32_t) life[SLOTS];
    _Atomic(uint64_t) torn, nowhere, disorder, twice, strange, attached, published, acks, stale, nacks, rejects, touches, views, loans,
        released, fired, expired, reaped, peeks, nomem;
    _Atomic(uint64_t) told, ids, again, forwards, forwards_told, outlived, late;
    _Atomic(uint64_t) disorder_at, disorder_of, disorder_behind;
    _Atomic(int64_t) strange_rc;
    _Atomic(uint64_t) strange_line;
} *S;
static note *notes;
static int fd;
static uint64_t total, qref[QUEUES + 1];

static uint64_t rng;
static uint32_t rnd(uint32_t n) {
    rng ^= rng >> 12;
    rng ^= rng << 25;
    rng ^= rng >> 27;
    return (uint32_t)((rng * UINT64_C(2685821657736338717)) >> 33) % n;
}
static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
#define STRANGE(rc) \
    do { \
        if (S->strange++ == 0) { \
            S->strange_rc = (rc); \
            S->strange_line = __LINE__; \
        } \
    } while (0)

/* ---- messages: number, producer, size, check, then bytes that follow from them ---- */
static uint32_t mix(uint64_t uid, uint32_t i) { return (uint32_t)((uid * 0x9e3779b97f4a7c15u + i * 0xc2b2ae35u) >> 24); }
static void write_message(uint8_t *b, uint64_t uid, uint32_t slot, uint32_t size) {
    memcpy(b, &uid, 8);
    memcpy(b + 8, &slot, 4);
    memcpy(b + 12, &size, 4);
    uint64_t check = uid * 31 + slot * 7 + size;
    memcpy(b + 16, &check, 8);
    for (uint32_t i = HEAD; i < size; i++) b[i] = (uint8_t)mix(uid, i);
}
static uint64_t read_message(const shmq_delivery *d, uint32_t *slot) {   /* 0 = torn */
    uint64_t uid, check;
    uint32_t size;
    if (d->size < HEAD) return 0;
    memcpy(&uid, d->data, 8);
    memcpy(slot, d->data + 8, 4);
    memcpy(&size, d->data + 12, 4);
    memcpy(&check, d->data + 16, 8);
    if (size != d->size || check != uid * 31 + *slot * 7 + size || *slot >= SLOTS) return 0;
    for (uint32_t i = HEAD; i < size; i++)
        if (d->data[i] != (uint8_t)mix(uid, i)) return 0;
    if (d->meta_size && (d->meta_size != 8 || memcmp(d->meta, &uid, 8))) return 0;
    return uid;
}
/* Which message that is: 2 uid, or 2 uid + 1; 0 = none. */
static uint64_t seen(const shmq_delivery *d, uint32_t *slot) {
    uint64_t uid = read_message(d, slot), n = 2 * uid + ((d->reason ? d->origin : d->queue) == (qref[SUB_KEYS] & 0xffff));
    if (uid == 0) {
        S->torn++;
        return 0;
    }
    if (uid >= MOST || !notes[n].pub_invoked) {
        S->nowhere++;
        return 0;
    }
    notes[n].delivered++;
    return n;
}
static uint32_t level_of_queue(uint32_t qi, uint64_t n) { return qi == LEVELS || qi == SUB_LEVELS ? (uint32_t)(n / 2 % 3) : 0; }

/* ---- workers ---- */
static shmq_ctx *attach(void) {
    shmq_ctx *c = shmq_ctx_new();
    if (!c || shmq_map_fd(c, fd, total) != 0 || shmq_verify(c) != 0) _exit(3);
    int rc = shmq_attach(c, SHMQ_CLIENT);
    if (rc < 0) {
        STRANGE(rc);
        _exit(3);
    }
    S->attached++;
    return c;
}

/* a key for each producer: its order holds there too */
static const uint8_t KEY[SLOTS] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
static void invoked(uint64_t uid, uint32_t to, uint32_t slot, int yes) {
    notes[2 * uid].life = notes[2 * uid + 1].life = S->life[slot];
    notes[2 * uid].pub_invoked = (uint8_t)yes;
    if (to == TOPIC) notes[2 * uid].told = notes[2 * uid + 1].pub_invoked = (uint8_t)yes;
}
static void returned(uint64_t uid, uint32_t to) {
    notes[2 * uid].pub_returned = 1;
    if (to == TOPIC) {
        notes[2 * uid + 1].pub_returned = 1;
        S->told++;
    }
    S->published++;
}
static int publish_to(shmq_ctx *c, uint32_t to, shmq_message *m) {
    return to == TOPIC ? shmq_topic_publish(c, qref[TOPIC], m) : shmq_publish(c, qref[to], m);
}
static void wait_room(shmq_ctx *c, uint32_t to, uint32_t slot) {
    int rc = shmq_wait_space(c, to == TOPIC ? (uint64_t)shmq_topic_blocker(c, qref[TOPIC]) : qref[to], shmq_now() + 20000000, UINT64_MAX);
    if (rc != SHMQ_OK && rc != SHMQ_TIMEOUT && rc != SHMQ_INTR) STRANGE(rc);
    S->steps[slot]++;
}

/* Publish what S->open[slot] says, until it is published; whoever of this slot's processes began with it. */
static void publish_open(shmq_ctx *c, uint32_t slot, uint8_t *b) {
    uint64_t uid = S->open[slot].uid;
    uint32_t to = S->open[slot].to;
    write_message(b, uid, slot, S->open[slot].size);
    for (int twice = rnd(3) == 0; twice >= 0;) {
        shmq_message m = { .data = b,
                           .size = S->open[slot].size,
                           .dedup = &uid,
                           .dedup_size = 8,
                           .key = &KEY[slot],
                           .key_size = 1,
                           .priority = (uint32_t)(uid % 3),
                           .ttl_ns = uid % 16 ? 0 : 1000000 + uid % 20000000 };
        int rc = publish_to(c, to, &m);
        if (rc == SHMQ_OK && !notes[2 * uid].pub_returned) returned(uid, to);
        if (rc == SHMQ_FULL) wait_room(c, to, slot);
        else if (rc == SHMQ_OK) {
            S->ids++;
            twice--;
        } else if (rc == SHMQ_E_NOMEM) {
            S->nomem++;
            break;
        } else {
            STRANGE(rc);
            break;
        }
    }
    S->open[slot].uid = 0;
}

static void produce(shmq_ctx *c, uint32_t slot) {
    static uint8_t b[8][70000];
    shmq_message m[8];
    uint64_t uid[8];
    if (S->open[slot].uid) {
        S->again++;
        notes[2 * S->open[slot].uid].inherited = notes[2 * S->open[slot].uid + 1].inherited = 1;
        publish_open(c, slot, b[0]);
    }
    for (;;) {
        S->steps[slot]++;
        if (S->next > MOST - 100000) {
            usleep(1000);
            continue;
        }
        static const uint8_t TO[12] = { PLAIN, PLAIN, PLAIN, LEASED, LEASED, LEVELS, LEVELS, KEYS, KEYS, KEYS, TOPIC, TOPIC };
        uint32_t n = rnd(8) ? 1 : 1 + rnd(8), qi = TO[rnd(12)], how = rnd(20);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t size = HEAD + rnd(80), r = rnd(400);
            if (r == 0) size = 20000 + rnd(40000);
            else if (r < 20) size = 300 + rnd(5000);
            uid[i] = atomic_fetch_add(&S->next, 1);
            write_message(b[i], uid[i], slot, size);
            m[i] = (shmq_message){ .data = b[i],
                                   .size = size,
                                   .meta = rnd(4) ? NULL : &uid[i],
                                   .meta_size = 8,
                                   .key = &KEY[slot],
                                   .key_size = 1,
                                   .priority = (uint32_t)(uid[i] % 3) };
            if (m[i].meta == NULL) m[i].meta_size = 0;
            if (rnd(30) == 0) {
                m[i].delay_ns = 1000000 + rnd(20000000);
                notes[2 * uid[i]].delayed = notes[2 * uid[i] + 1].delayed = 1;
            }
            if (qi >= LEVELS && rnd(10) == 0) m[i].ttl_ns = 1000000 + rnd(20000000);
        }
        int rc;
        if (n == 1 && (qi == KEYS || qi == TOPIC) && m[0].delay_ns == 0 && rnd(2)) {   /* with an id */
            S->open[slot].to = qi;
            S->open[slot].size = (uint32_t)m[0].size;
            invoked(uid[0], qi, slot, 1);
            S->open[slot].uid = uid[0];
            publish_open(c, slot, b[0]);
            continue;
        }
        if (how == 0 && qi != TOPIC) {   /* written in place */
            shmq_delivery loan;
            rc = shmq_loan(c, qref[qi], m[0].size, 8, &loan);
            if (rc == 0) {
                S->loans++;
                write_message((uint8_t *)(uintptr_t)loan.data, uid[0], slot, (uint32_t)m[0].size);
                if (rnd(4) == 0) {
                    if ((rc = shmq_loan_abort(c, &loan)) != 0) STRANGE(rc);
                    continue;
                }
                invoked(uid[0], qi, slot, 1);
                rc = shmq_loan_publish(c, qref[qi], &loan, &m[0]);
                if (rc == 0) returned(uid[0], qi);
                else if (rc == SHMQ_FULL) {
                    invoked(uid[0], qi, slot, 0);
                    shmq_loan_abort(c, &loan);
                } else STRANGE(rc);
            } else if (rc == SHMQ_E_NOMEM) S->nomem++;
            else STRANGE(rc);
            continue;
        }
        for (uint32_t done = 0; done < n;) {
            for (uint32_t i = done; i < n; i++) invoked(uid[i], qi, slot, 1);
            rc = n == 1        ? publish_to(c, qi, &m[0])
                 : qi == TOPIC ? shmq_topic_publish_many(c, qref[qi], m + done, n - done)
                               : shmq_publish_many(c, qref[qi], m + done, n - done);
            if (n == 1 && rc == 0) rc = 1;
            if (rc > 0) {
                for (int i = 0; i < rc; i++) returned(uid[done + (uint32_t)i], qi);
                done += (uint32_t)rc;
            } else if (rc == SHMQ_FULL) wait_room(c, qi, slot);
            else if (rc == SHMQ_E_NOMEM) {
                S->nomem++;
                for (uint32_t i = done; i < n; i++) invoked(uid[i], qi, slot, 0);
                break;
            } else {
                STRANGE(rc);
                break;
            }
        }
        if (rnd(16) == 0) usleep(rnd(300));
    }
}

/* A new message in place of n: both or neither. 0 = it was not forwarded, and is still held (or stale). */
static int forward(shmq_ctx *c, shmq_delivery *d, uint64_t n, uint32_t slot) {
    static uint8_t b[70000];
    static const uint8_t TO[6] = { PLAIN, LEVELS, KEYS, KEYS, LEASED, TOPIC };
    if (S->next > MOST - 100000) return 0;
    uint64_t uid = atomic_fetch_add(&S->next, 1);
    uint32_t to = TO[rnd(6)], size = d->size < sizeof b ? d->size : HEAD;
    write_message(b, uid, slot, size);
    shmq_message m = { .data = b,
                       .size = size,
                       .key = &KEY[slot],
                       .key_size = 1,
                       .priority = (uint32_t)(uid % 3),
                       .dedup = rnd(2) ? &uid : NULL,
                       .dedup_size = 8,
                       .ttl_ns = rnd(20) ? 0 : 1000000 + rnd(20000000) };
    notes[2 * uid].parent = (uint32_t)n + 1;
    invoked(uid, to, slot, 1);
    int rc = shmq_forward(c, d, qref[to], &m);
    if (rc == SHMQ_OK) {
        returned(uid, to);
        S->forwards++;
        S->forwards_told += to == TOPIC;
        return 1;
    }
    invoked(uid, to, slot, 0);
    notes[2 * uid].parent = 0;
    if (rc == SHMQ_STALE) {
        S->stale++;
        return 1;
    }
    if (rc == SHMQ_E_NOMEM) S->nomem++;
    else if (rc != SHMQ_FULL) STRANGE(rc);
    return 0;
}

static void settle_one(shmq_ctx *c, shmq_delivery *d, uint64_t n, uint32_t slot) {
    uint32_t how = rnd(23);
    int rc;
    if (how >= 20 && forward(c, d, n, slot)) return;
    if (how < 12 || how >= 20) {
        notes[n].doubt++;
        rc = shmq_ack(c, d, 1);
        if (rc == 1) {
            if (notes[n].acked++) S->twice++;
            S->acks++;
        } else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
        notes[n].doubt--;
    } else if (how < 15) {
        rc = shmq_nack(c, d, rnd(2) ? 0 : 500000 + rnd(3000000), rnd(3) ? NULL : "why", 3);
        if (rc == 0) S->nacks++;
        else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
    } else if (how == 15) {
        rc = shmq_reject(c, d, rnd(2) ? NULL : "why not", 7);
        if (rc == 0) S->rejects++;
        else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
    } else if (how == 16) {
        rc = shmq_release(c, d);
        if (rc == 0) S->released++;
        else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
    } else if (how == 17) {
        rc = shmq_touch(c, d, 50000000);
        if (rc == 0) S->touches++;
        else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
        if (rc == 0) settle_one(c, d, n, slot);
    } else if (how == 18) {   /* slow */
        usleep(rnd(3000));
        settle_one(c, d, n, slot);
    } else {   /* a view that outlives the ack: the bytes must stay */
        shmq_delivery copy = *d;
        uint32_t from;
        notes[n].doubt++;
        rc = shmq_settle_viewed(c, d);
        if (rc == 0) {
            if (notes[n].acked++) S->twice++;
            S->views++;
            S->acks++;
        } else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
        notes[n].doubt--;
        if (rnd(4) == 0) usleep(rnd(500));
        if (read_message(&copy, &from) != n / 2) S->torn++;
        rc = shmq_view_end(c, copy.held, copy.idx);
        if (rc != 0) STRANGE(rc);
    }
}

/* Was n committed by a process that died before n had its place, and is what came before it of a process after that one? */
static int comes_late(uint64_t n, uint64_t before) {
    note *late = &notes[n];
    int committed_first = late->inherited || ((notes[n & ~UINT64_C(1)].told || late->parent) && !late->pub_returned);
    if (!committed_first || late->life == notes[before].life) return 0;
    S->late++;
    return 1;
}

static void consume(shmq_ctx *c, uint32_t slot) {
    static shmq_delivery d[16];
    static const uint8_t FROM[12] = { PLAIN, PLAIN, PLAIN, LEASED, LEASED, LEVELS, LEVELS, KEYS, KEYS, SUB_LEVELS, SUB_KEYS, SUB_KEYS };
    for (;;) {
        S->steps[slot]++;
        uint32_t qi = FROM[rnd(12)], max = rnd(3) ? 1 : 1 + rnd(16);
        uint64_t before[SLOTS][3], uids[16];
        for (uint32_t i = 0; i < SLOTS * 3; i++) before[i / 3][i % 3] = S->newest[qi][i / 3][i % 3];
        int rc = shmq_take(c, qref[qi], max, 0, d);
        if (rc == SHMQ_EMPTY) {
            rc = shmq_wait_items(c, qref[qi], shmq_now() + 2000000, UINT64_MAX);
            if (rc != SHMQ_OK && rc != SHMQ_TIMEOUT && rc != SHMQ_INTR) STRANGE(rc);
            continue;
        }
        if (rc < 0) {
            STRANGE(rc);
            continue;
        }
        int n = rc;
        for (int i = 0; i < n; i++) {
            uint32_t from;
            uids[i] = seen(&d[i], &from);
            if (uids[i] == 0) continue;
            if (d[i].attempt != 1 || d[i].redelivered || notes[uids[i]].delayed) continue;
            uint64_t *last = &before[from][level_of_queue(qi, uids[i])];
            if (uids[i] <= *last && !comes_late(uids[i], *last) && S->disorder++ == 0) {
                S->disorder_at = qi;
                S->disorder_of = uids[i];
                S->disorder_behind = *last;
            }
            if (uids[i] > *last) *last = uids[i];
        }
        for (int i = 0; i < n; i++) {   /* returned: later takes must give later ones */
            uint32_t from;
            if (uids[i] == 0 || d[i].attempt != 1 || d[i].redelivered || notes[uids[i]].delayed) continue;
            memcpy(&from, d[i].data + 8, 4);
            if (from >= SLOTS) continue;
            _Atomic(uint64_t) *newest = &S->newest[qi][from][level_of_queue(qi, uids[i])];
            uint64_t was = *newest;
            while (was < uids[i] && !atomic_compare_exchange_weak(newest, &was, uids[i])) {}
        }
        if (n > 1 && rnd(3) == 0) {   /* all in one call */
            for (int i = 0; i < n; i++)
                if (uids[i]) notes[uids[i]].doubt++;
            rc = shmq_ack(c, d, (uint32_t)n);
            if (rc < 0) STRANGE(rc);
            for (int i = 0; i < n; i++) {
                if (uids[i] == 0) continue;
                if (rc != n) notes[uids[i]].unsure = 1;   /* which of them were stale is not told */
                else if (notes[uids[i]].acked++) S->twice++;
                notes[uids[i]].doubt--;
            }
            if (rc > 0) S->acks += (uint64_t)rc;
        } else
            for (int i = 0; i < n; i++)
                if (uids[i]) settle_one(c, &d[i], uids[i], slot);
        if (rnd(200) == 0) {
            uint64_t cursor = 0;
            shmq_delivery p;
            for (int i = 0; i < 5; i++) {
                rc = shmq_peek(c, qref[qi], &cursor, &p);
                if (rc == SHMQ_EMPTY) break;
                if (rc != 0) {
                    STRANGE(rc);
                    break;
                }
                uint32_t from;
                if (read_message(&p, &from) == 0) S->torn++;
                S->peeks++;
                rc = shmq_view_end(c, p.held, p.idx);
                if (rc != 0) STRANGE(rc);
            }
        }
    }
}

static void bury(shmq_ctx *c, uint32_t slot) {
    for (;;) {
        shmq_delivery d;
        S->steps[slot]++;
        int rc = shmq_take(c, qref[DEAD], 1, 0, &d);
        if (rc == SHMQ_EMPTY) {
            shmq_wait_items(c, qref[DEAD], shmq_now() + 10000000, UINT64_MAX);
            continue;
        }
        if (rc != 1) {
            STRANGE(rc);
            continue;
        }
        uint32_t from;
        uint64_t uid = seen(&d, &from);
        if (d.reason == 0) STRANGE(-1000);
        if (uid == 0) continue;
        notes[uid].doubt++;
        rc = shmq_ack(c, &d, 1);
        if (rc == 1) {
            if (notes[uid].acked++) S->twice++;
            S->acks++;
        } else if (rc != SHMQ_STALE) STRANGE(rc);
        notes[uid].doubt--;
    }
}

static void service(shmq_ctx *c, int scan_all) {
    uint32_t idx[256], scan = 0, from = 0;
    uint64_t due[256], next;
    int n = shmq_timers_collect(c, idx, due, 256, &scan);
    if (n < 0) {
        STRANGE(n);
        n = 0;
    }
    for (int i = 0; i < n; i++) {
        uint64_t again;
        int rc = shmq_timer_fire(c, idx[i], shmq_now(), &again);
        S->fired += rc == 0;
    }
    while ((scan_all || rnd(4) == 0) && from < SHMQ_BLOCKS) {   /* hints that were collected and are not yet due */
        n = shmq_timers_scan(c, &from, idx, due, 256);
        if (n < 0) {
            STRANGE(n);
            break;
        }
        for (int i = 0; i < n; i++) {
            uint64_t again;
            if (due[i] > shmq_now()) continue;
            int rc = shmq_timer_fire(c, idx[i], shmq_now(), &again);
            S->fired += rc == 0;
        }
    }
    int rc = shmq_leases_expire(c, shmq_now(), &next);
    if (rc < 0) STRANGE(rc);
    else S->expired += (uint64_t)rc;
    if (shmq_next_expiry(c) > shmq_now()) return;
    for (from = 0; from < SHMQ_BLOCKS;) {
        rc = shmq_expire_scan(c, &from, shmq_now(), 0, idx, due, 0, &next);
        if (rc < 0) {
            STRANGE(rc);
            break;
        }
        S->outlived++;
    }
}
static void tidy(shmq_ctx *c, uint32_t slot) {
    for (;;) {
        S->steps[slot]++;
        int rc = shmq_reap(c, 0);
        if (rc < 0) STRANGE(rc);
        else S->reaped += (uint64_t)rc;
        service(c, 0);
        if (rnd(50) == 0) {
            int64_t t = shmq_trim(c, 1 << 20);
            if (t < 0) STRANGE(t);
        }
        usleep(1000);
    }
}

static pid_t spawn(uint32_t slot) {
    S->life[slot]++;
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(3);
    }
    if (pid) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    rng = (uint64_t)getpid() * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)(now_s() * 1e9);
    shmq_ctx *c = attach();
    switch (ROLE[slot]) {
    case PRODUCER: produce(c, slot); break;
    case CONSUMER: consume(c, slot); break;
    case BURIER: bury(c, slot); break;
    case JANITOR: tidy(c, slot); break;
    }
    _exit(0);
}

/* ---- the controller ---- */
int main(int argc, char **argv) {
    uint64_t kills_wanted = 1000, rate = 300, seed = 1, stops = 0, kills = 0, early = 0, quiet = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--kills") && i + 1 < argc) kills_wanted = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--rate") && i + 1 < argc) rate = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc) seed = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--quiet")) quiet = 1;
        else {
            fprintf(stderr, "unknown option %s\n", argv[i]);
            return 2;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    if (rate == 0) rate = 1;
    S = mmap(NULL, sizeof *S, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    notes = mmap(NULL, 2 * MOST * sizeof(note), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (S == MAP_FAILED || notes == MAP_FAILED) {
        perror("mmap");
        return 3;
    }
    S->next = 1;
    shmq_config cfg = { .memory_limit = 64u << 20, .max_message = 1u << 20, .provider = SHMQ_POSIX };
    shmq_geometry g;
    total = shmq_plan(&cfg, &g);
    fd = memfd_create("shmq-chaos", 0);
    if (fd < 0 || ftruncate(fd, (off_t)total) != 0) {
        perror("memfd");
        return 3;
    }
    shmq_ctx *c = shmq_ctx_new();
    if (shmq_map_fd(c, fd, total) != 0 || shmq_format(c, &cfg) != 0 || shmq_verify(c) != 0 || shmq_attach(c, SHMQ_SUPERVISOR) < 0) return 3;
    shmq_queue_options o = { .max_depth = 4096, .max_retries = UINT32_MAX, .dead_letter = SHMQ_NO_QUEUE };
    qref[DEAD] = (uint64_t)shmq_queue_create(c, "dead", &o);
    const shmq_queue_options work = { .max_depth = 64,
                                      .max_retries = 4,
                                      .dead_letter = (uint32_t)(qref[DEAD] & 0xffff),
                                      .dead_word = (qref[DEAD] >> 16) << 8 | SHMQ_Q_LIVE,
                                      .backoff_ns = 1000000,
                                      .backoff_max_ns = 8000000,
                                      .jitter_ppm = 500000 };
    const uint64_t hour = UINT64_C(3600000000000);   /* longer than any run: an id counts once, however long its producer was stopped */
    o = (shmq_queue_options){ .max_depth = 1, .dead_letter = SHMQ_NO_QUEUE, .kind = SHMQ_KIND_TOPIC };
    qref[TOPIC] = (uint64_t)shmq_queue_create(c, "/t", &o);
    for (int q = 0; q < QUEUES; q++) {
        if (q == DEAD) continue;
        char name[16];
        snprintf(name, sizeof name, "q%d", q);
        o = work;
        if (q == LEASED) o.ack_timeout_ns = 20000000;
        if (q == LEVELS || q == SUB_LEVELS) {
            o.priorities = 3;
            o.aging_ns = q == LEVELS ? 0 : 5000000;
        }
        if (q == KEYS || q == SUB_KEYS) o.order = SHMQ_BY_KEY;
        if (q == KEYS || q >= SUB_LEVELS) o.dedup_window_ns = hour;
        if (q >= SUB_LEVELS) {
            o.kind = SHMQ_KIND_SUBSCRIPTION;
            o.topic = qref[TOPIC];
        }
        qref[q] = (uint64_t)shmq_queue_create(c, name, &o);
    }
    for (int q = 0; q <= QUEUES; q++)
        if ((int64_t)qref[q] < 0) {
            fprintf(stderr, "queue %d: %ld\n", q, (long)qref[q]);
            return 3;
        }
    pid_t pid[SLOTS], stopped[SLOTS] = { 0 };
    for (uint32_t i = 0; i < SLOTS; i++) pid[i] = spawn(i);
    double start = now_s(), said = start, moved = start;
    uint64_t sum = 0;
    int hung = 0;
    while (kills < kills_wanted) {
        uint32_t s = rnd(SLOTS), how = rnd(20);
        if (stopped[s] && how < 12) {
            kill(pid[s], SIGCONT);
            stopped[s] = 0;
        } else if (!stopped[s] && how < 4) {
            kill(pid[s], SIGSTOP);
            stopped[s] = 1;
            stops++;
        } else {
            kill(pid[s], SIGKILL);
            int status;
            while (waitpid(pid[s], &status, 0) < 0 && errno == EINTR) {}
            if (!WIFSIGNALED(status)) {
                early++;
                printf("worker %u ended by itself: status %x\n", s, status);
            }
            stopped[s] = 0;
            kills++;
            if (rnd(2)) {
                int rc = shmq_reap(c, 0);
                if (rc < 0) STRANGE(rc);
                else S->reaped += (uint64_t)rc;
            }
            pid[s] = spawn(s);
        }
        uint64_t pause_ns = (uint64_t)rnd((uint32_t)(2000000000 / rate));
        struct timespec t = { (time_t)(pause_ns / 1000000000), (long)(pause_ns % 1000000000) };
        nanosleep(&t, NULL);
        double now = now_s();
        uint64_t here = S->acks + S->published;
        if (here != sum) {
            sum = here;
            moved = now;
        }
        if (now - moved > 15) {
            hung = 1;
            break;
        }
        if (!quiet && now - said > 5) {
            said = now;
            printf("%6.1f s  %lu kills, %lu stops, %lu published, %lu acked, %lu stale, %lu reaped\n", now - start, kills, stops,
                   (uint64_t)S->published, (uint64_t)S->acks, (uint64_t)S->stale, (uint64_t)S->reaped);
        }
    }
    double ran = now_s() - start;
    for (uint32_t i = 0; i < SLOTS; i++) {
        kill(pid[i], SIGKILL);
        while (waitpid(pid[i], NULL, 0) < 0 && errno == EINTR) {}
    }
    kills += SLOTS;
    if (hung) printf("HUNG: nobody got on for 15 s\n");
    /* everything that is left */
    for (int rc = 1; rc > 0;) rc = shmq_reap(c, 0);
    shmq_audit_report a;
    uint64_t bad = 0, rest = 0;
    if (shmq_audit(c, &a) != 0) return 3;
    bad = a.orphans + a.unlinked + a.dangling + a.limbo + a.attached + a.fans + a.bad + a.states[SHMQ_BAD];
    if (bad)
        printf("AUDIT: %lu orphans %lu unlinked %lu dangling %lu limbo %lu attached %lu fans %lu bad words %lu BAD\n", a.orphans,
               a.unlinked, a.dangling, a.limbo, a.attached, a.fans, a.bad, a.states[SHMQ_BAD]);
    for (int quiet_turns = 0, turn = 0; quiet_turns < 20 && turn < 2000; turn++) {
        int any = 0;
        service(c, 1);
        for (int q = 0; q < QUEUES; q++)
            for (;;) {
                shmq_delivery d;
                int rc = shmq_take(c, qref[q], 1, 0, &d);
                if (rc != 1) {
                    if (rc != SHMQ_EMPTY) STRANGE(rc);
                    break;
                }
                uint32_t from;
                uint64_t uid = seen(&d, &from);
                if (uid) notes[uid].drained++;
                rc = shmq_ack(c, &d, 1);
                if (rc != 1) STRANGE(rc);
                any = 1;
                rest++;
            }
        quiet_turns = any ? 0 : quiet_turns + 1;
        if (!any) usleep(2000);
    }
    uint64_t lost = 0, twice = S->twice, partial = 0, doubtful = 0, made = 0, last = 2 * (S->next < MOST ? S->next : MOST);
    for (uint64_t u = last; u-- > 2;) {   /* replacements have higher numbers than what they replace */
        note *n = &notes[u];
        n->sum += (uint32_t)(n->drained + n->acked);
        n->sum_doubt |= n->doubt || n->unsure;
        if (n->parent) {
            notes[n->parent - 1].sum += n->sum;
            notes[n->parent - 1].sum_doubt |= n->sum_doubt;
        }
    }
    for (uint64_t u = 2; u < last; u++) {
        note *n = &notes[u];
        if (n->pub_returned && !n->sum && !n->sum_doubt && lost++ < 5)
            printf("LOST: message %lu/%lu, delivered %u times\n", u / 2, u % 2, n->delivered);
        if (n->sum > 1 && twice++ < 5)
            printf("TWICE: message %lu/%lu: there %u, settled %u, with its replacements %u\n", u / 2, u % 2, n->drained, n->acked, n->sum);
        if (n->told && !n->sum_doubt && !n[1].sum_doubt && n->sum != n[1].sum && partial++ < 5)
            printf("PARTIAL: message %lu: %u and %u\n", u / 2, n->sum, n[1].sum);
        doubtful += n->doubt || n->unsure;
    }
    arena_return_all(c);
    if (shmq_audit(c, &a) != 0) return 3;
    uint64_t leaked = 0;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) made += ld_acq(&c->header->hwm[k].n);
    leaked = made - a.states[SHMQ_FREE] + a.unhinted;
    if (leaked) {
        printf("LEAKED: of %lu blocks FREE %lu NEW %lu READY %lu OWNED %lu MOVE %lu DELAYED %lu "
               "LIMBO %lu ATTACHED %lu FAN %lu BAD %lu; unhinted %lu\n",
               made, a.states[SHMQ_FREE], a.states[SHMQ_NEW], a.states[SHMQ_READY], a.states[SHMQ_OWNED], a.states[SHMQ_MOVE],
               a.states[SHMQ_DELAYED], a.states[SHMQ_LIMBO], a.states[SHMQ_ATTACHED], a.states[SHMQ_FAN], a.states[SHMQ_BAD], a.unhinted);
    }
    bad += a.orphans + a.unlinked + a.dangling + a.limbo + a.attached + a.fans + a.bad + ld32_acq(&c->header->corrupt);
    if (S->strange)
        printf("STRANGE: %lu unexpected results, the first: rc %ld at line %lu\n", (uint64_t)S->strange, (long)S->strange_rc,
               (uint64_t)S->strange_line);
    if (S->disorder) {
        note *of = &notes[S->disorder_of], *behind = &notes[S->disorder_behind];
        printf("ORDER: in queue %lu message %lu came after %lu; forwarded %d %d, returned %d %d, of its processes the %u and the %u\n",
               (uint64_t)S->disorder_at, (uint64_t)S->disorder_of / 2, (uint64_t)S->disorder_behind / 2, of->parent != 0,
               behind->parent != 0, of->pub_returned, behind->pub_returned, of->life, behind->life);
    }
    printf("%lu to a topic, %lu with ids, %lu of them by a dead producer's successor; %lu forwarded, %lu of them to a topic; "
           "%lu sweeps for expired ones; %lu of the dead came late\n",
           (uint64_t)S->told, (uint64_t)S->ids, (uint64_t)S->again, (uint64_t)S->forwards, (uint64_t)S->forwards_told,
           (uint64_t)S->outlived, (uint64_t)S->late);
    printf("%lu SIGKILLs, %lu SIGSTOPs in %.1f s; %lu attached; %lu published, %lu acked, %lu nacked, %lu rejected, "
           "%lu released, %lu touched, %lu views, %lu loans, %lu peeks, %lu stale, "
           "%lu leases ended, %lu timers fired, %lu deaths recovered, %lu no memory; %lu left at the end, %lu in doubt\n",
           kills, stops, ran, (uint64_t)S->attached, (uint64_t)S->published, (uint64_t)S->acks, (uint64_t)S->nacks, (uint64_t)S->rejects,
           (uint64_t)S->released, (uint64_t)S->touches, (uint64_t)S->views, (uint64_t)S->loans, (uint64_t)S->peeks, (uint64_t)S->stale,
           (uint64_t)S->expired, (uint64_t)S->fired, (uint64_t)S->reaped, (uint64_t)S->nomem, rest, doubtful);
    printf("lost %lu, twice %lu, from nowhere %lu, torn %lu, out of order %lu, partial %lu, "
           "leaked blocks %lu, broken invariants %lu, hung %d, strange %lu\n",
           lost, twice, (uint64_t)S->nowhere, (uint64_t)S->torn, (uint64_t)S->disorder, partial, leaked, bad, hung,
           (uint64_t)S->strange + early);
    int failed = lost || twice || partial || S->nowhere || S->torn || S->disorder || leaked || bad || hung || S->strange || early;
    printf("%d passed, %d failed\n", !failed, failed);
    return failed;
}
