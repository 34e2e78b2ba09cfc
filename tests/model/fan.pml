/* fan.pml: messages for two subscriptions: commit, launch, end; deaths anywhere, lives of blocks. See README.md.
 *
 * A publisher makes ROUNDS messages, each of a parent and two children that it picks among the FREE blocks; an ender per
 * subscription takes children and ends them; a recoverer does what the dead left while the others go on; at the end Last, who
 * does not die, recovers, takes what is left, and looks whether all was right. What happens inside a ring is not here
 * (ring.pml): a child is launched by one step.
 */
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef MAXC
#define MAXC 1
#endif
#define NPAR 2                  /* parents: enough for all rounds at a time, so that nobody waits for a FREE one */
#define NB 4                    /* children */

#define FREE 0
#define NEW 1
#define FAN 2
#define READY 3
#define OWNED 4
#define MOVE 5

#define PUB 1                   /* owners: a publisher, an ender per subscription, a recoverer, Last */
#define END0 2
#define END1 3
#define REC 4
#define LAST 5

byte pst[NPAR], pgen[NPAR], pown[NPAR];     /* parents: ctl */
byte left[NPAR], lgen[NPAR];                /* how many kids are left: a hint, in one word with the life that it is of */
byte kid[2 * NPAR], kgen[2 * NPAR];         /* the list: block + 1 and its life */
byte pmsg[NPAR];                            /* the payload */
byte st[NB], gen[NB], own[NB];              /* children: ctl */
byte par[NB], home[NB];                     /* header: parent + 1; an earlier life's until it is written */
bit dead[6];
byte crashes, working = 3;
bit over, rec_over;                         /* the publisher, the recoverer is at its end */
bit committed[ROUNDS + 1];                  /* ghosts */
byte had[2 * (ROUNDS + 1)];

#define CRASH atomic { crashes < MAXC -> crashes++; dead[me] = 1; goto killed }
#define MAYDIE if :: skip :: CRASH fi
#define K(p, k) (2 * (p) + (k))
#define B(p, k) (kid[K(p, k)] - 1)
#define OVER(p, k) (st[B(p, k)] == FREE || (st[B(p, k)] == NEW && gen[B(p, k)] != kgen[K(p, k)]) || (st[B(p, k)] != NEW && par[B(p, k)] != (p) + 1))
#define IS_KID(p, b) ((kid[K(p, 0)] == (b) + 1 && kgen[K(p, 0)] == gen[b]) || (kid[K(p, 1)] == (b) + 1 && kgen[K(p, 1)] == gen[b]))

/* take a READY child of subscription i and read it: its payload is its parent's */
#define TAKE(b) st[b] == READY && home[b] == i -> st[b] = OWNED; gen[b]++; own[b] = me; x = b + 1; assert(pst[par[b] - 1] == FAN); had[2 * pmsg[par[b] - 1] + i]++
inline take(i) {
    if
    :: atomic { TAKE(0) } :: atomic { TAKE(1) } :: atomic { TAKE(2) } :: atomic { TAKE(3) }
    :: else -> x = 0
    fi
}

/* MAYDIE, and not an option beside `else`, which would only be taken when nobody can die */
inline count_down(p) {
    MAYDIE;
    if
    :: atomic { pst[p] == FAN && lgen[p] == pgen[p] -> g = pgen[p] };
       MAYDIE;
       if
       :: atomic { lgen[p] == g -> if :: left[p] > 0 -> left[p]-- :: else fi; l = left[p] };
          MAYDIE;
#ifdef MUT_NO_LOOK
          if :: atomic { l == 0 && pst[p] == FAN && pgen[p] == g -> pst[p] = FREE } :: else fi
#else
          if
          :: atomic { l == 0 && OVER(p, 0) -> skip };
             if
             :: atomic { OVER(p, 1) -> skip };
                MAYDIE;
                if :: atomic { pst[p] == FAN && pgen[p] == g -> pst[p] = FREE } :: else fi
             :: else
             fi
          :: else
          fi
#endif
       :: else
       fi
    :: else
    fi;
    l = 0; g = 0
}

/* my OWNED child b is done */
inline end_child(b) {
    atomic { p = par[b] - 1 };
#ifdef MUT_COUNT_BEFORE_FREE
    count_down(p);
    if :: atomic { st[b] == OWNED && own[b] == me -> st[b] = FREE } :: CRASH fi;
#else
    if :: atomic { st[b] == OWNED && own[b] == me -> st[b] = FREE } :: CRASH fi;
    count_down(p);
#endif
    p = 0
}

#define CLAIM(b, lower) st[b] == FREE && (lower) -> st[b] = NEW; gen[b]++; own[b] = me; x = b
inline claim_child(k) {
    if   /* the first FREE one: blocks are all alike */
    :: atomic { CLAIM(0, 1) } :: atomic { CLAIM(1, st[0] != FREE) } :: atomic { CLAIM(2, st[0] != FREE && st[1] != FREE) }
    :: atomic { CLAIM(3, st[0] != FREE && st[1] != FREE && st[2] != FREE) }
    :: CRASH
    fi;
    if :: atomic { par[x] = p + 1; home[x] = k; kid[K(p, k)] = x + 1; kgen[K(p, k)] = gen[x]; x = 0 } :: CRASH fi
}
inline launch(k) {
    if :: atomic { x = B(p, k); assert(st[x] == NEW); st[x] == NEW && own[x] == me && gen[x] == kgen[K(p, k)] -> st[x] = READY; own[x] = 0; x = 0 } :: CRASH fi
}

proctype Publisher() {
    byte me = PUB, n, p, x;
    do
    :: n == ROUNDS -> break
    :: n < ROUNDS ->
       n++;
       if
       :: atomic { pst[0] == FREE -> p = 0; pst[0] = NEW; pgen[0]++; pown[0] = me }
       :: atomic { pst[0] != FREE && pst[1] == FREE -> p = 1; pst[1] = NEW; pgen[1]++; pown[1] = me }
       :: CRASH
       fi;
       if :: atomic { pmsg[p] = n; left[p] = 2; lgen[p] = pgen[p] } :: CRASH fi;
       claim_child(0);
       claim_child(1);
#ifdef MUT_LAUNCH_EARLY
       x = B(p, 0);
       if :: atomic { st[x] = READY; own[x] = 0; pst[p] = FAN; pst[p] = NEW } :: CRASH fi;
#endif
       if :: atomic { pst[p] == NEW && pown[p] == me && pgen[p] == lgen[p] -> pst[p] = FAN; pown[p] = 0; committed[n] = 1 } :: CRASH fi;   /* COMMIT */
#ifndef MUT_LAUNCH_EARLY
       launch(0);
#endif
       launch(1);
       p = 0
    od;
killed:
    atomic { over = 1; working-- }
}

proctype Ender(byte me; byte i) {
    byte x, p, g, l;
    do
    :: take(i);
       if
       :: x > 0 -> x--; end_child(x); x = 0
       :: x == 0 && over -> break
       :: x == 0 && !over -> (over || (st[0] == READY && home[0] == i) || (st[1] == READY && home[1] == i) || (st[2] == READY && home[2] == i) || (st[3] == READY && home[3] == i))
       fi
    od;
killed:
    working--
}

inline recover_parent(p) {
    if
    :: atomic { pst[p] == NEW && dead[pown[p]] -> pst[p] = FREE }
#ifndef MUT_NO_RECOUNT
    :: atomic { pst[p] == FAN -> g = pgen[p]; m = left[p]; l = 0; if :: OVER(p, 0) :: else -> l++ fi };
       if :: atomic { OVER(p, 1) -> skip } :: else -> l++ fi;
       MAYDIE;
       if
       :: atomic { l == 0 && pst[p] == FAN && pgen[p] == g -> pst[p] = FREE }
       :: atomic { l > 0 && lgen[p] == g && pgen[p] == g && left[p] == m -> left[p] = l }
       :: else
       fi
#endif
    :: else
    fi;
    l = 0; g = 0; m = 0
}

inline recover_child(b) {
    if
    :: atomic { st[b] == NEW && dead[own[b]] -> m = gen[b]; p = par[b] };
       sure = 0;
#ifdef MUT_NO_LIFE
       if :: atomic { p > 0 && pst[p - 1] == FAN -> sure = 1 } :: else fi;
#else
#ifdef MUT_SEND_UNCOMMITTED
       if :: atomic { p > 0 && IS_KID(p - 1, b) -> sure = 1 } :: else fi;
#else
#ifndef MUT_FREE_COMMITTED
       if :: atomic { p > 0 && pst[p - 1] == FAN && IS_KID(p - 1, b) -> sure = 1 } :: else fi;
#endif
#endif
#endif
       MAYDIE;
       if
       :: atomic { sure && st[b] == NEW && gen[b] == m -> st[b] = MOVE; gen[b]++; own[b] = me }
       :: atomic { !sure && st[b] == NEW && gen[b] == m -> st[b] = FREE }
       :: else
       fi
    :: atomic { (st[b] == OWNED || st[b] == MOVE) && dead[own[b]] -> st[b] = MOVE; gen[b]++; own[b] = me }
    :: else
    fi;
    MAYDIE;
    if :: atomic { st[b] == MOVE && own[b] == me -> st[b] = READY; own[b] = 0 } :: else fi;
    m = 0; p = 0; sure = 0
}
inline recover() {
    recover_parent(0); recover_parent(1);
    recover_child(0); recover_child(1); recover_child(2); recover_child(3);
}

/* at work as soon as somebody is dead, while the others go on */
proctype Recoverer() {
    byte me = REC, p, g, l, m;
    bit sure;
    if :: dead[PUB] || dead[END0] || dead[END1] -> recover() :: working == 0 fi;
killed:
    rec_over = 1
}

proctype Last() {
    byte me = LAST, x, p, g, l, m, i, turn;
    bit sure;
    (working == 0 && rec_over);
    crashes = MAXC;
    if
    :: dead[PUB] || dead[END0] || dead[END1] || dead[REC] -> recover()
    :: else
    fi;
    i = 0;
    do
    :: i == 2 -> break
    :: i < 2 -> take(i); if :: x > 0 -> x--; end_child(x) :: x == 0 -> i++ fi
    od;
    i = 0;
    assert(pst[0] == FREE && pst[1] == FREE && st[0] == FREE && st[1] == FREE && st[2] == FREE && st[3] == FREE);   /* nothing leaks */
    i = 1;
    do
    :: i > ROUNDS -> break
    :: i <= ROUNDS ->
       assert((had[2 * i] > 0) == committed[i] && (had[2 * i + 1] > 0) == committed[i]);   /* all or none */
       assert(dead[END0] || had[2 * i] <= 1);                                              /* once, unless its taker died */
       assert(dead[END1] || had[2 * i + 1] <= 1);
       i++
    od
killed:
    skip
}

init { atomic { run Publisher(); run Ender(END0, 0); run Ender(END1, 1); run Recoverer(); run Last() } }
