"""Who is killed when: N times SIGKILL, spread evenly over the rows, and certain to happen.

The clock is the progress of the job. With N kills the rows fall into N + 1 equal parts, and kill k
is due when k parts are settled. The reader gets its permits from here: until kill k has happened it
may read half a part further and no more. So however fast the workers or slow the parent, the job
cannot end before the last kill, and most kills hit workers in the middle of a batch.
"""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Callable

ROWS_PER_KILL = 50  # fewer would be a job of waiting
PATIENCE = 15.0  # seconds a victim may take to come back to life

Pids = Callable[[], list[int]]


class ChaosError(Exception):
    """A victim could not be killed because it never came back from its last death."""


class Chaos:
    def __init__(self, kills: int, rows: int, seed: int, victims: dict[str, Pids]) -> None:
        self.done: list[str] = []  # kind of each killed process, in order
        self._kills = kills
        self._rows = rows
        self._victims = victims
        self._random = random.Random(seed)
        self._deck: list[str] = []
        self._waiting_since: float | None = None

    @property
    def finished(self) -> bool:
        return len(self.done) == self._kills

    @property
    def permit(self) -> int:
        """How many rows may have been read by now."""
        if self.finished:
            return self._rows
        return int((len(self.done) + 1.5) * self._rows / (self._kills + 1))

    def step(self, settled: int) -> str | None:
        """Kill one process if one is due; returns its kind. Returns None when nothing was killed."""
        if self.finished or settled < (len(self.done) + 1) * self._rows // (self._kills + 1):
            return None
        if not self._deck:  # a shuffled deck: random order, and every kind has its turn
            self._deck = ["worker", *self._victims]
            self._random.shuffle(self._deck)
        kind = self._deck[-1]
        pids = self._victims[kind]
        candidates = pids()
        self._random.shuffle(candidates)
        if any(_killed(pid, pids) for pid in candidates):
            self._waiting_since = None
            self._deck.pop()
            self.done.append(kind)
            return kind
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since > PATIENCE:
            raise ChaosError(
                f"found no living {kind} to kill for {PATIENCE:.0f} s, expected it to be restarted"
            )
        return None


def _killed(pid: int, pids: Pids) -> bool:
    """SIGKILL a process and wait until it is dead; False if it was no longer alive.

    The pidfd names one process for good; asking again after it was opened proves that the pid has
    not been given to a stranger in between.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if _has_ended(handle, 0) or pid not in pids():
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return _has_ended(handle, PATIENCE)
    finally:
        os.close(handle)


def _has_ended(handle: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
