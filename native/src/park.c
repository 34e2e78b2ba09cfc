/* park.c: messages that are due and find their queue full wait there, in order, and cost nothing until somebody makes room.
 *
 *   block    MOVE(me) --ticket, CAS--> DELAYED+PARKED --CAS--> MOVE(x)+PARKED --> into the ring (route_enter): READY
 *            pos = ring 0xffff | ticket:48              ^                  |
 *                                                       '-- no room: ------'   ticket 0: it goes on being the first
 *   record   parked   count:31 | some:1     set after the CAS to PARKED; cleared by who has seen that nobody waits
 *            note[256]  count:40 | idx+1:24   who began to wait as of which count: spares looking at all blocks
 *            tickets, turn, disturbed
 *   line     private: the next ones in the order of tickets, from one look at all blocks or from the notes
 *
 * Truth is ctl with PARKED, fate's home and the ticket; all else is hints. Whoever makes room (takes, purges, drops, expires) and
 * sees `some` sends the first one on (route.c, unpark.c).
 *
 * I1  FOUND. `some` is set after the CAS to PARKED, and then the parker looks for room; who has made room looks at `some` after that.
 *     Each with a full fence in between (PARKED): one of the two sees the other.
 * I2  ORDER. Messages that one process parks are sent on in the order in which it parked them. A ticket is taken before the CAS to
 *     PARKED. A look at all blocks uses those with tickets up to the one that was the last before it: whoever is missed, because it
 *     was parked behind the look's back, has a later ticket than all of its process that count. Notes are by count, taken after the CAS; a
 *     noted block with a later ticket than that last one holds another message by now: then all blocks are looked at.
 * I3  TURN. A process that sends on has the turn of the queue, so that a second one does not overtake it. It is not a lock: it protects
 *     nothing but the order. It is taken from who is dead only when that one's recovery is complete, and what it held has been put back
 *     (ticket 0): it may still be in the hands of one of several who recovered it, and he may be dead as well.
 *     From one who has not moved for a second it is taken: the order of the message in its hands is lost, nothing else.
 * I4  `some` is cleared by a CAS of the very word that was read before the look that found nobody: who parks afterwards changes it.
 * I5  disturbed: recovery has put something in front, or seen a message whose parker died before it said so: lines made before are void.
 * I6  USED AGAIN. A line is private and may be old: its blocks may hold other messages by now, which wait as well. One is sent on only if
 *     its ticket is not later than the line's. A message skipped so was parked after the line was made: the next look finds it.
 *
 * Who dies where: with a ticket: MOVE(dead), routed by recovery, parked behind the others. After the CAS to PARKED: recovery sees the
 * flag and says `some` for it. After that, before the note: a note is missing, and a look at all blocks takes its place. In MOVE+PARKED:
 * recovery puts it back as the first one (I3). With the turn: recovery sends on when it is done. With `some` cleared wrongly: cannot be (I4).
 */
#include "park.h"
#include "clock.h"
#include "hints.h"
#include "sort.h"

#define COUNT_MASK UINT32_C(0x7fffffff)
#define PATIENCE UINT64_C(1000000000)

/* `some`, and a count that is nobody else's. */
static uint32_t say_some(shmq_queue *rec) {
    for (;;) {   /* bounded by others' progress */
        uint32_t w = ld32_rlx(&rec->parked), n = (w + 2) | 1;
        if (cas32(&rec->parked, w, n)) return n >> 1;
    }
}

/* Let a message that the caller owns in MOVE wait at its queue. One that comes from there (PARKED) goes on being the first. */
void park(shmq_ctx *ctx, local_queue *q, uint32_t idx, uint64_t ctl) {
    shmq_block *b = block_at(ctx, idx);
    uint64_t expires = expires_of(b), ticket = add(&q->shared->tickets, 1) + 1;
    if ((ctl_flags(ctl) & SHMQ_FLAG_PARKED) && !MUTANT(78)) ticket = 0;
    st_rlx(&b->pos, pos_make(0xffff, ticket));
    CRASH_POINT("ticket");
    if (!cas(&b->ctl, ctl, ctl_to(ctl, SHMQ_DELAYED, 0) | PARKED_CTL)) return;   /* COMMIT route */
    CRASH_POINT("parked");
    uint32_t count = say_some(q->shared);
    CRASH_POINT("parked_said");
    st_rel(&q->shared->note[count % SHMQ_NOTES].word, (uint64_t)count << 24 | (idx + 1));
    hints_expiry(ctx, expires);
}

/* I5. */
void park_disturb(shmq_ctx *ctx, uint32_t index) {
    if (index >= SHMQ_QUEUES || index >= queues_used(ctx)) return;
    say_some(&ctx->queues[index]);
    add32(&ctx->queues[index].disturbed, 1);
}

/* ---- the turn (I3) ---- */

uint64_t park_turn_of(shmq_ctx *ctx) {
    return (uint64_t)(ctx->self + 1) << 48 | (uint64_t)owner_epoch(ctx->self_word) << 32 | owner_pid(ctx->self_word);
}

/* Is whoever had that turn gone, and recovered? */
static int turn_over(shmq_ctx *ctx, uint64_t turn) {
    uint64_t owner = (turn >> 48) - 1;
    if (owner >= ctx->geometry.processes) return 1;
    uint64_t w = ld_acq(&ctx->owners[owner].word);
    if (MUTANT(79) && owner_state(w) == SHMQ_OWNER_DEAD) return 1;
    return owner_state(w) == SHMQ_OWNER_FREE || owner_epoch(w) != ((turn >> 32) & 0xffff) || owner_pid(w) != (uint32_t)turn;
}

/* A message that waited at q and is in the hands of somebody else, by its ctl; 0 = there is none. */
static uint64_t in_hands(shmq_ctx *ctx, local_queue *q, uint64_t *seen, uint32_t *at) {
    uint32_t index = queue_index(ctx, q);
    /* the one of the last look, still */
    if (*seen && block_known(ctx, *at) && ld_acq(&block_at(ctx, *at)->ctl) == *seen) return *seen;
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        uint32_t idx = walk.idx;
        uint64_t c = ld_acq(&block_at(ctx, idx)->ctl);
        if (ctl_state(c) != SHMQ_MOVE || !(ctl_flags(c) & SHMQ_FLAG_PARKED) || ctl_owner(c) == ctx->self) continue;
        if (fate_home(ld_rlx(&block_at(ctx, idx)->fate)) != index) continue;
        *at = idx;
        return *seen = c;
    }
    return *seen = 0;
}

/* Has that owner been in one and the same operation for a second, with the same thing in its hands? */
static int stuck(shmq_ctx *ctx, local_queue *q, uint64_t what, uint64_t owner) {
    if (owner >= ctx->geometry.processes) return 1;
    uint64_t op = ld_acq(&ctx->owners[owner].op), now = clock_now(ctx);
    if (q->turn_seen != what || q->turn_op != op) {
        q->turn_seen = what;
        q->turn_op = op;
        q->turn_since = now;
    }
    return (op & 1) && now - q->turn_since > PATIENCE;
}

int park_turn_take(shmq_ctx *ctx, local_queue *q) {
    uint64_t w = ld_sc(&q->shared->turn), mine = park_turn_of(ctx), held;
    if (w && w != mine) {   /* I3 */
        if (!turn_over(ctx, w)) {
            if (!stuck(ctx, q, w, (w >> 48) - 1)) return 0;
        } else if ((held = MUTANT(91) ? 0 : in_hands(ctx, q, &q->held_seen, &q->held_at)) && !stuck(ctx, q, held, ctl_owner(held)))
            return 0;
    }
    return cas(&q->shared->turn, w, mine);
}

/* ---- the line: who is next ---- */

parked_line *park_line(shmq_ctx *ctx, local_queue *q) {
    parked_line *l = &ctx->lines[queue_index(ctx, q) % LINES];
    if (l->live != q->live) {
        l->live = q->live;
        l->known = 0;
        l->n = l->next = 0;
    }
    return l;
}

static void line_fill(shmq_ctx *ctx, parked_line *l, uint32_t n, uint32_t count) {
    keyed_sort(ctx->pick, n);
    memcpy(l->at, ctx->pick, n * sizeof *l->at);
    l->n = n;
    l->next = 0;
    l->count = count;
}

/* Does a message wait in that block at that queue? */
int park_waits_at(shmq_ctx *ctx, uint32_t idx, uint32_t index, uint64_t *ctl) {
    uint64_t c = ld_acq(&block_at(ctx, idx)->ctl);
    *ctl = c;
    return ctl_state(c) == SHMQ_DELAYED && (ctl_flags(c) & SHMQ_FLAG_PARKED) && fate_home(ld_rlx(&block_at(ctx, idx)->fate)) == index;
}

/* The same; and the ticket with which it waits. */
static int ticket_at(shmq_ctx *ctx, uint32_t idx, uint32_t index, uint64_t *ctl, uint64_t *ticket) {
    if (!park_waits_at(ctx, idx, index, ctl)) return 0;
    *ticket = pos_position(ld_acq(&block_at(ctx, idx)->pos));
    return ld_acq(&block_at(ctx, idx)->ctl) == *ctl;   /* no other message's home and ticket */
}

/* Does the next one of the line still wait, by which word? Not another one in its block (I6). */
int park_waits_next(shmq_ctx *ctx, local_queue *q, parked_line *l, uint64_t *ctl) {
    keyed_block *one = &l->at[l->next];
    uint64_t ticket;
    return ticket_at(ctx, one->idx, queue_index(ctx, q), ctl, &ticket) && (ticket <= one->key || MUTANT(96));
}

/* What was parked since the line was whole. 0 = a note is missing. */
static int line_from_notes(shmq_ctx *ctx, local_queue *q, parked_line *l, uint32_t count, uint64_t last) {
    uint32_t since = (count - l->count) & COUNT_MASK, n = 0, index = queue_index(ctx, q);
    if (since > SHMQ_NOTES) return 0;
    for (uint32_t i = 0; i < since; i++) {
        uint32_t at = (l->count + 1 + i) & COUNT_MASK;
        uint64_t w = ld_acq(&q->shared->note[at % SHMQ_NOTES].word), c;
        keyed_block one = { .idx = (uint32_t)(w & 0xffffff) - 1 };
        if (w >> 24 != at || !block_known(ctx, one.idx)) return 0;
        if (!ticket_at(ctx, one.idx, index, &c, &one.key)) continue;   /* it has been sent on since */
        if (one.key > last) return 0;   /* I2 */
        ctx->pick[n++] = one;
    }
    line_fill(ctx, l, n, count);
    return 1;
}

static void line_from_blocks(shmq_ctx *ctx, local_queue *q, parked_line *l, uint32_t count, uint64_t last) {
    uint64_t highest = 0, c;
    uint32_t n = 0, index = queue_index(ctx, q);
    l->whole = 1;
    for (block_walk walk = { 0 }; block_next(ctx, &walk);) {
        keyed_block one = { .idx = walk.idx };
        if (!ticket_at(ctx, one.idx, index, &c, &one.key)) continue;
        int later = one.key > last;
        if (one.key > highest) highest = one.key;
        if (later || n == LINE) l->whole = 0;
        if (!later) n = keyed_lowest(ctx->pick, n, LINE, one);
    }
    /* no history gives a ticket that was not taken */
    for (last = ld_acq(&q->shared->tickets); highest > (last & POSITION_MASK); last = ld_acq(&q->shared->tickets))
        if (cas(&q->shared->tickets, last, highest)) add32(&ctx->header->corrupt, 1);
    line_fill(ctx, l, n, count);
}

/* The first one that waits; NOBODY: none does, as far as known. The caller has the turn. */
uint32_t park_next(shmq_ctx *ctx, local_queue *q, parked_line *l) {
    uint32_t disturbed = ld32_acq(&q->shared->disturbed);
    if (l->known && l->disturbed == disturbed && l->next < l->n) return l->at[l->next].idx;
    uint64_t last = ld_sc(&q->shared->tickets) & POSITION_MASK;   /* I2: before the count, and before the first block is looked at */
    uint32_t count = ld32_sc(&q->shared->parked) >> 1;
    int noted = l->known && l->disturbed == disturbed && l->whole && line_from_notes(ctx, q, l, count, last);
    if (!noted) line_from_blocks(ctx, q, l, count, last);
    l->known = 1;
    l->disturbed = disturbed;
    return l->n ? l->at[0].idx : NOBODY;
}

/* I4. Nobody waits, by a line that was whole: say so. 0 = somebody may. */
int park_over(local_queue *q, parked_line *l) {
    l->known = 0;
    return l->whole && cas32(&q->shared->parked, l->count << 1 | 1, l->count << 1);
}

/* ---- sending on ---- */
