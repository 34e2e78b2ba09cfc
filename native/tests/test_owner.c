/* Owner records: who is attached, who is dead, and how that is proven. */
#include "harness.h"
#include "owner.h"

TEST(reuse, "a record is used again after a clean detach, under a new epoch") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t w = ld_acq(&b->me->word);
    EQ(b->self, 1);
    EQ(shmq_detach(b), SHMQ_OK);
    EQ(shmq_detach(b), SHMQ_E_DETACHED);
    EQ(shmq_attach(b, SHMQ_CLIENT), 1);
    EQ(owner_epoch(ld_acq(&b->me->word)), owner_epoch(w) + 1);
    EQ(shmq_attach(b, SHMQ_CLIENT), 1);   /* twice is once */
    shmq_owner_info o;
    EQ(shmq_owner_snapshot(a, 1, &o), SHMQ_OK);
    EQ(o.pid, getpid());
    EQ(o.state, SHMQ_OWNER_ALIVE);
    EQ(shmq_owner_snapshot(a, SHMQ_OWNERS, &o), SHMQ_E_ARG);
}

TEST(table_full, "the table holds 1024 processes; the next is refused, and let in when one has left or died") {
    static shmq_ctx *c[SHMQ_OWNERS];
    c[0] = segment(64 << 20, 1 << 20);
    for (int i = 1; i < SHMQ_OWNERS; i++) {   /* records taken by this very process; one mapping each would be too much */
        uint64_t w = owner_make(SHMQ_OWNER_ALIVE, 0, owner_start(c[0]->self_word), (uint32_t)getpid());
        CHECK(cas(&c[0]->owners[i].word, 0, w));
    }
    st32_rel(&c[0]->header->owner_hwm, SHMQ_OWNERS);
    shmq_ctx *more = look();
    EQ(shmq_attach(more, SHMQ_CLIENT), SHMQ_E_OWNERS);
    EQ(shmq_attached(more), 0);
    EQ(shmq_depth(more, 1 << 16), SHMQ_E_DETACHED);
    st_sc(&c[0]->owners[700].word, owner_make(SHMQ_OWNER_ALIVE, 0, 1, pid_of_nobody()));
    EQ(shmq_reap(c[0], 0), 1);
    EQ(shmq_attach(more, SHMQ_CLIENT), 700);
    EQ(owner_epoch(more->self_word), 1);
}

TEST(zombie, "a zombie is dead, before anybody has waited for it") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    EQ(put(a, q, 3), SHMQ_OK);
    partner p = split();
    if (p.pid == 0) {
        take1(join(), q);
        say(p.up);
        pause();
    }
    hear(p.up);
    EQ(shmq_owner_prove(a, 1, 1), SHMQ_ALIVE);
    kill(p.pid, SIGKILL);
    siginfo_t si;
    CHECK(waitid(P_PID, (id_t)p.pid, &si, WEXITED | WNOWAIT) == 0);
    EQ(shmq_owner_prove(a, 1, 0), SHMQ_OK);
    EQ(shmq_reap(a, 0), 1);
    EQ(shmq_owner_prove(a, 1, 0), SHMQ_E_NOTFOUND);
    EQ(get(a, q), 3);
}

TEST(stopped, "a stopped process is alive, and what it holds stays its own") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    EQ(put(a, q, 3), SHMQ_OK);
    partner p = split();
    if (p.pid == 0) {
        shmq_ctx *b = join();
        shmq_delivery d = take1(b, q);
        say(p.up);
        hear(p.down);
        EQ(shmq_ack(b, &d, 1), 1);
        _exit(0);
    }
    hear(p.up);
    kill(p.pid, SIGSTOP);
    CHECK(waitpid(p.pid, NULL, WUNTRACED) == p.pid);
    EQ(shmq_reap(a, 1), 0);
    CHECK(empty(a, q));
    kill(p.pid, SIGCONT);
    say(p.down);
    int status;
    CHECK(waitpid(p.pid, &status, 0) == p.pid && status == 0);
    EQ(shmq_reap(a, 0), 1);
    nothing_left(a);
}

TEST(pid_reuse, "a living process with the pid of the dead but another start time does not pass for it") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t w = b->self_word;
    EQ(shmq_owner_prove(a, 1, 0), SHMQ_ALIVE);
    partner p = split();
    if (p.pid == 0) {
        say(p.up);
        pause();
    }
    hear(p.up);
    st_sc(&b->me->word, owner_make(SHMQ_OWNER_ALIVE, owner_epoch(w), owner_start(w) - 77, (uint32_t)p.pid));
    EQ(shmq_owner_prove(a, 1, 0), SHMQ_OK);
    EQ(shmq_owner_declare(a, 1, w), SHMQ_STALE);   /* only the very word that was proven */
    EQ(owner_state(ld_acq(&b->me->word)), SHMQ_OWNER_ALIVE);
    EQ(shmq_recover(a, 1), SHMQ_STALE);
    EQ(shmq_owner_declare(a, 1, ld_acq(&b->me->word)), SHMQ_OK);
    EQ(shmq_recover(a, 1), SHMQ_OK);
    EQ(shmq_recover(a, 1), SHMQ_STALE);
    kill_wait(p.pid);
}

TEST(exec, "a process that became another program is dead when that is looked for") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    EQ(put(a, q, 3), SHMQ_OK);
    partner p = split();
    if (p.pid == 0) {
        take1(join(), q);
        fcntl(p.up[1], F_SETFD, FD_CLOEXEC);   /* closes on exec: that is the signal */
        fcntl(p.up[0], F_SETFD, FD_CLOEXEC);
        execlp("sleep", "sleep", "20", (char *)NULL);
        _exit(1);
    }
    close(p.up[1]);
    char x;
    CHECK(read(p.up[0], &x, 1) == 0);
    EQ(shmq_owner_prove(a, 1, 0), SHMQ_ALIVE);
    EQ(shmq_owner_prove(a, 1, 1), SHMQ_OK);
    EQ(shmq_reap(a, 1), 1);
    EQ(get(a, q), 3);
    kill_wait(p.pid);
}

TEST(forked, "a forked child is told so by every call, and attaches anew") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    EQ(put(a, q, 3), SHMQ_OK);
    shmq_delivery d = take1(a, q);
    partner p = split();
    if (p.pid == 0) {
        shmq_message m = { .size = 0 };
        EQ(shmq_publish(a, q, &m), SHMQ_E_FORKED);
        EQ(shmq_ack(a, &d, 1), SHMQ_E_FORKED);
        EQ(shmq_attach(a, 0), SHMQ_E_FORKED);
        EQ(shmq_detach(a), SHMQ_E_FORKED);
        EQ(shmq_wait_items(a, q, 0, 0), SHMQ_E_FORKED);
        EQ(shmq_queue_create(a, "x", &(shmq_queue_options){ .max_depth = 1 }), SHMQ_E_FORKED);
        EQ(shmq_unmap(a), SHMQ_E_FORKED);
        shmq_ctx *b = join();
        EQ(shmq_self(b), 1);
        EQ(put(b, q, 4), SHMQ_OK);
        EQ(shmq_detach(b), SHMQ_OK);
        _exit(0);
    }
    int status;
    CHECK(waitpid(p.pid, &status, 0) == p.pid && status == 0);
    EQ(shmq_ack(a, &d, 1), 1);
    EQ(get(a, q), 4);
    nothing_left(a);
}

TEST(held_many, "65,536 unsettled deliveries are held by one process, the next is refused, and all come back at its death") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    uint64_t q = QUEUE(a, "q", 70000);
    static shmq_delivery d[1024];
    for (uint64_t i = 0; i < SHMQ_HELD + 10; i++) EQ(put(a, q, i), SHMQ_OK);
    for (int i = 0; i < SHMQ_HELD / 1024; i++) EQ(shmq_take(b, q, 1024, 0, d), 1024);
    EQ(shmq_take(b, q, 1, 0, d), SHMQ_E_HELD);
    die(b);
    EQ(shmq_reap(a, 0), 1);
    for (uint64_t i = 0; i < SHMQ_HELD + 10; i++) {
        shmq_delivery e = take1(a, q);
        EQ(value_of(&e), i);   /* in the order in which they were published */
        EQ(e.attempt, i < SHMQ_HELD ? 2 : 1);
        EQ(shmq_ack(a, &e, 1), 1);
    }
    nothing_left(a);
}

TEST(ahead, "what was only read ahead does not count an attempt at death or leave") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join(), *c = join();
    uint64_t q = QUEUE(a, "q", 10);
    shmq_delivery d[4];
    for (uint64_t i = 0; i < 4; i++) EQ(put(a, q, i), SHMQ_OK);
    EQ(shmq_take(b, q, 2, SHMQ_TAKE_AHEAD, d), 2);
    EQ(shmq_start(b, &d[0]), SHMQ_OK);
    EQ(shmq_take(c, q, 2, SHMQ_TAKE_AHEAD, d + 2), 2);
    EQ(shmq_start(c, &d[2]), SHMQ_OK);
    die(b);
    EQ(shmq_reap(a, 0), 1);
    EQ(shmq_detach(c), SHMQ_OK);
    for (int i = 0; i < 4; i++) {
        d[0] = take1(a, q);
        EQ(d[0].attempt, value_of(&d[0]) % 2 ? 1 : 2);
        EQ(shmq_ack(a, d, 1), 1);
    }
    nothing_left(a);
}

/* The other program of exec_again: it attaches to the same segment. */
static int again(const char *fd, const char *up) {
    struct stat st;
    seg.fd = atoi(fd);
    if (fstat(seg.fd, &st) != 0) return 1;
    seg.total = (uint64_t)st.st_size;
    shmq_ctx *c = join();
    if (write(atoi(up), "x", 1) != 1) return 1;
    for (;;) pause();
    return c == NULL;
}

TEST(exec_again, "a process that became another program and attached again gives back what it had before, and nothing else") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 10);
    for (uint64_t i = 0; i < 5; i++) EQ(put(a, q, i), SHMQ_OK);
    shmq_ctx *mine = join();   /* another attachment of this process is no former program */
    take1(a, q);
    take1(mine, q);
    partner p = split();
    if (p.pid == 0) {
        char fd[16], up[16];
        shmq_ctx *one = join(), *two = join();
        take1(one, q);
        take1(two, q);
        fcntl(seg.fd, F_SETFD, 0);
        fcntl(p.up[1], F_SETFD, 0);
        snprintf(fd, sizeof fd, "%d", seg.fd);
        snprintf(up, sizeof up, "%d", p.up[1]);
        execl("/proc/self/exe", "test_owner", "again", fd, up, (char *)NULL);
        _exit(1);
    }
    hear(p.up);   /* it has attached: by then what it held is here again, whoever looks */
    EQ(shmq_owner_prove(a, 2, 1), SHMQ_E_NOTFOUND);
    EQ(shmq_owner_prove(a, 3, 1), SHMQ_E_NOTFOUND);
    EQ(shmq_owner_prove(a, 4, 1), SHMQ_ALIVE);
    EQ(shmq_reap(a, 1), 0);
    EQ(shmq_attached(mine), 1);
    uint64_t seen = 0;
    for (int i = 0; i < 3; i++) seen |= 1u << get(a, q);
    EQ(seen, 1u << 2 | 1u << 3 | 1u << 4);
    CHECK(empty(a, q));
    kill_wait(p.pid);
    EQ(shmq_reap(a, 0), 1);
}

TEST(image_of_record, "a record that is used again does not keep the program of who had it before") {
    shmq_ctx *a = segment(64 << 20, 1 << 20), *b = join();
    CHECK(ld_acq(&b->me->image) != 0);
    EQ(shmq_detach(b), SHMQ_OK);
    EQ(ld_acq(&a->owners[1].image), 0);
    EQ(shmq_attach(b, SHMQ_CLIENT), 1);
    CHECK(ld_acq(&b->me->image) == ld_acq(&a->me->image));
    st_sc(&a->owners[1].word, owner_make(SHMQ_OWNER_ALIVE, 7, 1, pid_of_nobody()));
    EQ(shmq_reap(a, 0), 1);
    EQ(ld_acq(&a->owners[1].image), 0);
}

TEST(foreign_fd, "a descriptor whose number is another file by now is neither filled nor punched; the mapping serves") {
    shmq_ctx *a = segment(64 << 20, 1 << 20);
    uint64_t q = QUEUE(a, "q", 1000);
    struct stat st;
    int theirs = memfd_create("theirs", MFD_CLOEXEC), fd = a->fd;
    CHECK(write(theirs, "mine", 4) == 4 && dup2(theirs, fd) == fd);
    static uint8_t big[300000];
    int made = 0;
    for (int i = 0; i < 40; i++) {
        shmq_message m = { .data = big, .size = sizeof big };
        int rc = shmq_publish(a, q, &m);
        CHECK(rc == SHMQ_OK || rc == SHMQ_E_SYS);   /* before Linux 5.14 only the descriptor could do it */
        made += rc == SHMQ_OK;
    }
    for (int i = 0; i < made; i++) {
        shmq_delivery d = take1(a, q);
        EQ(shmq_ack(a, &d, 1), 1);
    }
    shmq_segment_info info;
    EQ(shmq_segment_snapshot(a, &info), SHMQ_OK);
    CHECK(shmq_trim(a, 0) >= 0);
    char text[5] = { 0 };
    CHECK(fstat(theirs, &st) == 0 && st.st_size == 4 && pread(theirs, text, 4, 0) == 4 && strcmp(text, "mine") == 0);
    close(fd);
    EQ(put(a, q, 1), SHMQ_OK);
    EQ(get(a, q), 1);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "again") == 0) return again(argv[2], argv[3]);
    return run_cases(argc, argv);
}
