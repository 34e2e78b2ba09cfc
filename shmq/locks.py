"""Locks for a process that forks, gets signals, and collects garbage at any moment.

A lock that another thread holds when a process forks would stay taken in the child for ever: the
thread does not exist there. And a signal handler, or a finalizer, may come back to a lock that its
own thread holds. So every lock of this package is a `Lock`: free in a forked child, and re-entrant.
What it guards has to bear that the holder comes in twice, in the middle of itself.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

__all__ = ["Lock"]

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


def _after_fork_in_child() -> None:
    for lock in list(_all):
        if not lock.mine():
            lock._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_after_fork_in_child)
