"""System V shared memory: found by key, not bound by the size of /dev/shm (sysv_ipc).

Anybody may make a segment under any key, and may make this user its owner afterwards: as its creator
he keeps all rights on it. So nothing is read from one before the kernel has said, of the segment that
is attached, that this user owns it *and* has made it, and that nobody else may open it: `_is_ours`.
All others under our keys count as absent: the next key is taken instead.

The claim is a word in the segment, taken and judged by the core (native/src/sysv.c): whoever may not
write the segment cannot take it, and it needs neither a name nor a file that somebody else could
have, fill up or take away. It names its holder by pid and start time, and is void once the kernel
says that this process is gone, however it went.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from typing import Any

from shmq._native import ffi, lib
from shmq._segment.handle import Segment
from shmq._segment.header import NAME_OFFSET
from shmq._segment.names import KEY_MARK, sysv_keys
from shmq._segment.refusals import raise_for
from shmq.errors import BrokerNotRunning, ForeignSegment, StorageError, explain

SYSV_TABLE = "/proc/sysvipc/shm"
SHM_NORESERVE = 0o10000
YOUNG = 0o400  # the mode of a segment for the moment after its creation


class SysvSegment(Segment):
    """A System V segment, attached by sysv_ipc; the C core works on that address."""

    provider = "sysv"

    def __init__(self, name: str, memory: Any, key: int) -> None:
        import sysv_ipc

        self.name = name
        self.memory = memory
        self.key = key
        self._ipc = sysv_ipc  # still there when the last handle goes, at interpreter exit
        self.id: int = memory.id
        self.size = memory.size
        self._pid = os.getpid()
        self._inherited: list[Any] = []
        self._claimed = False

    def _here(self) -> Any:
        # The core keeps the mapping out of forked children (MADV_DONTFORK). The inherited object
        # must not detach an address that is somebody else's here: it is kept, and never used.
        if self._pid != os.getpid():
            try:
                memory = self._ipc.attach(self.id)
            except self._ipc.PermissionsError:
                raise ForeignSegment(_foreign_text(self.name)) from None
            except self._ipc.ExistentialError:
                raise BrokerNotRunning(
                    explain(
                        f"System V segment of broker {self.name!r}",
                        "none any more",
                        "the one that was attached before the fork",
                        "start the broker again, and connect anew",
                    )
                ) from None
            if not _is_ours(_look(self.id)):  # the id of one that is gone may be a stranger's now
                memory.detach()
                raise ForeignSegment(_foreign_text(self.name))
            self._inherited.append(self.memory)
            self.memory = memory
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
        # After a removal the kernel forgets the key; the id is not used again while it is attached.
        seen = _look(self.id)
        return seen is not None and not seen.removed and seen.key == self.key

    def claim(self) -> bool:
        if self._claimed and self._pid == os.getpid():
            return True
        memory = self._here()
        rc = lib.shmq_sysv_claim(self.id, ffi.cast("void *", _address_of(memory)), self.size)
        if rc < 0:
            raise StorageError(
                explain(
                    f"System V segment of broker {self.name!r}",
                    f"{os.strerror(-rc)} (errno {-rc})",
                    "memory for its first page, and /proc",
                    "it needs Linux 5.14; see `ulimit -a` and `free`, or use shm='posix'",
                )
            )
        self._claimed = rc == 1
        return self._claimed

    def drop_claim(self) -> None:
        # A child inherits the handle, not the claim: the word names its parent.
        if self._claimed and self._pid == os.getpid() and self.memory.attached:
            lib.shmq_sysv_drop(ffi.cast("void *", _address_of(self.memory)))
        self._claimed = False

    def others(self) -> bool | None:
        seen = _look(self.id)
        return None if seen is None else seen.attached > 1

    def unlink(self) -> None:
        # The claim stays until the end: who has attached meanwhile must not serve what has no name.
        if self.current():
            with contextlib.suppress(self._ipc.Error):
                self._here().remove()

    def close(self) -> None:
        self.drop_claim()
        if self._pid == os.getpid() and self.memory.attached:
            with contextlib.suppress(self._ipc.Error):
                self.memory.detach()


def _address_of(memory: Any) -> int:
    return int(memory.address)


def open_sysv(name: str) -> SysvSegment | None:
    """Return a handle on the segment of that name, its owner checked; None when there is none."""
    ids = sysv_ids()
    # All keys are tried: a stranger's segment may have been, or may still be, under the first ones.
    for key in sysv_keys(name):
        shmid = ids.get(key)
        if shmid is None:
            continue
        segment = attach_sysv(name, key, shmid)
        for _ in range(50):
            if segment is not None or not _is_ours(_look(shmid), YOUNG):
                break
            time.sleep(0.001)
            segment = attach_sysv(name, key, shmid)
        # Without a name it is unfinished: being made for this name, or rubble that may go.
        if segment is not None and name_in(segment) in (name, ""):
            return segment
        if segment is not None:
            segment.close()  # of another name with the same hash
    return None


def attach_sysv(name: str, key: int, shmid: int) -> SysvSegment | None:
    """Return a handle on that very segment; None when it is gone, not finished or not ours."""
    import sysv_ipc

    try:
        memory = sysv_ipc.attach(shmid)
    except (sysv_ipc.Error, OSError, ValueError):
        return None
    # Asked after attaching: from here on the id cannot become another segment's.
    seen = _look(memory.id)
    if seen is None or not _is_ours(seen) or seen.key != key:
        with contextlib.suppress(sysv_ipc.Error):
            memory.detach()
        return None
    return SysvSegment(name, memory, key)


def _look(shmid: int) -> Any | None:
    """Return what the kernel says about a segment, all of one moment; None when it is gone."""
    seen = ffi.new("shmq_sysv_info *")
    return seen if lib.shmq_sysv_look(shmid, seen) == 0 else None


def _is_ours(seen: Any | None, mode: int = 0o600) -> bool:
    # Root has to ask as well: the kernel lets it attach everything. Once owner and creator are this
    # user, nobody else can change any of the three.
    me = os.geteuid()
    return seen is not None and (seen.creator, seen.uid, seen.mode) == (me, me, mode)


def _foreign_text(name: str) -> str:
    return explain(
        f"System V segment of broker {name!r}",
        "one that another user owns, has made or may open",
        f"one owned and made by uid {os.geteuid()}, with mode 0600",
        "connect again; see `ipcs -mc` for who made it",
    )


def name_in(segment: Segment) -> str:
    """Return the name that a segment says it has; empty: none yet."""
    raw = segment.read(NAME_OFFSET, min(256, max(0, segment.size - NAME_OFFSET)))
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def sysv_ids() -> dict[int, int]:
    """Return {key: id} of segments with our mark that this user has made and owns.

    A first look, for what is worth attaching: an id may be another's by the time it is used.
    """
    me = os.geteuid()
    return {
        row["key"]: row["shmid"]
        for row in _table()
        if row["uid"] == me and row["cuid"] == me and row["key"] & 0xFF << 24 == KEY_MARK
    }


def _table() -> list[dict[str, int]]:
    try:
        with open(SYSV_TABLE, encoding="ascii") as table:
            columns = table.readline().split()
            return [dict(zip(columns, map(int, line.split()), strict=False)) for line in table]
    except OSError:
        return []


def create_sysv(name: str, config: Any) -> SysvSegment | None:
    """Return a new one of full size; None when there is one, or somebody is making it."""
    segment = _make(name, config)
    if segment is None:
        return None
    # Strangers' segments that come and go may lead two makers to two keys: then neither has it.
    if any(_theirs(name, key, shmid) for key, shmid in _others(segment)):
        segment.unlink()
        segment.close()
        time.sleep(random.uniform(0.001, 0.02))
        return None
    return segment


def _others(segment: SysvSegment) -> list[tuple[int, int]]:
    ids = sysv_ids()
    keys = sysv_keys(segment.name)
    return [(key, ids[key]) for key in keys if key in ids and ids[key] != segment.id]


def _theirs(name: str, key: int, shmid: int) -> bool:
    """Return whether that segment is, or may be about to become, one of this name."""
    other = attach_sysv(name, key, shmid)
    if other is None:  # gone, some other program's, or in the moment before it has its mode
        return _is_ours(_look(shmid), YOUNG) and not _take_rubble_away(shmid)
    try:
        return name_in(other) in (name, "")
    finally:
        other.close()


def _take_rubble_away(shmid: int) -> bool:
    """Remove what a maker left that was killed before it could give it its mode; True if it is gone."""
    import sysv_ipc

    seen = _look(shmid)
    if seen is None or not _is_ours(seen, YOUNG) or seen.attached:
        return seen is None
    try:
        if seen.creator_pid:  # 0: of another pid namespace
            os.kill(seen.creator_pid, 0)
        return False
    except ProcessLookupError:
        with contextlib.suppress(sysv_ipc.Error):
            sysv_ipc.remove_shared_memory(shmid)
        return True
    except OSError:
        return False


def _make(name: str, config: Any) -> SysvSegment | None:
    import sysv_ipc

    size = lib.shmq_plan(config, ffi.new("shmq_geometry *"))
    ids = sysv_ids()
    strangers = 0
    for key in sysv_keys(name):
        if key in ids:
            if _theirs(name, key, ids[key]):
                return None  # made since we looked
            if key in sysv_ids():
                continue  # of another name with the same hash
        try:
            # Created read-only: sysv_ipc fills what it creates writable, all of a sparse segment.
            memory = sysv_ipc.SharedMemory(
                key, flags=sysv_ipc.IPC_CREX | SHM_NORESERVE, mode=YOUNG, size=size
            )
        except sysv_ipc.ExistentialError:
            if key in sysv_ids():
                return None  # somebody was quicker
            strangers += 1
            continue
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
        return SysvSegment(name, memory, key)
    if strangers:
        raise ForeignSegment(
            explain(
                f"System V segment of broker {name!r}",
                f"segments of other users under {strangers} of its keys",
                "a free key",
                "see `ipcs -mc` for who made them; choose another name, or use shm='posix'",
            )
        )
    raise StorageError(
        explain(
            f"System V segment of broker {name!r}",
            "all its keys in use",
            "a free one",
            "`shmq clean`, or choose another name",
        )
    )
