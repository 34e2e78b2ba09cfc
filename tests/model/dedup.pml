/* dedup.pml: of all messages with one id within two generations one is published; deaths, recovery, clocks that stood still,
 * entries that are used again. Two keys, each with a bucket in either half. See README.md.
 *
 * bucket = gen<<3 | sealed<<2 | entry+1      next = gen<<2 | count
 * entry  = two words: the id; and id | key<<2 | next<<3 | gen<<5, which stands for all that is mixed with the id
 */
#ifndef NE
#define NE 2                    /* entries in each half */
#endif
#ifndef LASTG
#define LASTG 3                 /* generations 1..LASTG */
#endif
#ifndef STEP
#define STEP 1                  /* 2: nobody publishes in generation 2 */
#endif
#ifndef MAXC
#define MAXC 0
#endif
#ifndef NPUB
#define NPUB 3                  /* publishers */
#endif
#ifndef K1
#define K1 0
#endif
#ifndef K2
#define K2 0
#endif
#ifndef K3
#define K3 0
#endif

#define BG(w) ((w) >> 3)
#define SEALED(w) (((w) >> 2) & 1)
#define BI(w) ((w) & 3)
#define BUCKET(g, s, i) (((g) << 3) | ((s) << 2) | (i))
#define XG(w) ((w) >> 2)
#define XN(w) ((w) & 3)
#define REST(id, k, n, g) ((id) | ((k) << 2) | ((n) << 3) | ((g) << 5))

#define NEW 0
#define MOVE 1
#define PUB 2
#define DROPPED 3
#define FREED 4                 /* killed before the commit, or refused: nothing happened */

byte G = 1;                     /* the clock */
byte bucket[4];                 /* key*2 + half */
byte nxt[2];
byte eid[4], erest[4];          /* half*NE + n */
byte state[4];                  /* of messages 1..3 */
bit dead[4];
byte crashes, working = NPUB;
bit claimed[4];                 /* ghosts */
byte claimg[4], keyof[4];

#define APART(a, b) (!claimed[b] || (a) == (b) || keyof[a] != keyof[b] || claimg[a] >= claimg[b] + 2 || claimg[b] >= claimg[a] + 2)

#define A bucket[key * 2 + (g & 1)]
#define B bucket[key * 2 + ((g + 1) & 1)]
#define R erest[(g & 1) * NE + mine - 1]
#define CRASH atomic { crashes < MAXC && me != 9 -> crashes++; dead[id] = 1; goto killed }

/* from entry i on; found: 1 = our own claim, 2 = another one's. What is only private happens with the access before it. */
inline walk(h) {
    do
    :: atomic { i == 0 || found != 0 -> i = 0; x = 0; y = 0; break }
    :: atomic { i != 0 && found == 0 -> x = eid[(h) * NE + i - 1] };
       atomic {
          y = erest[(h) * NE + i - 1];
          if
          :: (y & 3) != x || x == 0 -> i = 0          /* torn, or never written: leads nowhere */
          :: else ->
             if
#ifdef MUT_OWN_UNKNOWN
             :: ((y >> 2) & 1) == key && x == id -> found = 2; first = x
#else
             :: ((y >> 2) & 1) == key && x == id -> found = 1; first = x
#endif
             :: ((y >> 2) & 1) == key && x != id && (y >> 5) + 1 >= g -> found = 2; first = x
             :: else -> i = (y >> 3) & 3
             fi
          fi
       }
    od
}

inline won() {                  /* the head CAS is the claim */
    claimed[id] = 1; claimg[id] = g;
    assert(APART(id, 1) && APART(id, 2) && APART(id, 3));
    res = 1
}

/* res: 1 = the id is ours, 2 = a duplicate, 3 = no entry left; ok = 0: round again */
inline claim() {
    do
    :: atomic { res != 0 -> wa = 0; wb = 0; chain = 0; mine = 0; mineg = 0; myrest = 0; found = 0; break }
    :: atomic { res == 0 -> wa = A };
       atomic {
          wb = B; ok = 1; y = wb;
          if
          :: BG(wa) > g || (BG(wa) == g && SEALED(wa)) -> g = BG(wa) + SEALED(wa); ok = 0
          :: else ->
             if
             :: BG(wb) > g -> g = BG(wb); ok = 0
             :: else -> chain = (BG(wa) == g -> BI(wa) : 0); y = (BG(wb) == g - 1 -> (wb | 4) : BUCKET(g - 1, 1, 0))
             fi
          fi
       };
#ifndef MUT_NO_SEAL
       if
       :: atomic { ok && wb != y && B == wb -> B = y; y = 0 }
       :: atomic { ok && wb != y && B != wb -> ok = 0; y = 0 }
       :: atomic { !ok || wb == y -> y = 0 }
       :: CRASH
       fi;
#endif
       atomic { i = (ok -> chain : 0); y = 0 };
       walk(g & 1);
       atomic { i = (ok && found == 0 && BG(wb) == g - 1 -> BI(wb) : 0) };
       walk((g + 1) & 1);
       atomic { x = XG(nxt[g & 1]) };
       atomic {                                       /* R2 */
          y = XG(nxt[(g + 1) & 1]);
#ifndef MUT_NO_R2
          if
          :: ok && x > g -> g = x; ok = 0
          :: ok && x <= g && y >= g -> g = y; ok = 0
          :: else
          fi;
#endif
          if :: ok && found != 0 -> res = found; ok = 0 :: else fi;
          found = 0; x = 0; y = 0;
          if :: mineg != g -> mine = 0; mineg = 0 :: else fi
       };
       if                                             /* link behind the one to which it lost */
       :: atomic { ok && mine != 0 && R == myrest -> myrest = REST(id, key, chain, g); R = myrest }
       :: atomic { ok && mine != 0 && R != myrest -> mine = 0 }
       :: atomic { !ok || mine == 0 -> skip }
       :: CRASH
       fi;
       do                                             /* make_entry */
       :: atomic { mine != 0 || !ok -> break }
       :: atomic { mine == 0 && ok -> w = nxt[g & 1];
             if
             :: XG(w) > g -> g = XG(w); ok = 0
             :: XG(w) == g && XN(w) == NE -> res = 3; ok = 0
             :: else -> i = (XG(w) == g -> XN(w) : 0) + 1
             fi };
          if
          :: atomic { i != 0 && nxt[g & 1] == w -> nxt[g & 1] = (g << 2) | i }
          :: atomic { i != 0 && nxt[g & 1] != w -> i = 0 }
          :: atomic { i == 0 -> skip }
          :: CRASH
          fi;
          if
          :: i != 0 ->
#ifdef MUT_PLAIN_ENTRY
             if :: atomic { eid[(g & 1) * NE + i - 1] = id } :: CRASH fi;
             if :: atomic { mine = i; mineg = g; myrest = REST(id, key, chain, g); R = myrest } :: CRASH fi
#else
             atomic { x = eid[(g & 1) * NE + i - 1] };
             atomic { y = erest[(g & 1) * NE + i - 1] };
             atomic { w = XG(nxt[g & 1]); if :: w != g -> g = w; ok = 0; i = 0 :: else fi };
             if
             :: atomic { i != 0 && eid[(g & 1) * NE + i - 1] == x -> eid[(g & 1) * NE + i - 1] = id }
             :: atomic { i != 0 && eid[(g & 1) * NE + i - 1] != x -> i = 0 }
             :: atomic { i == 0 -> skip }
             :: CRASH
             fi;
             if
             :: atomic { i != 0 && erest[(g & 1) * NE + i - 1] == y -> mine = i; mineg = g; myrest = REST(id, key, chain, g); R = myrest }
             :: atomic { i != 0 && erest[(g & 1) * NE + i - 1] != y -> skip }
             :: atomic { i == 0 -> skip }
             :: CRASH
             fi
#endif
          :: else
          fi;
          atomic { i = 0; x = 0; y = 0; w = 0 }
       od;
       if
#ifdef MUT_STORE_HEAD
       :: atomic { ok -> A = BUCKET(g, 0, mine); won() }
#else
       :: atomic { ok && A == wa -> A = BUCKET(g, 0, mine); won() }
       :: atomic { ok && A != wa -> skip }
#endif
       :: atomic { !ok -> skip }
       :: CRASH
       fi
    od
}

inline decide() {
    if
    :: atomic { res == 1 -> assert(claimed[id]); state[id] = PUB }
    :: atomic { res == 2 -> assert(claimed[first] && first != id && state[first] != DROPPED && state[first] != FREED); state[id] = DROPPED }
    :: atomic { res == 3 -> state[id] = FREED }
    :: CRASH
    fi
}

proctype Publisher(byte id, key) {
    byte me, g, wa, wb, chain, found, first, mine, mineg, myrest, res, i, x, y, w;
    bit ok;
    me = id;
    if :: atomic { state[id] = MOVE } :: atomic { crashes < MAXC -> crashes++; state[id] = FREED; goto killed } fi;
    atomic { g = G };
    claim();
    decide();
killed:
    working--
}

#define LEFT(i) (dead[i] && state[i] == MOVE)

proctype Recoverer() {          /* does not die; what a dying one leaves is again MOVE of a dead */
    byte me = 9, id, key, g, wa, wb, chain, found, first, mine, mineg, myrest, res, i, x, y, w;
    bit ok;
    do
    :: atomic { LEFT(1) || LEFT(2) || LEFT(3) ->
          if :: LEFT(1) -> id = 1 :: LEFT(2) -> id = 2 :: LEFT(3) -> id = 3 fi;
          key = keyof[id]; res = 0; g = G };
       claim();
       if
       :: atomic { res == 3 -> state[id] = FREED }    /* in truth: delayed and tried again */
       :: atomic { res == 1 -> assert(claimed[id]); state[id] = PUB }
       :: atomic { res == 2 -> assert(claimed[first] && first != id && keyof[first] == key && state[first] != DROPPED); state[id] = DROPPED }
       fi
    :: atomic { working == 0 && !LEFT(1) && !LEFT(2) && !LEFT(3) -> break }
    od;
    assert(state[1] > MOVE && state[2] > MOVE && state[3] > MOVE);
killed:
    skip
}

proctype Clock() {
    do
    :: atomic { G < LASTG -> G = G + STEP }
    :: atomic { G == LASTG -> break }
    :: atomic { working == 0 -> break }
    od
}

init {
    atomic {
        keyof[1] = K1; keyof[2] = K2; keyof[3] = K3;
        run Publisher(1, K1);
        run Publisher(2, K2);
#if NPUB == 3
        run Publisher(3, K3);
#else
        state[3] = FREED;
#endif
        run Recoverer();
        run Clock()
    }
}
