/* many.pml: one thread that waits for two queues (many.c, _hub.py), a plain waiter beside it, whoever dies. See README.md. */
#ifndef PUBS0
#define PUBS0 1                 /* publishers of queue 0, a message each */
#endif
#ifndef PUBS1
#define PUBS1 1
#endif
#ifndef WANT0
#define WANT0 1                 /* what the hub's process wants of each, one after the other */
#endif
#ifndef WANT1
#define WANT1 1
#endif
#ifndef PLAIN
#define PLAIN 1                 /* a plain waiter at queue 0, that wants one */
#endif
#ifndef MAXC
#define MAXC 1                  /* crashes */
#endif
#ifndef CANCELS
#define CANCELS 1               /* waits that are cancelled, told or not */
#endif
#define HUB 0
#define CON 1
#define PUB 2                   /* 2 .. 5 */
#define REC 6
#define NP 7

byte evt[2];                    /* seq<<1 | bit */
byte ready[2];
bool queued[2];                 /* the hub's thread sleeps on that word */
bool hub_up = true;             /* it has been woken, or does not sleep */
bool control;                   /* it was nudged since it began to put its set together */
bool asleep;                    /* the plain waiter, on evt[0] */
byte want[2];                   /* who stands in line in the hub's process: changed by their event loop */
bool told[2];                    /* the first of them was told, and has not looked yet */
bool watched[2];                /* in the set, or on its way there */
bool at_it;                      /* their event loop is in the middle of something */
bool dead[NP];
byte crashes, cancels, working;

#define ALONE 9                 /* its process dies elsewhere */
#define FORGET want[0] = 0; want[1] = 0; told[0] = 0; told[1] = 0; watched[0] = 0; watched[1] = 0
#define CRASH atomic { crashes < MAXC && me != ALONE -> crashes++; dead[me] = 1; if :: me == HUB -> FORGET :: else fi; goto killed }
#define NOTHING_LEFT (want[0] + want[1] + told[0] + told[1] + watched[0] + watched[1] == 0)

inline wake_one(q, n) {         /* FUTEX_WAKE(1): the kernel chooses */
    if
    :: q == 0 && asleep -> asleep = 0; n = 1
    :: queued[q] -> queued[q] = 0; hub_up = 1; n = 1
    :: else -> n = 0
    fi
}
inline wake_everybody(q) {
    if :: q == 0 -> asleep = 0 :: else fi;
    if :: queued[q] -> queued[q] = 0; hub_up = 1 :: else fi
}
inline wake(q) {
    if
    :: atomic { (evt[q] & 1) == 0 -> skip }
    :: atomic { (evt[q] & 1) == 1 -> skip };
       if :: atomic { evt[q] = evt[q] + 2 } :: CRASH fi;
       if :: atomic { wake_one(q, n) } :: CRASH fi;
       if
       :: n > 0 -> n = 0
       :: n == 0 ->
          if :: atomic { v = evt[q] } :: CRASH fi;
          if
          :: (v & 1) == 0 -> v = 0
          :: (v & 1) == 1 ->
             if
             :: atomic { evt[q] == v -> evt[q] = v + 1; v = 0 };
                if :: atomic { wake_everybody(q) } :: CRASH fi
             :: atomic { evt[q] != v -> v = 0 }
             :: CRASH
             fi
          fi
       fi
    :: CRASH
    fi
}
inline prepare(q, s) {
    do
    :: atomic { (evt[q] & 1) == 1 -> s = evt[q] }; break
    :: atomic { (evt[q] & 1) == 0 -> s = evt[q] };
       if
       :: atomic { evt[q] == s -> s = s + 1; evt[q] = s }; break
       :: atomic { evt[q] != s -> s = 0 }
       :: CRASH
       fi
    :: CRASH
    od
}
inline pass_on(q) {
#ifndef MUT_NO_PASS
    if
    :: atomic { ready[q] > 0 -> skip }; wake(q)
    :: atomic { ready[q] == 0 -> skip }
    :: CRASH
    fi
#else
    skip
#endif
}

#define FRESH(x) (watched[x] && seen[x] == 0)
#define UNCHANGED(x) (!watched[x] || (seen[x] > 0 && evt[x] == seen[x]))
#define CHANGED(x) (watched[x] && seen[x] > 0 && evt[x] != seen[x])
/* The thread. Its process dies with it: HUB stands for both. */
proctype Hub() {
    byte me = HUB, v, n, q;
    byte seen[2];               /* 0: not in the set */
    do
    :: atomic { NOTHING_LEFT -> skip }; break
    :: atomic { !NOTHING_LEFT -> control = 0; q = 0 };
       do                       /* sort out */
       :: q == 2 -> break
       :: q < 2 ->
          if
          :: atomic { watched[q] && want[q] == 0 -> watched[q] = 0; v = seen[q]; seen[q] = 0 };
#ifndef MUT_LEAVES_SILENTLY
             if :: v > 0 -> v = 0; pass_on(q) :: else fi;
#endif
             v = 0
          :: else -> skip
          :: CRASH
          fi;
          q++
       od;
       q = 0;
look:  do
       :: q == 2 -> break
       :: q < 2 ->
          if
          :: !watched[q] -> skip
          :: watched[q] && seen[q] > 0 && evt[q] == seen[q] -> skip
          :: watched[q] && (seen[q] == 0 || evt[q] != seen[q]) ->
#ifdef MUT_ARMS_BLINDLY          /* what was armed before is armed again without a look */
             v = (seen[q] > 0);
#endif
             prepare(q, seen[q]);
             if
#ifdef MUT_ARMS_BLINDLY
             :: atomic { v == 1 -> v = 0 }
#endif
             :: atomic { ready[q] > 0 -> seen[q] = 0; watched[q] = 0;   /* told; nobody in line: passed on */
                         if :: want[q] > 0 -> want[q]--; told[q] = 1 :: else -> n = 1 fi };
                if :: n == 1 -> n = 0; pass_on(q) :: else fi
             :: atomic { ready[q] == 0 -> skip }
             :: CRASH
             fi
          :: CRASH
          fi;
          q++
       od;
       if
       :: atomic { control || FRESH(0) || FRESH(1) -> skip }                   /* nudged */
       :: atomic { !control && UNCHANGED(0) && UNCHANGED(1) ->
                   hub_up = 0; queued[0] = watched[0]; queued[1] = watched[1] };
end_sleep:
          if
          :: atomic { hub_up || control || NOTHING_LEFT -> queued[0] = 0; queued[1] = 0; hub_up = 1 }
          :: atomic { crashes < MAXC -> crashes++; dead[me] = 1; queued[0] = 0; queued[1] = 0; hub_up = 1; FORGET; goto killed }
          fi
       :: atomic { CHANGED(0) || CHANGED(1) -> skip }                          /* EAGAIN */
       :: CRASH
       fi;
       q = 0;
       if
       :: atomic { !control -> skip }; goto look
       :: atomic { control -> skip }
       fi
    od;
    goto out;
killed:
    skip;
out: atomic { v = 0; n = 0; q = 0; seen[0] = 0; seen[1] = 0; working-- }
}

/* The event loop of that process: who was told looks; somebody is cancelled. */
proctype Loop() {
    byte me = ALONE, v, n, q;
end_loop:
    do
    :: atomic { NOTHING_LEFT -> skip }; break
    :: atomic { cancels < CANCELS && want[0] > 0 -> cancels++; want[0]-- }     /* in line: the row finds out when it looks */
    :: atomic { cancels < CANCELS && want[1] > 0 -> cancels++; want[1]-- }
    :: atomic { told[0] || told[1] -> q = (told[0] -> 0 : 1); at_it = 1 };
       if
       :: atomic { told[q] && cancels < CANCELS -> cancels++; v = 1 }           /* cancelled before it could look */
       :: atomic { told[q] && ready[q] > 0 -> ready[q]-- };                     /* it takes; take.c wakes the next */
          if
          :: atomic { ready[q] > 0 -> skip }; wake(q)
          :: atomic { ready[q] == 0 -> skip }
          fi
       :: atomic { told[q] && ready[q] == 0 -> want[q]++ }                      /* others were quicker: it stands in line again */
       :: atomic { !told[q] -> skip }                                           /* its process is dead */
       fi;
       if                                                                      /* over */
       :: atomic { told[q] && want[q] > 0 -> told[q] = 0; v = 0;
#ifndef MUT_NO_REARM
                   watched[q] = 1;
#endif
                   control = 1 }
       :: atomic { told[q] && want[q] == 0 -> told[q] = 0 };
          if :: v == 1 -> v = 0; pass_on(q) :: else fi
       :: atomic { !told[q] -> v = 0 }
       fi;
       at_it = 0
    od;
killed:
    atomic { v = 0; n = 0; q = 0 }
}

proctype Plain() {
    byte me = CON, v, n, s;
    do
    :: atomic { ready[0] > 0 -> ready[0]-- };
       if
       :: atomic { ready[0] > 0 -> skip }; wake(0)
       :: atomic { ready[0] == 0 -> skip }
       :: CRASH
       fi;
       break
    :: atomic { ready[0] == 0 -> skip };
       prepare(0, s);
       if
       :: atomic { ready[0] > 0 -> s = 0 }
       :: atomic { ready[0] == 0 && evt[0] != s -> s = 0 }
       :: atomic { ready[0] == 0 && evt[0] == s -> asleep = 1; s = 0 };
end_sleep:
          if
          :: atomic { !asleep -> skip }
          :: atomic { asleep && crashes < MAXC -> crashes++; dead[me] = 1; asleep = 0; goto killed }
          fi
       :: CRASH
       fi
    :: CRASH
    od;
killed: atomic { v = 0; n = 0; s = 0; working-- }
}

proctype Publisher(byte me; byte q) {
    byte v, n;
    if :: atomic { ready[q]++ } :: CRASH fi;
    wake(q);
killed: atomic { v = 0; n = 0; working-- }
}

proctype Recoverer() {          /* does not die: wait.pml has one that does */
    byte p;
end_r:
    do
    :: atomic { dead[HUB] || dead[CON] || dead[2] || dead[3] || dead[4] || dead[5] ->
                p = (dead[HUB] -> HUB : (dead[CON] -> CON : (dead[2] -> 2 : (dead[3] -> 3 : (dead[4] -> 4 : 5))))) };
#ifndef MUT_NO_ANNOUNCE
       atomic { evt[0] = evt[0] + 2 };
       atomic { wake_everybody(0) };
       atomic { evt[1] = evt[1] + 2 };
       atomic { wake_everybody(1) };
#endif
       atomic { dead[p] = 0; p = 0 }
    od
}

#define NOBODY_DEAD (!dead[0] && !dead[1] && !dead[2] && !dead[3] && !dead[4] && !dead[5])
#define HUB_SLEEPS (!hub_up && !control && !told[0] && !told[1] && !at_it)
#define WANTED_0 (ready[0] > 0 && (asleep || (HUB_SLEEPS && want[0] > 0)))
#define WANTED_1 (ready[1] > 0 && HUB_SLEEPS && want[1] > 0)
/* Everybody who could still do something sleeps, a message is there, and somebody who sleeps wants it. */
active proctype Checker() {
end_check:
    atomic { NOBODY_DEAD && working > 0 && working == asleep + HUB_SLEEPS && (WANTED_0 || WANTED_1) -> assert(false) }
}

init {
    atomic {
        want[0] = WANT0; want[1] = WANT1;
        watched[0] = (WANT0 > 0); watched[1] = (WANT1 > 0);
        working = 1 + PLAIN + PUBS0 + PUBS1;
        run Hub(); run Loop(); run Recoverer();
#if PLAIN
        run Plain();
#endif
        run Publisher(2, 0);
#if PUBS0 > 1
        run Publisher(3, 0);
#endif
#if PUBS1 > 0
        run Publisher(4, 1);
#endif
#if PUBS1 > 1
        run Publisher(5, 1);
#endif
    }
}
