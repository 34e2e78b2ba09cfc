/* barrier.c: the slow side of an asymmetric fence.
 *
 *   fast side   op_begin: plain stores of era and op, no fence, then loads        (ctx.h)
 *   slow side   its stores, barrier_everywhere, then loads of what the fast side has stored
 *
 * I1  After barrier_everywhere it is as if each other process had a fence between its stores and its loads. membarrier does
 *     that, on this side alone: EXPEDITED by an interrupt to the cores where registered processes run (a microsecond), GLOBAL by
 *     waiting until each core has switched (ten milliseconds).
 * I2  Every process registers before its owner word is stored. Where that is refused, it sets header.unreached first, for good, and has a
 *     fence after it. The slow side has a fence, then looks at unreached, and uses GLOBAL where it is set. So the slow side sees the
 *     word, or the process, which attached after that look, sees all that the slow side has stored.
 * I3  Where both are refused, header.fences says so, at the latest when the first one needs it: whoever attaches from
 *     then on has a fence in each operation, and its record says `fenced`. The slow side then needs no more than a fence of
 *     its own once all living attachments are fenced; until then it is told to wait. (It sets fences, then looks at the records; they
 *     store their word, then look at fences: an attachment that is not fenced is seen. `fenced` of a former attachment of the
 *     record may stand there for a moment: then fences was set before that one, and this one finds it set, too.)
 *
 * Who dies where: after setting unreached or fences: it stays set. Deletions take ten milliseconds, or operations have a fence.
 */
#define _GNU_SOURCE
#include "barrier.h"
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refused(int command) { return syscall(SYS_membarrier, command, 0, 0) != 0; }

/* Seccomp filters and old kernels refuse it. */
int barrier_refused(void) { return refused(MEMBARRIER_CMD_GLOBAL_EXPEDITED) && refused(MEMBARRIER_CMD_GLOBAL); }

/* I2. Before the owner word is stored. Once for a process: from then on the kernel knows it. */
void barrier_join(shmq_ctx *ctx) {
    if (!refused(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED)) return;
    if (!MUTANT(100)) st32_rel(&ctx->header->unreached, 1);
    fence_sc();
}

/* The fast one, where it reaches everybody: 1 = done. */
int barrier_soon(shmq_ctx *ctx) {
    fence_sc();
    return !ld32_acq(&ctx->header->unreached) && !refused(MEMBARRIER_CMD_GLOBAL_EXPEDITED);
}

/* I1, I2, I3. 0 = done. */
int barrier_everywhere(shmq_ctx *ctx) {
    if (barrier_soon(ctx) || !refused(MEMBARRIER_CMD_GLOBAL)) return 0;
    if (MUTANT(75)) return -1;
    st32_rel(&ctx->header->fences, 1);
    fence_sc();
    uint32_t n = owners_used(ctx);
    for (uint32_t i = 0; i < n && !MUTANT(74); i++) {
        shmq_owner *o = &ctx->owners[i];
        if (i != ctx->self && owner_state(ld_acq(&o->word)) == SHMQ_OWNER_ALIVE && !ld32_acq(&o->fenced)) return -1;
    }
    return 0;
}
