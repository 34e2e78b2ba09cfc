"""Queues that no process has a handle on any more are given up.

A queue made with SHMQ_COUNTED knows the attached processes that have handles on it (native/src/
refs.c). A process may have handles and not be attached, or not have counted them: a forked child in
its first moments, a child of multiprocessing that is getting its arguments. All of these hold the
*lease*, the pipe of shmq/home.py. So a queue is given up when

    1  it has no references                    (candidates)
    2  then, every holder of the lease is attached, and has settled: all its handles are counted
    3  then, it still has no references        (the core looks again, and deletes)

A holder that is born between 1 and 3 has its handles from one that was there at 2, and had settled:
it had no handle on a candidate.
"""

from __future__ import annotations

import os
import time
from typing import Any

from shmq._native import ffi, lib

PAUSE_S = 0.05  # between two looks
SHARE = 20  # looking may cost at most this fraction of a core: the pause grows with it


class Handles:
    """Finds and gives up the queues that nobody has a handle on."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._info = ffi.new("shmq_segment_info *")
        self._queue = ffi.new("shmq_queue_info *")
        self._owner = ffi.new("shmq_owner_info *")
        self._again_at = 0.0
        self._wanted = False

    def look(self) -> None:
        """Something has changed: there may be something to do."""
        self._wanted = True

    def due(self) -> float | None:
        """Return when to call `collect`; None: not until something changes."""
        return self._again_at if self._wanted else None

    def collect(self, lease_fd: int) -> None:
        """Give up what can be given up, if it is time to look."""
        if not self._wanted or time.monotonic() < self._again_at:
            return
        start = time.thread_time()
        self._wanted = False
        candidates = self._candidates()
        if candidates:
            if self._everybody_settled(lease_fd):
                lib.shmq_refs_collect(self._ctx, ffi.new("uint64_t[]", candidates), len(candidates))
            else:
                self._wanted = True
        pause = (time.thread_time() - start) * SHARE
        self._again_at = time.monotonic() + max(PAUSE_S if self._wanted else 0.0, pause)

    def _candidates(self) -> list[int]:
        if lib.shmq_segment_snapshot(self._ctx, self._info) != lib.SHMQ_OK:
            return []
        found = []
        for index in range(self._info.queues):
            word = lib.shmq_refs_none(self._ctx, index)
            if word > 0:
                found.append(int(word))
        return found

    def _everybody_settled(self, lease_fd: int) -> bool:
        settled = set()
        for index in range(self._info.owners):
            lib.shmq_owner_snapshot(self._ctx, index, self._owner)
            if self._owner.state == lib.SHMQ_OWNER_ALIVE and self._owner.settled:
                settled.add(int(self._owner.pid))
        # In this order: one that attaches in between counts as not settled.
        return lease_fd < 0 or holders(lease_fd) <= settled


def holders(fd: int) -> set[int]:
    """Return the other processes of this user that have the pipe behind ``fd`` open."""
    pipe = f"pipe:[{os.fstat(fd).st_ino}]"
    me, uid = os.getpid(), os.getuid()
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == me:
            continue
        folder = f"/proc/{entry}/fd"
        try:
            if os.stat(folder).st_uid != uid:
                continue
            names = os.listdir(folder)
        except OSError:  # gone, or not for us to see: then it is no relative
            continue
        for name in names:
            try:
                if os.readlink(f"{folder}/{name}") == pipe:
                    found.add(int(entry))
                    break
            except OSError:
                continue
    return found
