/* barrier.h: what is stored here, then what is loaded here; as if all others had a fence between. See barrier.c. */
#ifndef SHMQ_BARRIER_H
#define SHMQ_BARRIER_H
#include "ctx.h"

int barrier_refused(void);
void barrier_join(shmq_ctx *ctx);
int barrier_soon(shmq_ctx *ctx);
int barrier_everywhere(shmq_ctx *ctx);
#endif
