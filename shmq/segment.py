"""Where a broker's memory is: names, two providers of shared memory, and who may have it.

    posix   /dev/shm/shmq.<uid>.<name>, sparse, mode 0600 (posix_ipc)
    sysv    a System V segment whose key is derived from <uid> and <name>; not bound by the size of
            /dev/shm (sysv_ipc)

Both hold the same bytes. A segment is made in this order, so that a creator killed anywhere leaves
something that the next one recognises as unfinished and takes away:

    create exclusively -> claim -> size -> map -> name -> format, which stores the magic last

The *claim* says who serves the segment: a lock that the kernel takes back with the supervisor's
life (an flock on the file; for System V an abstract socket). Without it, a segment with a magic is
a broker without supervisor, to be adopted with all it holds; one without magic is rubble.

Nothing here is ever registered with multiprocessing's resource tracker.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from shmq._native import ffi, lib
from shmq.errors import (
    BrokerExists,
    BrokerNotRunning,
    CorruptSegment,
    ForeignSegment,
    LayoutMismatch,
    OutOfSharedMemory,
    ShmqError,
    StorageError,
    explain,
)

if TYPE_CHECKING:
    import socket

__all__ = [
    "Found",
    "Header",
    "Owner",
    "Segment",
    "Stale",
    "clean",
    "create_segment",
    "list_segments",
    "living",
    "observe",
    "open_segment",
]

HEAD_BYTES = 4096
ANONYMOUS_PREFIX = "anonymous-"
PROVIDERS = ("posix", "sysv")
ROLES = ("client", "supervisor", "sidecar", "observer")
DEV_SHM = "/dev/shm"
SYSV_TABLE = "/proc/sysvipc/shm"
SHM_NORESERVE = 0o10000
KEY_MARK = 0x53 << 24  # the top byte of our System V keys
KEY_TRIES = 8
CONTENTION_S = 2.0  # how long makers and removers of one name may be in each other's way
NAME_OFFSET: int = ffi.offsetof("shmq_header", "name")
USER_WORD_OFFSET: int = ffi.offsetof("shmq_header", "user_word")


class Header(NamedTuple):
    """What a sound header says; immutable for the life of the segment."""

    provider: str
    memory_limit: int
    max_message: int
    default_ttl_ns: int
    created_ns: int
    total: int


class Found(NamedTuple):
    """A segment that exists, sound or not."""

    name: str
    provider: str


class Owner(NamedTuple):
    """One attached process that is proven alive at the time of asking."""

    record: int
    pid: int
    role: str
    held: int
    attached_ns: int


# ---- names --------------------------------------------------------------------------------------


def posix_prefix() -> str:
    """Return how the names of this user's files in /dev/shm begin."""
    return f"shmq.{os.getuid()}."


def posix_name(name: str) -> str:
    """Return the name of the POSIX shared memory object of broker ``name``."""
    return "/" + posix_prefix() + name


def _hash(name: str) -> int:
    hashed = 0xCBF29CE484222325  # FNV-1a; not for secrets
    for byte in f"{os.getuid()}:{name}".encode():
        hashed = (hashed ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return hashed


def sysv_keys(name: str) -> Iterator[int]:
    """Yield the System V keys of broker ``name``, in the order in which they are tried."""
    hashed = _hash(name)
    for _ in range(KEY_TRIES):
        hashed = (hashed ^ 0x5B) * 0x100000001B3 & (1 << 64) - 1
        yield KEY_MARK | (hashed >> 20) & 0xFFFFFF


# ---- handles ------------------------------------------------------------------------------------


class Segment:
    """A handle on one existing segment. Two siblings do the work: `PosixSegment`, `SysvSegment`."""

    provider = ""
    name: str
    size: int

    def read(self, offset: int, n: int) -> bytes:
        """Return ``n`` bytes at ``offset``, without a mapping of our own."""
        raise NotImplementedError

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset`` of a segment that nobody else uses yet."""
        raise NotImplementedError

    def resize(self, size: int) -> None:
        """Give a new segment its size."""
        raise NotImplementedError

    def map(self, ctx: Any) -> None:
        """Map the segment into ``ctx``."""
        raise NotImplementedError

    def memory_used(self) -> int:
        """Return how many bytes of the segment have memory behind them."""
        raise NotImplementedError

    def current(self) -> bool:
        """Return whether the broker's name still leads to this segment."""
        raise NotImplementedError

    def claim(self) -> bool:
        """Become the one who serves this segment, until this process ends. False: another does."""
        raise NotImplementedError

    def drop_claim(self) -> None:
        """In a child: leave the claim to the parent alone."""
        raise NotImplementedError

    def unlink(self) -> None:
        """Take the name away; the memory lives until the last mapping is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up the handle (not the name)."""
        raise NotImplementedError

    def user_word(self) -> int:
        """Return the word in which the upper floors keep their defaults."""
        return int.from_bytes(self.read(USER_WORD_OFFSET, 8), "little")

    def header(self) -> Header:
        """Return the header, checked; raises what is wrong with it."""
        return check_header(self.name, self.provider, self.read_head(), self.size)

    def read_head(self) -> bytes:
        """Return the first bytes, fewer than HEAD_BYTES when there are not more."""
        return self.read(0, min(HEAD_BYTES, self.size))

    def unfinished(self) -> bool:
        """Return whether there is no magic yet: the creator is at work, or died at it."""
        return not any(self.read_head()[:8])


class PosixSegment(Segment):
    """A POSIX shared memory object: a file in /dev/shm and an open descriptor."""

    provider = "posix"

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        status = os.fstat(fd)
        self.size = status.st_size
        self.inode = status.st_ino
        if status.st_uid != os.getuid():
            self.close()
            raise ForeignSegment(
                explain(
                    f"{DEV_SHM}{posix_name(name)}",
                    f"a file of uid {status.st_uid}",
                    f"one of uid {os.getuid()}",
                    "ask its owner to remove it, or choose another broker name",
                )
            )

    def read(self, offset: int, n: int) -> bytes:
        return os.pread(self.fd, n, offset)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.fd, data, offset)

    def resize(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        self.size = size

    def map(self, ctx: Any) -> None:
        _raise_for(lib.shmq_map_fd(ctx, self.fd, self.size), ctx, self.name)

    def memory_used(self) -> int:
        return os.fstat(self.fd).st_blocks * 512

    def current(self) -> bool:
        try:
            return os.fstat(self.fd).st_nlink > 0
        except OSError:
            return False

    def claim(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def drop_claim(self) -> None:
        # The lock belongs to the open file, which a forked child shares: it needs one of its own.
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        os.close(self.fd)
        self.fd = fd

    def unlink(self) -> None:
        if self.current():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(DEV_SHM + posix_name(self.name))

    def close(self) -> None:
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = -1


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
            self.memory = self._ipc.attach(self.id)
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
        _raise_for(lib.shmq_map_address(ctx, address, self.size, self.id), ctx, self.name)

    def memory_used(self) -> int:
        rows = [row for row in _sysv_table() if row["shmid"] == self.id]
        return rows[0]["rss"] + rows[0]["swap"] if rows else 0

    def current(self) -> bool:
        # After a removal the kernel forgets the key; a new segment has another id.
        return _sysv_ids().get(self.key) == self.id

    def claim(self) -> bool:
        if self._lock is None:
            self._lock = _sysv_lock(self.name)
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


# ---- what is there ------------------------------------------------------------------------------


def open_handle(name: str) -> Segment | None:
    """Return a handle on whatever has that broker's name, unchecked; None when there is nothing."""
    return _open_posix(name) or _open_sysv(name)


def _open_posix(name: str) -> Segment | None:
    import posix_ipc

    try:
        memory = posix_ipc.SharedMemory(posix_name(name))
    except posix_ipc.ExistentialError:
        return None
    except (posix_ipc.PermissionsError, PermissionError):
        raise ForeignSegment(
            explain(
                f"{DEV_SHM}{posix_name(name)}",
                "a file that this user may not open",
                f"one of uid {os.getuid()} with mode 0600",
                "ask its owner to remove it, or choose another broker name",
            )
        ) from None
    return PosixSegment(name, memory.fd)


def _open_sysv(name: str) -> Segment | None:
    for key in sysv_keys(name):
        shmid = _sysv_ids().get(key)
        if shmid is None:
            return None  # keys are filled in order
        segment = _attach_sysv(name, key, shmid)
        for _ in range(50):
            if segment is not None or _sysv_ids().get(key) != shmid:
                break
            time.sleep(0.001)  # for the moment after its creation it is read-only
            segment = _attach_sysv(name, key, shmid)
        # Without a name it is unfinished: being made for this name, or rubble that may go.
        if segment is not None and _name_in(segment) in (name, ""):
            return segment
        if segment is not None:
            segment.close()  # of another name with the same hash
    return None


def _attach_sysv(name: str, key: int, shmid: int) -> SysvSegment | None:
    import sysv_ipc

    try:
        return SysvSegment(name, sysv_ipc.attach(shmid), key)
    except (sysv_ipc.Error, OSError, ValueError):
        return None


def _name_in(segment: Segment) -> str:
    raw = segment.read(NAME_OFFSET, min(256, max(0, segment.size - NAME_OFFSET)))
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _sysv_ids() -> dict[int, int]:
    """Return {key: id} of this user's System V segments that carry our mark."""
    mine = os.getuid()
    return {
        row["key"]: row["shmid"]
        for row in _sysv_table()
        if row["uid"] == mine and row["key"] & 0xFF << 24 == KEY_MARK
    }


def _sysv_table() -> list[dict[str, int]]:
    try:
        with open(SYSV_TABLE, encoding="ascii") as table:
            columns = table.readline().split()
            return [dict(zip(columns, map(int, line.split()), strict=False)) for line in table]
    except OSError:
        return []


def list_segments() -> list[Found]:
    """Return all segments of this user, sound or not, sorted by name."""
    found = set()
    prefix = posix_prefix()
    with contextlib.suppress(OSError):
        for entry in os.listdir(DEV_SHM):
            if entry.startswith(prefix) and len(entry) > len(prefix):
                found.add(Found(entry[len(prefix) :], "posix"))
    for key, shmid in _sysv_ids().items():
        segment = _attach_sysv("", key, shmid)
        if segment is not None:
            name = _name_in(segment)
            if name:
                found.add(Found(name, "sysv"))
            segment.close()
    return sorted(found)


def open_segment(name: str) -> Segment:
    """Return a handle on the broker's segment, its header checked before anything is mapped.

    Raises:
        BrokerNotRunning: nothing has that name, or it is not finished yet.
        LayoutMismatch, CorruptSegment, ForeignSegment: it is not what this build can use.
    """
    segment = _handle_or_not_running(name)
    try:
        # A creator needs about a millisecond from the name to the magic; a dead one needs for ever.
        for _ in range(50):
            if segment.size and not segment.unfinished():
                break
            time.sleep(0.002)
            segment.close()
            segment = _handle_or_not_running(name)
        else:
            raise BrokerNotRunning(
                explain(
                    f"broker {name!r}",
                    "an unfinished segment, left by a creator that died",
                    "a running broker",
                    f"start it: `shmq up {name}`, which takes the rest away",
                )
            )
        segment.header()
    except BaseException:
        segment.close()
        raise
    return segment


def _handle_or_not_running(name: str) -> Segment:
    segment = open_handle(name)
    if segment is None:
        raise BrokerNotRunning(
            explain(
                f"broker {name!r}",
                "none of that name",
                "a running one",
                f"start it: `shmq up {name}` or shmq.Broker({name!r}); `shmq ls` shows all",
            )
        )
    return segment


def check_header(name: str, provider: str, head: bytes, size: int) -> Header:
    """Return what the first bytes of a segment say; raises what is wrong with them."""
    detail = ffi.new("shmq_detail *")
    total = ffi.new("uint64_t *")
    raw = ffi.from_buffer(head)
    rc = lib.shmq_check_header(raw, len(head), size, detail, total)
    if rc != lib.SHMQ_OK:
        raise _refusal(name, provider, rc, detail, size)
    header = ffi.cast("shmq_header *", raw)
    geometry = header.geometry
    return Header(
        PROVIDERS[header.provider] if header.provider < len(PROVIDERS) else provider,
        geometry.memory_limit,
        geometry.max_message,
        geometry.default_ttl_ns,
        header.created_ns,
        geometry.total,
    )


def _refusal(name: str, provider: str, rc: int, detail: Any, size: int) -> ShmqError:
    what = ffi.string(lib.shmq_what(detail.what)).decode()
    where = (
        f"{DEV_SHM}{posix_name(name)}" if provider == "posix" else f"System V segment of {name!r}"
    )
    subject = f"broker {name!r} ({where})"
    clean = f"`shmq clean` removes it when nobody uses it, or choose another name than {name!r}"
    if what == "owner uid":
        return ForeignSegment(
            explain(subject, f"uid {detail.found}", f"uid {detail.expected}", "choose another name")
        )
    if rc == lib.SHMQ_E_PIDNS:
        return ForeignSegment(
            explain(
                subject,
                f"pid namespace {detail.found}",
                f"this one, {detail.expected}",
                "run all processes of a broker in one pid namespace (docker: --pid=container:…)",
            )
        )
    if rc == lib.SHMQ_E_LAYOUT and what != "magic":
        return LayoutMismatch(
            explain(
                subject,
                f"{what} {detail.found:#x}",
                f"{detail.expected:#x}",
                "use the version of shmq that made it, or stop its processes and run `shmq clean`",
            )
        )
    if what == "size":
        return CorruptSegment(explain(subject, f"{size:,} bytes", f"{detail.expected:,}", clean))
    return CorruptSegment(
        explain(subject, f"{what} {detail.found:#x}", f"{detail.expected:#x}", clean)
    )


# ---- making and taking over ---------------------------------------------------------------------


def create_segment(
    name: str, provider: str, config: Any, user_word: int = 0
) -> tuple[Segment, bool]:
    """Return (segment, adopted): made anew, or taken over from a dead supervisor; claimed either way.

    ``config`` is a `shmq_config *`; it counts for a new segment only, an adopted one keeps its own.

    Raises:
        BrokerExists: a living supervisor has it.
        OutOfSharedMemory: there is not even room for the header.
        LayoutMismatch, CorruptSegment, ForeignSegment: something else has that name.
    """
    deadline = time.monotonic() + CONTENTION_S
    while time.monotonic() < deadline:
        segment = open_handle(name)
        if segment is None:
            segment = _create_posix(name) if provider == "posix" else _create_sysv(name, config)
            if segment is None:  # somebody else is making it, or taking it away
                time.sleep(0.001)
                continue
            if not segment.claim():
                segment.close()
                raise _exists(name)
            try:
                _format(segment, config, user_word)
            except BaseException:
                segment.unlink()
                segment.close()
                raise
            return segment, False
        if not segment.claim():
            segment.close()
            raise _exists(name)
        if not segment.current():  # unlinked between open and claim
            segment.close()
            continue
        if segment.size == 0 or segment.unfinished():
            # Its creator is dead, or finds our claim and gives up.
            segment.unlink()
            segment.close()
            continue
        try:
            segment.header()
        except BaseException:
            segment.close()
            raise
        return segment, True
    raise _exists(name)


def _exists(name: str) -> BrokerExists:
    return BrokerExists(
        explain(
            f"broker {name!r}",
            "a living supervisor",
            "none",
            f"use shmq.connect({name!r}), or stop it first: `shmq down {name}`",
        )
    )


def _create_posix(name: str) -> Segment | None:
    import posix_ipc

    try:
        memory = posix_ipc.SharedMemory(posix_name(name), posix_ipc.O_CREX, mode=0o600)
    except posix_ipc.ExistentialError:
        return None
    except OSError as error:
        raise StorageError(
            explain(
                f"{DEV_SHM}{posix_name(name)}",
                error.strerror or str(error),
                "a new shared memory object",
                "look at the permissions of /dev/shm, or use shm='sysv'",
            )
        ) from error
    return PosixSegment(name, memory.fd)


def _sysv_lock(name: str) -> socket.socket | None:
    """Return what only one process at a time can have for this name; the kernel takes it back."""
    import socket

    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(f"\0shmq.{os.getuid()}.{_hash(name):016x}")
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return lock


def _create_sysv(name: str, config: Any) -> Segment | None:
    # The claim comes first: from here on nobody else makes or adopts a segment of this name.
    lock = _sysv_lock(name)
    if lock is None:
        return None
    try:
        segment = _make_sysv(name, config, lock)
    except BaseException:
        lock.close()
        raise
    if segment is None:
        lock.close()
    return segment


def _make_sysv(name: str, config: Any, lock: socket.socket) -> Segment | None:
    import sysv_ipc

    size = lib.shmq_plan(config, ffi.new("shmq_geometry *"))
    for key in sysv_keys(name):
        shmid = _sysv_ids().get(key)
        if shmid is not None:
            other = _attach_sysv(name, key, shmid)
            taken = other is None or _name_in(other) not in (name, "")
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


def _format(segment: Segment, config: Any, user_word: int) -> None:
    ctx = lib.shmq_ctx_new()
    if not ctx:
        raise MemoryError("no memory for a context")
    try:
        segment.resize(lib.shmq_plan(config, ffi.new("shmq_geometry *")))
        segment.map(ctx)
        segment.write(NAME_OFFSET, segment.name.encode() + b"\0")
        if user_word:
            segment.write(USER_WORD_OFFSET, user_word.to_bytes(8, "little"))
        _raise_for(lib.shmq_format(ctx, config), ctx, segment.name)
    except OSError as error:
        raise _no_room(segment.name, error) from error
    finally:
        lib.shmq_unmap(ctx)
        lib.shmq_ctx_delete(ctx)


def _no_room(name: str, error: OSError) -> OutOfSharedMemory:
    try:
        space = os.statvfs(DEV_SHM)
        free = f"{space.f_bavail * space.f_frsize:,} bytes free in {DEV_SHM}"
    except OSError:
        free = "no usable /dev/shm"
    return OutOfSharedMemory(
        explain(
            f"broker {name!r}",
            f"{error.strerror}, {free}",
            "room for its first pages",
            "enlarge /dev/shm (docker run --shm-size=1g), or use shm='sysv'",
        )
    )


def _raise_for(rc: int, ctx: Any, name: str) -> None:
    if rc == lib.SHMQ_OK:
        return
    detail = ffi.new("shmq_detail *")
    lib.shmq_ctx_detail(ctx, detail)
    if rc == lib.SHMQ_E_NOMEM:
        raise _no_room(name, OSError(detail.sys_errno, os.strerror(detail.sys_errno)))
    what = ffi.string(lib.shmq_what(detail.what)).decode()
    reason = os.strerror(detail.sys_errno) if detail.sys_errno else f"{what} {detail.found:#x}"
    kind = CorruptSegment if rc == lib.SHMQ_E_CORRUPT else StorageError
    raise kind(
        explain(
            f"segment of broker {name!r}",
            reason,
            "a mapping of it",
            "look at `ulimit -v`, or lower memory_limit",
        )
    )


# ---- looking without taking part ----------------------------------------------------------------


@contextlib.contextmanager
def observe(name: str) -> Iterator[tuple[Segment, Any]]:
    """Map a broker's segment without attaching to it: yields (segment, context)."""
    segment = open_segment(name)
    ctx = lib.shmq_ctx_new()
    try:
        segment.map(ctx)
        _raise_for(lib.shmq_verify(ctx), ctx, name)
        yield segment, ctx
    finally:
        lib.shmq_unmap(ctx)
        lib.shmq_ctx_delete(ctx)
        segment.close()


def owners_alive(ctx: Any) -> list[Owner]:
    """Return the attached processes that are alive (pid and start time agree)."""
    info = ffi.new("shmq_segment_info *")
    if lib.shmq_segment_snapshot(ctx, info) != lib.SHMQ_OK:
        return []
    alive = []
    owner = ffi.new("shmq_owner_info *")
    for index in range(info.owners):
        if lib.shmq_owner_snapshot(ctx, index, owner) != lib.SHMQ_OK:
            continue
        if owner.state != lib.SHMQ_OWNER_ALIVE:
            continue
        if lib.shmq_owner_prove(ctx, index, 1) == lib.SHMQ_OK:
            continue
        role = ROLES[owner.role] if owner.role < len(ROLES) else "unknown"
        alive.append(Owner(index, owner.pid, role, owner.held, owner.attached_ns))
    return alive


def living(name: str) -> list[Owner]:
    """Return who is attached to the broker ``name`` and alive, without attaching to it."""
    with observe(name) as (_, ctx):
        return owners_alive(ctx)


# ---- taking away what nobody lives in -----------------------------------------------------------


class Stale(NamedTuple):
    """Whether a segment may go, and why (not)."""

    name: str
    provider: str
    removable: bool
    reason: str


def clean(
    dry_run: bool = False, prefix: str = "", names: Collection[str] | None = None
) -> list[Stale]:
    """Remove this user's segments in which nobody lives; returns what was found about each.

    ``prefix`` and ``names`` narrow it down to brokers of such names.

    Somebody lives in it when its supervisor's claim is held, when an attached process is alive (pid
    and start time agree), or, where its layout cannot be read, when any process maps it.
    """
    found = []
    for name, provider in list_segments():
        if not name.startswith(prefix) or (names and name not in names):
            continue
        try:
            verdict = _clean_one(name, provider, dry_run)
        except (ShmqError, OSError) as error:
            verdict = Stale(name, provider, False, str(error))
        if verdict is not None:
            found.append(verdict)
    return found


def _clean_one(name: str, provider: str, dry_run: bool) -> Stale | None:
    segment = _open_posix(name) if provider == "posix" else _open_sysv(name)
    if segment is None:
        return None
    try:
        # From here on no supervisor can come to life in it: it would need the claim.
        if not segment.claim():
            return Stale(name, provider, False, "its supervisor is alive")
        if not segment.current():
            return None
        users = _users(segment)
        if users:
            return Stale(name, provider, False, "used by " + ", ".join(users))
        if segment.size == 0 or segment.unfinished():
            reason = "unfinished; its creator is dead"
        else:
            try:
                segment.header()
                reason = "nobody is attached to it"
            except ShmqError as error:
                reason = f"not usable ({type(error).__name__}), and nobody uses it"
        if not dry_run:
            segment.unlink()
        return Stale(name, provider, True, reason)
    finally:
        segment.close()


def _users(segment: Segment) -> list[str]:
    try:
        if segment.size and not segment.unfinished():
            segment.header()
            return [f"{owner.role} {owner.pid}" for owner in _owners_of(segment) if owner.pid]
    except ShmqError:
        pass
    if isinstance(segment, SysvSegment):
        others = segment.memory.number_attached - 1
        return [f"{others} processes"] if others > 0 else []
    return [f"process {pid}" for pid in _mappers(segment)]


def _owners_of(segment: Segment) -> list[Owner]:
    ctx = lib.shmq_ctx_new()
    try:
        segment.map(ctx)
        _raise_for(lib.shmq_verify(ctx), ctx, segment.name)
        return owners_alive(ctx)
    finally:
        lib.shmq_unmap(ctx)
        lib.shmq_ctx_delete(ctx)


def _mappers(segment: Segment) -> list[int]:
    path = f"{DEV_SHM}{posix_name(segment.name)}"
    pids = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{entry}/maps", encoding="utf-8", errors="replace") as maps:
                if any(line.rstrip("\n").endswith(path) for line in maps):
                    pids.append(int(entry))
    return pids
