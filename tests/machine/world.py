"""Where the state machine lives: a segment, three attachments to it, and how things are done there.

Two of them: a segment without helpers, made and swept by calls into the core (here), and a broker
(brokers.py), where everything goes the way of a user. The machine does not know which one it is in.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from clock import Clock
from rig import Rig, memory

from shmq._client import Client
from shmq._native import ffi, lib
from shmq._segment import open_segment
from shmq.consumer import Consumer
from shmq.errors import QueueEmpty
from shmq.group import ConsumerGroup
from shmq.keywords import Dispatch
from shmq.queue import Queue
from shmq.topic import Topic, subscribe_pattern, unsubscribe

CLIENTS = 3


class World:
    """What both have: `clients` are the attachments, of which the first one never dies."""

    clock: Clock
    clients: list[Client]
    rig: Rig
    declares = False
    """making a queue that is there compares its options"""

    # ---- by name, as of one of the attachments ------------------------------------------------

    def make(self, name: str, **options: Any) -> None:
        raise NotImplementedError

    def make_topic(self, name: str, **options: Any) -> None:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        raise NotImplementedError

    def queue(self, name: str, client: int) -> Queue:
        """Return a handle on a queue, or on what is behind a subscription."""
        return Queue(self.clients[client], name)

    def topic(self, name: str, client: int) -> Topic:
        return Topic(self.clients[client], name)

    def subscribe(
        self, source: str, name: str | None, client: int, how: dict[str, Any]
    ) -> Consumer:
        """Subscribe to a topic or a pattern."""
        if "*" in source or "#" in source:
            return subscribe_pattern(self.clients[client], source, name, **how)
        return self.topic(source, client).subscribe(name, **how)

    def unsubscribe(self, source: str, name: str) -> None:
        unsubscribe(self.clients[0], source, name)

    def group(
        self, name: str, source: Queue | Topic, client: int, dispatch: Dispatch
    ) -> ConsumerGroup:
        return ConsumerGroup.on(self.clients[client], name, source, dispatch, {})

    # ---- time and death ------------------------------------------------------------------------

    def advance(self, ns: int) -> None:
        self.clock.advance(ns)

    def fire(self) -> None:
        """Let what is due come, the earliest first."""
        raise NotImplementedError

    def sweep(self) -> None:
        """Let what has expired go."""
        raise NotImplementedError

    def lapse(self) -> None:
        """End the leases that are over."""
        raise NotImplementedError

    def tend(self) -> None:
        """Do all of that, in this order, and what else helpers do now and then."""
        raise NotImplementedError

    def attach(self) -> Client:
        """Attach once more, as another process would."""
        raise NotImplementedError

    def kill(self, client: int) -> None:
        """End an attachment as SIGKILL would, recover what it held, and have another one instead."""
        die(self.clients[client], self.clients[0])
        self.clients[client] = mortal(self.attach)

    def kill_sidecar(self) -> None:
        """End the sidecar as SIGKILL would, and have another one instead; where there is one."""

    def close(self) -> None:
        raise NotImplementedError


class RigWorld(World):
    """A segment alone: calls into the core make it what it is, and do what helpers would."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.rig = self._stack.enter_context(memory())
        self.clock = Clock(self.rig.client.segment)
        self._stack.callback(self.clock.close)
        self.clock.tell_apart()
        self.clients = [self.rig.client]
        self.clients += [mortal(self.attach) for _ in range(CLIENTS - 1)]

    def make(self, name: str, **options: Any) -> None:
        self.rig.queue(name, **options)

    def make_topic(self, name: str, **options: Any) -> None:
        self.rig.topic(name, **options)

    def delete(self, name: str) -> None:
        client = self.rig.client
        client.check(lib.shmq_queue_delete(client.ctx, self.queue(name, 0)._qref), "delete")

    def attach(self) -> Client:
        return Client(open_segment(self.rig.client.name))

    def fire(self) -> None:
        ctx = self.rig.client.ctx
        idx, due = ffi.new("uint32_t[4096]"), ffi.new("uint64_t[4096]")
        start, late = ffi.new("uint32_t *"), ffi.new("uint64_t *")
        n = lib.shmq_timers_scan(ctx, start, idx, due, 4096)
        for _, block in sorted((due[i], idx[i]) for i in range(n)):
            lib.shmq_timer_fire(ctx, block, lib.shmq_now(), late)

    def sweep(self) -> None:
        self.rig.sweep_expired()

    def lapse(self) -> None:
        following = ffi.new("uint64_t *")
        lib.shmq_leases_expire(self.rig.client.ctx, lib.shmq_now(), following)

    def tend(self) -> None:
        self.fire()
        self.sweep()
        self.lapse()
        lib.shmq_parked_sweep(self.rig.client.ctx)

    def close(self) -> None:
        for client in self.clients[1:]:
            client.detach()
        self._stack.close()


# ---- death -----------------------------------------------------------------------------------------

_mapped: WeakKeyDictionary[Client, set[tuple[int, int]]] = WeakKeyDictionary()


def _mappings() -> set[tuple[int, int]]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    spans = (line.split(None, 1)[0].split("-") for line in lines if "shmq" in line)
    return {(int(begin, 16), int(end, 16)) for begin, end in spans}


def mortal(attach: Callable[[], Client]) -> Client:
    """Attach, and remember where, for `die`."""
    before = _mappings()
    client = attach()
    _mapped[client] = _mappings() - before
    return client


def die(client: Client, witness: Client) -> None:
    """End ``client`` as SIGKILL would; ``witness`` recovers what it held, as the supervisor does."""
    owner = lib.shmq_self(client.ctx)
    info = ffi.new("shmq_owner_info *")
    lib.shmq_owner_snapshot(client.ctx, owner, info)
    client._closed = True  # its consumers and its end leave the segment alone from here on
    spans = _mapped[client]

    def unmap(_: Any) -> int:
        _unmap(spans)
        return 0

    client._free = (lambda _: 0, unmap, lambda _: None)
    witness.check(lib.shmq_owner_declare(witness.ctx, owner, info.word), "declare")
    witness.check(lib.shmq_recover(witness.ctx, owner), "recover")


def _unmap(spans: set[tuple[int, int]]) -> None:
    # A segment takes an eighth of a terabyte of addresses: a thousand of them are all there are.
    for begin, end in spans:
        ctypes.CDLL(None).munmap(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin))


# ---- looks -----------------------------------------------------------------------------------------


def ready_bytes(queue: Queue) -> int:
    """Return what the queue believes to have ready, in bytes; 0 when it keeps no account."""
    info = ffi.new("shmq_queue_info *")
    lib.shmq_queue_snapshot(queue._client.ctx, queue._qref & 0xFFFF, info)
    return int(info.bytes)


def lanes_differ(world: World, keys: list[str]) -> bool:
    """Return whether no two keys share a lane under this segment's secret."""
    world.make("probe", order="key")
    probe = world.queue("probe", 0)
    for key in keys:
        probe.publish(b"", key=key)
    with probe.subscribe() as consumer:
        n = sum(1 for _ in keys if not _empty(consumer))
    world.delete("probe")
    return n == len(keys)


def _empty(consumer: Consumer) -> bool:
    try:
        consumer.get(timeout=0)
    except QueueEmpty:
        return True
    return False
