/* sweep_ops.h: the operations that are swept: the world before, the child's preparation, the operation, what may come out. */

/* ---- worlds ---- */
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

/* ---- the child's preparations ---- */
static void p_open(plane *p) {
    CHILD(shmq_queue_open(&p->ctx, "q") == (int64_t)p->q);
    CHILD(shmq_queue_open(&p->ctx, "q2") == (int64_t)p->q2);
}
static void p_warm(plane *p) {   /* a filled magazine, warm hints */
    shmq_message m = { .data = "12345678", .size = 8 };
    p_open(p);
    uint64_t idle = W.s->flags & TOPIC ? p->dlq : p->q2;
    CHILD(shmq_publish(&p->ctx, idle, &m) == 0);
    shmq_delivery d;
    CHILD(shmq_take(&p->ctx, idle, 1, 0, &d) == 1 && shmq_ack(&p->ctx, &d, 1) == 1);
}
static void p_msg(plane *p) {
    p_warm(p);
    child_message(p, 0, 20, 64, 0);
}
static uint32_t id_of_20 = 20;
static void p_dedup(plane *p) {
    p_msg(p);
    p->m[0].dedup = &id_of_20;
    p->m[0].dedup_size = 4;
}
static void p_dedup_headers(plane *p) {
    p_warm(p);
    child_message(p, 0, 20, 64, 1);
    p->m[0].dedup = &id_of_20;
    p->m[0].dedup_size = 4;
}
static void p_dedup_cold(plane *p) {
    p_open(p);
    child_message(p, 0, 20, 64, 0);
    p->m[0].dedup = &id_of_20;
    p->m[0].dedup_size = 4;
}
static void p_dedup_delayed(plane *p) {
    p_dedup(p);
    p->m[0].delay_ns = FAR;
}
static void p_forward(plane *p) {
    p_warm(p);
    CHILD(shmq_take(&p->ctx, p->q, 1, 0, p->d) == 1);
    child_message(p, 0, 21, 64, 1);
}
static void p_forward_id(plane *p) {
    p_forward(p);
    p->m[0].dedup = &id_of_20;
    p->m[0].dedup_size = 4;
}
static void p_topic_forward(plane *p) {
    p_forward(p);
    CHILD(shmq_topic_subscribers(&p->ctx, p->t, NULL, 0) == 2);
}
static void p_msg_cold(plane *p) {
    p_open(p);
    child_message(p, 0, 20, 64, 0);
}
static void p_meta(plane *p) {
    p_warm(p);
    child_message(p, 0, 20, 64, 1);
}
static void p_ttl(plane *p) {
    p_msg(p);
    p->m[0].ttl_ns = FAR;
}
static void p_level(plane *p) {
    p_msg(p);
    p->m[0].priority = 5;
}
static void p_take2(plane *p) {
    p_warm(p);
    CHILD(shmq_take(&p->ctx, p->q, 2, 0, p->d) == 2);
}
static void p_delayed(plane *p) {
    p_msg(p);
    p->m[0].delay_ns = FAR;
}
static void p_big(plane *p) {
    p_open(p);
    child_message(p, 0, 20, 5000, 1);
}
static void p_grow(plane *p) {
    p_open(p);
    child_message(p, 0, 20, 1000, 0);
}
static void p_many(plane *p) {
    p_warm(p);
    for (uint32_t i = 0; i < 3; i++) child_message(p, i, 20 + i, 64, (int)i & 1);
}
static void p_take1(plane *p) {
    p_warm(p);
    CHILD(shmq_take(&p->ctx, p->q, 1, 0, p->d) == 1);
}
static void p_take3(plane *p) {
    p_warm(p);
    CHILD(shmq_take(&p->ctx, p->q, 3, 0, p->d) == 3);
}
static void p_ahead(plane *p) {
    p_warm(p);
    CHILD(shmq_take(&p->ctx, p->q, 1, SHMQ_TAKE_AHEAD, p->d) == 1);
}
static void p_free(plane *p) {
    p_warm(p);
    CHILD(shmq_take(&p->ctx, p->q, 1, SHMQ_TAKE_FREE, p->d) == 1);
}
static void p_viewed(plane *p) {
    p_take1(p);
    p->view = p->d[0].held;
    p->view_idx = p->d[0].idx;
    CHILD(shmq_settle_viewed(&p->ctx, p->d) == 0);
}
static void p_dead1(plane *p) {
    p_warm(p);
    CHILD(shmq_take(&p->ctx, p->dlq, 1, 0, p->d) == 1);
}
static void p_loan(plane *p) {
    p_warm(p);
    CHILD(shmq_loan(&p->ctx, p->q, 64, 0, p->d) == 0);
    fill((uint8_t *)(uintptr_t)p->d[0].data, 20, 64);
}
static void p_find_delayed(plane *p) {
    uint32_t from = 0;
    p_warm(p);
    p->n = (uint32_t)shmq_timers_scan(&p->ctx, &from, p->list, p->due, 8);
    CHILD(p->n == 2);
    for (uint32_t i = 0; i < p->n; i++) st_rlx(&block_at(&p->ctx, p->list[i])->due_ns, 1);
}
static void p_trim(plane *p) {
    p_warm(p);
    child_message(p, 0, 20, 20000, 0);
    CHILD(shmq_publish(&p->ctx, p->q2, p->m) == 0 && shmq_take(&p->ctx, p->q2, 1, 0, p->d) == 1 && shmq_ack(&p->ctx, p->d, 1) == 1);
}
static void p_peek(plane *p) {
    p_warm(p);
    p->due[0] = 0;
}

static void p_topic(plane *p) {   /* a filled magazine, the list of subscriptions */
    p_warm(p);
    CHILD(shmq_topic_subscribers(&p->ctx, p->t, NULL, 0) == 2);
    child_message(p, 0, 20, 64, 0);
}
static void p_topic_cold(plane *p) { child_message(p, 0, 20, 64, 0); }
static void p_topic_meta(plane *p) {
    p_topic(p);
    child_message(p, 0, 20, 64, 1);
}
static void p_topic_delayed(plane *p) {
    p_topic(p);
    p->m[0].delay_ns = FAR;
}
static void p_topic_id(plane *p) {
    p_topic(p);
    p->m[0].dedup = &id_of_20;
    p->m[0].dedup_size = 4;
}
static void p_topic_id_headers(plane *p) {
    p_topic_meta(p);
    p->m[0].dedup = &id_of_20;
    p->m[0].dedup_size = 4;
}
static void p_topic_level(plane *p) {
    p_topic(p);
    p->m[0].priority = 5;
}
static void p_forward_level(plane *p) {
    p_forward(p);
    p->m[0].priority = 5;
}
static void p_ahead_expired(plane *p) {
    p_ahead(p);
    block_at(&p->ctx, p->d[0].idx)->expires_ns = 1;
}
static void p_take1_expired(plane *p) {
    p_take1(p);
    block_at(&p->ctx, p->d[0].idx)->expires_ns = 1;
}
static void p_topic_many(plane *p) {
    p_topic(p);
    for (uint32_t i = 0; i < 2; i++) child_message(p, i, 20 + i, 64, (int)i & 1);
}

/* ---- operations ---- */
static void o_topic(plane *p) { p->rc = shmq_topic_publish(&p->ctx, p->t, p->m); }
static void o_topic_many(plane *p) { p->rc = shmq_topic_publish_many(&p->ctx, p->t, p->m, 2); }
static void o_sweep(plane *p) { p->rc = shmq_topic_sweep(&p->ctx); }
static void o_unsubscribe(plane *p) { p->rc = shmq_queue_delete(&p->ctx, p->q2); }
static void o_subscribe(plane *p) {
    shmq_queue_options o = { .max_depth = 8, .dead_letter = SHMQ_NO_QUEUE, .kind = SHMQ_KIND_SUBSCRIPTION, .topic = p->t };
    p->rc = shmq_topic_subscribe(&p->ctx, "/t/new", &o, NULL, 0, 1);
}
static void o_publish(plane *p) { p->rc = shmq_publish(&p->ctx, p->q, p->m); }
static void o_forward(plane *p) { p->rc = shmq_forward(&p->ctx, p->d, p->q2, p->m); }
static void o_forward_dlq(plane *p) { p->rc = shmq_forward(&p->ctx, p->d, p->dlq, p->m); }
static void o_topic_forward(plane *p) { p->rc = shmq_forward(&p->ctx, p->d, p->t, p->m); }
static void o_forward_viewed(plane *p) {
    shmq_delivery d = p->d[0];
    int v = shmq_view_keep(&p->ctx, p->d);
    p->rc = v > 0 ? shmq_forward(&p->ctx, p->d, p->q2, p->m) : v;
    if (v > 0) {
        uint32_t t = tag_of(&d);
        CHILD(t != 0);
        CHILD(shmq_view_end(&p->ctx, (uint32_t)v, d.idx) == 0);
    }
}
static void o_loan_dedup(plane *p) {
    p->rc = shmq_loan(&p->ctx, p->q, 64, 0, p->d);
    if (p->rc) return;
    fill((uint8_t *)(uintptr_t)p->d[0].data, 20, 64);
    shmq_message m = { .dedup = &id_of_20, .dedup_size = 4 };
    p->rc = shmq_loan_publish(&p->ctx, p->q, p->d, &m);
    if (p->rc) shmq_loan_abort(&p->ctx, p->d);
}
static void o_many(plane *p) { p->rc = shmq_publish_many(&p->ctx, p->q, p->m, 3); }
static void o_take(plane *p) { p->rc = shmq_take(&p->ctx, p->q, 1, 0, p->d); }
static void o_take3(plane *p) { p->rc = shmq_take(&p->ctx, p->q, 3, 0, p->d); }
static void o_take_free(plane *p) {
    p->rc = shmq_take(&p->ctx, p->q, 1, SHMQ_TAKE_FREE, p->d);
    if (p->rc == 1) p->rc = 100 + shmq_release(&p->ctx, p->d);
}
static void o_ahead(plane *p) {
    p->rc = shmq_take(&p->ctx, p->q, 2, SHMQ_TAKE_AHEAD, p->d);
    if (p->rc >= 1) p->rc = shmq_start(&p->ctx, p->d);
}
static void o_start_expired(plane *p) {
    p->d[0].expires_ns = 1;
    p->rc = shmq_start(&p->ctx, p->d);
}
static void o_start(plane *p) { p->rc = shmq_start(&p->ctx, p->d); }
static void intact(plane *p, const shmq_delivery *d) {
    uint32_t t = tag_of(d);
    CHILD(t != 0);
    if (t) CHILD(meta_right(d, t));
}
static void o_read_ack(plane *p) {
    shmq_delivery d = p->d[0];
    intact(p, &d);
    p->rc = shmq_ack(&p->ctx, p->d, 1);
}
static void o_ack3(plane *p) { p->rc = shmq_ack(&p->ctx, p->d, 3); }
static void o_nack0(plane *p) { p->rc = shmq_nack(&p->ctx, p->d, 0, NULL, 0); }
static void o_nack(plane *p) { p->rc = shmq_nack(&p->ctx, p->d, SHMQ_DELAY_DEFAULT, NULL, 0); }
static void o_nack_extra(plane *p) { p->rc = shmq_nack(&p->ctx, p->d, 0, WHY, sizeof WHY); }
static void o_reject(plane *p) { p->rc = shmq_reject(&p->ctx, p->d, WHY, sizeof WHY); }
static void o_release(plane *p) { p->rc = shmq_release(&p->ctx, p->d); }
static void o_touch(plane *p) { p->rc = shmq_touch(&p->ctx, p->d, FAR); }
static void o_touch_ack(plane *p) {
    p->rc = shmq_touch(&p->ctx, p->d, FAR);
    if (p->rc == 0) p->rc = 10 + shmq_ack(&p->ctx, p->d, 1);
}
static void o_settle_viewed(plane *p) {
    shmq_delivery d = p->d[0];
    uint32_t held = d.held, idx = d.idx;
    p->rc = shmq_settle_viewed(&p->ctx, p->d);
    intact(p, &d);   /* the view still reads */
    CHILD(shmq_view_end(&p->ctx, held, idx) == 0);
}
static void o_view_end(plane *p) {
    intact(p, &p->d[0]);
    p->rc = shmq_view_end(&p->ctx, p->view, p->view_idx);
}
static void o_view_keep(plane *p) {
    shmq_delivery d = p->d[0];
    int v = shmq_view_keep(&p->ctx, p->d);
    p->rc = v > 0 ? shmq_nack(&p->ctx, p->d, 0, NULL, 0) : v;
    if (v > 0) {
        intact(p, &d);
        CHILD(shmq_view_end(&p->ctx, (uint32_t)v, d.idx) == 0);
    }
}
static void o_loan(plane *p) {
    p->rc = shmq_loan(&p->ctx, p->q, 64, 0, p->d);
    if (p->rc) return;
    fill((uint8_t *)(uintptr_t)p->d[0].data, 20, 64);
    shmq_message m = { 0 };
    p->rc = shmq_loan_publish(&p->ctx, p->q, p->d, &m);
}
static void o_loan_publish(plane *p) {
    shmq_message m = { 0 };
    p->rc = shmq_loan_publish(&p->ctx, p->q, p->d, &m);
    if (p->rc) shmq_loan_abort(&p->ctx, p->d);
}
static void o_loan_abort(plane *p) {
    p->rc = shmq_loan_abort(&p->ctx, p->d);
    CHILD(p->rc == 0);
}
static void o_peek(plane *p) {
    p->rc = shmq_peek(&p->ctx, p->q, &p->due[0], p->d);
    if (p->rc == 0) {
        intact(p, &p->d[0]);
        CHILD(shmq_view_end(&p->ctx, p->d[0].held, p->d[0].idx) == 0);
    }
}
static void o_purge(plane *p) { p->rc = shmq_purge(&p->ctx, p->q); }
static void o_discard(plane *p) { p->rc = shmq_queue_discard(&p->ctx, p->q); }
static void o_expire(plane *p) { p->rc = shmq_leases_expire(&p->ctx, shmq_now() + 100 * FAR, &p->due[0]); }
static void o_fire(plane *p) {
    for (uint32_t i = 0; i < p->n; i++) p->rc = shmq_timer_fire(&p->ctx, p->list[i], shmq_now(), &p->due[0]);
}
static void o_expire_scan(plane *p) {
    uint32_t from = 0;
    while (from < SHMQ_BLOCKS) p->rc = shmq_expire_scan(&p->ctx, &from, 2, 0, p->list, p->due, 8, &p->due[8]);
}
static void o_collect_timers(plane *p) { p->rc = shmq_timers_collect(&p->ctx, p->list, p->due, 64, &p->scan); }
static void o_trim(plane *p) { p->rc = shmq_trim(&p->ctx, 0); }
static void o_recover(plane *p) { p->rc = shmq_recover(&p->ctx, 1); }
static void o_reap(plane *p) { p->rc = shmq_reap(&p->ctx, 0); }
static void o_create(plane *p) {
    shmq_queue_options o = { .max_depth = 8, .dead_letter = SHMQ_NO_QUEUE, .max_retries = 1 };
    p->rc = shmq_queue_create(&p->ctx, "new", &o);
}
static void o_create_key(plane *p) {
    shmq_queue_options o = { .max_depth = 8, .dead_letter = SHMQ_NO_QUEUE, .max_retries = 1, .order = SHMQ_BY_KEY };
    p->rc = shmq_queue_create(&p->ctx, "new", &o);
}
static void o_ack2(plane *p) { p->rc = shmq_ack(&p->ctx, p->d, 2); }
static void o_close(plane *p) { p->rc = shmq_queue_close(&p->ctx, p->q); }
static void o_delete(plane *p) { p->rc = shmq_queue_delete(&p->ctx, p->q2); }
static void o_ref(plane *p) {
    p->rc = shmq_ref(&p->ctx, p->q, 1);
    if (p->rc == 0) p->rc = shmq_ref(&p->ctx, p->q, 0);
}
static void o_refs_collect(plane *p) { p->rc = shmq_refs_collect(&p->ctx, &p->q2, 1); }
static void o_wait_settled(plane *p) { p->rc = shmq_wait_settled(&p->ctx, p->q, shmq_now() + 2000000); }
static void o_attach(plane *p) { p->rc = shmq_attach(&p->ctx, SHMQ_CLIENT); }
static void o_detach(plane *p) { p->rc = shmq_detach(&p->ctx); }
static void o_wait(plane *p) { p->rc = shmq_wait_items(&p->ctx, p->q, shmq_now() + 2000000, 0); }
static void o_wait_space(plane *p) { p->rc = shmq_wait_space(&p->ctx, p->q, shmq_now() + 2000000, 0); }
static void o_depth(plane *p) { p->rc = shmq_depth(&p->ctx, p->q); }
static void o_resync(plane *p) { p->rc = shmq_bytes_resync(&p->ctx, p->q); }

/* ---- what may come out, on top of "each message of the world exactly once" ---- */
static void e_publish(plane *p, int finished) {
    if (!finished) W.hi[20]++;
    else if (p->rc == 0) {
        W.lo[20]++;
        W.hi[20]++;
    }
}
static void e_ttl(plane *p, int finished) {   /* whoever sees the message knows when to sweep for it */
    e_publish(p, finished);
    if (W.got[20]) MUST(shmq_next_expiry(W.p) < UINT64_MAX, "a message with a time to live, and nobody knows");
}
/* whatever became of it: published again, there is one of it */
static void e_dedup(plane *p, int finished) {
    if (finished && p->rc == 0 && W.got[20] != 1) violation("a message with an id was seen %d times after its publish", W.got[20]);
    if (put_id(W.p, W.q, 20) != 0) violation("publish again");
    drain(0);
    W.lo[20] = W.hi[20] = 1;
}
static void e_forward(plane *p, int finished) {   /* 1 became 21, or it did not; never both, never neither */
    if (W.got[1] + W.got[21] != 1) violation("%d of the delivery and %d of its replacement", W.got[1], W.got[21]);
    if (finished && (p->rc == 0) != (W.got[21] == 1)) violation("forward says %ld", (long)p->rc);
    W.lo[1] = 0;
    W.hi[21] = 1;
}
static void e_many(plane *p, int finished) {
    for (int i = 0; i < 3; i++)
        if (!finished) W.hi[20 + i]++;
        else if (p->rc > i) {
            W.lo[20 + i]++;
            W.hi[20 + i]++;
        }
    if (W.got[20] < W.got[21] || W.got[21] < W.got[22]) violation("not a prefix: %d %d %d", W.got[20], W.got[21], W.got[22]);
}
/* tag 1 is acked by the op */
static void e_ack(plane *p, int finished) {
    if (!finished) W.lo[1] = 0;
    else if (p->rc == 1) W.lo[1] = W.hi[1] = 0;
}
static void e_ack3(plane *p, int finished) {
    int gone = 0;
    for (int t = 1; t <= 3; t++) {
        W.lo[t] = 0;
        gone += W.got[t] == 0;
    }
    if (finished && gone != (p->rc < 0 ? 0 : p->rc)) violation("ack says %ld, but %d of 3 are gone", (long)p->rc, gone);
}
static void e_ack2(plane *p, int finished) {
    int gone = 0;
    for (int t = 1; t <= 2; t++) {
        W.lo[t] = 0;
        gone += W.got[t] == 0;
    }
    if (finished && gone != (p->rc < 0 ? 0 : p->rc)) violation("ack says %ld, but %d of 2 are gone", (long)p->rc, gone);
}
static void e_touch_ack(plane *p, int finished) {
    if (!finished) W.lo[1] = 0;
    else if (p->rc == 11) W.lo[1] = W.hi[1] = 0;
}
static void e_settle_viewed(plane *p, int finished) {
    if (!finished) W.lo[1] = 0;
    else if (p->rc == 0) W.lo[1] = W.hi[1] = 0;
}
static void e_viewed(plane *p, int finished) {
    (void)p;
    (void)finished;
    W.lo[1] = W.hi[1] = 0;
}
static void e_gone(plane *p, int finished) {   /* rejected, and there is no dead-letter queue */
    if (!finished) W.lo[1] = 0;
    else if (p->rc == 0) W.lo[1] = W.hi[1] = 0;
}
static void e_expired_gone(plane *p, int finished) {
    (void)p;
    (void)finished;
    W.lo[1] = W.hi[1] = 0;
}
static void e_purge(plane *p, int finished) {
    (void)p;
    (void)finished;
    memset(W.lo, 0, sizeof W.lo);
}
static void e_delete(plane *p, int finished) {
    (void)p;
    for (int t = 20; t < TAGS; t++)
        if (t < 40 || t >= 44) W.lo[t] = 0;
    if (finished) W.hi[21] = W.hi[22] = W.got[21] = W.got[22] = 0;
}
static void e_deaddeep(plane *p, int finished) {
    (void)p;
    (void)finished;
}
static void e_ack_dead(plane *p, int finished) {
    if (!finished) W.lo[11] = 0;
    else if (p->rc == 1) W.lo[11] = W.hi[11] = 0;
}

static void e_reject_dead(plane *p, int finished) {   /* a dead letter that nobody wants ends there */
    if (!finished) W.lo[11] = 0;
    else if (p->rc == 0) W.lo[11] = W.hi[11] = 0;
}

/* all subscriptions have it, or none */
static void e_topic(plane *p, int finished) {
    if (!finished) {
        W.hi[20] += 2;
        if (W.got[20] == 1) violation("published to one of two subscriptions");
    } else if (p->rc == 0) {
        W.lo[20] += 2;
        W.hi[20] += 2;
    }
}
static void e_topic_many(plane *p, int finished) {
    for (int i = 0; i < 2; i++)
        if (!finished) W.hi[20 + i] += 2;
        else if (p->rc > i) {
            W.lo[20 + i] += 2;
            W.hi[20 + i] += 2;
        }
    if (W.got[20] == 1 || W.got[21] == 1) violation("published to one of two subscriptions");
    if (W.got[20] < W.got[21]) violation("not a prefix: %d %d", W.got[20], W.got[21]);
}
static void e_topic_cut(plane *p, int finished) {   /* q is cut off, unless others made room meanwhile; q2 gets it anyway */
    W.hi[20] += 2;
    if (finished && p->rc == 0) W.lo[20]++;
}
static void e_topic_drop(plane *p, int finished) {
    for (int t = 1; t <= DEPTH; t++) W.lo[t] = 1;
    W.lo[40] = W.lo[41] = W.lo[42] = W.lo[43] = 0;
    e_topic(p, finished);
}
/* the share of tag 1 in q became 21 for both subscriptions, or it did not */
static void e_topic_forward(plane *p, int finished) {
    int sent = W.got[21] == 2;
    if (W.got[21] == 1 || W.got[1] != 2 - sent) violation("%d of a share and its sibling, %d of its replacement", W.got[1], W.got[21]);
    if (finished && (p->rc == 0) != sent) violation("forward says %ld", (long)p->rc);
    W.lo[1] = 1;
    W.hi[21] = 2;
}
static void e_topic_forward_last(plane *p, int finished) {
    int sent = W.got[21] == 2;
    if (W.got[21] == 1 || W.got[1] != 1 - sent) violation("%d of a last share, %d of its replacement", W.got[1], W.got[21]);
    if (finished && (p->rc == 0) != sent) violation("forward says %ld", (long)p->rc);
    W.lo[1] = 0;
    W.hi[21] = 2;
}
/* the share of tag 1 in q became 21, or it did not; its sibling is there */
static void e_forward_share(plane *p, int finished) {
    if (W.got[1] + W.got[21] != 2 || W.got[21] > 1) violation("%d of a share and its sibling, %d of its replacement", W.got[1], W.got[21]);
    if (finished && (p->rc == 0) != (W.got[21] == 1)) violation("forward says %ld", (long)p->rc);
    W.lo[1] = 1;
    W.hi[21] = 1;
}
/* whatever became of it: published again, there is one of it in each subscription */
static void e_topic_id(plane *p, int finished) {
    if (finished && p->rc == 0 && W.got[20] != 2) violation("a message with an id was seen %d times by two subscriptions", W.got[20]);
    tell_id(W.p, 20);
    drain(0);
    W.lo[20] = W.hi[20] = 2;
}
/* the share of tag 1 in q is settled for good */
static void e_share(plane *p, int finished) {
    if (!finished) W.lo[1]--;
    else if (p->rc == 1 || p->rc == 0) {
        W.lo[1]--;
        W.hi[1]--;
    }
}
static void e_share_ack(plane *p, int finished) {
    if (!finished) W.lo[1]--;
    else if (p->rc == 1) {
        W.lo[1]--;
        W.hi[1]--;
    }
}
static void e_share_gone(plane *p, int finished) {
    (void)p;
    (void)finished;
    W.lo[1]--;
    W.hi[1]--;
}
static void e_unsubscribe(plane *p, int finished) {
    (void)p;
    for (int t = 1; t < TAGS; t++)
        if (W.lo[t] && (t < 40 || t >= 44)) W.lo[t]--;
    W.lo[44] = 0;
    (void)finished;   /* others may have had its share before */
}

static const scenario OPS[] = {
    { "topic-publish", TOPIC, w_fan, p_topic, o_topic, e_topic },
    { "topic-publish-cold", TOPIC, w_empty, p_topic_cold, o_topic, e_topic },
    { "topic-publish-headers", TOPIC, w_fan, p_topic_meta, o_topic, e_topic },
    { "topic-publish-delayed", TOPIC, w_fan, p_topic_delayed, o_topic, e_topic },
    { "topic-publish-full", TOPIC, w_fan_full, p_topic, o_topic, e_topic },
    { "topic-publish-drop", TOPIC | DROP, w_fan_full, p_topic, o_topic, e_topic_drop },
    { "topic-publish-cut", TOPIC | CUT | CLOSES | SLOW, w_fan_full, p_topic, o_topic, e_topic_cut },
    { "topic-publish-wake", TOPIC | WAITER, w_empty, p_topic, o_topic, e_topic },
    { "topic-publish-many", TOPIC, w_fan, p_topic_many, o_topic_many, e_topic_many },
    { "topic-take", TOPIC | LEASE, w_fan, p_topic, o_take, NULL },
    { "topic-ack", TOPIC | LEASE, w_fan, p_take1, o_read_ack, e_share_ack },
    { "topic-ack-last", TOPIC | LEASE, w_fan_last, p_take1, o_read_ack, e_share_ack },
    { "topic-ack-extra", TOPIC | LEASE, w_fan_extra, p_take1, o_read_ack, e_share_ack },
    { "topic-settle-viewed", TOPIC | LEASE, w_fan_last, p_take1, o_settle_viewed, e_share },
    { "topic-view-end", TOPIC | LEASE, w_fan_last, p_viewed, o_view_end, e_share_gone },
    { "topic-nack", TOPIC | LEASE, w_fan, p_take1, o_nack_extra, NULL },
    { "topic-reject", TOPIC | LEASE, w_fan, p_take1, o_reject, NULL },
    { "topic-reject-gone", TOPIC | LEASE | NO_DLQ, w_fan_last, p_take1, o_reject, e_share },
    { "topic-purge", TOPIC, w_fan, p_topic, o_purge, e_purge },
    { "topic-forward", TOPIC | LEASE, w_fan, p_topic_forward, o_topic_forward, e_topic_forward },
    { "topic-forward-last", TOPIC | LEASE, w_fan_last, p_topic_forward, o_topic_forward, e_topic_forward_last },
    { "topic-id", TOPIC | DEDUP, w_fan, p_topic_id, o_topic, e_topic_id },
    { "topic-id-headers", TOPIC | DEDUP, w_empty, p_topic_id_headers, o_topic, e_topic_id },
    { "topic-id-known", TOPIC | DEDUP, w_fan_known, p_topic_id, o_topic, e_topic_id },
    { "topic-id-half", TOPIC | DEDUP, w_fan_half, p_topic_id, o_topic, e_topic_id },
    { "topic-level", TOPIC | LEVELS, w_fan, p_topic_level, o_topic, e_topic },
    { "topic-key", TOPIC | KEYED, w_fan_keys, p_topic, o_topic, e_topic },
    { "topic-key-take", TOPIC | KEYED | LEASE, w_fan_keys, p_warm, o_take3, NULL },
    { "topic-key-nack", TOPIC | KEYED | LEASE, w_fan_keys, p_take1, o_nack0, NULL },
    { "topic-forward-out", TOPIC | LEASE, w_fan, p_forward, o_forward_dlq, e_forward_share },
    { "topic-expire", TOPIC, w_fan_expired, p_warm, o_expire_scan, NULL },
    { "topic-expire-gone", TOPIC | NO_DLQ, w_fan_last_expired, p_warm, o_expire_scan, e_share_gone },
    { "topic-recover-ids", TOPIC | DEDUP | DEAD_X | SLOW, w_x_shares, p_warm, o_recover, NULL },
    { "topic-subscribe", TOPIC | SLOW | CLOSES, w_fan, p_topic, o_subscribe, NULL },
    { "topic-unsubscribe", TOPIC | SLOW | CLOSES, w_fan, p_topic, o_unsubscribe, e_unsubscribe },
    { "topic-sweep", TOPIC, w_fan, p_topic, o_sweep, NULL },
    { "publish", 0, w_three, p_msg, o_publish, e_publish },
    { "publish-cold", 0, w_one, p_msg_cold, o_publish, e_publish },
    { "publish-headers", 0, w_three, p_meta, o_publish, e_publish },
    { "publish-ttl", 0, w_three, p_ttl, o_publish, e_ttl },
    { "publish-delayed", 0, w_three, p_delayed, o_publish, e_publish },
    { "publish-big", 0, w_one, p_big, o_publish, e_publish },
    { "publish-grow", 0, w_one, p_grow, o_publish, e_publish },
    { "publish-full", 0, w_full, p_msg, o_publish, e_publish },
    { "publish-drop-oldest", DROP, w_full, p_msg, o_publish, e_publish },
    { "publish-wake", WAITER, w_empty, p_msg, o_publish, e_publish },
    { "publish-bytes", BYTES, w_three, p_msg, o_publish, e_publish },
    { "publish-many", 0, w_three, p_many, o_many, e_many },
    { "loan-publish", 0, w_three, p_warm, o_loan, e_publish },
    { "loan-publish-only", 0, w_three, p_loan, o_loan_publish, e_publish },
    { "loan-abort", 0, w_three, p_loan, o_loan_abort, NULL },
    { "publish-id", DEDUP, w_three, p_dedup, o_publish, e_dedup },
    { "publish-id-cold", DEDUP, w_one, p_dedup_cold, o_publish, e_dedup },
    { "publish-id-headers", DEDUP, w_three, p_dedup_headers, o_publish, e_dedup },
    { "publish-id-known", DEDUP, w_dedup, p_dedup, o_publish, e_dedup },
    { "publish-id-delayed", DEDUP, w_three, p_dedup_delayed, o_publish, e_dedup },
    { "loan-publish-id", DEDUP, w_three, p_warm, o_loan_dedup, e_dedup },
    { "forward", LEASE, w_three, p_forward, o_forward, e_forward },
    { "forward-viewed", LEASE, w_three, p_forward, o_forward_viewed, e_forward },
    { "forward-extra", LEASE, w_extra, p_forward, o_forward, e_forward },
    { "forward-id", LEASE | DEDUP, w_three, p_forward_id, o_forward, e_forward },
    { "forward-level", LEASE | LEVELS, w_one, p_forward_level, o_forward, e_forward },
    { "forward-key", LEASE | KEYED, w_three, p_forward, o_forward, e_forward },
    { "take", 0, w_three, p_warm, o_take, NULL },
    { "take-cold", LEASE, w_three, p_open, o_take, NULL },
    { "take-lease", LEASE, w_three, p_warm, o_take, NULL },
    { "take-wake", LEASE | WAITER, w_three, p_warm, o_take, NULL },
    { "take-batch", LEASE, w_three, p_warm, o_take3, NULL },
    { "take-again", LEASE, w_again, p_warm, o_take3, NULL },
    { "take-extra", LEASE, w_extra, p_warm, o_take, NULL },
    { "take-expired", LEASE, w_expired, p_warm, o_take, NULL },
    { "take-expired-gone", LEASE | NO_DLQ, w_expired, p_warm, o_take, e_expired_gone },
    { "take-empty", 0, w_empty, p_warm, o_take, NULL },
    { "take-free-release", 0, w_three, p_warm, o_take_free, NULL },
    { "take-ahead-start", LEASE, w_three, p_warm, o_ahead, NULL },
    { "start", LEASE, w_three, p_ahead, o_start, NULL },
    { "start-expired", LEASE, w_three_late, p_ahead_expired, o_start_expired, NULL },
    { "ack", LEASE, w_three, p_take1, o_read_ack, e_ack },
    { "ack-batch", LEASE, w_three, p_take3, o_ack3, e_ack3 },
    { "ack-free", 0, w_three, p_free, o_read_ack, e_ack },
    { "ack-extra", LEASE, w_extra, p_take1, o_read_ack, e_ack },
    { "ack-dead-letter", LEASE, w_deaddeep, p_dead1, o_read_ack, e_ack_dead },
    { "nack-now", LEASE, w_three, p_take1, o_nack0, NULL },
    { "nack-backoff", LEASE | BACKOFF, w_three, p_take1, o_nack, NULL },
    { "nack-extra", LEASE, w_three, p_take1, o_nack_extra, NULL },
    { "nack-extra-again", LEASE, w_extra, p_take1, o_nack_extra, NULL },
    { "nack-to-dlq", LEASE | RETRY0, w_three, p_take1, o_nack_extra, NULL },
    { "nack-to-full-dlq", LEASE | RETRY0 | DLQ1, w_deaddeep, p_take1, o_nack0, e_deaddeep },
    { "nack-wake", LEASE | WAITER, w_three, p_take1, o_nack0, NULL },
    { "reject", LEASE, w_three, p_take1, o_reject, NULL },
    { "reject-extra", LEASE, w_extra, p_take1, o_reject, NULL },
    { "reject-no-dlq", LEASE | NO_DLQ, w_three, p_take1, o_reject, e_gone },
    { "reject-dead-letter", LEASE, w_deaddeep, p_dead1, o_reject, e_reject_dead },
    { "nack-expired", LEASE | RETRY0, w_three_late, p_take1_expired, o_nack_extra, NULL },
    { "release-expired", LEASE, w_three_late, p_take1_expired, o_release, NULL },
    { "release", LEASE, w_three, p_take1, o_release, NULL },
    { "touch", LEASE, w_three, p_take1, o_touch, NULL },
    { "touch-ack", LEASE, w_three, p_take1, o_touch_ack, e_touch_ack },
    { "settle-viewed", LEASE, w_three, p_take1, o_settle_viewed, e_settle_viewed },
    { "settle-viewed-extra", LEASE, w_extra, p_take1, o_settle_viewed, e_settle_viewed },
    { "view-end", LEASE, w_three, p_viewed, o_view_end, e_viewed },
    { "view-keep-nack", LEASE, w_three, p_take1, o_view_keep, NULL },
    { "peek", LEASE, w_three, p_peek, o_peek, NULL },
    { "peek-again", LEASE, w_again, p_peek, o_peek, NULL },
    { "purge", 0, w_again, p_warm, o_purge, e_purge },
    { "queue-discard", LEASE, w_delayed, p_warm, o_discard, e_purge },
    { "lease-expiry", LEASE | LIVE_X, w_x_lease, p_warm, o_expire, NULL },
    { "expire-sweep", 0, w_overdue, p_warm, o_expire_scan, NULL },
    { "expire-sweep-gone", NO_DLQ, w_expired, p_warm, o_expire_scan, e_expired_gone },
    { "timer-fire", 0, w_delayed, p_find_delayed, o_fire, NULL },
    { "timer-collect", SLOW, w_delayed, p_warm, o_collect_timers, NULL },
    { "trim", SLOW, w_one, p_trim, o_trim, NULL },
    { "recover", DEAD_X | SLOW, w_x_dead, p_warm, o_recover, NULL },
    { "recover-cold", DEAD_X | SLOW | ONLY_FULL, w_x_dead, NULL, o_recover, NULL },
    { "recover-ids", DEAD_X | SLOW | DEDUP, w_x_dedup, p_warm, o_recover, NULL },
    { "recover-forwards", DEAD_X | SLOW, w_x_forward, p_warm, o_recover, NULL },
    { "recover-expired", DEAD_X | SLOW, w_x_expired, p_warm, o_recover, NULL },
    { "recover-views", DEAD_X | SLOW, w_x_views, p_warm, o_recover, NULL },
    { "recover-reused", DEAD_X | REUSE, w_x_dead, p_warm, o_recover, NULL },
    { "recover-late", DEAD_X | REUSE, w_x_late, p_warm, o_recover, NULL },
    { "reap", DEAD_X | SLOW | ONLY_FULL, w_x_dead, p_warm, o_reap, NULL },
    { "queue-create", SLOW, w_three, p_warm, o_create, NULL },
    { "queue-close", SLOW | CLOSES, w_three, p_warm, o_close, NULL },
    { "queue-delete", SLOW | CLOSES, w_q2, p_open, o_delete, e_delete },
    { "queue-ref", COUNTS | SLOW, w_three, p_warm, o_ref, NULL },
    { "queue-given-up", COUNTS | SLOW | CLOSES, w_q2, p_open, o_refs_collect, e_delete },
    { "ack-joined", COUNTS | LEASE | WAITER, w_one, p_take1, o_read_ack, e_ack },
    { "wait-settled", COUNTS | SLOW | NOSTOP, w_one, p_warm, o_wait_settled, NULL },
    { "attach", SLOW | NO_ATTACH, w_three, NULL, o_attach, NULL },
    { "detach", LEASE, w_three, p_take3, o_detach, NULL },
    { "detach-views", 0, w_three, p_viewed, o_detach, e_viewed },
    { "wait-items", SLOW | NOSTOP, w_empty, p_warm, o_wait, NULL },
    { "wait-items-waiter", SLOW | NOSTOP | WAITER, w_empty, p_warm, o_wait, NULL },
    { "wait-space", SLOW | NOSTOP, w_full, p_warm, o_wait_space, NULL },
    { "wait-steals", LIVE_X, w_x_ahead, p_warm, o_wait, NULL },
    { "depth", 0, w_again, p_warm, o_depth, NULL },
    { "bytes-resync", BYTES | SLOW, w_three, p_warm, o_resync, NULL },
    { "level-publish", LEVELS, w_three, p_level, o_publish, e_publish },
    { "level-publish-wake", LEVELS | WAITER, w_empty, p_level, o_publish, e_publish },
    { "level-publish-full", LEVELS, w_full, p_msg, o_publish, e_publish },
    { "level-drop-oldest", LEVELS | DROP, w_full, p_level, o_publish, e_publish },
    { "level-take", LEVELS | LEASE, w_six, p_warm, o_take3, NULL },
    { "level-take-again", LEVELS | LEASE, w_six_again, p_warm, o_take3, NULL },
    { "level-take-aged", LEVELS | AGED | LEASE, w_six_again, p_warm, o_take3, NULL },
    { "level-nack", LEVELS | LEASE, w_six, p_take2, o_nack0, NULL },
    { "level-timer-fire", LEVELS, w_six_delayed, p_find_delayed, o_fire, NULL },
    { "level-peek", LEVELS | LEASE, w_six_again, p_peek, o_peek, NULL },
    { "level-purge", LEVELS, w_six_again, p_warm, o_purge, e_purge },
    { "level-depth", LEVELS, w_six_again, p_open, o_depth, NULL },
    { "level-recover", LEVELS | DEAD_X | SLOW, w_x_lanes, p_warm, o_recover, NULL },
    { "key-publish", KEYED, w_three, p_msg, o_publish, e_publish },
    { "key-publish-wake", KEYED | WAITER, w_empty, p_msg, o_publish, e_publish },
    { "key-publish-full", KEYED, w_full, p_msg, o_publish, e_publish },
    { "key-drop-oldest", KEYED | DROP, w_full, p_msg, o_publish, e_publish },
    { "key-publish-id", KEYED | DEDUP, w_three, p_dedup, o_publish, e_dedup },
    { "key-expire-backoff", KEYED | LEASE | WAITER, w_backoff_expired, p_warm, o_expire_scan, NULL },
    { "key-take", KEYED | LEASE, w_six, p_warm, o_take, NULL },
    { "key-take-batch", KEYED | LEASE, w_six, p_warm, o_take3, NULL },
    { "key-take-again", KEYED | LEASE, w_six_again, p_warm, o_take3, NULL },
    { "key-take-blocked", KEYED | LEASE, w_six_delayed, p_warm, o_take3, NULL },
    { "key-take-ahead", KEYED | LEASE, w_six, p_warm, o_ahead, NULL },
    { "key-take-expired", KEYED | LEASE, w_expired, p_warm, o_take, NULL },
    { "key-ack", KEYED | LEASE, w_six, p_take1, o_read_ack, e_ack },
    { "key-ack-batch", KEYED | LEASE, w_six, p_take2, o_ack2, e_ack2 },
    { "key-ack-wake", KEYED | LEASE | WAITER, w_six, p_take1, o_read_ack, e_ack },
    { "key-nack", KEYED | LEASE, w_six, p_take1, o_nack0, NULL },
    { "key-nack-backoff", KEYED | LEASE | BACKOFF, w_six, p_take1, o_nack, NULL },
    { "key-reject", KEYED | LEASE, w_six, p_take1, o_reject, NULL },
    { "key-reject-gone", KEYED | LEASE | NO_DLQ, w_six, p_take1, o_reject, e_gone },
    { "key-release", KEYED | LEASE, w_six, p_take1, o_release, NULL },
    { "key-settle-viewed", KEYED | LEASE, w_six, p_take1, o_settle_viewed, e_settle_viewed },
    { "key-purge", KEYED, w_six_again, p_take1, o_purge, e_purge },
    { "key-timer-fire", KEYED, w_six_delayed, p_find_delayed, o_fire, NULL },
    { "key-lease-expiry", KEYED | LEASE | LIVE_X, w_x_lease, p_warm, o_expire, NULL },
    { "key-recover", KEYED | DEAD_X | SLOW, w_x_lanes, p_warm, o_recover, NULL },
    { "key-create", KEYED | SLOW, w_three, p_warm, o_create_key, NULL },
    { "strict-take", STRICT | LEASE, w_one, p_warm, o_take3, NULL },
    { "strict-ack", STRICT | LEASE, w_six, p_take1, o_read_ack, e_ack },
    { "strict-nack", STRICT | LEASE, w_six, p_take1, o_nack0, NULL },
    { "strict-recover", STRICT | DEAD_X | SLOW, w_x_strict, p_warm, o_recover, NULL },
};

/* ---- targeted: two processes, one interleaving ---- */
static scenario T = { "", 0, NULL, NULL, NULL, NULL };
#define TARGET(label) \
    do { \
        printf("  VIOLATION %s: %s (%s:%d)\n", T.name, label, __FILE__, __LINE__); \
        bad = 1; \
    } while (0)

/* A waiter stopped at each instruction before it sleeps; a message comes; it must be awake well before its slice is over. */
static void o_wait_long(plane *p) { p->rc = shmq_wait_items(&p->ctx, p->q, shmq_now() + UINT64_C(900000000), 0); }
static int t_wait(void) {
    int bad = 0;
    T = (scenario){ "no-lost-wake-up", 0, w_empty, p_warm, o_wait_long, NULL };
    W.s = &T;
    build();
    start_child(&W.a, body_a);
    W.pages.n = 0;
    find_pages();
    seg_save(&W.pages, &seg_base);
    own_save();
    long most = 0;
    static vm_snap start;
    vm_save(&W.a, &start);
    for (long n = 0; !bad && most == 0; n++) {
        struct user_regs_struct r;
        ptrace(PTRACE_GETREGS, W.a.pid, 0, &r);
        uint8_t *code = (uint8_t *)(uintptr_t)r.rip;   /* the same program at the same place in both processes; so is the vdso */
        if (code[0] == 0x0f && code[1] == 0x05 && r.rax == 202) most = n;   /* about to sleep */
        seg_save(&W.pages, &seg_a);
        vm_save(&W.a, &snap_a);
        if (put(W.p, W.q, 20, 64, 0, 0) != 0) TARGET("publish");
        double t0 = now_s();
        if (vm_run(&W.a) != 0 || W.a.p->phase != VM_DONE) TARGET("the waiter ended");
        if (now_s() - t0 > 0.4 || W.a.p->rc != 0) {
            TARGET("the waiter slept although a message was there");
            printf("      stopped after instruction %ld, slept %.3f s, rc %ld\n", n, now_s() - t0, (long)W.a.p->rc);
        }
        vm_restore(&W.a, &snap_a);
        seg_restore(&W.pages, &seg_a);
        own_restore();
        if (most == 0 && vm_step(&W.a)) TARGET("the waiter ended");
    }
    snap_a = start;
    vm_restore(&W.a, &snap_a);
    seg_restore(&W.pages, &seg_base);
    if (most == 0) TARGET("the waiter never slept");
    /* really asleep, then a message; and really asleep, then a death */
    for (int how = 0; how < 2 && !bad; how++) {
        int status;
        ptrace(PTRACE_CONT, W.a.pid, 0, 0);
        usleep(20000);
        if (waitpid(W.a.pid, &status, WNOHANG | __WALL) != 0) {
            TARGET("a waiter on an empty queue does not sleep");
            break;
        }
        if (how == 0) put(W.p, W.q, 20, 64, 0, 0);
        else {
            shmq_ctx *x = own_ctx();
            attach_own(x);
            int o = shmq_attach(x, SHMQ_CLIENT);
            if (o < 0 || shmq_owner_declare(W.p, (uint32_t)o, x->self_word) != 0) TARGET("declare");
            evt_before();
            shmq_recover(W.p, (uint32_t)o);
        }
        double t0 = now_s();
        vm_wait(&W.a, &status);
        if (now_s() - t0 > 0.4) TARGET(how ? "a death does not wake a sleeper" : "a message does not wake a sleeper");
        vm_restore(&W.a, &snap_a);
        seg_restore(&W.pages, &seg_base);
        own_restore();
    }
    demolish();
    return bad;
}

/* All hints of a class are in a magazine: "no memory" only after a look at every block. */
static int t_nomem(void) {
    int bad = 0;
    T = (scenario){ "scan-before-no-memory", 0, NULL, NULL, NULL, NULL };
    W.s = &T;
    world_limit = 1u << 20;
    build();
    world_limit = 1u << 28;
    shmq_ctx *y = own_ctx();
    attach_own(y);
    if (shmq_attach(y, SHMQ_CLIENT) < 0) TARGET("attach");
    shmq_delivery d;
    for (int round = 0; round < 40; round++)   /* the hints of every class of 64 KiB and above end in the parent's magazines */
        for (uint32_t size = 20000; size < 900000; size = size * 4)
            if (put(W.p, W.q2, 5, size, 0, 0) == 0 && shmq_take(W.p, W.q2, 1, 0, &d) == 1) shmq_ack(W.p, &d, 1);
    for (unsigned k = 5; k < 8; k++) {
        uint64_t n = ld_acq(&W.p->header->hwm[k].n);
        for (uint64_t i = 0; i < n; i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i;
            and64(&W.p->l0[idx / 64], ~(UINT64_C(1) << (idx % 64)));
        }
    }
    for (uint32_t size = 20000; size < 900000; size = size * 4) {
        int rc = put(y, W.q2, 5, size, 0, 0);
        if (rc != 0) {
            TARGET("no memory, but free blocks exist");
            printf("      size %u: rc %d\n", size, rc);
        } else if (shmq_take(y, W.q2, 1, 0, &d) != 1 || shmq_ack(y, &d, 1) != 1) TARGET("take");
    }
    demolish();
    return bad;
}

/* A detach leaves nothing behind: no open loan, no message taken for good and not acked. */
static int t_detach(void) {
    int bad = 0;
    T = (scenario){ "detach-leaves-nothing", 0, NULL, NULL, NULL, NULL };
    W.s = &T;
    build();
    shmq_ctx *y = own_ctx();
    attach_own(y);
    shmq_delivery d, e;
    shmq_audit_report a;
    if (shmq_attach(y, SHMQ_CLIENT) < 0) TARGET("attach");
    if (put(W.p, W.q, 1, 64, 0, 0) != 0) TARGET("publish");
    if (shmq_take(y, W.q, 1, SHMQ_TAKE_FREE, &d) != 1 || shmq_loan(y, W.q2, 64, 0, &e) != 0) TARGET("take, loan");
    if (shmq_detach(y) != 0) TARGET("detach");
    if (shmq_audit(W.p, &a) != 0 || a.orphans) {
        TARGET("orphans after a clean detach");
        printf("      %lu orphans: NEW %lu OWNED %lu\n", a.orphans, a.states[SHMQ_NEW], a.states[SHMQ_OWNED]);
    }
    demolish();
    return bad;
}

static const struct {
    const char *name;
    int (*run)(void);
} TARGETED[] = {
    { "no-lost-wake-up", t_wait },
    { "scan-before-no-memory", t_nomem },
    { "detach-leaves-nothing", t_detach },
};
