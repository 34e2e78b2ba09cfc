/* span.c: the part of the segment in which the rings of a queue lie, and the memory behind it.
 *
 * I1  Ring space belongs to a queue exactly while its record is not FREE: there is no allocator state that could leak.
 * I2  A long ring that is made anew reads as zeros: its memory was given back, or was wiped where it cannot be.
 *
 * Called by one process at a time: header.admin. Who dies where: nothing is written but zeros, where no living queue lies.
 */
#define _GNU_SOURCE
#include "span.h"
#include "ids.h"
#include "queue.h"
#include "ring.h"
#include <fcntl.h>
#include <sys/mman.h>

/* For a segment whose pages cannot be punched: a fresh ring is a zero page, however it comes. What has no memory is reserved first. */
static void wipe(shmq_ctx *ctx, shmq_ring_place p, uint64_t bytes) {
    for (uint64_t at = p.offset, end = p.offset + bytes; at < end; at += RING_CHUNK * 8) {
        uint64_t n = end - at < RING_CHUNK * 8 ? end - at : RING_CHUNK * 8;
        if (shmq_reserve(ctx, at, n) == SHMQ_OK) memset(ctx->base + at, 0, n);
    }
}

void span_punch(shmq_ctx *ctx, shmq_ring_place p, const shmq_queue_options *ids) {
    uint64_t bytes = queue_place_bytes(ctx, p, ids ? IDS_LG : 24);
    if (bytes == 0) return;
    int fd = segment_fd(ctx);
    int bad = fd >= 0 ? fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)p.offset, (off_t)bytes)
                      : madvise(ctx->base + p.offset, bytes, MADV_REMOVE);
    if (bad && ids) {
        if (ids_bytes(ids) && ids_bytes(ids) <= bytes) ids_forget(ctx->base + p.offset, ids);
    } else if (bad && p.ready) wipe(ctx, p, bytes);
}

/* First fit between the rings of all records that are not FREE (I1). CORRUPT: of one of them nobody can tell what is its own. */
int span_find(shmq_ctx *ctx, uint64_t bytes, uint64_t also_at, uint64_t also_bytes, uint64_t *found) {
    uint64_t at = ctx->geometry.rings, end = at + ctx->geometry.rings_size;
    uint32_t n = queues_used(ctx);
    for (int moved = 1; moved;) {
        moved = 0;
        if (also_bytes && at < also_at + also_bytes && also_at < at + bytes) {
            at = also_at + also_bytes;
            moved = 1;
        }
        for (uint32_t i = 0; i < n; i++) {
            if (queue_state(ld_acq(&ctx->queues[i].word)) == SHMQ_Q_FREE) continue;
            for (unsigned n_th = 0; n_th < QUEUE_PLACES; n_th++) {
                shmq_ring_place *its = queue_place(&ctx->queues[i], n_th), p = *its;
                if (p.offset == 0) continue;
                uint64_t size = queue_place_bytes(ctx, p, IDS_LG);
                if (size == 0)
                    return fail(ctx, SHMQ_E_CORRUPT, WHAT_QUEUE, (uint64_t)((uint8_t *)its - ctx->base), p.offset, ctx->geometry.rings, 0);
                if (at >= p.offset + size || p.offset >= at + bytes) continue;
                at = p.offset + size;
                moved = 1;
            }
        }
    }
    *found = at;
    return at + bytes <= end ? SHMQ_OK : SHMQ_FULL;
}
