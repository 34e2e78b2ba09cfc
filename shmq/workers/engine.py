"""Engine: the life of an Executor's calls, in its owner's process.

Two queues: calls, results. A call that is submitted is pickled at once. As many as keep the workers busy
for some milliseconds (the *window*) are in the queue of calls, the others wait here, where they
can be cancelled. One thread, the collector, takes results, resolves, refills the window, and
replaces workers; it sleeps in the kernel while there is nothing to do.

    submit --> waiting here --> queue of calls --> worker --> queue of results --> resolved
                                      |  ^                            ^
                                      |  +-- its worker died          |
                                      +------ as often as allowed ----+  (a dead letter)

Retries need no bookkeeping: a dead worker's call goes back to its queue with one attempt more, and past
the queue's `max_retries` it becomes a dead letter, whose queue is that of results.

A call is resolved by who takes it out of `_calls`, once: a second result of a call that was made twice,
because its worker died between result and ack, finds nothing there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.context import BaseContext
from typing import Any, Protocol

from shmq._native import lib
from shmq.broker import Broker
from shmq.delivery import EAGER, Delivery
from shmq.descriptors import scarce
from shmq.errors import OutOfSharedMemory, QueueEmpty, ShmqError, explain
from shmq.locks import Lock
from shmq.options import MAX_RETRIES
from shmq.queue import Queue
from shmq.serializers import Encoded
from shmq.workers import wire
from shmq.workers.crew import Crew
from shmq.workers.death import Death, WorkerDied, WorkersFailed
from shmq.workers.work import work

__all__ = ["Engine", "Sink"]

BATCH = 512  # results taken in one crossing
DEPTH = 1 << 16
HORIZON_S = 0.01  # how long the calls in the window keep the workers busy
WINDOW_MAX = 8192
LOOK_S = 0.05  # how often a collector that waits for results looks for dead workers
LOOK_LIMITED_S = 0.005  # the same where workers end all the time: max_tasks_per_child
KEPT_DEATHS = 1000


class Sink(Protocol):
    """Who wants the results of many calls, without a Future for each: `Executor.map`."""

    def arrive(self, number: int, found: bytes | memoryview | BaseException) -> None:
        """Take a result's payload, or an exception."""

    def landed(self) -> None:
        """Some results have arrived."""

    def hurry(self) -> None:
        """Submit now what is to be submitted: the executor is being shut down."""


def open_broker() -> tuple[Broker, Callable[[], None]]:
    """Return a broker for an executor's queues, and what to call when they are deleted.

    One of its own: it ends with the last of owner and workers, however they end, and takes the
    queues and everything in them along, which a broker shared with others could not do.
    """
    broker = Broker(max_message_size="1GiB")
    return broker, lambda: broker.shutdown(timeout=0)


class Engine:
    """Made by the first submit of an Executor; ends with `shutdown`, or when the Executor is dropped."""

    def __init__(
        self,
        context: BaseContext,
        workers: int,
        retries: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        limit: int | None,
    ) -> None:
        self.pid = os.getpid()
        self._broker, self._close_broker = open_broker()
        name = f"executor-{self.pid}-{secrets.token_hex(4)}"
        plain: dict[str, Any] = {"ttl": None, "max_depth": DEPTH}
        try:
            self._results: Queue = self._broker.create_queue(
                f"{name}-results", max_retries=None, **plain
            )
            self._queue: Queue = self._broker.create_queue(
                name, max_retries=min(retries, MAX_RETRIES), dead_letter=self._results.name, **plain
            )
            self._consumer = self._results.subscribe(name)
            self._crew = Crew(
                context,
                workers,
                work,
                (self._queue, self._results, initializer, initargs, limit),
                name="shmq-executor",
                abandon=True,
            )
        except BaseException:
            self._close_broker()
            raise
        self._lock = Lock()
        # All below is guarded by the lock, but for single operations on _calls.
        self._calls: dict[int, Future[Any] | Sink] = {}  # not resolved yet, by number
        self._waiting: deque[tuple[int, bytes | Encoded | bytearray]] = deque()
        self._out = 0  # of _calls, how many are in the queue or with a worker
        self._window = self._least = workers + 1
        self._next = 1
        self._idle = False
        self._closing = False
        self._broken: BaseException | None = None
        self._sinks: weakref.WeakSet[Sink] = weakref.WeakSet()
        # Only the collector's.
        self._look = LOOK_S if limit is None else LOOK_LIMITED_S
        self._rate = 0.0
        self._seen = time.monotonic()
        self._looked = 0.0
        self._deaths: dict[int, Death] = {}  # by message id
        self._last_death: Death | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._collect, name="shmq-executor", daemon=True)
        _engines.add(self)
        try:
            if self._crew.forks:
                self._crew.fill()  # before there is a second thread
            with scarce("executor"):
                self.thread.start()
        except BaseException:
            self._end()
            raise

    @property
    def pids(self) -> list[int]:
        """Pids of the workers that are there now."""
        return self._crew.pids()

    # ---- submitting ------------------------------------------------------------------------

    def refuse_child(self) -> None:
        """Raise RuntimeError in a forked child: nobody would collect the results there."""
        if self.pid != os.getpid():
            raise RuntimeError(
                explain(
                    "executor",
                    f"one of process {self.pid}, which this one was forked from",
                    "one of its own",
                    "make an Executor in the process that uses it",
                )
            )

    def numbers(self, n: int) -> int:
        """Return the first of ``n`` numbers in a row that no other call has."""
        with self._lock:
            first = self._next
            self._next += n
        return first

    def submit(
        self, entries: Sequence[tuple[int, bytes | Encoded]], to: Future[Any] | Sink
    ) -> None:
        """Take calls in, all with the same receiver.

        Raises: RuntimeError after shutdown; WorkersFailed when there are no workers to be had.
        """
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._closing:
                raise RuntimeError(
                    explain("executor", "one that was shut down", "an open one", "make another one")
                )
            for number, _ in entries:
                self._calls[number] = to
            room = 0 if self._waiting else max(0, self._window - self._out)
            now = entries[:room]
            self._out += len(now)
            for number, payload in entries[room:]:
                # A copy: the caller may change its arrays as soon as this returns.
                kept = payload.to_bytes() if isinstance(payload, Encoded) else payload
                self._waiting.append((number, kept))
            if self._idle:
                self._idle = False
                self._crew.wake()
        if now:
            if isinstance(to, Future):
                to.set_running_or_notify_cancel()
            self._send(now)

    def _send(self, entries: Sequence[tuple[int, bytes | Encoded | bytearray]]) -> None:
        """Publish calls that are counted as out. What fails goes to its receiver, or waits for memory."""
        at = 0
        while at < len(entries):
            small = []
            for _, payload in entries[at:]:
                if type(payload) is not bytes:
                    break
                small.append(payload)
            try:
                if small:
                    at += self._send_small(small)
                else:
                    self._send_large(entries[at][1])
                    at += 1
            except OutOfSharedMemory as error:
                with self._lock:
                    rest = list(entries[at:])
                    if self._out > len(rest):  # others will be done and give memory back
                        self._out -= len(rest)
                        self._waiting.extendleft(reversed(rest))
                        return
                self._fail(rest[0][0], error)
                at += 1
            except Exception as error:  # noqa: BLE001 - too large, not readable any more: the call's failure
                self._fail(entries[at][0], error)
                at += 1

    def _send_small(self, payloads: list[bytes]) -> int:
        queue = self._queue
        while (rc := queue._send_many(payloads, 0)) <= 0:
            if rc == lib.SHMQ_FULL:
                queue._wait_for_room(rc, 0, False)
            else:
                queue._client.check(rc, f"queue {queue.name!r}")
        return rc

    def _send_large(self, payload: bytes | Encoded | bytearray) -> None:
        if isinstance(payload, Encoded):
            with self._queue.loan(payload.size) as buffer:
                payload.write(buffer)
        else:
            self._queue.publish(payload)

    def forget(self, numbers: Sequence[int]) -> None:
        """Drop the calls of a Sink that wants no more results; those that wait are never made."""
        if self.pid != os.getpid():  # an iterator that a forked child has inherited
            return
        with self._lock:
            dropped = {number for number in numbers if self._calls.pop(number, None) is not None}
            kept = [entry for entry in self._waiting if entry[0] not in dropped]
            # Those in the queue are made all the same; the window counts what somebody waits for.
            self._out -= len(dropped) - (len(self._waiting) - len(kept))
            self._waiting = deque(kept)
            self._crew.wake()

    # ---- collecting ------------------------------------------------------------------------

    def _collect(self) -> None:
        try:
            while self._round():
                pass
            if self._broken is None:
                self._queue.shutdown()
            while len(self._crew) and self._broken is None:
                self._crew.wait(None)
                self._crew.reap()
        except BaseException as error:  # noqa: BLE001 - nobody may wait for ever
            self._break(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._end()

    def _round(self) -> bool:
        """Wait for something and do what it means; False when there is nothing more to do."""
        with self._lock:
            busy = bool(self._calls)
            if not busy and self._closing:
                return False
            if self._broken is not None:
                return False
            self._idle = not busy
        if not busy:
            self._crew.wait(None)
            self._idle = False
            self._tend()
            return True
        try:
            deliveries = self._consumer.get_many(BATCH, self._look)
        except QueueEmpty:
            self._rate = 0.0
            self._tend()
            self._refill(0)
            return True
        n = self._resolve(deliveries)
        if time.monotonic() - self._looked > self._look:
            self._tend()
        self._refill(n)
        return True

    def _resolve(self, deliveries: list[Delivery]) -> int:
        calls = self._calls
        n = 0
        sinks: set[Sink] = set()
        for delivery in deliveries:
            data = delivery.payload if delivery.size <= EAGER else delivery.view
            if delivery._reason:
                self._dead_letter(delivery, data)
                continue
            number, _, kind, _ = wire.TRAILER.unpack_from(data, len(data) - wire.SIZE)
            to = calls.pop(number, None)
            if to is None:
                if kind == wire.NOT_READY:
                    self._not_ready(data)
                continue
            n += 1
            if isinstance(to, Future):
                value, error = wire.result_in(data)
                _settle(to, value, error)
            else:
                to.arrive(number, data)
                sinks.add(to)
        for sink in sinks:
            sink.landed()
        del data
        self._consumer.ack_many(deliveries)
        return n

    def _refill(self, n: int) -> None:
        """Let as many calls into the queue as ``n`` results, and the pace, make room for."""
        now = time.monotonic()
        if n:
            self._rate = max(n / max(now - self._seen, 1e-4), 0.7 * self._rate)
        self._seen = now
        wanted = self._least + int(self._rate * HORIZON_S)
        entries: list[tuple[int, bytes | Encoded | bytearray]] = []
        with self._lock:
            self._out = max(0, self._out - n)
            self._window = max(self._least, min(wanted, 2 * self._window, WINDOW_MAX))
            waiting, calls = self._waiting, self._calls
            while waiting and self._out < self._window:
                entry = waiting.popleft()
                to = calls.get(entry[0])
                if isinstance(to, Future) and not to.set_running_or_notify_cancel():
                    del calls[entry[0]]
                elif to is not None:
                    entries.append(entry)
                    self._out += 1
        if entries:
            self._send(entries)

    def _fail(self, number: int, error: BaseException) -> None:
        to = self._calls.pop(number, None)
        if to is None:
            return
        with self._lock:
            self._out = max(0, self._out - 1)
        if isinstance(to, Future):
            _settle(to, None, error)
        else:
            to.arrive(number, error)
            to.landed()

    # ---- workers ---------------------------------------------------------------------------

    def _tend(self) -> None:
        """Bury the dead, start others in their place."""
        self._looked = time.monotonic()
        crew = self._crew
        for death in crew.reap():
            self._last_death = death
            if death.message_id is not None:
                self._deaths[death.message_id] = death
                if len(self._deaths) > KEPT_DEATHS:
                    del self._deaths[next(iter(self._deaths))]
        if crew.hopeless:
            self._break(
                WorkersFailed(
                    explain(
                        "executor",
                        f"workers that die before their first call, one after the other "
                        f"({self._last_death.how if self._last_death else 'none ran'})",
                        "one that lives",
                        "look at what the workers print; does the main module import without effects?",
                    )
                )
            )
        elif self._broken is None:
            wanted = crew.size if crew.forks else len(self._calls)
            if wanted:
                crew.fill(max(wanted, len(crew)))

    def _dead_letter(self, delivery: Delivery, data: bytes | memoryview) -> None:
        number = wire.number_of(data)
        if number not in self._calls:
            return
        if delivery.id not in self._deaths:
            self._tend()
        death = self._deaths.pop(delivery.id, None)
        self._fail(number, WorkerDied.of(wire.name_of(data), delivery._died_attempts, death))

    def _not_ready(self, data: bytes | memoryview) -> None:
        cause = wire.result_in(data)[1]
        error = WorkersFailed(
            explain(
                "executor", "an initializer that raised", "one that returns", f"it said: {cause!r}"
            )
        )
        error.__cause__ = cause
        self._break(error)

    # ---- the end ---------------------------------------------------------------------------

    def attend(self, sink: Sink) -> None:
        """Have ``sink`` told when no more can be submitted soon."""
        self._sinks.add(sink)

    def shutdown(self, cancel_futures: bool = False) -> None:
        """Take nothing in any more, and end when all calls are resolved. Does not wait."""
        if self.pid != os.getpid():  # an executor that a forked child has inherited, and drops
            return
        if not cancel_futures and not self._closing and self._broken is None:
            for sink in list(self._sinks):
                with contextlib.suppress(
                    WorkersFailed, RuntimeError
                ):  # broken meanwhile: it hears that
                    sink.hurry()
        cancelled: list[tuple[int, Future[Any] | Sink]] = []
        with self._lock:
            self._closing = True
            if cancel_futures:
                for number, _ in self._waiting:
                    to = self._calls.pop(number, None)
                    if to is not None:
                        cancelled.append((number, to))
                self._waiting.clear()
            self._crew.wake()
        for number, to in cancelled:
            if isinstance(to, Future):
                if to.cancel():
                    to.set_running_or_notify_cancel()
            else:
                to.arrive(number, _cancelled())
                to.landed()

    def kill(self) -> None:
        """End the workers now; calls that are not resolved fail."""
        self._break(
            WorkersFailed(
                explain("executor", "workers that were killed", "time", "let them finish")
            )
        )

    def _break(self, error: BaseException) -> None:
        with self._lock:
            if self._broken is None:
                self._broken = error
            calls = list(self._calls.items())
            self._calls.clear()
            self._waiting.clear()
            self._out = 0
            self._crew.wake()
        for number, to in calls:
            if isinstance(to, Future):
                if to.running() or to.set_running_or_notify_cancel():
                    _settle(to, None, error)
            else:
                to.arrive(number, error)
                to.landed()

    def _end(self) -> None:
        self._crew.close()
        self._consumer.close()
        for queue in (self._queue, self._results):
            with contextlib.suppress(ShmqError):
                self._broker.delete_queue(queue.name)
        with contextlib.suppress(ShmqError):
            self._close_broker()
        _engines.discard(self)
        self.over.set()


def _settle(future: Future[Any], value: Any, error: BaseException | None) -> None:
    with contextlib.suppress(Exception):  # resolved by somebody else, who must not do that
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _cancelled() -> BaseException:
    from concurrent.futures import CancelledError

    return CancelledError()


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _finish_all() -> None:
    engines = list(_engines)
    for engine in engines:
        engine.shutdown()
    for engine in engines:
        engine.over.wait()


def _forget_all() -> None:
    global _engines
    _engines = weakref.WeakSet()


# As the standard library's executors do: calls that were submitted are made, whoever forgot to wait.
getattr(threading, "_register_atexit", lambda _: None)(_finish_all)
os.register_at_fork(after_in_child=_forget_all)
