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

#include "chaos_worker.h"

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
