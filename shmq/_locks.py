"""Locks for a process that forks, gets signals, and collects garbage at any moment.

A lock that another thread holds when a process forks would stay taken in the child for ever: the
thread does not exist there. And a signal handler, or a finalizer, may come back to a lock that its
own thread holds. So every lock of this package is a `Lock`: free in a forked child, and re-entrant.
What it guards has to bear that the holder comes in twice, in the middle of itself.

What a handler raises, Ctrl-C say, may come at any moment, also between the return of a call and what
the caller does next. `threading.Event` then keeps its own lock for ever, and who sets it waits for
ever; a handler that sets it amid a wait does so, too. `Latch` has no lock to keep.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

__all__ = ["Latch", "Lock", "enter"]

LOOK_S = 1.0  # how often one who waits for a latch looks, should nobody have woken him

if TYPE_CHECKING:
    from threading import _RLock as RLock
else:
    RLock = type(threading.RLock())

_all: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock(RLock):  # type: ignore[misc]
    """A re-entrant lock that is free in a forked child, unless the forking thread itself holds it."""

    def __init__(self) -> None:
        super().__init__()
        _all.add(self)

    def mine(self) -> bool:
        """Return whether the calling thread holds it."""
        return bool(self._is_owned())  # type: ignore[attr-defined]

    if sys.version_info[:2] == (3, 14):
        # There, what a signal handler raises may come after __enter__ of a built-in lock and before the block.
        # The return of a function is no such moment.
        def __enter__(self) -> bool:
            return enter(self)


def enter(lock: Any) -> bool:
    """Acquire an RLock for a `with`; an exception at any moment leaves it as it was."""
    held = lock._recursion_count()
    try:
        return bool(lock.acquire())
    except BaseException:
        if lock._recursion_count() > held:
            lock.release()
        raise


class Latch:
    """Something that happens once, and can be waited for. Set and waited for by any thread or handler."""

    def __init__(self) -> None:
        self._set = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._set

    def set(self) -> None:
        """Say that it has happened, and wake all who wait for that. Idempotent."""
        self._set = True
        self._open()

    def _open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open
            self._gate.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has happened, ``timeout`` seconds at most; return whether it has."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._set:
            left = LOOK_S if deadline is None else min(LOOK_S, deadline - time.monotonic())
            if left <= 0:
                break
            self._pass(left)
        return self._set

    def _pass(self, seconds: float) -> None:
        try:
            self._gate.acquire(timeout=seconds)
        finally:
            # Once it has happened everybody passes, and nobody keeps the gate from the next one.
            if self._set:
                self._open()


def _after_fork_in_child() -> None:
    for lock in list(_all):
        if not lock.mine():
            lock._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_after_fork_in_child)
