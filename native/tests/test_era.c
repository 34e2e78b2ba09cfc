/* test_era.c: a record is used again when no operation may touch it any more; a stopped process holds back what it may touch, no more. */
#include "harness.h"
#include "queue.h"

static void (*list_made)(void);   /* called once, when a publisher has made its list */
static int guard(int n) {
    void (*now)(void) = list_made;
    int gone = MUTANT(n);
    if (n == 105 && now) {
        list_made = NULL;
        now();
    }
    return gone;
}
static void (*admitted)(void);   /* called once, when a publisher knows who gets its message */
static void before_the_header(void) {
    void (*now)(void) = admitted;
    admitted = NULL;
    if (now) now();
}
#include "publish.h"
#define publish_header(...) (before_the_header(), publish_header(__VA_ARGS__))
#undef MUTANT
#define MUTANT(n) guard(n)
#include "topic.c"   /* instead of the library's: a publisher that stops with its list half read, or before it writes */
#undef publish_header
#undef MUTANT
#define MUTANT(n) 0

#define INDEX(q) qref_index(q)

static unsigned record_is(shmq_ctx *c, uint64_t q) { return queue_state(ld_acq(&c->queues[INDEX(q)].word)); }
static uint64_t subscription(shmq_ctx *c, const char *name, uint64_t t, uint32_t kind) {
    shmq_queue_options o = { .kind = kind, .topic = t, .max_depth = 10, .max_retries = 3, .dead_letter = SHMQ_NO_QUEUE };
    int64_t q = shmq_topic_subscribe(c, name, &o, NULL, 0, 0);
    CHECK(q > 0);
    return (uint64_t)q;
}
static shmq_ctx *there;
static uint64_t closing;
static void closed_and_drained(void) {
    shmq_delivery d;
    EQ(shmq_queue_close(there, closing), SHMQ_OK);
    EQ(shmq_take(there, closing, 1, 0, &d), SHMQ_CLOSED);
}
static void many_lives(shmq_ctx *c) {   /* more than there are records */
    for (int i = 0; i < 3 * SHMQ_QUEUES; i++) {
        uint64_t q = QUEUE(c, "brief", 10);
        EQ(put(c, q, 7), SHMQ_OK);
        EQ(shmq_queue_delete(c, q), SHMQ_OK);
        EQ(record_is(c, q), SHMQ_Q_FREE);
    }
}

TEST(elsewhere, "who is stopped inside an operation on one queue holds back the record of that queue, and no other") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t here = QUEUE(c, "here", 10), other = QUEUE(c, "other", 10);
    op_begin_at(b, INDEX(here));
    EQ(shmq_queue_delete(c, other), SHMQ_OK);
    EQ(record_is(c, other), SHMQ_Q_FREE);
    many_lives(c);
    EQ(shmq_queue_delete(c, here), SHMQ_OK);
    EQ(record_is(c, here), SHMQ_Q_DELETING);
    many_lives(c);
    EQ(shmq_queue_collect(c), 0);
    EQ(record_is(c, here), SHMQ_Q_DELETING);
    op_end(b);
    EQ(shmq_queue_collect(c), 1);
}

TEST(wider, "an operation that goes on to another queue holds back that one as well, from before it looks there") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t here = QUEUE(c, "here", 10), next = QUEUE(c, "next", 10);
    local_queue *q;
    op_begin_at(b, INDEX(here));
    EQ(queue_open_local(b, INDEX(here), &q), SHMQ_OK);
    EQ(op_at(ld_rlx(&b->me->era)), INDEX(here));
    EQ(queue_open_local(b, INDEX(next), &q), SHMQ_OK);
    EQ(shmq_queue_delete(c, next), SHMQ_OK);
    EQ(record_is(c, next), SHMQ_Q_DELETING);
    op_end(b);
    EQ(shmq_queue_collect(c), 1);
}

TEST(afterwards,
     "an operation that began when the deletion was in sight does not hold the record back; one that saw it DELETING does so once more") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(c, "q", 10);
    EQ(put(c, q, 1), SHMQ_OK);
    shmq_delivery d = take1(c, q);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);   /* somebody has a message still */
    EQ(record_is(c, q), SHMQ_Q_DELETING);
    op_begin(b);
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(shmq_queue_collect(c), 0);
    EQ(record_is(c, q), SHMQ_Q_RETIRING);   /* b may be a recoverer that looks into its rings */
    EQ(shmq_queue_collect(c), 0);
    op_end(b);
    op_begin(b);
    EQ(shmq_queue_collect(c), 1);
    op_end(b);
}

TEST(ours, "a thread of the collector's own process is as good a reason to wait as any other") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 10), w = ld_acq(&c->queues[INDEX(q)].word);
    op_begin_at(c, INDEX(q));
    CHECK(cas(&c->queues[INDEX(q)].word, w, queue_make(queue_gen(w), SHMQ_Q_RETIRING)));
    EQ(shmq_queue_collect(c), 0);
    op_end(c);
    EQ(shmq_queue_collect(c), 1);
}

TEST(fans_out, "who is stopped while it publishes to a topic holds back the subscriptions of that time, and none that came since") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t t = QUEUE(c, "/t", 10, .kind = SHMQ_KIND_TOPIC), u = QUEUE(c, "/u", 10, .kind = SHMQ_KIND_TOPIC);
    uint64_t s = subscription(c, "/t/s", t, SHMQ_KIND_SUBSCRIPTION), p = subscription(c, "/*/p", 0, SHMQ_KIND_PATTERN);
    uint64_t v = subscription(c, "/u/v", u, SHMQ_KIND_SUBSCRIPTION);
    op_begin_at(b, INDEX(t) | OP_FAN);
    EQ(subscriptions(b, t, &b->queues[INDEX(t)])->n, 2);
    EQ(shmq_queue_delete(c, v), SHMQ_OK);
    EQ(record_is(c, v), SHMQ_Q_FREE);
    for (int i = 0; i < 3 * SHMQ_QUEUES; i++) {
        uint64_t brief = subscription(c, "/t/brief", t, SHMQ_KIND_SUBSCRIPTION);
        EQ(shmq_queue_delete(c, brief), SHMQ_OK);
        EQ(record_is(c, brief), SHMQ_Q_FREE);
    }
    EQ(shmq_queue_delete(c, s), SHMQ_OK);
    EQ(shmq_queue_delete(c, p), SHMQ_OK);
    EQ(shmq_queue_delete(c, t), SHMQ_OK);
    EQ(record_is(c, s), SHMQ_Q_DELETING);
    EQ(record_is(c, p), SHMQ_Q_DELETING);
    EQ(record_is(c, t), SHMQ_Q_DELETING);
    op_end(b);
    EQ(shmq_queue_collect(c), 3);
}

TEST(late_list, "a publisher whose list has subscriptions of after its beginning holds those back as well") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t t = QUEUE(c, "/t", 10, .kind = SHMQ_KIND_TOPIC);
    op_begin_at(b, INDEX(t) | OP_FAN);
    uint64_t s = subscription(c, "/t/s", t, SHMQ_KIND_SUBSCRIPTION);
    EQ(subscriptions(b, t, &b->queues[INDEX(t)])->n, 1);
    EQ(shmq_queue_delete(c, s), SHMQ_OK);
    EQ(record_is(c, s), SHMQ_Q_DELETING);
    op_end(b);
    EQ(shmq_queue_collect(c), 1);
}

static shmq_ctx *maker;
static uint64_t made, after;
static void gone_again(void) {
    EQ(shmq_queue_delete(maker, made), SHMQ_OK);
    EQ(record_is(maker, made), SHMQ_Q_FREE);
    char name[16];
    for (int i = 0; i < 100 && INDEX(after) != INDEX(made); i++) {
        snprintf(name, sizeof name, "q%d", i);
        after = QUEUE(maker, name, 10);
    }
    EQ(INDEX(after), INDEX(made));
}

TEST(list_made_anew, "a message of a topic does not get into a queue that has the number of a subscription by now") {
    shmq_ctx *c = maker = segment(64 << 20, 1 << 20), *b = join();
    uint64_t t = QUEUE(c, "/t", 10, .kind = SHMQ_KIND_TOPIC);
    op_begin_at(b, INDEX(t) | OP_FAN);
    made = subscription(c, "/t/s", t, SHMQ_KIND_SUBSCRIPTION);
    list_made = gone_again;
    fan_list *l = subscriptions(b, t, &b->queues[INDEX(t)]);
    EQ(l->n, 0);
    op_end(b);
}

TEST(half_deleted, "who collects says that subscriptions have changed: the one that deleted may have died before it could") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t t = QUEUE(c, "/t", 10, .kind = SHMQ_KIND_TOPIC), s = subscription(c, "/t/s", t, SHMQ_KIND_SUBSCRIPTION);
    uint64_t w = ld_acq(&c->queues[INDEX(s)].word);
    EQ(subscriptions(c, t, &c->queues[INDEX(t)])->n, 1);
    CHECK(cas(&c->queues[INDEX(s)].word, w, queue_make(queue_gen(w), SHMQ_Q_DELETING)));
    uint32_t topology = ld32_acq(&c->header->topology);
    EQ(shmq_queue_collect(c), 1);
    CHECK(ld32_acq(&c->header->topology) != topology);
}

TEST(full, "where all records are taken, what was deleted is collected before a queue is refused") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q[SHMQ_QUEUES];
    char name[16];
    for (int i = 0; i < SHMQ_QUEUES; i++) {
        snprintf(name, sizeof name, "q%d", i);
        q[i] = QUEUE(c, name, 1);
    }
    op_begin(b);
    for (int i = 0; i < SHMQ_QUEUES; i++) EQ(shmq_queue_delete(c, q[i]), SHMQ_OK);
    shmq_queue_options o = { .max_depth = 1, .dead_letter = SHMQ_NO_QUEUE };
    EQ(shmq_queue_create(c, "one more", &o), SHMQ_E_QUEUES);
    op_end(b);
    QUEUE(c, "one more", 1);
}
TEST(closed, "a subscription that is closed and found drained while a message for it is made does not get it; the others do") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    there = join();
    shmq_queue_options o = { .kind = SHMQ_KIND_TOPIC, .max_depth = 1, .dead_letter = SHMQ_NO_QUEUE };
    uint64_t t = (uint64_t)shmq_queue_create(c, "/t", &o);
    closing = subscription(c, "/t/closing", t, SHMQ_KIND_SUBSCRIPTION);
    uint64_t other = subscription(c, "/t/other", t, SHMQ_KIND_SUBSCRIPTION), value = 7;
    shmq_message m = { .data = &value, .size = 8 };
    admitted = closed_and_drained;
    EQ(shmq_topic_publish(c, t, &m), SHMQ_OK);
    EQ(shmq_depth(c, closing), 0);
    EQ(get(c, other), 7);
    EQ(shmq_topic_publish(c, t, &m), SHMQ_OK);
    EQ(shmq_depth(c, closing), 0);
    EQ(get(c, other), 7);
}

MAIN
