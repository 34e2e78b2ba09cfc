"""POSIX shared memory: sparse files in /dev/shm, mode 0600 (posix_ipc)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Any

from shmq._native import lib
from shmq.descriptors import SCARCE, Kept, limit_reached, scarce
from shmq.errors import BrokerNotRunning, ForeignSegment, ShmqError, StorageError, explain
from shmq.segment.handle import Segment
from shmq.segment.names import DEV_SHM, posix_name
from shmq.segment.refusals import raise_for


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


def open_posix(name: str) -> Segment | None:
    """Return a handle on the file of that name, unchecked; None when there is none."""
    import posix_ipc

    try:
        memory = posix_ipc.SharedMemory(posix_name(name))
    except posix_ipc.ExistentialError:
        return None
    except OSError as error:
        if _scarce(error):
            raise limit_reached(f"segment of broker {name!r}", str(error)) from error
        if not isinstance(error, PermissionError):
            raise
        raise _not_ours(name) from None
    except posix_ipc.PermissionsError:
        raise _not_ours(name) from None
    return PosixSegment(name, memory.fd)


def _not_ours(name: str) -> ForeignSegment:
    return ForeignSegment(
        explain(
            f"{DEV_SHM}{posix_name(name)}",
            "a file that this user may not open",
            f"one of uid {os.getuid()} with mode 0600",
            "ask its owner to remove it, or choose another broker name",
        )
    )


def _scarce(error: OSError) -> bool:
    # posix_ipc says some of it in words of its own, without a number.
    return error.errno in SCARCE or (error.errno is None and "files open" in str(error))


def create_posix(name: str) -> Segment | None:
    """Return a new one, empty; None when there is one."""
    import posix_ipc

    try:
        memory = posix_ipc.SharedMemory(posix_name(name), posix_ipc.O_CREX, mode=0o600)
    except posix_ipc.ExistentialError:
        return None
    except OSError as error:
        if _scarce(error):
            raise limit_reached(f"segment of broker {name!r}", str(error)) from error
        raise StorageError(
            explain(
                f"{DEV_SHM}{posix_name(name)}",
                error.strerror or str(error),
                "a new shared memory object",
                "look at the permissions of /dev/shm, or use shm='sysv'",
            )
        ) from error
    return PosixSegment(name, memory.fd)
