/* System V segments: what the kernel says of them, and who may serve one. */
#include "harness.h"
#include "owner.h"
#include <sys/ipc.h>
#include <sys/shm.h>

static int id_ = -1;
static void *base_;

static void *fresh(void) {   /* removed at once: it goes with the last mapping, however the test ends */
    id_ = shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | 0600);
    CHECK(id_ >= 0);
    base_ = shmat(id_, NULL, 0);
    CHECK(base_ != (void *)-1);
    CHECK(shmctl(id_, IPC_RMID, NULL) == 0);
    return base_;
}
static shmq_au64 *claim_word(void) { return &((shmq_header *)base_)->claim; }
static int claim(void) { return shmq_sysv_claim(id_, base_, 1 << 20); }

TEST(looks, "the kernel says whose a segment is, who made it, and how often it is mapped") {
    fresh();
    shmq_sysv_info info;
    EQ(shmq_sysv_look(id_, &info), 0);
    EQ(info.uid, geteuid());
    EQ(info.creator, geteuid());
    EQ(info.mode, 0600);
    EQ(info.attached, 1);
    EQ(info.removed, 1);
    EQ(info.size, 1 << 20);
    EQ(info.creator_pid, getpid());
    CHECK(shmdt(base_) == 0);
    CHECK(shmq_sysv_look(id_, &info) < 0);
}

TEST(one, "one process at a time has the claim; it goes back when it is dropped, and is taken from the dead") {
    fresh();
    partner p = split();
    if (p.pid == 0) {
        CHECK(claim() == 1);
        say(p.up);
        hear(p.down);
        shmq_sysv_drop(base_);
        say(p.up);
        hear(p.down);
        CHECK(claim() == 1);
        say(p.up);
        pause();
    }
    hear(p.up);
    EQ(claim(), 0);
    shmq_sysv_drop(base_);   /* of another one: nothing happens */
    EQ(claim(), 0);
    say(p.down);
    hear(p.up);
    EQ(claim(), 1);
    EQ(claim(), 0);   /* by another handle of this very process */
    shmq_sysv_drop(base_);
    say(p.down);
    hear(p.up);
    EQ(claim(), 0);
    kill(p.pid, SIGSTOP);
    EQ(claim(), 0);
    kill(p.pid, SIGKILL);
    siginfo_t si;
    CHECK(waitid(P_PID, (id_t)p.pid, &si, WEXITED | WNOWAIT) == 0);   /* a zombie is dead */
    EQ(claim(), 1);
}

TEST(elsewhere, "who cannot be judged from here counts as alive, unless nobody else has the segment attached") {
    fresh();
    uint64_t there = owner_make(SHMQ_OWNER_ALIVE, segment_where() + 1, 77, pid_of_nobody());
    partner p = split();
    if (p.pid == 0) {
        say(p.up);
        hear(p.down);
        CHECK(shmdt(base_) == 0);
        say(p.up);
        pause();
    }
    hear(p.up);
    st_sc(claim_word(), there);
    EQ(claim(), 0);
    say(p.down);
    hear(p.up);
    EQ(claim(), 1);
    EQ(owner_pid(ld_sc(claim_word())), getpid());
    kill_wait(p.pid);
}

TEST(damage, "a damaged word keeps nobody from serving a segment that is ours by its header") {
    fresh();
    partner p = split();
    if (p.pid == 0) {
        say(p.up);
        pause();
    }
    hear(p.up);
    shmq_ctx *c = shmq_ctx_new();
    shmq_config config = { .memory_limit = 1 << 20, .max_message = 1 << 10, .provider = SHMQ_SYSV };
    shmq_geometry g;
    int id = shmget(IPC_PRIVATE, shmq_plan(&config, &g), IPC_CREAT | SHM_NORESERVE | 0600);
    CHECK(id >= 0);
    void *base = shmat(id, NULL, 0), *second = shmat(id, NULL, 0);
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
    CHECK(base != (void *)-1 && second != (void *)-1);
    EQ(shmq_map_address(c, base, g.total, 1), SHMQ_OK);
    EQ(shmq_format(c, &config), SHMQ_OK);
    for (uint64_t state = 0; state < 4; state++) {
        st_sc(&((shmq_header *)base)->claim, state << 62 | (uint64_t)(segment_where() ^ 1) << 46 | 0x3ffff);
        EQ(shmq_sysv_claim(id, second, g.total), 1);
    }
    st_sc(&((shmq_header *)base)->claim, owner_make(SHMQ_OWNER_ALIVE, segment_where(), 1, (uint32_t)getppid()));
    EQ(shmq_sysv_claim(id, second, g.total), 1);   /* a pid that lives, with another start time */
    kill_wait(p.pid);
}
MAIN
