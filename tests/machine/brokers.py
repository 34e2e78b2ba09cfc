"""The state machine's other world: a broker, used as its users use it.

A real broker, with its supervisor and its sidecar, which are stopped (SIGSTOP) once it is up. Time can
only be moved while nobody else works: the clock rewrites deadlines in the segment, and a sidecar at
work has noted some of them for itself. A second sidecar takes its place, in this process: the same
code, step for step, attached in the same role. So it is that code, its rules for what is due when, the
hints that wake it and what it has noted, that decide what is fired, swept and taken back; and it
goes on over many steps, noting what it learns, until it is killed and a successor knows nothing.

At the end the real ones go on and `Broker.shutdown` ends them. Should this process die before that,
somebody who has watched kills them, since stopped they would never see it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clock import Clock
from kit import processes_of, shm_path
from rig import Rig
from waiting import wait_until
from world import CLIENTS, World, die, mortal

import shmq
import shmq._client
from shmq._client import Client
from shmq._native import lib
from shmq._segment import open_segment
from shmq.consumer import Consumer
from shmq.group import ConsumerGroup
from shmq.keywords import Dispatch
from shmq.queue import Queue
from shmq.sidecar.decide import NEVER, Every
from shmq.sidecar.loop import Sidecar
from shmq.topic import Topic

ENDED = "the sidecar believes that its broker has ended"


class BrokerWorld(World):
    declares = True

    def __init__(self, name: str) -> None:
        self.name = name
        with contextlib.ExitStack() as stack:
            broker = shmq.Broker(name, memory_limit="256MB")
            self.brokers = [broker]
            helpers = processes_of(broker)
            stack.enter_context(_watched(name, helpers))
            stack.callback(broker.shutdown, timeout=10)
            self._stop(helpers, stack)
            self.rig = Rig(broker._client)
            self.clients = [broker._client]
            for _ in range(CLIENTS - 1):
                self.clients.append(mortal(self.attach))
            stack.callback(self._leave)
            self._have_sidecar()
            stack.callback(self._end_sidecar)
            self._stack = stack.pop_all()

    def _stop(self, helpers: tuple[int, ...], stack: contextlib.ExitStack) -> None:
        """Stop the helpers, in the midst of nothing."""
        self.clock = Clock(self.brokers[0]._client.segment)
        stack.callback(self.clock.close)
        self.clock.tell_apart()
        stack.callback(_send, helpers, signal.SIGCONT)

        def stopped() -> bool:
            wait_until(lambda: all(_state(pid) == "S" for pid in helpers), "helpers asleep")
            _send(helpers, signal.SIGSTOP)
            wait_until(lambda: all(_state(pid) == "T" for pid in helpers), "helpers stopped")
            if not self.clock.in_operation():
                return True
            _send(helpers, signal.SIGCONT)
            return False

        wait_until(stopped, "helpers stopped in the midst of nothing")

    def _leave(self) -> None:
        for broker in self.brokers[1:]:
            broker.close()

    def close(self) -> None:
        self._stack.close()

    # ---- by name -------------------------------------------------------------------------------

    def make(self, name: str, **options: Any) -> None:
        self.brokers[0].create_queue(name, **options)

    def make_topic(self, name: str, **options: Any) -> None:
        self.brokers[0].create_topic(name, **options)

    def delete(self, name: str) -> None:
        self.brokers[0].delete_queue(name)

    def queue(self, name: str, client: int) -> Queue:
        topic, _, subscription = name[1:].partition("/") if name[0] == "/" else ("", "", "")
        if not topic:
            return self.brokers[client].get_queue(name)
        if "*" in topic or "#" in topic:  # nothing that users have leads there
            return super().queue(name, client)
        return self.topic(topic, client).subscription(subscription)

    def topic(self, name: str, client: int) -> Topic:
        return self.brokers[client].get_topic(name)

    def subscribe(
        self, source: str, name: str | None, client: int, how: dict[str, Any]
    ) -> Consumer:
        return self.brokers[client].subscribe(source, name, **how)

    def unsubscribe(self, source: str, name: str) -> None:
        self.brokers[0].unsubscribe(source, name)

    def group(
        self, name: str, source: Queue | Topic, client: int, dispatch: Dispatch
    ) -> ConsumerGroup:
        return self.brokers[client].create_consumer_group(name, source.name, dispatch=dispatch)

    # ---- processes -----------------------------------------------------------------------------

    def attach(self) -> Client:
        """Connect, past the one attachment that a process has: this one stands for several."""
        with shmq._client._lock:
            kept = shmq._client._clients.pop(self.name)
        try:
            self.brokers.append(shmq.connect(self.name))
        finally:
            with shmq._client._lock:
                shmq._client._clients[self.name] = kept
        return self.brokers[-1]._client

    def kill(self, client: int) -> None:
        super().kill(client)
        self.brokers[client] = self.brokers.pop()

    def kill_sidecar(self) -> None:
        die(self.sidecar.client, self.clients[0])
        self._have_sidecar()

    def _have_sidecar(self) -> None:
        def attach() -> Client:
            self.sidecar = Sidecar(open_segment(self.name))
            return self.sidecar.client

        mortal(attach)

    def _end_sidecar(self) -> None:
        self.sidecar.client.detach()  # before anybody takes its pid for that of a helper to be ended
        del self.sidecar

    # ---- time ----------------------------------------------------------------------------------

    def advance(self, ns: int) -> None:
        """Move the clock, and all that the sidecar has noted.

        But not when it would sweep without any reason: so that messages go, their expiry must have been said.
        """
        super().advance(ns)

        def sooner(at: int) -> int:
            return max(1, at - ns) if at else at

        side = self.sidecar
        timers, expiry = side._timers, side._expiry
        timers._due = {block: sooner(due) for block, due in timers._due.items()}
        timers._heap = [(sooner(due), block) for due, block in timers._heap]
        expiry._soon = [(sooner(at), block) for at, block in expiry._soon]
        expiry._rest_until = sooner(expiry._rest_until)
        for each in vars(side).values():
            if isinstance(each, Every):
                each._at = sooner(each._at)
        side._next_expiry = lib.shmq_next_expiry(side.ctx)

    def fire(self) -> None:
        while self.sidecar._collect():
            pass
        while self.sidecar._fire(lib.shmq_now()):
            pass

    def sweep(self) -> None:
        while self.sidecar._expire(lib.shmq_now()):
            pass

    def lapse(self) -> None:
        self.sidecar._housekeeping.no_later_than(1)
        self.sidecar._look_around(lib.shmq_now())
        assert not self.sidecar._over, ENDED
        self.sidecar._end_leases(lib.shmq_now())

    def tend(self) -> None:
        while True:
            until = self.sidecar.step(lib.shmq_read_word(self.sidecar.ctx, lib.SHMQ_WORD_TIMER))
            assert until != NEVER, ENDED
            if until > lib.shmq_now():
                break
        ctx = self.clients[0].ctx  # what the supervisor does once a second
        lib.shmq_reap(ctx, 1)
        lib.shmq_queue_collect(ctx)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


@contextlib.contextmanager
def _watched(name: str, helpers: tuple[int, ...]) -> Iterator[None]:
    """Have the helpers killed and the segment removed if this process ends within the block."""
    script = 'read line || { kill -KILL "$1" "$2"; rm -f "$3"; }'
    words = ["sh", "-c", script, "sh", *map(str, helpers), shm_path(name)]
    # In a session of its own: what ends this process group must not end it as well.
    watcher = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        watcher.communicate(b"all is well\n")


def _send(pids: tuple[int, ...], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
