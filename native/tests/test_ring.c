/* The ring: order, bounds, wrapping rounds, holes, and hints that are wrong. */
#include "harness.h"
#include "ring.h"

TEST(order, "messages come out in order over many rounds of a depth that is no power of two") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 5), in = 0, out = 0, seed = 1;
    while (out < 20000) {
        if (rnd(&seed) & 1) {
            int rc = put(c, q, in);
            EQ(rc, in - out == 5 ? SHMQ_FULL : SHMQ_OK);
            if (rc == SHMQ_OK) in++;
        } else if (in == out) CHECK(empty(c, q));
        else EQ(get(c, q), out++);
        EQ(shmq_depth(c, q), in - out);
    }
}

TEST(one, "a queue of depth one holds one message, not two") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 1);
    for (uint64_t i = 0; i < 1000; i++) {
        EQ(put(c, q, i), SHMQ_OK);
        EQ(put(c, q, i), SHMQ_FULL);
        EQ(get(c, q), i);
    }
    nothing_left(c);
}

/* Let the ring stand at position p, as if p messages had passed. */
static void plant(shmq_ctx *c, uint64_t q, uint64_t p) {
    local_ring *r = ring_at(c, q, SHMQ_LANE_WORK);
    for (uint64_t i = 0; i <= r->mask; i++) st_sc(&r->slots[i], slot_empty((p >> r->lg) + (i < (p & r->mask))));
    st_sc(&r->ends->head, p);
    st_sc(&r->ends->tail, p);
}

static void across(uint64_t depth, uint64_t p) {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", depth), most = depth < 5 ? depth : 5;
    plant(c, q, p);
    shmq_ctx *a = join(), *b = join();
    for (uint64_t i = 0; i < 3000; i += most) {
        for (uint64_t k = 0; k < most; k++) EQ(put(a, q, i + k), SHMQ_OK);
        EQ(shmq_depth(b, q), most);
        for (uint64_t k = 0; k < most; k++) EQ(get(k & 1 ? a : b, q), i + k);
        CHECK(empty(b, q));
    }
    nothing_left(c);
}
TEST(wrap40, "the 40-bit round of a slot wraps and nothing is lost") { across(1, ((UINT64_C(1) << 40) - 100) << 1); }
TEST(wrap40_b, "the 40-bit round wraps in a larger ring as well") { across(8, ((UINT64_C(1) << 40) - 100) << 3); }
TEST(wrap48, "positions pass 2^48 and nothing is lost") { across(64, (UINT64_C(1) << 48) - 1000); }

TEST(wrap48_recovery, "a message published by a dead process beyond 2^48 is kept by recovery") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 1024);
    plant(c, q, (UINT64_C(1) << 48) + 5);
    shmq_ctx *a = join();
    EQ(put(a, q, 7), SHMQ_OK);
    for (uint32_t i = 0; i < 64; i++) {   /* as if a had died right after the slot CAS */
        uint64_t w = ld_acq(&c->blocks[i].ctl);
        if (ctl_state(w) == SHMQ_READY) st_sc(&c->blocks[i].ctl, ctl_to(w, SHMQ_NEW, a->self));
    }
    die(a);
    EQ(shmq_reap(c, 0), 1);
    EQ(shmq_depth(c, q), 1);
    EQ(get(c, q), 7);
}

TEST(holes, "messages taken out of the middle leave no trace: others come out in order, room is found again") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 8);
    for (uint64_t i = 0; i < 8; i++) EQ(put(c, q, i), SHMQ_OK);
    local_ring *r = ring_at(c, q, SHMQ_LANE_WORK);
    for (uint64_t p = 2; p < 5; p++) {
        uint32_t idx = slot_idx(ld_acq(&r->slots[p]));
        uint64_t w = ld_acq(&c->blocks[idx].ctl);
        CHECK(cas(&c->blocks[idx].ctl, w, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(w))));
        CHECK(ring_clear(r, p, idx));
        CHECK(!ring_clear(r, p, idx));
    }
    EQ(put(c, q, 8), SHMQ_FULL);   /* depth counts positions: a hole is room only once the head has passed it */
    const uint64_t left[] = { 0, 1, 5, 6, 7 };
    for (int i = 0; i < 5; i++) EQ(get(c, q), left[i]);
    CHECK(empty(c, q));
    for (uint64_t i = 0; i < 8; i++) EQ(put(c, q, i), SHMQ_OK);
    for (uint64_t i = 0; i < 8; i++) EQ(get(c, q), i);
    nothing_left(c);
}

TEST(clear_once, "clearing a slot late does not touch what came after") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 2);
    EQ(put(c, q, 1), SHMQ_OK);
    local_ring *r = ring_at(c, q, SHMQ_LANE_WORK);
    uint32_t idx = slot_idx(ld_acq(&r->slots[0]));
    EQ(get(c, q), 1);
    for (uint64_t i = 0; i < 3; i++) {
        EQ(put(c, q, i), SHMQ_OK);
        CHECK(!ring_clear(r, 0, idx));
        EQ(get(c, q), i);
    }
}

TEST(low_hints, "hints far behind are caught up with, however far") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(c, "q", 2);
    for (uint64_t i = 0; i < 300000; i++) {
        EQ(put(c, q, i), SHMQ_OK);
        EQ(get(c, q), i);
    }
    EQ(put(c, q, 77), SHMQ_OK);
    local_ring *r = ring_at(c, q, SHMQ_LANE_WORK);
    st_sc(&r->ends->head, 0);
    st_sc(&r->ends->tail, 0);
    shmq_ctx *a = join();
    EQ(shmq_depth(a, q), 1);
    shmq_ctx *b = join();
    EQ(get(b, q), 77);
    shmq_ctx *d = join();
    st_sc(&r->ends->tail, 0);
    EQ(put(d, q, 78), SHMQ_OK);
    EQ(get(d, q), 78);
}

TEST_LIMIT(wrong_hints, 60, "whatever head and tail say, every message comes out once and the queue goes on") {
    uint64_t seed = 42;
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    for (int n = 0; n < 300; n++) {
        char name[16];
        snprintf(name, sizeof name, "q%d", n);
        uint64_t q = QUEUE(c, name, 1 + rnd(&seed) % 20), pass = rnd(&seed) % 100, in = 0, out = 0;
        for (uint64_t i = 0; i < pass; i++) {
            EQ(put(c, q, 0), SHMQ_OK);
            get(c, q);
        }
        while (put(c, q, in) == SHMQ_OK && rnd(&seed) % 8) in++;
        in = (uint64_t)shmq_depth(c, q);
        local_ring *r = ring_at(c, q, SHMQ_LANE_WORK);
        for (int which = 0; which < 2; which++) {
            shmq_au64 *hint = which ? &r->ends->tail : &r->ends->head;
            uint64_t old = ld_acq(hint);
            switch (rnd(&seed) % 4) {
            case 0: st_sc(hint, rnd(&seed)); break;
            case 1: st_sc(hint, old ^ UINT64_C(1) << rnd(&seed) % 64); break;
            case 2: st_sc(hint, 0); break;
            default: break;
            }
        }
        shmq_ctx *a = join(), *b = join();
        shmq_delivery d;
        for (int tries = 0; out < in && tries < 64; tries++) {
            int rc = shmq_take(tries & 1 ? a : b, q, 1, 0, &d);
            if (rc != 1) {   /* a publisher may have to find it out */
                put(a, q, in) == SHMQ_OK ? (void)in++ : (void)0;
                continue;
            }
            EQ(value_of(&d), out++);
            EQ(shmq_ack(tries & 1 ? a : b, &d, 1), 1);
        }
        EQ(out, in);
        for (uint64_t i = 0; i < 5; i++) {
            EQ(put(b, q, i), SHMQ_OK);
            EQ(get(a, q), i);
        }
        shmq_detach(a);
        shmq_detach(b);
        shmq_ctx_delete(a);
        shmq_ctx_delete(b);
        EQ(shmq_queue_delete(c, q), SHMQ_OK);
    }
}

TEST(stray, "a filled place far beyond the tail, and a tail that believes it, make no empty queue a full one") {
    for (uint32_t overflow = SHMQ_BLOCK; overflow <= SHMQ_DROP_OLDEST; overflow += SHMQ_DROP_OLDEST - SHMQ_BLOCK) {
        shmq_ctx *c = segment(64 << 20, 1 << 20);
        uint64_t q = QUEUE(c, "q", 12, .overflow = overflow);
        for (uint64_t i = 0; i < 3; i++) {
            EQ(put(c, q, i), SHMQ_OK);
            EQ(get(c, q), i);
        }
        local_ring *r = ring_at(c, q, SHMQ_LANE_WORK);
        st_sc(&r->slots[3 + 12], slot_make(0, 0));   /* block 0: over long ago */
        st_sc(&r->ends->tail, 3 + 13);
        shmq_ctx *all[] = { c, join() };
        for (int i = 0; i < 2; i++) {
            EQ(shmq_depth(all[i], q), 0);
            for (uint64_t k = 0; k < 40; k++) {
                EQ(put(all[i], q, k), SHMQ_OK);
                EQ(get(all[!i], q), k);
            }
        }
        EQ(shmq_depth(c, q), 0);
    }
}

TEST(taker_publishes, "a process that has taken more than it has published is not told FULL") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 8);
    shmq_delivery d[5];
    for (uint64_t i = 0; i < 5; i++) EQ(put(a, q, i), SHMQ_OK);
    EQ(shmq_take(a, q, 5, 0, d), 5);
    for (int i = 0; i < 5; i++) EQ(shmq_nack(a, &d[i], 0, NULL, 0), SHMQ_OK);
    EQ(shmq_take(b, q, 5, 0, d), 5);
    for (int i = 0; i < 5; i++) EQ(shmq_nack(b, &d[i], 0, NULL, 0), SHMQ_OK);
    shmq_census s;
    EQ(shmq_queue_census(a, q, &s), SHMQ_OK);
    EQ(s.delayed, 0);
    EQ(shmq_depth(a, q), 5);
}
MAIN
