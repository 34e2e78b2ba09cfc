/* owner.c: one record per attached process, its identity, and how its death is proven.
 *
 *   word   state:2 | epoch:16 | start:24 | pid:22         FREE --attach--> ALIVE --declare--> DEAD --recover--> FREE(epoch+1)
 *                                                          ^-------------- detach (clean) ----'
 *   held   word[65536]: flags:4 | gen:36 | idx+1:24, deadline     leases, view hazards; reserved stepwise
 *
 * I1  pid and start time are in the word: one load names a process beyond pid re-use; one CAS declares exactly that one.
 * I2  DEAD is stored only by who has proven the death of the process that this very word names. A timeout proves nothing;
 *     a stopped process is alive.
 * I3  held entries are written by their owner only; an entry is written before the ctl CAS that it covers, and cleared
 *     before the CAS that ends the lease. What a former owner of the record left is cleared before held_hwm admits it.
 * I4  A FREE record has no image; its owner stores its own after the attach CAS. So an image that is read under an ALIVE word is
 *     of the program that this word names, or there is none yet.
 * I5  A new attachment needs no memory that may not be there: the next AHEAD free records have theirs, as far as there was some
 *     when somebody last attached or looked for the dead. What belongs to a record outlives its attachments.
 *
 * Proof: a pidfd of that pid is readable (all threads have exited; a zombie counts; where pidfd_open is
 * refused, its main thread is a zombie and the only one left), or there is no such pid, or its start
 * time is another one, or it has exec'ed: seen from outside, its main stack moved and its maps no longer hold this segment;
 * seen by that process itself, which may have attached again, another image of it is named (I4). Anything else - no descriptor
 * to be had, no permission - is "alive": errors delay a recovery, they never cause one.
 *
 * Who dies where: the record is its attachment's (attach.c); a death is proven again by whoever looks next.
 */
#define _GNU_SOURCE
#include "owner.h"
#include "arena.h"
#include "hash.h"
#include "waiter.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* Start time and main stack of a process from /proc/PID/stat (proc(5) fields 22 and 28), and whether all its threads have ended
 * (its main thread is a zombie, field 3, and is the only one, field 20). 0 = fine. */
int owner_stat(uint32_t pid, uint64_t *start, uint64_t *stack, int *ended) {
    char path[48], text[2048];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return n < 0 ? errno : ESRCH;
    text[n] = 0;
    char *p = strrchr(text, ')');   /* the name may hold anything, parentheses too */
    if (p == NULL) return EIO;
    int zombie = 0;
    for (int field = 2; field < 28 && p; field++) {
        p = strchr(p + 1, ' ');
        if (p && field == 2) zombie = p[1] == 'Z' || p[1] == 'X';
        if (p && field == 19) *ended = zombie && strtoull(p + 1, NULL, 10) <= 1;
        if (p && field == 21) *start = strtoull(p + 1, NULL, 10);
        if (p && field == 27) *stack = strtoull(p + 1, NULL, 10);
    }
    return p ? 0 : EIO;
}

/* 1 = the maps of pid hold our segment, 0 = they do not, -1 = cannot tell */
static int maps_hold(shmq_ctx *ctx, uint32_t pid) {
    char path[48], text[4096];
    snprintf(path, sizeof path, "/proc/%u/maps", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    FILE *f = fdopen(fd, "r");
    if (f == NULL) {
        close(fd);
        return -1;
    }
    int seen = 0, lines = 0;
    while (!seen && fgets(text, sizeof text, f)) {   /* address perms offset dev inode path */
        unsigned long long inode = 0;
        lines++;
        if (sscanf(text, "%*s %*s %*s %*s %llu", &inode) == 1 && inode == ctx->inode && (strstr(text, "shmq") || strstr(text, "SYSV")))
            seen = 1;
    }
    fclose(f);
    return lines == 0 ? -1 : seen;
}

/* A number of the program that runs in this process: random bytes that the kernel gives to each exec, which threads and forked
 * children share. Hashed, since the C library makes secrets of them. 0 = unknown. */
uint64_t owner_image(shmq_ctx *ctx) {
    const void *random = (const void *)getauxval(AT_RANDOM);
    return random ? hash_sip(ctx->header->secret, random, 16) | 1 : 0;
}

static int kill_zero(uint32_t pid) { return pid == 0 ? ESRCH : kill((pid_t)pid, 0) == 0 ? 0 : errno; }   /* 0 would be our own group */

#define AHEAD 8

/* The first page of a record's held table. Whoever gets there first; its owner alone makes it more. */
static int held_ready(shmq_ctx *ctx, uint32_t i, int (*reserve)(shmq_ctx *, uint64_t, uint64_t)) {
    shmq_owner *o = &ctx->owners[i];
    if (ld32_acq(&o->held_cap)) return SHMQ_OK;
    int rc = reserve(ctx, (uint64_t)((uint8_t *)held_of(ctx, i) - ctx->base), SHMQ_PAGE);
    if (rc == SHMQ_OK) cas32(&o->held_cap, 0, SHMQ_PAGE / sizeof(shmq_held));
    return rc;
}

/* I5. Under the ctx lock. */
void owner_ready_ahead(shmq_ctx *ctx) {
    uint32_t owners = (uint32_t)ctx->geometry.processes, queues = clamped(32, (uint32_t)ctx->geometry.queue_count);
    for (uint32_t i = 0, n = 0; i < owners && n < AHEAD && !MUTANT(70); i++) {
        shmq_owner *o = &ctx->owners[i];
        if (owner_state(ld_acq(&o->word)) != SHMQ_OWNER_FREE) continue;
        n++;
        if (held_ready(ctx, i, arena_reserve) != SHMQ_OK) return;
        if (ld32_acq(&o->counters) & 1) continue;
        if (arena_reserve(ctx, (uint64_t)((uint8_t *)counters_of(ctx, i, 0) - ctx->base), queues * sizeof(shmq_counters)) != SHMQ_OK)
            return;
        or32(&o->counters, 1);
    }
}

void owner_ping(shmq_ctx *ctx) {
    add32(&ctx->header->attach_evt, 1);
    futex_wake(&ctx->header->attach_evt, INT_MAX);
}

/* An unused held entry with memory behind it. Entries are re-used last in, first out: the hot ones stay hot. */
HOT int owner_held_get(shmq_ctx *ctx, uint32_t *entry) {
    if (ctx->held_n) {
        *entry = ctx->held_free[--ctx->held_n];
        return SHMQ_OK;
    }
    /* what we have reserved, not what the record says */
    uint32_t i = ctx->held_fresh, cap = MUTANT(73) ? ld32_rlx(&ctx->me->held_cap) : ctx->held_cap;
    if (i >= ctx->geometry.held_each) return fail(ctx, SHMQ_E_HELD, WHAT_NONE, 0, i, ctx->geometry.held_each, 0);
    if (i >= cap) {
        uint32_t want = clamped(cap * 2, (uint32_t)ctx->geometry.held_each);
        int rc = arena_reserve(ctx, (uint64_t)((uint8_t *)(ctx->held + cap) - ctx->base), (uint64_t)(want - cap) * sizeof(shmq_held));
        if (rc != SHMQ_OK) return rc;
        ctx->held_cap = want;
        if (ld32_rlx(&ctx->me->held_cap) < want) st32_rel(&ctx->me->held_cap, want);
    }
    st_rlx(&ctx->held[i].word, 0);   /* I3 */
    st_rlx(&ctx->held[i].deadline, 0);
    ctx->held_fresh = i + 1;
    st32_rel(&ctx->me->held_hwm, i + 1);   /* before the entry is used */
    *entry = i;
    return SHMQ_OK;
}

int shmq_owner_snapshot(shmq_ctx *ctx, uint32_t owner, shmq_owner_info *out) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    if (owner >= ctx->geometry.processes) return SHMQ_E_ARG;
    shmq_owner *o = &ctx->owners[owner];
    memset(out, 0, sizeof *out);
    out->word = ld_acq(&o->word);
    out->state = owner_state(out->word);
    out->pid = owner_pid(out->word);
    out->epoch = owner_epoch(out->word);
    out->role = ld32_rlx(&o->role);
    out->start = ld_rlx(&o->start);
    out->stack = ld_rlx(&o->stack);
    out->attached_ns = ld_rlx(&o->attached_ns);
    out->op = ld_rlx(&o->op);
    out->settled = ld32_acq(&o->settled);
    uint32_t n = held_used(ctx, owner);
    for (uint32_t i = 0; out->state == SHMQ_OWNER_ALIVE && i < n; i++) out->held += ld_rlx(&held_of(ctx, owner)[i].word) != 0;
    return SHMQ_OK;
}

/* Here, since loading a library for it would take a descriptor, which may be a standard one that was closed. */
int shmq_follow_parent(int signal) { return prctl(PR_SET_PDEATHSIG, (unsigned long)signal, 0, 0, 0) == 0 ? SHMQ_OK : SHMQ_E_SYS; }

uint64_t owner_start_of(uint32_t pid) {   /* 0 = cannot tell */
    uint64_t start = 0, stack = 0;
    int over;
    return owner_stat(pid, &start, &stack, &over) == 0 ? start : 0;
}

/* OK = the process that a word names is proven dead, ALIVE = everything else. Its main stack is noted on the way. */
int owner_word_dead(uint64_t w, uint64_t *stack) {
    uint32_t pid = owner_pid(w);
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno == ESRCH) return SHMQ_OK;
    if (fd >= 0) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int ended = poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
        close(fd);
        if (ended) return SHMQ_OK;
    }
    uint64_t start = 0;
    int over = 0, err = owner_stat(pid, &start, stack, &over);
    if (err == ENOENT || err == ESRCH) return kill_zero(pid) == ESRCH ? SHMQ_OK : SHMQ_ALIVE;
    if (err) return SHMQ_ALIVE;
    if ((start & 0xffffff) != owner_start(w)) return SHMQ_OK;
    return fd < 0 && over && !MUTANT(76) ? SHMQ_OK : SHMQ_ALIVE;   /* no pidfd to be had */
}

/* I2. OK = proven dead (or DEAD already), ALIVE = not proven, NOTFOUND = no such attachment. */
int shmq_owner_prove(shmq_ctx *ctx, uint32_t owner, int look_for_exec) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || owner >= ctx->geometry.processes) return SHMQ_E_ARG;
    shmq_owner *o = &ctx->owners[owner];
    uint64_t w = ld_acq(&o->word);
    if (owner_state(w) == SHMQ_OWNER_DEAD) return SHMQ_OK;
    if (owner_state(w) != SHMQ_OWNER_ALIVE) return SHMQ_E_NOTFOUND;
    uint32_t pid = owner_pid(w);
    if (pid == (uint32_t)getpid()) {
        uint64_t image = ld_acq(&o->image);
        if (owner == ctx->self && w == ctx->self_word) return SHMQ_ALIVE;   /* the same word may be in several records of this process */
        if (image && owner_image(ctx) && image != owner_image(ctx) && !MUTANT(64) && ld_acq(&o->word) == w) return SHMQ_OK;
    }
    uint64_t stack = 0;
    if (owner_word_dead(w, &stack) == SHMQ_OK) return SHMQ_OK;
    if (look_for_exec && stack && ld_rlx(&o->stack) && stack != ld_rlx(&o->stack) && maps_hold(ctx, pid) == 0 && ld_acq(&o->word) == w)
        return SHMQ_OK;
    return SHMQ_ALIVE;
}

/* ALIVE -> DEAD for exactly that word, which the caller has proven dead. OK also when somebody else declared it. */
int shmq_owner_declare(shmq_ctx *ctx, uint32_t owner, uint64_t word) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || owner >= ctx->geometry.processes || owner_state(word) != SHMQ_OWNER_ALIVE) return SHMQ_E_ARG;
    /* DEAD: before any ctl load that is acted on */
    if (cas(&ctx->owners[owner].word, word, owner_with(word, SHMQ_OWNER_DEAD))) owner_ping(ctx);
    return ld_acq(&ctx->owners[owner].word) == owner_with(word, SHMQ_OWNER_DEAD) ? SHMQ_OK : SHMQ_STALE;
}
