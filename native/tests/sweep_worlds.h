/* sweep_worlds.h: of the sweep: the worlds in which an operation begins. A part of sweep.c, for its size. */

static void w_three(void) {
    for (uint32_t t = 1; t <= 3; t++) put_world(W.q, t, 64, t & 1);
}
static void w_one(void) { put_world(W.q, 1, 64, 0); }
static void w_full(void) {
    for (uint32_t t = 1; t <= DEPTH; t++) put_world(W.q, t, 64, 0);
}
static void w_deaddeep(void) {
    w_three();
    put_world(W.dlq, 11, 64, 0);
}
static void nack_world(uint32_t n, int extra, uint64_t delay) {
    shmq_delivery d[8];
    if (shmq_take(W.p, W.q, n, 0, d) != (int)n) DIE("take");
    for (uint32_t i = 0; i < n; i++)
        if (shmq_nack(W.p, &d[i], delay, extra ? WHY : NULL, extra ? sizeof WHY : 0) != 0) DIE("nack");
}
static void w_again(void) {
    w_three();
    nack_world(2, 0, 0);
}
static void w_extra(void) {
    w_three();
    nack_world(1, 1, 0);
}
static void w_delayed(void) {
    w_three();
    nack_world(2, 1, FAR);
}
static void w_six(void) {
    for (uint32_t t = 1; t <= 6; t++) put_world(W.q, t, 64, t & 1);
}
static void w_six_again(void) {
    w_six();
    nack_world(2, 0, 0);
}
static void w_six_delayed(void) {
    w_six();
    nack_world(2, 1, FAR);
}
static void w_expired(void) {
    w_three();
    ring_item item;
    if (ring_find(W.p, &W.p->local[W.q & 0xffff].work, &item) != 0) DIE("find");
    block_at(W.p, item.idx)->expires_ns = 1;
    W.expired = 1 << 1;
}
static void w_overdue(void) {   /* one ready and one delayed message are past their time */
    w_expired();
    put_world(W.q, 4, 64, 0);
    shmq_delivery d[4];
    if (shmq_take(W.p, W.q, 3, 0, d) != 3) DIE("take");   /* the expired one dies here */
    if (shmq_nack(W.p, &d[2], FAR, NULL, 0) != 0 || shmq_release(W.p, &d[0]) != 0 || shmq_release(W.p, &d[1]) != 0) DIE("settle");
    block_at(W.p, d[2].idx)->expires_ns = block_at(W.p, d[1].idx)->expires_ns = 1;
    W.expired |= 1 << 3 | 1 << 4;
}
static void w_empty(void) {}
static void w_q2(void) {
    w_three();
    for (uint32_t t = 21; t <= 22; t++) put_world(W.q2, t, 64, 0);
    nack_world(1, 1, FAR);
}
static void x_takes(uint32_t n, uint32_t flags) {
    shmq_delivery d[8];
    if (shmq_take(W.x, W.q, n, flags, d) != (int)n) DIE("take");
}
static void kill_x(void) {
    if (shmq_owner_declare(W.p, (uint32_t)shmq_self(W.x), W.x->self_word) != 0) DIE("declare");
}
static void w_x_dead(void) {   /* two leases, one read ahead, one loan, its magazine, an unfinished move */
    for (uint32_t t = 1; t <= 6; t++) put_world(W.q, t, 64, t & 1);
    nack_world(1, 1, FAR);
    x_takes(2, 0);
    x_takes(1, SHMQ_TAKE_AHEAD);
    shmq_delivery d;
    if (shmq_loan(W.x, W.q2, 64, 0, &d) != 0) DIE("loan");
    if (shmq_take(W.x, W.q, 1, 0, &d) != 1) DIE("take");
    st_sc(&W.x->held[d.held - 1].word, 0);
    uint64_t m = ctl_next(d.ctl, SHMQ_MOVE, W.x->self);
    if (!cas(&block_at(W.x, d.idx)->ctl, d.ctl, m)) DIE("move");
    kill_x();
}
static void w_x_lanes(void) {   /* two leases, one read ahead, one unfinished move */
    w_six();
    x_takes(2, 0);
    x_takes(1, SHMQ_TAKE_AHEAD);
    kill_x();
}
static void w_x_strict(void) {
    w_six();
    x_takes(1, 0);
    kill_x();
}
static void w_x_late(void) {   /* it died between the held entry and its CAS */
    w_three();
    ring_item item;
    uint32_t e;
    if (ring_find(W.x, (shmq_queue_open(W.x, "q"), &W.x->local[W.q & 0xffff].work), &item) != 0 || owner_held_get(W.x, &e) != 0)
        DIE("find");
    st_rel(&W.x->held[e].word, held_make(SHMQ_HELD_STARTED, ctl_gen(item.ctl) + 1, item.idx));
    kill_x();
}
static void w_x_lease(void) {
    w_three();
    x_takes(2, 0);
}
static void w_x_ahead(void) {
    for (uint32_t t = 1; t <= 2; t++) put_world(W.q, t, 64, t & 1);
    x_takes(2, SHMQ_TAKE_AHEAD);
}
static void w_x_views(void) {   /* the dead kept blocks in LIMBO and peeked at one */
    shmq_delivery d;
    uint64_t cursor = 0;
    w_three();
    if (shmq_take(W.x, W.q, 1, 0, &d) != 1 || shmq_settle_viewed(W.x, &d) != 0) DIE("view");
    base_lo[1] = 0;
    if (shmq_peek(W.x, W.q, &cursor, &d) != 0) DIE("peek");
    kill_x();
}

static void w_dedup(void) {
    w_three();
    if (put_id(W.p, W.q, 20) != 0) DIE("publish");
    want(20);
}
/* N of x, NEW and written, with the tag and what is said */
static uint32_t x_writes(uint64_t q, uint32_t tag, uint64_t tie, uint64_t flags, uint64_t *ctl) {
    uint32_t idx;
    local_queue *l;
    shmq_message m = { .size = 64, .dedup = &tag, .dedup_size = 4 };
    if (queue_local(W.x, q, &l) != 0 || arena_alloc(W.x, 64 + FAN_TRAILER, &idx, ctl) != 0) DIE("alloc");
    publish_header(W.x, block_at(W.x, idx), (uint32_t)(q & 0xffff), &m, l, shmq_now());
    fill(payload_of(W.x, idx), tag, 64);
    hash128 key;
    publish_trailer(W.x, idx, &m, flags & FATE_DEDUP ? publish_key(W.x, l, &m, &key) : NULL, tie, flags);
    return idx;
}
static void w_x_dedup(void) {   /* it died after its commits: one id claimed, one not, one that another has had since */
    w_three();
    for (uint32_t tag = 20; tag <= 22; tag++) {
        uint64_t ctl, first;
        uint32_t idx = x_writes(W.q, tag, 0, FATE_DEDUP, &ctl);
        local_queue *l = &W.x->local[W.q & 0xffff];
        hash128 key;
        memcpy(&key, dedup_trailer(W.x, idx), sizeof key);
        if (!cas(&block_at(W.x, idx)->ctl, ctl, ctl_next(ctl, SHMQ_MOVE, W.x->self))) DIE("commit");
        if (tag == 20 && ids_claim(W.x, l, &key, ld_rlx(&block_at(W.x, idx)->id), shmq_now(), &first) != ID_FIRST) DIE("claim");
        if (tag == 22 && put_id(W.p, W.q, tag) != 0) DIE("publish");
        want(tag);
    }
    kill_x();
}
static void w_x_forward(void) {   /* it died in three forwards: before the commit, after it, and with the replacement on its way */
    w_three();
    for (uint32_t i = 0; i < 3; i++) {
        shmq_delivery d;
        uint64_t ctl;
        if (shmq_take(W.x, W.q, 1, 0, &d) != 1) DIE("take");
        uint32_t n = x_writes(W.q2, 21 + i, d.idx, FATE_TIED, &ctl);
        shmq_block *s = block_at(W.x, d.idx);
        st_sc(&W.x->held[d.held - 1].word, 0);
        if (!cas(&s->ctl, d.ctl, ctl_next(d.ctl, SHMQ_MOVE, W.x->self))) DIE("leave");
        st_rlx(&s->due_ns, (uint64_t)(n + 1) << 40 | (ctl_gen(ctl) & 0xffffffffff));
        st_rlx(&s->fate, ld_rlx(&s->fate) | FATE_LEAVING | (i ? FATE_FORWARD : 0));
        if (i == 2 && !cas(&block_at(W.x, n)->ctl, ctl, ctl_next(ctl, SHMQ_MOVE, W.x->self))) DIE("send");
        if (i) {
            base_lo[i + 1]--;
            want(21 + i);
        }
    }
    kill_x();
}
static void tell_world(uint32_t tag, int meta) {   /* one message of the topic: once in q, once in q2 */
    uint8_t b[64], h[5] = "meta";
    h[4] = (uint8_t)tag;
    fill(b, tag, 64);
    shmq_message m = { .data = b, .size = 64, .meta = meta ? h : NULL, .meta_size = meta ? 5 : 0 };
    if (shmq_topic_publish(W.p, W.t, &m) != 0) DIE("world topic publish");
    want(tag);
    want(tag);
}
static void w_fan(void) {
    tell_world(1, 0);
    tell_world(2, 1);
}
static void w_fan_last(void) {   /* of the first message only the share in q is left */
    w_fan();
    shmq_delivery d;
    if (shmq_take(W.p, W.q2, 1, 0, &d) != 1 || tag_of(&d) != 1 || shmq_ack(W.p, &d, 1) != 1) DIE("take");
    base_lo[1]--;
}
static void w_fan_full(void) {
    for (uint32_t t = 1; t <= DEPTH; t++) tell_world(t, 0);
}
static void w_fan_extra(void) {
    w_fan();
    nack_world(1, 1, 0);
}

static void w_fan_keys(void) {   /* two keys, the second message of each waits for the first */
    for (uint32_t t = 1; t <= 4; t++) {
        uint8_t b[64];
        fill(b, t, 64);
        shmq_message m = { .data = b, .size = 64, .key = key_of_tag(t & 1), .key_size = 1 };
        if (shmq_topic_publish(W.p, W.t, &m) != 0) DIE("world topic publish");
        want(t);
        want(t);
    }
}
static void tell_id(shmq_ctx *c, uint32_t tag) {
    uint8_t b[64];
    fill(b, tag, 64);
    shmq_message m = { .data = b, .size = 64, .dedup = &tag, .dedup_size = 4 };
    if (shmq_topic_publish(c, W.t, &m) != 0) DIE("topic publish of an id");
}
static void w_fan_known(void) {
    w_fan();
    tell_id(W.p, 20);
    want(20);
    want(20);
}
static void w_fan_half(void) {   /* q knows the id, q2 does not */
    w_fan();
    if (put_id(W.p, W.q, 20) != 0) DIE("publish");
    want(20);
}
/* it died at four messages with ids: not committed; not launched; one share in MOVE; one claimed, the other known by now */
static void w_x_shares(void) {
    w_fan();
    local_queue *l;
    if (queue_local(W.x, W.t, &l) != 0) DIE("open");
    for (uint32_t tag = 20; tag <= 23; tag++) {
        uint8_t b[64];
        fan f;
        fill(b, tag, 64);
        shmq_message m = { .data = b, .size = 64, .dedup = &tag, .dedup_size = 4 };
        if (topic_write(W.x, l, W.t, &m, shmq_now(), 0, 0, &f) != 0 || f.n != 2) DIE("write");
        if (tag == 23) break;
        if (!topic_commit(W.x, f.parent, f.ctl)) DIE("commit");
        for (uint32_t i = 0; i < tag - 20; i++) {
            uint32_t d = W.x->scratch[i].idx;
            uint64_t ctl = W.x->scratch[i].key, first;
            if (!cas(&block_at(W.x, d)->ctl, ctl, ctl_next(ctl, SHMQ_MOVE, W.x->self))) DIE("commit of a share");
            hash128 key;
            memcpy(&key, dedup_trailer(W.x, d), sizeof key);
            if (tag == 22 && i == 0
                && ids_claim(W.x, &W.x->local[W.x->scratch[i].entry], &key, ld_rlx(&block_at(W.x, d)->id), shmq_now(), &first) != ID_FIRST)
                DIE("claim");
        }
        want(tag);
        want(tag);
    }
    if (put_id(W.p, W.q2, 22) != 0) DIE("publish");
    kill_x();
}
static void w_three_late(void) {   /* it expires in the child's hands */
    w_three();
    W.expired = 1 << 1;
}
static void expire_next(uint64_t q) {   /* the first message there is past its time */
    ring_item item;
    if (ring_find(W.p, &W.p->local[q & 0xffff].work, &item) != 0) DIE("find");
    block_at(W.p, item.idx)->expires_ns = 1;
    W.expired = 1 << 1;
}
static void w_fan_expired(void) {
    w_fan();
    expire_next(W.q);
}
static void w_fan_last_expired(void) {
    w_fan_last();
    expire_next(W.q);
}
static void w_backoff_expired(void) {   /* the first message of a key is in its backoff, and past its time */
    w_six();
    shmq_delivery d;
    if (shmq_take(W.p, W.q, 1, 0, &d) != 1) DIE("take");
    uint32_t idx = d.idx;
    if (shmq_nack(W.p, &d, FAR, NULL, 0) != 0) DIE("nack");
    block_at(W.p, idx)->expires_ns = 1;
    W.expired = 1 << 1;
}
static void w_x_expired(void) {   /* it died with messages in its hands of which one is past its time */
    w_three();
    shmq_delivery d[2];
    if (shmq_take(W.x, W.q, 2, 0, d) != 2) DIE("take");
    block_at(W.p, d[0].idx)->expires_ns = 1;
    W.expired = 1 << 1;
    kill_x();
}
