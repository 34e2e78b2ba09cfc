"""Executor: calls in other processes, as `concurrent.futures` has them, that survive the workers' deaths."""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from itertools import islice
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from shmq._locks import Lock
from shmq._values import parse_count
from shmq.errors import explain
from shmq.workers import wire
from shmq.workers.call import Call
from shmq.workers.crew import cpus
from shmq.workers.engine import Engine
from shmq.workers.mapping import Mapping
from shmq.workers.serve import check_function

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Executor"]

AHEAD = 1024


class Executor(futures.Executor):
    """Make calls in ``max_workers`` processes; a `concurrent.futures.Executor` over shmq queues.

    A call whose worker dies (the OOM killer, a segmentation fault, `os._exit`) is made again by another
    one, up to ``retries`` times; then its future gets `WorkerDied`, which names pid, signal and call.
    The other calls notice nothing. So a call may be made more than once: make effects idempotent,
    or say ``retries=0``. An exception that a call raises is its result, and is never retried.

    Arguments and results are pickled; large buffers of theirs (numpy arrays) are written beside the
    pickle, with one copy in and one out. Arguments are what they were when `submit` was called.

    Nothing is started before the first call. Then there are the workers and one thread, until
    `shutdown`, the end of a `with`, or the end of the Executor object. If this process is killed,
    its workers end by themselves, also in the middle of a call.

    Args:
        max_workers: How many processes; default: one per CPU that this process may use.
        mp_context: A context of multiprocessing, or the name of a start method.
        initializer, initargs: Called in each worker before its first call. If it raises, every future
            gets `WorkersFailed`.
        max_tasks_per_child: A worker is replaced after so many calls.
        retries: How often a call is made again when its worker died, 0 to 4,094.

    Raises:
        InvalidOption: a number out of range.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        retries: int = 2,
    ) -> None:
        size = cpus() if max_workers is None else parse_count(max_workers, "max_workers", 1, 1000)
        if max_tasks_per_child is not None:
            parse_count(max_tasks_per_child, "max_tasks_per_child", 1, 1 << 62)
        parse_count(retries, "retries", 0, 4094)
        if initializer is not None:
            check_function("initializer", initializer)
        if mp_context is None or isinstance(mp_context, str):
            mp_context = multiprocessing.get_context(mp_context)
        self._max_workers = size
        self._options = (mp_context, size, retries, initializer, initargs, max_tasks_per_child)
        self._lock = Lock()
        self._engine: Engine | None = None
        self._shut_down = False
        self._names: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()

    def _started(self) -> Engine:
        engine = self._engine
        if engine is None:
            with self._lock:
                if self._engine is None:
                    if self._shut_down:
                        raise RuntimeError(
                            explain(
                                "executor",
                                "one that was shut down",
                                "an open one",
                                "make another one",
                            )
                        )
                    made = Engine(*self._options)
                    # Weakly: what broke it has a traceback, which leads to this Executor.
                    weakref.finalize(self, _shut_down, weakref.ref(made)).atexit = False
                    self._engine, other = made, self._engine_now()
                    if other is not None:  # a signal handler or a finalizer has been here meanwhile
                        self._engine = other
                        made.shutdown()
                engine = self._engine
        engine.refuse_child()
        return engine

    def _engine_now(self) -> Engine | None:
        return self._engine

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Return the Future of ``fn(*args, **kwargs)``, to be called in a worker.

        What cannot be pickled is its exception. Blocks for the pickling and one copy, and for nothing else.

        Raises: RuntimeError after `shutdown`; WorkersFailed when there are no workers to be had.
        """
        engine = self._started()
        number = next(engine.numbers)
        name = self._name_of(fn)
        future = Call(engine.me, number, wire.title(fn) if name is None else fn)
        try:
            payload = wire.call(number, fn, name, args, kwargs)
        except Exception as error:  # noqa: BLE001 - whatever pickle says
            future.set_exception(error)
            return future
        engine.submit([(number, payload)], future)
        return future

    def _name_of(self, function: Callable[..., Any]) -> bytes | None:
        try:
            name = self._names.get(function)
            if name is None:
                name = wire.named(function)
                if name is not None:
                    self._names[function] = name
        except Exception:  # noqa: BLE001 - not hashable, no name to be found by: sent as a whole, if at all
            return None
        return name

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over ``fn(*args)`` for args of the zipped iterables, in their order.

        The iterables are read as results are taken: at most ``buffersize`` calls (default: 1,024, or as
        many as 64 MiB of arguments) are ahead of the result taken last, so that they may be endless.
        At `shutdown` the rest is read at once, as if ``buffersize`` did not exist, unless it was given.

        Args:
            timeout: Seconds from now until which each result must have been there.
            chunksize: Calls that go to a worker as one. Above 1 it pays for calls that take less than
                some microseconds.
            buffersize: See above; 1 or more.

        Raises (when its result's turn comes): what ``fn`` raised; TimeoutError.
        """
        parse_count(chunksize, "chunksize", 1, 1 << 31)
        if buffersize is not None:
            parse_count(buffersize, "buffersize", 1, 1 << 31)
        engine = self._started()
        items = zip(*iterables)  # noqa: B905 - as map does
        ahead = buffersize or AHEAD
        least, lazy, title = self._max_workers + 1, buffersize is not None, wire.title(fn)
        if chunksize == 1:
            return Mapping(engine, fn, items, ahead, least, timeout, lazy, title).results()
        chunks = ((fn, chunk) for chunk in iter(lambda: list(islice(items, chunksize)), []))
        ahead = max(1, ahead // chunksize)
        mapping = Mapping(engine, wire.chunk, chunks, ahead, least, timeout, lazy, title)
        return _flat(mapping.results())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers when those that were submitted are done. Idempotent.

        Args:
            wait: Return when all of that is over. Ctrl-C meanwhile kills the workers.
            cancel_futures: Cancel what no worker has begun.
        """
        with self._lock:
            self._shut_down = True
            engine = self._engine
        if engine is None or engine.pid != os.getpid():
            return
        if not wait or threading.current_thread() is engine.thread:
            engine.shutdown(cancel_futures)
            return
        try:
            engine.shutdown(cancel_futures)
            engine.over.wait()
        except BaseException:
            engine.kill()
            engine.over.wait()
            raise
        engine.thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After Ctrl-C nobody wants the results of what has not begun.
        self.shutdown(cancel_futures=isinstance(error, (KeyboardInterrupt, SystemExit)))

    @property
    def pids(self) -> list[int]:
        """Pids of the workers that are there now."""
        return [] if self._engine is None else self._engine.pids

    def __repr__(self) -> str:
        state = "shut down" if self._shut_down else "open"
        return f"<shmq.Executor, {self._max_workers} workers, {state}>"


def _shut_down(engine: weakref.ref[Engine]) -> None:
    found = engine()
    if found is not None:
        found.shutdown()


def _flat(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    try:
        for chunk in chunks:
            chunk.reverse()
            while chunk:
                yield chunk.pop()
    finally:
        chunks.close()  # type: ignore[attr-defined]
