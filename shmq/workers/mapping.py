"""Executor.map: many calls of one function, results in order, no Future for each."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import islice
from typing import Any

from shmq._locks import Lock
from shmq.errors import explain
from shmq.serializers import Encoded
from shmq.workers import wire
from shmq.workers.engine import Engine

__all__ = ["Mapping"]

STEP = 64  # calls submitted in one crossing
LARGE = 64 << 20  # bytes of arguments ahead of the results taken, beyond what keeps workers busy


class Mapping:
    """The results of ``function(*args)`` for each args of ``items``; a Sink of the engine.

    At most ``ahead`` calls are ahead of the result that was taken last, and of large arguments fewer.
    At the executor's shutdown the rest is submitted at once, unless it is ``lazy``.
    """

    def __init__(
        self,
        engine: Engine,
        function: Callable[..., Any],
        items: Iterator[tuple[Any, ...]],
        ahead: int,
        least: int,
        timeout: float | None,
        lazy: bool,
        title: Any,
    ) -> None:
        self._engine = engine
        self.title = title
        self._function = function
        self._name = wire.named(function)
        self._items = items
        self._ahead, self._least = ahead, least
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._order: deque[int] = deque()
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._ready: dict[int, bytes | memoryview | BaseException] = {}
        self._wanted = 0
        self._gate = threading.Lock()
        self._gate.acquire()
        self._exhausted = False
        self._failure: BaseException | None = None
        self._filling = Lock()
        if not lazy:
            engine.attend(self)
        self._fill()

    # ---- the engine's side -----------------------------------------------------------------

    def arrive(self, number: int, found: bytes | memoryview | BaseException) -> None:
        """Keep a result until its turn comes."""
        self._ready[number] = found

    def landed(self) -> None:
        """Wake whoever waits for the next result, if it is there."""
        if self._wanted in self._ready:
            self._wanted = 0
            try:
                self._gate.release()
            except RuntimeError:  # not taken: nobody waits any more
                pass

    def hurry(self) -> None:
        """Read what is left of the iterables: the results are wanted after the shutdown, too."""
        with self._filling:
            self._read_all()

    def _read_all(self) -> None:
        while not self._exhausted:
            self._submit(STEP)

    # ---- the caller's side -----------------------------------------------------------------

    def _fill(self) -> None:
        self._engine.refuse_child()
        with self._filling:
            self._read_ahead()

    def _read_ahead(self) -> None:
        while not self._exhausted:
            room = self._ahead - len(self._order)
            if room <= 0 or (self._bytes > LARGE and len(self._order) >= self._least):
                return
            self._submit(min(room, STEP))

    def _submit(self, n: int) -> None:
        entries: list[tuple[int, bytes | Encoded]] = []
        function, name = self._function, self._name
        added, before = 0, len(self._order)
        try:
            for number, args in zip(self._engine.numbers, islice(self._items, n)):  # noqa: B905
                try:
                    payload = wire.call(number, function, name, args)
                except Exception as error:  # noqa: BLE001 - it cannot be pickled: its result, in its turn
                    self._ready[number] = error
                    self._sizes.append(0)
                else:
                    entries.append((number, payload))
                    size = len(payload) if type(payload) is bytes else payload.size  # type: ignore[union-attr]
                    self._sizes.append(size)
                    added += size
                self._order.append(number)
                if added > LARGE:
                    break
            else:
                self._exhausted = len(self._order) - before < n
        except Exception as error:  # noqa: BLE001 - of the iterable: raised behind what came before it
            self._exhausted, self._failure = True, error
        self._bytes += added
        if entries:
            self._engine.submit(entries, self)

    def results(self) -> Iterator[Any]:
        """Yield the results in order; what is not taken is given up when the iterator is closed."""
        order, ready, sizes = self._order, self._ready, self._sizes
        low = self._ahead // 2
        try:
            while True:
                if not self._exhausted and (len(order) <= low or self._bytes > LARGE):
                    self._fill()
                if not order:
                    if self._failure is not None:
                        raise self._failure
                    return
                found = ready.pop(order[0], None)
                if found is None:
                    found = self._await(order[0])
                order.popleft()
                self._bytes -= sizes.popleft()
                outcome = [found]
                del found
                yield _value(outcome)  # in no variable here: it is the caller's alone
        finally:
            if order:
                self._engine.forget(list(order))
            order.clear()
            self._exhausted = True

    def _await(self, number: int) -> bytes | memoryview | BaseException:
        while (found := self._ready.pop(number, None)) is None:
            self._wait(number)
        return found

    def _wait(self, number: int) -> None:
        self._wanted = number
        if number in self._ready:
            return
        self._engine.refuse_child()
        if self._deadline is None:
            self._gate.acquire()
            return
        left = self._deadline - time.monotonic()
        if left <= 0 or not self._gate.acquire(timeout=left):
            if number in self._ready:
                return
            raise FutureTimeoutError(
                explain("map", "no next result in time", "one", "give it a longer timeout=")
            )


def _value(outcome: list[bytes | memoryview | BaseException]) -> Any:
    found = outcome.pop()
    if isinstance(found, BaseException):
        raise found
    value, error = wire.result_in(found)
    if error is not None:
        raise error
    return value
