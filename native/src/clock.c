/* clock.c: see clock.h. */
#include "clock.h"
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

uint64_t shmq_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

void clock_init(shmq_ctx *ctx) {
    memset(&ctx->clock, 0, sizeof ctx->clock);
#if defined(__x86_64__)
    char text[16] = { 0 };
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ctx->clock.trusted = read(fd, text, sizeof text - 1) > 0 && strncmp(text, "tsc", 3) == 0;
    close(fd);
#endif
}

#define TOGETHER 1024   /* ticks: readings no further apart are of one moment, and err by half of that */
#define MEASURED_NS UINT64_C(1000000)   /* too short to measure the rate by */
#define WINDOW_NS UINT64_C(10000000)
#define STEERED_NS UINT64_C(4000000000)   /* the rate of the real clock is steered: measure it afresh */
#define ASLEEP_NS UINT64_C(1000000000000)   /* a rate as old as that is forgotten */

/* Read the real clock and start the next window from here; where that is not possible, the next reading is the real clock's too.
 * The scale is measured over all the time since the first reading, and a window is no longer than that time. */
uint64_t clock_resync(shmq_ctx *ctx) {
#if defined(__x86_64__)
    if (!ctx->clock.trusted) return shmq_now();
    uint64_t before = __builtin_ia32_rdtsc(), now = shmq_now(), after = __builtin_ia32_rdtsc();
    ctx->clock.window = 0;
    if (after - before > TOGETHER && !MUTANT(60)) return now;   /* stopped in between: all that follows would be off by that long */
    uint64_t tsc = before + (after - before) / 2, ns = now - ctx->clock.first_ns, ticks = tsc - ctx->clock.first_tsc;
    uint64_t window = WINDOW_NS;
    if (ctx->clock.first_ns == 0 || ns > STEERED_NS || ticks == 0 || ticks >> 40) {
        if (ns > ASLEEP_NS) ctx->clock.scale = 0;
        ctx->clock.first_ns = now;
        ctx->clock.first_tsc = tsc;
        if (ctx->clock.scale == 0) return now;
    } else if (ns < MEASURED_NS) return now;
    else {
        ctx->clock.scale = (uint64_t)(((unsigned __int128)ns << 32) / ticks);
        if (ctx->clock.scale == 0) return now;
        if (ns < window) window = ns;
    }
    ctx->clock.ns = now;
    ctx->clock.tsc = tsc;
    ctx->clock.window = (window << 32) / ctx->clock.scale;
    return now;
#else
    (void)ctx;
    return shmq_now();
#endif
}
