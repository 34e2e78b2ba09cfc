/* hints.pml: who finds a FREE block: two levels of hint bits, magazines, the scan before "no memory", recovery. See README.md. */
#ifndef NB
#define NB 2                    /* blocks, all under one l0 word */
#endif
#ifndef NA
#define NA 2                    /* allocators: 1..NA */
#endif
#ifndef ROUNDS
#define ROUNDS 2                /* allocations each of them tries */
#endif
#ifndef MAXC
#define MAXC 2
#endif
#define R1ID (NA + 1)           /* a recoverer that may die, and one that does not */
#define R2ID (NA + 2)
#define NP (NA + 3)
#define ALL ((1 << NB) - 1)

#define FREE 0
#define NEW 1
#define ST(c) ((c) & 1)
#define OWN(c) (((c) >> 1) & 7)
#define GEN(c) ((c) >> 4)
#define CTL(st, o, g) ((st) | ((o) << 1) | ((g) << 4))

byte ctl[NB];
byte l0 = ALL;                  /* bit = that block may be FREE */
bit l1 = 1;                     /* l0 may be nonzero */
byte mag[NP];                   /* a magazine: private memory, here only for the checker to see; capacity NB */
bit dead[NP];
byte crashes;
bit mid[NP];                    /* ghost: in the middle of l0/l1; a dead one until it is recovered */
byte user[NB];                  /* who thinks that the block is its own */
byte seen[NP];                  /* ghost: blocks that were not FREE at some instant since scanner p began */
byte working = NA;

#define CRASH atomic { crashes < MAXC && me != R2ID -> crashes++; dead[me] = 1; mag[me] = 0; forget(0); forget(1); forget(NB - 1); goto killed }
inline forget(b) { if :: user[b] == me -> user[b] = 0 :: else fi }

inline taken(b) { seen[1] = seen[1] | (1 << (b)); seen[2] = seen[2] | (1 << (b)); seen[NA] = seen[NA] | (1 << (b)) }

/* arena_hint: l0, then l1 unless it is set */
inline hint(bits) {
    if :: atomic { l0 = l0 | (bits); mid[me] = 1 } :: CRASH fi;
    if
    :: atomic { l1 == 1 -> mid[me] = 0 }
    :: atomic { l1 == 0 -> skip };
       if :: atomic { l1 = 1; mid[me] = 0 } :: CRASH fi
    :: CRASH
    fi
}

/* the only thing that allocates: CAS FREE -> NEW(me, gen+1) */
inline claim(b) {
    if
    :: atomic { ST(ctl[b]) == FREE -> c = ctl[b] };
#ifdef MUT_STORE_CLAIM
       if :: atomic { c = CTL(NEW, me, GEN(c) + 1); ctl[b] = c; taken(b); assert(user[b] == 0); user[b] = me; ok = 1 } :: CRASH fi
#else
       if
       :: atomic { ctl[b] == c -> c = CTL(NEW, me, GEN(c) + 1); ctl[b] = c; taken(b); assert(user[b] == 0); user[b] = me; ok = 1 }
       :: atomic { ctl[b] != c -> c = 0 }
       :: CRASH
       fi
#endif
    :: atomic { ST(ctl[b]) != FREE -> skip }
    :: CRASH
    fi
}

/* hint bits into the magazine; got = 1 when there were any */
inline refill() {
    if
    :: atomic { l1 == 0 -> assert(l0 == 0 || mid[1] || mid[2] || mid[NA] || mid[R1ID] || mid[R2ID]); got = 0 }
    :: atomic { l1 == 1 -> skip };
       if
       :: atomic { l0 == 0 -> got = 0 };
#ifdef MUT_NO_L1_RECHECK
          if :: atomic { l1 = 0 } :: CRASH fi
#else
          if :: atomic { l1 = 0; mid[me] = 1 } :: CRASH fi;
          if
          :: atomic { l0 == 0 -> mid[me] = 0 }
          :: atomic { l0 != 0 -> skip };
             if :: atomic { l1 = 1; mid[me] = 0 } :: CRASH fi
          :: CRASH
          fi
#endif
       :: atomic { l0 != 0 -> x = l0 };
          if :: atomic { mag[me] = mag[me] | (l0 & x); got = ((l0 & x) != 0); l0 = l0 & (ALL - x); x = 0 } :: CRASH fi
       :: CRASH
       fi
    :: CRASH
    fi
}
#define LOWEST(m) ((m) & 1 -> 0 : ((m) & 2 -> 1 : 2))

proctype Allocator(byte me) {
    byte b, c, ok, got, x, n;
    do
    :: n == ROUNDS -> break
    :: n < ROUNDS ->
       n++;
       do
       :: ok -> break
       :: !ok && mag[me] != 0 -> atomic { b = LOWEST(mag[me]); mag[me] = mag[me] & (ALL - (1 << b)) }; claim(b)
       :: !ok && mag[me] == 0 ->
          refill();
          if
          :: got -> got = 0
          :: !got ->
#ifdef MUT_NO_SCAN
             atomic { seen[me] = 0; if :: (ST(ctl[0]) != FREE) -> seen[me] = seen[me] | 1 :: else fi;
                      if :: (ST(ctl[1]) != FREE) -> seen[me] = seen[me] | 2 :: else fi;
                      if :: (NB > 2 && ST(ctl[NB - 1]) != FREE) -> seen[me] = seen[me] | (1 << (NB - 1)) :: else fi };
#else
             /* before "no memory": every ctl word */
             b = 0;
             atomic { seen[me] = 0; if :: (ST(ctl[0]) != FREE) -> seen[me] = seen[me] | 1 :: else fi;
                      if :: (ST(ctl[1]) != FREE) -> seen[me] = seen[me] | 2 :: else fi;
                      if :: (NB > 2 && ST(ctl[NB - 1]) != FREE) -> seen[me] = seen[me] | (1 << (NB - 1)) :: else fi };
             do
             :: ok || b == NB -> break
             :: !ok && b < NB -> claim(b); if :: ok :: !ok -> b++ fi
             od;
#endif
             if
             :: ok
             :: !ok -> b = 0;
                assert(seen[me] == ALL);     /* "no memory": no block was FREE all the time */
                break
             fi
          fi
       od;
       if
       :: ok ->
          ok = 0;
          /* use it, give it back: into the magazine, or (surplus) back to the hints */
          if
          :: atomic { ctl[b] == c -> user[b] = 0; ctl[b] = CTL(FREE, 0, GEN(c)); c = 0 };
             if
             :: atomic { mag[me] = mag[me] | (1 << b); b = 0 }
             :: x = 1 << b; b = 0; hint(x); x = 0
             fi
          :: atomic { ctl[b] != c -> assert(false) }
          :: CRASH
          fi
       :: !ok
       fi
    od;
    /* leave: return the magazine (a killed one is lost with its process) */
    if
    :: mag[me] != 0 -> x = mag[me]; mag[me] = 0; hint(x); x = 0
    :: mag[me] == 0
    fi;
    atomic { n = 0; working--; goto out };
killed:
    atomic { b = 0; c = 0; ok = 0; got = 0; x = 0; n = 0; working-- };
out: skip
}

/* every block of the dead owner back to FREE, and every FREE block's hint bit set */
proctype Recoverer(byte me) {
    byte p, b, c, x;
end_r:
    do
    :: atomic { (me == R1ID || dead[R1ID]) && (dead[1] || dead[2] || dead[NA] || dead[R1ID]) ->
                p = (dead[1] -> 1 : (dead[2] -> 2 : (dead[NA] -> NA : R1ID))) };
       do
       :: b == NB -> b = 0; break
       :: b < NB ->
          if
          :: atomic { OWN(ctl[b]) == p -> c = ctl[b] };
             if
             :: atomic { ctl[b] == c -> ctl[b] = CTL(FREE, 0, GEN(c)); c = 0 };
                x = 1 << b; hint(x); x = 0
             :: atomic { ctl[b] != c -> c = 0 }
             :: CRASH
             fi
#ifndef MUT_NO_HINT_REPAIR
          :: atomic { ST(ctl[b]) == FREE -> skip };
             if
#ifdef MUT_L0_REPAIR_ONLY
             :: atomic { (l0 & (1 << b)) != 0 -> skip }
             :: atomic { (l0 & (1 << b)) == 0 -> x = 1 << b }; hint(x); x = 0
#else
             :: atomic { (l0 & (1 << b)) != 0 && l1 == 1 -> skip }
             :: atomic { (l0 & (1 << b)) == 0 || l1 == 0 -> x = 1 << b }; hint(x); x = 0
#endif
             :: CRASH
             fi
          :: atomic { ST(ctl[b]) != FREE && OWN(ctl[b]) != p -> skip }
#else
          :: atomic { OWN(ctl[b]) != p -> skip }
#endif
          :: CRASH
          fi;
          b++
       od;
       if :: atomic { dead[p] = 0; mid[p] = 0; p = 0 } :: CRASH fi
    od;
killed:
    atomic { p = 0; b = 0; c = 0; x = 0 }
}

/* at rest, all deaths recovered: every block is FREE and found by its hints */
active proctype Checker() {
    timeout ->
    assert(working == 0);
    assert(ST(ctl[0]) == FREE && ST(ctl[1]) == FREE && ST(ctl[NB - 1]) == FREE);
    assert(l0 == ALL && l1 == 1)
}

init { atomic { run Allocator(1); run Allocator(2);
#if NA > 2
    run Allocator(3);
#endif
    run Recoverer(R1ID); run Recoverer(R2ID) } }
