"""System V shared memory: found by key, not bound by the size of /dev/shm (sysv_ipc)."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Any

from shmq._native import ffi, lib
from shmq.descriptors import lift, scarce
from shmq.errors import BrokerNotRunning, ForeignSegment, StorageError, explain
from shmq.segment.handle import Segment
from shmq.segment.header import NAME_OFFSET
from shmq.segment.names import KEY_MARK, hash_of, sysv_keys
from shmq.segment.refusals import raise_for

if TYPE_CHECKING:
    import socket

SYSV_TABLE = "/proc/sysvipc/shm"
SHM_NORESERVE = 0o10000


class SysvSegment(Segment):
    """A System V segment, attached by sysv_ipc; the C core works on that address."""

    provider = "sysv"

    def __init__(self, name: str, memory: Any, key: int, lock: socket.socket | None = None) -> None:
        import sysv_ipc

        self.name = name
        self.memory = memory
        self.key = key
        self._ipc = sysv_ipc  # still there when the last handle goes, at interpreter exit
        self.id: int = memory.id
        self.size = memory.size
        self._pid = os.getpid()
        self._inherited: list[Any] = []
        self._lock = lock

    def _here(self) -> Any:
        # The core keeps the mapping out of forked children (MADV_DONTFORK). The inherited object
        # must not detach an address that is somebody else's here: it is kept, and never used.
        if self._pid != os.getpid():
            self._inherited.append(self.memory)
            try:
                self.memory = self._ipc.attach(self.id)
            except self._ipc.PermissionsError:
                raise ForeignSegment(
                    explain(
                        f"System V segment of broker {self.name!r}",
                        "one of another user",
                        f"one of uid {os.getuid()}, which this process has now",
                        "use it as the user who has made it",
                    )
                ) from None
            except self._ipc.ExistentialError:
                raise BrokerNotRunning(
                    explain(
                        f"System V segment of broker {self.name!r}",
                        "none any more",
                        "the one that was attached before the fork",
                        "start the broker again, and connect anew",
                    )
                ) from None
            self._pid = os.getpid()
        return self.memory

    def read(self, offset: int, n: int) -> bytes:
        return bytes(self._here().read(n, offset))

    def write(self, offset: int, data: bytes) -> None:
        self._here().write(data, offset)

    def resize(self, size: int) -> None:
        self.size = size  # given when it was created

    def map(self, ctx: Any) -> None:
        address = ffi.cast("void *", _address_of(self._here()))
        raise_for(lib.shmq_map_address(ctx, address, self.size, self.id), ctx, self.name)

    def memory_used(self) -> int:
        rows = [row for row in _table() if row["shmid"] == self.id]
        return rows[0]["rss"] + rows[0]["swap"] if rows else 0

    def current(self) -> bool:
        # After a removal the kernel forgets the key; a new segment has another id.
        return sysv_ids().get(self.key) == self.id

    def claim(self) -> bool:
        if self._lock is None:
            self._lock = _lock_of(self.name)
        return self._lock is not None

    def drop_claim(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def unlink(self) -> None:
        if self.current():
            with contextlib.suppress(self._ipc.Error):
                self._here().remove()
        self.drop_claim()  # which was on the name

    def close(self) -> None:
        self.drop_claim()
        if self._pid == os.getpid() and self.memory.attached:
            with contextlib.suppress(self._ipc.Error):
                self.memory.detach()


def _address_of(memory: Any) -> int:
    return int(memory.address)


def open_sysv(name: str) -> Segment | None:
    """Return a handle on the segment of that name, unchecked; None when there is none."""
    for key in sysv_keys(name):
        shmid = sysv_ids().get(key)
        if shmid is None:
            return None  # keys are filled in order
        segment = attach_sysv(name, key, shmid)
        for _ in range(50):
            if segment is not None or sysv_ids().get(key) != shmid:
                break
            time.sleep(0.001)  # for the moment after its creation it is read-only
            segment = attach_sysv(name, key, shmid)
        # Without a name it is unfinished: being made for this name, or rubble that may go.
        if segment is not None and name_in(segment) in (name, ""):
            return segment
        if segment is not None:
            segment.close()  # of another name with the same hash
    return None


def attach_sysv(name: str, key: int, shmid: int) -> SysvSegment | None:
    """Return a handle on that very segment; None when it is gone, or is not finished."""
    import sysv_ipc

    try:
        return SysvSegment(name, sysv_ipc.attach(shmid), key)
    except (sysv_ipc.Error, OSError, ValueError):
        return None


def name_in(segment: Segment) -> str:
    """Return the name that a segment says it has; empty: none yet."""
    raw = segment.read(NAME_OFFSET, min(256, max(0, segment.size - NAME_OFFSET)))
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def sysv_ids() -> dict[int, int]:
    """Return {key: id} of this user's System V segments that carry our mark."""
    mine = os.getuid()
    return {
        row["key"]: row["shmid"]
        for row in _table()
        if row["uid"] == mine and row["key"] & 0xFF << 24 == KEY_MARK
    }


def _table() -> list[dict[str, int]]:
    try:
        with open(SYSV_TABLE, encoding="ascii") as table:
            columns = table.readline().split()
            return [dict(zip(columns, map(int, line.split()), strict=False)) for line in table]
    except OSError:
        return []


def _lock_of(name: str) -> socket.socket | None:
    """Return what only one process at a time can have for this name; the kernel takes it back."""
    import socket

    with scarce(f"claim of broker {name!r}"):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        lock = socket.socket(fileno=lift(lock.detach()))
    try:
        lock.bind(f"\0shmq.{os.getuid()}.{hash_of(name):016x}")
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return lock


def create_sysv(name: str, config: Any) -> Segment | None:
    """Return a new one, claimed and of full size; None when there is one, or somebody is making it."""
    # The claim comes first: from here on nobody else makes or adopts a segment of this name.
    lock = _lock_of(name)
    if lock is None:
        return None
    try:
        segment = _make(name, config, lock)
    except BaseException:
        lock.close()
        raise
    if segment is None:
        lock.close()
    return segment


def _make(name: str, config: Any, lock: socket.socket) -> Segment | None:
    import sysv_ipc

    size = lib.shmq_plan(config, ffi.new("shmq_geometry *"))
    for key in sysv_keys(name):
        shmid = sysv_ids().get(key)
        if shmid is not None:
            other = attach_sysv(name, key, shmid)
            taken = other is None or name_in(other) not in (name, "")
            if other is not None:
                other.close()
            if taken:
                continue
            return None  # made since we looked
        try:
            # Created read-only: sysv_ipc fills what it creates writable, all of a sparse segment.
            memory = sysv_ipc.SharedMemory(
                key, flags=sysv_ipc.IPC_CREX | SHM_NORESERVE, mode=0o400, size=size
            )
        except sysv_ipc.ExistentialError:
            return None
        except (sysv_ipc.Error, OSError, ValueError, MemoryError) as error:
            raise StorageError(
                explain(
                    f"System V segment of broker {name!r}",
                    str(error),
                    f"a segment of {size:,} virtual bytes",
                    "look at `ipcs -lm`, lower memory_limit, or use shm='posix'",
                )
            ) from error
        memory.mode = 0o600
        memory.detach()
        memory.attach()
        return SysvSegment(name, memory, key, lock)
    raise StorageError(
        explain(
            f"System V segment of broker {name!r}",
            "all its keys in use",
            "a free one",
            "`shmq clean`, or choose another name",
        )
    )
