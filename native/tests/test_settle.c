/* What becomes of a delivery: retries, backoff, dead letters. */
#include "harness.h"

static shmq_ctx *c;
static uint64_t dlq, q;
static void setting(shmq_queue_options o) {
    c = segment(64 << 20, 1 << 20);
    dlq = QUEUE(c, "dead", 100, .max_retries = 0xffffffffu);
    o.max_depth = 100;
    o.dead_letter = (uint32_t)(dlq & 0xffff);
    o.dead_word = (dlq >> 16) << 8 | SHMQ_Q_LIVE;
    q = make_queue(c, "q", o);
}

TEST(retries, "a message is delivered max_retries + 1 times, then it is a dead letter that tells its story") {
    for (uint32_t most = 0; most < 5; most++) {
        setting((shmq_queue_options){ .max_retries = most });
        uint64_t before = shmq_now();
        EQ(put(c, q, 42), SHMQ_OK);
        for (uint32_t i = 1; i <= most + 1; i++) {
            shmq_delivery d = take1(c, q);
            EQ(d.attempt, i);
            EQ(d.redelivered, i > 1);
            if (i > 1) CHECK(d.extra_size == 5 && !memcmp(d.extra, "error", 5));
            EQ(shmq_nack(c, &d, 0, "error", 5), SHMQ_OK);
        }
        CHECK(empty(c, q));
        shmq_delivery d = take1(c, dlq);
        EQ(value_of(&d), 42);
        EQ(d.reason, SHMQ_R_RETRIES);
        EQ(d.origin, q & 0xffff);
        EQ(d.queue, dlq & 0xffff);
        EQ(d.died_attempts, most + 1);
        EQ(d.attempt, 1);
        CHECK(d.died_ns >= before && d.died_ns <= shmq_now());
        CHECK(d.extra_size == 5 && !memcmp(d.extra, "error", 5));
        EQ(shmq_ack(c, &d, 1), 1);
        nothing_left(c);
    }
}

TEST(rejected, "a rejected message is a dead letter at once, an expired one says so") {
    setting((shmq_queue_options){ .max_retries = 9 });
    EQ(put(c, q, 1), SHMQ_OK);
    shmq_delivery d = take1(c, q);
    EQ(shmq_reject(c, &d, "bad", 3), SHMQ_OK);
    EQ(shmq_reject(c, &d, "bad", 3), SHMQ_STALE);
    d = take1(c, dlq);
    EQ(d.reason, SHMQ_R_REJECTED);
    EQ(d.died_attempts, 1);
    EQ(shmq_ack(c, &d, 1), 1);
    shmq_message m = { .data = "x", .size = 1, .ttl_ns = 1000 };
    EQ(shmq_publish(c, q, &m), SHMQ_OK);
    nap(MS * 12);
    CHECK(empty(c, q));
    d = take1(c, dlq);
    EQ(d.reason, SHMQ_R_EXPIRED);
    EQ(d.expires_ns, 0);   /* dead letters do not expire again */
    EQ(shmq_ack(c, &d, 1), 1);
    nothing_left(c);
}

TEST(no_dlq, "without a dead-letter queue, or when it is gone, dead messages are freed") {
    setting((shmq_queue_options){ .max_retries = 0 });
    uint64_t plain = QUEUE(c, "plain", 10, .max_retries = 0);
    EQ(put(c, plain, 1), SHMQ_OK);
    shmq_delivery d = take1(c, plain);
    EQ(shmq_nack(c, &d, 0, "x", 1), SHMQ_OK);
    EQ(put(c, q, 1), SHMQ_OK);
    d = take1(c, q);
    EQ(shmq_queue_delete(c, dlq), SHMQ_OK);
    uint64_t other = QUEUE(c, "other", 10);   /* perhaps of the same number: not the one that was meant */
    EQ(shmq_reject(c, &d, "x", 1), SHMQ_OK);
    EQ(shmq_depth(c, other), 0);
    nothing_left(c);
}

TEST(dlq_by_name, "dead letters go to the queue that has the name now") {
    setting((shmq_queue_options){ .max_retries = 0 });
    for (uint64_t i = 1; i <= 2; i++) EQ(put(c, q, i), SHMQ_OK);
    shmq_delivery d = take1(c, q), e = take1(c, q);
    EQ(shmq_reject(c, &d, "x", 1), SHMQ_OK);
    EQ(shmq_queue_delete(c, dlq), SHMQ_OK);
    EQ(shmq_reject(c, &e, "x", 1), SHMQ_OK);   /* nobody has it */
    uint64_t other = QUEUE(c, "other", 10), dead = QUEUE(c, "dead", 10);
    EQ(put(c, q, 3), SHMQ_OK);
    d = take1(c, q);
    EQ(shmq_reject(c, &d, "x", 1), SHMQ_OK);
    EQ(shmq_depth(c, other), 0);
    EQ(get(c, dead), 3);
    nothing_left(c);
}

TEST(dlq_full, "dead letters wait for room at a full dead-letter queue, in order; they are not lost") {
    c = segment(64 << 20, 1 << 20);
    dlq = QUEUE(c, "dead", 2);
    q = QUEUE(c, "q", 100, .max_retries = 0, DEAD_TO(dlq));
    for (uint64_t i = 0; i < 10; i++) EQ(put(c, q, i), SHMQ_OK);
    for (uint64_t i = 0; i < 10; i++) {
        shmq_delivery d = take1(c, q);
        EQ(shmq_nack(c, &d, 0, "x", 1), SHMQ_OK);
    }
    EQ(shmq_depth(c, dlq), 2);
    shmq_census s;
    EQ(shmq_queue_census(c, dlq, &s), SHMQ_OK);
    EQ(s.parked, 8);
    for (uint64_t i = 0; i < 10; i++) EQ(get(c, dlq), i);
    nothing_left(c);
}

TEST(backoff, "the backoff doubles up to its maximum and never overflows") {
    setting((shmq_queue_options){ .max_retries = 0xffffffffu, .backoff_ns = 10 * SECONDS, .backoff_max_ns = 100 * SECONDS });
    EQ(put(c, q, 1), SHMQ_OK);
    for (int i = 1; i <= 60; i++) {
        shmq_delivery d = take1(c, q);
        uint64_t before = shmq_now(), due = 0, want = i == 1 ? 10 : i == 2 ? 20 : i == 3 ? 40 : i == 4 ? 80 : 100;
        EQ(shmq_nack(c, &d, SHMQ_DELAY_DEFAULT, NULL, 0), SHMQ_OK);
        EQ(state_of(c, d.idx), SHMQ_DELAYED);
        due = ld_rlx(&c->blocks[d.idx].due_ns);
        CHECK(due + MS >= before + want * SECONDS && due <= shmq_now() + want * SECONDS + MS);
        EQ(shmq_timer_fire(c, d.idx, due - 1, &due), SHMQ_FULL);
        st_rlx(&c->blocks[d.idx].due_ns, 1);
        EQ(shmq_timer_fire(c, d.idx, shmq_now(), &due), SHMQ_OK);
        EQ(shmq_timer_fire(c, d.idx, shmq_now(), &due), SHMQ_STALE);
    }
    get(c, q);
    setting((shmq_queue_options){ .max_retries = 0xffffffffu, .backoff_ns = 33 * MS });   /* no maximum */
    EQ(put(c, q, 1), SHMQ_OK);
    for (int i = 1, due_s = 0; i <= 80; i++) {
        shmq_delivery d = take1(c, q);
        EQ(shmq_nack(c, &d, SHMQ_DELAY_DEFAULT, NULL, 0), SHMQ_OK);
        EQ(state_of(c, d.idx), SHMQ_DELAYED);
        uint64_t due = ld_rlx(&c->blocks[d.idx].due_ns), again;
        CHECK(due > shmq_now());
        (void)due_s;
        st_rlx(&c->blocks[d.idx].due_ns, 1);
        EQ(shmq_timer_fire(c, d.idx, shmq_now(), &again), SHMQ_OK);
    }
}

TEST(jitter, "jitter spreads the backoff around its value, within its span, to both sides") {
    setting((shmq_queue_options){
        .max_retries = 0xffffffffu, .backoff_ns = 10 * SECONDS, .backoff_max_ns = 10 * SECONDS, .jitter_ppm = 500000 });
    EQ(put(c, q, 1), SHMQ_OK);
    uint64_t low = UINT64_MAX, high = 0;
    for (int i = 0; i < 400; i++) {
        shmq_delivery d = take1(c, q);
        uint64_t before = shmq_now();
        EQ(shmq_nack(c, &d, SHMQ_DELAY_DEFAULT, NULL, 0), SHMQ_OK);
        uint64_t wait = ld_rlx(&c->blocks[d.idx].due_ns) - before, due;
        if (wait < low) low = wait;
        if (wait > high) high = wait;
        st_rlx(&c->blocks[d.idx].due_ns, 1);
        EQ(shmq_timer_fire(c, d.idx, shmq_now(), &due), SHMQ_OK);
    }
    CHECK(low >= 7500 * MS - MS && low < 8000 * MS);
    CHECK(high <= 12500 * MS + 10 * MS && high > 12000 * MS);
}

TEST(hostile, "delays and jitter beyond all measure neither wrap nor fire at once") {
    setting((shmq_queue_options){ .max_retries = 100, .backoff_ns = UINT64_MAX / 2, .jitter_ppm = 0xffffffffu });
    for (int way = 0; way < 3; way++) {
        if (way == 2) {
            shmq_message m = { .data = "x", .size = 1, .delay_ns = UINT64_MAX - 1 };
            EQ(shmq_publish(c, q, &m), SHMQ_OK);
        } else {
            EQ(put(c, q, 1), SHMQ_OK);
            shmq_delivery d = take1(c, q);
            EQ(shmq_nack(c, &d, way ? SHMQ_DELAY_DEFAULT : UINT64_MAX - 1, NULL, 0), SHMQ_OK);
        }
        EQ(fire_due(c), 0);
        CHECK(empty(c, q));
    }
}

TEST(stale, "a delivery is settled once, by whatever call comes first") {
    setting((shmq_queue_options){ .max_retries = 9 });
    for (int first = 0; first < 4; first++) {
        EQ(put(c, q, 1), SHMQ_OK);
        shmq_delivery d = take1(c, q), copy[6];
        for (int i = 0; i < 6; i++) copy[i] = d;
        EQ(first == 0   ? shmq_ack(c, &d, 1) - 1
           : first == 1 ? shmq_nack(c, &d, 0, NULL, 0)
           : first == 2 ? shmq_reject(c, &d, NULL, 0)
                        : shmq_release(c, &d),
           0);
        EQ(shmq_ack(c, &copy[0], 1), SHMQ_STALE);
        EQ(shmq_nack(c, &copy[1], 0, NULL, 0), SHMQ_STALE);
        EQ(shmq_reject(c, &copy[2], NULL, 0), SHMQ_STALE);
        EQ(shmq_release(c, &copy[3]), SHMQ_STALE);
        EQ(shmq_touch(c, &copy[4], SECONDS), SHMQ_STALE);
        EQ(shmq_settle_viewed(c, &copy[5]), SHMQ_STALE);
        shmq_purge(c, q);
        shmq_purge(c, dlq);
        nothing_left(c);
    }
}

TEST(ack_many, "an ack of many says how many were still ours and marks the others") {
    setting((shmq_queue_options){ .max_retries = 9 });
    shmq_delivery d[5];
    for (uint64_t i = 0; i < 5; i++) EQ(put(c, q, i), SHMQ_OK);
    EQ(shmq_take(c, q, 5, 0, d), 5);
    shmq_delivery one = d[2];
    EQ(shmq_ack(c, &one, 1), 1);
    EQ(shmq_ack(c, d, 5), 4);
    nothing_left(c);
}

TEST(extra_sizes, "error texts of any size travel with the message, the last one counts, none is leaked") {
    setting((shmq_queue_options){ .max_retries = 1000 });
    static char text[200000];
    memset(text, 'e', sizeof text);
    EQ(put(c, q, 1), SHMQ_OK);
    const uint32_t sizes[] = { 1, 64, 65, 4096, 5000, 70000, 199999, 3, 0, 17 };
    for (int i = 0; i < 10; i++) {
        shmq_delivery d = take1(c, q);
        if (i) EQ(d.extra_size, sizes[i - 1] ? sizes[i - 1] : 3);
        text[0] = (char)i;
        if (i && sizes[i - 1]) CHECK(d.extra[0] == i - 1);
        EQ(shmq_nack(c, &d, 0, text, sizes[i]), SHMQ_OK);
    }
    shmq_audit_report r = sound(c);
    EQ(r.states[SHMQ_ATTACHED], 1);
    EQ(get(c, q), 1);
    nothing_left(c);
}

TEST(bytes, "max_bytes counts what is ready, through nacks, purges and dead letters, and lets go again") {
    c = segment(64 << 20, 1 << 20);
    q = QUEUE(c, "q", 100, .max_bytes = 1000, .max_retries = 100);
    shmq_ctx *b = join();
    uint64_t seed = 3;
    for (int i = 0; i < 3000; i++) {
        shmq_delivery d;
        put_sized(c, q, 1, 8 + rnd(&seed) % 300);
        if (rnd(&seed) % 2 && shmq_take(b, q, 1, 0, &d) == 1) {
            switch (rnd(&seed) % 3) {
            case 0: EQ(shmq_ack(b, &d, 1), 1); break;
            case 1: EQ(shmq_nack(b, &d, 0, NULL, 0), SHMQ_OK); break;
            default: EQ(shmq_release(b, &d), SHMQ_OK);
            }
        }
        shmq_census s;
        EQ(shmq_queue_census(c, q, &s), SHMQ_OK);
        EQ(ld_rlx(&c->queues[q & 0xffff].bytes), s.bytes);
    }
    shmq_purge(c, q);
    EQ(ld_rlx(&c->queues[q & 0xffff].bytes), 0);
    EQ(put_sized(c, q, 1, 1000), SHMQ_OK);
    EQ(put_sized(c, q, 1, 1), SHMQ_FULL);
    st_sc(&c->queues[q & 0xffff].bytes, 777777);   /* drifted by a death */
    get(c, q);
    EQ(shmq_bytes_resync(c, q), SHMQ_OK);
    EQ(ld_rlx(&c->queues[q & 0xffff].bytes), 0);
}

TEST(released_again, "a delivery that was taken for good can be given back, also by a process that attached anew") {
    setting((shmq_queue_options){ .max_retries = 9 });
    shmq_delivery d;
    shmq_ctx *b = join();
    EQ(put(c, q, 1), SHMQ_OK);
    EQ(shmq_take(b, q, 1, SHMQ_TAKE_FREE, &d), 1);
    shmq_delivery copy = d;
    EQ(shmq_release(b, &d), SHMQ_OK);
    EQ(shmq_release(b, &copy), SHMQ_STALE);
    EQ(shmq_take(b, q, 1, SHMQ_TAKE_FREE, &d), 1);
    EQ(shmq_detach(b), SHMQ_OK);
    CHECK(shmq_attach(b, SHMQ_CLIENT) >= 0);
    EQ(shmq_nack(b, &d, 0, NULL, 0), SHMQ_STALE);
    EQ(get(c, q), 1);
    nothing_left(c);
}
MAIN
