"""Contexts: those of multiprocessing, with queues of shmq."""

from __future__ import annotations

import multiprocessing
from typing import Any

from shmq.mp.joinable import JoinableQueue
from shmq.mp.queue import Queue
from shmq.mp.simple import SimpleQueue


class Context:
    """A context of multiprocessing whose queues are those of shmq; everything else passes on."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __repr__(self) -> str:
        return f"<shmq.mp context over {self._context!r}>"

    def Queue(self, maxsize: int = 0) -> Queue[Any]:  # noqa: N802 - multiprocessing's name
        """Return a `shmq.mp.Queue`."""
        return Queue(maxsize)

    def JoinableQueue(self, maxsize: int = 0) -> JoinableQueue[Any]:  # noqa: N802 - multiprocessing's name
        """Return a `shmq.mp.JoinableQueue`."""
        return JoinableQueue(maxsize)

    def SimpleQueue(self) -> SimpleQueue[Any]:  # noqa: N802 - multiprocessing's name
        """Return a `shmq.mp.SimpleQueue`."""
        return SimpleQueue()

    def get_context(self, method: str | None = None) -> Context:
        """Return the context of a start method, or this one."""
        return self if method is None else get_context(method)


def get_context(method: str | None = None) -> Context:
    """Return `multiprocessing.get_context(method)` with queues of shmq."""
    return Context(multiprocessing.get_context(method))
