/* hash.h: keyed hashes of what users name: keys and deduplication ids. See hash.c. */
#ifndef SHMQ_HASH_H
#define SHMQ_HASH_H
#include <stdint.h>

typedef struct {
    uint64_t lo, hi;
} hash128;   /* hash_spot, hash_sip */

uint64_t hash_spot(const uint64_t secret[2], const void *bytes, uint64_t n);
uint64_t hash_sip(const uint64_t secret[2], const void *bytes, uint64_t n);
#endif
