/* timers.h: hints that a block became DELAYED. See timers.c. */
#ifndef SHMQ_TIMERS_H
#define SHMQ_TIMERS_H
#include "ctx.h"
void timers_hint(shmq_ctx *ctx, uint32_t idx);
#endif
