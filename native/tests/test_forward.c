/* Forward: a delivery is settled and its replacement published, both or neither. */
#include "harness.h"

static shmq_ctx *c;
static uint64_t from, to;
static void setting(shmq_queue_options target) {
    c = segment(64 << 20, 1 << 20);
    from = QUEUE(c, "from", 100, .max_retries = 9);
    target.max_depth = target.max_depth ? target.max_depth : 100;
    target.dead_letter = SHMQ_NO_QUEUE;
    to = make_queue(c, "to", target);
}
static int forward(shmq_ctx *x, shmq_delivery *d, uint64_t value, const char *id) {
    shmq_message m = { .data = &value, .size = 8, .dedup = id, .dedup_size = id ? (uint32_t)strlen(id) : 0 };
    return shmq_forward(x, d, to, &m);
}

TEST(moves, "a forward publishes to the target and acks") {
    setting((shmq_queue_options){ 0 });
    EQ(put(c, from, 1), 0);
    shmq_delivery d = take1(c, from), again;
    again = d;
    EQ(forward(c, &d, 2, NULL), 0);
    EQ(forward(c, &again, 3, NULL), SHMQ_STALE);
    EQ(shmq_ack(c, &again, 1), SHMQ_STALE);
    CHECK(empty(c, from));
    EQ(get(c, to), 2);
    CHECK(empty(c, to));
    shmq_queue_info info;
    EQ(shmq_queue_snapshot(c, (uint32_t)(from & 0xffff), &info), 0);
    EQ(info.counters[offsetof(shmq_counters, forwarded) / 8], 1);
    EQ(info.counters[offsetof(shmq_counters, acked) / 8], 1);
    nothing_left(c);
}

TEST(own_bytes, "a delivery's own payload and headers can be what is forwarded, at any size") {
    setting((shmq_queue_options){ 0 });
    static uint8_t bytes[70000];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 13);
    for (uint64_t size = 0; size < sizeof bytes; size = size < 130 ? size + 1 : size * 2) {
        shmq_message m = { .data = bytes, .size = size, .meta = "head", .meta_size = size % 2 ? 4 : 0 };
        EQ(shmq_publish(c, from, &m), 0);
        shmq_delivery d = take1(c, from);
        m = (shmq_message){ .data = d.data, .size = d.size, .meta = d.meta, .meta_size = d.meta_size };
        EQ(shmq_forward(c, &d, to, &m), 0);
        d = take1(c, to);
        EQ(d.size, size);
        EQ(d.meta_size, size % 2 ? 4 : 0);
        CHECK(memcmp(d.data, bytes, size) == 0 && (size % 2 == 0 || memcmp(d.meta, "head", 4) == 0));
        EQ(shmq_ack(c, &d, 1), 1);
    }
    nothing_left(c);
}

TEST(refused, "a full, closed or deleted target changes nothing: the delivery can still be settled") {
    setting((shmq_queue_options){ .max_depth = 1 });
    EQ(put(c, from, 1), 0);
    EQ(put(c, to, 9), 0);
    shmq_delivery d = take1(c, from);
    EQ(forward(c, &d, 2, NULL), SHMQ_FULL);
    EQ(get(c, to), 9);
    EQ(forward(c, &d, 2, NULL), 0);
    EQ(get(c, to), 2);
    EQ(put(c, from, 3), 0);
    d = take1(c, from);
    EQ(shmq_queue_close(c, to), 0);
    EQ(forward(c, &d, 4, NULL), SHMQ_CLOSED);
    EQ(shmq_queue_delete(c, to), 0);
    EQ(forward(c, &d, 4, NULL), SHMQ_GONE);
    EQ(shmq_nack(c, &d, 0, NULL, 0), 0);
    EQ(get(c, from), 3);
    nothing_left(c);
}

TEST(once, "with an id the target gets it once, and the delivery is over all the same") {
    setting((shmq_queue_options){ .dedup_window_ns = 60 * SECONDS });
    for (int i = 0; i < 3; i++) {
        EQ(put(c, from, 1), 0);
        shmq_delivery d = take1(c, from);
        EQ(forward(c, &d, 2, "id"), 0);
    }
    CHECK(empty(c, from));
    EQ(get(c, to), 2);
    CHECK(empty(c, to));
    nothing_left(c);
}

TEST(no_room, "a full table of ids refuses the forward before anything happened") {
    setting((shmq_queue_options){ .dedup_window_ns = 3600 * SECONDS, .dedup_capacity = 1 });
    for (int i = 0; i < 2; i++) EQ(put(c, from, 1), 0);
    shmq_delivery d = take1(c, from);
    EQ(forward(c, &d, 2, "a"), 0);
    d = take1(c, from);
    EQ(forward(c, &d, 2, "b"), SHMQ_E_NOMEM);
    EQ(shmq_ack(c, &d, 1), 1);
    EQ(get(c, to), 2);
    nothing_left(c);
}

TEST(expired, "whose lease has ended forwards nothing") {
    c = segment(64 << 20, 1 << 20);
    from = QUEUE(c, "from", 10, .ack_timeout_ns = MS);
    to = QUEUE(c, "to", 10);
    uint64_t next;
    EQ(put(c, from, 1), 0);
    shmq_delivery d = take1(c, from);
    nap(3 * MS);
    EQ(shmq_leases_expire(c, shmq_now(), &next), 1);
    EQ(forward(c, &d, 2, NULL), SHMQ_STALE);
    CHECK(empty(c, to));
    EQ(get(c, from), 1);
    nothing_left(c);
}

TEST(circle, "a message can be forwarded to the queue it came from, and a dead letter to where it died") {
    setting((shmq_queue_options){ 0 });
    to = from;
    EQ(put(c, from, 1), 0);
    shmq_delivery d = take1(c, from);
    EQ(forward(c, &d, 2, NULL), 0);
    EQ(get(c, from), 2);
    uint64_t dlq = QUEUE(c, "dlq", 10);
    to = QUEUE(c, "work", 10, DEAD_TO(dlq));
    EQ(put(c, to, 5), 0);
    d = take1(c, to);
    EQ(shmq_reject(c, &d, "why", 3), 0);
    d = take1(c, dlq);
    EQ(forward(c, &d, 6, NULL), 0);
    d = take1(c, to);
    EQ(d.reason, 0);
    EQ(value_of(&d), 6);
    EQ(shmq_ack(c, &d, 1), 1);
    nothing_left(c);
}

MAIN
