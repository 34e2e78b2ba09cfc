/* era.pml: when the record of a deleted queue may be used again: op, era, barrier. See README.md.
 *
 * Record B comes and goes; record A stays. The stores of an operation to its own words go through a store buffer, in order; a
 * barrier empties all of them. Loads see memory. (A load may not pass an earlier load, nor a store an earlier access: x86; the
 * acquires and releases of the core say the same to others.)
 */
#ifndef NU
#define NU 2                    /* processes 0..NU-1 with operations */
#endif
#ifndef KIND0
#define KIND0 ON_A
#endif
#ifndef KIND1
#define KIND1 RECOVERS
#endif
#ifndef OPS
#define OPS 2                   /* operations of process 0 */
#endif
#ifndef OPS1
#define OPS1 1                  /* of the others */
#endif
#ifndef MAXG
#define MAXG 2                  /* lives of record B */
#endif
#ifndef MAXC
#define MAXC 1                  /* deaths of collectors and creators */
#endif
#define ON_A 1                  /* a publisher to A that goes on to B: a dead letter */
#define ON_B 2                  /* a publisher to B */
#define FANS 3                  /* a publisher to a topic; B may be its subscription */
#define RECOVERS 4              /* looks into B also while it is DELETING; says that it may touch any record */

#define FREE 0
#define LIVE 1
#define DELETING 2
#define RETIRING 3

#define AT_A 0
#define AT_B 1
#define AT_FAN 2
#define AT_ANY 3

byte st = LIVE, gen = 1;        /* B's word: one load, one CAS */
byte memory = 1;                /* ghost: whose ring lies there; 0 = nobody's */
byte era = 1, born = 1, ended = 0;
byte topology = 1;
bit sub[6];                     /* is the B of that life a subscription of the topic? Its options */
byte op[NU], its_era[NU], its_at[NU];
chan buffer[NU] = [3] of { byte, byte, byte };
byte crashes;

#define CRASH atomic { crashes < MAXC -> crashes++; goto killed }

/* A store of process `me` comes out of its buffer. */
inline out(me) {
    atomic {
        buffer[me]?what, a, b;
        if :: what == 0 -> its_era[me] = a; its_at[me] = b
           :: what == 1 -> op[me] = a
        fi;
        what = 0; a = 0; b = 0
    }
}

proctype Drain(byte me) {
    byte what, a, b;
end:
    do :: out(me) od
}

inline begin(at) {
    e = era;
#ifdef MUT_LOOK_FIRST
    look();
#endif
    buffer[me]!0, e, at;
    buffer[me]!1, n + 1, 0
}

inline look() { atomic { s = st; g = gen } }

inline touch() {
    assert(memory == g);
    skip;
    assert(memory == g)
}

proctype User(byte me; byte kind) {
    byte n, e, s, g, t, listed_at;
    bit listed;
    do
    :: n == 2 * (me -> OPS1 : OPS) -> break
    :: n < 2 * (me -> OPS1 : OPS) ->
       if
       :: kind == ON_A -> begin(AT_A);
#ifndef MUT_NOT_SAID
          buffer[me]!0, e, AT_ANY
#endif
       :: kind == ON_B -> begin(AT_B)
       :: kind == FANS -> begin(AT_FAN)
       :: kind == RECOVERS -> begin(AT_ANY)
       fi;
       if
       :: kind == FANS ->
          atomic { t = topology };
          if
          :: t == listed_at
          :: t != listed_at ->
             atomic { listed = (st == LIVE && sub[gen]); listed_at = t };
#ifndef MUT_LIST_OF_LATER
             if
             :: atomic { era == e -> skip }
             :: atomic { era != e -> skip }; buffer[me]!0, e, AT_ANY;
#ifndef MUT_LIST_KEPT
                atomic { t = topology };
                atomic { listed = (st == LIVE && sub[gen]); listed_at = t }
#endif
             fi
#endif
          fi
       :: else -> listed = 1
       fi;
#ifndef MUT_LOOK_FIRST
       look();
#endif
       if
       :: listed && (s == LIVE || (kind == RECOVERS && s == DELETING)) ->
          assert(kind != FANS || sub[g]);   /* no message of a topic gets into a queue that has the number by now */
          touch()
       :: else
       fi;
       empty(buffer[me]);                   /* op_end: a release; as if it waited for all before it */
       n = n + 2;
       op[me] = n;
       s = 0; g = 0; t = 0; e = 0;
       if :: kind != FANS -> listed = 0 :: else fi
    od
}

/* Nobody may touch B any more, since `ended`? Sets busy. */
inline look_at(u) {
    if
    :: atomic { op[u] % 2 == 0 -> skip }
    :: atomic { op[u] % 2 == 1 -> o = op[u] };
       atomic { x = its_era[u]; at = its_at[u] };
       if
       :: atomic { op[u] != o -> skip }
       :: atomic { op[u] == o -> skip };
          if
          :: x >= ended
          :: x < ended && at == AT_A
#ifdef MUT_FAN_IS_NARROW
          :: x < ended && at == AT_FAN
#else
          :: x < ended && at == AT_FAN && !(sub[gen] && x >= born)
          :: x < ended && at == AT_FAN && sub[gen] && x >= born -> busy = 1
#endif
          :: x < ended && (at == AT_B || at == AT_ANY) -> busy = 1
          fi
       fi
    fi;
    o = 0; x = 0; at = 0
}

/* Deletes, collects and creates; each step may be another process: what they share is in memory. */
proctype Admin() {
    byte what, a, b, o, x, at, s;
    bit busy;
again:
    do
    :: atomic { st == LIVE -> st = DELETING };
       if :: atomic { topology++ } :: CRASH fi   /* who deletes may die before it says so */
    :: atomic { st == DELETING || st == RETIRING -> s = st };
       if
       :: atomic { ended != 0 -> skip }
       :: atomic { ended == 0 -> skip };
#ifndef MUT_NO_BARRIER
          atomic {
              do :: nempty(buffer[0]) -> out(0) :: empty(buffer[0]) -> break od;
              do :: nempty(buffer[NU - 1]) -> out(NU - 1) :: empty(buffer[NU - 1]) -> break od
          };
#endif
          if :: CRASH :: skip fi;
#ifndef MUT_TOPOLOGY_UNSAID
          atomic { topology++ };
#endif
          atomic { era++; x = era };
          if :: ended = x :: CRASH fi
       fi;
       x = 0; busy = 0;
       look_at(0);
#if NU > 1
       look_at(1);
#endif
       if
       :: busy
       :: !busy && s == DELETING ->
#ifndef MUT_ENDED_STAYS
          ended = 0;
#endif
          if :: st = RETIRING :: CRASH fi
       :: !busy && s == RETIRING ->
          memory = 0;
          if :: st = FREE :: CRASH fi
       fi;
       busy = 0; s = 0
    :: atomic { st == FREE && gen < MAXG -> skip };
       ended = 0;
       atomic { era++; born = era };
       memory = gen + 1;
       if :: atomic { gen++; st = LIVE } :: CRASH fi;
       if :: atomic { topology++ } :: CRASH fi
    :: atomic { st == FREE && gen == MAXG -> break }
    od;
    goto over;
killed:
    busy = 0; s = 0; x = 0; o = 0; at = 0;
    goto again;
over:
    skip
}

init {
    atomic {
        sub[1] = 1;             /* the second life of B, and the fourth, are a queue's */
        sub[3] = 1;
        run User(0, KIND0); run Drain(0);
#if NU > 1
        run User(1, KIND1); run Drain(1);
#endif
        run Admin()
    };
    /* nothing can move any more: the records were used again as often as they could */
    if :: timeout -> assert(st == FREE && gen == MAXG) fi
}
