/* Queues that end with the last handle, joiners, and rings that get their memory as they go. */
#include "harness.h"
#include "queue.h"
#include "ring.h"
#include <pthread.h>

TEST(counted, "a reference counts while its process lives, and for one life of the queue only") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    /* flags of a binding mean nothing here */
    uint64_t q = QUEUE(a, "q", 10, .flags = SHMQ_COUNTED), plain = QUEUE(a, "plain", 10, .flags = 0xffff);
    EQ(shmq_refs(a, q), 0);
    EQ(shmq_refs_none(a, (uint32_t)(q & 0xffff)), q);
    EQ(shmq_refs_none(a, (uint32_t)(plain & 0xffff)), 0);   /* nobody counts there */
    EQ(shmq_ref(a, q, 1), SHMQ_OK);
    EQ(shmq_ref(b, q, 1), SHMQ_OK);
    EQ(shmq_ref(b, q, 1), SHMQ_OK);
    EQ(shmq_refs(a, q), 2);
    EQ(shmq_refs_none(a, (uint32_t)(q & 0xffff)), 0);
    EQ(shmq_ref(a, q, 0), SHMQ_OK);
    EQ(shmq_refs(b, q), 1);
    die(b);
    EQ(shmq_reap(a, 0), 1);
    EQ(shmq_refs(a, q), 0);
    shmq_ctx *c = join();   /* in b's record */
    EQ(shmq_refs(c, q), 0);
    EQ(shmq_ref(c, q, 1), SHMQ_OK);
    EQ(shmq_detach(c), SHMQ_OK);
    EQ(shmq_refs(a, q), 0);
    EQ(shmq_ref(a, q, 1), SHMQ_OK);
    EQ(shmq_queue_delete(a, q), SHMQ_OK);
    EQ(shmq_ref(a, q, 1), SHMQ_GONE);
    for (int i = 0; i < 70; i++) {   /* the record is used again in the end */
        uint64_t again = QUEUE(a, "again", 10, .flags = SHMQ_COUNTED);
        EQ(shmq_refs(a, again), 0);
        EQ(shmq_queue_delete(a, again), SHMQ_OK);
    }
    nothing_left(a);
}

TEST(given_up, "only queues without a reference are given up, with what is in them; a travelled one only when it is empty") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q[4] = { QUEUE(c, "free", 10, .flags = SHMQ_COUNTED), QUEUE(c, "held", 10, .flags = SHMQ_COUNTED), QUEUE(c, "plain", 10),
                      QUEUE(c, "travelled", 10, .flags = SHMQ_COUNTED) };
    for (int i = 0; i < 4; i++) EQ(put(c, q[i], (uint64_t)i), SHMQ_OK);
    EQ(shmq_ref(c, q[1], 1), SHMQ_OK);
    EQ(shmq_queue_mark(c, q[3], SHMQ_TRAVELLED), SHMQ_OK);
    EQ(shmq_refs_collect(c, q, 4), 1);
    EQ(shmq_queue_open(c, "free"), SHMQ_E_NOTFOUND);
    for (int i = 1; i < 4; i++) EQ(get(c, q[i]), i);
    EQ(shmq_refs_collect(c, q, 4), 1);
    EQ(shmq_queue_open(c, "travelled"), SHMQ_E_NOTFOUND);
    EQ(shmq_queue_open(c, "held"), q[1]);
    EQ(shmq_queue_open(c, "plain"), q[2]);
    EQ(shmq_refs_collect(c, (uint64_t[]){ UINT64_MAX, 0, q[0] }, 3), 0);
    nothing_left(c);
}

TEST(settled_flag, "an attachment has settled when it says so, and its successor in the record has not") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    shmq_owner_info o;
    EQ(shmq_owner_snapshot(a, b->self, &o), SHMQ_OK);
    EQ(o.settled, 0);
    EQ(shmq_refs_settled(b), SHMQ_OK);
    EQ(shmq_owner_snapshot(a, b->self, &o), SHMQ_OK);
    EQ(o.settled, 1);
    EQ(shmq_detach(b), SHMQ_OK);
    b = join();
    EQ(shmq_owner_snapshot(a, b->self, &o), SHMQ_OK);
    EQ(o.settled, 0);
}

static shmq_ctx *waiter_ctx;
static uint64_t waiter_queue;
static _Atomic(int) waiter_done;
static void *wait_until_settled(void *unused) {
    (void)unused;
    int rc;
    while ((rc = shmq_wait_settled(waiter_ctx, waiter_queue, 0)) == SHMQ_BUSY) {}
    CHECK(rc == SHMQ_OK);
    waiter_done = 1;
    return NULL;
}

TEST(joining, "a joiner wakes with the last settle, not before, and is not kept by what a dead process held") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    waiter_ctx = a;
    waiter_queue = QUEUE(a, "q", 10, .flags = SHMQ_JOINED, .max_retries = UINT32_MAX);
    EQ(shmq_wait_settled(a, waiter_queue, 0), SHMQ_OK);
    for (uint64_t i = 0; i < 3; i++) EQ(put(a, waiter_queue, i), SHMQ_OK);
    EQ(shmq_wait_settled(a, waiter_queue, shmq_now() + MS), SHMQ_TIMEOUT);
    shmq_delivery mine = take1(a, waiter_queue), theirs = take1(b, waiter_queue);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, wait_until_settled, NULL) == 0);
    EQ(get(a, waiter_queue), 2);
    EQ(shmq_ack(a, &mine, 1), 1);
    nap(20 * MS);
    EQ(waiter_done, 0);
    die(b);
    EQ(shmq_reap(a, 0), 1);
    nap(20 * MS);
    EQ(waiter_done, 0);   /* back in the queue, not done */
    EQ(get(a, waiter_queue), value_of(&theirs));
    CHECK(pthread_join(thread, NULL) == 0);
    EQ(waiter_done, 1);
    EQ(put(a, waiter_queue, 9), SHMQ_OK);
    EQ(shmq_queue_mark(a, waiter_queue, SHMQ_TERMINATED), SHMQ_OK);
    EQ(shmq_wait_settled(a, waiter_queue, 0), SHMQ_OK);
    EQ(get(a, waiter_queue), 9);
    nothing_left(a);
}

#define LONG 200000   /* lg 18 */

TEST_LIMIT(long_ring, 60,
           "a long ring has little memory at first, more as it fills, and keeps its order over its whole length and round it") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t before = memory_used(), q = QUEUE(a, "q", LONG), in = 0, out = 0;
    CHECK(memory_used() - before < 256 << 10);
    EQ(ld32_acq(&a->queues[q & 0xffff].chunks[SHMQ_LANE_WORK].n), 1);
    for (int round = 0; round < 3; round++) {
        while (in - out < LONG) {
            EQ(put(in & 1 ? a : b, q, in), SHMQ_OK);
            in++;
        }
        EQ(put(a, q, in), SHMQ_FULL);
        EQ(shmq_depth(b, q), LONG);
        while (out < in - 100) {
            EQ(get(out % 3 ? b : a, q), out);
            out++;
        }
        shmq_ctx *c = join();   /* a third one, which has seen nothing of it */
        EQ(put(c, q, in), SHMQ_OK);
        in++;
        EQ(get(c, q), out);
        out++;
        EQ(shmq_detach(c), SHMQ_OK);
    }
    EQ(ld32_acq(&a->queues[q & 0xffff].chunks[SHMQ_LANE_WORK].n), (1 << 18) / RING_CHUNK);
    while (out < in) {
        EQ(get(a, q), out);
        out++;
    }
    nothing_left(a);
}

TEST(long_ring_hints, "hints of a long ring that point beyond its memory are not followed") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", LONG);
    for (uint64_t i = 0; i < 100; i++) EQ(put(a, q, i), SHMQ_OK);
    uint64_t used = memory_used();
    st_sc(&a->queues[q & 0xffff].ends[SHMQ_LANE_WORK].tail, 150000);
    st_sc(&a->queues[q & 0xffff].ends[SHMQ_LANE_WORK].head, 140000);
    shmq_ctx *b = join();
    for (uint64_t i = 0; i < 100; i++) EQ(get(b, q), i);
    CHECK(empty(a, q));
    EQ(put(a, q, 7), SHMQ_OK);
    EQ(get(b, q), 7);
    CHECK(memory_used() <= used + (64 << 10));
    nothing_left(a);
}

TEST_LIMIT(long_ring_again, 60, "a record whose long ring is deleted starts with a fresh one") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    for (int i = 0; i < 70; i++) {
        uint64_t q = QUEUE(a, "q", LONG);
        for (uint64_t k = 0; k < RING_CHUNK + 100; k++) EQ(put(a, q, k), SHMQ_OK);
        for (uint64_t k = 0; k < RING_CHUNK + 100; k++) EQ(get(a, q), k);
        EQ(shmq_queue_delete(a, q), SHMQ_OK);
    }
    nothing_left(a);
}
MAIN
