"""Descriptors of multiprocessing: those with which it starts processes, and those that it leaves behind.

The program may have closed them, as a daemon's clean start does, and its own files may have their numbers.
multiprocessing would write to these, and send them to its children. It keeps the numbers to itself, so what is not
found where it is in Python 3.10 to 3.15 is taken for intact.
"""

from __future__ import annotations

import contextlib
import os
import stat
from multiprocessing import forkserver, resource_tracker
from typing import Any

from shmq._descriptors import identity, stands_for

__all__ = ["Lent", "Pipes", "close_pipes"]


class Lent:
    """What a worker that is not forked is started with: by the fork server, or told to the resource tracker."""

    def __init__(self, slots: Any) -> None:
        """``slots``: a RawArray that workers get."""
        arena = None
        with contextlib.suppress(AttributeError, IndexError, TypeError):
            arena = slots._wrapper._state[0][0]
        self._arena = getattr(arena, "fd", -1)
        self._what = identity(self._arena) if self._arena >= 0 else None

    def intact(self) -> bool:
        """Return whether the numbers still stand for what they did."""
        if self._what is not None and not stands_for(self._arena, self._what):
            return False
        # These may have been replaced since, if the fork server or the tracker has died.
        return all(_is_pipe(fd) for fd in _pipes())


class Pipes:
    """The pipes to one worker, which multiprocessing closes, and may read from, by number."""

    def __init__(self, process: Any) -> None:
        """``process``: one that has just been started."""
        self._popen = process._popen
        self._finalizer: Any = getattr(self._popen, "finalizer", None)
        self._seen: dict[int, object] = {}
        for fd in getattr(self._finalizer, "_args", None) or ():
            with contextlib.suppress(OSError):
                self._seen[fd] = identity(fd)

    def let_go(self) -> None:
        """Before the worker, which has ended, is joined: what stands for something else by now is left alone."""
        if all(stands_for(fd, what) for fd, what in self._seen.items()):
            return
        self._finalizer.cancel()
        if self._popen.method == "forkserver":  # the exit code would come by such a pipe
            self._popen.returncode = 255
        else:
            self._popen.poll()


def _pipes() -> list[int]:
    found = (
        getattr(getattr(resource_tracker, "_resource_tracker", None), "_fd", None),
        getattr(getattr(forkserver, "_forkserver", None), "_forkserver_alive_fd", None),
    )
    return [fd for fd in found if isinstance(fd, int)]


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


# Where multiprocessing makes the pipes of a child: with fork, and with the fork server.
_PIPE_MAKERS = (("popen_fork.py", "_launch"), ("forkserver.py", "connect_to_new_process"))


def close_pipes(error: BaseException) -> None:
    """Close the pipes that multiprocessing had made for a child that could not be started, and leaves."""
    trace = (error.__cause__ or error).__traceback__
    while trace is not None:
        code, names = trace.tb_frame.f_code, trace.tb_frame.f_locals
        place = os.path.basename(code.co_filename), code.co_name
        if place in _PIPE_MAKERS:
            for pair in (("parent_r", "child_w"), ("child_r", "parent_w")):
                with contextlib.suppress(OSError, TypeError):
                    _close_pipe([names.get(name) for name in pair])
        elif place == ("popen_forkserver.py", "_launch") and "_parent_w" not in names:
            for fd in (names.get("w"), getattr(names.get("self"), "sentinel", None)):
                # The other ends are the fork server's.
                with contextlib.suppress(OSError, TypeError):
                    _close_pipe([fd])
        trace = trace.tb_next


def _close_pipe(pair: list[int | None]) -> None:
    fds = [fd for fd in pair if fd is not None]
    ends = [os.fstat(fd) for fd in fds]
    # Both ends of one pipe: still what it had made.
    if all(stat.S_ISFIFO(end.st_mode) for end in ends) and len({end.st_ino for end in ends}) == 1:
        for fd in fds:
            os.close(fd)
