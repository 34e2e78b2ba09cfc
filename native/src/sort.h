/* sort.h: blocks in the order of a key, in place and without allocation; and of many the lowest. See sort.c. */
#ifndef SHMQ_SORT_H
#define SHMQ_SORT_H

#include "ctx.h"

void keyed_sort(keyed_block *a, uint32_t n);
uint32_t keyed_lowest(keyed_block *a, uint32_t n, uint32_t most, keyed_block one);

#endif
