/* barrier.c: the slow side of an asymmetric fence.
 *
 *   fast side   op_begin: a plain store of op, no fence, then loads               (ctx.h)
 *   slow side   its stores, barrier_everywhere, then loads of what the fast side has stored
 *
 * I1  After barrier_everywhere it is as if each other process had a fence between its stores and its loads. membarrier does
 *     that, on this side alone.
 * I2  Where membarrier is refused, header.fences says so, at the latest when the first one needs it: whoever attaches from
 *     then on has a fence in each operation, and his record says `fenced`. The slow side then needs no more than a fence of
 *     its own once all living attachments are fenced; until then it is told to wait. (He sets fences, then looks at the records; they
 *     store their word, then look at fences: an attachment that is not fenced is seen. `fenced` of a former attachment of the
 *     record may stand there for a moment: then fences was set before that one, and this one finds it set, too.)
 *
 * Who dies where: after setting fences: it stays set, and costs a fence per operation.
 */
#define _GNU_SOURCE
#include "barrier.h"
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Seccomp filters and old kernels refuse it. */
int barrier_refused(void) { return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) != 0; }

/* I1, I2. 0 = done. */
int barrier_everywhere(shmq_ctx *ctx) {
    if (!barrier_refused()) return 0;
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
