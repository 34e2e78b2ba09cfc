"""Engine: the life of an Executor's calls, in its owner's process.

Two queues: calls, results. A call that is submitted is pickled at once. As many as keep the workers busy
for some milliseconds (the *window*) are in the queue of calls, the others wait here. One thread, the
collector, takes results, resolves, refills the window, and replaces workers; it sleeps in the kernel
while there is nothing to do.

    submit --> waiting here --> queue of calls --> worker --> queue of results --> resolved
                     ^                |  ^                            ^
                     +-- recalled ----+  +-- its worker died          |
                                      +------ as often as allowed ----+  (a dead letter)

**Cancelling.** Whether a call is begun is decided where it always is, in the queue: one exact word per
message, which one taker wins. So who cancels takes part as one more taker (`Recall`): it takes all that
is ready, and what workers have only read ahead, as any idle worker may. What it gets no worker has begun
or will begin; what it does not get is begun. Nothing is asked of the workers and nothing is paid for by
those who do not cancel: no flags to look at per call, no second table to keep right when somebody is
killed. What it gets comes home: to the front of those that wait, in its order, and the window starts
small again, so that cancelling thousands one by one moves each of them once.

A call comes home as its payload, and its lease ends: leases that the owner kept would be claimed by
idle workers, and giving back what is in its second attempt by releasing it would make the next recall
find it first and for ever. In return a call that a worker has begun already (its worker died, it waits
for another) brings along how many attempts are over; the worker that takes it counts them, and it is
never withdrawn: `cancel()` is true only of what never ran.

`_sending` is held from when a call leaves `_waiting` until it is in the queue, and by a recall: so each
call that is not resolved is here, in the queue, or with a worker whenever somebody looks. It comes before
`_lock`. Both can be taken again by the thread that holds them: signal handlers submit and cancel, and the
end of a dropped Executor comes in any thread. Nobody's callbacks are called with either.

Retries need no bookkeeping: a dead worker's call goes back to its queue with one attempt more, and past
the queue's `max_retries` it becomes a dead letter, whose queue is that of results.

A call is resolved by who takes it out of `_calls`, once: a second result of a call that was made twice,
because its worker died between result and ack, finds nothing there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from multiprocessing.context import BaseContext
from typing import Any, Protocol

from shmq._native import lib
from shmq.broker import Broker
from shmq.delivery import DEATHS, EAGER, Delivery
from shmq.descriptors import scarce
from shmq.errors import OutOfSharedMemory, QueueEmpty, ShmqError, explain
from shmq.locks import Latch, Lock, enter
from shmq.options import MAX_RETRIES
from shmq.queue import Queue
from shmq.serializers import Encoded
from shmq.workers import wire
from shmq.workers.crew import Crew
from shmq.workers.death import Death, WorkerDied, WorkersFailed
from shmq.workers.recall import Recall
from shmq.workers.work import work

__all__ = ["Call", "Engine", "Sink"]

BATCH = 512  # results taken in one crossing
DEPTH = 1 << 16
HORIZON_S = 0.01  # how long the calls in the window keep the workers busy
WINDOW_MAX = 8192
LOOK_S = 0.05  # how often a collector that waits for results looks for dead workers
LOOK_LIMITED_S = 0.005  # the same where workers end all the time: max_tasks_per_child
KEPT_DEATHS = 1000
_OVER = ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED")


class Sink(Protocol):
    """Who wants the results of many calls, without a Future for each: `Executor.map`."""

    title: Any
    """what is called, as `wire.title` has it"""

    def arrive(self, number: int, found: bytes | memoryview | BaseException) -> None:
        """Take a result's payload, or an exception."""

    def landed(self) -> None:
        """Some results have arrived."""

    def hurry(self) -> None:
        """Submit now what is to be submitted: the executor is being shut down."""


class _Condition(threading.Condition):
    """One that is entered and left in one step each.

    The standard library's takes two, and Ctrl-C between them leaves it locked: the collector, who is to
    resolve this Future, and with it all others, would wait for ever.
    """

    if sys.version_info[:2] == (3, 14):

        def __enter__(self) -> bool:
            return enter(self._lock)  # type: ignore[attr-defined]
    else:

        @property
        def __enter__(self) -> Any:
            return self._lock.__enter__  # type: ignore[attr-defined]

    @property
    def __exit__(self) -> Any:  # noqa: PLE0302 - it returns what has four
        return self._lock.__exit__  # type: ignore[attr-defined]


class Call(Future[Any]):
    """The Future of one call."""

    def __init__(self, engine: weakref.ref[Engine], number: int, title: Any) -> None:
        super().__init__()
        self._condition.__class__ = _Condition
        self._engine = engine
        self.number = number
        self.title = title

    def cancel(self) -> bool:
        """Withdraw the call; return whether that was possible: it is if no worker has begun it."""
        if not self.done():
            engine = self._engine()
            if engine is not None and engine.pid == os.getpid():
                engine.cancel(self)
        return self.cancelled()

    # What is final is read without the lock: it was set behind all else.

    def done(self) -> bool:
        """Return whether there is a result, or the call was withdrawn."""
        return self._state in _OVER

    def result(self, timeout: float | None = None) -> Any:
        """Return what the call returned; wait ``timeout`` seconds for it at most (None: for ever).

        Raises: what the call raised; CancelledError; TimeoutError.
        """
        if self._state == "FINISHED" and self._exception is None:
            return self._result
        return super().result(timeout)

    def running(self) -> bool:
        """Return whether a worker has begun the call."""
        if self.done():
            return False
        engine = self._engine()
        return engine is not None and engine.has_begun(self.number)

    def withdrawn(self) -> None:
        """Say that no worker will begin it. Idempotent."""
        super().cancel()
        with self._condition:
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()


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
        self.me = weakref.ref(self)
        retries = min(retries, MAX_RETRIES)
        name = f"executor-{self.pid}-{secrets.token_hex(4)}"
        plain: dict[str, Any] = {"ttl": None, "max_depth": DEPTH}
        try:
            self._results: Queue = self._broker.create_queue(
                f"{name}-results", max_retries=None, **plain
            )
            self._queue: Queue = self._broker.create_queue(
                name, max_retries=retries, dead_letter=self._results.name, **plain
            )
            self._consumer = self._results.subscribe(name)
            self._crew = Crew(
                context,
                workers,
                work,
                (self._queue, self._results, initializer, initargs, limit, retries + 1),
                name="shmq-executor",
                abandon=True,
            )
            self._recall = Recall(self._queue)
        except BaseException:
            self._close_broker()
            raise
        self._sending = Lock()
        self._lock = Lock()
        # All below is guarded by the lock, but for single operations on _calls.
        self._calls: dict[int, Call | Sink] = {}  # not resolved yet, by number
        self._waiting: deque[tuple[int, bytes | bytearray]] = deque()
        # Those of _waiting that were not withdrawn; None until somebody cancels, for it costs a little.
        self._home: set[int] | None = None
        self._retried: dict[int, int] = {}  # recalled with so many attempts over
        self._doomed: dict[int, Call | Sink] = {}  # withdrawn, not told yet
        self._out = 0  # of _calls, how many are in the queue or with a worker
        self._window = self._least = workers + 1
        self.numbers = itertools.count(1)
        self._idle = False
        self._closing = False
        self._cancelling = False
        self._quiet = False  # nothing was to be done at the last look
        self._broken: BaseException | None = None
        self._sinks: weakref.WeakSet[Sink] = weakref.WeakSet()
        # Only the collector's.
        self._look = LOOK_S if limit is None else LOOK_LIMITED_S
        self._rate = 0.0
        self._seen = time.monotonic()
        self._looked = 0.0
        self._deaths: dict[int, Death] = {}  # by message id
        self._last_death: Death | None = None
        self.over = Latch()
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

    def submit(self, entries: Sequence[tuple[int, bytes | Encoded]], to: Call | Sink) -> None:
        """Take calls in, all with the same receiver; their numbers come from `numbers`.

        Raises: RuntimeError after shutdown; WorkersFailed when there are no workers to be had.
        """
        try:
            with self._lock:
                if crowded := bool(self._waiting) or self._out >= self._window:
                    self._admit(entries, to)
                    self._keep(entries)
            failed = None if crowded else self._submit(entries, to)
        except Exception:
            raise
        except BaseException:  # Ctrl-C: nobody will hear of these
            self.forget([number for number, _ in entries])
            raise
        if failed:
            for number, error in failed:
                self._fail(number, error)

    def _submit(
        self, entries: Sequence[tuple[int, bytes | Encoded]], to: Call | Sink
    ) -> Sequence[tuple[int, BaseException]]:
        with self._sending:
            with self._lock:
                self._admit(entries, to)
                room = 0 if self._waiting else max(0, self._window - self._out)
                now = entries[:room]
                self._out += len(now)
                if room < len(entries):
                    self._keep(entries[room:])
            return self._send(now) if now else ()

    def _admit(self, entries: Sequence[tuple[int, object]], to: Call | Sink) -> None:
        if self._broken is not None:
            raise self._broken
        if self._closing:
            raise RuntimeError(
                explain("executor", "one that was shut down", "an open one", "make another one")
            )
        for number, _ in entries:
            self._calls[number] = to
        if self._idle:
            self._idle = False
            self._crew.wake()

    def _keep(self, entries: Sequence[tuple[int, bytes | Encoded]]) -> None:
        for entry in entries:
            payload = entry[1]
            # A copy: the caller may change its arrays as soon as submit returns.
            kept = (entry[0], payload.to_bytes()) if isinstance(payload, Encoded) else entry
            self._waiting.append(kept)  # type: ignore[arg-type]
        if self._home is not None:
            self._home.update([number for number, _ in entries])

    def _send(
        self, entries: Sequence[tuple[int, bytes | Encoded | bytearray]]
    ) -> Sequence[tuple[int, BaseException]]:
        """Publish calls that are counted as out; return those that fail. Some may wait for memory."""
        at = 0
        failed: list[tuple[int, BaseException]] = []
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
                    if self._out - len(failed) > len(
                        rest
                    ):  # others will be done, and give memory back
                        self._out -= len(rest)
                        self._put_back(rest)
                        return failed
                failed.append((rest[0][0], error))
                at += 1
            except Exception as error:  # noqa: BLE001 - too large, not readable any more: the call's failure
                failed.append((entries[at][0], error))
                at += 1
        return failed

    def _put_back(self, entries: Iterable[tuple[int, bytes | Encoded | bytearray]]) -> None:
        """Let calls wait, before all others."""
        for number, payload in sorted(entries, key=lambda entry: entry[0], reverse=True):
            kept = payload.to_bytes() if isinstance(payload, Encoded) else payload
            self._waiting.appendleft((number, kept))
            if self._home is not None:
                self._home.add(number)

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

    # ---- withdrawing -----------------------------------------------------------------------

    def cancel(self, call: Call) -> None:
        """Withdraw a call if no worker has begun it."""
        self._withdraw((call.number,))
        self._tell()

    def forget(self, numbers: Sequence[int]) -> None:
        """Drop calls whose results nobody wants any more; those that no worker has begun are never made."""
        if self.pid != os.getpid():  # an iterator that a forked child has inherited
            return
        self._withdraw(numbers)
        with self._lock:
            self._drop(numbers)
            self._crew.wake()

    def _drop(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._doomed.pop(number, None)
            # What is begun is done all the same; the window counts what somebody waits for.
            if self._calls.pop(number, None) is not None:
                self._out = max(0, self._out - 1)

    def has_begun(self, number: int) -> bool:
        """Return whether a worker has begun a call that is not resolved."""
        return number in self._retried or number in self._crew.begun()

    def _withdraw(self, numbers: Iterable[int]) -> None:
        """Take those of these calls back that no worker has begun; they are doomed, to be told so."""
        calls = self._calls
        with self._sending:
            with self._lock:
                wanted = [number for number in numbers if number in calls]
                home = self._home
                if home is None:
                    home = self._home = {number for number, _ in self._waiting if number in calls}
            if not home.issuperset(wanted):
                self._take_home()
            with self._lock:
                for number in wanted:
                    to = calls.get(number)
                    if to is not None and number in home and number not in self._retried:
                        self._doomed[number] = to
                        home.discard(number)
                        del calls[number]
                if len(self._waiting) > 2 * len(home) + 64:
                    self._waiting = deque(entry for entry in self._waiting if entry[0] in home)

    def _take_home(self) -> None:
        """Let all that no worker has begun wait here again."""
        home: dict[int, tuple[bytes, int]] = {}
        try:
            self._recall.all_into(home)
        finally:
            with self._lock:
                kept: list[tuple[int, bytes]] = []
                for number, (payload, attempts) in home.items():
                    if number in self._calls:
                        kept.append((number, payload))
                        if attempts:
                            self._retried[number] = attempts
                self._put_back(kept)
                self._out = max(0, self._out - len(kept))
                self._window = self._least
                self._rate = 0.0

    def _tell(self) -> None:
        """Tell those whose calls were withdrawn."""
        doomed = self._doomed
        for number, to in list(doomed.items()):
            if isinstance(to, Call):
                to.withdrawn()
            else:
                to.arrive(number, _cancelled())
                to.landed()
            doomed.pop(number, None)

    def _cancel_all(self) -> None:
        self._withdraw(list(self._calls))
        self._tell()

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
        if self._doomed:  # by somebody who was interrupted
            self._tell()
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
            if self._closing:
                self._look_for_lost()
            return True
        n = self._resolve(deliveries)
        if time.monotonic() - self._looked > self._look:
            self._tend()
        self._refill(n)
        return True

    def _resolve(self, deliveries: list[Delivery]) -> int:
        calls, retried = self._calls, self._retried
        n = 0
        sinks: set[Sink] = set()
        for delivery in deliveries:
            data = delivery.payload if delivery.size <= EAGER else delivery.view
            if delivery._reason:
                self._dead_letter(delivery, data)
                continue
            number, _, kind, _, _ = wire.TRAILER.unpack_from(data, len(data) - wire.SIZE)
            to = calls.pop(number, None)
            if to is None:
                if kind == wire.NOT_READY:
                    self._not_ready(data)
                continue
            n += 1
            if retried:
                retried.pop(number, None)
            if isinstance(to, Call):
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
        with self._lock:
            self._out = max(0, self._out - n)
            self._window = max(self._least, min(wanted, 2 * self._window, WINDOW_MAX))
            if not self._waiting or self._out >= self._window:
                return
        failed: Sequence[tuple[int, BaseException]] = ()
        with self._sending:
            entries: list[tuple[int, bytes | bytearray]] = []
            with self._lock:
                waiting, calls, home = self._waiting, self._calls, self._home
                while waiting and self._out < self._window:
                    entry = waiting.popleft()
                    if entry[0] in calls:  # else it was withdrawn
                        entries.append(entry)
                        self._out += 1
                        if home is not None:
                            home.discard(entry[0])
                if not waiting:
                    self._home = None
            if entries:
                failed = self._send(entries)
        for number, error in failed:
            self._fail(number, error)

    def _fail(self, number: int, error: BaseException) -> None:
        to = self._calls.pop(number, None)
        if to is None:
            return
        with self._lock:
            self._out = max(0, self._out - 1)
        self._retried.pop(number, None)
        if isinstance(to, Call):
            _settle(to, None, error)
        else:
            to.arrive(number, error)
            to.landed()

    def _look_for_lost(self) -> None:
        """Cancel what will never be done, because Ctrl-C came amid its submit: it is nowhere."""
        quiet = False
        if self._calls and not any(self._crew.held().values()):
            with self._sending, self._lock:
                stats = self._queue.stats()
                quiet = not (self._waiting or stats.ready or stats.unsettled or stats.delayed)
                quiet = quiet and not self._results.depth()
                if quiet and self._quiet:  # twice in a row: not just on its way somewhere
                    self._doomed.update(self._calls)
                    self._calls.clear()
        self._quiet = quiet
        self._tell()

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
            if self._cancelling and self._calls:  # what has come back meanwhile
                self._cancel_all()
            wanted = crew.size if crew.forks else len(self._calls)
            if wanted:
                crew.fill(max(wanted, len(crew)))

    def _dead_letter(self, delivery: Delivery, data: bytes | memoryview) -> None:
        number = wire.number_of(data)
        to = self._calls.get(number)
        if to is None:
            return
        if delivery.id not in self._deaths:
            self._tend()
        death = self._deaths.pop(delivery.id, None)
        attempts = wire.before(data) + delivery._died_attempts
        if DEATHS[delivery._reason] == "rejected":  # by a worker that has counted, and not begun it
            attempts -= 1
        self._fail(number, WorkerDied.of(wire.text_of(to.title, data), attempts, death))

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
        with self._lock:
            self._closing = True
            self._cancelling = self._cancelling or cancel_futures
            self._crew.wake()
        if cancel_futures:
            self._cancel_all()

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
            self._home = None
            self._retried.clear()
            self._out = 0
            self._crew.wake()
        for number, to in calls:
            if isinstance(to, Call):
                _settle(to, None, error)
            else:
                to.arrive(number, error)
                to.landed()
        self._tell()

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
