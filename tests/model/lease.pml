/* lease.pml: leases that end by the clock against a paused taker, ack, touch, views and LIMBO. See README.md.
 *
 * The protocol is that of core.inc with one block more to a take: the held entry is a lease (with a deadline) and a view hazard.
 * Ring: one slot is enough here; a position occurs once.
 */
#define NB 1
#ifndef NM
#define NM 2                    /* messages; all through the same block */
#endif
#ifndef MAXC
#define MAXC 1
#endif
#ifndef TICKS
#define TICKS 1                 /* how many deadlines may pass */
#endif
#ifndef TOUCHES
#define TOUCHES 1
#endif
#ifndef KEEPS
#define KEEPS 0                 /* how many deliveries are nacked while a view of them lives on */
#endif
#define NP 6
#define PROD 1
#define SIDE 4
#define REC 5

#define FREE 0
#define NEW 1
#define READY 2
#define OWNED 3
#define MOVE 4
#define LIMBO 5
#define VIEWED 64
#define ST(c) ((c) & 7)
#define OWN(c) (((c) >> 3) & 7)
#define GEN(c) ((c) >> 7)
#define TO(c, st, o) (((c) & 32704) | (st) | ((o) << 3))
#define NEXT(c, st, o) (TO(c, st, o) + 128)
#define NOFLAG(c) ((c) & 32703)
#define TAKEABLE(c) (ST(c) == READY || ST(c) == NEW || ST(c) == MOVE)
#define HV 1                    /* held flag: only a view keeps the block */
#define HELD(f, g) ((f) | ((g) << 1) | 16384)
#define HGEN(e) (((e) & 16383) >> 1)

short ctl;
byte slot;                      /* 0 = empty, else position+1 of the enqueue that filled it (a position occurs once) */
byte pos;
byte next = 1;                  /* the next position */
short held[NP];                 /* the entry of the lease */
#if KEEPS
short kept[NP];                 /* a second entry, of a view that outlives a nack; a scan may pass it first */
byte keeps;
#endif
bit late[NP];                   /* the deadline of the entry has passed */
bit dead[NP];                   /* dead, not recovered */
bit gone[NP];                   /* dead */

byte msg;                       /* payload */
byte view[NP];                  /* ghost: reads that payload */
bit touched[NP];                /* ghost: touch() has returned OK and no tick came since */
bit acked[NM + 1], pub[NM + 1];
byte crashes, ticks, touches;

#define CRASH atomic { crashes < MAXC && me != PROD && me != REC -> crashes++; dead[me] = 1; gone[me] = 1; view[me] = 0; touched[me] = 0; goto killed }

/* LIMBO -> FREE when no entry of a living owner names the block */
inline limbo_check() {
    if
    :: atomic { ST(ctl) != LIMBO -> skip }
    :: atomic { ST(ctl) == LIMBO -> lc = ctl; lo = 2 };
       do
       :: lo == 4 -> break
       :: lo < 4 ->
#ifdef MUT_LIMBO_NOT_CHECKED
          lo++
#else
#if KEEPS
          if
          :: atomic { kept[lo] != 0 -> lo = 9 }; break
          :: atomic { kept[lo] == 0 -> skip }
          :: CRASH
          fi;
#endif
          if
          :: atomic { held[lo] != 0 -> lo = 9 }; break     /* of one whose owner word is ALIVE */
          :: atomic { held[lo] == 0 -> lo++ }
          :: CRASH
          fi
#endif
       od;
       if
       :: lo == 9
       :: lo != 9 ->
          if
          :: atomic { ctl == lc -> ctl = NOFLAG(TO(lc, FREE, 0)) }
          :: atomic { ctl != lc -> skip }
          :: CRASH
          fi
       fi;
       lc = 0; lo = 0
    :: CRASH
    fi
}

#define FREED assert(!acked[msg]); acked[msg] = 1
/* w -> FREE, or LIMBO when a view may be alive; ok = 1 unless the lease had moved on */
inline free_block() {
    if
#ifndef MUT_NO_LIMBO
    :: (w & VIEWED) != 0 ->
       if
       :: atomic { ctl == w -> ctl = TO(w, LIMBO, 0); w = 0; ok = 1; FREED }; limbo_check()
       :: atomic { ctl != w -> w = 0; ok = 0 }
       :: CRASH
       fi
    :: (w & VIEWED) == 0 ->
#else
    :: true ->
#endif
       if
       :: atomic { ctl == w -> ctl = NOFLAG(TO(w, FREE, 0)); w = 0; ok = 1; FREED }
       :: atomic { ctl != w -> w = 0; ok = 0 }
       :: CRASH
       fi
    fi
}

/* MOVE(me) or NEW(me) into the slot. A slot that names a taken block is cleared in passing. */
inline enqueue() {
    do
    :: atomic { slot == 0 -> q = next; next++ };       /* the position; it is nobody else's */
       if :: atomic { pos = q } :: CRASH fi;
       if
       :: atomic { slot == 0 -> slot = q; q = 0; if :: ST(w) == NEW -> pub[msg] = 1 :: else fi }; break
       :: atomic { slot != 0 -> q = 0 }
       :: CRASH
       fi
    :: atomic { slot != 0 -> q = slot };
       if
       :: atomic { TAKEABLE(ctl) -> skip }
       :: atomic { !TAKEABLE(ctl) -> skip };
          if :: atomic { slot == q -> slot = 0; q = 0 } :: atomic { slot != q -> q = 0 } :: CRASH fi
       :: CRASH
       fi;
       q = 0
    :: CRASH
    od;
    if
    :: atomic { ctl == w -> ctl = TO(w, READY, 0) }
    :: atomic { ctl != w -> skip }
    :: CRASH
    fi;
    w = 0
}

proctype Producer(byte me) {
    byte m, q;
    short w;
    m = 1;
end_p:
    do
    :: m > NM -> break
    :: m <= NM ->
       /* FREE -> NEW(me): from here on the payload is overwritten */
end_alloc:
       atomic { ST(ctl) == FREE ->
                assert(view[2] == 0 && view[3] == 0);
                w = NEXT(ctl, NEW, me); ctl = w; msg = m };
       enqueue();
       m++
    od;
    goto out;
killed:                         /* never: the producer is not killed here, see ring.pml */
    skip;
out: skip
}

proctype Consumer(byte me) {
    byte s, q, ok, lo;
    short w, c, lc, e;
end_c:
    do
    :: atomic { slot != 0 -> s = slot };
       if
       :: atomic { TAKEABLE(ctl) -> c = ctl };
          if
          :: atomic { slot != s -> s = 0; c = 0 }
          :: atomic { slot == s -> skip };
#ifndef MUT_HELD_AFTER
             if :: atomic { late[me] = 0; held[me] = HELD(0, GEN(c) + 1) } :: CRASH fi;
#endif
             if
             :: atomic { ctl == c -> ctl = NEXT(c, OWNED, me); w = ctl; c = 0; ok = 1; assert(pub[msg]); view[me] = msg;
                         assert(held[me] == HELD(0, GEN(w))) };  /* else the clock cannot end it */;
#ifdef MUT_HELD_AFTER
                if :: atomic { late[me] = 0; held[me] = HELD(0, GEN(w)) } :: CRASH fi;
#endif
                if
                :: atomic { slot == s -> slot = 0; s = 0 }
                :: atomic { slot != s -> s = 0 }
                :: CRASH
                fi
             :: atomic { ctl != c -> c = 0; s = 0 };
                if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi;
#ifndef MUT_NO_RECHECK_AFTER_FAILED_TAKE
                limbo_check()
#endif
             :: CRASH
             fi
          :: CRASH
          fi
       :: atomic { !TAKEABLE(ctl) -> skip };
          if :: atomic { slot == s -> slot = 0; s = 0 } :: atomic { slot != s -> s = 0 } :: CRASH fi
       :: CRASH
       fi;
       if
       :: ok == 0
       :: ok == 1 ->
          ok = 0;
          /* touch? */
          if
          :: atomic { touches < TOUCHES -> touches++; late[me] = 0 };       /* the deadline first */
#ifdef MUT_TOUCH_DEADLINE_ONLY
             atomic { touched[me] = 1 - late[me]; ok = 1 }
#else
             if :: atomic { held[me] = HELD(0, GEN(w) + 1) } :: CRASH fi;
             if
             :: atomic { ctl == w -> ctl = NEXT(w, OWNED, me); w = ctl; touched[me] = 1 - late[me]; ok = 1 }
             :: atomic { ctl != w -> w = 0; ok = 0 };                       /* stale: the entry is now the view's */
#ifndef MUT_TOUCH_DROPS_VIEW
                if :: atomic { held[me] = held[me] | HV } :: CRASH fi;
                view[me] = 0;
#endif
                if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi;
                limbo_check();
                view[me] = 0
             :: CRASH
             fi
#endif
          :: true -> ok = 1
          :: CRASH
          fi;
          if
          :: ok == 0
          :: ok == 1 ->
             ok = 0;
             if
             :: /* ack; no view outlives it */
                atomic { view[me] = 0; touched[me] = 0 };
#ifdef MUT_ENTRY_KEPT
                free_block();
                if :: ok == 1 -> ok = 0; if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi
                :: ok == 0 -> if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi
                fi
#else
                if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi;
                free_block();
                if
                :: ok == 1 -> ok = 0
#ifdef MUT_NO_RECHECK_AFTER_STALE
                :: ok == 0
#else
                :: ok == 0 -> limbo_check()
#endif
                fi
#endif
#if KEEPS
             :: /* nack while a view lives on: a second entry first */
                atomic { keeps < KEEPS -> keeps++ };
                if :: atomic { kept[me] = HELD(HV, GEN(w)); touched[me] = 0 } :: CRASH fi;
                if
                :: atomic { ctl == w -> w = w | VIEWED; ctl = w };
                   if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi;
                   if
                   :: atomic { ctl == w -> w = NEXT(w, MOVE, me); ctl = w }; enqueue()
                   :: atomic { ctl != w -> w = 0 }; limbo_check()
                   :: CRASH
                   fi;
                   view[me] = 0;
                   if :: atomic { kept[me] = 0 } :: CRASH fi;
                   limbo_check()
                :: atomic { ctl != w -> w = 0 };      /* the lease is over: its own entry, in place, goes on as the view's */
#ifdef MUT_KEEP_THE_NEW_ENTRY
                   if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi;
                   view[me] = 0;
                   if :: atomic { kept[me] = 0 } :: CRASH fi;
#else
                   if :: atomic { held[me] = held[me] | HV } :: CRASH fi;
                   if :: atomic { kept[me] = 0 } :: CRASH fi;
                   view[me] = 0;
                   if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi;
#endif
                   limbo_check()
                :: CRASH
                fi
#endif
             :: /* ack while a view lives on: the entry stays and the block waits in LIMBO */
#ifndef MUT_VIEW_ENTRY_CLEARED
                if :: atomic { held[me] = HELD(HV, GEN(w)); touched[me] = 0 } :: CRASH fi;
#else
                if :: atomic { held[me] = 0; touched[me] = 0 } :: CRASH fi;
#endif
                if
#ifdef MUT_VIEW_NOT_FLAGGED
                :: atomic { ctl == w -> w = NEXT(w, MOVE, me); ctl = w };
#else
                :: atomic { ctl == w -> w = NEXT(w, MOVE, me) | VIEWED; ctl = w };
#endif
                   free_block(); ok = 0
                :: atomic { ctl != w -> w = 0 }
                :: CRASH
                fi;
                view[me] = 0;                                               /* the last view dies */
                if :: atomic { held[me] = 0; late[me] = 0 } :: CRASH fi;
#ifndef MUT_VIEW_END_NO_CHECK
                limbo_check()
#endif
             fi
          fi
       fi
    od;
killed:
    atomic { s = 0; q = 0; ok = 0; lo = 0; w = 0; c = 0; lc = 0; e = 0 }
}

/* time passes: some deadline is over */
active proctype Clock() {
end_clock:
    do
    :: atomic { ticks < TICKS && held[2] != 0 && !late[2] -> ticks++; late[2] = 1; touched[2] = 0 }
    :: atomic { ticks < TICKS && held[3] != 0 && !late[3] -> ticks++; late[3] = 1; touched[3] = 0 }
    :: ticks == TICKS -> break
    od
}

/* the sidecar ends leases; two at a time when the first is stopped and replaced */
proctype Sidecar(byte me) {
    byte o, q;
    short e, c, w;
end_s:
    do
    :: atomic { late[2] && held[2] != 0 && (held[2] & HV) == 0 -> o = 2; e = held[2] }; goto one
    :: atomic { late[3] && held[3] != 0 && (held[3] & HV) == 0 -> o = 3; e = held[3] };
one:
       if
       :: atomic { ST(ctl) == OWNED && OWN(ctl) == o && GEN(ctl) == HGEN(e) -> c = ctl }
       :: atomic { !(ST(ctl) == OWNED && OWN(ctl) == o && GEN(ctl) == HGEN(e)) -> c = 0 }
       :: CRASH
       fi;
       if
       :: c == 0 -> e = 0; o = 0
       :: c != 0 ->
          if
          :: atomic { late[o] && held[o] == e -> skip }
          :: atomic { !late[o] || held[o] != e -> c = 0 }
          :: CRASH
          fi;
#ifndef MUT_EXPIRE_NO_CLEAR
          if :: atomic { q = pos } :: CRASH fi;
#ifndef MUT_CLEAR_NO_RECHECK
          if :: atomic { ctl == c -> skip } :: atomic { ctl != c -> c = 0 } :: CRASH fi;
#endif
          if
          :: c == 0
          :: c != 0 ->
             if :: atomic { slot == q -> slot = 0 } :: atomic { slot != q -> skip } :: CRASH fi
          fi;
          q = 0;
#endif
          if
          :: c == 0
          :: c != 0 ->
             if
#ifdef MUT_EXPIRE_NOT_FLAGGED
             :: atomic { ctl == c -> w = NEXT(c, MOVE, me); ctl = w; assert(!touched[o]) };
#else
             :: atomic { ctl == c -> w = NEXT(c, MOVE, me) | VIEWED; ctl = w; assert(!touched[o]) };
#endif
                enqueue()
             :: atomic { ctl != c -> skip }
             :: CRASH
             fi
          fi;
          c = 0; e = 0; o = 0
       fi
    od;
killed:
    atomic { o = 0; q = 0; e = 0; c = 0; w = 0 }
}
#if KEEPS
#define DROP_KEPT kept[p] = 0
#else
#define DROP_KEPT skip
#endif
/* who recovers clears the dead one's slot, takes its block over, re-examines LIMBO */
proctype Recoverer(byte me) {
    byte p, q, lo;
    short c, w, lc;
end_r:
    do
    :: atomic { dead[2] -> p = 2 }; goto one
    :: atomic { dead[3] -> p = 3 }; goto one
    :: atomic { dead[SIDE] -> p = SIDE };
one:
       atomic { held[p] = 0; late[p] = 0; DROP_KEPT };     /* ALIVE -> DEAD: its entries do not count any more */
       if
       :: atomic { OWN(ctl) == p -> c = ctl }
       :: atomic { OWN(ctl) != p -> c = 0 }
       fi;
       if
       :: c == 0 -> limbo_check()
       :: c != 0 && ST(c) == OWNED ->
          q = pos;
          if :: atomic { ctl == c -> skip } :: atomic { ctl != c -> c = 0 } fi;
          if
          :: c != 0 ->
             atomic { if :: slot == q -> slot = 0 :: else fi };
             if :: atomic { ctl == c -> w = NEXT(c, MOVE, me); ctl = w }; q = 0; enqueue() :: atomic { ctl != c -> skip } fi
          :: c == 0
          fi
       :: c != 0 && ST(c) != OWNED ->
          q = pos;
          if
          :: atomic { slot == q -> skip };
             atomic { if :: ctl == c -> ctl = TO(c, READY, 0) :: else fi }
          :: atomic { slot != q -> skip };
             if :: atomic { ctl == c -> w = NEXT(c, MOVE, me); ctl = w }; q = 0; enqueue() :: atomic { ctl != c -> skip } fi
          fi
       fi;
       atomic { c = 0; w = 0; q = 0; dead[p] = 0; p = 0 }
    od;
killed: skip
}

/* at rest: no LIMBO without a living entry that names it, nothing lost */
active proctype Checker() {
    timeout ->
    assert(ST(ctl) != LIMBO);
    assert((gone[2] && gone[3]) || (ST(ctl) == FREE && acked[1] && acked[NM]))
}

init {
    atomic {
        run Producer(PROD);
        run Consumer(2);
        run Consumer(3);
        run Sidecar(SIDE);
        run Recoverer(REC)
    }
}
