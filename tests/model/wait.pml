/* wait.pml: the event count evt = seq<<1 | bit and who sleeps on it, whoever dies. See README.md. */
#ifndef NC
#define NC 3                    /* consumers: 1..NC */
#endif
#ifndef NPUB
#define NPUB 2                  /* publishers: NC+1..NC+NPUB */
#endif
#ifndef MAXC
#define MAXC 2                  /* crashes */
#endif
#ifndef LEAVES
#define LEAVES 1                /* how many waits may end by timeout, signal or cancel */
#endif
#ifndef BATCH
#define BATCH 1                 /* messages a publisher makes visible before it wakes once */
#endif
#ifndef GETS
#define GETS 1                  /* messages a consumer takes before it goes on to something else for good */
#endif
#define R1ID (NC + NPUB + 1)    /* a recoverer that may die */
#define R2ID (NC + NPUB + 2)    /* one that does not */
#define NP (NC + NPUB + 3)

byte evt;
byte ready;                     /* messages in the ring; a take is one step here (ring.pml has the rest) */
bit asleep[NP];
bit dead[NP];                   /* dead and not recovered yet */
byte crashes, leaves;
byte working = NC + NPUB;        /* consumers and publishers that are neither finished nor dead */

#define CRASH atomic { crashes < MAXC && me != R2ID -> crashes++; dead[me] = 1; goto killed }

inline wake_one(n) {            /* FUTEX_WAKE(1): the kernel chooses */
    if
    :: asleep[1] -> asleep[1] = 0; n = 1
    :: NC > 1 && asleep[2] -> asleep[2] = 0; n = 1
    :: NC > 2 && asleep[NC] -> asleep[NC] = 0; n = 1
    :: else -> n = 0
    fi
}
inline wake_everybody() { asleep[1] = 0; asleep[2] = 0; asleep[NC] = 0 }

inline wake() {
    if
    :: atomic { (evt & 1) == 0 -> skip }
    :: atomic { (evt & 1) == 1 -> skip };
       if :: atomic { evt = evt + 2 } :: CRASH fi;
       if :: atomic { wake_one(n) } :: CRASH fi;
       if
       :: n > 0 -> n = 0
       :: n == 0 ->
          if :: atomic { v = evt } :: CRASH fi;
          if
          :: (v & 1) == 0 -> v = 0
          :: (v & 1) == 1 ->
             if
#ifdef MUT_CLEAR_SAME_SEQ
             :: atomic { evt == v -> evt = v - 1; v = 0 };
#else
             :: atomic { evt == v -> evt = v + 1; v = 0 };     /* (v + 2) & ~1 */
#endif
#ifndef MUT_NO_SECOND_WAKE
                if :: atomic { wake_everybody() } :: CRASH fi
#endif
             :: atomic { evt != v -> v = 0 }
             :: CRASH
             fi
          fi
       fi
    :: CRASH
    fi
}

/* set the bit unless it is set: v becomes the value to sleep on */
inline prepare() {
    do
    :: atomic { (evt & 1) == 1 -> v = evt }; break
    :: atomic { (evt & 1) == 0 -> v = evt };
       if
       :: atomic { evt == v -> v = v + 1; evt = v }; break
       :: atomic { evt != v -> v = 0 }
       :: CRASH
       fi
    :: CRASH
    od
}

proctype Consumer(byte me) {
    byte v, n, got;
    do
    :: got == GETS -> break
    :: got < GETS ->
       if
       :: atomic { ready > 0 -> ready--; got++ };               /* took one */
#ifndef MUT_NO_CHAIN
          if   /* more work: wake one more */
          :: atomic { ready > 0 -> skip }; wake()
          :: atomic { ready == 0 -> skip }
          :: CRASH
          fi
#endif
       :: atomic { ready == 0 -> skip };
#ifdef MUT_NO_RECHECK
          prepare();
#else
#ifdef MUT_REGISTER_AFTER_LOOK
          if :: atomic { ready > 0 -> v = 1 } :: atomic { ready == 0 -> v = 0 } :: CRASH fi;
          if :: v == 1 -> v = 0; goto again :: v == 0 fi;
          prepare();
#else
          prepare();
          if :: atomic { ready > 0 -> v = 0; goto again } :: atomic { ready == 0 -> skip } :: CRASH fi;
#endif
#endif
          if
          :: atomic { evt != v -> v = 0 }                        /* EAGAIN */
          :: atomic { evt == v -> asleep[me] = 1; v = 0 };
end_sleep:
             if
             :: atomic { !asleep[me] -> skip }
             :: atomic { leaves < LEAVES && asleep[me] -> leaves++; asleep[me] = 0; goto leave }
             :: atomic { asleep[me] && crashes < MAXC -> crashes++; dead[me] = 1; asleep[me] = 0; goto killed }
             fi;
             if   /* woken, but a signal or a cancel ends the wait before it takes */
             :: atomic { leaves < LEAVES -> leaves++; goto leave }
             :: skip
             :: CRASH
             fi
          :: CRASH
          fi;
again:    skip
       :: CRASH
       fi
    od;
    atomic { got = 0; working--; goto out };
leave:
#ifndef MUT_NO_BATON
    if
    :: atomic { ready > 0 -> skip }; wake()
    :: atomic { ready == 0 -> skip }
    :: CRASH
    fi;
#endif
    atomic { got = 0; working--; goto out };
killed:
    atomic { v = 0; n = 0; got = 0; working-- };
out: skip
}

proctype Publisher(byte me) {
    byte v, n, k;
    do
    :: k < BATCH -> if :: atomic { ready++; k++ } :: CRASH fi
    :: k == BATCH -> k = 0; break
    od;
    wake();
    atomic { working--; goto out };
killed:
    atomic { v = 0; n = 0; k = 0; working-- };
out: skip
}

/* proven dead: every queue evt += 2 and everybody is woken, without looking at the bit, before anything else */
proctype Recoverer(byte me) {
    byte p;
end_r:
    do
    :: atomic { (me == R1ID || dead[R1ID]) && (dead[1] || dead[2] || dead[3] || dead[4] || dead[NC + NPUB] || dead[R1ID]) ->
                p = (dead[1] -> 1 : (dead[2] -> 2 : (dead[3] -> 3 : (dead[4] -> 4 : (dead[NC + NPUB] -> NC + NPUB : R1ID))))) };
#ifdef MUT_FILTERED_ANNOUNCE
       if
       :: atomic { (evt & 1) == 1 -> evt = evt + 2 };
          if :: atomic { wake_everybody() } :: CRASH fi
       :: atomic { (evt & 1) == 0 -> skip }
       :: CRASH
       fi;
#else
#ifndef MUT_NO_ANNOUNCE
       if :: atomic { evt = evt + 2 } :: CRASH fi;
       if :: atomic { wake_everybody() } :: CRASH fi;
#endif
#endif
       if :: atomic { dead[p] = 0; p = 0 } :: CRASH fi           /* DEAD(e) -> FREE(e+1) */
    od;
killed:
    p = 0
}

#if NC == 2
#define SLEEPERS (asleep[1] + asleep[2])
#else
#define SLEEPERS (asleep[1] + asleep[2] + asleep[3])
#endif
/* all who could still do something sleep, no death is left to be found, and a message is there: slept for good */
active proctype Checker() {
end_check:
    atomic { working == SLEEPERS && working > 0 && ready > 0 &&
             !dead[1] && !dead[2] && !dead[3] && !dead[4] && !dead[NC + NPUB] && !dead[R1ID] -> assert(false) }
}

init {
    atomic {
        run Consumer(1); run Consumer(2);
#if NC > 2
        run Consumer(3);
#endif
        run Publisher(NC + 1);
#if NPUB > 1
        run Publisher(NC + 2);
#endif
        run Recoverer(R1ID);
        run Recoverer(R2ID)
    }
}
