/* Sleeping and waking: no wake-up is lost, no sleep is endless, whoever dies. */
#include "harness.h"
#include "hash.h"
#include "waiter.h"
#include "wait.c"   /* instead of the library's: what it does between two looks is no function of its own outside */

TEST(bit, "a wake-up that finds nobody clears the bit, so that the next publisher pays nothing") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    shmq_au32 *evt = &a->queues[q & 0xffff].evt;
    uint32_t v = waiter_prepare(evt);
    CHECK((v & 1) && ld32_sc(evt) == v);
    EQ(waiter_prepare(evt), v);
    EQ(put(a, q, 1), SHMQ_OK);
    CHECK(!(ld32_sc(evt) & 1) && ld32_sc(evt) != v);
    EQ(waiter_sleep(evt, v, 0, SECONDS), SHMQ_OK);   /* the word has changed: no sleep */
    v = ld32_sc(evt);
    EQ(put(a, q, 1), SHMQ_OK);
    EQ(ld32_sc(evt), v);
}

TEST(timeout, "a wait ends at its deadline") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 1), start = shmq_now();
    EQ(shmq_wait_items(a, q, start + 50 * MS, 0), SHMQ_TIMEOUT);
    CHECK(shmq_now() >= start + 50 * MS && shmq_now() < start + 900 * MS);
    EQ(shmq_wait_items(a, q, 1, 0), SHMQ_TIMEOUT);
    EQ(put(a, q, 1), SHMQ_OK);
    start = shmq_now();
    EQ(shmq_wait_space(a, q, start + 50 * MS, 0), SHMQ_TIMEOUT);
    EQ(shmq_wait_items(a, q, 1, 0), SHMQ_OK);   /* there is something: no look at the clock */
    start = shmq_now();
    /* who finds nothing each time, though it is there, does not ask for ever */
    EQ(shmq_wait_items(a, q, start, 0), SHMQ_TIMEOUT);
    EQ(shmq_glance(a, q, start), SHMQ_TIMEOUT);
    EQ(shmq_wait_items(a, q, start + SECONDS, 0), SHMQ_OK);
    EQ(shmq_glance(a, q, start + SECONDS), SHMQ_OK);
    EQ(shmq_wait_word(a, SHMQ_WORD_ATTACH, shmq_read_word(a, SHMQ_WORD_ATTACH), start + 50 * MS), SHMQ_TIMEOUT);
}

static int sized(shmq_ctx *c, uint64_t q, uint64_t size) {
    static uint8_t bytes[1000];
    shmq_message m = { .data = bytes, .size = size };
    return shmq_publish(c, q, &m);
}

TEST(same_room, "who waits for room asks what who publishes asks, and does not go round between the two") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10, .max_bytes = 1000), k = QUEUE(a, "k", 4, .order = SHMQ_BY_KEY);
    EQ(shmq_wait_space(a, q, shmq_now() + SECONDS, 0), SHMQ_OK);
    EQ(sized(a, q, 600), SHMQ_OK);
    EQ(sized(a, q, 401), SHMQ_FULL);
    EQ(shmq_wait_space(a, q, shmq_now() + MS, 0), SHMQ_TIMEOUT);
    EQ(sized(a, q, 300), SHMQ_OK);
    EQ(sized(a, q, 101), SHMQ_FULL);
    EQ(shmq_wait_space(a, q, shmq_now() + MS, 0), SHMQ_TIMEOUT);
    get(a, q);
    EQ(shmq_wait_space(a, q, shmq_now() + SECONDS, 0), SHMQ_OK);
    EQ(sized(a, q, 101), SHMQ_OK);
    /* a message that waits for its key keeps all places behind it */
    shmq_delivery first, d;
    uint64_t key = 7;
    shmq_message m = { .data = &key, .size = 8, .key = &key, .key_size = 8 };
    EQ(put(a, k, 1), SHMQ_OK);
    d = take1(a, k);
    EQ(shmq_ack(a, &d, 1), 1);
    /* a lane that none without a key gets here */
    while (((uint32_t)hash_spot(a->secret, &key, 8) - (uint32_t)d.id) % SHMQ_KEY_LANES < 2100) key++;
    EQ(shmq_publish(a, k, &m), SHMQ_OK);
    EQ(shmq_take(a, k, 1, 0, &first), 1);
    EQ(shmq_publish(a, k, &m), SHMQ_OK);
    int rc;
    while ((rc = put(a, k, 1)) == SHMQ_OK) get(a, k);
    EQ(rc, SHMQ_FULL);
    EQ(shmq_depth(a, k), 1);
    EQ(shmq_wait_space(a, k, shmq_now() + MS, 0), SHMQ_TIMEOUT);
    EQ(shmq_ack(a, &first, 1), 1);
    EQ(shmq_take(a, k, 1, 0, &d), 1);
    EQ(shmq_ack(a, &d, 1), 1);
    EQ(shmq_wait_space(a, k, shmq_now() + SECONDS, 0), SHMQ_OK);
    EQ(put(a, k, 1), SHMQ_OK);
    EQ(shmq_wait_space(a, k, 1, 0), SHMQ_TIMEOUT);   /* room or not: over is over */
}

TEST(gathers, "who has waited lets some come together while they do, and ever more rarely where they do not") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 1000), small = QUEUE(a, "small", 2);
    local_queue *l;
    EQ(queue_local(a, q, &l), 0);
    uint32_t lot = l->lot;
    CHECK(lot > 2);
    for (uint32_t rest = 1; rest <= 15; rest = 2 * rest + 1) {   /* one by one */
        EQ(put(a, q, 1), SHMQ_OK);
        EQ(shmq_glance(a, q, 0), SHMQ_OK);
        EQ(ld32_rlx(&l->gather_rest), rest);
        EQ(ld32_rlx(&l->gather_skip), rest);
        for (uint32_t i = 0; i < rest; i++) {
            EQ(ld32_rlx(&l->gather_skip), rest - i);
            EQ(shmq_glance(a, q, 0), SHMQ_OK);
        }
        EQ(get(a, q), 1);
    }
    for (uint32_t i = 0; i < lot; i++) EQ(put(a, q, i), SHMQ_OK);   /* all are there */
    EQ(shmq_wait_items(a, q, 0, UINT64_MAX), SHMQ_OK);   /* without waiting: nothing to gather */
    EQ(ld32_rlx(&l->gather_rest), 15);
    EQ(shmq_glance(a, q, 0), SHMQ_OK);
    EQ(ld32_rlx(&l->gather_rest), 0);
    EQ(shmq_queue_close(a, q), 0);
    EQ(shmq_glance(a, q, 0), SHMQ_OK);   /* no more will come */
    EQ(ld32_rlx(&l->gather_rest), 0);
    EQ(put(a, small, 1), SHMQ_OK);
    EQ(shmq_glance(a, small, 0), SHMQ_OK);
    EQ(queue_local(a, small, &l), 0);
    EQ(ld32_rlx(&l->gather_rest), 0);   /* a lot is one */
}

TEST(gather_elsewhere, "a queue that takes the place of another one is not looked into at that one's positions") {
    shmq_ctx *a = segment(256 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 16), n = 20000;
    local_queue *l, *r;
    for (uint64_t i = 0; i < n; i++) {
        EQ(put(a, q, i), SHMQ_OK);
        EQ(get(a, q), i);
    }
    EQ(put(a, q, n), SHMQ_OK);
    EQ(queue_local(a, q, &l), 0);
    place at = { 0, 0 };
    EQ(come(a, l, &at, 0, 4), 1);
    EQ(at.from, n);
    for (int i = 1; i < 64; i++) {   /* no fresh records any more */
        char name[8];
        snprintf(name, sizeof name, "%d", i);
        QUEUE(a, name, 1);
    }
    EQ(shmq_queue_delete(a, q), 0);
    uint64_t next = QUEUE(a, "r", 1 << 20);   /* there, its ring has no memory yet */
    EQ(queue_local(a, next, &r), 0);
    EQ(next & 0xffff, q & 0xffff);
    CHECK(r == l && r->live != at.live);
    EQ(come(a, l, &at, 1, 4), 4);   /* as if all had come: go and look */
}

static void nothing(int s) { (void)s; }
TEST(interrupted, "a signal ends a wait with INTR") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 1);
    struct sigaction sa = { .sa_handler = nothing };
    sigaction(SIGUSR1, &sa, NULL);
    pid_t me = getpid(), child = fork();
    if (child == 0) {
        for (;;) {
            nap(20 * MS);
            kill(me, SIGUSR1);
        }
    }
    EQ(shmq_wait_items(a, q, shmq_now() + 5 * SECONDS, 0), SHMQ_INTR);
    kill_wait(child);
}

TEST(woken, "a publish wakes a sleeper in another process, and a take a producer, long before a second is over") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 1), back = QUEUE(a, "back", 1);
    partner p = split();
    if (p.pid == 0) {
        shmq_ctx *b = join();
        for (uint64_t i = 0; i < 300; i++) {
            shmq_delivery d;
            while (shmq_take(b, q, 1, 0, &d) != 1) shmq_wait_items(b, q, 0, 0);
            EQ(value_of(&d), i);
            EQ(shmq_ack(b, &d, 1), 1);
            while (put(b, back, i) != SHMQ_OK) shmq_wait_space(b, back, 0, 0);
        }
        _exit(0);
    }
    uint64_t start = shmq_now();
    for (uint64_t i = 0; i < 300; i++) {
        shmq_delivery d;
        while (put(a, q, i) != SHMQ_OK) shmq_wait_space(a, q, 0, 0);
        while (shmq_take(a, back, 1, 0, &d) != 1) shmq_wait_items(a, back, 0, 0);
        EQ(value_of(&d), i);
        EQ(shmq_ack(a, &d, 1), 1);
    }
    CHECK(shmq_now() - start < 3 * SECONDS);   /* one lost wake-up in ten would already cost 30 s */
    kill_wait(p.pid);
}

TEST(all_leave, "closing, deleting and waking a queue end every wait on it") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 1), r = QUEUE(a, "r", 1), s = QUEUE(a, "s", 1);
    EQ(put(a, r, 1), SHMQ_OK);
    partner p = split();
    if (p.pid == 0) {
        shmq_ctx *b = join();
        say(p.up);
        uint64_t start = shmq_now();
        int rc;
        while ((rc = shmq_wait_items(b, q, 0, 0)) == SHMQ_OK) {}
        EQ(rc, SHMQ_CLOSED);
        say(p.up);
        while ((rc = shmq_wait_space(b, r, 0, 0)) == SHMQ_OK) {}
        EQ(rc, SHMQ_GONE);
        say(p.up);
        EQ(shmq_wait_items(b, s, 0, 0), SHMQ_OK);
        CHECK(shmq_now() - start < 900 * MS);
        say(p.up);
        _exit(0);
    }
    hear(p.up);
    nap(50 * MS);
    EQ(shmq_queue_close(a, q), SHMQ_OK);
    hear(p.up);
    nap(50 * MS);
    EQ(shmq_queue_delete(a, r), SHMQ_OK);
    hear(p.up);
    nap(50 * MS);
    EQ(shmq_wake_queue(a, s), SHMQ_OK);
    hear(p.up);
}

TEST(baton, "a sleeper that dies with the wake-up in its hand does not leave the others asleep") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    partner p[2];
    for (int i = 0; i < 2; i++) {
        p[i] = split();
        if (p[i].pid) continue;
        shmq_ctx *b = join();
        shmq_delivery d;
        say(p[i].up);
        while (shmq_take(b, q, 1, 0, &d) != 1) shmq_wait_items(b, q, 0, 0);
        EQ(shmq_ack(b, &d, 1), 1);
        say(p[i].up);
        _exit(0);
    }
    hear(p[0].up);
    hear(p[1].up);
    nap(50 * MS);
    kill(p[0].pid, SIGSTOP);
    waitpid(p[0].pid, NULL, WUNTRACED);
    EQ(put(a, q, 1), SHMQ_OK);   /* may wake the stopped one */
    kill_wait(p[0].pid);
    uint64_t start = shmq_now();
    CHECK(shmq_reap(a, 0) >= 1);   /* announces the death to every sleeper; the other may be through already */
    hear(p[1].up);
    CHECK(shmq_now() - start < 500 * MS);
}

TEST(stopped_baton, "one that is stopped with it delays the others by a second at most") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    partner p[2];
    for (int i = 0; i < 2; i++) {
        p[i] = split();
        if (p[i].pid) continue;
        shmq_ctx *b = join();
        shmq_delivery d;
        say(p[i].up);
        while (shmq_take(b, q, 1, 0, &d) != 1) shmq_wait_items(b, q, 0, 0);
        say(p[i].up);
        pause();
    }
    hear(p[0].up);
    hear(p[1].up);
    nap(50 * MS);
    kill(p[0].pid, SIGSTOP);
    waitpid(p[0].pid, NULL, WUNTRACED);
    EQ(put(a, q, 1), SHMQ_OK);
    uint64_t start = shmq_now();
    hear(p[1].up);
    CHECK(shmq_now() - start < 1500 * MS);
    kill_wait(p[0].pid);
    kill_wait(p[1].pid);
}

TEST(space_expired, "producers are woken also when expired or purged messages made the room") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 1);
    for (int way = 0; way < 2; way++) {
        shmq_message m = { .data = "x", .size = 1, .ttl_ns = way ? 0 : MS };
        EQ(shmq_publish(a, q, &m), SHMQ_OK);
        partner p = split();
        if (p.pid == 0) {
            shmq_ctx *b = join();
            say(p.up);
            while (put(b, q, 7) != SHMQ_OK) shmq_wait_space(b, q, 0, 0);
            say(p.up);
            pause();
        }
        hear(p.up);
        nap(50 * MS);
        uint64_t start = shmq_now();
        if (way) EQ(shmq_purge(a, q), 1);
        else CHECK(empty(a, q) || 1);
        hear(p.up);
        CHECK(shmq_now() - start < 500 * MS);
        kill_wait(p.pid);
        shmq_purge(a, q);
    }
}
MAIN
