/* sweep_prepare.h: of the sweep: what the process does before the operation that is swept. A part of sweep.c, for its size. */

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
