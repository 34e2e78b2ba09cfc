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

The `Ledger` knows where each call is. `_sending` is held from when a call stops waiting there until it is
in the queue, and by a recall: so each call that is not resolved is here, in the queue, or with a worker
whenever somebody looks. It comes before the ledger's lock. Both can be taken again by the thread that holds
them: signal handlers submit and cancel, and the end of a dropped Executor comes in any thread. Nobody's
callbacks are called with either.

Retries need no bookkeeping: a dead worker's call goes back to its queue with one attempt more, and past
the queue's `max_retries` it becomes a dead letter, whose queue is that of results.

A call is resolved by who takes it out of the ledger's calls, once: a second result of a call that was made twice,
because its worker died between result and ack, finds nothing there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.context import BaseContext
from typing import Any

from shmq._descriptors import scarce
from shmq._locks import Latch, Lock
from shmq.broker import Broker
from shmq.delivery import DEATHS, EAGER, Delivery, attempts_of, reason_of
from shmq.errors import QueueEmpty, ShmqError, explain
from shmq.options import MAX_RETRIES
from shmq.queue import Queue
from shmq.serializers import Encoded
from shmq.workers import wire
from shmq.workers.call import Call, Sink, settle
from shmq.workers.crew import Crew
from shmq.workers.death import Death, WorkerDied, WorkersFailed
from shmq.workers.feeder import Feeder
from shmq.workers.ledger import Ledger, kept
from shmq.workers.recall import Recall
from shmq.workers.work import work

__all__ = ["Engine"]

BATCH = 512  # results taken in one crossing
DEPTH = 1 << 16
LOOK_S = 0.05  # how often a collector that waits for results looks for dead workers
LOOK_LIMITED_S = 0.005  # the same where workers end all the time: max_tasks_per_child
KEPT_DEATHS = 1000


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
            self._ledger = Ledger(workers + 1)
            self._feeder = Feeder(self._queue, self._ledger, self._crew)
            self._recall = Recall(self._queue, self._ledger)
        except BaseException:
            self._close_broker()
            raise
        self._sending = Lock()
        self._lock = self._ledger.lock  # guards the ledger, and what is below
        self.numbers = itertools.count(1)
        self._idle = False
        self._closing = False
        self._cancelling = False
        self._quiet = False  # nothing was to be done at the last look
        self._broken: BaseException | None = None
        self._sinks: weakref.WeakSet[Sink] = weakref.WeakSet()
        # Only the collector's.
        self._look = LOOK_S if limit is None else LOOK_LIMITED_S
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
        ledger, numbers = self._ledger, [number for number, _ in entries]
        try:
            copies = () if ledger.room else [(number, kept(payload)) for number, payload in entries]
            with self._lock:
                if crowded := bool(copies) and not ledger.room:
                    self._admit(numbers, to)
                    ledger.keep(copies)
            failed = () if crowded else self._send_or_keep(entries, numbers, to)
        except BaseException:  # Ctrl-C, no memory for a copy: nobody will hear of these
            self.forget(numbers)
            raise
        for number, error in failed:
            ledger.fail(number, error)

    def _send_or_keep(
        self, entries: Sequence[tuple[int, bytes | Encoded]], numbers: list[int], to: Call | Sink
    ) -> Sequence[tuple[int, BaseException]]:
        with self._sending:
            with self._lock:
                room = self._ledger.room
                self._admit(numbers, to)
                now, later = entries[:room], entries[room:]
                self._ledger.keep([(number, kept(payload)) for number, payload in later])
            return self._feeder.send(now) if now else ()

    def _admit(self, numbers: list[int], to: Call | Sink) -> None:
        if self._broken is not None:
            raise self._broken
        if self._closing:
            raise RuntimeError(
                explain("executor", "one that was shut down", "an open one", "make another one")
            )
        self._ledger.admit(numbers, to)
        if self._idle:
            self._idle = False
            self._crew.wake()

    # ---- withdrawing -----------------------------------------------------------------------

    def cancel(self, call: Call) -> None:
        """Withdraw a call if no worker has begun it."""
        self._withdraw((call.number,))
        self._ledger.tell()

    def forget(self, numbers: Sequence[int]) -> None:
        """Drop calls whose results nobody wants any more; those that no worker has begun are never made."""
        if self.pid != os.getpid():  # an iterator that a forked child has inherited
            return
        self._withdraw(numbers)
        with self._lock:
            self._ledger.drop(numbers)  # what is begun is done all the same
            self._crew.wake()

    def has_begun(self, number: int) -> bool:
        """Return whether a worker has begun a call that is not resolved."""
        return number in self._ledger.retried or number in self._crew.begun()

    def _withdraw(self, numbers: Iterable[int]) -> None:
        """Take those of these calls back that no worker has begun; they are doomed, to be told so."""
        ledger = self._ledger
        with self._sending:
            wanted = ledger.unresolved(numbers)
            if ledger.any_out(wanted):
                self._recall.all()
            with self._lock:
                ledger.doom(wanted)

    def _cancel_all(self) -> None:
        self._withdraw(list(self._ledger.calls))
        self._ledger.tell()

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
        ledger = self._ledger
        ledger.tell()  # those whom somebody has withdrawn who was interrupted
        with self._lock:
            busy = bool(ledger.calls or ledger.doomed)
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
            ledger.rest()
            self._tend()
            self._refill(0)
            if self._closing or ledger.stuck:
                self._look_for_lost()
            return True
        n = self._resolve(deliveries)
        if time.monotonic() - self._looked > self._look:
            self._tend()
        self._refill(n)
        return True

    def _resolve(self, deliveries: list[Delivery]) -> int:
        calls, retried = self._ledger.calls, self._ledger.retried
        n = 0
        sinks: set[Sink] = set()
        for delivery in deliveries:
            data = delivery.payload if delivery.size <= EAGER else delivery.view
            if reason_of(delivery):
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
                settle(to, value, error)
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
        ledger = self._ledger
        with self._lock:
            ledger.pace(n)
            if not ledger.waiting or ledger.stuck:
                return
        failed: Sequence[tuple[int, BaseException]] = ()
        with self._sending:
            with self._lock:
                entries = ledger.next_ones()
            if entries:
                failed = self._feeder.send(entries)
        for number, error in failed:
            ledger.fail(number, error)

    def _look_for_lost(self) -> None:
        """Cancel what will never be done, because Ctrl-C came amid its submit: it is nowhere."""
        ledger, quiet = self._ledger, False
        if ledger.out and not any(self._crew.held().values()):
            with self._sending, self._lock:
                stats = self._queue.stats()
                quiet = not (stats.ready or stats.unsettled or stats.delayed or stats.parked)
                quiet = quiet and not self._results.depth()
                if quiet and self._quiet:  # twice in a row: not just on its way somewhere
                    ledger.doom_the_lost()
        self._quiet = quiet
        ledger.tell()

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
            if self._cancelling and self._ledger.calls:  # what has come back meanwhile
                self._cancel_all()
            wanted = crew.size if crew.forks else len(self._ledger.calls)
            if wanted:
                crew.fill(max(wanted, len(crew)))

    def _dead_letter(self, delivery: Delivery, data: bytes | memoryview) -> None:
        number = wire.number_of(data)
        to = self._ledger.calls.get(number)
        if to is None:
            return
        if delivery.id not in self._deaths:
            self._tend()
        death = self._deaths.pop(delivery.id, None)
        attempts = wire.before(data) + attempts_of(delivery)
        # By a worker that has counted it, and not begun it.
        if DEATHS[reason_of(delivery)] == "rejected":
            attempts -= 1
        self._ledger.fail(number, WorkerDied.of(wire.text_of(to.title, data), attempts, death))

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
        """Have the collector fail all that is not resolved, and end."""
        with self._lock:
            if self._broken is None:
                self._broken = error
            self._crew.wake()

    def _end(self) -> None:
        try:
            if self._broken is not None:
                self._ledger.fail_all(self._broken)
            self._ledger.tell()
            self._crew.close()
            self._consumer.close()
            for queue in (self._queue, self._results):
                with contextlib.suppress(ShmqError):
                    self._broker.delete_queue(queue.name)
            with contextlib.suppress(ShmqError):
                self._close_broker()
        finally:
            _engines.discard(self)
            self.over.set()


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
