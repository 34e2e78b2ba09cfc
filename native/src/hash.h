/* hash.h: a keyed hash of what users name: keys and deduplication ids. See hash.c. */
#ifndef SHMQ_HASH_H
#define SHMQ_HASH_H
#include <stdint.h>

typedef struct { uint64_t lo, hi; } hash128;

hash128 hash_bytes(const uint64_t secret[2], const void *bytes, uint64_t n);
#endif
