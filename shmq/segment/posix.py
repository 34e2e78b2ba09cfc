"""POSIX shared memory: sparse files in /dev/shm, mode 0600 (posix_ipc)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Any

from shmq._native import lib
from shmq.errors import ForeignSegment, StorageError, explain
from shmq.segment.handle import Segment
from shmq.segment.names import DEV_SHM, posix_name
from shmq.segment.refusals import raise_for


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
        raise_for(lib.shmq_map_fd(ctx, self.fd, self.size), ctx, self.name)

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


def open_posix(name: str) -> Segment | None:
    """Return a handle on the file of that name, unchecked; None when there is none."""
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


def create_posix(name: str) -> Segment | None:
    """Return a new one, empty; None when there is one."""
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
