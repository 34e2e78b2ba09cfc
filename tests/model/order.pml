/* order.pml: order = key: one lane, its word, and who may take what, whoever dies. See README.md.
 *
 * All messages are of one key. The rings are a row of places here, filled once and cleared once, as (round, idx) is (ring.pml
 * has the rest): the redelivery ring first, then one place for each message. Blocks are used again.
 */
#ifndef NM
#define NM 3                    /* messages, published in this order */
#endif
#ifndef NB
#define NB 2                    /* blocks */
#endif
#ifndef NA
#define NA 2                    /* places of the redelivery ring: NACKS + MAXC */
#endif
#ifndef MAXC
#define MAXC 1                  /* crashes */
#endif
#ifndef NACKS
#define NACKS 1
#endif
#ifndef NC
#define NC 3
#endif                          /* consumers; the last one does not die, and recovers */
#ifndef LEAVES
#define LEAVES 0                /* consumers that settle one and go on to something else for good */
#endif
#define TIMER 4
#define PROD 5
#define NP 6

#define FREE 0
#define NEW 1
#define READY 2
#define OWNED 3
#define MOVE 4
#define DELAYED 5

byte st[NB], own[NB], gen[NB], id[NB];      /* ctl in three parts, always changed together; and the header */
byte slot[NA + NM];                         /* idx + 1; 0 = not filled yet: the walk of that ring ends there */
#define CLEARED 9
byte again_n;
byte lane;                                  /* id | idx; 0 = none yet */
#define WORD(m, b) (((m) << 2) | (b))
#define ID(w) ((w) >> 2)
#define IDX(w) ((w) & 3)
bit evt, asleep[NP], dead[NP];
byte crashes, nacks, left;

/* ghosts */
byte settled;                               /* messages 1..settled are over: in this order */
byte holder;                                /* who has been given a message and has not settled it */
bit published;                              /* all of them are */
bit firing;                                 /* the timer is at it */

#define CRASH atomic { crashes < MAXC && me < NC -> crashes++; dead[me] = 1; if :: holder == me -> holder = 0 :: else fi; goto killed }

#ifdef MUT_DELAYED_IS_OVER
#define OPEN(b) (st[b] == READY || st[b] == OWNED || st[b] == MOVE)
#else
#ifdef MUT_NEW_IS_BUSY
#define OPEN(b) (st[b] != FREE)
#else
#define OPEN(b) (st[b] == READY || st[b] == OWNED || st[b] == MOVE || st[b] == DELAYED)
#endif
#endif

inline wake() {                             /* wait.pml has the rest */
    if
    :: atomic { evt -> evt = 0; asleep[1] = 0; asleep[2] = 0; asleep[NC] = 0 }
    :: atomic { !evt -> skip }
    :: CRASH
    fi
}

/* busy = 1: the message that w names is not over. Two loads: the state, then the id. */
inline look_at(w) {
    if
    :: w == 0 -> busy = 0
    :: w != 0 ->
       if
       :: atomic { OPEN(IDX(w)) -> skip };
#ifdef MUT_ID_IGNORED
          busy = 1
#else
          if
          :: atomic { id[IDX(w)] == ID(w) -> busy = 1 }
          :: atomic { id[IDX(w)] != ID(w) -> busy = 0 }
          :: CRASH
          fi
#endif
       :: atomic { !OPEN(IDX(w)) -> busy = 0 }
       :: CRASH
       fi
    fi;
#ifdef MUT_BUSY_IGNORED
    busy = 0
#endif
}

inline route(b) {
    if
    :: atomic { slot[again_n] = b + 1; again_n++; st[b] = READY; own[b] = 0 }
    :: CRASH
    fi;
    wake()
}

proctype Consumer(byte me) {
    byte i, x, b, m, g, w;
    bit claim, passed, busy;
start:
    claim = 1;
walk:
    i = 0; passed = 0;
    do
    :: atomic { i == NA + NM -> i = 0; passed = 0 }; break
    :: i < NA + NM ->
       if :: atomic { x = slot[i] } :: CRASH fi;
       if
       :: x == 0 -> atomic { if :: i < NA -> i = NA :: else -> i = NA + NM fi }
       :: x == CLEARED -> i++; x = 0
       :: x != 0 && x != CLEARED ->
          if   /* ctl and id, the slot again (R2); NEW becomes READY */
          :: atomic { slot[i] == x && (st[x - 1] == READY || st[x - 1] == NEW) ->
                      b = x - 1; m = id[b]; g = gen[b]; st[b] = READY; own[b] = 0 }
          :: atomic { slot[i] == x && st[x - 1] != READY && st[x - 1] != NEW -> slot[i] = CLEARED }    /* taken, not cleared: help */
          :: atomic { slot[i] != x -> skip }
          :: CRASH
          fi;
          x = 0;
          if
          :: m == 0
          :: m != 0 ->
             if :: atomic { w = lane } :: CRASH fi;
             if
             :: w == WORD(m, b) -> busy = 0
             :: w != WORD(m, b) && passed -> busy = 1
             :: w != WORD(m, b) && !passed ->
                look_at(w);
#ifndef MUT_CLAIM_AFTER
                if
                :: !busy && claim ->
                   if
#ifdef MUT_CLAIM_STORED
                   :: atomic { lane = WORD(m, b) }
#else
                   :: atomic { lane == w -> lane = WORD(m, b) }
                   :: atomic { lane != w -> m = 0 }                         /* look again at the same place */
#endif
                   :: CRASH
                   fi
                :: else
                fi
#endif
             fi;
             w = 0;
             if
             :: m == 0
             :: m != 0 && busy -> atomic { busy = 0; m = 0; b = 0; g = 0;
#ifndef MUT_FORGETS_PASSED
                                 passed = 1;
#endif
                                 i++ }
             :: m != 0 && !busy && !claim -> atomic { m = 0; b = 0; g = 0; i = 0; passed = 0 }; goto start
             :: m != 0 && !busy && claim ->
                if
                :: atomic { st[b] == READY && gen[b] == g -> st[b] = OWNED; own[b] = me; gen[b]++; g = 0; passed = 0;
                            assert(m == settled + 1 && holder == 0); holder = me };
#ifdef MUT_CLAIM_AFTER
                   if :: atomic { lane = WORD(m, b) } :: CRASH fi;
#endif
                   goto took
                :: atomic { !(st[b] == READY && gen[b] == g) -> m = 0; b = 0; g = 0 }
                :: CRASH
                fi
             fi
          fi
       fi
    od;
    if
    :: settled == NM -> goto out
    :: else
    fi;
    if   /* nothing: the bit, another look without claiming, then sleep */
    :: claim -> if :: atomic { evt = 1; claim = 0 } :: CRASH fi; goto walk
    :: !claim
    fi;
    if
    :: atomic { evt -> asleep[me] = 1 }
    :: atomic { !evt -> goto start }
    :: CRASH
    fi;
end_sleep:
    if
    :: atomic { !asleep[me] -> skip }
    :: atomic { me == NC && (dead[1] || dead[2]) -> asleep[me] = 0 }
    :: atomic { asleep[me] && crashes < MAXC && me < NC -> crashes++; dead[me] = 1; asleep[me] = 0; goto killed }
    fi;
    if
    :: me == NC && (dead[1] || dead[2]) -> goto recover
    :: else -> goto start
    fi;
took:
    if :: atomic { slot[i] = CLEARED; i = 0 } :: CRASH fi;                        /* R1 */
    if
    :: atomic { holder = 0; settled = m; st[b] = FREE; own[b] = 0 };                 /* ack */
       if
       :: atomic { lane == WORD(m, b) -> lane = 0; m = 0; b = 0 }
       :: atomic { lane != WORD(m, b) -> m = 0; b = 0 }
       :: CRASH
       fi;
#ifndef MUT_NO_WAKE
       wake()
#else
       skip
#endif
       if
       :: atomic { left < LEAVES && me < NC -> left++; i = 0; goto out }
       :: goto start
       fi
    :: atomic { nacks < NACKS -> nacks++; holder = 0; st[b] = MOVE; gen[b]++; m = 0 };
       if
       :: route(b)
       :: atomic { st[b] = DELAYED; own[b] = 0 }                            /* backoff: the timer goes on */
       :: CRASH
       fi;
       b = 0
    :: CRASH
    fi;
    goto start;
recover:
    atomic { evt = 0; asleep[1] = 0; asleep[2] = 0; g = (dead[1] -> 1 : 2); b = 0 };   /* one death; announce first */
    do
    :: b == NB -> break
    :: b < NB ->
       if   /* the slot is cleared, then the block is ours */
       :: atomic { (st[b] == OWNED || st[b] == MOVE) && own[b] == g ->
                   x = 0;
                   do :: x < NA + NM -> if :: slot[x] == b + 1 -> slot[x] = CLEARED :: else fi; x++ :: else -> break od;
                   x = 0; st[b] = MOVE; own[b] = me; gen[b]++ };
          route(b)
       :: atomic { !((st[b] == OWNED || st[b] == MOVE) && own[b] == g) -> skip }
       fi;
       b++
    od;
    atomic { dead[g] = 0; b = 0; g = 0 };
    goto start;
killed:
    atomic { i = 0; x = 0; b = 0; m = 0; g = 0; w = 0; claim = 0; passed = 0; busy = 0 };
out: skip
}

proctype Timer(byte me) {
    byte b;
end_timer:
    do
    :: atomic { st[0] == DELAYED -> b = 0; st[0] = MOVE; own[0] = me; gen[0]++; firing = 1 }; route(b); atomic { b = 0; firing = 0 }
    :: atomic { st[NB - 1] == DELAYED -> b = NB - 1; st[NB - 1] = MOVE; own[NB - 1] = me; gen[NB - 1]++; firing = 1 }; route(b); atomic { b = 0; firing = 0 }
    od;
killed: skip
}

proctype Producer(byte me) {
    byte m, b, g;
    m = 1;
end_full:
    do
    :: m > NM -> break
    :: m <= NM ->
       if   /* NEW; the id is still that of the block's former life */
       :: atomic { st[0] == FREE -> b = 0; st[0] = NEW; own[0] = me; gen[0]++; g = gen[0] }
       :: atomic { st[NB - 1] == FREE -> b = NB - 1; st[NB - 1] = NEW; own[NB - 1] = me; gen[NB - 1]++; g = gen[NB - 1] }
       fi;
       atomic { id[b] = m };
       atomic { slot[NA + m - 1] = b + 1 };
       if
       :: atomic { st[b] == NEW && gen[b] == g -> st[b] = READY; own[b] = 0 }
       :: atomic { !(st[b] == NEW && gen[b] == g) -> skip }
       fi;
       wake();
       m++
    od;
    published = 1;
killed:
    atomic { m = 0; b = 0; g = 0 }
}

#ifdef STOPS
/* stopped for good in NEW, before it has written anything */
proctype Stopped() {
end_stopped:
    atomic { st[0] == FREE && gen[0] > 0 -> st[0] = NEW; own[0] = PROD; gen[0]++ }
}
#endif

/* all who could do something sleep, no death is left to be found, and not everything is settled */
#if NC == 2
#define SLEEPERS (asleep[1] + asleep[2])
#else
#define SLEEPERS (asleep[1] + asleep[2] + asleep[3])
#endif
active proctype Checker() {
end_check:
    atomic { published && settled < NM && SLEEPERS == NC - crashes - left && !dead[1] && !dead[2] && !firing &&
             st[0] != DELAYED && st[NB - 1] != DELAYED && st[0] != MOVE && st[NB - 1] != MOVE -> assert(false) }
}

init {
    atomic {
        run Consumer(1); run Consumer(NC);
#if NC > 2
        run Consumer(2);
#endif
        run Timer(TIMER); run Producer(PROD);
#ifdef STOPS
        run Stopped()
#endif
    }
}
