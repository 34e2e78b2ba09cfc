"""Post: what a worker process knows of its place.

Who wants it to stop:

    SIGTERM       the first: take nothing more, finish what is in hand, exit. The second: SystemExit.
    SIGINT        nothing: Ctrl-C goes to the whole process group, and the owner decides what it means.
    owner's death a pool's worker finishes what is in hand, an executor's leaves it: nobody waits for it.
                  Signals tell at once: that of a parent's death (PR_SET_PDEATHSIG), and SIGIO when the
                  pipe that multiprocessing keeps for this purpose is closed. The first does not know
                  the fork server's parent, the second not that forked siblings keep the pipe open.
                  A look once a second tells an idle worker in any case.

A signal handler that raises could do so between the moment when a message was taken and the moment
when somebody knows of it. So `Stop` is raised only while a get waits and its consumer holds nothing:
what a consumer holds is counted in C before any Python code runs.

What it has in hand, how much it has done and how far it got is written to its *slot*, memory shared
with the owner, which can read it when the process is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import select
import signal
from collections.abc import Callable
from typing import Any

from shmq._client import client_of
from shmq._descriptors import Kept
from shmq._native import lib
from shmq._segment import Process
from shmq.consumer import Consumer
from shmq.delivery import Delivery
from shmq.errors import QueueClosed, QueueEmpty

__all__ = ["Orphaned", "Post", "main"]

CHECK_S = 1.0  # how often an idle worker looks whether its owner lives, should no signal have come
EXIT_S = 0.5  # from the closing of a dying process's pipes to its end
PARENT_DIED = signal.SIGRTMIN
SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Words of a slot, 64 bits each.
HOLDS, DONE, STATE, CALL, WORDS = 0, 1, 2, 3, 4  # CALL: number of the call begun last
STARTING, READY, FINISHED, DRAINED = 0, 1, 2, 3  # FINISHED: by request or by its limit


class _Stop(BaseException):
    """Raised by the signal handler in a get that has nothing in hand."""


class Orphaned(BaseException):
    """The owner is dead and nobody waits for the result: raised in the middle of a call."""


class Post:
    """One worker's place; `take` is its loop's heart."""

    def __init__(self, slots: Any, place: int, owner: int, abandon: bool) -> None:
        self.slot = memoryview(slots).cast("B").cast("Q")[place * WORDS : (place + 1) * WORDS]
        self.place = place
        self.stopping = False
        self._owner = owner
        self._watched: Kept | Process | None = None
        self._abandon = abandon
        self._waiting = False
        self._terms = 0
        self._held: dict[int, None] = {}  # ids of what an event loop has in hand
        self.wake: Callable[[], object] | None = None
        """called once when it is time to stop, by an event loop's worker"""
        self._consumer: Consumer | None = None
        self._get: Callable[[float], Delivery]

    def enter(self) -> None:
        """Take over the signals, and watch the owner."""
        signal.signal(
            signal.SIGINT, lambda *_: None
        )  # a function: programs it starts get the default
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGIO, self._on_pipe_closed)
        signal.signal(PARENT_DIED, self._on_parent_died)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            self._watched = self._watch_owner()
        except ProcessLookupError:
            self.stopping = True
            return
        if os.getppid() == self._owner:
            lib.shmq_follow_parent(PARENT_DIED)
        parent = multiprocessing.parent_process()
        if parent is not None:
            with contextlib.suppress(OSError):
                pipe = parent.sentinel
                fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
                fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
        if self._owner_is_dead(0):
            self.stopping = True

    def ready(self, consumer: Consumer) -> None:
        """Say that work begins, with messages from ``consumer``.

        Raises when this process cannot attach to the broker: then none of its kind can.
        """
        client_of(consumer).reattach()
        self._consumer, self._get = consumer, consumer.get
        self.slot[STATE] = READY

    def take(self) -> Delivery | None:
        """Return the next delivery; None when it is time to go."""
        try:
            return self._take()
        except _Stop:
            return None

    def _take(self) -> Delivery | None:
        while not self.stopping:
            try:
                self._waiting = True
                delivery = self._get(CHECK_S)
            except QueueEmpty:
                self._waiting = False
                if self._owner_is_dead(0):
                    self.stopping = True
            except QueueClosed:
                self._waiting = False
                self.slot[STATE] = DRAINED
                return None
            else:
                self._waiting = False
                self.slot[HOLDS] = delivery.id
                return delivery
        return None

    async def atake(self) -> Delivery | None:
        """Like `take`, in an event loop, of several at a time. Cancelling it takes nothing."""
        consumer = self._consumer
        assert consumer is not None
        while not self.stopping:
            try:
                delivery = await consumer.aget(CHECK_S)
            except QueueEmpty:
                if self._owner_is_dead(0):
                    self.stopping = True
            except QueueClosed:
                self.slot[STATE] = DRAINED
                return None
            else:
                self.hold(delivery)
                return delivery
        return None

    def hold(self, delivery: Delivery) -> None:
        """Say that this is in hand, too."""
        self._held[delivery.id] = None
        self.slot[HOLDS] = next(iter(self._held))

    def done(self, message_id: int | None = None) -> int:
        """Say that what was in hand, or that of it, is settled; return how many that makes."""
        slot = self.slot
        if self._held:
            if message_id is None:
                self._held.clear()
            else:
                self._held.pop(message_id, None)
            slot[HOLDS] = next(iter(self._held), 0)
        else:
            slot[HOLDS] = 0
        slot[DONE] = n = slot[DONE] + 1
        return n

    def leave(self) -> None:
        """Say that this worker ends as it should."""
        if self.slot[STATE] != DRAINED:
            self.slot[STATE] = FINISHED

    # ---- signals ---------------------------------------------------------------------------

    def _on_term(self, *_: object) -> None:
        self._terms += 1
        if self._terms > 1:
            raise SystemExit(128 + signal.SIGTERM)
        self._stop()

    def _on_pipe_closed(self, *_: object) -> None:
        if self._owner_is_dead(EXIT_S):
            self._orphaned()

    def _on_parent_died(self, *_: object) -> None:
        if os.getppid() != self._owner:  # else it was only the thread that had started us
            self._orphaned()

    def _orphaned(self) -> None:
        if self._abandon and not self.stopping:
            self.stopping = True
            raise Orphaned
        self._stop()

    def _stop(self) -> None:
        self.stopping = True
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()
        if self._waiting and self._consumer is not None and self._consumer.unsettled == 0:
            raise _Stop

    def _owner_is_dead(self, patience: float) -> bool:
        if isinstance(self._watched, Process):
            return self._watched.wait(patience)
        if self._watched is None or not self._watched.ours():  # the handler has closed it
            try:
                self._watched = Kept(os.pidfd_open(self._owner))
            except OSError:
                return os.getppid() != self._owner
        poll = select.poll()
        poll.register(self._watched.fd, select.POLLIN)
        return bool(poll.poll(round(patience * 1000)))

    def _watch_owner(self) -> Kept | Process:
        try:
            return Kept(os.pidfd_open(self._owner))
        except ProcessLookupError:
            raise
        except OSError:  # refused here
            return Process(self._owner)


def main(
    work: Callable[..., object],
    args: tuple[Any, ...],
    slots: Any,
    place: int,
    owner: int,
    abandon: bool,
) -> None:
    """Run a worker process: ``work(post, *args)``."""
    post = Post(slots, place, owner, abandon)
    post.enter()
    try:
        work(post, *args)
    except Orphaned:
        return
    post.leave()
