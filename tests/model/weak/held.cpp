// held.cpp: the last free of a viewed block against the end of the view, under the C11 memory model (arena_limbo_check).
//
// Checked: when both are done the block is FREE exactly once: never stuck in LIMBO, never freed while the entry still names it.
// MUT_HELD: the entry is cleared with a release store only; MUT_SCAN: the free does not look at entries.
#include <relacy/relacy.hpp>
using rl::mo_acquire; using rl::mo_relaxed; using rl::mo_release; using rl::mo_seq_cst;

enum { FREE = 1, OWNED = 4, LIMBO = 7 };

struct held_test : rl::test_suite<held_test, 2> {
    rl::atomic<unsigned> ctl, held;
    rl::var<unsigned> payload;

    void before() {
        ctl.store(OWNED, memory_order_relaxed);
        held.store(1, memory_order_relaxed);
        payload($) = 1;
    }
    void limbo_check() {
        unsigned c = ctl.load(memory_order_seq_cst);
        if (c != LIMBO) return;
#ifndef MUT_SCAN
        if (held.load(memory_order_seq_cst)) return;
#endif
        if (ctl.compare_exchange_strong(c, FREE, memory_order_seq_cst, memory_order_acquire)) payload($) = 2;   // its next life
    }
    void thread(unsigned i) {
        if (i == 0) {   // the new consumer's ack, after the lease had moved to it
            unsigned c = OWNED;
            ctl.compare_exchange_strong(c, LIMBO, memory_order_seq_cst, memory_order_acquire);
            limbo_check();
        } else {   // the old holder's view ends
            RL_ASSERT(payload($) == 1);
#ifdef MUT_HELD
            held.store(0, memory_order_release);
            if (ctl.load(memory_order_acquire) != LIMBO) return;
#else
            held.store(0, memory_order_seq_cst);
#endif
            limbo_check();
        }
    }
    void after() { RL_ASSERT(ctl.load(memory_order_seq_cst) == FREE); }
};

int main() {
    rl::test_params p;
    p.search_type = rl::fair_full_search_scheduler_type;
    return rl::simulate<held_test>(p) ? 0 : 1;
}
