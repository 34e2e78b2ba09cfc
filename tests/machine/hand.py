"""A consumer of the state machine: what the reference says that it holds, has read ahead and is handed next."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass

from reference import Note, Shelf

from shmq.consumer import Consumer
from shmq.delivery import Delivery


@dataclass(eq=False)
class Lease:
    """A message in somebody's hands, once: one that came back and was given to the same one again is another."""

    note: Note
    delivery: Delivery
    end: float


class Hand:
    """A consumer, and what it has."""

    def __init__(self, shelf: Shelf, consumer: Consumer, client: int) -> None:
        self.shelf, self.consumer, self.client = shelf, consumer, client
        self.group: str | None = None
        self.taken = 0
        """deliveries as a member of a group with turns"""
        self.had: list[Lease] = []
        self.ahead: list[Note] = []
        self.moved: Counter[Note] = Counter()
        """by how much the clock was moved since it was read ahead: its reader's copy of the times is not"""
        self.prefetch = 1
        self.passing: str | None = None
        """the ephemeral subscription that ends with it"""

    def holds(self, lease: Lease) -> bool:
        """Return whether it is in force: a consumer may have an older one of the same message."""
        note = lease.note
        if self.shelf.held.get(note) is not self or note in self.ahead:
            return False
        return lease is [each for each in self.had if each.note is note][-1]

    def next(self, now: float, more: bool = False) -> Note | None:
        """Read ahead if there is nothing, and return what it is handed; what expired meanwhile is over.

        ``more``: than one, of a lot.
        """
        shelf = self.shelf
        while True:
            while self.ahead:
                note = self.ahead.pop(0)
                if note.expires + self.moved.pop(note, 0) > now:
                    return note
                shelf.release(note)
                shelf.kill(note, "expired")
            for _ in range(self.prefetch if not shelf.gone else 0):
                taken = shelf.take(self, more or bool(self.ahead))
                if taken is not None:
                    self.ahead.append(taken)
                    self.moved.pop(taken, None)
            if not self.ahead:
                return None

    def compare(self, note: Note, d: Delivery, now: float) -> None:
        if note.id > 0:
            assert d.id == note.id
        note.id = d.id
        assert d.attempt == note.attempts + 1
        assert d.redelivered == note.again
        assert d.priority == note.priority
        assert d.key == note.key
        assert d.dedup_id == note.dedup_id
        headers = d.headers
        if note.reason:
            assert headers.pop("x-death-reason") == note.reason
            where = headers.pop("x-death-queue")
            assert isinstance(where, str)
            assert note.origin is not None
            assert where == note.origin.name or (note.origin.gone and where.startswith("queue "))
            assert headers.pop("x-attempts") == note.died_attempts
            error = headers.pop("x-error")
            assert note.error is None or error == note.error
            died = headers.pop("x-death-time")
            assert isinstance(died, float)
            ago = time.time() - died, now - note.died
            if self.prefetch == 1:  # else it is from before the clock was moved
                assert abs(ago[0] - ago[1]) < 5, f"died {ago[0]} s ago, not {ago[1]}"
        elif note.error is not None:
            assert headers.pop("x-error") == note.error
        assert headers == note.headers
        if note.expires == math.inf:
            assert d.ttl is None
        else:
            assert d.ttl is not None
            assert abs(d.ttl - (note.expires - note.published)) < 1
