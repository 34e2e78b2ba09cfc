/* test_between.c: what happens between two steps of one call, in another process or another thread. */
#include "harness.h"
#include "queue.h"

#define INDEX(q) qref_index(q)

static void (*between)(int n);   /* called before each operation of take.c, and at each guard of collect.c */
static int guard(int n) {
    int gone = MUTANT(n);
    if (between) between(n);
    return gone;
}
static void before_operation(void) {
    if (between) between(0);
}

#define op_begin(ctx) (before_operation(), op_begin(ctx))
#include "take.c"
#undef op_begin
#undef MUTANT
#define MUTANT(n) guard(n)
#include "collect.c"
#undef MUTANT
#define MUTANT(n) 0

static shmq_ctx *here, *other;
static uint64_t queue, next_there, next_ring;

static void deleted_and_made_anew(int n) {
    static int operations;
    if (n || ++operations != 3) return;   /* the last one of the purge */
    between = NULL;
    EQ(shmq_queue_delete(here, queue), SHMQ_OK);
    next_ring = QUEUE(here, "ring", 10);      /* gets the memory of the ring, in another record */
    next_there = QUEUE(here, "there", 1);     /* gets the record */
    EQ(INDEX(next_there), INDEX(queue));
    EQ(put(here, next_there, 1), SHMQ_OK);
    shmq_message m = { .data = "delayed!", .size = 8, .delay_ns = 1000 };
    EQ(shmq_publish(here, next_there, &m), SHMQ_OK);
    while (fire_due(here) != 1) {}   /* full: it waits for room */
}

TEST(purge, "a purge that is held up until its queue is gone leaves alone what has the number by then") {
    here = segment(64 << 20, 1 << 20), other = join();
    uint64_t brief[64];
    char name[16];
    for (int i = 0; i < 64; i++) {   /* as long as records are cheap a fresh one is taken */
        snprintf(name, sizeof name, "q%d", i);
        brief[i] = QUEUE(here, name, 10);
    }
    queue = QUEUE(here, "q", 10);
    EQ(put(here, queue, 7), SHMQ_OK);
    EQ(shmq_queue_delete(here, brief[5]), SHMQ_OK);
    EQ(shmq_queue_delete(here, brief[6]), SHMQ_OK);
    QUEUE(here, "large", 900);   /* record 5, and the memory of both: record 6 is free, without any */
    between = deleted_and_made_anew;
    EQ(shmq_purge(other, queue), 1);
    EQ(get(here, next_there), 1);
    shmq_delivery d = take1(here, next_there);
    EQ(shmq_ack(here, &d, 1), 1);
    CHECK(empty(here, next_ring));
    EQ(ld32_acq(&here->header->corrupt), 0);
}

static void detached_and_record_taken(int n) {
    if (n == 109 && other == NULL) {
        EQ(shmq_detach(here), SHMQ_OK);
        other = join();
        EQ(other->self, here->self);
    }
    if (n == 56) EQ(ld_rlx(&other->me->op) & 1, 0);   /* it is at rest */
}

TEST(detached, "a thread that collects while another one detaches the process leaves the next process's record alone") {
    shmq_ctx *first = segment(64 << 20, 1 << 20);
    here = join();
    queue = QUEUE(here, "q", 10);
    shmq_delivery loan;
    EQ(shmq_loan(first, queue, 10, 0, &loan), SHMQ_OK);
    st_rlx(&block_at(first, loan.idx)->fate, fate_make(INDEX(queue), 0, 0, 0, 0, 0, 0, 0));   /* half published */
    between = detached_and_record_taken;
    EQ(shmq_queue_delete(here, queue), SHMQ_OK);
    between = NULL;
    CHECK(other != NULL);
    EQ(ld_acq(&first->header->admin), 0);
    EQ(queue_state(ld_acq(&first->queues[INDEX(queue)].word)), SHMQ_Q_DELETING);
}
MAIN
