/* sweep_park.h: the operations at which messages wait for room (park.c), swept.
 *
 * Tags 31 to 34 waited before the operation, in this order; 35 to 39 begin to wait in it. They have to come out in that order
 * (take_one), and as soon as the dead are recovered nobody may wait where there is room (waiting_right).
 */

static void waits(int least, int most, int after) {
    W.waits = 1;
    W.waits_least = least;
    W.waits_most = most;
    W.waits_after = after;
}

/* ---- worlds ---- */
static shmq_queue *record(uint64_t q) { return &W.p->queues[q & 0xffff]; }
static void two(void) {
    for (uint32_t t = 1; t <= 2; t++) put_world(W.q, t, 64, 0);
}
static void delayed_world(uint32_t tag, uint32_t size) {
    if (put(W.p, W.q, tag, size, 0, FAR) != 0) DIE("world publish");
    want(tag);
}
static uint32_t waiting(uint32_t tag, int parked) {   /* the block of that message */
    for (unsigned k = 0; k < SHMQ_CLASSES; k++)
        for (uint64_t i = 0; i < ld_acq(&W.p->header->hwm[k].n); i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i, t;
            uint64_t c = ld_acq(&block_at(W.p, idx)->ctl);
            memcpy(&t, payload_of(W.p, idx), sizeof t);
            if (ctl_state(c) == SHMQ_DELAYED && t == tag && !(ctl_flags(c) & SHMQ_FLAG_PARKED) == !parked) return idx;
        }
    DIE("message %u does not wait", tag);
}
static void parks(uint32_t tag, uint32_t size) {   /* due, and q is full */
    uint64_t due;
    delayed_world(tag, size);
    uint32_t idx = waiting(tag, 0);
    st_rlx(&block_at(W.p, idx)->due_ns, 1);
    if (shmq_timer_fire(W.p, idx, shmq_now(), &due) != SHMQ_OK || waiting(tag, 1) != idx) DIE("fire");
}
static void takes(int n) {   /* and acks */
    shmq_delivery d;
    while (n--) {
        if (shmq_take(W.p, W.q, 1, 0, &d) != 1) DIE("take");
        base_lo[tag_of(&d)]--;
        if (shmq_ack(W.p, &d, 1) != 1) DIE("ack");
    }
}
static uint64_t turn_of_x(void) {
    return (uint64_t)(W.x->self + 1) << 48 | (uint64_t)owner_epoch(W.x->self_word) << 32 | owner_pid(W.x->self_word);
}

static void not_due_yet(void) {   /* two that are not due yet; whoever looks at all blocks finds 35 first */
    delayed_world(35, 64);
    delayed_world(36, 64);
    uint32_t a = waiting(35, 0), b = waiting(36, 0);
    if (a < b) return;
    fill(payload_of(W.p, a), 36, 64);
    fill(payload_of(W.p, b), 35, 64);
}
static void w_due(void) {
    two();
    not_due_yet();
    waits(0, 2, 2);
}
static void w_wait(void) {
    two();
    for (uint32_t t = 31; t <= 33; t++) parks(t, 64);
}
static void w_wait_take(void) {
    w_wait();
    waits(2, 3, 2);
}
static void w_wait_take2(void) {
    w_wait();
    waits(1, 3, 1);
}
static void w_wait_purge(void) {   /* what is being dropped comes back behind the others */
    w_wait();
    waits(0, 3, 0);
    W.disorder = 1;
}
static void w_wait_close(void) {
    w_wait();
    waits(3, 3, 3);
}
static void w_wait_big(void) {   /* the first one finds no room when the second one would */
    two();
    parks(31, 128);
    parks(32, 64);
    waits(2, 2, 2);
}
static void w_room(void) {   /* two wait, and somebody has made room and not sent them on yet */
    two();
    parks(31, 64);
    parks(32, 64);
    st_sc(&record(W.q)->turn, turn_of_x());
    takes(2);
    st_sc(&record(W.q)->turn, 0);
    waits(0, 0, 0);
}
static void w_room_due(void) {
    w_room();
    not_due_yet();
    waits(0, 2, 2);
}
static void w_x_turn(void) {   /* it died with the turn, and with the first one in its hands */
    w_wait();
    st_sc(&record(W.q)->turn, turn_of_x());
    uint32_t idx = waiting(31, 1);
    uint64_t c = ld_acq(&block_at(W.p, idx)->ctl);
    if (!cas(&block_at(W.p, idx)->ctl, c, ctl_next(c, SHMQ_MOVE, W.x->self) | PARKED_CTL)) DIE("send");
    takes(1);
    kill_x();
    waits(2, 2, 2);
}
static void w_x_parker(void) {   /* it died when its message waited, and its queue did not know */
    two();
    uint32_t parked = ld32_acq(&record(W.q)->parked);
    parks(31, 64);
    st32_rlx(&record(W.q)->parked, parked);
    memset((void *)record(W.q)->note, 0, sizeof record(W.q)->note);
    takes(1);
    kill_x();
    waits(0, 0, 0);
}
/* Of n messages in the hands of x; all places of both rings are taken */
static void fill_up(void) {
    shmq_delivery d[4];
    for (uint32_t t = 3; t <= 6; t += 2) {
        put_world(W.q, t, 64, 0);
        put_world(W.q, t + 1, 64, 0);
        if (shmq_take(W.p, W.q, 2, 0, &d[t - 3]) != 2) DIE("take");
    }
    put_world(W.q, 7, 64, 0);
    put_world(W.q, 8, 64, 0);
    for (int i = 0; i < 4; i++)
        if (shmq_nack(W.p, &d[i], 0, NULL, 0) != 0) DIE("nack");
}
static void w_x_lease_full(void) {
    put_world(W.q, 1, 64, 0);
    x_takes(1, 0);
    fill_up();
    waits(0, 1, 1);
}
static void w_x_dead_full(void) {
    two();
    x_takes(2, 0);
    fill_up();
    kill_x();
    waits(2, 2, 2);
}
static void w_key_full(void) {   /* 1 came back when both rings were full, which now have 4 and 7 only, of its key */
    shmq_delivery d[5];
    static const uint32_t tags[] = { 56, 57, 58, 59, 1, 4, 7 };   /* the first four have keys of their own */
    for (int i = 0; i < 7; i++) {
        put_world(W.q, tags[i], 64, 0);
        if (i < 5 && shmq_take(W.p, W.q, 1, 0, &d[i]) != 1) DIE("take");
    }
    for (int i = 0; i < 5; i++)
        if (shmq_nack(W.p, &d[i], 0, NULL, 0) != 0) DIE("nack");
    waiting(1, 1);
    takes(4);
    waits(0, 0, 0);
    W.stuck = 1;
}
static void w_nack_full(void) {   /* the rest: p_nack_full */
    two();
    for (uint32_t t = 3; t <= 8; t++) want(t);
    waits(2, 2, 2);
}

static void w_dead_wait(void) {
    put_world(W.dlq, 11, 64, 0);
    for (uint32_t t = 31; t <= 32; t++) {
        shmq_delivery d;
        put_world(W.q, t, 64, 0);
        if (shmq_take(W.p, W.q, 1, 0, &d) != 1 || shmq_reject(W.p, &d, t == 31 ? WHY : NULL, t == 31 ? sizeof WHY : 0) != 0) DIE("reject");
    }
    put_world(W.q, 35, 64, 0);
    waits(2, 3, 3);
}
static void w_x_oldest(void) {
    put_world(W.q, 1, 64, 0);
    x_takes(1, 0);
    for (uint32_t t = 2; t <= DEPTH + 1; t++) put_world(W.q, t, 64, 0);
}

/* ---- the child's preparations ---- */
static void p_nack_full(plane *p) {   /* 1 and 2 in its hands, as w_x_dead_full has them in those of x */
    p_warm(p);
    for (uint32_t t = 1; t <= 5; t += 2) {
        CHILD(shmq_take(&p->ctx, p->q, 2, 0, &p->d[t - 1]) == 2);
        for (uint32_t i = 0; i < 2; i++) {
            child_message(p, i, t + 2 + i, 64, 0);
            CHILD(shmq_publish(&p->ctx, p->q, &p->m[i]) == 0);
        }
    }
    for (int i = 2; i < 6; i++) CHILD(shmq_nack(&p->ctx, &p->d[i], 0, NULL, 0) == 0);
}

/* ---- operations ---- */
static void o_parked_sweep(plane *p) { p->rc = shmq_parked_sweep(&p->ctx); }
static void o_delete_q(plane *p) { p->rc = shmq_queue_delete(&p->ctx, p->q); }

/* ---- what may come out ---- */
static int stopped(void) { return strcmp(W.mode, "stop") == 0; }
static void e_oldest_dead(plane *p, int finished) {   /* the dead letter that was the oldest makes room */
    (void)p;
    W.lo[11] = 0;
    if (finished && !stopped()) W.hi[11] = 0;
}
static void e_refused_dead(plane *p, int finished) {
    (void)p;
    W.lo[1] = 0;
    if (finished && !stopped()) W.hi[1] = 0;
}

static const scenario PARK_OPS[] = {
    { "park-fire", NARROW, w_due, p_find_delayed, o_fire, NULL },
    { "park-fire-behind", NARROW | LIVE_X, w_room_due, p_find_delayed, o_fire, NULL },
    { "park-fire-bytes", TIGHT | NO_CAP, w_due, p_find_delayed, o_fire, NULL },
    { "park-nack", NARROW | LEASE, w_nack_full, p_nack_full, o_nack0, NULL },
    { "park-lease-expiry", NARROW | LEASE | LIVE_X, w_x_lease_full, p_warm, o_expire, NULL },
    { "park-recover-leases", NARROW | LEASE | DEAD_X | SLOW, w_x_dead_full, p_warm, o_recover, NULL },
    { "park-recover-turn", NARROW | DEAD_X | SLOW, w_x_turn, p_warm, o_recover, NULL },
    { "park-recover-parker", NARROW | DEAD_X | SLOW, w_x_parker, p_warm, o_recover, NULL },
    { "park-reject", LEASE | DLQ1, w_dead_wait, p_take1, o_reject, NULL },
    { "park-reject-drop", LEASE | DLQ1 | DLQ_DROP, w_deaddeep, p_take1, o_reject, e_oldest_dead },
    { "park-reject-refused", LEASE | DLQ1 | DLQ_REJECT, w_deaddeep, p_take1, o_reject, e_refused_dead },
    { "park-take", NARROW | LEASE, w_wait_take, p_warm, o_take, NULL },
    { "park-take-batch", NARROW | LEASE, w_wait_take2, p_warm, o_take3, NULL },
    { "park-take-empty", NARROW | LIVE_X, w_room, p_warm, o_take, NULL },
    { "park-take-share", NARROW | LEASE | WAITER, w_wait_take, p_warm, o_take, NULL },
    { "park-take-shares", NARROW | LEASE | WAITER, w_wait_take2, p_warm, o_take3, NULL },
    { "park-take-bytes", TIGHT | NO_CAP | LEASE, w_wait_take, p_warm, o_take, NULL },
    { "park-take-big", TIGHT | NO_CAP | LEASE, w_wait_big, p_warm, o_take, NULL },
    { "park-sweep", NARROW | LIVE_X, w_room, p_warm, o_parked_sweep, NULL },
    { "park-sweep-key", NARROW | KEYED, w_key_full, p_warm, o_parked_sweep, NULL },
    { "park-purge", NARROW, w_wait_purge, p_warm, o_purge, e_purge },
    { "park-discard", NARROW | LEASE, w_wait_purge, p_warm, o_discard, e_purge },
    { "park-close", NARROW | SLOW | CLOSES, w_wait_close, p_warm, o_close, NULL },
    { "park-delete", NARROW | SLOW | CLOSES, w_wait, p_open, o_delete_q, e_purge },
    { "key-drop-held", KEYED | DROP | LEASE | LIVE_X, w_x_oldest, p_msg, o_publish, e_publish },
    { "strict-drop-held", STRICT | DROP | LEASE | LIVE_X, w_x_oldest, p_msg, o_publish, e_publish },
};
