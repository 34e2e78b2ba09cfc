"""WorkerPool: processes that take messages from a queue and call a function for each."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from shmq._descriptors import scarce
from shmq._locks import Latch
from shmq._native import lib
from shmq._values import parse_count
from shmq.delivery import Delivery
from shmq.errors import explain
from shmq.queue import Queue
from shmq.workers.crew import Crew, cpus
from shmq.workers.death import Death
from shmq.workers.serve import check_function, check_handler, serve

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["WorkerPool"]

log = logging.getLogger("shmq.workers")

NOW_S = 1.0  # between asking workers to drop what they do and killing them
KEPT_DEATHS = 1000

_IDLE, _RUNNING, _STOPPING, _ENDING, _KILLING, _OVER = range(6)


class WorkerPool:
    """Call ``handler(delivery)`` for each message of ``queue``, in ``workers`` processes.

    What the handler returns is awaited if it can be (an ``async def``), in an event loop of the worker.

    When the handler returns, the delivery is acked, unless the handler has settled it; when it raises
    an Exception, it is nacked with the traceback in the header `x-error`. A worker that dies is
    replaced, and what it had in hand goes to another one: by the queue's `max_retries`, a message that
    kills its workers ends in the dead-letter queue.

    Use it by `run()`, which returns when the pool is stopped by Ctrl-C or SIGTERM or the queue has been
    shut down and drained; or as a context manager (`start` and `stop`), beside other work.

    Args:
        queue: A Queue; the pool uses this handle, its workers attach by themselves.
        handler: Called in the workers. Picklable under spawn and forkserver.
        workers: How many processes; default: one per CPU that this process may use.
        mp_context: A context of multiprocessing, or the name of a start method.
        prefetch: How many messages a worker reads ahead; those that it has not begun are given up to
            idle workers, and go back when it dies.
        concurrency: How many messages a worker has in hand at a time, if its handler is awaited.
        initializer, initargs: Called in each worker before its first message.
        on_death: Called with each `Death` in the process (and the thread) that watches the workers.

    Raises:
        InvalidOption: an impossible number of workers.
        TypeError: a handler that cannot be called, or a generator.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Callable[[Delivery], object],
        workers: int | None = None,
        *,
        mp_context: BaseContext | str | None = None,
        prefetch: int = 1,
        concurrency: int = 1,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        on_death: Callable[[Death], object] | None = None,
    ) -> None:
        check_handler(handler)
        for what, function in (("initializer", initializer), ("on_death", on_death)):
            if function is not None:
                check_function(what, function)
        self._size = cpus() if workers is None else parse_count(workers, "workers", 1, 1000)
        parse_count(prefetch, "prefetch", 1, lib.SHMQ_HELD)
        parse_count(concurrency, "concurrency", 1, lib.SHMQ_HELD)
        self.queue = queue
        self.deaths: list[Death] = []
        """the last thousand workers that nobody had asked to end"""
        if mp_context is None or isinstance(mp_context, str):
            mp_context = multiprocessing.get_context(mp_context)
        self._context = mp_context
        self._args = (queue, handler, prefetch, concurrency, initializer, initargs)
        self._on_death = on_death
        self._crew: Crew | None = None
        self._state = _IDLE
        self._pid = os.getpid()
        self._deadline: float | None = None
        self._over = Latch()
        self._thread: threading.Thread | None = None
        self._watcher = 0
        self._killed = False

    # ---- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers and a thread that watches them.

        Raises: RuntimeError when the pool was started before.
        """
        crew = self._begin()
        try:
            crew.fill()  # here, where errors are seen, and forks before there is a second thread
            self._thread = threading.Thread(target=self._watch, name="shmq-pool", daemon=True)
            _pools.add(self)
            with scarce(f"pool of queue {self.queue.name!r}"):
                self._thread.start()
        except BaseException:
            self._end(crew)
            raise

    def run(self) -> bool:
        """Start the workers and watch them in this thread, until they have ended.

        That is when the queue is shut down and drained, or after `stop`, or by signals: in the main
        thread, the first Ctrl-C or SIGTERM makes the workers finish what they have in hand, a second
        one gives it back to the queue at once. Returns whether everything in hand was finished.

        Raises: RuntimeError when the pool was started before.
        """
        self._begin()
        with self._signals():
            self._watch()
        return not self._killed

    def stop(self, timeout: float | None = None) -> bool:
        """Take no more messages, wait until those in hand are done, and end the workers.

        Workers that need more than ``timeout`` seconds are killed; what they hold goes back to the
        queue. Ctrl-C while this waits does so at once. Returns whether everything in hand was finished.
        Idempotent; another call can only make it earlier. In the thread that watches the workers (in
        ``on_death``, in a signal handler beside `run`) it waits for nothing and returns False.
        """
        if self._state == _IDLE:
            self._state = _OVER
            self._over.set()
            return True
        if (
            self._pid != os.getpid()
        ):  # in a forked child: the workers, and who watches them, are the parent's
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        if deadline is not None:
            self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        self._ask(_STOPPING)
        if threading.get_ident() == self._watcher:  # in on_death, or a signal handler beside run()
            return False
        try:
            self._over.wait()
        except BaseException:
            self._ask(_ENDING)
            self._over.wait()
            raise
        return not self._killed

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the workers have ended, ``timeout`` seconds at most; return whether they have.

        They end when the queue has been shut down and is drained, or by `stop`.
        """
        return True if self._pid != os.getpid() else self._over.wait(timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Pids of the workers that are there now."""
        return [] if self._crew is None else self._crew.pids()

    @property
    def in_hand(self) -> dict[int, int | None]:
        """{pid: id of the message that this worker has in hand (of several, the first), or None}."""
        return {} if self._crew is None else self._crew.held()

    def __repr__(self) -> str:
        state = ("not started", "running", "stopping", "ending", "ending", "over")[self._state]
        return f"<shmq.WorkerPool of {self.queue.name!r}, {self._size} workers, {state}>"

    # ---- watching --------------------------------------------------------------------------

    def _begin(self) -> Crew:
        if self._state != _IDLE:
            raise RuntimeError(
                explain(
                    f"pool of queue {self.queue.name!r}",
                    "one that was started before",
                    "a new one",
                    "make another WorkerPool",
                )
            )
        _at_exit()
        self._pid = os.getpid()
        self._state = _RUNNING
        self._crew = Crew(
            self._context, self._size, serve, self._args, name="shmq-worker", abandon=False
        )
        return self._crew

    def _ask(self, state: int) -> None:
        self._state = max(self._state, state)
        if self._crew is not None:
            self._crew.wake()

    def _watch(self) -> None:
        crew = self._crew
        assert crew is not None
        self._watcher = threading.get_ident()
        try:
            self._tend(crew)
        finally:
            self._end(crew)

    def _tend(self, crew: Crew) -> None:
        asked = _RUNNING
        while True:
            if self._state == _RUNNING and not crew.drained:
                crew.fill()
            if not len(crew) and (self._state > _RUNNING or crew.drained):
                return
            crew.wait(self._patience(crew))
            for death in crew.reap():
                self._report(death)
            if self._deadline is not None and time.monotonic() >= self._deadline:
                # Asked to stop, out of time: first by asking once more, then not asking at all.
                self._ask(_ENDING if self._state < _ENDING else _KILLING)
            while asked < self._state:
                asked += 1
                if asked == _ENDING:
                    self._deadline = time.monotonic() + NOW_S
                self._killed = self._killed or (asked >= _ENDING and len(crew) > 0)
                crew.signal(signal.SIGKILL if asked == _KILLING else signal.SIGTERM)

    def _end(self, crew: Crew) -> None:
        crew.close()
        self._state = _OVER
        self._over.set()
        _pools.discard(self)

    def _patience(self, crew: Crew) -> float | None:
        if self._state == _RUNNING and not crew.drained:
            return crew.pause() if len(crew) < self._size else None
        if self._deadline is None or self._state >= _KILLING:
            return None
        return self._deadline - time.monotonic()

    def _report(self, death: Death) -> None:
        if self._state >= _ENDING or (self._state == _STOPPING and death.message_id is None):
            return  # asked to, if not kindly, or before it had a hand free for the signal
        log.warning("%s", death)
        self.deaths.append(death)
        del self.deaths[:-KEPT_DEATHS]
        if self._on_death is not None:
            try:
                self._on_death(death)
            except Exception:  # noqa: BLE001 - the workers must be watched all the same
                log.exception("on_death")

    @contextlib.contextmanager
    def _signals(self) -> Any:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            self._ask(_STOPPING if self._state < _STOPPING else _ENDING)

        before = {
            number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_pools: set[WorkerPool] = set()


def _stop_all() -> None:
    for pool in list(_pools):
        pool.stop()


_registered_pid = 0


def _at_exit() -> None:
    # A child of multiprocessing waits for its own children before it comes to what threading knows.
    global _registered_pid
    if _registered_pid != os.getpid():
        _registered_pid = os.getpid()
        Finalize(None, _stop_all, exitpriority=100)


# Before multiprocessing waits for its children, which would wait for messages.
getattr(threading, "_register_atexit", lambda _: None)(_stop_all)
os.register_at_fork(after_in_child=_pools.clear)  # they are the parent's
