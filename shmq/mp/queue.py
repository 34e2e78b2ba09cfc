"""Queue: multiprocessing.Queue's interface and edge cases."""

from __future__ import annotations

import contextlib
import sys
import traceback
from typing import Any

from shmq._native import lib
from shmq.mp.items import Items, T


class Queue(Items[T]):
    """A first-in first-out queue between processes, in place of `multiprocessing.Queue`.

    ``put`` returns when the item is in shared memory: any process sees it, and it survives this
    one. ``maxsize`` bounds the number of items; 0 or less means no bound but memory. ``ctx`` is a
    context of multiprocessing, which every start method of shmq.mp does without; a queue made with
    one, as multiprocessing itself makes them, reports an item that cannot be pickled on stderr
    instead of raising.
    """

    def __init__(self, maxsize: int = 0, *, ctx: Any = None) -> None:
        self._reports = ctx is not None
        super().__init__(maxsize)

    def __getstate__(self) -> Any:
        return (*super().__getstate__(), self._reports)

    def __setstate__(self, state: Any) -> None:
        *rest, self._reports = state
        super().__setstate__(tuple(rest))

    def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:
        """What becomes of an item that cannot be pickled: raises in `put`, unless overridden."""
        if not self._reports:
            raise e
        with contextlib.suppress(Exception):
            traceback.print_exception(type(e), e, e.__traceback__, file=sys.stderr)

    def close(self) -> None:
        """End the use of the queue by this process; what was put stays in it. Idempotent."""
        self._closed = True

    def join_thread(self) -> None:
        """Return at once: there is no thread. AssertionError before `close`, as ever."""
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Do nothing: nothing is ever waited for at exit."""

    def shutdown(self, immediate: bool = False) -> None:
        """Let nothing in any more: `put` raises ShutDown; so does `get` once the queue is empty.

        ``immediate`` drops the items that are in the queue. Also for callers that wait already.
        """
        self._call(lib.shmq_queue_close)
        if immediate:
            self._call(lib.shmq_queue_discard)
