/* All roles at once, with deaths; see stress_roles.h. STRESS_SECONDS and STRESS_SEED choose. */
#include "stress_roles.h"

static void setting(void) {
    base_segment(64 << 20, 1 << 20);
    shmq_ctx *c = enlist();
    st.dlq = QUEUE(c, "dead", 200000, .max_retries = 0xffffffffu, .ack_timeout_ns = 30 * MS);
    st.q = make_queue(c, "q", (shmq_queue_options){ .max_depth = 100, .max_retries = 4, .ack_timeout_ns = 20 * MS, DEAD_TO(st.dlq) });
    EQ(shmq_detach(c), SHMQ_OK);
}

TEST_LIMIT(all, 150, "every message is settled exactly once, whoever dies, whatever else goes on") {
    static void *(*const what[])(void *) = { producer, producer, consumer, consumer, consumer, sidecar, observer, churner, churner };
    setting();
    stage(what, 9, 12);
}

TEST_LIMIT(two_sidecars, 100, "two recoverers and a queue that is mostly full do not disturb each other") {
    static void *(*const what[])(void *) = { producer, producer, producer, consumer, sidecar, sidecar, sidecar };
    setting();
    stage(what, 7, 5);
}

/* ---- several threads of one process share one context ---- */
static shmq_ctx *one;
static void *of_one(void *arg) {
    role *me = arg;
    for (uint64_t i = 0; !st.stop; i++) {
        shmq_delivery d;
        int rc;
        switch (me->which % 3) {
        case 0:
            rc = put(one, st.q, i);
            if (rc == SHMQ_FULL) rc = shmq_wait_space(one, st.q, shmq_now() + MS, UINT64_MAX);
            CHECK(rc == SHMQ_OK || rc == SHMQ_TIMEOUT || rc == SHMQ_E_DETACHED);
            break;
        case 1:
            rc = shmq_take(one, st.q, 1, 0, &d);
            if (rc == 1) rc = shmq_ack(one, &d, 1);
            else if (rc == SHMQ_EMPTY) rc = shmq_wait_items(one, st.q, shmq_now() + MS, UINT64_MAX);
            CHECK(rc >= 0 || rc == SHMQ_TIMEOUT || rc == SHMQ_E_DETACHED || rc == SHMQ_EMPTY || rc == SHMQ_STALE);
            break;
        default: {
            char name[8];
            snprintf(name, sizeof name, "o%d", (int)(i % 4));
            int64_t q = shmq_queue_create(one, name, &(shmq_queue_options){ .max_depth = 4, .dead_letter = SHMQ_NO_QUEUE });
            if (q > 0) {
                put(one, (uint64_t)q, i);
                shmq_depth(one, (uint64_t)q);
                shmq_queue_delete(one, (uint64_t)q);
            }
            if (i % 8 == 0) shmq_reap(one, 0);
        }
        }
    }
    return NULL;
}
TEST_LIMIT(shared, 60, "threads may share one context, and one of them may detach it under the others") {
    base_segment(64 << 20, 1 << 20);
    one = enlist();
    st.q = QUEUE(one, "q", 16);
    role roles[6];
    for (int i = 0; i < 6; i++) {
        roles[i] = (role){ .which = i };
        CHECK(pthread_create(&roles[i].thread, NULL, of_one, &roles[i]) == 0);
    }
    nap(3 * SECONDS);
    EQ(shmq_detach(one), SHMQ_OK);
    nap(100 * MS);
    st.stop = 1;
    for (int i = 0; i < 6; i++) pthread_join(roles[i].thread, NULL);
    shmq_ctx *c = enlist();
    sound(c);
}
MAIN
