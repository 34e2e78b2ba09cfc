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
    char text[16] = { 0 };
    memset(&ctx->clock, 0, sizeof ctx->clock);
#if defined(__x86_64__)
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (read(fd, text, sizeof text - 1) > 0 && strncmp(text, "tsc", 3) == 0) {
        ctx->clock.trusted = 1;
        ctx->clock.first_ns = shmq_now();
        ctx->clock.first_tsc = __builtin_ia32_rdtsc();
    }
    close(fd);
#endif
    (void)text;
}

/* Read the real clock and start the next window from here. The scale is measured over all the time since clock_init. */
uint64_t clock_resync(shmq_ctx *ctx) {
    uint64_t now = shmq_now();
#if defined(__x86_64__)
    if (!ctx->clock.trusted) return now;
    uint64_t tsc = __builtin_ia32_rdtsc(), ns = now - ctx->clock.first_ns, ticks = tsc - ctx->clock.first_tsc;
    ctx->clock.window = 0;
    if (ns < 1000000) return now;   /* too short to measure by */
    if (ns > UINT64_C(4000000000) || ticks == 0 || ticks >> 40) {   /* measure afresh: the rate of the real clock is steered */
        ctx->clock.first_ns = now;
        ctx->clock.first_tsc = tsc;
        if (ctx->clock.scale == 0 || ns > UINT64_C(1000000000000)) return now;
    } else ctx->clock.scale = (uint64_t)(((unsigned __int128)ns << 32) / ticks);
    if (ctx->clock.scale == 0) return now;
    ctx->clock.ns = now;
    ctx->clock.tsc = tsc;
    ctx->clock.window = ((UINT64_C(10000000) << 32) / ctx->clock.scale);
#endif
    return now;
}
