"""JoinableQueue: a queue that knows which items are done, whoever is killed.

An item that was got stays leased to the process that got it until that one calls `task_done`. When
the process dies instead, or drops the queue, the item is in the queue again. So `join` returns when
every item was done by somebody, and a killed worker's items are done by the next.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from typing import Any

from shmq._locks import Lock
from shmq._native import lib
from shmq._native.structs import deadline_of
from shmq.delivery import ACK, RELEASE, meta_of, settle
from shmq.errors import QueueClosed, QueueEmpty
from shmq.mp import pickling
from shmq.mp.items import ONCE, T, seconds_until
from shmq.mp.queue import Queue


class Tasks:
    """What this process has got from one queue and not done."""

    def __init__(self) -> None:
        self._by_thread: dict[int, deque[Any]] = {}

    def add(self, delivery: Any) -> None:
        """Note that the calling thread has this one."""
        self._by_thread.setdefault(threading.get_ident(), deque()).append(delivery)

    def take(self) -> Any:
        """Return the oldest of the calling thread, else of any; None when there is none."""
        mine = self._by_thread.get(threading.get_ident())
        for tasks in (mine, *list(self._by_thread.values())):
            if tasks:
                with contextlib.suppress(IndexError):
                    return tasks.popleft()
        return None

    def __bool__(self) -> bool:
        return any(self._by_thread.values())


_tasks: weakref.WeakValueDictionary[str, Tasks] = weakref.WeakValueDictionary()
_lock = Lock()


class JoinableQueue(Queue[T]):
    """A Queue with `task_done` and `join`, in place of `multiprocessing.JoinableQueue`."""

    _flags = lib.SHMQ_JOINED
    _plain_takes = False

    _held: Tasks | None = None

    def _tasks(self) -> Tasks:
        held = self._held
        if held is None:
            with _lock:
                held = self._held = _tasks.setdefault(self._name, Tasks())
        return held

    def _forked(self) -> None:
        super()._forked()
        self._held = None
        _tasks.pop(self._name, None)  # the parent's to do

    def _get_slow(self, block: bool = True, timeout: float | None = None, copy: bool = True) -> Any:
        self._refuse_closed()
        self._ready()
        delivery = self._lease(deadline_of(block, timeout))
        meta = meta_of(delivery)
        try:
            obj = pickling.decode(meta, delivery.view, view=not copy) if meta else delivery.payload
        except Exception:
            self._tasks().add(delivery)  # got, and to be done, though it is no object
            raise
        except BaseException:
            settle(delivery, RELEASE)
            raise
        self._tasks().add(delivery)
        if self._bell is not None:
            self._bell.ring()
        return obj

    def _lease(self, deadline: int) -> Any:
        consumer = self._consumer()
        while True:
            try:
                # A queue that was shut down waits for the others' items: they may come back. For
                # our own we must not wait.
                closed = self._tasks() and self._state() != lib.SHMQ_Q_LIVE
                return consumer.get(0.0 if closed else seconds_until(deadline))
            except QueueEmpty:
                if closed:
                    self._shut_down()
                if deadline == ONCE or (deadline and lib.shmq_now() >= deadline):
                    self._none()
            except QueueClosed:
                self._shut_down()

    def get_many(
        self, max_n: int, timeout: float | None = None, *, block: bool = True
    ) -> list[Any]:
        """Return 1 to ``max_n`` items: what is there now; waits like `get` only for the first one."""
        if max_n < 1:
            return super().get_many(max_n, timeout, block=block)
        found = [self.get(block, timeout)]
        with contextlib.suppress(QueueEmpty, QueueClosed):
            while len(found) < max_n:
                found.append(self.get(False))
        return found

    def task_done(self) -> None:
        """Say that an item is done: the oldest that the calling thread got, else this process.

        Raises ValueError when this process has none.
        """
        delivery = self._tasks().take()
        if delivery is None:
            raise ValueError("task_done() called too many times")
        rc = settle(delivery, ACK)
        if rc < 0 and rc not in (lib.SHMQ_STALE, lib.SHMQ_GONE):
            self._check(rc)

    def join(self) -> None:
        """Wait until every item that was put has been got and done."""
        self._ready()
        while True:
            rc = lib.shmq_wait_settled(self._client.ctx, self._qref, 0)
            if rc == lib.SHMQ_OK:
                return
            if rc == lib.SHMQ_E_FORKED:
                self._ready()
            elif rc not in (lib.SHMQ_BUSY, lib.SHMQ_INTR, lib.SHMQ_TIMEOUT):
                self._check(rc)

    def shutdown(self, immediate: bool = False) -> None:
        """Let nothing in any more; ``immediate`` also drops what is there and ends every `join`."""
        super().shutdown(immediate)
        if immediate:
            self._call(lib.shmq_queue_mark, lib.SHMQ_TERMINATED)
