// evt.cpp: publisher and sleeper under the C11 memory model: the event count of native/src/waiter.c against the slot.
//
// Checked: no sleeper stays asleep on an unchanged evt while a message lies in the slot and its publisher has returned.
// MUT_EVT: the publisher reads evt relaxed after a relaxed slot CAS; MUT_LOOK: no look at the ring after setting the bit.
#include <relacy/relacy.hpp>
using rl::mo_acquire; using rl::mo_relaxed; using rl::mo_release; using rl::mo_seq_cst;

struct evt_test : rl::test_suite<evt_test, 2> {
    rl::atomic<unsigned> evt, slot, asleep_on, woken;

    void before() {
        evt.store(2, memory_order_relaxed);
        slot.store(0, memory_order_relaxed);
        asleep_on.store(0, memory_order_relaxed);
        woken.store(0, memory_order_relaxed);
    }
    void thread(unsigned i) {
        if (i == 0) {
            unsigned empty = 0;
#ifdef MUT_EVT
            slot.compare_exchange_strong(empty, 1, memory_order_relaxed, memory_order_relaxed);
            unsigned v = evt.load(memory_order_relaxed);
#else
            slot.compare_exchange_strong(empty, 1, memory_order_seq_cst, memory_order_acquire);
            unsigned v = evt.load(memory_order_seq_cst);
#endif
            if (v & 1) { evt.fetch_add(2, memory_order_seq_cst); woken.store(1, memory_order_seq_cst); }
        } else {
            unsigned v;
            for (;;) {
                v = evt.load(memory_order_seq_cst);
                if (v & 1) break;
                if (evt.compare_exchange_strong(v, v | 1, memory_order_seq_cst, memory_order_acquire)) { v |= 1; break; }
            }
#ifndef MUT_LOOK
            if (slot.load(memory_order_seq_cst)) return;
#endif
            // FUTEX_WAIT compares in the kernel, under a lock that every FUTEX_WAKE takes too: a read-modify-write stands for it
            if (evt.fetch_add(0, memory_order_seq_cst) == v) asleep_on.store(v, memory_order_seq_cst);
        }
    }
    void after() {
        unsigned v = asleep_on.load(memory_order_seq_cst);
        RL_ASSERT(!(v && evt.load(memory_order_seq_cst) == v && slot.load(memory_order_seq_cst)));
    }
};

int main() {
    rl::test_params p;
    p.search_type = rl::fair_full_search_scheduler_type;
    return rl::simulate<evt_test>(p) ? 0 : 1;
}
