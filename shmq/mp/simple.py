"""SimpleQueue: put, get, empty; with the two ends that multiprocessing's own users look for."""

from __future__ import annotations

import threading
import types
from typing import Any

from shmq.mp.items import Items


class End:
    """One end of a SimpleQueue, as far as it can pass for the end of a pipe.

    multiprocessing.Pool waits for, reads, writes and closes these.
    """

    def __init__(self, queue: SimpleQueue, name: str) -> None:
        self._queue = queue
        self._name = name

    @property
    def closed(self) -> bool:
        return self._name in self._queue._shut

    def close(self) -> None:
        self._queue._shut |= {self._name}

    def fileno(self) -> int:
        return self._queue.fileno()

    def poll(self, timeout: float | None = 0.0) -> bool:
        from multiprocessing.connection import wait

        if timeout == 0:
            return self._queue.qsize() > 0
        return bool(wait([self.fileno()], timeout))

    def recv(self) -> Any:
        return self._queue.get()

    def send(self, obj: Any) -> None:
        self._queue.put(obj)


class SimpleQueue(Items):
    """A Queue without bounds and timeouts, in place of `multiprocessing.SimpleQueue`."""

    __class_getitem__: Any = classmethod(types.GenericAlias)

    _shut: frozenset[str] = frozenset()

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__()

    @property
    def _reader(self) -> End:
        return End(self, "reader")

    @property
    def _writer(self) -> End:
        return End(self, "writer")

    @property
    def _rlock(self) -> Any:
        return threading.Lock()  # taking needs none; who asks wants to hold something

    _wlock = _rlock

    def _forked(self) -> None:
        super()._forked()
        self._shut = frozenset()

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

    def put(self, obj: Any) -> None:  # type: ignore[override]
        """Put an item; raises what its pickling raises."""
        super().put(obj)

    def get(self) -> Any:  # type: ignore[override]
        """Return the next item; waits for one."""
        return super().get()
