/* System calls that a seccomp filter or an old kernel refuses: membarrier and pidfd_open. All goes on, by other ways. */
#include "harness.h"
#include "queue.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static void filtered(struct sock_filter *code, unsigned short n) {
    struct sock_fprog program = { .len = n, .filter = code };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* From here on this process, for good, is told `error` when it calls `number`. */
static void refuse(unsigned number, unsigned error) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    filtered(code, sizeof code / sizeof *code);
}

/* The same, where the first argument is that one. */
static void refuse_argument(unsigned number, unsigned first, unsigned error) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    filtered(code, sizeof code / sizeof *code);
}

static unsigned queue_is(shmq_ctx *c, uint64_t q) { return queue_state(ld_acq(&c->queues[qref_index(q)].word)); }

TEST(format, "a broker made where membarrier is refused uses records of deleted queues again") {
    refuse(SYS_membarrier, EPERM);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) != 0);
    shmq_ctx *c = segment(64 << 20, 1 << 20), *other = join();
    EQ(c->fences, 1);
    EQ(other->fences, 1);
    for (int i = 0; i < 3; i++) {
        uint64_t q = QUEUE(c, "q", 10);
        EQ(put(other, q, 7), SHMQ_OK);
        EQ(get(c, q), 7);
        EQ(put(other, q, 8), SHMQ_OK);
        EQ(shmq_queue_close(c, q), SHMQ_OK);
        EQ(shmq_queue_delete(c, q), SHMQ_OK);
        EQ(queue_is(c, q), SHMQ_Q_FREE);
    }
    nothing_left(c);
}

TEST(late, "where membarrier is refused later, records wait for those who attached before and have no fence") {
    shmq_ctx *before = segment(64 << 20, 1 << 20);
    EQ(before->fences, 0);
    uint64_t q = QUEUE(before, "q", 10);
    refuse(SYS_membarrier, ENOSYS);
    shmq_ctx *c = join();
    EQ(c->fences, 0);   /* nobody has needed it yet */
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    EQ(queue_is(c, q), SHMQ_Q_DELETING);
    shmq_ctx *after = join();
    EQ(after->fences, 1);
    EQ(shmq_queue_collect(after), 0);
    EQ(shmq_detach(before), SHMQ_OK);
    EQ(shmq_queue_collect(after), 0);   /* c has none either */
    EQ(shmq_detach(c), SHMQ_OK);
    EQ(shmq_queue_collect(after), 1);
    EQ(queue_is(after, q), SHMQ_Q_FREE);
}

TEST(unreached, "a process that may not register for the fast barrier says so, and deletions use the slow one") {
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    EQ(ld32_acq(&c->header->unreached), 0);
    uint64_t q = QUEUE(c, "q", 10);
    pid_t pid = fork();
    if (pid == 0) {
        refuse_argument(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, EPERM);
        shmq_ctx *other = join();
        EQ(ld32_acq(&other->header->unreached), 1);
        EQ(put(other, q, 7), SHMQ_OK);
        EQ(shmq_detach(other), SHMQ_OK);
        _exit(0);
    }
    int status = 1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    EQ(ld32_acq(&c->header->unreached), 1);
    EQ(get(c, q), 7);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    EQ(queue_is(c, q), SHMQ_Q_FREE);
    EQ(ld32_acq(&c->header->fences), 0);
}

TEST(no_slow_one, "where the slow barrier is refused, the fast one is enough as long as it reaches everybody") {
    refuse_argument(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, EINVAL);
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    EQ(c->fences, 0);
    uint64_t q = QUEUE(c, "q", 10);
    EQ(shmq_queue_delete(c, q), SHMQ_OK);
    EQ(queue_is(c, q), SHMQ_Q_FREE);
    EQ(ld32_acq(&c->header->fences), 0);
}

static void *sleeper(void *x) {
    pause();
    return x;
}

TEST(pidfd, "a death is proven without pidfd_open: no such process, another start time, a zombie; a zombie with threads lives") {
    refuse(SYS_pidfd_open, EPERM);
    shmq_ctx *c = segment(64 << 20, 1 << 20);
    int go[2], up[2];
    char byte;
    for (int threads = 0; threads < 2; threads++) {
        CHECK(pipe(go) == 0 && pipe(up) == 0);
        pid_t pid = fork();
        if (pid == 0) {
            shmq_ctx *mine = join();
            pthread_t t;
            if (threads) pthread_create(&t, NULL, sleeper, NULL);
            if (write(up[1], "x", 1) != 1 || read(go[0], &byte, 1) != 1 || !mine) _exit(1);
            if (threads) syscall(SYS_exit, 0);   /* the main thread alone */
            _exit(0);
        }
        CHECK(read(up[0], &byte, 1) == 1);
        uint32_t owner = 0;
        for (uint32_t i = 1; i < 8; i++)
            if (owner_state(ld_acq(&c->owners[i].word)) == SHMQ_OWNER_ALIVE && owner_pid(ld_acq(&c->owners[i].word)) == (uint32_t)pid)
                owner = i;
        CHECK(owner > 0);
        EQ(shmq_owner_prove(c, owner, 0), SHMQ_ALIVE);
        CHECK(write(go[1], "x", 1) == 1);
        siginfo_t info;
        if (threads) {
            char path[48], text[256];
            snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
            for (text[0] = 0; strstr(text, ") Z ") == NULL;) {   /* its main thread is a zombie */
                int fd = open(path, O_RDONLY);
                ssize_t n = read(fd, text, sizeof text - 1);
                text[n > 0 ? n : 0] = 0;
                close(fd);
            }
            EQ(shmq_owner_prove(c, owner, 0), SHMQ_ALIVE);
            kill(pid, SIGKILL);
        }
        CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
        EQ(shmq_owner_prove(c, owner, 0), SHMQ_OK);   /* not waited for yet */
        CHECK(waitpid(pid, NULL, 0) == pid);
        EQ(shmq_owner_prove(c, owner, 0), SHMQ_OK);
        EQ(shmq_reap(c, 0), 1);
        close(go[0]);
        close(go[1]);
        close(up[0]);
        close(up[1]);
    }
}
MAIN
