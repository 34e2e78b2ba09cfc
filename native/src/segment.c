/* segment.c: a broker's shared memory: planned, formatted, checked, mapped, and reserved before it is used.
 *
 *   header | owners | timers | l1 | l0 | queues | counters | held | blocks | cold | rings | payload 0 .. 10     (see shmq.h)
 *
 * I1  magic is stored last by format: a reader that sees it sees a whole header.
 * I2  geometry is immutable once magic is stored; every process works on a private, checksummed copy.
 * I3  no byte is read or written that shmq_reserve (or format) has not put memory behind: on a full file system the answer
 *     is SHMQ_E_NOMEM, never SIGBUS.
 * I4  The descriptor is used only while its number stands for the segment: a program may have closed it, and have a file of
 *     its own there, which must not be filled or punched. Without it the mapping serves, where the kernel can do that.
 * Written by format only, all but the live words (admin .. hwm). If the formatter dies before magic: the segment has no
 * magic, verify refuses it, and whoever creates the broker next unlinks it.
 */
#define _GNU_SOURCE
#include "barrier.h"
#include "waiter.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* clang-format off */
static const uint64_t STRIDE[SHMQ_CLASSES] = {
    64, 256, 1024, 4096, 16384, 65536 + 4096, 262144 + 4096, (1u << 20) + 4096, (8u << 20) + 4096, (64u << 20) + 4096,
    (UINT64_C(1) << 30) + 65536 };
static const uint64_t MOST[SHMQ_CLASSES] = {   /* blocks, however large memory_limit is: together SHMQ_BLOCKS */
    1u << 23, 1u << 21, 1u << 21, 1u << 19, 1u << 19, 1u << 19, 1u << 19, 1u << 19, 1u << 19, 1u << 19, 1u << 19 };
/* clang-format on */
#define HEADERS_MOST (65536u + 16384u)   /* what may come to a message of the greatest size: headers, key and id, or list of children */

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static uint64_t hash64(uint64_t h, const void *bytes, size_t n) {   /* FNV-1a; not for secrets */
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

uint64_t shmq_fingerprint(void) {
    /* clang-format off */
    const uint64_t words[] = {
        SHMQ_LAYOUT_VERSION, SHMQ_OWNERS, SHMQ_QUEUES, SHMQ_LANES, SHMQ_CLASSES, SHMQ_UNITS, SHMQ_BLOCKS, SHMQ_HELD,
        SHMQ_TIMERS, sizeof(shmq_header), sizeof(shmq_owner), sizeof(shmq_held), sizeof(shmq_block), sizeof(shmq_queue),
        sizeof(shmq_counters), sizeof(void *), offsetof(shmq_header, geometry), offsetof(shmq_header, hwm),
        offsetof(shmq_header, payload_bytes), offsetof(shmq_queue, chunks), offsetof(shmq_queue, options), offsetof(shmq_queue, evt),
        offsetof(shmq_queue, space), offsetof(shmq_queue, ends),
        offsetof(shmq_queue, place), offsetof(shmq_block, fate), offsetof(shmq_block, size), offsetof(shmq_owner, start),
        offsetof(shmq_header, fences), offsetof(shmq_header, era), offsetof(shmq_owner, era), offsetof(shmq_queue, born),
        TABLE_OF_IDS };
    /* clang-format on */
    uint64_t h = hash64(UINT64_C(0xcbf29ce484222325), words, sizeof words);
    h = hash64(h, STRIDE, sizeof STRIDE);
    return hash64(h, MOST, sizeof MOST);
}

/* 1 = there is nothing to be read (no /proc); 0 = it could not be read this time (no descriptor left): errno says why. */
static uint64_t boot_hash(void) {
    char text[64] = { 0 };
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT || errno == EACCES || errno == EPERM || errno == ENOTDIR ? 1 : 0;
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    return n > 0 ? hash64(UINT64_C(0xcbf29ce484222325), text, (size_t)n) : 1;
}

static uint64_t namespace(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}
static uint64_t pid_namespace(void) { return namespace("/proc/self/ns/pid"); }

/* In another time namespace clocks and start times (proc(5)) are shifted: the living would look like others, messages like
 * expired ones. Not time_for_children, where this process's children will be: they check for themselves when they attach.
 * Kernels before 5.6 have no such file: 0 there for all. Without /proc it is 0 as well, and so is the pid namespace, which
 * refuses such a process: what cannot be read is never taken for equal to what was. */
static uint64_t time_namespace(void) { return namespace("/proc/self/ns/time"); }

uint32_t segment_where(void) {   /* 16 bits that stand for the namespaces of this process */
    const uint64_t here[2] = { pid_namespace(), time_namespace() };
    return (uint32_t)(hash64(UINT64_C(0xcbf29ce484222325), here, sizeof here) & 0xffff);
}

int segment_is_here(const shmq_header *h) { return h->pidns == pid_namespace() && h->timens == time_namespace(); }

const char *shmq_what(uint32_t what) {
    /* clang-format off */
    static const char *const NAMES[] = { "nothing", "magic", "layout version", "layout fingerprint", "header checksum", "size",
        "owner uid", "pid namespace", "boot", "memory reservation", "ring slot", "block header", "queue record", "size class",
        "mapping", "geometry", "provider", "table of ids", "time namespace", "memory limit" };
    /* clang-format on */
    return what < sizeof NAMES / sizeof *NAMES ? NAMES[what] : "unknown";
}

/* Deal the block numbers to the classes: the smallest units of which SHMQ_UNITS are enough. Each class gets one at least. */
static void deal(shmq_geometry *g) {
    for (g->unit_lg = 12;; g->unit_lg++) {   /* a unit is some whole words of l1 */
        uint64_t at = 0;
        for (int k = 0; k < SHMQ_CLASSES; k++) {
            uint64_t units = round_up(g->limit[k], UINT64_C(1) << g->unit_lg) >> g->unit_lg;
            g->first[k] = at;
            at += (units ? units : 1) << g->unit_lg;
        }
        g->indices = at;
        if (at >> g->unit_lg <= SHMQ_UNITS) return;
    }
}

static uint64_t ring_bytes(uint64_t depth) {
    uint64_t n = 1;
    while (n < depth) n *= 2;
    return round_up(n * 8, SHMQ_PAGE);
}

uint64_t shmq_plan(const shmq_config *config, shmq_geometry *g) {
    memset(g, 0, sizeof *g);
    uint64_t memory = g->memory_limit = config->memory_limit;
    g->max_message = config->max_message;
    g->default_ttl_ns = config->default_ttl_ns;
    g->processes = config->max_processes && config->max_processes < SHMQ_OWNERS ? config->max_processes : SHMQ_OWNERS;
    g->queue_count = config->max_queues && config->max_queues < SHMQ_QUEUES ? config->max_queues : SHMQ_QUEUES;
    for (g->held_each = 4096; g->held_each < SHMQ_HELD && g->held_each < memory / 1024;) g->held_each *= 2;
    uint64_t room = config->max_message > STRIDE[SHMQ_CLASSES - 1] ? STRIDE[SHMQ_CLASSES - 1] : config->max_message + HEADERS_MOST;
    for (int k = 0; k < SHMQ_CLASSES; k++) {
        uint64_t fit = memory / STRIDE[k] / (k ? 1 : 2);   /* the smallest cost more address space for headers than for payload */
        if (k && STRIDE[k - 1] >= room) fit = 0;   /* no message is that large */
        else if (fit < 1) fit = 1;
        g->stride[k] = STRIDE[k];
        g->limit[k] = fit < MOST[k] ? fit : MOST[k];
    }
    deal(g);
    uint64_t at = 8192;
#define PART(field, bytes) (g->field = at, at = round_up(at + (uint64_t)(bytes), SHMQ_PAGE))
    PART(owners, g->processes * sizeof(shmq_owner));
    PART(timers, SHMQ_TIMERS * 8);
    PART(l1, g->indices / 64 / 64 * 8);
    PART(l0, g->indices / 64 * 8);
    PART(queues, g->queue_count * sizeof(shmq_queue));
    PART(counters, (g->processes + 1) * g->queue_count * sizeof(shmq_counters));
    PART(held, g->processes * g->held_each * sizeof(shmq_held));
    PART(blocks, g->indices * sizeof(shmq_block));
    PART(cold, g->indices * 64);
    /* room for as many queues of the usual depth as there may be, and for longer ones the more memory there is */
    uint64_t usual = SHMQ_LEVELS * ring_bytes(g->indices < USUAL_DEPTH ? g->indices : USUAL_DEPTH) + ring_bytes(AGAIN_MOST);
    uint64_t eighths = memory >> 27;
    g->rings_size = g->queue_count * usual + round_up(memory / 8 * (eighths < 4 ? 4 : eighths > 64 ? 64 : eighths), SHMQ_PAGE);
    if (g->rings_size > UINT64_C(1) << 37) g->rings_size = UINT64_C(1) << 37;   /* 1,020 queues of one level and the greatest depth */
    PART(rings, g->rings_size);
    for (int k = 0; k < SHMQ_CLASSES; k++) PART(payload[k], g->limit[k] * STRIDE[k]);
#undef PART
    g->total = round_up(at, UINT64_C(1) << 21);
    return g->total;
}

static uint64_t header_checksum(const shmq_header *h) {
    return hash64(UINT64_C(0xcbf29ce484222325), (const uint8_t *)h + offsetof(shmq_header, version),
                  offsetof(shmq_header, checksum) - offsetof(shmq_header, version));
}

shmq_ctx *shmq_ctx_new(void) {
    shmq_ctx *ctx = mmap(NULL, sizeof *ctx, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ctx == MAP_FAILED) return NULL;
    if (madvise(ctx, sizeof *ctx, MADV_WIPEONFORK) != 0) {
        munmap(ctx, sizeof *ctx);
        return NULL;
    }
    st32_rlx(&ctx->alive, 1);
    ctx->fd = -1;
    ctx->self = NOBODY;
    return ctx;
}

void shmq_ctx_detail(shmq_ctx *ctx, shmq_detail *out) { *out = ctx->detail; }

static void point(shmq_ctx *ctx, void *base, uint64_t size) {
    ctx->base = base;
    ctx->size = size;
    ctx->header = base;
    ctx->mapped = 1;
}

static void place(shmq_ctx *ctx, const shmq_geometry *sound) {   /* I2: from a copy that was checked, not from the segment */
    shmq_geometry *g = &ctx->geometry;
    *g = *sound;
    uint8_t *b = ctx->base;
    ctx->owners = (shmq_owner *)(b + g->owners);
    ctx->timers = (shmq_au64 *)(b + g->timers);
    ctx->l1 = (shmq_au64 *)(b + g->l1);
    ctx->l0 = (shmq_au64 *)(b + g->l0);
    ctx->queues = (shmq_queue *)(b + g->queues);
    ctx->counters = (shmq_counters *)(b + g->counters);
    ctx->held_base = (shmq_held *)(b + g->held);
    ctx->blocks = (shmq_block *)(b + g->blocks);
    ctx->unit_lg = (uint32_t)g->unit_lg;
    ctx->indices = (uint32_t)g->indices;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) {
        class_place *c = &ctx->classes[k];
        c->payload = b + g->payload[k];
        c->stride = g->stride[k];
        c->limit = g->limit[k];
        c->unit = c->stride < SHMQ_PAGE ? SHMQ_PAGE : round_up((c->stride + 253) / 254, SHMQ_PAGE);
        c->first = (uint32_t)g->first[k];
        for (uint64_t unit = g->first[k] >> g->unit_lg; unit < SHMQ_UNITS; unit++) ctx->unit_class[unit] = (uint8_t)k;
        uint64_t most = (UINT64_C(1) << 18) / c->stride;   /* a magazine hoards at most 256 KiB */
        ctx->magazines[k].cap = most > MAGAZINE ? MAGAZINE : most < 2 ? 1 : (uint32_t)most;
        ctx->magazines[k].n = 0;
        ctx->magazines[k].window = c->stride >= SHMQ_PAGE && c->stride < (1u << 20) ? (uint32_t)((UINT64_C(4) << 20) / c->stride) : 0;
        ctx->magazines[k].next = 0;
    }
    ctx->bound = g->memory_limit;
    for (unsigned k = SHMQ_CLASSES; k-- > 0;) {   /* one message of the greatest size is always allowed, as units count */
        class_place *c = &ctx->classes[k];
        uint64_t one = round_up(g->max_message + HEADERS_MOST, c->unit);
        if (c->limit == 0) continue;
        if (one > c->stride) one = c->stride;
        if (ctx->bound < one) ctx->bound = one;
        break;
    }
    ctx->random = shmq_now() ^ (uint64_t)getpid() << 32 ^ UINT64_C(0x9e3779b97f4a7c15);
}

int shmq_map_fd(shmq_ctx *ctx, int fd, uint64_t size) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (ctx->mapped) return fail(ctx, SHMQ_E_ARG, WHAT_MAP, 0, 1, 0, 0);
    struct stat st;
    if (fstat(fd, &st) != 0) return fail(ctx, SHMQ_E_SYS, WHAT_MAP, 0, 0, 0, errno);
    if ((uint64_t)st.st_size < size || size < 8192) return fail(ctx, SHMQ_E_CORRUPT, WHAT_SIZE, 0, (uint64_t)st.st_size, size, 0);
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) return fail(ctx, SHMQ_E_SYS, WHAT_MAP, 0, 0, size, errno);
    if (madvise(base, size, MADV_DONTFORK) != 0) {
        int e = errno;
        munmap(base, size);
        return fail(ctx, SHMQ_E_SYS, WHAT_MAP, 0, 0, size, e);
    }
    madvise(base, size, MADV_DONTDUMP);
    ctx->fd = fd;
    ctx->provider = SHMQ_POSIX;
    ctx->inode = (uint64_t)st.st_ino;
    ctx->device = (uint64_t)st.st_dev;
    point(ctx, base, size);
    return SHMQ_OK;
}

int shmq_map_address(shmq_ctx *ctx, void *base, uint64_t size, uint64_t inode) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (ctx->mapped || base == NULL || size < 8192) return fail(ctx, SHMQ_E_ARG, WHAT_MAP, 0, size, 8192, 0);
    madvise(base, size, MADV_DONTFORK);
    madvise(base, size, MADV_DONTDUMP);
    ctx->fd = -1;
    ctx->provider = SHMQ_SYSV;
    ctx->inode = inode;
    point(ctx, base, size);
    return SHMQ_OK;
}

/* The descriptor, if the number still stands for the segment; else -1 (I4). */
int segment_fd(shmq_ctx *ctx) {
    struct stat st;
    if (ctx->provider != SHMQ_POSIX || ctx->fd < 0 || fstat(ctx->fd, &st) != 0) return -1;
    return ((uint64_t)st.st_ino == ctx->inode && (uint64_t)st.st_dev == ctx->device) || MUTANT(65) ? ctx->fd : -1;
}

/* Put memory behind [offset, offset+length): idempotent, safe to race, safe to be killed in. */
int shmq_reserve(shmq_ctx *ctx, uint64_t offset, uint64_t length) {
    uint64_t from = offset / SHMQ_PAGE * SHMQ_PAGE, end = round_up(offset + length, SHMQ_PAGE);
    if (end > ctx->size) return fail(ctx, SHMQ_E_NOMEM, WHAT_RESERVE, offset, end, ctx->size, 0);
    CRASH_POINT("reserve");
    for (int tries = 0;; tries++) {
        int fd = segment_fd(ctx);
        int bad = fd >= 0 ? fallocate(fd, 0, (off_t)from, (off_t)(end - from)) : madvise(ctx->base + from, end - from, MADV_POPULATE_WRITE);
        if (bad == 0) return SHMQ_OK;
        if (errno == EINTR && tries < 1000) continue;
        /* before Linux 5.14 only the descriptor can do it */
        int e = fd < 0 && errno == EINVAL && ctx->provider == SHMQ_POSIX ? EBADF : errno;
        return fail(ctx, e == ENOSPC || e == ENOMEM || e == EFAULT || e == EINTR ? SHMQ_E_NOMEM : SHMQ_E_SYS, WHAT_RESERVE, from,
                    end - from, 0, e);
    }
}

static void make_secret(uint64_t secret[2]) {   /* nobody can prepare two ids that collide */
    if (getrandom(secret, 16, GRND_NONBLOCK) == 16) return;
    secret[0] = hash64(shmq_now(), &secret, sizeof(void *)) ^ boot_hash();
    secret[1] = hash64(secret[0], secret, 8) ^ (uint64_t)getpid();
}

int shmq_format(shmq_ctx *ctx, const shmq_config *config) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped) return fail(ctx, SHMQ_E_ARG, WHAT_MAP, 0, 0, 1, 0);
    shmq_geometry g;
    if (shmq_plan(config, &g) > ctx->size) return fail(ctx, SHMQ_E_ARG, WHAT_SIZE, 0, ctx->size, g.total, 0);
    uint64_t boot = boot_hash();
    if (boot == 0) return fail(ctx, SHMQ_E_SYS, WHAT_BOOT, 0, 0, 0, errno);
    int rc = shmq_reserve(ctx, 0, g.l0);   /* header, owners, timers, l1 */
    if (rc != SHMQ_OK) return rc;
    shmq_header *h = ctx->header;
    h->version = SHMQ_LAYOUT_VERSION;
    h->fingerprint = shmq_fingerprint();
    h->provider = ctx->provider;
    h->uid = (uint64_t)geteuid();
    h->pidns = pid_namespace();
    h->timens = time_namespace();
    h->created_ns = shmq_now();
    h->boot = boot;
    h->geometry = g;
    h->checksum = header_checksum(h);
    st_rlx(&h->next_id, 1);
    st_rlx(&h->next_expiry, UINT64_MAX);
    make_secret(h->secret);
    st32_rlx(&h->fences, (uint32_t)barrier_refused());
    st_rlx(&h->anonymous, config->anonymous ? 1 : 0);
    CRASH_POINT("format");
    st_rel(&h->magic, SHMQ_MAGIC);   /* I1 */
    place(ctx, &g);
    return SHMQ_OK;
}

static int refuse(shmq_detail *out, int rc, uint32_t what, uint64_t offset, uint64_t found, uint64_t expected) {
    *out = (shmq_detail){ .what = what, .offset = offset, .found = found, .expected = expected };
    return rc;
}

int shmq_check_header(const void *bytes, uint64_t n, uint64_t file_size, shmq_detail *out, uint64_t *total) {
    shmq_header h;
    memset(out, 0, sizeof *out);
    if (n < offsetof(shmq_header, admin)) return refuse(out, SHMQ_E_CORRUPT, WHAT_SIZE, 0, n, offsetof(shmq_header, admin));
    memset(&h, 0, sizeof h);
    memcpy((void *)&h, bytes, offsetof(shmq_header, admin));
    uint64_t magic = ld_rlx(&h.magic);
    if (magic != SHMQ_MAGIC) return refuse(out, magic == 0 ? SHMQ_E_CORRUPT : SHMQ_E_LAYOUT, WHAT_MAGIC, 0, magic, SHMQ_MAGIC);
    if (h.version != SHMQ_LAYOUT_VERSION)
        return refuse(out, SHMQ_E_LAYOUT, WHAT_VERSION, offsetof(shmq_header, version), h.version, SHMQ_LAYOUT_VERSION);
    if (h.fingerprint != shmq_fingerprint())
        return refuse(out, SHMQ_E_LAYOUT, WHAT_FINGERPRINT, offsetof(shmq_header, fingerprint), h.fingerprint, shmq_fingerprint());
    if (h.checksum != header_checksum(&h))
        return refuse(out, SHMQ_E_CORRUPT, WHAT_CHECKSUM, offsetof(shmq_header, checksum), h.checksum, header_checksum(&h));
    if (h.uid != (uint64_t)geteuid()) return refuse(out, SHMQ_E_ARG, WHAT_UID, offsetof(shmq_header, uid), h.uid, (uint64_t)geteuid());
    uint64_t boot = boot_hash();
    if (boot == 0) {
        refuse(out, SHMQ_E_SYS, WHAT_BOOT, offsetof(shmq_header, boot), h.boot, 0);
        out->sys_errno = errno;
        return SHMQ_E_SYS;
    }
    if (h.boot != boot) return refuse(out, SHMQ_E_CORRUPT, WHAT_BOOT, offsetof(shmq_header, boot), h.boot, boot);
    if (h.pidns != pid_namespace()) return refuse(out, SHMQ_E_PIDNS, WHAT_PIDNS, offsetof(shmq_header, pidns), h.pidns, pid_namespace());
    if (h.timens != time_namespace() && !MUTANT(61))
        return refuse(out, SHMQ_E_PIDNS, WHAT_TIMENS, offsetof(shmq_header, timens), h.timens, time_namespace());
    shmq_config c = { .memory_limit = h.geometry.memory_limit,
                      .max_message = h.geometry.max_message,
                      .default_ttl_ns = h.geometry.default_ttl_ns,
                      .max_processes = (uint32_t)h.geometry.processes,
                      .max_queues = (uint32_t)h.geometry.queue_count };
    shmq_geometry g;
    shmq_plan(&c, &g);
    if (memcmp(&g, &h.geometry, sizeof g) != 0)
        return refuse(out, SHMQ_E_CORRUPT, WHAT_GEOMETRY, offsetof(shmq_header, geometry), h.geometry.total, g.total);
    if (file_size < g.total) return refuse(out, SHMQ_E_CORRUPT, WHAT_SIZE, 0, file_size, g.total);
    *total = g.total;
    return SHMQ_OK;
}

int shmq_verify(shmq_ctx *ctx) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped) return fail(ctx, SHMQ_E_ARG, WHAT_MAP, 0, 0, 1, 0);
    if (ld_acq(&ctx->header->magic) != SHMQ_MAGIC)   /* pairs with I1 */
        return fail(ctx, SHMQ_E_CORRUPT, WHAT_MAGIC, 0, ld_rlx(&ctx->header->magic), SHMQ_MAGIC, 0);
    shmq_header copy;
    uint64_t total;
    memcpy((void *)&copy, (const void *)ctx->header, offsetof(shmq_header, admin));
    int rc = shmq_check_header(&copy, offsetof(shmq_header, admin), ctx->size, &ctx->detail, &total);
    if (rc == SHMQ_OK) place(ctx, &copy.geometry);
    return rc;
}

int shmq_segment_snapshot(shmq_ctx *ctx, shmq_segment_info *out) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    memset(out, 0, sizeof *out);
    shmq_header *h = ctx->header;
    struct stat st;
    out->total = ctx->size;
    int fd = segment_fd(ctx);
    if (fd >= 0 && fstat(fd, &st) == 0) out->memory_used = (uint64_t)st.st_blocks * 512;
    else out->memory_used = ctx->geometry.l0;   /* what format reserved; blocks are added below */
    out->memory_limit = ctx->geometry.memory_limit;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) {
        uint64_t n = class_hwm(ctx, k);
        out->blocks += n;
        for (uint64_t w = 0; w < (n + 63) / 64; w++)
            out->free_blocks += (uint64_t)__builtin_popcountll(ld_rlx(&ctx->l0[ctx->classes[k].first / 64 + w]));
        if (fd < 0) out->memory_used += n * (64 + ctx->classes[k].stride);
    }
    out->next_id = ld_rlx(&h->next_id);
    out->created_ns = h->created_ns;
    out->owners = owners_used(ctx);
    out->queues = queues_used(ctx);
    out->corrupt = ld32_rlx(&h->corrupt);
    out->anonymous = ld_rlx(&h->anonymous);
    out->closing = ld_rlx(&h->closing);
    out->user_word = ld_rlx(&h->user_word);
    out->default_ttl_ns = ctx->geometry.default_ttl_ns;
    out->max_message = ctx->geometry.max_message;
    out->provider = ctx->provider;
    out->payload_bytes = ld_rlx(&h->payload_bytes);
    out->max_processes = ctx->geometry.processes;
    out->max_queues = ctx->geometry.queue_count;
    out->held_each = ctx->geometry.held_each;
    return SHMQ_OK;
}

/* The checked copy (I2), for who reads parts of the segment by himself. */
int shmq_geometry_of(shmq_ctx *ctx, shmq_geometry *out) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped || ctx->blocks == NULL) return SHMQ_E_DETACHED;
    *out = ctx->geometry;
    return SHMQ_OK;
}

int shmq_set_flag(shmq_ctx *ctx, uint32_t which, uint64_t value) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ctx->mapped) return SHMQ_E_DETACHED;
    shmq_au64 *words[] = { &ctx->header->anonymous, &ctx->header->closing, &ctx->header->user_word };
    if (which >= 3) return SHMQ_E_ARG;
    st_rel(words[which], value);
    add32(&ctx->header->attach_evt, 1);   /* the supervisor waits on this word */
    futex_wake(&ctx->header->attach_evt, INT_MAX);
    uint32_t queues = which == 1 && value ? queues_used(ctx) : 0;
    /* closing: consumers that wait for delayed messages end */
    for (uint32_t i = 0; i < queues; i++) waiter_announce_all(&ctx->queues[i]);
    return SHMQ_OK;
}
