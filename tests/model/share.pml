/* share.pml: two messages of a topic with one id, for two subscriptions that remember ids: commit, claims, deaths. See README.md.
 *
 * Publisher m makes parent m and a child for each subscription; each child is claimed in its subscription's table and is
 * launched, or found to be a duplicate and freed. A recoverer does what the dead left while the others go on and may be
 * killed; Last, who may not, recovers what is left and looks whether all was right. What happens inside a table of ids is not
 * here (dedup.pml), nor lives of blocks (fan.pml): a claim is one step, each block is used once.
 */
#ifndef MAXC
#define MAXC 2
#endif

#define FREE 0
#define NEW 1
#define FAN 2
#define READY 3
#define MOVE 5

#define REC 2                   /* owners: publishers 0 and 1, a recoverer, Last */
#define LAST 3

byte pst[2], remain[2];           /* parents: state, and how many children are left: a hint */
byte st[4], own[4], gen[4];     /* child k of message m is block 2m + k */
bit asked[4];                   /* fate: its id is still to be decided */
byte tab[2];                    /* who has the id in the subscription: message + 1 */
bit dead[4], committed[2];
byte crashes, working = 2;
bit rec_over;

#define CRASH atomic { crashes < MAXC -> crashes++; dead[me] = 1; goto killed }
#define MAYDIE if :: skip :: CRASH fi
#define OURS(b) (st[b] == MOVE && own[b] == me)
#define CLAIM(b) if \
    :: tab[(b) % 2] == 0 -> tab[(b) % 2] = (b) / 2 + 1; first = 1 \
    :: tab[(b) % 2] == (b) / 2 + 1 -> first = own_known \
    :: else -> first = 0; assert(st[2 * (tab[(b) % 2] - 1) + (b) % 2] != FREE)   /* "duplicate": then the first one's is there, or will be */ \
    fi

inline count_down(m) {
    MAYDIE;
    if
    :: atomic { remain[m] > 0 -> remain[m]-- };
       MAYDIE;
       if :: atomic { pst[m] == FAN && st[2 * m] == FREE && st[2 * m + 1] == FREE -> pst[m] = FREE } :: else fi
    :: else
    fi
}

/* my child b in MOVE: is it the first with its id? */
inline decide(b) {
    first = 1;
    if
    :: atomic { asked[b] -> CLAIM(b) };
       MAYDIE;
       if
       :: atomic { first -> asked[b] = 0 }
       :: atomic { !first -> st[b] = FREE };
#ifndef MUT_DUPLICATE_NOT_COUNTED
          count_down(((b) / 2))
#endif
       fi
    :: else
    fi;
    MAYDIE;
    if :: atomic { OURS(b) -> st[b] = READY; own[b] = 9 } :: else fi
}

inline launch(b) {
    if :: atomic { assert(st[b] == NEW && own[b] == me); st[b] = MOVE; gen[b]++ } :: CRASH fi;
#ifdef MUT_BIT_BEFORE_CLAIM
    if :: atomic { asked[b] = 0 } :: CRASH fi;
    if :: atomic { CLAIM(b); if :: first -> skip :: else -> st[b] = FREE fi } :: CRASH fi;
    if :: atomic { st[b] == FREE -> skip }; count_down(((b) / 2)) :: atomic { OURS(b) -> st[b] = READY; own[b] = 9 } fi
#else
#ifdef MUT_CLAIM_BEFORE_COMMIT
    asked[b] = 0;
    if :: atomic { st[b] == MOVE -> first = (tab[(b) % 2] == (b) / 2 + 1); if :: first -> st[b] = READY; own[b] = 9 :: else -> st[b] = FREE fi } :: CRASH fi;
    if :: st[b] == FREE -> count_down(((b) / 2)) :: else fi
#else
    decide(b)
#endif
#endif
}

proctype Publisher(byte me) {
    bit first, own_known = 1;
    if :: atomic { pst[me] = NEW } :: CRASH fi;
    if :: atomic { st[2 * me] = NEW; own[2 * me] = me; asked[2 * me] = 1 } :: CRASH fi;
    if :: atomic { st[2 * me + 1] = NEW; own[2 * me + 1] = me; asked[2 * me + 1] = 1; remain[me] = 2 } :: CRASH fi;
#ifdef MUT_CLAIM_BEFORE_COMMIT
    if :: atomic { tab[0] == 0 -> tab[0] = me + 1 } :: atomic { tab[0] != 0 -> skip } :: CRASH fi;
    if :: atomic { tab[1] == 0 -> tab[1] = me + 1 } :: atomic { tab[1] != 0 -> skip } :: CRASH fi;
#endif
    if :: atomic { pst[me] = FAN; committed[me] = 1 } :: CRASH fi;   /* COMMIT */
    launch(2 * me);
    launch(2 * me + 1);
killed:
    atomic { working-- }
}

inline recover_child(b) {
    if
    :: atomic { st[b] == NEW && dead[own[b]] -> g = gen[b] };
       if
       :: atomic { pst[(b) / 2] == FAN && st[b] == NEW && gen[b] == g -> st[b] = MOVE; gen[b]++; own[b] = me }
       :: atomic { pst[(b) / 2] != FAN && st[b] == NEW && gen[b] == g -> st[b] = FREE }
       :: else
       fi
    :: atomic { st[b] == MOVE && dead[own[b]] -> gen[b]++; own[b] = me }
    :: else
    fi;
    MAYDIE;
    if
    :: atomic { OURS(b) -> skip };
#ifdef MUT_SEND_UNASKED
       asked[b] = 0;
#endif
       decide(b)
    :: else
    fi;
    g = 0
}
inline recover_parent(m) {
    if
    :: atomic { pst[m] == NEW && dead[m] -> pst[m] = FREE }
    :: atomic { pst[m] == FAN && st[2 * m] == FREE && st[2 * m + 1] == FREE -> pst[m] = FREE }
    :: atomic { pst[m] == FAN && (st[2 * m] != FREE || st[2 * m + 1] != FREE) -> remain[m] = (st[2 * m] != FREE) + (st[2 * m + 1] != FREE) }
    :: else
    fi
}
inline recover() {
    recover_child(0); recover_child(1); recover_child(2); recover_child(3);
    recover_parent(0); recover_parent(1)
}

proctype Recoverer() {
    byte me = REC, g;
#ifdef MUT_OWN_UNKNOWN
    bit first, own_known = 0;
#else
    bit first, own_known = 1;
#endif
    if :: dead[0] || dead[1] -> recover() :: working == 0 fi;
killed:
    rec_over = 1
}

proctype Last() {
    byte me = LAST, g, k, n;
#ifdef MUT_OWN_UNKNOWN
    bit first, own_known = 0;
#else
    bit first, own_known = 1;
#endif
    (working == 0 && rec_over);
    crashes = MAXC;
    if :: dead[0] || dead[1] || dead[REC] -> recover() :: else fi;
    do
    :: k == 2 -> break
    :: k < 2 ->
       n = (st[k] == READY) + (st[2 + k] == READY);
       assert(n == (committed[0] || committed[1]));                     /* one in each subscription, if there is any */
       assert((st[k] == READY || st[k] == FREE) && (st[2 + k] == READY || st[2 + k] == FREE));
       assert((pst[k] == FREE) == (st[2 * k] == FREE && st[2 * k + 1] == FREE));   /* parents go with their last child */
       k++
    od
killed:
    skip
}

init { atomic { run Publisher(0); run Publisher(1); run Recoverer(); run Last() } }
