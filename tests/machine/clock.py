"""The clock of a segment, moved by hand."""

from __future__ import annotations

import mmap

from shmq._native import ffi, lib
from shmq._segment import Segment
from shmq._segment.posix import PosixSegment

NOTHING_EXPIRES = (1 << 64) - 1
RECORDS = 8
"""of processes: more than the machine ever has"""


class Clock:
    """Moves time on for everything in a segment: each deadline in it comes nearer.

    Nobody else is at work in the segment meanwhile.
    """

    def __init__(self, segment: Segment) -> None:
        assert isinstance(segment, PosixSegment)
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
        if self._header.next_expiry not in (0, NOTHING_EXPIRES):
            self._header.next_expiry = max(1, self._header.next_expiry - ns)

    @staticmethod
    def _times(state: int) -> tuple[str, ...]:
        if state in (lib.SHMQ_READY, lib.SHMQ_OWNED, lib.SHMQ_DELAYED):
            return "published_ns", "expires_ns", "due_ns"
        return ()

    def tell_apart(self) -> None:
        """Let the attachments to come have words of their own, though all are this process's."""
        owners = ffi.cast("shmq_owner *", self._base + self._header.geometry.owners)
        for i in range(self._header.owner_hwm, RECORDS):
            owners[i].word = i << 58  # FREE, in an epoch of its own

    def in_operation(self) -> bool:
        """Return whether some attached process is in the midst of something."""
        owners = ffi.cast("shmq_owner *", self._base + self._header.geometry.owners)
        ops = [owners[i].op for i in range(self._header.owner_hwm)]
        return bool(self._header.admin) or any(op & 1 for op in ops)

    def close(self) -> None:
        self._header = self._base = None
        try:
            self._map.close()
        except BufferError:  # the collector has not been there yet
            pass
