/* The core from end to end in one process: format, attach, publish, take, settle, recover a killed child. */
#define _GNU_SOURCE
#include "shmq.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #x); \
            exit(1); \
        } \
    } while (0)

static int fd;
static uint64_t total;

static shmq_ctx *attach(void) {
    shmq_ctx *c = shmq_ctx_new();
    CHECK(c && shmq_map_fd(c, fd, total) == 0 && shmq_verify(c) == 0 && shmq_attach(c, SHMQ_CLIENT) >= 0);
    return c;
}

static void sound(shmq_ctx *c) {
    shmq_audit_report r;
    CHECK(shmq_audit(c, &r) == 0);
    CHECK(r.orphans + r.unlinked + r.dangling + r.limbo + r.attached + r.held + r.bad == 0);
}

int main(void) {
    shmq_config cfg = { .memory_limit = 1u << 30, .max_message = 64u << 20, .provider = SHMQ_POSIX };
    shmq_geometry g;
    total = shmq_plan(&cfg, &g);
    fd = memfd_create("shmq", 0);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)total) == 0);
    shmq_ctx *c = shmq_ctx_new();
    CHECK(shmq_map_fd(c, fd, total) == 0 && shmq_format(c, &cfg) == 0 && shmq_verify(c) == 0);
    CHECK(shmq_attach(c, SHMQ_CLIENT) == 0);
    shmq_queue_options dead = { .max_depth = 1000, .dead_letter = SHMQ_NO_QUEUE, .max_retries = 3 };
    int64_t dlq = shmq_queue_create(c, "dead", &dead);
    CHECK(dlq > 0);
    shmq_queue_options o = {
        .max_depth = 100, .max_retries = 1, .dead_letter = (uint32_t)(dlq & 0xffff), .dead_word = (uint64_t)(dlq >> 16) << 8 | 1
    };
    int64_t q = shmq_queue_create(c, "q", &o);
    CHECK(q > 0 && shmq_queue_create(c, "q", &o) == SHMQ_E_EXISTS && shmq_queue_open(c, "q") == q);
    CHECK(shmq_queue_open(c, "nope") == SHMQ_E_NOTFOUND);
    shmq_delivery d[8];
    char text[64] = "hello";
    for (int i = 0; i < 100; i++) {
        shmq_message m = { .data = text, .size = 64, .meta = "meta", .meta_size = 4 };
        CHECK(shmq_publish(c, (uint64_t)q, &m) == 0);
    }
    shmq_message m = { .data = text, .size = 64 };
    CHECK(shmq_publish(c, (uint64_t)q, &m) == SHMQ_FULL && shmq_depth(c, (uint64_t)q) == 100);
    CHECK(shmq_take(c, (uint64_t)q, 4, 0, d) == 4 && d[0].size == 64 && d[0].meta_size == 4 && !memcmp(d[0].meta, "meta", 4));
    CHECK(shmq_ack(c, d, 1) == 1 && shmq_ack(c, d, 1) == SHMQ_STALE);
    CHECK(shmq_nack(c, &d[1], 0, "why", 3) == 0 && shmq_reject(c, &d[2], "because", 7) == 0 && shmq_release(c, &d[3]) == 0);
    CHECK(shmq_depth(c, (uint64_t)dlq) == 1 && shmq_depth(c, (uint64_t)q) == 98);
    CHECK(shmq_take(c, (uint64_t)dlq, 1, 0, d) == 1 && d[0].reason == SHMQ_R_REJECTED && d[0].extra_size == 7);
    CHECK(shmq_ack(c, d, 1) == 1);
    CHECK(shmq_take(c, (uint64_t)q, 2, 0, d) == 2 && d[0].redelivered && d[0].attempt == 2 && d[1].attempt == 2 && d[0].extra_size == 3);
    CHECK(shmq_nack(c, &d[0], 0, NULL, 0) == 0 && shmq_depth(c, (uint64_t)dlq) == 1 && shmq_ack(c, &d[1], 1) == 1);
    sound(c);
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(shmq_depth(c, (uint64_t)q) == SHMQ_E_FORKED);
        shmq_ctx *k = attach();
        shmq_delivery e[50];
        CHECK(shmq_take(k, (uint64_t)q, 50, 0, e) == 50);
        CHECK(write(p[1], "x", 1) == 1);
        pause();
    }
    char x;
    CHECK(read(p[0], &x, 1) == 1);
    CHECK(shmq_depth(c, (uint64_t)q) == 46 && shmq_reap(c, 0) == 0);
    kill(child, SIGKILL);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(shmq_reap(c, 0) == 1 && shmq_depth(c, (uint64_t)q) == 96);
    uint64_t last = 0;
    for (int i = 0; i < 96; i++) {
        CHECK(shmq_take(c, (uint64_t)q, 1, 0, d) == 1 && d->attempt == (i < 50 ? 2u : 1u) && d->id > last);
        last = d->id;
        CHECK(shmq_ack(c, d, 1) == 1);
    }
    CHECK(shmq_take(c, (uint64_t)q, 1, 0, d) == SHMQ_EMPTY);
    sound(c);
    /* a big message, a loan, a view that outlives the ack */
    static char big[5u << 20];
    m = (shmq_message){ .data = big, .size = 5u << 20 };
    CHECK(shmq_publish(c, (uint64_t)q, &m) == 0 && shmq_take(c, (uint64_t)q, 1, 0, d) == 1 && d->size == 5u << 20);
    uint32_t held = d->held, idx = d->idx;
    CHECK(shmq_settle_viewed(c, d) == 0 && shmq_view_end(c, held, idx) == 0);
    CHECK(shmq_loan(c, (uint64_t)q, 3000, 0, d) == 0);
    memset((void *)(uintptr_t)d->data, 7, 3000);
    m = (shmq_message){ 0 };
    CHECK(shmq_loan_publish(c, (uint64_t)q, d, &m) == 0);
    uint64_t cursor = 0;
    CHECK(shmq_peek(c, (uint64_t)q, &cursor, d) == 0 && d->size == 3000 && d->data[2999] == 7);
    CHECK(shmq_view_end(c, d->held, d->idx) == 0 && shmq_peek(c, (uint64_t)q, &cursor, d) == SHMQ_EMPTY);
    CHECK(shmq_take(c, (uint64_t)q, 1, 0, d) == 1 && shmq_ack(c, d, 1) == 1);
    CHECK(shmq_trim(c, 0) >= 5 << 20);
    CHECK(shmq_queue_close(c, (uint64_t)q) == 0 && shmq_publish(c, (uint64_t)q, &m) == SHMQ_CLOSED);
    CHECK(shmq_take(c, (uint64_t)q, 1, 0, d) == SHMQ_CLOSED && shmq_queue_delete(c, (uint64_t)q) == 0);
    CHECK(shmq_take(c, (uint64_t)q, 1, 0, d) == SHMQ_GONE);
    sound(c);
    shmq_audit_report r;
    shmq_audit(c, &r);
    CHECK(r.states[SHMQ_OWNED] + r.states[SHMQ_NEW] + r.states[SHMQ_MOVE] == 0);
    CHECK(shmq_detach(c) == 0);
    printf("1 passed, 0 failed\n");
    return 0;
}
