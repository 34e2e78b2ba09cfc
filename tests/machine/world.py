"""A segment without helpers whose clock is moved by hand and whose processes die on request."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from rig import Rig

from shmq._native import ffi, lib
from shmq.client import Client
from shmq.segment import open_segment


class Clock:
    """Moves time on for everything in a segment: each deadline in it comes nearer.

    Nobody else is at work in the segment meanwhile.
    """

    def __init__(self, rig: Rig) -> None:
        segment = rig.client.segment
        self._map = mmap.mmap(segment.fd, segment.size)
        self._base = ffi.cast("char *", ffi.from_buffer(self._map))
        self._header = ffi.cast("shmq_header *", self._base)
        self.passed = 0
        self._began = lib.shmq_now()

    def now(self) -> int:
        return lib.shmq_now() + self.passed

    def can_pass(self, ns: int) -> bool:
        """Return whether no time in the segment would come before the machine's start."""
        return self.passed + ns < self._began

    def advance(self, ns: int) -> None:
        self.passed += ns
        blocks = ffi.cast("shmq_block *", self._base + self._header.geometry.blocks)
        for k, first in enumerate(self._header.geometry.first):
            for i in range(first, first + self._header.hwm[k].n):
                block = blocks[i]
                state = block.ctl >> 60
                for name in self._times(state):
                    if getattr(block, name):
                        setattr(block, name, max(1, getattr(block, name) - ns))
        queues = ffi.cast("shmq_queue *", self._base + self._header.geometry.queues)
        for i in range(self._header.queue_hwm):
            queues[i].created_ns -= ns
        owners = ffi.cast("shmq_owner *", self._base + self._header.geometry.owners)
        held = ffi.cast("shmq_held *", self._base + self._header.geometry.held)
        for o in range(self._header.owner_hwm):
            for i in range(owners[o].held_hwm):
                entry = held[o * self._header.geometry.held_each + i]
                if entry.word and entry.deadline:
                    entry.deadline = max(1, entry.deadline - ns)

    @staticmethod
    def _times(state: int) -> tuple[str, ...]:
        if state in (lib.SHMQ_READY, lib.SHMQ_OWNED, lib.SHMQ_DELAYED):
            return "published_ns", "expires_ns", "due_ns"
        return ()

    def close(self) -> None:
        self._header = self._base = None
        try:
            self._map.close()
        except BufferError:  # the collector has not been there yet
            pass


_mapped: WeakKeyDictionary[Client, set[tuple[int, int]]] = WeakKeyDictionary()


def _mappings() -> set[tuple[int, int]]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    spans = (line.split(None, 1)[0].split("-") for line in lines if "shmq" in line)
    return {(int(begin, 16), int(end, 16)) for begin, end in spans}


def another(rig: Rig) -> Client:
    """Return one more attachment, as another process would have it."""
    before = _mappings()
    client = Client(open_segment(rig.client.name))
    _mapped[client] = _mappings() - before
    return client


def tell_apart(clock: Clock) -> None:
    """Let the attachments to come have words of their own, though all are this process's."""
    owners = ffi.cast("shmq_owner *", clock._base + clock._header.geometry.owners)
    for i in (1, 2):
        owners[i].word = i << 58  # FREE, in an epoch of its own


def die(rig: Rig, client: Client) -> None:
    """End ``client`` as SIGKILL would, and recover what it held."""
    owner = lib.shmq_self(client.ctx)
    info = ffi.new("shmq_owner_info *")
    lib.shmq_owner_snapshot(client.ctx, owner, info)
    client._closed = True  # its consumers and its end leave the segment alone from here on
    spans = _mapped[client]
    client._free = (_nothing, lambda _: _unmap(spans), _nothing)
    rig.client.check(lib.shmq_owner_declare(rig.client.ctx, owner, info.word), "declare")
    rig.client.check(lib.shmq_recover(rig.client.ctx, owner), "recover")


def _nothing(_: Any) -> None:
    pass


def _unmap(spans: set[tuple[int, int]]) -> None:
    # A segment takes an eighth of a terabyte of addresses: a thousand of them are all there are.
    for begin, end in spans:
        ctypes.CDLL(None).munmap(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin))


def fire(rig: Rig) -> None:
    """Do what the sidecar does about what is due, the earliest first."""
    idx, due = ffi.new("uint32_t[4096]"), ffi.new("uint64_t[4096]")
    start, late = ffi.new("uint32_t *"), ffi.new("uint64_t *")
    n = lib.shmq_timers_scan(rig.client.ctx, start, idx, due, 4096)
    for _, block in sorted((due[i], idx[i]) for i in range(n)):
        lib.shmq_timer_fire(rig.client.ctx, block, lib.shmq_now(), late)


def end_leases(rig: Rig) -> None:
    following = ffi.new("uint64_t *")
    lib.shmq_leases_expire(rig.client.ctx, lib.shmq_now(), following)


def ready_bytes(queue: Any) -> int:
    """Return what the queue believes to have ready, in bytes; 0 when it keeps no account."""
    info = ffi.new("shmq_queue_info *")
    lib.shmq_queue_snapshot(queue._client.ctx, queue._qref & 0xFFFF, info)
    return int(info.bytes)


def lanes_differ(rig: Rig, keys: list[str]) -> bool:
    """Return whether no two keys share a lane under this segment's secret."""
    probe = rig.queue(f"probe-{os.getpid()}", order="key")
    for key in keys:
        probe.publish(b"", key=key)
    with probe.subscribe() as consumer:
        n = sum(1 for _ in keys if not _empty(consumer))
    probe.purge()
    lib.shmq_queue_delete(rig.client.ctx, probe._qref)
    return n == len(keys)


def _empty(consumer: Any) -> bool:
    from shmq.errors import QueueEmpty

    try:
        consumer.get(timeout=0)
    except QueueEmpty:
        return True
    return False
