/* sweep_targeted.h: of the sweep: two processes, one interleaving. A part of sweep.c, for its size. */

#define SYS_FUTEX_WAITV 449   /* headers may be older than the kernel */
static scenario T = { "", 0, NULL, NULL, NULL, NULL };
#define TARGET(label) \
    do { \
        printf("  VIOLATION %s: %s (%s:%d)\n", T.name, label, __FILE__, __LINE__); \
        bad = 1; \
    } while (0)

/* A waiter stopped at each instruction before it sleeps; a message comes; it must be awake well before its slice is over. */
static void o_wait_long(plane *p) { p->rc = shmq_wait_items(&p->ctx, p->q, shmq_now() + UINT64_C(900000000), 0); }
static void o_wait_many_long(plane *p) {
    shmq_wait_set set = { .n = 2, .one = { { .ctx = &p->ctx, .queue = p->q2 }, { .ctx = &p->ctx, .queue = p->q } } };
    int rc = shmq_wait_many(&set, 0, shmq_now() + UINT64_C(900000000));
    p->rc = rc == 1 ? 0 : rc;
}
static int wakes(const char *name, void (*wait)(plane *)) {
    int bad = 0;
    T = (scenario){ name, 0, w_empty, p_warm, wait, NULL };
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
        if (code[0] == 0x0f && code[1] == 0x05 && (r.rax == SYS_futex || r.rax == SYS_FUTEX_WAITV)) most = n;   /* about to sleep */
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

static int t_wait(void) { return wakes("no-lost-wake-up", o_wait_long); }
static int t_wait_many(void) { return shmq_waits_many() ? wakes("no-lost-wake-up-of-many", o_wait_many_long) : 0; }

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
    { "no-lost-wake-up-of-many", t_wait_many },
    { "scan-before-no-memory", t_nomem },
    { "detach-leaves-nothing", t_detach },
};
