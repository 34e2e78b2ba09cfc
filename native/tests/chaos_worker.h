/* chaos_worker.h: of the chaos: messages, and what a producer, a consumer, a burier and a janitor do. A part of chaos.c, for its size. */

/* ---- messages: number, producer, size, check, then bytes that follow from them ---- */
static uint32_t mix(uint64_t uid, uint32_t i) { return (uint32_t)((uid * 0x9e3779b97f4a7c15u + i * 0xc2b2ae35u) >> 24); }
static void write_message(uint8_t *b, uint64_t uid, uint32_t slot, uint32_t size) {
    memcpy(b, &uid, 8);
    memcpy(b + 8, &slot, 4);
    memcpy(b + 12, &size, 4);
    uint64_t check = uid * 31 + slot * 7 + size;
    memcpy(b + 16, &check, 8);
    for (uint32_t i = HEAD; i < size; i++) b[i] = (uint8_t)mix(uid, i);
}
static uint64_t read_message(const shmq_delivery *d, uint32_t *slot) {   /* 0 = torn */
    uint64_t uid, check;
    uint32_t size;
    if (d->size < HEAD) return 0;
    memcpy(&uid, d->data, 8);
    memcpy(slot, d->data + 8, 4);
    memcpy(&size, d->data + 12, 4);
    memcpy(&check, d->data + 16, 8);
    if (size != d->size || check != uid * 31 + *slot * 7 + size || *slot >= SLOTS) return 0;
    for (uint32_t i = HEAD; i < size; i++)
        if (d->data[i] != (uint8_t)mix(uid, i)) return 0;
    if (d->meta_size && (d->meta_size != 8 || memcmp(d->meta, &uid, 8))) return 0;
    return uid;
}
/* Which message that is: 2 uid, or 2 uid + 1; 0 = none. */
static uint64_t seen(const shmq_delivery *d, uint32_t *slot) {
    uint64_t uid = read_message(d, slot), n = 2 * uid + ((d->reason ? d->origin : d->queue) == (qref[SUB_KEYS] & 0xffff));
    if (uid == 0) {
        S->torn++;
        return 0;
    }
    if (uid >= MOST || !notes[n].pub_invoked) {
        S->nowhere++;
        return 0;
    }
    notes[n].delivered++;
    return n;
}
static uint32_t level_of_queue(uint32_t qi, uint64_t n) { return qi == LEVELS || qi == SUB_LEVELS ? (uint32_t)(n / 2 % 3) : 0; }

/* ---- workers ---- */
static shmq_ctx *attach(void) {
    shmq_ctx *c = shmq_ctx_new();
    if (!c || shmq_map_fd(c, fd, total) != 0 || shmq_verify(c) != 0) _exit(3);
    int rc = shmq_attach(c, SHMQ_CLIENT);
    if (rc < 0) {
        STRANGE(rc);
        _exit(3);
    }
    S->attached++;
    return c;
}

/* a key for each producer: its order holds there too */
static const uint8_t KEY[SLOTS] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
static void invoked(uint64_t uid, uint32_t to, uint32_t slot, int yes) {
    notes[2 * uid].life = notes[2 * uid + 1].life = S->life[slot];
    notes[2 * uid].pub_invoked = (uint8_t)yes;
    if (to == TOPIC) notes[2 * uid].told = notes[2 * uid + 1].pub_invoked = (uint8_t)yes;
}
static void returned(uint64_t uid, uint32_t to) {
    notes[2 * uid].pub_returned = 1;
    if (to == TOPIC) {
        notes[2 * uid + 1].pub_returned = 1;
        S->told++;
    }
    S->published++;
}
static int publish_to(shmq_ctx *c, uint32_t to, shmq_message *m) {
    return to == TOPIC ? shmq_topic_publish(c, qref[TOPIC], m) : shmq_publish(c, qref[to], m);
}
static void wait_room(shmq_ctx *c, uint32_t to, uint32_t slot) {
    int rc = shmq_wait_space(c, to == TOPIC ? (uint64_t)shmq_topic_blocker(c, qref[TOPIC]) : qref[to], shmq_now() + 20000000, UINT64_MAX);
    if (rc != SHMQ_OK && rc != SHMQ_TIMEOUT && rc != SHMQ_INTR) STRANGE(rc);
    S->steps[slot]++;
}

/* Publish what S->open[slot] says, until it is published; whoever of this slot's processes began with it. */
static void publish_open(shmq_ctx *c, uint32_t slot, uint8_t *b) {
    uint64_t uid = S->open[slot].uid;
    uint32_t to = S->open[slot].to;
    write_message(b, uid, slot, S->open[slot].size);
    for (int twice = rnd(3) == 0; twice >= 0;) {
        shmq_message m = { .data = b,
                           .size = S->open[slot].size,
                           .dedup = &uid,
                           .dedup_size = 8,
                           .key = &KEY[slot],
                           .key_size = 1,
                           .priority = (uint32_t)(uid % 3),
                           .ttl_ns = uid % 16 ? 0 : 1000000 + uid % 20000000 };
        int rc = publish_to(c, to, &m);
        if (rc == SHMQ_OK && !notes[2 * uid].pub_returned) returned(uid, to);
        if (rc == SHMQ_FULL) wait_room(c, to, slot);
        else if (rc == SHMQ_OK) {
            S->ids++;
            twice--;
        } else if (rc == SHMQ_E_NOMEM) {
            S->nomem++;
            break;
        } else {
            STRANGE(rc);
            break;
        }
    }
    S->open[slot].uid = 0;
}

static void produce(shmq_ctx *c, uint32_t slot) {
    static uint8_t b[8][70000];
    shmq_message m[8];
    uint64_t uid[8];
    if (S->open[slot].uid) {
        S->again++;
        notes[2 * S->open[slot].uid].inherited = notes[2 * S->open[slot].uid + 1].inherited = 1;
        publish_open(c, slot, b[0]);
    }
    for (;;) {
        S->steps[slot]++;
        if (S->next > MOST - 100000) {
            usleep(1000);
            continue;
        }
        static const uint8_t TO[12] = { PLAIN, PLAIN, PLAIN, LEASED, LEASED, LEVELS, LEVELS, KEYS, KEYS, KEYS, TOPIC, TOPIC };
        uint32_t n = rnd(8) ? 1 : 1 + rnd(8), qi = TO[rnd(12)], how = rnd(20);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t size = HEAD + rnd(80), r = rnd(400);
            if (r == 0) size = 20000 + rnd(40000);
            else if (r < 20) size = 300 + rnd(5000);
            uid[i] = atomic_fetch_add(&S->next, 1);
            write_message(b[i], uid[i], slot, size);
            m[i] = (shmq_message){ .data = b[i],
                                   .size = size,
                                   .meta = rnd(4) ? NULL : &uid[i],
                                   .meta_size = 8,
                                   .key = &KEY[slot],
                                   .key_size = 1,
                                   .priority = (uint32_t)(uid[i] % 3) };
            if (m[i].meta == NULL) m[i].meta_size = 0;
            if (rnd(30) == 0) {
                m[i].delay_ns = 1000000 + rnd(20000000);
                notes[2 * uid[i]].delayed = notes[2 * uid[i] + 1].delayed = 1;
            }
            if (qi >= LEVELS && rnd(10) == 0) m[i].ttl_ns = 1000000 + rnd(20000000);
        }
        int rc;
        if (n == 1 && (qi == KEYS || qi == TOPIC) && m[0].delay_ns == 0 && rnd(2)) {   /* with an id */
            S->open[slot].to = qi;
            S->open[slot].size = (uint32_t)m[0].size;
            invoked(uid[0], qi, slot, 1);
            S->open[slot].uid = uid[0];
            publish_open(c, slot, b[0]);
            continue;
        }
        if (how == 0 && qi != TOPIC) {   /* written in place */
            shmq_delivery loan;
            rc = shmq_loan(c, qref[qi], m[0].size, 8, &loan);
            if (rc == 0) {
                S->loans++;
                write_message((uint8_t *)(uintptr_t)loan.data, uid[0], slot, (uint32_t)m[0].size);
                if (rnd(4) == 0) {
                    if ((rc = shmq_loan_abort(c, &loan)) != 0) STRANGE(rc);
                    continue;
                }
                invoked(uid[0], qi, slot, 1);
                rc = shmq_loan_publish(c, qref[qi], &loan, &m[0]);
                if (rc == 0) returned(uid[0], qi);
                else if (rc == SHMQ_FULL) {
                    invoked(uid[0], qi, slot, 0);
                    shmq_loan_abort(c, &loan);
                } else STRANGE(rc);
            } else if (rc == SHMQ_E_NOMEM) S->nomem++;
            else STRANGE(rc);
            continue;
        }
        for (uint32_t done = 0; done < n;) {
            for (uint32_t i = done; i < n; i++) invoked(uid[i], qi, slot, 1);
            rc = n == 1        ? publish_to(c, qi, &m[0])
                 : qi == TOPIC ? shmq_topic_publish_many(c, qref[qi], m + done, n - done)
                               : shmq_publish_many(c, qref[qi], m + done, n - done);
            if (n == 1 && rc == 0) rc = 1;
            if (rc > 0) {
                for (int i = 0; i < rc; i++) returned(uid[done + (uint32_t)i], qi);
                done += (uint32_t)rc;
            } else if (rc == SHMQ_FULL) wait_room(c, qi, slot);
            else if (rc == SHMQ_E_NOMEM) {
                S->nomem++;
                for (uint32_t i = done; i < n; i++) invoked(uid[i], qi, slot, 0);
                break;
            } else {
                STRANGE(rc);
                break;
            }
        }
        if (rnd(16) == 0) usleep(rnd(300));
    }
}

/* A new message in place of n: both or neither. 0 = it was not forwarded, and is still held (or stale). */
static int forward(shmq_ctx *c, shmq_delivery *d, uint64_t n, uint32_t slot) {
    static uint8_t b[70000];
    static const uint8_t TO[6] = { PLAIN, LEVELS, KEYS, KEYS, LEASED, TOPIC };
    if (S->next > MOST - 100000) return 0;
    uint64_t uid = atomic_fetch_add(&S->next, 1);
    uint32_t to = TO[rnd(6)], size = d->size < sizeof b ? d->size : HEAD;
    write_message(b, uid, slot, size);
    shmq_message m = { .data = b,
                       .size = size,
                       .key = &KEY[slot],
                       .key_size = 1,
                       .priority = (uint32_t)(uid % 3),
                       .dedup = rnd(2) ? &uid : NULL,
                       .dedup_size = 8,
                       .ttl_ns = rnd(20) ? 0 : 1000000 + rnd(20000000) };
    notes[2 * uid].parent = (uint32_t)n + 1;
    invoked(uid, to, slot, 1);
    int rc = shmq_forward(c, d, qref[to], &m);
    if (rc == SHMQ_OK) {
        returned(uid, to);
        S->forwards++;
        S->forwards_told += to == TOPIC;
        return 1;
    }
    invoked(uid, to, slot, 0);
    notes[2 * uid].parent = 0;
    if (rc == SHMQ_STALE) {
        S->stale++;
        return 1;
    }
    if (rc == SHMQ_E_NOMEM) S->nomem++;
    else if (rc != SHMQ_FULL) STRANGE(rc);
    return 0;
}

static void settle_one(shmq_ctx *c, shmq_delivery *d, uint64_t n, uint32_t slot) {
    uint32_t how = rnd(23);
    int rc;
    if (how >= 20 && forward(c, d, n, slot)) return;
    if (how < 12 || how >= 20) {
        notes[n].doubt++;
        rc = shmq_ack(c, d, 1);
        if (rc == 1) {
            if (notes[n].acked++) S->twice++;
            S->acks++;
        } else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
        notes[n].doubt--;
    } else if (how < 15) {
        rc = shmq_nack(c, d, rnd(2) ? 0 : 500000 + rnd(3000000), rnd(3) ? NULL : "why", 3);
        if (rc == 0) S->nacks++;
        else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
    } else if (how == 15) {
        rc = shmq_reject(c, d, rnd(2) ? NULL : "why not", 7);
        if (rc == 0) S->rejects++;
        else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
    } else if (how == 16) {
        rc = shmq_release(c, d);
        if (rc == 0) S->released++;
        else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
    } else if (how == 17) {
        rc = shmq_touch(c, d, 50000000);
        if (rc == 0) S->touches++;
        else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
        if (rc == 0) settle_one(c, d, n, slot);
    } else if (how == 18) {   /* slow */
        usleep(rnd(3000));
        settle_one(c, d, n, slot);
    } else {   /* a view that outlives the ack: the bytes must stay */
        shmq_delivery copy = *d;
        uint32_t from;
        notes[n].doubt++;
        rc = shmq_settle_viewed(c, d);
        if (rc == 0) {
            if (notes[n].acked++) S->twice++;
            S->views++;
            S->acks++;
        } else if (rc == SHMQ_STALE) S->stale++;
        else STRANGE(rc);
        notes[n].doubt--;
        if (rnd(4) == 0) usleep(rnd(500));
        if (read_message(&copy, &from) != n / 2) S->torn++;
        rc = shmq_view_end(c, copy.held, copy.idx);
        if (rc != 0) STRANGE(rc);
    }
}

/* Was n committed by a process that died before n had its place, and is what came before it of a process after that one? */
static int comes_late(uint64_t n, uint64_t before) {
    note *late = &notes[n];
    int committed_first = late->inherited || ((notes[n & ~UINT64_C(1)].told || late->parent) && !late->pub_returned);
    if (!committed_first || late->life == notes[before].life) return 0;
    S->late++;
    return 1;
}

static void consume(shmq_ctx *c, uint32_t slot) {
    static shmq_delivery d[16];
    static const uint8_t FROM[12] = { PLAIN, PLAIN, PLAIN, LEASED, LEASED, LEVELS, LEVELS, KEYS, KEYS, SUB_LEVELS, SUB_KEYS, SUB_KEYS };
    for (;;) {
        S->steps[slot]++;
        uint32_t qi = FROM[rnd(12)], max = rnd(3) ? 1 : 1 + rnd(16);
        uint64_t before[SLOTS][3], uids[16];
        for (uint32_t i = 0; i < SLOTS * 3; i++) before[i / 3][i % 3] = S->newest[qi][i / 3][i % 3];
        int rc = shmq_take(c, qref[qi], max, 0, d);
        if (rc == SHMQ_EMPTY) {
            rc = shmq_wait_items(c, qref[qi], shmq_now() + 2000000, UINT64_MAX);
            if (rc != SHMQ_OK && rc != SHMQ_TIMEOUT && rc != SHMQ_INTR) STRANGE(rc);
            continue;
        }
        if (rc < 0) {
            STRANGE(rc);
            continue;
        }
        int n = rc;
        for (int i = 0; i < n; i++) {
            uint32_t from;
            uids[i] = seen(&d[i], &from);
            if (uids[i] == 0) continue;
            if (d[i].attempt != 1 || d[i].redelivered || notes[uids[i]].delayed) continue;
            uint64_t *last = &before[from][level_of_queue(qi, uids[i])];
            if (uids[i] <= *last && !comes_late(uids[i], *last) && S->disorder++ == 0) {
                S->disorder_at = qi;
                S->disorder_of = uids[i];
                S->disorder_behind = *last;
            }
            if (uids[i] > *last) *last = uids[i];
        }
        for (int i = 0; i < n; i++) {   /* returned: later takes must give later ones */
            uint32_t from;
            if (uids[i] == 0 || d[i].attempt != 1 || d[i].redelivered || notes[uids[i]].delayed) continue;
            memcpy(&from, d[i].data + 8, 4);
            if (from >= SLOTS) continue;
            _Atomic(uint64_t) *newest = &S->newest[qi][from][level_of_queue(qi, uids[i])];
            uint64_t was = *newest;
            while (was < uids[i] && !atomic_compare_exchange_weak(newest, &was, uids[i])) {}
        }
        if (n > 1 && rnd(3) == 0) {   /* all in one call */
            for (int i = 0; i < n; i++)
                if (uids[i]) notes[uids[i]].doubt++;
            rc = shmq_ack(c, d, (uint32_t)n);
            if (rc < 0) STRANGE(rc);
            for (int i = 0; i < n; i++) {
                if (uids[i] == 0) continue;
                if (rc != n) notes[uids[i]].unsure = 1;   /* which of them were stale is not told */
                else if (notes[uids[i]].acked++) S->twice++;
                notes[uids[i]].doubt--;
            }
            if (rc > 0) S->acks += (uint64_t)rc;
        } else
            for (int i = 0; i < n; i++)
                if (uids[i]) settle_one(c, &d[i], uids[i], slot);
        if (rnd(200) == 0) {
            uint64_t cursor = 0;
            shmq_delivery p;
            for (int i = 0; i < 5; i++) {
                rc = shmq_peek(c, qref[qi], &cursor, &p);
                if (rc == SHMQ_EMPTY) break;
                if (rc != 0) {
                    STRANGE(rc);
                    break;
                }
                uint32_t from;
                if (read_message(&p, &from) == 0) S->torn++;
                S->peeks++;
                rc = shmq_view_end(c, p.held, p.idx);
                if (rc != 0) STRANGE(rc);
            }
        }
    }
}

static void bury(shmq_ctx *c, uint32_t slot) {
    for (;;) {
        shmq_delivery d;
        S->steps[slot]++;
        int rc = shmq_take(c, qref[DEAD], 1, 0, &d);
        if (rc == SHMQ_EMPTY) {
            shmq_wait_items(c, qref[DEAD], shmq_now() + 10000000, UINT64_MAX);
            continue;
        }
        if (rc != 1) {
            STRANGE(rc);
            continue;
        }
        uint32_t from;
        uint64_t uid = seen(&d, &from);
        if (d.reason == 0) STRANGE(-1000);
        if (uid == 0) continue;
        notes[uid].doubt++;
        rc = shmq_ack(c, &d, 1);
        if (rc == 1) {
            if (notes[uid].acked++) S->twice++;
            S->acks++;
        } else if (rc != SHMQ_STALE) STRANGE(rc);
        notes[uid].doubt--;
    }
}

static void service(shmq_ctx *c, int scan_all) {
    uint32_t idx[256], scan = 0, from = 0;
    uint64_t due[256], next;
    int n = shmq_timers_collect(c, idx, due, 256, &scan);
    if (n < 0) {
        STRANGE(n);
        n = 0;
    }
    for (int i = 0; i < n; i++) {
        uint64_t again;
        int rc = shmq_timer_fire(c, idx[i], shmq_now(), &again);
        S->fired += rc == 0;
    }
    while ((scan_all || rnd(4) == 0) && from < SHMQ_BLOCKS) {   /* hints that were collected and are not yet due */
        n = shmq_timers_scan(c, &from, idx, due, 256);
        if (n < 0) {
            STRANGE(n);
            break;
        }
        for (int i = 0; i < n; i++) {
            uint64_t again;
            if (due[i] > shmq_now()) continue;
            int rc = shmq_timer_fire(c, idx[i], shmq_now(), &again);
            S->fired += rc == 0;
        }
    }
    int rc = shmq_leases_expire(c, shmq_now(), &next);
    if (rc < 0) STRANGE(rc);
    else S->expired += (uint64_t)rc;
    if (shmq_next_expiry(c) > shmq_now()) return;
    for (from = 0; from < SHMQ_BLOCKS;) {
        rc = shmq_expire_scan(c, &from, shmq_now(), 0, idx, due, 0, &next);
        if (rc < 0) {
            STRANGE(rc);
            break;
        }
        S->outlived++;
    }
}
static void tidy(shmq_ctx *c, uint32_t slot) {
    for (;;) {
        S->steps[slot]++;
        int rc = shmq_reap(c, 0);
        if (rc < 0) STRANGE(rc);
        else S->reaped += (uint64_t)rc;
        service(c, 0);
        if (rnd(50) == 0) {
            int64_t t = shmq_trim(c, 1 << 20);
            if (t < 0) STRANGE(t);
        }
        usleep(1000);
    }
}

static pid_t spawn(uint32_t slot) {
    S->life[slot]++;
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(3);
    }
    if (pid) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    rng = (uint64_t)getpid() * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)(now_s() * 1e9);
    shmq_ctx *c = attach();
    switch (ROLE[slot]) {
    case PRODUCER: produce(c, slot); break;
    case CONSUMER: consume(c, slot); break;
    case BURIER: bury(c, slot); break;
    case JANITOR: tidy(c, slot); break;
    }
    _exit(0);
}
