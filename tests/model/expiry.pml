/* expiry.pml: next_expiry, the hint by which the sweep for expired messages knows when to look. See README.md. */
#ifndef NP
#define NP 2                    /* publishers 0..NP-1, one message each, in a block of its own */
#endif
#ifndef MAXC
#define MAXC 1
#endif
#define FREE 0
#define NEW 1
#define READY 2
#define GONE 3                  /* expired, or freed by recovery */
#define NEVER 9
#define END 3                   /* by then all have expired: message p expires at 2 - p % 2, so that orders differ */
#define EXP(p) (2 - ((p) & 1))

byte st[NP];
byte hint = NEVER;
byte now = 0;
byte crashes;
bit dead[NP];                   /* a publisher that died; until it is recovered */
byte busy = NP;                 /* ghost: publishers not yet done or recovered */

#define CRASH atomic { crashes < MAXC -> crashes++; goto killed }

inline lower(at) {
    do
    :: atomic { hint <= at -> break }
    :: atomic { hint > at -> h = hint };
       if
       :: atomic { hint == h -> hint = at; break }
       :: atomic { hint != h -> skip }
       :: CRASH
       fi
    :: CRASH
    od
}

proctype Publisher(byte me) {
    byte h;
    if :: st[me] = NEW :: CRASH fi;
#ifdef MUT_LOOK_BEFORE
    lower(EXP(me));
#endif
    if :: st[me] = READY :: CRASH fi;
#ifndef MUT_LOOK_BEFORE
    lower(EXP(me));
#endif
    atomic { busy--; goto over };
killed:
    dead[me] = 1;
over:
    skip
}

proctype Recoverer() {
    byte p;
    do
    :: atomic { dead[0] -> p = 0 }; goto found
    :: atomic { dead[NP - 1] -> p = NP - 1 }; goto found
    :: atomic { busy == 0 -> break };
    od;
    goto over;
found:
    if :: atomic { st[p] == NEW -> st[p] = GONE } :: else fi;
#ifndef MUT_DEATH_KEEPS
    hint = 0;
#endif
    atomic { dead[p] = 0; busy-- };
    run Recoverer();
over:
    skip
}

proctype Sweeper(bit first) {
    byte b, h, e, t;
end:
    do
#ifdef MUT_SUCCESSOR_TRUSTS
    :: atomic { hint <= now -> t = now };
#else
    :: atomic { (first || hint <= now) -> t = now; first = 0 };
#endif
#ifndef MUT_RESET_AFTER
       if :: hint = NEVER :: CRASH fi;
#endif
       e = NEVER; b = 0;
       do
       :: b == NP -> break
       :: b < NP ->
          if
          :: atomic { st[b] == READY && EXP(b) <= t -> skip };
             if
             :: atomic { st[b] == READY -> st[b] = GONE }
             :: CRASH
             fi
          :: atomic { st[b] == READY && EXP(b) > t -> if :: EXP(b) < e -> e = EXP(b) :: else fi }
          :: atomic { st[b] != READY -> skip }
          :: CRASH
          fi;
          b++
       od;
#ifdef MUT_RESET_AFTER
       if :: hint = NEVER :: CRASH fi;
#endif
       if :: e < NEVER -> lower(e) :: else fi
    od;
killed:
    run Sweeper(1)
}

proctype Clock() {
    do :: now < END -> now++ :: else -> break od
}

init {
    byte p;
    atomic {
        p = 0;
        do :: p < NP -> run Publisher(p); p++ :: else -> break od;
        run Recoverer(); run Sweeper(1); run Clock()
    };
    /* nothing can move any more: no message is left that has expired */
    if
    :: timeout ->
       p = 0;
       do
       :: p < NP -> assert(st[p] == GONE || st[p] == FREE); p++
       :: else -> break
       od;
       assert(busy == 0)
    fi
}
