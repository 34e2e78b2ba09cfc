/* census.h: what a queue holds, and what happened there. See census.c. */
#ifndef SHMQ_CENSUS_H
#define SHMQ_CENSUS_H
#include "ctx.h"

#define CENSUS_COUNTERS (sizeof(shmq_counters) / 8)

int census_counts(unsigned state);
void census(shmq_ctx *ctx, uint32_t home, shmq_census *out);
int census_drained(shmq_ctx *ctx, uint32_t index);
int census_settled(shmq_ctx *ctx, uint32_t index);
void census_counters(shmq_ctx *ctx, uint32_t index, uint64_t out[CENSUS_COUNTERS]);
uint64_t *census_base(shmq_ctx *ctx, uint32_t index);
#endif
