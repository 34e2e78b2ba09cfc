/* sysv.c: what the kernel says about a System V segment, and the claim: who serves it.
 *
 *   claim  word, as in owner.c: state:2 = ALIVE | where:16 | start:24 | pid:22       0 = nobody
 *
 * I1  Nothing is believed of a segment before shmq_sysv_look has said, with the segment attached, that its owner and its
 *     *creator* are this user and that nobody else may open it. The creator never changes, while the owner may be set by it:
 *     a segment that was given away keeps its giver's rights. While it is attached an id is not used again.
 * I2  One process at a time has the claim: it is taken by a CAS from nobody, or from exactly the word of a holder that is
 *     proven dead as in owner.c I2, and given back by a CAS of exactly the own word.
 * I3  Only processes that passed I1 can write the word, so nobody else can take it, forge it or keep it from us. It needs no
 *     name, no file and no room of its own, and is gone with the segment.
 *
 * "where" tells the holder's pid and time namespace, in which alone its pid and start time say anything. From elsewhere a
 * holder counts as alive, unless the segment is attached nowhere else: a holder has it attached as long as it lives. A word
 * that no holder can have written, of a segment that is ours by its header, is damage, and counts as nobody's.
 *
 * Who dies where: with the claim: its word names a dead process, and the next one takes it (a supervisor that is killed is
 * followed so). Without it: nothing is left. The place of the word is the same in every layout, so processes of
 * different builds do not serve one segment together.
 */
#define _GNU_SOURCE
#include "owner.h"
#include <errno.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int shmq_sysv_look(int id, shmq_sysv_info *out) {
    struct shmid_ds ds;
    memset(out, 0, sizeof *out);
    if (shmctl(id, IPC_STAT, &ds) != 0) return -errno;
    out->uid = ds.shm_perm.uid;
    out->creator = ds.shm_perm.cuid;
    out->mode = ds.shm_perm.mode & 0777;
    out->removed = (ds.shm_perm.mode & SHM_DEST) != 0;
    out->key = (uint32_t)ds.shm_perm.__key;
    out->attached = ds.shm_nattch;
    out->size = ds.shm_segsz;
    out->creator_pid = (uint32_t)ds.shm_cpid;
    return 0;
}

static int attached_only_here(int id) {
    shmq_sysv_info info;
    return shmq_sysv_look(id, &info) == 0 && info.attached == 1;
}

static uint64_t my_word(void) {
    uint64_t start = owner_start_of((uint32_t)getpid());
    return start ? owner_make(SHMQ_OWNER_ALIVE, segment_where(), start, (uint32_t)getpid()) : 0;
}

/* 1 = this process has it now, 0 = another one has it, negative = -errno. ``base`` is where segment ``id`` is attached. */
int shmq_sysv_claim(int id, void *base, uint64_t size) {
    shmq_header *h = base;
    if (size < SHMQ_PAGE) return -EINVAL;
    uint64_t mine = my_word();
    if (mine == 0) return -ESRCH;   /* no /proc: nobody could prove our death */
    while (madvise(base, SHMQ_PAGE, MADV_POPULATE_WRITE) != 0)
        if (errno != EINTR) return -errno;   /* an error, not a SIGBUS */
    uint64_t w = ld_sc(&h->claim);   /* the word first, then the proof, then the CAS of exactly that word */
    if (owner_state(w) == SHMQ_OWNER_ALIVE && !attached_only_here(id) && !MUTANT(62)) {
        if (w == mine) return 0;   /* by another handle */
        uint64_t stack;
        int here = owner_epoch(w) == owner_epoch(mine);
        int damaged = !here && ld_acq(&h->magic) == SHMQ_MAGIC && segment_is_here(h);
        if (!damaged && (!here || owner_word_dead(w, &stack) != SHMQ_OK)) return 0;
    }
    return cas(&h->claim, w, mine);   /* I2 */
}

/* A child that inherited the mapping is not who its word names: there this does nothing. */
void shmq_sysv_drop(void *base) {
    uint64_t mine = my_word();
    if (mine) cas(&((shmq_header *)base)->claim, mine, 0);
}
