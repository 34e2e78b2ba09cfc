/* One thread waits for many queues: what is ready is told, no wake-up is lost, and none is kept by who does not want it. */
#include "harness.h"
#include "waiter.h"

static shmq_wait_set set;

static void waits_for(shmq_ctx *c, uint64_t q, uint32_t what) {
    CHECK(set.n < SHMQ_WAIT_MANY);
    set.one[set.n++] = (shmq_wait_one){ .ctx = c, .queue = q, .what = what };
}
static int now(void) { return shmq_wait_many(&set, shmq_wait_seen(&set), 1); }
static int soon(void) { return shmq_wait_many(&set, shmq_wait_seen(&set), shmq_now() + 10 * SECONDS); }
static uint64_t queue(shmq_ctx *c, uint32_t i) {
    char name[16];
    snprintf(name, sizeof name, "q%u", i);
    return QUEUE(c, name, 2);
}
static pid_t elsewhere(void (*act)(shmq_ctx *c, uint64_t q), uint64_t q) {   /* in another process, a little later */
    pid_t pid = fork();
    if (pid) return pid;
    alarm(10);
    shmq_ctx *c = join();
    nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
    act(c, q);
    EQ(shmq_detach(c), SHMQ_OK);
    _exit(0);
}
static void ended(pid_t pid) {
    int status;
    EQ(waitpid(pid, &status, 0), pid);
    EQ(status, 0);
}
static void puts_one(shmq_ctx *c, uint64_t q) { EQ(put(c, q, 7), SHMQ_OK); }
static void takes_one(shmq_ctx *c, uint64_t q) { get(c, q); }
static void closes(shmq_ctx *c, uint64_t q) { EQ(shmq_queue_close(c, q), SHMQ_OK); }
static void deletes(shmq_ctx *c, uint64_t q) { EQ(shmq_queue_delete(c, q), SHMQ_OK); }
static void calls(shmq_ctx *c, uint64_t q) { EQ(shmq_wake_queue(c, q), SHMQ_OK); }

TEST(there, "what is there is told without a sleep, all of it, and why") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q[6];
    for (uint32_t i = 0; i < 6; i++) q[i] = queue(c, i);
    for (uint32_t i = 0; i < 5; i++) waits_for(c, q[i], SHMQ_FOR_ITEMS);
    waits_for(c, q[5], SHMQ_FOR_SPACE);
    EQ(shmq_queue_close(c, q[3]), SHMQ_OK);
    EQ(put(c, q[1], 7), SHMQ_OK);
    EQ(put(c, q[4], 7), SHMQ_OK);
    EQ(now(), 4);
    EQ(set.ready[0], 1);
    EQ(set.one[1].result, SHMQ_OK);
    EQ(set.ready[1], 3);
    EQ(set.one[3].result, SHMQ_CLOSED);
    EQ(set.ready[2], 4);
    EQ(set.ready[3], 5);
    EQ(set.one[5].result, SHMQ_OK);
    EQ(now(), 4);   /* who leaves them there is told again */
    EQ(get(c, q[1]), 7);
    EQ(now(), 3);
    EQ(shmq_queue_delete(c, q[0]), SHMQ_OK);
    EQ(now(), 4);
    EQ(set.one[0].result, SHMQ_GONE);
}

TEST(over, "a wait ends at its deadline, when it is nudged, and when its slice is over") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    waits_for(c, queue(c, 0), SHMQ_FOR_ITEMS);
    uint64_t start = shmq_now();
    EQ(now(), SHMQ_TIMEOUT);
    EQ(shmq_wait_many(&set, shmq_wait_seen(&set), start + 50 * MS), SHMQ_TIMEOUT);
    CHECK(shmq_now() >= start + 50 * MS && shmq_now() < start + 900 * MS);
    uint32_t seen = shmq_wait_seen(&set);
    shmq_wait_nudge(&set);   /* between the two: not lost */
    start = shmq_now();
    EQ(shmq_wait_many(&set, seen, 0), 0);
    CHECK(shmq_now() < start + 800 * MS);
    EQ(shmq_wait_many(&set, shmq_wait_seen(&set), 0), 0);   /* a slice */
    CHECK(shmq_now() >= start + 800 * MS);   /* nearly a second: not all threads at once */
    set.n = 0;
    seen = shmq_wait_seen(&set);
    shmq_wait_nudge(&set);
    EQ(shmq_wait_many(&set, seen, 0), 0);
    EQ(now(), SHMQ_TIMEOUT);
    set.n = SHMQ_WAIT_MANY + 1;
    EQ(now(), SHMQ_E_ARG);
}

static void ignore(int sig) { (void)sig; }
TEST(interrupted, "a signal ends the sleep") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    waits_for(c, queue(c, 0), SHMQ_FOR_ITEMS);
    struct sigaction a = { .sa_handler = ignore };
    sigaction(SIGUSR1, &a, NULL);
    pid_t me = getpid(), pid = fork();
    if (pid == 0) {
        for (;;) {   /* until it has come while the other one sleeps */
            if (kill(me, SIGUSR1) != 0) _exit(0);
            nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
        }
    }
    EQ(soon(), SHMQ_INTR);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

TEST(wakes, "each of 127 queues wakes the one who sleeps on all, be it a message, room, the end of the queue or a call") {
    shmq_ctx *c = segment(256 << 20, 1 << 20);
    uint64_t q[SHMQ_WAIT_MANY];
    for (uint32_t i = 0; i < SHMQ_WAIT_MANY; i++) {
        q[i] = queue(c, i);
        waits_for(c, q[i], i % 2 ? SHMQ_FOR_ITEMS : SHMQ_FOR_SPACE);
        if (i % 2 == 0)
            while (put(c, q[i], 1) == SHMQ_OK) {}
    }
    set.one[125].what = SHMQ_FOR_CALL;
    static const struct {
        uint32_t at;
        void (*act)(shmq_ctx *, uint64_t);
        int result;
    } CASES[] = { { 1, puts_one, SHMQ_OK },    { 65, puts_one, SHMQ_OK }, { 123, puts_one, SHMQ_OK },   { 0, takes_one, SHMQ_OK },
                  { 126, takes_one, SHMQ_OK }, { 125, calls, SHMQ_OK },   { 121, closes, SHMQ_CLOSED }, { 119, deletes, SHMQ_GONE } };
    for (unsigned i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        uint64_t start = shmq_now();
        pid_t pid = elsewhere(CASES[i].act, q[CASES[i].at]);
        int n;
        while ((n = soon()) == 0) CHECK(shmq_now() < start + 5 * SECONDS);
        CHECK(shmq_now() < start + 800 * MS);   /* it was woken: a slice is longer */
        EQ(n, 1);
        EQ(set.ready[0], CASES[i].at);
        EQ(set.one[CASES[i].at].result, CASES[i].result);
        ended(pid);
        if (CASES[i].act == puts_one) EQ(get(c, q[CASES[i].at]), 7);
        if (CASES[i].act == takes_one) EQ(put(c, q[CASES[i].at], 7), SHMQ_OK);
        if (CASES[i].result != SHMQ_OK) set.one[CASES[i].at] = set.one[--set.n];
        if (CASES[i].at == 126) CHECK(set.n == SHMQ_WAIT_MANY);
    }
}

TEST(steals, "who waits gets what a consumer has read ahead and not begun") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = queue(c, 0);
    shmq_delivery d[2];
    EQ(put(c, q, 7), SHMQ_OK);
    EQ(shmq_take(b, q, 2, SHMQ_TAKE_AHEAD, d), 1);
    waits_for(c, q, SHMQ_FOR_ITEMS);
    EQ(now(), 1);
    EQ(get(c, q), 7);
}

TEST(baton, "a wake-up that nobody wants here is passed on; without anything there it is not") {
    shmq_ctx *c = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = queue(c, 0), full = queue(c, 1);
    shmq_queue *rec = &c->queues[q & 0xffff], *other = &c->queues[full & 0xffff];
    EQ(put(c, full, 1), SHMQ_OK);
    EQ(put(c, full, 1), SHMQ_OK);
    uint32_t items = waiter_prepare(&rec->evt), space = waiter_prepare(&other->space);   /* somebody else sleeps */
    EQ(shmq_pass(b, q, SHMQ_FOR_ITEMS), SHMQ_OK);
    EQ(shmq_pass(b, full, SHMQ_FOR_SPACE), SHMQ_OK);
    EQ(ld32_sc(&rec->evt), items);
    EQ(ld32_sc(&other->space), space);
    EQ(put(c, q, 7), SHMQ_OK);
    get(c, full);
    items = waiter_prepare(&rec->evt), space = waiter_prepare(&other->space);
    EQ(shmq_pass(b, q, SHMQ_FOR_ITEMS), SHMQ_OK);
    EQ(shmq_pass(b, full, SHMQ_FOR_SPACE), SHMQ_OK);
    CHECK(ld32_sc(&rec->evt) != items);
    CHECK(ld32_sc(&other->space) != space);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    CHECK(shmq_pass(b, q, SHMQ_FOR_ITEMS) <= 0);
}

static void dies_with_one(shmq_ctx *c, uint64_t q) {
    shmq_delivery d;
    EQ(shmq_take(c, q, 1, 0, &d), 1);
    raise(SIGKILL);
}
TEST(death, "who waits for many finds a dead process itself, and gets what that one had") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = queue(c, 0), n = 0;
    EQ(put(c, q, 7), SHMQ_OK);
    pid_t pid = elsewhere(dies_with_one, q);
    waitpid(pid, NULL, 0);
    waits_for(c, queue(c, 1), SHMQ_FOR_ITEMS);
    waits_for(c, q, SHMQ_FOR_ITEMS);
    int rc;
    while ((rc = soon()) == 0) CHECK(n++ < 5);
    EQ(rc, 1);
    EQ(set.ready[0], 1);
    EQ(get(c, q), 7);
}

TEST(brokers, "the queues may be of several brokers, and of one that is detached") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = queue(c, 0);
    shmq_ctx *other = segment(64 << 20, 1 << 20);
    uint64_t there = queue(other, 0);
    waits_for(c, q, SHMQ_FOR_ITEMS);
    waits_for(other, there, SHMQ_FOR_ITEMS);
    EQ(now(), SHMQ_TIMEOUT);
    EQ(put(other, there, 7), SHMQ_OK);
    EQ(now(), 1);
    EQ(set.ready[0], 1);
    EQ(get(other, there), 7);
    EQ(now(), SHMQ_TIMEOUT);
    EQ(shmq_detach(c), SHMQ_OK);
    int rc;
    while ((rc = soon()) == 0) {}
    EQ(rc, 1);
    EQ(set.ready[0], 0);
    EQ(set.one[0].result, SHMQ_E_DETACHED);
}

int main(int argc, char **argv) {
    if (!shmq_waits_many()) {
        printf("   this kernel cannot wait for many\n   0 passed, 0 failed\n");
        return 0;
    }
    return run_cases(argc, argv);
}
