/* sweep_ops.h: of the sweep: the operations, and the table of all: the world before, the preparation, the operation, what may come out. */
#include "sweep_worlds.h"
#include "sweep_prepare.h"
#include "sweep_ends.h"

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
static void wait_many(plane *p, uint32_t what) {   /* and for what never comes */
    shmq_wait_set set = {
        .n = 2, .one = { { .ctx = &p->ctx, .queue = p->q, .what = SHMQ_FOR_CALL }, { .ctx = &p->ctx, .queue = p->q, .what = what } }
    };
    p->rc = shmq_wait_many(&set, 0, shmq_now() + 2000000);
}
static void o_wait_many(plane *p) { wait_many(p, SHMQ_FOR_ITEMS); }
static void o_wait_many_space(plane *p) { wait_many(p, SHMQ_FOR_SPACE); }
static void o_pass(plane *p) { p->rc = shmq_pass(&p->ctx, p->q, SHMQ_FOR_ITEMS); }
static void o_depth(plane *p) { p->rc = shmq_depth(&p->ctx, p->q); }
static void o_resync(plane *p) { p->rc = shmq_bytes_resync(&p->ctx, p->q); }

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
    { "wait-many", SLOW | NOSTOP, w_empty, p_warm, o_wait_many, NULL },
    { "wait-many-space", SLOW | NOSTOP, w_full, p_warm, o_wait_many_space, NULL },
    { "wait-many-waiter", SLOW | NOSTOP | WAITER, w_empty, p_warm, o_wait_many, NULL },
    { "wait-many-steals", LIVE_X, w_x_ahead, p_warm, o_wait_many, NULL },
    { "pass", WAITER, w_three, p_warm, o_pass, NULL },
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
