/* sweep_ends.h: of the sweep: what may come out, on top of "each message of the world exactly once". A part of sweep.c, for its size. */

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
