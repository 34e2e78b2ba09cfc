"""SimpleQueue: put, get, empty; with the two ends that multiprocessing's own users look for."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from shmq.errors import QueueEmpty
from shmq.mp.items import Items, T


class End:
    """One end of a SimpleQueue, as far as it can pass for the end of a pipe.

    multiprocessing.Pool waits for, reads, writes and closes these.
    """

    def __init__(self, queue: SimpleQueue, name: str) -> None:
        self._queue = queue
        self._name = name

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._name in self._queue._shut

    def close(self) -> None:
        """Close this end; the queue goes on while the other one is open."""
        self._queue._shut |= {self._name}

    def fileno(self) -> int:
        """Return a descriptor that is readable while there may be an item."""
        return self._queue.fileno()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether there is an item, after at most ``timeout`` seconds (None: for ever)."""
        from multiprocessing.connection import wait

        queue = self._queue
        if timeout == 0:
            return queue._see() if queue._alone else queue.qsize() > 0
        return bool(queue._seen or wait([self.fileno()], timeout))

    def recv(self) -> Any:
        """Return the next item; waits for one."""
        try:
            return self._queue._seen.popleft()
        except IndexError:
            return self._queue.get()

    def send(self, obj: Any) -> None:
        """Put an item."""
        self._queue.put(obj)


class ReadLock:
    """Who holds it reads alone: what `poll` has seen is there for `recv`, whoever else takes items.

    Taking an item needs no lock, so others are not kept from it; `poll` takes the item it sees, and
    what was not received by then goes back when the lock is released. Pool relies on it when it is
    terminated: it empties the queue of tasks while its workers still take them.
    """

    def __init__(self, queue: SimpleQueue) -> None:
        self._queue = queue

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Read alone from now on. Always True: nobody is waited for."""
        self._queue._alone += 1
        return True

    def release(self) -> None:
        """Read together again; what was seen and not received goes back."""
        queue = self._queue
        queue._alone -= 1
        while queue._seen:
            queue.put(queue._seen.popleft())

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimpleQueue(Items[T]):
    """A Queue without bounds and timeouts, in place of `multiprocessing.SimpleQueue`."""

    _shut: frozenset[str] = frozenset()
    _alone = 0  # how often this process has taken the lock of the reading end

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__()
        self._seen: deque[Any] = deque()

    @property
    def _reader(self) -> End:
        return End(self, "reader")

    @property
    def _writer(self) -> End:
        return End(self, "writer")

    @property
    def _rlock(self) -> ReadLock:
        return ReadLock(self)

    @property
    def _wlock(self) -> Any:
        return threading.Lock()  # putting needs none; who asks wants to hold something

    def _see(self) -> bool:
        """Take an item for the next `recv`, if there is one."""
        if not self._seen:
            try:
                self._seen.append(super().get(False))
            except QueueEmpty:
                return False
        return True

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._seen = deque()

    def _forked(self) -> None:
        super()._forked()
        self._shut = frozenset()
        self._alone = 0
        self._seen = deque()  # the parent has them

    def _refuse_closed(self) -> None:
        if self._closed:
            raise OSError(f"queue {self._name!r} is closed")

    def close(self) -> None:
        """End the use of the queue by this process. Idempotent."""
        self._closed = True
        self._shut = frozenset(("reader", "writer"))

    def empty(self) -> bool:
        """Return whether no item is in the queue. Raises OSError when it was closed."""
        self._refuse_closed()
        return self.qsize() == 0

    def put(self, obj: T) -> None:  # type: ignore[override]
        """Put an item; raises what its pickling raises."""
        super().put(obj)

    def get(self) -> T:  # type: ignore[override]
        """Return the next item; waits for one."""
        return super().get()
