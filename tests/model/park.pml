/* park.pml: messages that wait for room at their queue, sent on in order by whoever makes room. See README.md. */
#ifndef NM
#define NM 3                    /* messages of one source, in this order */
#endif
#ifndef NC
#define NC 2                    /* consumers: processes 1..NC; 0 is the source; recoverers have the last two numbers */
#endif
#ifndef MAXC
#define MAXC 1
#endif
#ifndef NN
#define NN 2                    /* places for notes */
#endif
#ifndef AHEAD
#define AHEAD 1                 /* messages of others that are in the ring at first: it is full */
#endif
#ifndef NB
#define NB NM                   /* blocks; fewer than messages: a block is used again as soon as its message is gone */
#endif
#define CAP 1
#define NP (1 + NC + 2)
#define R0 (1 + NC)

#define NONE 0                  /* not published yet */
#define MOVE 1
#define PARKED 2
#define RING 3
#define GONE 4

#define NOBODY 15
#define OVER 14                 /* the turn of one who is dead and recovered */

byte st[NB];
byte msg[NB];                   /* which message is in that block */
byte own[NB];                   /* of MOVE */
bit  first[NB];                 /* MOVE: it comes from the parked, where it was the first */
byte ring[CAP];                 /* a queue of one place; 9 = empty, 8 = somebody else's message */
bit  flag;                      /* some may be parked; with its count of changes one word */
byte count;
byte seq;                       /* tickets */
byte tk[NB];                    /* a parked message's ticket: what is parked is sent on in their order */
byte note[NN], tag[NN];         /* the last parked: which block, as of which count */
byte turn = NOBODY;             /* who sends parked messages on */
byte h;                         /* for a look at all messages in one step */
byte disturbed;
bit dead[NP];                   /* died, not recovered */
byte crashes;
bit over;                       /* the source has published all, or died */
byte last;                      /* ghost: the next one to be delivered at the least */
byte left = AHEAD;

#define CRASH atomic { crashes < MAXC && me != NC && me != R0 + 1 -> crashes++; goto killed }   /* the last consumer and the last recoverer live */

/* private: the line, what is known of the parked in order, and each one's ticket */
#define LOCALS byte line[NB], lt[NB]; byte n, x, as_of_c, as_of_d; bit whole, known; byte b, w, c, d; bit f, got; byte k

/* From the ring's slots: CAS of an empty one. got = it is in. */
inline enqueue(m) {
    if
    :: atomic { ring[0] == 9 -> ring[0] = m; st[m] = RING; first[m] = 0; got = 1 }
    :: atomic { ring[0] != 9 -> got = 0 }
    :: CRASH
    fi
}

/* In MOVE(me). front: it was the first one, in the hands of who died at it, or met a full ring. */
inline park(m, front) {
    if :: atomic { seq++; k = seq } :: CRASH fi;
    tk[m] = (front -> 0 : k);
    if :: atomic { st[m] = PARKED; first[m] = 0; own[m] = NOBODY } :: CRASH fi;
    if :: atomic { flag = 1; count++; k = count } :: CRASH fi;
    if :: atomic { note[k % NN] = m; tag[k % NN] = k } :: CRASH fi;
    k = 0
}

/* One more into the line, in the order of tickets. */
inline insert(m) {
    h = n;
    do
    :: h > 0 && lt[h - 1] > tk[m] -> line[h] = line[h - 1]; lt[h] = lt[h - 1]; h--
    :: else -> break
    od;
    line[h] = m; lt[h] = tk[m]; n++;
    h = 0
}

/* The first of the line is done with. */
inline next() { line[x] = 0; lt[x] = 0; x++; if :: x == n -> x = 0; n = 0 :: else fi }

inline forget() { do :: n > 0 -> n--; line[n] = 0; lt[n] = 0 :: else -> break od; x = 0 }

/* What comes next: line[x], or x == n when nothing is parked as far as known. */
inline next_parked() {
    if
    :: known && as_of_d == disturbed && x < n -> skip
    :: else ->
       if :: atomic { forget(); d = disturbed } :: CRASH fi;
       w = seq;
       c = count;
       f = 0;
       if
       :: known && as_of_d == d && whole && c - as_of_c <= NN ->
          atomic {                                    /* from the notes, if all are there */
             b = as_of_c + 1; f = 1;
             do
             :: b > c -> break
             :: b <= c && tag[b % NN] != b -> f = 0; break
             :: b <= c && tag[b % NN] == b && st[note[b % NN]] != PARKED -> b++
#ifndef MUT_NOTES_OF_OTHERS
             :: b <= c && tag[b % NN] == b && st[note[b % NN]] == PARKED && tk[note[b % NN]] > w -> f = 0; break
#endif
             :: else -> insert(note[b % NN]); b++
             od;
             if :: f -> as_of_c = c :: else -> forget() fi;
             b = 0; if :: f -> c = 0; d = 0; w = 0 :: else fi
          }
       :: else
       fi;
       if
       :: f -> skip
       :: else ->
          b = 0; whole = 1;
          do
          :: b == NB -> break
          :: b < NB ->
             if
#ifdef MUT_TAKES_LATER_ONES
             :: atomic { st[b] == PARKED -> insert(b) }
#else
             :: atomic { st[b] == PARKED && tk[b] <= w -> insert(b) }
             :: atomic { st[b] == PARKED && tk[b] > w -> whole = 0 }
#endif
             :: atomic { st[b] != PARKED -> skip }
             :: CRASH
             fi;
             b++
          od;
          atomic { as_of_c = c; as_of_d = d; known = 1; b = 0; w = 0; c = 0; d = 0 }
       fi
    fi
}

/* Has somebody else a message that was parked? */
inline in_hands() {
    got = 0;
    h = 0;
    do
    :: h < NB -> if :: st[h] == MOVE && first[h] && own[h] != me -> got = 1 :: else fi; h++
    :: else -> break
    od;
    h = 0
}

inline send() {
    do
    :: atomic { !flag -> break }
    :: atomic { flag && ring[0] != 9 -> break }
    :: atomic { flag && ring[0] == 9 -> skip };
       /* the turn: from nobody, or from one who is dead and recovered */
       if
#ifdef MUT_TAKES_FROM_THE_DEAD
       :: atomic { turn == NOBODY || turn == OVER || dead[turn] -> turn = me; got = 1 }
#else
       :: atomic { turn == NOBODY -> turn = me; got = 1 }
       :: atomic { turn == OVER ->
#ifdef MUT_TAKES_FROM_HANDS
                   got = 0;
#else
                   in_hands();
#endif
                   if :: got -> got = 0 :: else -> turn = me; got = 1 fi }
#endif
       :: atomic { turn != NOBODY && turn != OVER -> got = 0 }
       :: CRASH
       fi;
       if
       :: !got -> break
       :: else ->
          do
          :: atomic { ring[0] != 9 -> break }
          :: atomic { ring[0] == 9 -> skip };
             next_parked();
             if
             :: x == n ->
                got = 0;
                if
#ifdef MUT_CLEARS_BLINDLY
                :: atomic { flag = 0; got = 1 }
#else
                :: atomic { whole && count == as_of_c && disturbed == as_of_d -> flag = 0; got = 1 }
                :: atomic { !(whole && count == as_of_c && disturbed == as_of_d) -> known = 0 }   /* look again */
#endif
                :: CRASH
                fi;
                if :: got -> break :: else -> skip fi
             :: else ->
                b = line[x];
                if
#ifdef MUT_USED_AGAIN
#define STILL (st[b] == PARKED)
#else
#define STILL (st[b] == PARKED && tk[b] <= lt[x])
#endif
                :: atomic { STILL -> st[b] = MOVE; own[b] = me; first[b] = 1; got = 1 }
                :: atomic { !STILL -> got = 0 }
                :: CRASH
                fi;
                if
                :: got ->
                   enqueue(b);
                   if
                   :: got -> atomic { next(); b = 0; got = 0 }
                   :: else ->
#ifdef MUT_BEHIND
                      next(); park(b, 0);
#else
                      park(b, 1);
#endif
                      break
                   fi
                :: else -> atomic { next(); b = 0 }
                fi
             fi
          od;
          if :: atomic { turn = NOBODY; b = 0; got = 0 } :: CRASH fi;
#ifdef MUT_NO_LOOK_AFTER
          break
#endif
       fi
    od
}

inline route(m) {
    if
#ifndef MUT_OVERTAKES
    :: atomic { flag -> got = 0 }
    :: atomic { !flag -> got = 1 };
#else
    :: got = 1;
#endif
    fi;
    if :: got -> enqueue(m) :: else fi;
    if
    :: got -> skip
    :: else ->
       park(m, 0);
#ifndef MUT_NO_LOOK_AFTER_PARKING
       send()
#endif
    fi
}

proctype Source(byte m) {
    byte a, me;
    LOCALS;
    do
    :: m == NM -> break
    :: m < NM ->
       if
       :: atomic { NB == NM -> a = m; st[a] = MOVE; msg[a] = m; own[a] = me }
       :: atomic { NB < NM && (st[0] == NONE || st[0] == GONE) -> a = 0; st[a] = MOVE; msg[a] = m; own[a] = me }
       :: atomic { NB < NM && (st[1] == NONE || st[1] == GONE) -> a = 1; st[a] = MOVE; msg[a] = m; own[a] = me }
       :: CRASH
       fi;
       route(a);
       m++
    od;
    goto done;
killed:
    dead[0] = 1;
done:
    over = 1
}

proctype Consumer(byte me) {
    byte m;
    LOCALS;
endc:
    do
    :: atomic { ring[0] != 9 -> m = ring[0]; ring[0] = 9;
                if
                :: m == 8 -> left--
                :: else -> st[m] = GONE; assert(msg[m] >= last); last = msg[m] + 1; msg[m] = 0; tk[m] = 0
                fi;
                m = 0 };
       if :: CRASH :: skip fi;
       if :: flag -> send() :: else fi
    :: atomic { ring[0] == 9 -> skip };
       if :: flag -> send() :: else fi;
       /* asleep: whoever puts something into the ring wakes; so does recovery, which is not relied on here */
endsleep:
       if :: ring[0] != 9 fi
    od;
killed:
    dead[me] = 1
}

/* Recovers whoever is dead, itself killed at any step; its successor then recovers both. */
proctype Recoverer(byte me) {
    byte p, m;
    LOCALS;
endr:
    do
    :: atomic { dead[0] -> p = 0 }; goto found
    :: atomic { dead[1] -> p = 1 }; goto found
    :: atomic { NC == 2 && dead[2] -> p = 2 }; goto found
    :: atomic { me == R0 + 1 && dead[R0] -> p = R0 }; goto found
    od;
found:
    m = 0;
    do
    :: m == NB -> break
    :: m < NB ->
       if
       :: atomic { st[m] == MOVE && own[m] == p -> own[m] = me; got = 1 }
       :: atomic { !(st[m] == MOVE && own[m] == p) -> got = 0 }
       :: CRASH
       fi;
       if
       :: got ->
          if
          :: atomic { flag -> got = 0 }
          :: atomic { !flag -> got = 1 }
          fi;
          if :: got -> enqueue(m) :: else fi;
          if :: got -> skip :: else -> park(m, first[m]) fi
       :: else ->
#ifndef MUT_DEATH_KEEPS
          if
          :: atomic { st[m] == PARKED -> flag = 1; count++ }
          :: atomic { st[m] != PARKED -> skip }
          :: CRASH
          fi
#endif
       fi;
       m++
    od;
    if :: atomic { disturbed++ } :: CRASH fi;
    atomic { dead[p] = 0; if :: turn == p -> turn = OVER :: else fi };   /* who wants the turn sees that it is over */
#ifndef MUT_RECOVERY_DOES_NOT_SEND
    if :: flag -> send() :: else fi;
#endif
    goto endr;
killed:
    dead[me] = 1
}

init {
    byte p;
    atomic {
        ring[0] = (AHEAD -> 8 : 9);
        p = 0;
        do :: p < NB -> own[p] = NOBODY; p++ :: else -> break od;
        p = 0;
        do :: p < NN -> tag[p] = 0; p++ :: else -> break od;
#ifdef DIED
        /* the source has parked all, and died with the turn and the first of them in its hands, when there was room */
        p = 0;
        do :: p < NB -> st[p] = PARKED; msg[p] = p; tk[p] = p + 1; p++ :: else -> break od;
        st[0] = MOVE; own[0] = 0; first[0] = 1;
        seq = NM; count = NM; flag = 1; turn = 0; dead[0] = 1; crashes = 1; over = 1; left = 0; ring[0] = 9;
#else
#ifdef WAITING
        /* two of the source's wait already, and the ring is full */
        st[0] = PARKED; st[1] = PARKED; msg[1] = 1; tk[0] = 1; tk[1] = 2; seq = 2; count = 2; flag = 1;
        note[1 % NN] = 0; tag[1 % NN] = 1; note[2 % NN] = 1; tag[2 % NN] = 2;
        run Source(2);
#else
        run Source(0);
#endif
#endif
        p = 1;
        do :: p <= NC -> run Consumer(p); p++ :: else -> break od;
        run Recoverer(R0);
        if :: MAXC > 1 -> run Recoverer(R0 + 1) :: else fi
    };
    if
    :: timeout ->
       /* nothing can move any more: every message that was begun has arrived */
       assert(over && left == 0);
       p = 0;
       do
       :: p < NB -> assert(st[p] == GONE || st[p] == NONE); p++
       :: else -> break
       od
    fi
}
