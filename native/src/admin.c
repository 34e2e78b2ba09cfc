/* admin.c: who may change records of queues: one process at a time.
 *
 *   header.admin   0 | owner word of who is at it
 *
 * I1  A holder that is proven dead is replaced. One that lives is waited for, 10 s at most: a stopped process is alive.
 * I2  Two threads of one process share an owner word: they exclude each other by ctx.admin_lock.
 *
 * Data paths never wait for it: a stopped holder delays creation and deletion only. Who dies where: with the lock: the next one takes it.
 * What a creator leaves half done is in a record that stays FREE (life.c, I1).
 */
#include "admin.h"
#include <time.h>

static int holder_gone(shmq_ctx *ctx, uint64_t word) {
    uint32_t n = owners_used(ctx);
    for (uint32_t i = 0; i < n; i++) {
        if (ld_acq(&ctx->owners[i].word) != word) continue;
        return shmq_owner_prove(ctx, i, 0) == SHMQ_OK;   /* OK = proven dead */
    }
    return 1;   /* an owner word occurs once: no record shows it, so that attachment is over */
}

static int admin_lock(shmq_ctx *ctx) {   /* called without the ctx lock; waits for living holders, 10 s at most */
    uint64_t deadline = shmq_now() + UINT64_C(10000000000);
    for (;;) {
        uint64_t w = ld_acq(&ctx->header->admin);
        if (w == 0 ? cas(&ctx->header->admin, 0, ctx->self_word) : (holder_gone(ctx, w) && cas(&ctx->header->admin, w, ctx->self_word)))
            return SHMQ_OK;
        if (shmq_now() > deadline) return SHMQ_BUSY;
        struct timespec t = { 0, 200000 };
        nanosleep(&t, NULL);
    }
}

static void admin_unlock(shmq_ctx *ctx) { cas(&ctx->header->admin, ctx->self_word, 0); }

/* Two threads of one process share an owner word: they exclude each other here. */
int admin_enter(shmq_ctx *ctx) {
    if (!ld32_rlx(&ctx->alive)) return SHMQ_E_FORKED;
    if (!ld32_rlx(&ctx->attached)) return SHMQ_E_DETACHED;
    for (unsigned n = 0; xchg32(&ctx->admin_lock, 1); n++) {
        struct timespec t = { 0, 100000 };
        nanosleep(&t, NULL);
        if (n > 150000) return SHMQ_BUSY;
    }
    int rc = admin_lock(ctx);
    if (rc != SHMQ_OK) st32_rel(&ctx->admin_lock, 0);
    return rc;
}

void admin_leave(shmq_ctx *ctx) {
    admin_unlock(ctx);
    st32_rel(&ctx->admin_lock, 0);
}
