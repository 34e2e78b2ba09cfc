/* dedup.pml: of all messages with one id within two generations one is published; deaths, recovery, clocks that stood still,
 * entries that are used again. Two keys in one bucket. See README.md.
 *
 * head   = gen<<6 | of this generation:2 | of the one before:2 | entry+1     (the filter: a bit per key)
 * next   = gen<<2 | count
 * entry  = two words: key | gen<<1; and before | next<<1 | gen<<3, where gen stands for what both are mixed with
 * first  = id | gen<<2: lots are of one number
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

#define HG(w) ((w) >> 6)
#define HI(w) ((w) & 3)
#define XG(w) ((w) >> 2)
#define XN(w) ((w) & 3)
#define KEYED(k, g) ((k) | ((g) << 1))
#ifdef MUT_FIRST_UNMIXED
#define FIRST_GEN(g) 0
#else
#define FIRST_GEN(g) (g)
#endif
#define REST(b, n, g) ((b) | ((n) << 1) | ((g) << 3))
#define BIT(k) (4 << (k))
#ifdef MUT_FILTER_FORGETS
#define AS_OF(w) (HG(w) == g -> (w) : (HG(w) + 1 == g -> (g << 6) | HI(w) : g << 6))
#else
#define AS_OF(w) (HG(w) == g -> (w) : (HG(w) + 1 == g -> (g << 6) | (((w) >> 2) & 12) | HI(w) : g << 6))
#endif
#define KNOWS(w) (((AS_OF(w) | (AS_OF(w) >> 2)) & BIT(key)) != 0)
#ifdef MUT_NO_BIT
#define WITH(w, i) ((AS_OF(w) & ~3) | (i))
#else
#define WITH(w, i) ((AS_OF(w) & ~3) | (BIT(key) << 2) | (i))
#endif

#define NEW 0
#define MOVE 1
#define PUB 2
#define DROPPED 3
#define FREED 4                 /* killed before the commit, or refused: nothing happened */

byte G = 1;                     /* the clock */
short head;
byte nxt[2];
byte first_of[4], ekey[4], erest[4];    /* half*NE + n */
byte state[4];                  /* of messages 1..3 */
bit dead[4];
byte crashes, working = NPUB;
bit claimed[4];                 /* ghosts */
byte claimg[4], keyof[4];

#define APART(a, b) (!claimed[b] || (a) == (b) || keyof[a] != keyof[b] || claimg[a] >= claimg[b] + 2 || claimg[b] >= claimg[a] + 2)

#define E ((g & 1) * NE + mine - 1)
#define CRASH atomic { crashes < MAXC && me != 9 -> crashes++; dead[id] = 1; goto killed }

/* from entry i of generation h on; found: 1 = our own claim, 2 = another one's. What is only private happens with the access before it. */
inline walk() {
    do
    :: atomic { i == 0 || found != 0 -> i = 0; h = 0; x = 0; y = 0; break }
    :: atomic { i != 0 && found == 0 -> y = erest[(h & 1) * NE + i - 1] };
       if
       :: atomic { ekey[(h & 1) * NE + i - 1] == KEYED(key, h) -> skip };
          atomic {
             first = ((first_of[(h & 1) * NE + i - 1] >> 2) == FIRST_GEN(h) -> first_of[(h & 1) * NE + i - 1] & 3 : 0);
             if
#ifdef MUT_OWN_UNKNOWN
             :: first == id -> found = 2
#else
             :: first == id -> found = 1
#endif
             :: first != id -> found = 2
             fi
          }
       :: atomic { ekey[(h & 1) * NE + i - 1] != KEYED(key, h) ->
             if
             :: (y >> 3) != h -> i = 0                /* torn, or never written: leads nowhere */
             :: else ->
                i = (y >> 1) & 3;
                if
                :: (y & 1) && h == g -> h = g - 1
                :: (y & 1) && h != g -> i = 0
                :: else
                fi
             fi }
       fi
    od
}

inline still() {                /* is the number ours yet? */
    atomic { w = XG(nxt[g & 1]); if :: i != 0 && w != g -> g = w; ok = 0; i = 0 :: else fi }
}

inline won() {                  /* the head CAS is the claim */
    claimed[id] = 1; claimg[id] = g;
    assert(APART(id, 1) && APART(id, 2) && APART(id, 3));
    res = 1
}

/* res: 1 = the id is ours, 2 = a duplicate, 3 = no entry left; ok = 0: round again */
inline claim() {
    do
    :: atomic { res != 0 -> wa = 0; mine = 0; mineg = 0; stands = 0; found = 0; none = 0; break }
    :: atomic { res == 0 -> ok = 1; none = 0; if :: mineg != g -> mine = 0; mineg = 0 :: else fi };
       do                                             /* make_entry */
       :: atomic { mine != 0 || !ok || none -> break }
       :: atomic { mine == 0 && ok && !none -> w = nxt[g & 1];
             if
             :: XG(w) > g -> g = XG(w); ok = 0
             :: XG(w) == g && XN(w) == NE -> none = 1
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
             if :: atomic { mine = i; mineg = g; first_of[E] = id | (FIRST_GEN(g) << 2); ekey[E] = KEYED(key, g) } :: CRASH fi
#else
#ifdef MUT_PLAIN_FIRST
             if :: atomic { first_of[(g & 1) * NE + i - 1] = id | (FIRST_GEN(g) << 2) } :: CRASH fi;
#else
             atomic { x = first_of[(g & 1) * NE + i - 1] };
             still();
             if
             :: atomic { i != 0 && first_of[(g & 1) * NE + i - 1] == x -> first_of[(g & 1) * NE + i - 1] = id | (FIRST_GEN(g) << 2) }
             :: atomic { i != 0 && first_of[(g & 1) * NE + i - 1] != x -> i = 0 }
             :: atomic { i == 0 -> skip }
             :: CRASH
             fi;
#endif
             atomic { x = (i != 0 -> ekey[(g & 1) * NE + i - 1] : 0) };
             atomic { y = (i != 0 -> erest[(g & 1) * NE + i - 1] : 0) };
             still();
             if
             :: atomic { i != 0 && ekey[(g & 1) * NE + i - 1] == x -> mine = i; mineg = g; stands = y; ekey[E] = KEYED(key, g) }
             :: atomic { i != 0 && ekey[(g & 1) * NE + i - 1] != x -> skip }
             :: atomic { i == 0 -> skip }
             :: CRASH
             fi
#endif
          :: else
          fi;
          atomic { i = 0; x = 0; y = 0; w = 0 }
       od;
       atomic { wa = head; h = HG(wa); i = (ok && KNOWS(wa) -> HI(AS_OF(wa)) : 0) };
       walk();
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
          if :: ok && found != 0 -> res = found; ok = 0 :: ok && found == 0 && none -> res = 3; ok = 0 :: else fi;
          found = 0; x = 0;
          y = REST(HG(wa) + 1 == g, HI(AS_OF(wa)), g)
       };
       if                                             /* what it leads to; behind another one, if it has lost to that */
#ifdef MUT_PLAIN_ENTRY
       :: atomic { ok -> erest[E] = y }
#else
       :: atomic { ok && erest[E] == stands -> stands = y; erest[E] = y }
       :: atomic { ok && erest[E] != stands -> mine = 0; mineg = 0; ok = 0 }
#endif
       :: atomic { !ok -> skip }
       :: CRASH
       fi;
       atomic { y = 0 };
       if
#ifdef MUT_STORE_HEAD
       :: atomic { ok -> head = WITH(wa, mine); won() }
#else
       :: atomic { ok && head == wa -> head = WITH(wa, mine); won() }
       :: atomic { ok && head != wa -> skip }
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
    short wa;
    byte me, g, h, found, first, mine, mineg, stands, res, i, x, y, w;
    bit ok, none;
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
    short wa;
    byte me = 9, id, key, g, h, found, first, mine, mineg, stands, res, i, x, y, w;
    bit ok, none;
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
