"""Call: the Future of one call, and Sink: who wants the results of many without one."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Protocol

from shmq._locks import enter

if TYPE_CHECKING:
    from shmq.workers.engine import Engine

__all__ = ["Call", "Sink", "fail", "settle", "withdraw"]

_OVER = ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED")


class Sink(Protocol):
    """Who wants the results of many calls, without a Future for each: `Executor.map`."""

    title: Any
    """what is called, as `wire.title` has it"""

    def arrive(self, number: int, found: bytes | memoryview | BaseException) -> None:
        """Take a result's payload, or an exception."""

    def landed(self) -> None:
        """Some results have arrived."""

    def hurry(self) -> None:
        """Submit now what is to be submitted: the executor is being shut down."""


class _Condition(threading.Condition):
    """One that is entered and left in one step each.

    The standard library's takes two, and Ctrl-C between them leaves it locked: the collector, who is to
    resolve this Future, and with it all others, would wait for ever.
    """

    if sys.version_info[:2] == (3, 14):

        def __enter__(self) -> bool:
            return enter(self._lock)  # type: ignore[attr-defined]
    else:

        @property
        def __enter__(self) -> Any:
            return self._lock.__enter__  # type: ignore[attr-defined]

    @property
    def __exit__(self) -> Any:  # noqa: PLE0302 - it returns what has four
        return self._lock.__exit__  # type: ignore[attr-defined]


class Call(Future[Any]):
    """The Future of one call."""

    def __init__(self, engine: weakref.ref[Engine], number: int, title: Any) -> None:
        super().__init__()
        self._condition.__class__ = _Condition
        self._engine = engine
        self.number = number
        self.title = title

    def cancel(self) -> bool:
        """Withdraw the call; return whether that was possible: it is if no worker has begun it."""
        if not self.done():
            engine = self._engine()
            if engine is not None and engine.pid == os.getpid():
                engine.cancel(self)
        return self.cancelled()

    # What is final is read without the lock: it was set behind all else.

    def done(self) -> bool:
        """Return whether there is a result, or the call was withdrawn."""
        return self._state in _OVER

    def result(self, timeout: float | None = None) -> Any:
        """Return what the call returned; wait ``timeout`` seconds for it at most (None: for ever).

        Raises: what the call raised; CancelledError; TimeoutError.
        """
        if self._state == "FINISHED" and self._exception is None:
            return self._result
        return super().result(timeout)

    def running(self) -> bool:
        """Return whether a worker has begun the call."""
        if self.done():
            return False
        engine = self._engine()
        return engine is not None and engine.has_begun(self.number)

    def withdrawn(self) -> None:
        """Say that no worker will begin it. Idempotent."""
        super().cancel()
        with self._condition:
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()


def settle(call: Call, value: Any, error: BaseException | None) -> None:
    """Give a call its result. Idempotent."""
    with contextlib.suppress(Exception):  # resolved by somebody else, who must not do that
        if error is None:
            call.set_result(value)
        else:
            call.set_exception(error)


def fail(to: Call | Sink, number: int, error: BaseException) -> None:
    """Tell the receiver of a call that it has failed."""
    if isinstance(to, Call):
        settle(to, None, error)
    else:
        to.arrive(number, error)
        to.landed()


def withdraw(to: Call | Sink, number: int) -> None:
    """Tell the receiver of a call that no worker will begin it."""
    if isinstance(to, Call):
        to.withdrawn()
    else:
        fail(to, number, CancelledError())
