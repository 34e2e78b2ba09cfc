"""How far apart the two cores are: the time a cache line takes from one to the other and back.

A virtual machine's cores are moved about by its host, now two threads of one core, now in different sockets, some
seconds each. What passes between processes then takes up to four times as long, whoever passes it: rows measured in
different places cannot be compared. So each measurement knows where it was made.
"""

from __future__ import annotations

import mmap
import os
from itertools import repeat
from statistics import median
from time import monotonic, perf_counter_ns, sleep

from tools.bench.processes import CONSUMER_CORE, PRODUCER_CORE

_LOTS, _TRIPS = 7, 750
_ANSWER = 128  # bytes from the question: lines are fetched in pairs
_FAR = 1.6  # times the shortest trip seen so far
_PAUSE_S = 0.25
_LOOKS = 100_000_000  # some seconds


def _await(line: memoryview, at: int, turn: int) -> None:
    for _ in repeat(None, _LOOKS):
        if line[at] == turn:
            return
    text = "the other core does not answer"
    raise TimeoutError(text)


def _answer(line: memoryview) -> None:
    for _ in range(_LOTS * _TRIPS // 250):
        for turn in range(1, 251):
            _await(line, 0, turn)
            line[_ANSWER] = turn


def _ask(line: memoryview) -> float:
    lots = []
    for _ in range(_LOTS):
        begin = perf_counter_ns()
        for _ in range(_TRIPS // 250):
            for turn in range(1, 251):
                line[0] = turn
                _await(line, _ANSWER, turn)
        lots.append((perf_counter_ns() - begin) / _TRIPS)
    return median(lots)


def round_trip() -> float:
    """Return the nanoseconds there and back, the interpreter's share (some 200) included; takes 5 ms."""
    before = os.sched_getaffinity(0)
    with mmap.mmap(-1, mmap.PAGESIZE) as memory, memoryview(memory) as line:
        child = os.fork()
        if child == 0:
            try:
                os.sched_setaffinity(0, {CONSUMER_CORE})
                _answer(line)
            finally:
                os._exit(0)
        try:
            os.sched_setaffinity(0, {PRODUCER_CORE})
            return _ask(line)
        finally:
            os.sched_setaffinity(0, before)
            os.waitpid(child, 0)


class Distance:
    """Tells near from far, by the shortest round trip of the run so far."""

    def __init__(self) -> None:
        """Begin a run; `shortest` is None where there is one core only."""
        self.shortest = None if PRODUCER_CORE == CONSUMER_CORE else round_trip()

    def far(self) -> bool:
        """Measure now."""
        if self.shortest is None:
            return False
        now = round_trip()
        self.shortest = min(self.shortest, now)
        return now > _FAR * self.shortest

    def await_near(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the cores are near each other; return whether they are."""
        deadline = monotonic() + timeout
        while self.far():
            if monotonic() > deadline:
                return False
            sleep(_PAUSE_S)
        return True
