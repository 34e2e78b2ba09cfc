/* sweep_vm.h: a child process that can be stepped by single instructions, frozen, and set back like a virtual machine.
 *
 * The child runs on a stack in memory shared with the parent, and its shmq_ctx lies there too: together with its registers
 * that is its whole private state. The segment is shared anyway. So the parent can save the world between two instructions,
 * try what happens when the child dies there (or stays stopped while others go on), and put everything back: one pass over n
 * instructions costs O(n), not O(n*n), and needs no fork per instruction.
 */
#ifndef SWEEP_VM_H
#define SWEEP_VM_H
#include "ctx.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRAP() __asm__ volatile("int3" ::: "memory")
#define VM_STACK 131072
enum { VM_BORN, VM_READY, VM_DONE, VM_LEFT };

typedef struct {
    volatile uint32_t phase;
    volatile uint32_t bad;        /* the child saw something wrong: a line number */
    volatile int64_t rc;
    uint64_t arg, q, q2, dlq, t;
    int32_t fd, pad;
    uint64_t total;
    uint32_t n, view, view_idx, scan;
    shmq_delivery d[8];
    shmq_message m[8];
    uint8_t bytes[8][128];
    uint32_t list[64];
    uint64_t due[64];
    uint8_t *big;
    _Alignas(4096) uint8_t stack[VM_STACK];
    _Alignas(4096) shmq_ctx ctx;
} plane;

typedef struct {
    pid_t pid;
    plane *p;
    uint64_t again;   /* how often the string instruction that it is at has stored already */
} vm;

#define DIE(...) \
    do { \
        printf("FATAL %s:%d: ", __FILE__, __LINE__); \
        printf(__VA_ARGS__); \
        printf(" (%s)\n", strerror(errno)); \
        exit(3); \
    } while (0)

static void ctx_make(shmq_ctx *ctx) {   /* as shmq_ctx_new, in memory of our choice */
    st32_rlx(&ctx->alive, 1);
    ctx->fd = -1;
    ctx->self = NOBODY;
}

/* ---- the parts of a ctx that small worlds use ---- */
#define CTX_A offsetof(shmq_ctx, held_free)
#define CTX_HELD (64 * sizeof(uint32_t))
#define CTX_LOCAL (8 * sizeof(local_queue))
#define CTX_SCRATCH (64 * sizeof(((shmq_ctx *)0)->scratch[0]))
#define CTX_FAN 64   /* of each list of subscriptions */
#define CTX_LINE (offsetof(parked_line, at) + 64 * sizeof(keyed_block))   /* of each line of those who wait for room */
#define CTX_PICK (64 * sizeof(keyed_block))
#define CTX_REST (sizeof(shmq_ctx) - offsetof(shmq_ctx, deep))
#define CTX_SAVED (CTX_A + CTX_HELD + CTX_LOCAL + CTX_SCRATCH + FANS * CTX_FAN + LINES * CTX_LINE + CTX_PICK + CTX_REST)

static void ctx_copy(uint8_t *at, shmq_ctx *ctx, int out) {
    struct {
        void *p;
        size_t n;
    } part[] = { { ctx, CTX_A },          { ctx->held_free, CTX_HELD }, { ctx->local, CTX_LOCAL }, { ctx->scratch, CTX_SCRATCH },
                 { ctx->pick, CTX_PICK }, { &ctx->deep, CTX_REST } };
    for (int i = 0; i < 6; at += part[i].n, i++)
        if (out) memcpy(at, part[i].p, part[i].n);
        else memcpy(part[i].p, at, part[i].n);
    for (int i = 0; i < FANS; at += CTX_FAN, i++)
        if (out) memcpy(at, &ctx->fans[i], CTX_FAN);
        else memcpy(&ctx->fans[i], at, CTX_FAN);
    for (int i = 0; i < LINES; at += CTX_LINE, i++)
        if (out) memcpy(at, &ctx->lines[i], CTX_LINE);
        else memcpy(&ctx->lines[i], at, CTX_LINE);
}

/* ---- the child ---- */
static pid_t vm_wait(vm *v, int *status) {
    pid_t r;
    do r = waitpid(v->pid, status, __WALL);
    while (r < 0 && errno == EINTR);
    return r;
}

static void vm_start(vm *v, int (*body)(void *)) {
    int status;
    if (v->p == NULL) {
        v->p = mmap(NULL, sizeof(plane), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (v->p == MAP_FAILED) DIE("mmap");
    }
    v->again = 0;
    v->pid = clone(body, v->p->stack + VM_STACK, SIGCHLD, v->p);
    if (v->pid < 0) DIE("clone");
    if (vm_wait(v, &status) < 0 || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP || v->p->phase != VM_READY)
        DIE("child did not get ready: status %x phase %u bad line %u", status, v->p->phase, v->p->bad);
    ptrace(PTRACE_SETOPTIONS, v->pid, 0, PTRACE_O_EXITKILL);
}

static void vm_kill(vm *v) {
    int status;
    if (v->pid <= 0) return;
    kill(v->pid, SIGKILL);
    while (vm_wait(v, &status) == v->pid && !WIFSIGNALED(status) && !WIFEXITED(status)) {}
    v->pid = 0;
}

/* One instruction. 0 = fine, otherwise what stopped it instead. */
static int vm_step(vm *v) {
    int status;
    if (ptrace(PTRACE_SINGLESTEP, v->pid, 0, 0) != 0) DIE("singlestep");
    if (vm_wait(v, &status) < 0) DIE("wait");
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) return 0;
    return status ? status : -1;
}

/* Run on until the next trap. */
static int vm_run(vm *v) {
    int status;
    if (ptrace(PTRACE_CONT, v->pid, 0, 0) != 0) DIE("cont");
    if (vm_wait(v, &status) < 0) DIE("wait");
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) return 0;
    return status ? status : -1;
}

static uint64_t vm_pc(vm *v) { return (uint64_t)ptrace(PTRACE_PEEKUSER, v->pid, offsetof(struct user_regs_struct, rip), 0); }

/* ---- from store to store: what lies in between changes nothing that others see, and need not be stepped ---- */
__asm__(".text\nvm_call: syscall\nint3\n.previous");
extern const uint8_t vm_call[];

/* Let the child, stopped anywhere, call mprotect for its segment. */
static void vm_protect(vm *v, int prot) {
    struct user_regs_struct r, call;
    if (ptrace(PTRACE_GETREGS, v->pid, 0, &r) != 0) DIE("getregs");
    r.orig_rax = (unsigned long long)-1;   /* no system call is to be restarted */
    call = r;
    call.rip = (uint64_t)(uintptr_t)vm_call;
    call.rax = SYS_mprotect;
    call.rdi = (uint64_t)(uintptr_t)v->p->ctx.base;
    call.rsi = v->p->ctx.size;
    call.rdx = (unsigned)prot;
    if (ptrace(PTRACE_SETREGS, v->pid, 0, &call) != 0 || vm_run(v) != 0) DIE("a system call for the child");
    if (ptrace(PTRACE_GETREGS, v->pid, 0, &call) != 0 || call.rax != 0) DIE("mprotect for the child says %ld", (long)call.rax);
    if (ptrace(PTRACE_SETREGS, v->pid, 0, &r) != 0) DIE("setregs");
}

/* Run on until it has stored something into its segment, which has to be protected, or enters or leaves a system call, or traps.
 * Of a string instruction: one store. */
static int vm_store(vm *v) {
    int status;
    siginfo_t why;
    uint64_t pc;
    if (v->again) pc = vm_pc(v);
    else {
        if (ptrace(PTRACE_SYSCALL, v->pid, 0, 0) != 0) DIE("syscall");
        if (vm_wait(v, &status) < 0) DIE("wait");
        if (!WIFSTOPPED(status)) return status ? status : -1;
        if (WSTOPSIG(status) == SIGTRAP) return 0;
        if (WSTOPSIG(status) != SIGSEGV || ptrace(PTRACE_GETSIGINFO, v->pid, 0, &why) != 0) return status;
        uint8_t *at = why.si_addr, *base = v->p->ctx.base;
        if (at < base || at >= base + v->p->ctx.size) return status;
        pc = vm_pc(v);
        vm_protect(v, PROT_READ | PROT_WRITE);
    }
    status = vm_step(v);
    if (status == 0 && vm_pc(v) == pc) {   /* it may store without a fault as long as it is at that instruction */
        v->again++;
        return 0;
    }
    v->again = 0;
    if (status == 0) vm_protect(v, PROT_READ);
    return status;
}

/* Let the string instruction that it is at store `most` times in one go, or to its end. */
static void vm_string(vm *v, uint64_t most) {
    struct user_regs_struct r;
    if (ptrace(PTRACE_GETREGS, v->pid, 0, &r) != 0) DIE("getregs");
    const uint8_t *code = (const uint8_t *)(uintptr_t)r.rip;   /* the same program at the same place in both processes */
    int n = code[0] == 0xf3 ? 1 : 0;
    if (n && (code[n] & 0xf0) == 0x40) n++;
    if (!n || (code[n] & 0xfe) < 0xa4 || (code[n] & 0xfe) > 0xaa || (code[n] & 0xfe) == 0xa6 || (code[n] & 0xfe) == 0xa8 || r.rcx == 0)
        return;
    uint64_t pc = r.rip, after = pc + (uint64_t)n + 1, left = r.rcx > most ? r.rcx - most : 0;
    errno = 0;
    long text = ptrace(PTRACE_PEEKTEXT, v->pid, after, 0);
    if (errno || ptrace(PTRACE_POKETEXT, v->pid, after, (text & ~0xffL) | 0xcc) != 0) DIE("poke");
    r.orig_rax = (unsigned long long)-1;
    r.rcx -= left;
    v->again += r.rcx;
    if (ptrace(PTRACE_SETREGS, v->pid, 0, &r) != 0 || vm_run(v) != 0) DIE("a string instruction");
    if (ptrace(PTRACE_POKETEXT, v->pid, after, text) != 0 || ptrace(PTRACE_GETREGS, v->pid, 0, &r) != 0 || r.rip != after + 1)
        DIE("behind a string instruction");
    r.rip = left ? pc : after;
    r.rcx = left;
    if (ptrace(PTRACE_SETREGS, v->pid, 0, &r) != 0) DIE("setregs");
    if (left) return;
    v->again = 0;
    vm_protect(v, PROT_READ);
}

typedef struct {
    struct user_regs_struct regs;
    uint8_t x[16384];
    size_t xn;
    uint8_t head[offsetof(plane, stack)];
    uint8_t ctx[CTX_SAVED];
    size_t stack_n;
    uint8_t stack[VM_STACK];
} vm_snap;

static void vm_save(vm *v, vm_snap *s) {
    struct iovec io = { s->x, sizeof s->x };
    if (ptrace(PTRACE_GETREGS, v->pid, 0, &s->regs) != 0) DIE("getregs");
    if (ptrace(PTRACE_GETREGSET, v->pid, NT_X86_XSTATE, &io) != 0) DIE("getregset");
    s->xn = io.iov_len;
    memcpy(s->head, v->p, sizeof s->head);
    ctx_copy(s->ctx, &v->p->ctx, 1);
    uint8_t *top = v->p->stack + VM_STACK, *sp = (uint8_t *)(uintptr_t)s->regs.rsp - 256;
    if (sp < v->p->stack || sp > top) DIE("stack pointer");
    s->stack_n = (size_t)(top - sp);
    memcpy(s->stack, sp, s->stack_n);
}

static void vm_restore(vm *v, vm_snap *s) {
    struct iovec io = { s->x, s->xn };
    struct user_regs_struct r = s->regs;
    r.orig_rax = (unsigned long long)-1;   /* no system call is to be restarted */
    if (ptrace(PTRACE_SETREGS, v->pid, 0, &r) != 0) DIE("setregs");
    if (ptrace(PTRACE_SETREGSET, v->pid, NT_X86_XSTATE, &io) != 0) DIE("setregset");
    memcpy(v->p, s->head, sizeof s->head);
    ctx_copy(s->ctx, &v->p->ctx, 0);
    memcpy(v->p->stack + VM_STACK - s->stack_n, s->stack, s->stack_n);
}

/* ---- the segment: the pages that this small world uses ---- */
#define MAX_PAGES 4096
typedef struct {
    uint8_t *base;
    uint32_t n;
    uint64_t at[MAX_PAGES];
} pages;
typedef struct {
    uint8_t *bytes;
} seg_snap;   /* n pages of 4096 */

static void seg_alloc(seg_snap *s) {
    s->bytes = mmap(NULL, (size_t)MAX_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->bytes == MAP_FAILED) DIE("mmap");
}
static void seg_save(pages *p, seg_snap *s) {
    for (uint32_t i = 0; i < p->n; i++) memcpy(s->bytes + (size_t)i * 4096, p->base + p->at[i], 4096);
}
/* Did any byte change since s? If so, s follows. */
static int seg_follow(pages *p, seg_snap *s) {
    int changed = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        uint8_t *b = s->bytes + (size_t)i * 4096;
        if (memcmp(b, p->base + p->at[i], 4096) == 0) continue;
        memcpy(b, p->base + p->at[i], 4096);
        changed = 1;
    }
    return changed;
}
static void seg_restore(pages *p, seg_snap *s) {
    for (uint32_t i = 0; i < p->n; i++) {
        uint8_t *b = s->bytes + (size_t)i * 4096;
        if (memcmp(p->base + p->at[i], b, 4096) != 0) memcpy(p->base + p->at[i], b, 4096);
    }
}
#endif
