/* sweep_branches.h: of the sweep: what follows at one frozen state: a kill, a stop, a death of the recoverer. A part of sweep.c, for its size. */

static uint8_t *ctx_saved[3];
static void own_save(void) {
    shmq_ctx *c[] = { W.p, W.x, W.y };
    for (int i = 0; i < 3; i++)
        if (c[i]) ctx_copy(ctx_saved[i], c[i], 1);
}
static void own_restore(void) {
    shmq_ctx *c[] = { W.p, W.x, W.y };
    for (int i = 0; i < 3; i++)
        if (c[i]) ctx_copy(ctx_saved[i], c[i], 0);
}

static void reset_model(void) {
    memset(W.got, 0, sizeof W.got);
    memset(W.lo, 0, sizeof W.lo);
    memset(W.hi, 0, sizeof W.hi);
    memset(W.last_tag, 0, sizeof W.last_tag);
    W.last_parked = 0;
    W.begun = shmq_now();
}
static int base_lo[TAGS]; /* what the world published */
static void model(void) {
    reset_model();
    memcpy(W.lo, base_lo, sizeof W.lo);
    memcpy(W.hi, base_lo, sizeof W.hi);
}

static int finished_now(void) { return W.a.p->phase >= VM_DONE; }
static int attached_now(vm *v) {
    for (uint32_t i = 0; i < 16; i++) {
        uint64_t w = ld_acq(&W.p->owners[i].word);
        if (owner_state(w) == SHMQ_OWNER_ALIVE && owner_pid(w) == (uint32_t)v->pid) return 1;
    }
    return 0;
}

static void branch_kill(int others) {
    W.mode = others ? "others" : "kill";
    W.kills++;
    model();
    if (setjmp(W.out) == 0) {
        if (others) others_go_on();
        died_attached = attached_now(&W.a);
        declare(&W.a, 0);
        check_after_death(finished_now(), 0);
    }
}

static void end_leases(void) {
    uint64_t next;
    int rc = shmq_leases_expire(W.p, shmq_now() + 100 * FAR, &next);
    MUST(rc >= 0, "leases_expire says %d", rc);
}

static void branch_stop(int reuse, int leave) {
    W.mode = "stop";
    W.stops++;
    model();
    if (setjmp(W.out) == 0) {
        end_leases();
        if (reuse) recover_all(W.p, 0);
        shmq_delivery yd = { 0 }, yl = { 0 };
        if (reuse) { /* a new process gets the record of the dead one, takes what came back and starts to write */
            if (shmq_attach(W.y, SHMQ_CLIENT) < 0) violation("attach");
            MUST(shmq_loan(W.y, W.q2, 64, 0, &yl) == 0, "loan");
            fill((uint8_t *)(uintptr_t)yl.data, 60, 64);
            MUST(shmq_take(W.y, W.q, 1, 0, &yd) == 1, "take after recovery");
        } else {
            drain(0);
            recycle(leave);
            scribble();
        }
        int st = vm_run(&W.a);
        MUST(st == 0, "the stopped process ended with status %x", st);
        MUST(W.a.p->phase == VM_DONE, "phase %u", W.a.p->phase);
        MUST(W.a.p->bad == 0, "the stopped process saw something wrong: line %u", W.a.p->bad);
        int64_t rc = W.a.p->rc;
        if (reuse) {
            uint32_t t = tag_of(&yd);
            MUST(t, "a taken message changed");
            W.got[t]++;
            int arc = shmq_ack(W.y, &yd, 1);
            MUST(arc == 1, "a living process's lease was taken away by a late recoverer (ack says %d)", arc);
            shmq_message m = { 0 };
            MUST(shmq_loan_publish(W.y, W.q2, &yl, &m) == 0, "a living process's block was taken away by a late recoverer");
            W.lo[60]++;
            W.hi[60]++;
            MUST(shmq_detach(W.y) == 0, "detach");
        }
        audit(0);
        st = vm_run(&W.a);
        MUST(st == 0 && W.a.p->phase == VM_LEFT, "detach of the stopped process: status %x", st);
        W.a.p->rc = rc;
        x_leaves();
        audit(1);
        drain(0);
        counts(W.a.p, 1);
        all_free();
        capacity();
        all_free();
    }
}

static vm_snap snap_a, snap_r;
static seg_snap seg_a, seg_r, seg_base;
static uint64_t pair_states;

/* The recoverer of a dead child, killed after each of its instructions that changed something. */
static void branch_pair(void) {
    volatile uint32_t dead = NOBODY; /* volatile: setjmp follows */
    model();
    W.mode = "pair";
    for (uint32_t i = 0; i < 16; i++) {
        uint64_t w = ld_acq(&W.p->owners[i].word);
        if (owner_state(w) == SHMQ_OWNER_ALIVE && owner_pid(w) == (uint32_t)W.a.pid) dead = i;
    }
    if (dead == NOBODY) return;
    if (setjmp(W.out) == 0) declare(&W.a, 1);
    W.r.p->arg = dead;
    seg_save(&W.pages, &seg_r);
    W.r.again = 0;
    vm_protect(&W.r, PROT_READ);
    for (volatile int first = 1;; first = 0) {
        if (first || seg_follow(&W.pages, &seg_r)) {
            W.pairs++;
            model();
            if (setjmp(W.out) == 0) {
                died_attached = 1;
                declare(&W.r, 1);
                check_after_death(finished_now(), (int)(W.pairs & 1));
            }
            seg_restore(&W.pages, &seg_r);
            own_restore();
        }
        if (W.r.p->phase >= VM_DONE) break;
        int st = vm_store(&W.r);
        if (st) {
            if (setjmp(W.out) == 0) violation("the recoverer ended with status %x", st);
            break;
        }
        pair_states++;
    }
}
