/* hash.c: a quick hash that says where an id belongs, and SipHash-1-3, which with it says which id it is.
 *
 * Two ids are taken for one only when they fall into one bucket and all 64 bits of the strong half agree. The secret is the broker's
 * own, so nobody can prepare such a pair, be the quick half as weak as it may: a keyed pseudo-random function stands behind it. Where a table is large, a publisher waits
 * for the bucket to come from memory, and works on the strong half meanwhile.
 *
 * Sources: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF" (INDOCRYPT 2012), with one and three rounds, as CPython
 * and Rust take for their tables. The quick half folds 128-bit products of secret and input, as Wang Yi's wyhash does.
 */
#include "hash.h"
#include <string.h>

static inline uint64_t rotl(uint64_t x, int n) { return x << n | x >> (64 - n); }

static inline void round_of(uint64_t v[4]) {
    /* clang-format off */
    v[0] += v[1]; v[1] = rotl(v[1], 13) ^ v[0]; v[0] = rotl(v[0], 32);
    v[2] += v[3]; v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3]; v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1]; v[1] = rotl(v[1], 17) ^ v[2]; v[2] = rotl(v[2], 32);
    /* clang-format on */
}

static inline uint64_t eight(const uint8_t *p) {   /* segments are read on one machine: bytes as they lie */
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

static inline uint64_t rest(const uint8_t *p, uint64_t n) {   /* fewer than eight */
    uint64_t x = 0;
    if (n) memcpy(&x, p, n);
    return x;
}

uint64_t hash_sip(const uint64_t secret[2], const void *bytes, uint64_t n) {
    const uint8_t *p = bytes;
    uint64_t v[4] = { secret[0] ^ UINT64_C(0x736f6d6570736575), secret[1] ^ UINT64_C(0x646f72616e646f6d),
                      secret[0] ^ UINT64_C(0x6c7967656e657261), secret[1] ^ UINT64_C(0x7465646279746573) };
    uint64_t left = n;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t m = eight(p);
        v[3] ^= m;
        round_of(v);
        v[0] ^= m;
    }
    uint64_t last = rest(p, left) | n << 56;
    v[3] ^= last;
    round_of(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) round_of(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static inline uint64_t fold(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Of names that differ only in the lowest three bits of their last byte, as those of consecutive numbers do, only the lowest three bits
 * differ: words of one cache line, each in another. Many programs count, and wait for memory once in five ids or so instead of each time. */
uint64_t hash_spot(const uint64_t secret[2], const void *bytes, uint64_t n) {
    const uint8_t *p = bytes;
    uint64_t h = secret[0] ^ n * UINT64_C(0x9e3779b97f4a7c15), left = n, last = n ? p[n - 1] & 7 : 0;
    for (; left > 16; left -= 16, p += 16) h = fold(eight(p) ^ secret[1] ^ h, eight(p + 8) ^ secret[0] ^ rotl(h, 32));
    uint64_t a = left >= 8 ? eight(p) : rest(p, left), b = left == 16 ? eight(p + 8) : left > 8 ? rest(p + 8, left - 8) : 0;
    if (left > 8) b ^= last << 8 * (left - 9);
    else if (left) a ^= last << 8 * (left - 1);
    h = fold(a ^ secret[1] ^ h, b ^ secret[0] ^ rotl(h, 32));
    return fold(h ^ secret[0], UINT64_C(0xd6e8feb86659fd93)) ^ last;
}
