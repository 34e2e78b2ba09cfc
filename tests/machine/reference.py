"""What a broker does with messages, in plain Python: the reference of the state machines.

One thread, one clock that is moved by hand, no memory, no processes: what docs/semantics.md says, and
nothing about how. Where it leaves an order open (what expires, is fired or comes back in one and the
same moment), a step is *loose*: its arrivals are put into the order in which they are found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

AGAIN_LOOK = 32  # native/src/level.c


@dataclass(eq=False)
class Note:
    """A message on its way: one per queue that it is in."""

    id: int
    payload: bytes
    headers: dict[str, Any]
    priority: int
    key: str | None
    dedup_id: str | None
    published: float
    expires: float
    due: float = 0.0
    attempts: int = 0
    again: bool = False
    reason: str | None = None
    origin: Shelf | None = None
    died_attempts: int = 0
    died: float = 0.0
    error: str | None = None
    place: tuple[bool, int] = (False, 0)
    """which ring, and where: a dead consumer's come back in this order"""
    line: int = 0
    """when it was sent to its queue: those of one loose step have the same"""

    def share(self, **changes: Any) -> Note:
        return Note(**{**vars(self), **changes})


@dataclass(eq=False)
class Shelf:
    """A queue, or a subscription."""

    name: str
    options: dict[str, Any]
    clock: Callable[[], float]
    others: Mapping[str, Shelf] = field(default_factory=dict)
    """by name: where its dead letters go is found there"""
    new: list[Note] = field(default_factory=list)
    back: list[Note] = field(default_factory=list)
    held: dict[Note, Any] = field(default_factory=dict)
    """to who holds it"""
    delayed: list[Note] = field(default_factory=list)
    parked: list[Note] = field(default_factory=list)
    """due, and waits for room"""
    blurred: bool = False
    """what waits for room moves on in the course of a step: after each, the order is that of the queue"""
    hidden: int = 0
    """places that expired ones keep, of which there is nothing else to be known while it is blurred"""
    ids: dict[str, Note] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, Note] = field(default_factory=dict)
    gone: bool = False
    closed: bool = False
    arrivals: list[Note] | None = None
    """what came in the course of a loose step, also what was refused"""
    line: int = 0
    tails: Counter[int] = field(default_factory=Counter)
    """places ever used of each level's ring; -1: the redelivery ring"""
    _tails: Counter[int] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["options"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def dead(self) -> Shelf | None:
        return self.others.get(self.options["dead_letter"])

    # ---- in --------------------------------------------------------------------------------

    def room(self, size: int) -> bool:
        ready = sum(len(note.payload) for note in self.new + self.back)
        if self.max_bytes and ready and ready + size > self.max_bytes:
            return False
        most: int = self.max_depth
        return self.filled() < most

    def span(self, ring: list[Note], tail: int) -> int:
        """Places between the first message and the end of its ring: what expired behind the first one
        keeps its own until that one is gone."""
        mine = [note.place[1] for note in ring if tail < 0 or self.level(note) == tail]
        return self.tails[tail] - min(mine) + 1 if mine else 0

    def filled(self) -> int:
        if self.order != "fifo":
            return len(self.new)
        return sum(self.span(self.new, level) for level in range(self.priorities)) + self.hidden

    def depth(self) -> int:
        plain = self.order == "fifo" and not any(self.tails[level] for level in range(1, 10))
        return self.filled() + (self.span(self.back, -1) if plain else len(self.back))

    def oldest(self) -> Note | None:
        """What drop-oldest would drop: the oldest new one of the lowest level, also when it waits for its key."""
        if self.order == "fifo":
            return min(self.new, key=self.level, default=None)
        return self.new[0] if self.new else None

    def make_room(self, size: int) -> bool:
        while not self.room(size):
            victim = self.oldest() if self.overflow == "drop-oldest" else None
            if victim is None:
                return False
            self.new.remove(victim)
            self.kill(victim, "overflow")
        return True

    def known(self, dedup_id: str | None) -> Note | None:
        return self.ids.get(dedup_id) if self.dedup_window and dedup_id is not None else None

    def accept(self, note: Note, delay: float) -> None:
        """Take in what has been found to have room and no double."""
        if self.dedup_window and note.dedup_id is not None:
            self.ids[note.dedup_id] = note
        self.counts["published"] += 1
        note.due = self.clock() + delay if delay else 0.0
        self.delayed.append(note) if delay else self._put(self.new, note)

    def _put(self, ring: list[Note], note: Note) -> None:
        tail = self.level(note) if ring is self.new else -1
        self.tails[tail] += 1
        note.place = (ring is self.new, self.tails[tail])
        ring.append(note)
        self._came(note)

    def _came(self, note: Note) -> None:
        if self.arrivals is not None:
            self.arrivals.append(note)

    # ---- out -------------------------------------------------------------------------------

    def level(self, note: Note) -> int:
        return 0 if self.order != "fifo" else min(note.priority, self.priorities - 1)

    def lane(self, note: Note) -> str:
        return "" if self.order == "strict" else note.key or f"#{note.id}"

    def everything(self) -> list[Note]:
        return [*self.new, *self.back, *self.held, *self.delayed, *self.parked]

    def is_here(self, note: Note) -> bool:
        return note in self.everything()

    def _free(self, ring: Iterable[Note]) -> list[Note]:
        """Of an ordered queue: the messages whose lane is theirs, or free, each lane's first."""
        found, passed = [], set()
        for note in ring:
            lane = self.lane(note)
            named = self.named.get(lane)
            if named is not note and (lane in passed or (named and self.is_here(named))):
                passed.add(lane)
                continue
            passed.add(lane)
            found.append(note)
        return found

    def waits_since(self, note: Note) -> float:
        return max(note.published, note.due)

    def next(self) -> Note | None:
        if self.order != "fifo":
            free = self._free(self.back + self.new)
            return free[0] if free else None
        best: tuple[float, Note] | None = None
        for level in range(self.priorities - 1, -1, -1):
            heads = [
                head
                for head in (self._oldest_back(level), self._first_new(level))
                if head is not None
            ]
            if not heads:
                continue
            if not self.aging:
                return heads[0]
            since = min(self.waits_since(head) for head in heads) - level * self.aging
            if best is None or since < best[0]:
                best = (since, heads[0])
        return best[1] if best else None

    def _first_new(self, level: int) -> Note | None:
        return next((note for note in self.new if self.level(note) == level), None)

    def _oldest_back(self, level: int) -> Note | None:
        """Of what came back, the one published first, among AGAIN_LOOK from the level's first on."""
        first = next((i for i, note in enumerate(self.back) if self.level(note) == level), None)
        if first is None:
            return None
        seen = self.back[first : first + AGAIN_LOOK]
        return min(
            (note for note in seen if self.level(note) == level),
            key=lambda note: (note.published, note.id),
        )

    def take(self, holder: Any, more: bool = False) -> Note | None:
        """``more``: than one, of a lot; what waits for room is sent on behind each lot."""
        while (note := self.next() or (None if more else self._sent_on())) is not None:
            (self.new if note in self.new else self.back).remove(note)
            self.named[self.lane(note)] = note
            if note.expires <= self.clock():
                self.kill(note, "expired")
                continue
            self.held[note] = holder
            return note
        return None

    def _sent_on(self) -> Note | None:
        while self.parked and self.room(len(self.parked[0].payload)):
            self._put(self.new, self.parked.pop(0))
        return self.next()

    def handed_out(self, note: Note) -> None:
        self.counts["delivered"] += 1
        self.counts["redelivered"] += note.again

    # ---- settling --------------------------------------------------------------------------

    def release(self, note: Note) -> None:
        """It is nobody's any more."""
        del self.held[note]

    def spent(self, note: Note) -> bool:
        if self.max_retries is None or note.attempts <= self.max_retries:
            return False
        return note.reason is None or bool(self.options["dead_letter"])

    def come_back(
        self, note: Note, attempted: bool, delay: float = 0.0, taken_back: bool = False
    ) -> None:
        """From a consumer, whatever the reason; ``taken_back``: it had no say in it."""
        self.release(note)
        if self.gone:
            return
        note.attempts += attempted
        note.again = True
        note.due = self.clock() + delay if delay else 0.0
        if self.spent(note) and not taken_back:
            self.kill(note, "retries")
        else:
            self.route(note)

    def route(self, note: Note) -> None:
        self.line += self.arrivals is None
        note.line = self.line
        if note.expires <= self.clock():
            self.kill(note, "expired")
        elif note.again and self.spent(note):
            self.kill(note, "retries")
        elif note.due > self.clock():
            self.delayed.append(note)
        elif note.again:
            self._put(self.back, note)
        elif (not self.parked or self.overflow == "drop-oldest") and self.make_room(
            len(note.payload)
        ):
            self._put(self.new, note)
        elif self.overflow == "reject" and note.reason is not None:
            self.counts["dropped"] += 1
            self._came(note)
        else:
            self.parked.append(note)
            self.blurred = True
            self._came(note)

    def kill(self, note: Note, reason: str) -> None:
        if self.gone:
            return
        self.counts["expired"] += reason == "expired"
        dead = self.dead
        if dead is None or (reason == "expired" and self.expired == "drop"):
            self.counts["dropped"] += 1
            return
        self.counts["dead_lettered"] += 1
        dead.route(
            note.share(
                expires=math.inf, due=self.clock(), died_attempts=note.attempts, attempts=0,
                again=False, died=self.clock(), reason=reason, origin=self,
            )
        )  # fmt: skip

    # ---- time ------------------------------------------------------------------------------

    def expire(self) -> None:
        for ring in (self.new, self.back, self.delayed, self.parked):
            for note in [note for note in ring if note.expires <= self.clock()]:
                ring.remove(note)
                self.kill(note, "expired")

    def fire(self, note: Note) -> None:
        self.delayed.remove(note)
        self.route(note)

    def loosen(self) -> None:
        """Begin a loose step."""
        self.arrivals, self._tails = [], self.tails.copy()
        self.line += 1

    def reconcile(self, ready: list[bytes]) -> None:
        """End a loose step: of what came, put into the rings what is there, in that order."""
        came, self.arrivals = list(dict.fromkeys(self.arrivals or [])), None
        here = self.new + self.back + self.parked
        ours = [note for note in came if note in here]
        inside = sum(note in self.new for note in ours)
        if self.overflow == "block" or self.dead:
            came = ours  # else which of them are dropped is as open as their order
        for note in ours:
            for ring in (self.new, self.back, self.parked):
                if note in ring:
                    ring.remove(note)
        self.tails = self._tails
        there = [note for note in came if note.payload in ready]
        for note in sorted(there, key=lambda note: ready.index(note.payload)):
            self._put(self.back if note.again else self.new, note)
        self.parked += [note for note in ours if note not in there and note.reason is None]
        lost = [note for note in ours if note not in there and note.reason is not None]
        if self.overflow == "block" or self.dead:
            self.parked += lost
        found = sum(note in self.new for note in came)
        assert found == inside or self.blurred, f"{found} came into {self.name}, not {inside}"

    def follow(self, ready: list[bytes], depth: int) -> None:
        """Let those be ready that are, of the new ones and those that wait for room.

        ``depth`` is what the queue says of its rings: which places expired ones keep is not known here.
        """
        pool, back = self.new + self.parked, [note.payload for note in self.back]
        waited, inside = self.parked, list(ready)
        for payload in back:
            inside.remove(payload)
        self.new, self.parked = [], []
        for payload in inside:
            note = next(note for note in pool if note.payload == payload)
            pool.remove(note)
            self._put(self.new, note)
        self.parked = sorted(pool, key=lambda note: note.line)
        first = [note for note in self.parked if note.line == self.parked[0].line]
        self.hidden = 0
        self.hidden = depth - self.depth() if self.order == "fifo" else 0
        wait = [not self.room(len(note.payload)) for note in first]
        # Of an ordered one the ring itself may be full: what is unsettled keeps places of later ones.
        assert self.order != "fifo" or not wait or any(wait), (
            f"{self.name} has {[note.payload for note in self.new]}, and beside room wait "
            f"{[note.payload for note in first]}; {self.options}"
        )
        sent = max((note.line for note in waited if note in self.new), default=0)
        assert all(note.line >= sent for note in self.parked), "one that waited was overtaken"
        self.blurred = bool(self.new or self.parked)
        self.hidden *= self.blurred

    def ready_in_order(self) -> list[Note]:
        """As `peek` shows it: aging and lanes apart."""
        if self.order != "fifo":
            return self.back + self.new
        return [
            note
            for level in range(self.priorities - 1, -1, -1)
            for ring in (self.back, self.new)
            for note in ring
            if self.level(note) == level
        ]
