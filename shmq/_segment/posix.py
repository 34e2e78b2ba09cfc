"""POSIX shared memory: sparse files in /dev/shm, mode 0600 (posix_ipc).

Everybody may make things in /dev/shm, of any kind and under any name. What has one of our names is
opened without following links and without waiting, and is believed only if the kernel says of what
is open that it is a regular file of this user with one name; `header` refuses it as well when others
may open it. All else is a ForeignSegment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import time
from typing import Any

from shmq._descriptors import SCARCE, Kept, limit_reached, scarce
from shmq._native import lib
from shmq._segment.handle import Segment
from shmq._segment.header import Header
from shmq._segment.names import DEV_SHM, posix_name
from shmq._segment.refusals import raise_for
from shmq.errors import BrokerNotRunning, ForeignSegment, ShmqError, StorageError, explain

OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What open says of a thing that is no file of ours; want of descriptors or memory is not among it.
NOT_OURS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.ETXTBSY)  # fmt: skip
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISREG, "a file"),
)
LEASE_TRIES = 1000  # of a millisecond each: somebody asks `others`, which takes microseconds


class PosixSegment(Segment):
    """A POSIX shared memory object: a file in /dev/shm and an open descriptor."""

    provider = "posix"

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._path = DEV_SHM + posix_name(name)  # of the user who opened it
        self._kept = Kept(fd)
        status = os.fstat(self._kept.fd)
        self.size = status.st_size
        self.inode = status.st_ino

    @property
    def fd(self) -> int:
        """The descriptor; opened anew by name when the program has closed it.

        Raises: BrokerNotRunning when that cannot be done, because the name leads elsewhere.
        """
        if self._kept.fd >= 0 and not self._kept.ours():
            self._kept = self._again()
        return self._kept.fd

    def _again(self) -> Kept:
        try:
            with scarce(f"segment of broker {self.name!r}"):
                kept = Kept(os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
            if kept.is_that(self._kept):
                return kept
            kept.close()
            found = "another file of that name"
        except FileNotFoundError:
            found = "no file of that name"
        except PermissionError:
            raise _not_ours(self.name) from None
        raise BrokerNotRunning(
            explain(
                f"{self._path}, whose descriptor this program has closed",
                found,
                "the segment that was open",
                "connect again: shmq.connect(name); or keep descriptors open that are not yours",
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
        raise_for(lib.shmq_map_fd(ctx, self.fd, self.size), ctx, self.name)

    def memory_used(self) -> int:
        return os.fstat(self.fd).st_blocks * 512

    def header(self) -> Header:
        header = super().header()
        mode = stat.S_IMODE(os.fstat(self.fd).st_mode)
        if mode & 0o077:
            found = f"a file with mode {mode:04o}: others may have read it, or written to it"
            raise ForeignSegment(_foreign_text(f"{DEV_SHM}{posix_name(self.name)}", found))
        return header

    def others(self) -> bool | None:
        # A write lease is given only if the file is open nowhere else: no other descriptor, no
        # mapping, in any process and any namespace. If somebody comes in between, he waits for the
        # next line and we get a signal, which by default would end this process: SIGURG does not.
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            return True if error.errno == errno.EAGAIN else None
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False

    def room(self) -> tuple[int, int] | None:
        space = os.fstatvfs(self.fd)
        size = space.f_blocks * space.f_frsize
        return (size, space.f_bavail * space.f_frsize) if size else None

    def current(self) -> bool:
        try:
            return os.fstat(self.fd).st_nlink > 0
        except (OSError, ShmqError):
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
        other = Kept(os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC))
        self._kept.close()
        self._kept = other

    def unlink(self) -> None:
        if self.current():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(DEV_SHM + posix_name(self.name))

    def close(self) -> None:
        self._kept.close()


def open_posix(name: str) -> PosixSegment | None:
    """Return a handle on the file of that name, a regular one of this user; None without one.

    Raises:
        ForeignSegment: something else has that name.
        StorageError: it cannot be opened for want of something.
    """
    path = DEV_SHM + posix_name(name)
    for _ in range(LEASE_TRIES):
        try:
            # Looked at first, so that no device and no pipe of others is ever opened on purpose.
            if not _check_ours(path, os.lstat(path)):
                return None
            fd = os.open(path, OPEN)
        except ForeignSegment:
            raise
        except FileNotFoundError:
            return None
        except BlockingIOError:
            time.sleep(0.001)
            continue
        except OSError as error:
            raise _refusal(path, error) from error
        try:
            if _check_ours(path, os.fstat(fd)):
                return PosixSegment(name, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise StorageError(
        explain(path, "a lease that somebody keeps on it", "an open file", "see /proc/locks")
    )


def _check_ours(path: str, status: os.stat_result) -> bool:
    """Return whether it still has a name; raises ForeignSegment when it is not what we make."""
    if status.st_nlink == 0:
        return False
    kind = next((text for test, text in KINDS if test(status.st_mode)), "a device")
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise ForeignSegment(_foreign_text(path, f"{kind} of uid {status.st_uid}"))
    if status.st_nlink > 1:
        raise ForeignSegment(_foreign_text(path, f"a file with {status.st_nlink} names"))
    return True


def _foreign_text(path: str, found: str) -> str:
    return explain(
        path,
        found,
        f"a regular file of uid {os.geteuid()} with mode 0600 and one name",
        "remove it or ask its owner to, or choose another broker name",
    )


def _not_ours(name: str) -> ForeignSegment:
    found = "something that this user may not open"
    return ForeignSegment(_foreign_text(DEV_SHM + posix_name(name), found))


def _refusal(path: str, error: OSError) -> ShmqError:
    if _scarce(error):
        return limit_reached(path, str(error))
    if error.errno in NOT_OURS:
        found = f"something that this user may not open ({error.strerror})"
        return ForeignSegment(_foreign_text(path, found))
    return StorageError(
        explain(
            path,
            f"{error.strerror} (errno {error.errno})",
            "a file that can be opened",
            "look at `ulimit -a` and at /dev/shm",
        )
    )


def _scarce(error: Exception) -> bool:
    # posix_ipc says some of it in words of its own, without a number.
    number = getattr(error, "errno", None)
    return number in SCARCE or (number is None and "files open" in str(error))


def create_posix(name: str) -> PosixSegment | None:
    """Return a new one, empty; None when there is one."""
    import posix_ipc

    try:
        memory = posix_ipc.SharedMemory(posix_name(name), posix_ipc.O_CREX, mode=0o600)
    except posix_ipc.ExistentialError:
        return None
    except (posix_ipc.Error, OSError) as error:
        if _scarce(error):
            raise limit_reached(f"segment of broker {name!r}", str(error)) from error
        raise StorageError(
            explain(
                f"{DEV_SHM}{posix_name(name)}",
                getattr(error, "strerror", None) or str(error),
                "a new shared memory object",
                "look at the permissions of /dev/shm, or use shm='sysv'",
            )
        ) from error
    with contextlib.suppress(OSError):
        os.fchmod(memory.fd, 0o600)  # whatever the umask took away
    return PosixSegment(name, memory.fd)
