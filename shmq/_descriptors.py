"""Descriptors, in a process whose program may close any number, and where numbers may run out.

lift()      a descriptor outside of 0, 1 and 2: where those are closed, the next ones get their numbers,
            and whoever prints, or sets the standard descriptors of a child, takes them for something else
pipe()      both ends of a pipe, lifted
standing_in()   what others open in the block gets numbers above 2 as well
Kept        a descriptor that is kept for long: a daemon's clean start, or `os.closerange`, may have
            closed it, and the number may be the program's own file by now. So it is asked whether it
            is still ours before it is used, and before it is closed
scarce()    what the system has no more of (descriptors, processes, threads), as LimitReached
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from shmq.errors import LimitReached, explain

__all__ = [
    "SCARCE",
    "Kept",
    "identity",
    "lift",
    "limit_reached",
    "pipe",
    "scarce",
    "standing_in",
    "stands_for",
]

# What fork, pipe, open and their like say when a limit is reached.
SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


def lift(fd: int) -> int:
    """Return ``fd``, or in its place another one above 2, which programs that are started do not inherit."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def pipe() -> tuple[int, int]:
    """Return (reader, writer) of a new pipe, both above 2."""
    reader, writer = os.pipe()
    try:
        reader = lift(reader)
    except BaseException:
        os.close(writer)
        raise
    try:
        return reader, lift(writer)
    except BaseException:
        os.close(reader)
        raise


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """Keep 0, 1 and 2 taken in the block, so that nothing that is opened in it gets them."""
    stand_ins: list[int] = []
    try:
        _stand_in(stand_ins)
        yield
    finally:
        for fd in stand_ins:
            os.close(fd)


def _stand_in(stand_ins: list[int]) -> None:
    while len(stand_ins) < 3:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stand_ins.append(fd)
        if fd > 2:
            break


def identity(fd: int) -> tuple[object, ...]:
    """Return what tells the file that ``fd`` stands for from others."""
    status = os.fstat(fd)
    kind = stat.S_IFMT(status.st_mode)
    if kind:
        return status.st_dev, status.st_ino, kind
    # eventfds, pidfds and their like are of one inode: what tells them apart is their kind.
    try:
        return status.st_dev, status.st_ino, os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return status.st_dev, status.st_ino, kind


def stands_for(fd: int, what: object) -> bool:
    """Return whether ``fd`` is open and its `identity` is still ``what``."""
    try:
        return identity(fd) == what
    except OSError:
        return False


class Kept:
    """A descriptor of ours, above 2, as long as nobody else has closed it."""

    __slots__ = ("_what", "fd")

    def __init__(self, fd: int) -> None:
        """Take ``fd`` over."""
        self.fd = lift(fd)
        self._what = identity(self.fd)

    def ours(self) -> bool:
        """Return whether the number still stands for what it was."""
        return self.fd >= 0 and stands_for(self.fd, self._what)

    def is_that(self, other: Kept) -> bool:
        """Return whether this stands for the same as ``other``, or what that one stood for."""
        return self._what == other._what

    def fileno(self) -> int:
        """Return the number, for `select` and its like."""
        return self.fd

    def close(self) -> None:
        """Close it, unless the number stands for something else. Idempotent, never raises."""
        ours = self.ours()
        fd, self.fd = self.fd, -1
        if ours:
            with contextlib.suppress(OSError):
                os.close(fd)


def limit_reached(what: str, found: str) -> LimitReached:
    """Return the error of one who has got no more descriptors, processes or threads."""
    return LimitReached(
        explain(
            what,
            found,
            "one more descriptor, process or thread",
            "look at `ulimit -n` and `ulimit -u`, and at the pids limit of a container; close or end "
            "what is not needed",
        )
    )


@contextlib.contextmanager
def scarce(what: str) -> Iterator[None]:
    """Raise LimitReached about ``what`` where the block finds that the system has no more to give."""
    try:
        yield
    except OSError as error:
        if error.errno not in SCARCE or isinstance(error, LimitReached):
            raise
        raise limit_reached(what, f"{error.strerror} (errno {error.errno})") from error
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise limit_reached(what, str(error)) from error
