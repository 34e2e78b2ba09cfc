/* The hash of keys and ids, against the vectors of its authors' reference implementation. */
#include "harness.h"
#include "hash.h"

static hash128 of(unsigned n) {
    uint8_t key[16], text[64] = { 0 };
    uint64_t secret[2];
    for (unsigned i = 0; i < 16; i++) key[i] = (uint8_t)i;
    for (unsigned i = 0; i < n; i++) text[i] = (uint8_t)i;
    memcpy(secret, key, 16);
    return hash_bytes(secret, text, n);
}

static int is(hash128 h, const char *hex) {
    uint8_t bytes[16];
    char text[33];
    memcpy(bytes, &h.lo, 8);
    memcpy(bytes + 8, &h.hi, 8);
    for (int i = 0; i < 16; i++) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    return strcmp(text, hex) == 0;
}

TEST(vectors, "SipHash-2-4-128 of 0, 1, 2, ... bytes") {
    CHECK(is(of(0), "a3817f04ba25a8e66df67214c7550293"));
    CHECK(is(of(1), "da87c1d86b99af44347659119b22fc45"));
    CHECK(is(of(8), "3b62a9ba6258f5610f83e264f31497b4"));
    CHECK(is(of(15), "5493e99933b0a8117e08ec0f97cfc3d9"));
}

MAIN
