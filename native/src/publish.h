/* publish.h: one publish inside the lock, for callers that do several. See publish.c. */
#ifndef SHMQ_PUBLISH_H
#define SHMQ_PUBLISH_H
#include "layout.h"
int publish_one(shmq_ctx *ctx, local_queue *q, uint64_t qref, shmq_message *m, uint64_t now);
#endif
