/* The cheap clock against the real one: a simulated counter and kernel, and a process that is stopped between any two reads. */
#include "harness.h"

#if defined(__x86_64__)   /* elsewhere there is the real one only */
static uint64_t true_ns, reads, stopped_after, stop_ns;   /* stopped once, for stop_ns, after the read of this number */
static double ticks_per_ns;

static void one_more_read(uint64_t costs) {
    true_ns += costs;
    if (++reads == stopped_after) true_ns += stop_ns;
}

static uint64_t fake_tsc(void) {
    uint64_t t = (uint64_t)((double)true_ns * ticks_per_ns);
    one_more_read(8);
    return t;
}

static int fake_gettime(struct timespec *t) {
    true_ns += 10;
    t->tv_sec = (time_t)(true_ns / SECONDS);
    t->tv_nsec = (long)(true_ns % SECONDS);
    one_more_read(10);
    return 0;
}

#define __builtin_ia32_rdtsc() fake_tsc()
#define clock_gettime(id, t) fake_gettime(t)
#include "clock.c"   /* instead of the library's */

static shmq_ctx ctx;

static void begin(double rate) {
    reads = stopped_after = 0;
    true_ns = 5000 * SECONDS;
    ticks_per_ns = rate;
    clock_init(&ctx);
    ctx.clock.trusted = 1;   /* whatever this machine's kernel thinks of its own */
}

/* Ask after `rest` ns, and look whether that is a time between question and answer, or how far it is off. */
static void ask(uint64_t rest) {
    true_ns += rest;
    uint64_t asked = true_ns, said = clock_now(&ctx);
    if (said + 1000 >= asked && said <= true_ns + 1000) return;
    printf("     after %llu reads: off by %lld ns\n", (unsigned long long)reads, (long long)(said - (said < asked ? asked : true_ns)));
    CHECK(!"the right time");
}

TEST(exact, "it is off by less than a microsecond, and nearly always the cheap one") {
    static const double rates[] = { 1.0, 2.4, 4.99 };
    for (int i = 0; i < 3; i++) {
        begin(rates[i]);
        for (uint64_t n = 0; n < 2000000; n++) ask(50 + n * 7919 % 5000);
        CHECK(reads < 2010000);   /* one each, two more for each look at the real clock */
    }
}

TEST(rests, "it is right after a rest of any length") {
    for (uint64_t rest = 100; rest < 100000 * SECONDS; rest *= 3) {
        begin(2.1);
        for (int n = 0; n < 200; n++) {
            ask(rest);
            ask(100);
            ask(2 * MS);
        }
    }
}

TEST(stopped, "a process that is stopped between any two reads has the right time when it goes on, and ever after") {
    for (uint64_t k = 1; k <= 100; k++)
        for (stop_ns = 2000; stop_ns <= 10 * SECONDS; stop_ns *= 7) {
            begin(2.9);
            stopped_after = k;
            for (int n = 0; n < 100; n++) ask(n < 50 ? 700000 : 4000000);
        }
}
#endif
MAIN
