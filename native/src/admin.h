/* admin.h: who may change records of queues. See admin.c. */
#ifndef SHMQ_ADMIN_H
#define SHMQ_ADMIN_H
#include "ctx.h"

int admin_enter(shmq_ctx *ctx);
void admin_leave(shmq_ctx *ctx);
#endif
