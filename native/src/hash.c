/* hash.c: SipHash-2-4 with 128 bits of output.
 *
 * Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF" (INDOCRYPT 2012), and the authors' 128-bit variant.
 * Two ids are taken for one only when all 128 bits agree; the secret is the broker's own, so nobody can prepare such a pair.
 */
#include "hash.h"
#include <string.h>

static inline uint64_t rotl(uint64_t x, int n) { return x << n | x >> (64 - n); }

static inline void rounds(uint64_t v[4], int n) {
    for (int i = 0; i < n; i++) {
        v[0] += v[1]; v[1] = rotl(v[1], 13) ^ v[0]; v[0] = rotl(v[0], 32);
        v[2] += v[3]; v[3] = rotl(v[3], 16) ^ v[2];
        v[0] += v[3]; v[3] = rotl(v[3], 21) ^ v[0];
        v[2] += v[1]; v[1] = rotl(v[1], 17) ^ v[2]; v[2] = rotl(v[2], 32);
    }
}

static inline uint64_t little(const uint8_t *p, uint64_t n) {   /* up to 8 bytes; segments are read on one machine, bytes as they lie */
    uint64_t x = 0;
    memcpy(&x, p, n);
    return x;
}

hash128 hash_bytes(const uint64_t secret[2], const void *bytes, uint64_t n) {
    const uint8_t *p = bytes;
    uint64_t v[4] = { secret[0] ^ UINT64_C(0x736f6d6570736575), secret[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee,
                      secret[0] ^ UINT64_C(0x6c7967656e657261), secret[1] ^ UINT64_C(0x7465646279746573) };
    uint64_t left = n;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t m = little(p, 8);
        v[3] ^= m;
        rounds(v, 2);
        v[0] ^= m;
    }
    uint64_t last = little(p, left) | n << 56;
    v[3] ^= last;
    rounds(v, 2);
    v[0] ^= last;
    v[2] ^= 0xee;
    rounds(v, 4);
    hash128 out = { .lo = v[0] ^ v[1] ^ v[2] ^ v[3] };
    v[1] ^= 0xdd;
    rounds(v, 4);
    out.hi = v[0] ^ v[1] ^ v[2] ^ v[3];
    return out;
}
