"""Ledger: which calls are not resolved, and where each of them is.

    calls      all of them, by number, with who wants to hear
    waiting    of these, those that wait here, in the order in which they will be sent
    out        the others: in the queue, with a worker, or in the hands of who sends; never more than fill
               the *window*, but for what was submitted before it shrank
    doomed     withdrawn, and not told yet. Whoever is in here is neither sent nor resolved any more
    retried    begun by a worker that died, with how many attempts are over: never withdrawn

An exception of a signal handler may come between any two of these operations, each of which is one
step for it. So nothing is counted that can be computed; a call is put into its next place before it is
taken out of the last one, and doomed before it is forgotten: what was interrupted is told by the
collector (`tell` can be repeated), and what is in two places is where the later line above says.

A handler may also submit and cancel amid all of this, in the thread that holds the lock: no loop here
goes over a container that is not its own copy.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from shmq._locks import Lock
from shmq.serializers import Encoded
from shmq.workers.call import Call, Sink, fail, withdraw

__all__ = ["Ledger"]

HORIZON_S = 0.01  # how long the calls in the window keep the workers busy
WINDOW_MAX = 8192


class Ledger:
    """The calls of one executor. What takes several steps is done with ``lock``."""

    def __init__(self, least: int) -> None:
        self.lock = Lock()
        self.calls: dict[int, Call | Sink] = {}
        self.waiting: OrderedDict[int, bytes | bytearray] = OrderedDict()
        self.doomed: dict[int, Call | Sink] = {}
        self.retried: dict[int, int] = {}
        self._window = self._least = least
        self._rate = 0.0  # results per second
        self._seen = time.monotonic()

    # ---- the window ------------------------------------------------------------------------

    @property
    def out(self) -> int:
        """How many are in the queue, with a worker, or on their way there."""
        return max(0, len(self.calls) - len(self.waiting))

    @property
    def room(self) -> int:
        """How many more may be sent at once: none while others wait."""
        return 0 if self.waiting else max(0, self._window - self.out)

    @property
    def stuck(self) -> bool:
        """Whether some wait and the window is full."""
        return bool(self.waiting) and self.out >= self._window

    def pace(self, n: int) -> None:
        """Size the window after ``n`` results."""
        now = time.monotonic()
        if n:
            self._rate = max(n / max(now - self._seen, 1e-4), 0.7 * self._rate)
        self._seen = now
        wanted = self._least + int(self._rate * HORIZON_S)
        self._window = max(self._least, min(wanted, 2 * self._window, WINDOW_MAX))

    def rest(self) -> None:
        """There was no result for a while: what is known of their pace is old."""
        self._rate = 0.0

    # ---- in and out ------------------------------------------------------------------------

    def admit(self, numbers: Iterable[int], to: Call | Sink) -> None:
        """Take calls in."""
        for number in numbers:
            self.calls[number] = to

    def keep(self, entries: Iterable[tuple[int, bytes | bytearray]]) -> None:
        """Let calls wait, after all others."""
        for number, payload in entries:
            self.waiting[number] = payload

    def put_back(self, entries: Iterable[tuple[int, bytes | bytearray | Encoded]]) -> None:
        """Let calls wait, before all others."""
        for number, payload in entries:
            self.waiting[number] = kept(payload)
        self._to_front([number for number, _ in entries])

    def _to_front(self, numbers: Sequence[int]) -> None:
        for number in sorted(numbers, reverse=True):
            if number in self.waiting:
                self.waiting.move_to_end(number, last=False)

    def next_ones(self) -> list[tuple[int, bytes | bytearray]]:
        """Take what may be sent now out of those that wait."""
        entries: list[tuple[int, bytes | bytearray]] = []
        while self.waiting and self.out < self._window:
            entry = self.waiting.popitem(last=False)
            if entry[0] in self.calls and entry[0] not in self.doomed:
                entries.append(entry)
        return entries

    # ---- coming home -----------------------------------------------------------------------

    def come_home(self, number: int, payload: bytes, attempts: int) -> None:
        """Let a call that was recalled wait again."""
        if attempts:
            self.retried[number] = attempts
        if number in self.calls:  # else nobody wants it any more
            self.waiting[number] = payload

    def not_home(self, number: int) -> None:
        """Take that back: it is in the queue, or a worker has got it."""
        self.waiting.pop(number, None)

    def all_home(self, numbers: Sequence[int]) -> None:
        """Let calls that were recalled wait before all others, and the window start small again."""
        self._to_front(numbers)
        self._window = self._least
        self._rate = 0.0

    # ---- withdrawing -----------------------------------------------------------------------

    def unresolved(self, numbers: Iterable[int]) -> list[int]:
        """Return those of these calls that are not resolved."""
        return [number for number in numbers if number in self.calls]

    def any_out(self, numbers: Iterable[int]) -> bool:
        """Return whether one of these calls does not wait here."""
        return any(number not in self.waiting for number in numbers)

    def doom(self, numbers: Iterable[int]) -> None:
        """Withdraw those of these calls that wait here and were never begun."""
        for number in numbers:
            to = self.calls.get(number)
            if to is not None and number in self.waiting and number not in self.retried:
                self.doomed[number] = to

    def doom_the_lost(self) -> None:
        """Withdraw all that are out, for they are nowhere."""
        for number, to in list(self.calls.items()):
            if number not in self.waiting:
                self.doomed[number] = to

    def tell(self) -> None:
        """Tell those whose calls were withdrawn. Not with the lock: they call others."""
        for number, to in list(self.doomed.items()):
            self._remove(number)
            withdraw(to, number)
            self.doomed.pop(number, None)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget calls whose results nobody wants any more."""
        for number in numbers:
            self._remove(number)
            self.doomed.pop(number, None)

    def _remove(self, number: int) -> Call | Sink | None:
        """Take a call out; who gets it tells its receiver, and nobody else."""
        self.waiting.pop(number, None)
        self.retried.pop(number, None)
        return self.calls.pop(number, None)

    # ---- failing ---------------------------------------------------------------------------

    def fail(self, number: int, error: BaseException) -> None:
        """Resolve a call that has failed. Not with the lock."""
        to = self._remove(number)
        if to is not None:
            fail(to, number, error)

    def fail_all(self, error: BaseException) -> None:
        """Resolve all that are left."""
        for number in list(self.calls):
            self.fail(number, error)


def kept(payload: bytes | bytearray | Encoded) -> bytes | bytearray:
    """Return what of a call can wait: a copy, for the caller may change its arrays soon."""
    return payload.to_bytes() if isinstance(payload, Encoded) else payload
