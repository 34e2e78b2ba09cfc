// slot.cpp: the slot, the ctl word and the payload under the C11 memory model (Relacy: all orders that C11 allows, not only
// those of x86). Two producers share one block and one ring position after the other; a consumer takes, reads and frees.
//
// Checked: the payload is never read while it is written (a data race in Relacy's eyes), never half old and half new, and a
// block has one owner at a time. The accesses are those of native/src/ring.c, take.c, arena.c, in their order.
// MUT_PUBLISH: slot CAS relaxed.  MUT_R2: no second slot load.  Each must be found.
#include <relacy/relacy.hpp>
using rl::mo_acquire; using rl::mo_relaxed; using rl::mo_release; using rl::mo_seq_cst;

enum { FREE = 1, NEW = 2, READY = 3, OWNED = 4 };
static unsigned ctl(unsigned state, unsigned gen) { return state << 16 | gen; }
static unsigned state_of(unsigned c) { return c >> 16; }
static unsigned gen_of(unsigned c) { return c & 0xffff; }

struct slot_test : rl::test_suite<slot_test, 3> {
    rl::atomic<unsigned> ctl_[1], slot[2];   // slot: 0 = empty at round 0, 1 = holds the block, 2 = cleared (next round)
    rl::var<unsigned> payload, size;
    rl::atomic<unsigned> owners, taken[2];

    void before() {
        ctl_[0].store(ctl(FREE, 0), memory_order_relaxed);
        slot[0].store(0, memory_order_relaxed);
        slot[1].store(0, memory_order_relaxed);
        owners.store(0, memory_order_relaxed);
        taken[0].store(0, memory_order_relaxed);
        taken[1].store(0, memory_order_relaxed);
    }
    // relaxed: the check must not add an order that the code does not have
    void own() { RL_ASSERT(owners.fetch_add(1, memory_order_relaxed) == 0); }
    void disown() { owners.fetch_sub(1, memory_order_relaxed); }

    void publish(unsigned value) {
        unsigned c = ctl_[0].load(memory_order_acquire);
        if (state_of(c) != FREE) return;
        unsigned n = ctl(NEW, gen_of(c) + 1);
        if (!ctl_[0].compare_exchange_strong(c, n, memory_order_seq_cst, memory_order_acquire)) return;
        own();
        payload($) = value;
        size($) = value;
        disown();
        for (int t = 0; t < 2; t++) {
            unsigned s = slot[t].load(memory_order_acquire);
            if (s != 0) continue;
#ifdef MUT_PUBLISH
            if (!slot[t].compare_exchange_strong(s, 1, memory_order_relaxed, memory_order_relaxed)) continue;
#else
            if (!slot[t].compare_exchange_strong(s, 1, memory_order_seq_cst, memory_order_acquire)) continue;
#endif
            ctl_[0].compare_exchange_strong(n, ctl(READY, gen_of(n)), memory_order_seq_cst, memory_order_acquire);
            return;
        }
        ctl_[0].compare_exchange_strong(n, ctl(FREE, gen_of(n)), memory_order_seq_cst, memory_order_acquire);
    }

    void take() {
        for (int h = 0; h < 2; h++) {
            unsigned s = slot[h].load(memory_order_acquire);
            if (s == 2) continue;
            if (s == 0) return;
            unsigned c = ctl_[0].load(memory_order_acquire);
#ifndef MUT_R2
            if (slot[h].load(memory_order_acquire) != s) continue;
#endif
            if (state_of(c) == READY || state_of(c) == NEW) {
                unsigned o = ctl(OWNED, gen_of(c) + 1);
                if (!ctl_[0].compare_exchange_strong(c, o, memory_order_seq_cst, memory_order_acquire)) continue;
                RL_ASSERT(taken[h].fetch_add(1, memory_order_relaxed) == 0);   // one delivery per slot
                slot[h].compare_exchange_strong(s, 2, memory_order_seq_cst, memory_order_acquire);
                own();
                RL_ASSERT(payload($) == size($));
                disown();
                ctl_[0].compare_exchange_strong(o, ctl(FREE, gen_of(o)), memory_order_seq_cst, memory_order_acquire);
            } else slot[h].compare_exchange_strong(s, 2, memory_order_seq_cst, memory_order_acquire);
        }
    }

    void thread(unsigned i) {
        if (i == 0) for (unsigned k = 1; k < 3; k++) publish(k);
        else take();
    }
};

int main() {
    rl::test_params p;
    p.search_type = rl::sched_bound;
    p.context_bound = 3;
    return rl::simulate<slot_test>(p) ? 0 : 1;
}
