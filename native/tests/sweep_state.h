/* sweep_state.h: of the sweep: the messages of a world, what others do to it, and whether its end is right. A part of sweep.c, for its size. */

/* ---- messages ---- */
static void fill(uint8_t *b, uint32_t tag, uint32_t size) {
    memcpy(b, &tag, 4);
    memcpy(b + 4, &size, 4);
    for (uint32_t i = 8; i < size; i++) b[i] = (uint8_t)(tag * 31 + i * 7);
}
static uint32_t tag_of(const shmq_delivery *d) {
    uint32_t tag = 0, size = 0;
    if (d->size >= 8) {
        memcpy(&tag, d->data, 4);
        memcpy(&size, d->data + 4, 4);
    }
    if (tag == 0 || tag >= TAGS || size != d->size) return 0;
    for (uint32_t i = 8; i < size; i++)
        if (d->data[i] != (uint8_t)(tag * 31 + i * 7)) return 0;
    return tag;
}
static int meta_right(const shmq_delivery *d, uint32_t tag) {
    return d->meta_size == 0 || (d->meta_size == 5 && memcmp(d->meta, "meta", 4) == 0 && d->meta[4] == tag);
}
/* Queues of several levels or keys: which one a tag has. */
static uint32_t level_of_tag(uint32_t tag) { return W.s->flags & LEVELS ? tag % 3 : 0; }
static const uint8_t *key_of_tag(uint32_t tag) {
    static const uint8_t keys[TAGS] = { 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63 };
    return &keys[tag < 40 ? tag % 3 : tag];
}
static int put(shmq_ctx *c, uint64_t q, uint32_t tag, uint32_t size, int meta, uint64_t delay) {
    uint8_t *b = malloc(size), h[5] = "meta";
    h[4] = (uint8_t)tag;
    fill(b, tag, size);
    shmq_message m = { .data = b,
                       .size = size,
                       .meta = meta ? h : NULL,
                       .meta_size = meta ? 5 : 0,
                       .delay_ns = delay,
                       .priority = level_of_tag(tag),
                       .key = key_of_tag(tag),
                       .key_size = 1 };
    int rc = shmq_publish(c, q, &m);
    free(b);
    return rc;
}
static int put_id(shmq_ctx *c, uint64_t q, uint32_t tag) { /* equal tags have equal ids */
    uint8_t b[64];
    fill(b, tag, 64);
    shmq_message m = { .data = b, .size = 64, .dedup = &tag, .dedup_size = 4 };
    return shmq_publish(c, q, &m);
}
static void child_message(plane *p, uint32_t i, uint32_t tag, uint32_t size, int meta) {
    uint8_t *b = size <= 112 ? p->bytes[i] : p->big;
    fill(b, tag, size);
    memcpy(&p->bytes[i][116], "meta", 4);
    p->bytes[i][120] = (uint8_t)tag;
    p->m[i] = (shmq_message){ .data = b,
                              .size = size,
                              .meta = meta ? &p->bytes[i][116] : NULL,
                              .meta_size = meta ? 5 : 0,
                              .priority = level_of_tag(tag),
                              .key = key_of_tag(tag),
                              .key_size = 1 };
}

/* ---- stricter than shmq_audit: every slot is where its block says, and no hole lies between filled positions ---- */
static void audit_ring_strictly(shmq_ctx *c, local_ring *r, int quiet) {
    uint64_t tail = UINT64_MAX, top = 0, any = 0;
    for (uint64_t i = 0; i <= r->mask; i++) {
        uint64_t s = ld_acq(&r->slots[i]), pos = slot_round(s) << r->lg | i;
        if (slot_is_empty(s)) {
            if (pos < tail) tail = pos;
            continue;
        }
        uint32_t idx = slot_idx(s);
        MUST(block_known(c, idx), "slot %lu of ring %u names no block", i, r->ring);
        shmq_block *b = block_at(c, idx);
        unsigned st = ctl_state(ld_acq(&b->ctl));
        if (quiet) MUST(st == SHMQ_READY, "slot %lu of ring %u names block %u in state %u", i, r->ring, idx, st);
        if (st == SHMQ_READY)
            MUST(ld_rlx(&b->pos) == pos_make(r->ring, pos), "block %u is READY for another place than slot %lu of ring %u", idx, i,
                 r->ring);
        if (!any++ || pos > top) top = pos;
    }
    MUST(!any || tail == UINT64_MAX || top < tail, "ring %u: filled position %lu beyond empty position %lu", r->ring, top, tail);
}
static void audit(int quiet) {
    shmq_audit_report a;
    int rc = shmq_audit(W.p, &a);
    MUST(rc == 0, "audit says %d", rc);
    MUST(a.orphans == 0, "%lu orphans", a.orphans);
    MUST(a.unlinked == 0, "%lu unlinked", a.unlinked);
    MUST(a.dangling == 0, "%lu dangling", a.dangling);
    MUST(a.limbo == 0, "%lu in limbo for nobody", a.limbo);
    MUST(a.attached == 0, "%lu attached to nothing", a.attached);
    MUST(a.fans == 0, "%lu parents without children, or children without a parent", a.fans);
    MUST(a.held == 0, "%lu held entries that name no block", a.held);
    MUST(a.bad == 0 && a.states[SHMQ_BAD] == 0 && ld32_acq(&W.p->header->corrupt) == 0, "bad words");
    if (quiet)
        MUST(a.states[SHMQ_NEW] + a.states[SHMQ_OWNED] + a.states[SHMQ_MOVE] == 0, "blocks of nobody in flight: NEW %lu OWNED %lu MOVE %lu",
             a.states[SHMQ_NEW], a.states[SHMQ_OWNED], a.states[SHMQ_MOVE]);
    uint32_t queues = ld32_acq(&W.p->header->queue_hwm);
    for (uint32_t i = 0; i < queues; i++)
        for (unsigned lane = 0; lane < SHMQ_LANES; lane++) {
            local_ring *r = queue_ring(W.p, i * SHMQ_LANES + lane);
            if (r) audit_ring_strictly(W.p, r, quiet);
        }
}

/* ---- what others do ---- */
static int take_one(uint64_t q, int order) {
    shmq_delivery d;
    int rc = shmq_take(W.p, q, 1, 0, &d);
    if (rc == SHMQ_EMPTY || rc == SHMQ_CLOSED || rc == SHMQ_GONE) return 0;
    MUST(rc == 1, "take says %d", rc);
    uint32_t tag = tag_of(&d);
    MUST(tag, "a message with wrong bytes (block %u, size %u)", d.idx, d.size);
    MUST(meta_right(&d, tag), "message %u has wrong headers", tag);
    MUST(d.attempt >= 1 && d.attempt <= 3, "message %u: attempt %u", tag, d.attempt);
    MUST(d.extra_size == 0 || (d.extra_size == sizeof WHY && memcmp(d.extra, WHY, sizeof WHY) == 0), "message %u has a wrong error text",
         tag);
    MUST(!(W.expired >> tag & 1) || q != W.q, "message %u was delivered past its time", tag);
    W.got[tag]++;
    /* what waited for room: 31 to 34 from the start, 35 to 39 from the operation on; a turn is taken from the living after a second */
    if (tag > 30 && tag < 40 && !W.disorder && !d.redelivered && (tag < 35 || strcmp(W.mode, "stop") != 0)
        && shmq_now() - W.begun < 900000000) {
        MUST((int)tag > W.last_parked, "message %u after %d, which came later to wait for room", tag, W.last_parked);
        W.last_parked = (int)tag;
    }
    int ordered = (W.s->flags & (KEYED | STRICT)) != 0, *last = &W.last_tag[W.s->flags & (LEVELS | KEYED) ? tag % 3 : 0];
    if (order && (tag < 10 || (tag == 20 && !(W.s->flags & LEVELS))) && ((d.attempt == 1 && !d.redelivered) || ordered) && !d.reason) {
        MUST((int)tag > *last, "message %u after %d", tag, *last);
        *last = (int)tag;
    }
    rc = shmq_ack(W.p, &d, 1);
    MUST(rc == 1, "ack says %d", rc);
    return 1;
}
static void put_tag(uint64_t q, uint32_t tag, int refusable) {
    int rc = put(W.p, q, tag, 64, tag & 1, 0);
    if (refusable && (rc == SHMQ_FULL || rc == SHMQ_CLOSED || rc == SHMQ_GONE)) return;
    MUST(rc == 0, "publish says %d", rc);
    W.lo[tag]++;
    W.hi[tag]++;
}
static int fire_delayed(void) {
    int any = 0;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) {
        uint64_t n = ld_acq(&W.p->header->hwm[k].n);
        for (uint64_t i = 0; i < n; i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i;
            uint64_t due;
            uint64_t c = ld_acq(&block_at(W.p, idx)->ctl);
            if (ctl_state(c) != SHMQ_DELAYED || (ctl_flags(c) & SHMQ_FLAG_PARKED)) continue;
            st_rlx(&block_at(W.p, idx)->due_ns, 1);
            int rc = shmq_timer_fire(W.p, idx, shmq_now(), &due);
            MUST(rc == SHMQ_OK || rc == SHMQ_FULL, "timer_fire says %d", rc);
            any = 1;
        }
    }
    if (W.s->flags & TIGHT) shmq_bytes_resync(W.p, W.q); /* a death lets it drift */
    int sent = shmq_parked_sweep(W.p);
    MUST(sent >= 0, "parked_sweep says %d", sent);
    return any + sent;
}
static void drain(int order) {
    for (int turn = 0;; turn++) {
        MUST(turn < 100, "draining does not end");
        int n = 0;
        uint64_t qs[3] = { W.q, W.q2, W.dlq };
        for (int i = 0; i < 3; i++)
            while (qs[i] && take_one(qs[i], order && i == 0)) MUST(++n < 1000, "endless messages");
        n += fire_delayed();
        if (n == 0) return;
    }
}
static void nothing_left_behind(uint64_t q) { /* take said EMPTY: then no slot may hold something takeable */
    for (uint32_t i = (uint32_t)(q & 0xffff), once = 1; once; once = 0)
        for (unsigned lane = 0; lane <= SHMQ_LANE_AGAIN && !(W.s->flags & (KEYED | STRICT)); lane++) {
            local_ring *r = queue_ring(W.p, i * SHMQ_LANES + lane);
            for (uint64_t j = 0; r && j <= r->mask; j++) {
                uint64_t s = ld_acq(&r->slots[j]);
                if (slot_is_empty(s)) continue;
                unsigned st = ctl_state(ld_acq(&block_at(W.p, slot_idx(s))->ctl));
                MUST(st != SHMQ_READY && st != SHMQ_NEW && st != SHMQ_MOVE, "EMPTY, but slot %lu of ring %u holds a message in state %u", j,
                     r->ring, st);
            }
        }
}
static void others_go_on(void) {
    int refusable = (W.s->flags & CLOSES) != 0;
    while (take_one(W.q, 0)) {}
    if (shmq_depth(W.p, W.q) >= 0) nothing_left_behind(W.q); /* it may be being deleted */
    for (uint32_t t = 40; t < 44; t++) put_tag(W.q, t, refusable || (W.s->flags & (DROP | STRICT | NARROW | TIGHT)));
    for (int i = W.s->flags & TIGHT ? 1 : 0; i < 2; i++)
        MUST(take_one(W.q, 0) || refusable || W.stuck || (W.s->flags & STRICT), "nothing to take while another process is stopped");
    put_tag(W.q2, 44, refusable);
    if (W.s->flags & DEDUP) { /* the very id that the stopped one may have claimed; whoever was first, there is one of it */
        int rc = put_id(W.p, W.q, 20);
        MUST(rc == 0, "publish of an id says %d while another process is stopped", rc);
        if (!(W.s->flags & TOPIC)) W.lo[20] = W.hi[20] = 1;
    }
}
static void recycle(int leave) { /* the same blocks again and again; left FREE, or READY in another queue */
    int refusable = (W.s->flags & (CLOSES | DROP | NARROW | TIGHT)) != 0;
    for (uint32_t t = 45; t < 48; t++) {
        put_tag(W.q, t, refusable);
        while (take_one(W.q, 0)) {}
    }
    for (uint32_t t = 48; leave && t < 54; t++) put_tag(W.q2, t, refusable);
}

/* Write over every small FREE block: whoever still reads one of them has to notice. */
static void scribble(void) {
    for (unsigned k = 0; k < SHMQ_CLASSES && W.p->classes[k].stride < SHMQ_PAGE; k++)
        for (uint64_t i = 0; i < ld_acq(&W.p->header->hwm[k].n); i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i;
            shmq_block *b = block_at(W.p, idx);
            uint64_t c = ld_acq(&b->ctl), mine = ctl_make(SHMQ_NEW, 0, W.p->self, ctl_gen(c) + 1);
            if (ctl_state(c) != SHMQ_FREE || !cas(&b->ctl, c, mine)) continue;
            if ((ld32_rlx(&b->extra) & 255) == 0) memset(payload_of(W.p, idx), 0xee, W.p->classes[k].stride);
            MUST(cas(&b->ctl, mine, ctl_make(SHMQ_FREE, 0, 0, ctl_gen(mine))), "a block of mine was taken away");
            arena_hint(W.p, idx); /* who lost it to us meanwhile has forgotten it */
        }
}

/* ---- checking the end ---- */
static void all_free(void) {
    shmq_audit_report a;
    if (W.s->flags & CLOSES) { /* a deletion that was cut off is finished by the next who collects */
        int rc = shmq_queue_collect(W.p);
        MUST(rc >= 0, "collect says %d", rc);
        for (uint32_t i = 0; i < ld32_acq(&W.p->header->queue_hwm); i++)
            MUST(queue_state(ld_acq(&W.p->queues[i].word)) != SHMQ_Q_DELETING, "queue %u stays DELETING", i);
    }
    audit(1);
    arena_return_all(W.p);
    MUST(shmq_audit(W.p, &a) == 0, "audit");
    uint64_t sum = 0, made = 0;
    for (int i = 0; i < 16; i++) sum += a.states[i];
    for (unsigned k = 0; k < SHMQ_CLASSES; k++) made += ld_acq(&W.p->header->hwm[k].n);
    MUST(sum == made, "%lu blocks of %lu", sum, made);
    MUST(a.states[SHMQ_FREE] == made,
         "leaked: of %lu blocks only %lu are FREE (NEW %lu READY %lu OWNED %lu MOVE %lu DELAYED %lu LIMBO %lu ATTACHED %lu FAN %lu)", made,
         a.states[SHMQ_FREE], a.states[SHMQ_NEW], a.states[SHMQ_READY], a.states[SHMQ_OWNED], a.states[SHMQ_MOVE], a.states[SHMQ_DELAYED],
         a.states[SHMQ_LIMBO], a.states[SHMQ_ATTACHED], a.states[SHMQ_FAN]);
    MUST(a.unhinted == 0, "%lu free blocks without hint", a.unhinted);
}
static void counts(plane *p, int finished) {
    if (W.s->expect) W.s->expect(p, finished);
    for (int t = 1; t < TAGS; t++)
        MUST(W.got[t] >= W.lo[t] && W.got[t] <= W.hi[t], "message %d seen %d times instead of %d..%d (op %s, rc %ld)", t, W.got[t], W.lo[t],
             W.hi[t], finished ? "returned" : "in flight", (long)p->rc);
}
static void capacity(void) {
    if (W.s->flags & (NO_CAP | CLOSES)) return;
    for (int round = 0; round < 2; round++) {
        int want = (int)W.p->local[W.q & 0xffff].max_depth;
        memset(W.got, 0, sizeof W.got);
        for (int i = 0; i < want; i++) {
            int rc = put(W.p, W.q, 55, 64, 0, 0);
            MUST(rc == 0, "an empty queue takes %d messages only (%d)", i, rc);
        }
        if (!(W.s->flags & DROP)) MUST(put(W.p, W.q, 55, 64, 0, 0) == SHMQ_FULL, "a queue takes more than max_depth");
        for (int i = 0; i < want; i++) MUST(take_one(W.q, 0), "a message of a full queue is missing");
        MUST(!take_one(W.q, 0), "one message too many");
    }
}

/* Declared dead: the record of that ctx, or (attach) any that this pid left behind. */
static void declare(vm *v, int must) {
    int n = 0;
    for (uint32_t i = 0; i < 16; i++) {
        uint64_t w = ld_acq(&W.p->owners[i].word);
        if (owner_state(w) != SHMQ_OWNER_ALIVE || owner_pid(w) != (uint32_t)v->pid) continue;
        int rc = shmq_owner_declare(W.p, i, w);
        MUST(rc == 0, "declare says %d", rc);
        n++;
    }
    MUST(n || !must, "no record of the dead");
}
static void recover_all(shmq_ctx *c, int downwards) {
    for (uint32_t j = 0; j < 16; j++) {
        uint32_t i = downwards ? 15 - j : j;
        if (owner_state(ld_acq(&c->owners[i].word)) != SHMQ_OWNER_DEAD) continue;
        int rc = shmq_recover(c, i);
        MUST(rc == 0, "recover says %d", rc);
        MUST(owner_state(ld_acq(&c->owners[i].word)) == SHMQ_OWNER_FREE, "record %u not free after its recovery", i);
    }
}
static void evt_before(void) {
    for (uint32_t i = 0; i < ld32_acq(&W.p->header->queue_hwm) && i < 8; i++) W.evt[i] = ld32_acq(&W.p->queues[i].evt);
}
static void evt_after(void) {
    for (uint32_t i = 0; i < ld32_acq(&W.p->header->queue_hwm) && i < 8; i++)
        if (queue_state(ld_acq(&W.p->queues[i].word)) != SHMQ_Q_FREE)
            MUST(W.evt[i] != ld32_acq(&W.p->queues[i].evt), "a death was not announced on queue %u", i);
}
static void timers_known(void) { /* each DELAYED block is in the mailbox, or the sidecar is told to look at all; or it is parked */
    int lost = ld32_acq(&W.p->header->timer_lost) != 0;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++)
        for (uint64_t i = 0; i < ld_acq(&W.p->header->hwm[k].n); i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i, at;
            uint64_t c = ld_acq(&block_at(W.p, idx)->ctl);
            if (ctl_state(c) != SHMQ_DELAYED) continue;
            if (ctl_flags(c) & SHMQ_FLAG_PARKED) { /* waits for room, not for a time: its queue says so (park.c, I1) */
                unsigned home = fate_home(ld_acq(&block_at(W.p, idx)->fate));
                MUST(home < 8 && (ld32_acq(&W.p->queues[home].parked) & 1), "parked block %u is known to no queue", idx);
                continue;
            }
            if (lost) continue;
            for (at = 0; at < SHMQ_TIMERS && ld_acq(&W.p->timers[at]) != idx + 1; at++) {}
            MUST(at < SHMQ_TIMERS, "DELAYED block %u is known to no sidecar", idx);
        }
}
static uint64_t size_of_first(uint64_t q) { /* of those that wait there */
    uint64_t ticket = UINT64_MAX, size = 0;
    for (unsigned k = 0; k < SHMQ_CLASSES; k++)
        for (uint64_t i = 0; i < ld_acq(&W.p->header->hwm[k].n); i++) {
            uint32_t idx = W.p->classes[k].first + (uint32_t)i;
            shmq_block *b = block_at(W.p, idx);
            uint64_t c = ld_acq(&b->ctl), t = pos_position(ld_rlx(&b->pos));
            if (ctl_state(c) != SHMQ_DELAYED || !(ctl_flags(c) & SHMQ_FLAG_PARKED) || fate_home(ld_rlx(&b->fate)) != (q & 0xffff)
                || t >= ticket)
                continue;
            ticket = t;
            size = size_at(W.p, b);
        }
    return size;
}
/* Nobody waits where there is room, now that the dead are recovered; and as many do as should. */
static void waiting_right(int finished) {
    if (!W.waits) return;
    if (W.s->flags & TIGHT) {
        shmq_bytes_resync(W.p, W.q);
        shmq_parked_sweep(W.p);
    }
    int n = 0;
    uint64_t qs[3] = { W.q, W.q2, W.dlq };
    for (int i = 0; i < 3; i++) {
        shmq_census c;
        if (shmq_queue_census(W.p, qs[i], &c) != SHMQ_OK || c.parked == 0) continue;
        n += (int)c.parked;
        local_queue *q = &W.p->local[qs[i] & 0xffff];
        if (q->max_bytes)
            MUST(ld_rlx(&q->shared->bytes) + size_of_first(qs[i]) > q->max_bytes, "%lu wait for room, and of %lu bytes %lu are used",
                 c.parked, q->max_bytes, ld_rlx(&q->shared->bytes));
        else
            MUST(ring_depth(&q->work) >= q->max_depth, "%lu wait for room, and there are %lu of %lu", c.parked, ring_depth(&q->work),
                 q->max_depth);
    }
    if (strcmp(W.mode, "others") == 0) return;
    MUST(n >= W.waits_least && n <= W.waits_most && (!finished || n == W.waits_after),
         "%d wait for room instead of %d to %d, in the end %d", n, W.waits_least, W.waits_most, W.waits_after);
}
static int died_attached;
static void x_leaves(void) {
    if (!(W.s->flags & LIVE_X)) return;
    int rc = shmq_detach(W.x);
    MUST(rc == 0, "detach says %d", rc);
}

static void check_after_death(int finished, int downwards) {
    int some = died_attached;
    evt_before();
    recover_all(W.p, downwards);
    if (some) evt_after();
    waiting_right(finished);
    audit(!(W.s->flags & LIVE_X));
    timers_known();
    drain(1);
    x_leaves();
    audit(1);
    drain(1);
    counts(W.a.p, finished);
    all_free();
    capacity();
    all_free();
}
