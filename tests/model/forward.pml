/* forward.pml: a delivery S is settled and N is published, both or neither: the forwarder may be killed anywhere, so may one
 * of two recoverers, and freed blocks are used again by somebody else. See README.md.
 *
 * ctl = state | owner<<2 | gen<<5      ref of N = its gen + 1, 0 = a time; the routing is one CAS here (ring.pml has it)
 */
#ifndef MAXC
#define MAXC 2
#endif
#define FREE 0
#define NEW 1
#define OWNED 2
#define MOVE 3
#define READY 3                 /* MOVE of owner 0: in a ring */
#define ST(c) ((c) & 3)
#define OWN(c) (((c) >> 2) & 7)
#define GEN(c) ((c) >> 5)
#define CTL(st, o, g) ((st) | ((o) << 2) | ((g) << 5))
#define IS_READY(c) (ST(c) == MOVE && OWN(c) == 0)

#define LEAVING 1
#define FORWARD 2
#ifdef MUT_NO_REF_GEN
#define NAMES(due, c) ((due) != 0)
#else
#define NAMES(due, c) ((due) == GEN(c) + 1)
#endif

byte ctl[2];                    /* 0 = S, 1 = N */
byte fate[2], due;              /* S's due_ns */
bit tied;
bit dead[5];                    /* 1 the forwarder, 2 and 3 recoverers, 4 another one */
byte crashes, forwarders = 1, s_out, n_out;
bit acked;

#define CRASH atomic { crashes < MAXC && me != 3 -> crashes++; dead[me] = 1; goto killed }
#define DEAD(c) (OWN(c) != 0 && dead[OWN(c)])

proctype Forwarder(byte me) {
    byte s = CTL(OWNED, 1, 0), n;
    if :: atomic { ctl[1] == CTL(FREE, 0, 0) -> n = CTL(NEW, me, 1); ctl[1] = n; tied = 0 } :: atomic { ctl[1] != CTL(FREE, 0, 0) -> goto killed } :: CRASH fi;
    if :: atomic { tied = 1 } :: CRASH fi;
    if :: atomic { assert(ctl[0] == s); s = CTL(MOVE, me, 1); ctl[0] = s } :: CRASH fi;
#ifndef MUT_NO_LEAVING
    if :: atomic { fate[0] = LEAVING } :: CRASH fi;
#endif
#ifdef MUT_COMMIT_FIRST
    if :: atomic { fate[0] = LEAVING | FORWARD } :: CRASH fi;
    if :: atomic { due = GEN(n) + 1 } :: CRASH fi;
#else
    if :: atomic { due = GEN(n) + 1 } :: CRASH fi;
    if :: atomic { fate[0] = LEAVING | FORWARD } :: CRASH fi;
#endif
#ifdef MUT_FREE_FIRST
    if :: atomic { ctl[0] = CTL(FREE, 0, GEN(s)); acked = 1 } :: CRASH fi;
#endif
    if :: atomic { assert(ctl[1] == n); n = CTL(MOVE, me, GEN(n) + 1); ctl[1] = n } :: CRASH fi;
    if :: atomic { ctl[1] = CTL(READY, 0, GEN(n)) } :: CRASH fi;
#ifndef MUT_FREE_FIRST
    if :: atomic { assert(ctl[0] == s); ctl[0] = CTL(FREE, 0, GEN(s)); acked = 1 } :: CRASH fi;
#endif
killed:
    forwarders--
}

inline send() {                 /* N, seen as n in NEW */
    if
    :: atomic { ctl[1] == n -> n = CTL(MOVE, me, GEN(n) + 1); ctl[1] = n };
       if :: atomic { ctl[1] == n -> ctl[1] = CTL(READY, 0, GEN(n)) } :: CRASH fi
    :: atomic { ctl[1] != n -> skip }
    :: CRASH
    fi
}

inline recover_s() {
    if
    :: atomic { DEAD(ctl[0]) && ST(ctl[0]) != FREE -> s = ctl[0] };
       if
       :: ST(s) == OWNED ->
          if
          :: atomic { ctl[0] == s -> s = CTL(MOVE, me, GEN(s) + 1); ctl[0] = s };
             if :: atomic { ctl[0] == s -> ctl[0] = CTL(READY, 0, GEN(s)) } :: CRASH fi
          :: atomic { ctl[0] != s -> skip }
          :: CRASH
          fi
       :: ST(s) == NEW -> if :: atomic { ctl[0] == s -> ctl[0] = CTL(FREE, 0, GEN(s)) } :: atomic { ctl[0] != s -> skip } fi
       :: ST(s) == MOVE ->
          atomic { f = fate[0] };
          if
          :: atomic { ctl[0] == s -> s = CTL(MOVE, me, GEN(s) + 1); ctl[0] = s };
             if
#ifdef MUT_COMMIT_IGNORED
             :: false -> skip
#else
             :: f & FORWARD ->
#ifndef MUT_NOT_SENT
                atomic { x = due };
                if
                :: atomic { ST(ctl[1]) == NEW && NAMES(x, ctl[1]) -> n = ctl[1] }; send()
                :: atomic { !(ST(ctl[1]) == NEW && NAMES(x, ctl[1])) -> skip }
                :: CRASH
                fi;
#endif
                if :: atomic { assert(ctl[0] == s); ctl[0] = CTL(FREE, 0, GEN(s)); acked = 1 } :: CRASH fi
#endif
             :: else ->
                if
                :: f & LEAVING ->
                   if :: atomic { due = 0 } :: CRASH fi;
                   if :: atomic { fate[0] = 0 } :: CRASH fi
                :: else
                fi;
                assert(due == 0);                     /* or it would be delayed until the Day of Judgement */
                if :: atomic { assert(ctl[0] == s); ctl[0] = CTL(READY, 0, GEN(s)) } :: CRASH fi
             fi
          :: atomic { ctl[0] != s -> skip }
          :: CRASH
          fi
       fi
    :: atomic { !(DEAD(ctl[0]) && ST(ctl[0]) != FREE) -> skip }
    fi;
    s = 0; n = 0; f = 0; x = 0
}

inline recover_n() {
    if
    :: atomic { DEAD(ctl[1]) && ST(ctl[1]) != FREE -> n = ctl[1] };
       if
       :: ST(n) == NEW ->
          atomic { f = tied };
          x = 0;
#ifndef MUT_NOT_TIED
          if
          :: f ->
             do
             :: atomic { s = ctl[0] };
                atomic { f = fate[0] };
                atomic { x = due };
                if
                :: atomic { ctl[0] == s -> if :: ST(s) == MOVE && OWN(s) != 0 && (f & FORWARD) && NAMES(x, n) -> x = 1 :: else -> x = 0 fi; break }
#ifdef MUT_TORN_LOOK
                :: atomic { ctl[0] != s -> x = 0; break }
#else
                :: atomic { ctl[0] != s -> skip }      /* adopted by another recoverer meanwhile: look again */
#endif
                :: CRASH
                fi
             od
          :: else
          fi;
#endif
          if
          :: x == 1 -> send()
          :: else ->
             if
             :: atomic { ctl[1] == n -> ctl[1] = CTL(FREE, 0, GEN(n)) }
             :: atomic { ctl[1] != n -> skip }
             :: CRASH
             fi
          fi
       :: ST(n) == MOVE ->
          if
          :: atomic { ctl[1] == n -> n = CTL(MOVE, me, GEN(n) + 1); ctl[1] = n };
             if :: atomic { ctl[1] == n -> ctl[1] = CTL(READY, 0, GEN(n)) } :: CRASH fi
          :: atomic { ctl[1] != n -> skip }
          :: CRASH
          fi
       :: else
       fi
    :: atomic { !(DEAD(ctl[1]) && ST(ctl[1]) != FREE) -> skip }
    fi;
    s = 0; n = 0; f = 0; x = 0
}

#define SETTLED (!(DEAD(ctl[0]) && ST(ctl[0]) != FREE) && !(DEAD(ctl[1]) && ST(ctl[1]) != FREE))

proctype Recoverer(byte me) {
    byte s, n, f, x;
    do
    :: recover_s()
    :: recover_n()
    :: atomic { forwarders == 0 && SETTLED && (me != 3 || (OWN(ctl[0]) != 2 && OWN(ctl[1]) != 2)) -> break }
    od;
killed:
    skip
}

proctype Consumer() {           /* takes what is in a ring; the delivery and its end in one step: lease.pml has them */
    do
    :: atomic { IS_READY(ctl[0]) -> s_out++; ctl[0] = CTL(FREE, 0, GEN(ctl[0]) + 1); fate[0] = 0; due = 0; assert(s_out + n_out == 1 && !acked) }
    :: atomic { IS_READY(ctl[1]) -> n_out++; ctl[1] = CTL(FREE, 0, GEN(ctl[1]) + 1); assert(s_out + n_out == 1) }
    :: atomic { forwarders == 0 && SETTLED && OWN(ctl[0]) == 0 && OWN(ctl[1]) == 0 && !IS_READY(ctl[0]) && !IS_READY(ctl[1]) -> break }
    od;
    assert(s_out + n_out == 1)
}

proctype Other(byte me) {       /* another process that gets N's block after its end, and must not be disturbed */
    byte n;
end_never:                      /* when N was never published */
    atomic { n_out == 1 && ST(ctl[1]) == FREE -> n = CTL(NEW, me, GEN(ctl[1]) + 1); ctl[1] = n; tied = 0 };
    atomic { assert(ctl[1] == n); ctl[1] = CTL(FREE, 0, GEN(n)) }
}

init {
    atomic {
        ctl[0] = CTL(OWNED, 1, 0);
        run Forwarder(1);
        run Recoverer(2);
        run Recoverer(3);
        run Consumer();
        run Other(4)
    }
}
