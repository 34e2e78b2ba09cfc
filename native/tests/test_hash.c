/* The hashes of keys and ids. */
#include "harness.h"
#include "hash.h"

static uint64_t secret[2];
static uint64_t sip(unsigned n) {
    uint8_t key[16], text[64] = { 0 };
    for (unsigned i = 0; i < 16; i++) key[i] = (uint8_t)i;
    for (unsigned i = 0; i < n; i++) text[i] = (uint8_t)i;
    memcpy(secret, key, 16);
    return __builtin_bswap64(hash_sip(secret, text, n));
}

/* Those of openssl mac -macopt hexkey:000102...0f -macopt size:8 -macopt c-rounds:1 -macopt d-rounds:3 SIPHASH. */
TEST(vectors, "SipHash-1-3 of 0, 1, 2, ... bytes is that of another implementation") {
    EQ(sip(0), 0xDCC40F055801ACABu);
    EQ(sip(1), 0x93CA577DF39BF4C9u);
    EQ(sip(8), 0x8E9A298D11959036u);
    EQ(sip(15), 0x5699512A6DD820D3u);
}

TEST(every_bit, "the quick hash depends on each bit of the input, on its length and on the secret") {
    uint8_t text[80];
    uint64_t seed = 7;
    secret[0] = rnd(&seed);
    secret[1] = rnd(&seed);
    for (unsigned n = 0; n <= sizeof text; n++)
        for (unsigned bit = 0; bit < 8 * n; bit++) {
            for (unsigned i = 0; i < sizeof text; i++) text[i] = (uint8_t)rnd(&seed);
            uint64_t before = hash_spot(secret, text, n), other[2] = { secret[0] ^ UINT64_C(1) << bit % 64, secret[1] };
            CHECK(before != hash_spot(other, text, n));
            if (n) CHECK(before != hash_spot(secret, text, n - 1));
            text[bit / 8] ^= (uint8_t)(1 << bit % 8);
            CHECK(before != hash_spot(secret, text, n));
        }
    memset(text, 0, sizeof text);
    for (unsigned n = 0; n < sizeof text; n++) CHECK(hash_spot(secret, text, n) != hash_spot(secret, text, n + 1));
}

TEST(even, "ids that people make, numbers above all, fill buckets as evenly as chance would") {
    static const char *const FORMS[] = { "%u", "order-%010u", "%08x-0000-4000-8000-00000000",
                                         "https://shop.example/basket/%u/items?page=1" };
    enum { BUCKETS = 4096, PER = 16 };
    static uint32_t count[BUCKETS];
    uint64_t seed = 11;
    for (unsigned f = 0; f < sizeof FORMS / sizeof *FORMS; f++) {
        char text[80];
        double chi = 0;
        memset(count, 0, sizeof count);
        secret[0] = rnd(&seed);
        secret[1] = rnd(&seed);
        for (unsigned i = 0; i < BUCKETS * PER; i++) {
            int n = snprintf(text, sizeof text, FORMS[f], i);
            count[hash_spot(secret, text, (uint64_t)n) % BUCKETS]++;
        }
        for (unsigned b = 0; b < BUCKETS; b++) chi += ((double)count[b] - PER) * ((double)count[b] - PER) / PER;
        /* lines of eight are filled alike: 511 degrees of freedom, eight times each, and six standard deviations of 8 * sqrt(2 * 511) */
        CHECK(chi > BUCKETS - 6 * 256 && chi < BUCKETS + 6 * 256);
    }
}

TEST(neighbours, "consecutive numbers lie in one line as far as their last three bits reach, each in a word of its own") {
    uint64_t seed = 13;
    for (int round = 0; round < 1000; round++) {
        char text[80];
        unsigned pad = 1 + (unsigned)(rnd(&seed) % 50), words = 0;
        uint64_t tens = rnd(&seed) % 1000000, first = 0;
        secret[0] = rnd(&seed);
        for (unsigned digit = 0; digit < 8; digit++) {
            int n = snprintf(text, sizeof text, "%0*lu%u", (int)pad, (unsigned long)tens, digit);
            uint64_t h = hash_spot(secret, text, (uint64_t)n);
            if (digit == 0) first = h;
            EQ(h & ~UINT64_C(7), first & ~UINT64_C(7));
            words |= 1u << (h & 7);
        }
        EQ(words, 255);
        int n = snprintf(text, sizeof text, "%0*lu8", (int)pad, (unsigned long)tens);
        CHECK((hash_spot(secret, text, (uint64_t)n) | 7) != (first | 7));
    }
}

MAIN
