"""A handle on another process that does not go over to the next one with its pid.

That is a pidfd. Where the kernel or a seccomp filter refuses these, the start time in /proc tells the
two apart, and waiting is looking again and again.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import NamedTuple

PAUSE_S = 0.002  # between two looks, at first
PAUSE_MOST_S = 0.05


PF_EXITING = 0x4  # of <linux/sched.h>


class Seen(NamedTuple):
    """What /proc says of a process."""

    start: int
    """clock ticks since the machine's start"""
    ended: bool
    """all of its threads"""
    exiting: bool
    """its main thread has ended, or is about to"""


def look(pid: int) -> Seen | None:
    """Return what /proc says of a process; None: there is none. Raises OSError when it says nothing."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *numbers = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A main thread that has ended is a zombie while others run (proc(5), fields 3, 9, 20 and 22).
    ended = state in b"ZX"
    return Seen(
        int(numbers[18]),
        ended and int(numbers[16]) <= 1,
        ended or bool(int(numbers[5]) & PF_EXITING),
    )


class Process:
    """Another process, as it was when this was made.

    Raises: ProcessLookupError when there is no such process; OSError when nothing can be learnt of it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._start = -1
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError:
            self._fd = -1
            seen = look(pid)
            if seen is None:
                raise ProcessLookupError(f"no process {pid}") from None
            self._start = seen.start

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the handle."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_over(self) -> bool:
        seen = look(self.pid)
        return seen is None or seen.ended or seen.start != self._start

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended, or does so within ``seconds``; a zombie has."""
        if self._fd >= 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return bool(poll.poll(max(0.0, seconds) * 1000))
        deadline, pause = time.monotonic() + seconds, PAUSE_S
        while not self._is_over():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, PAUSE_MOST_S)
        return True

    def send(self, number: int) -> bool:
        """Send a signal; return False when it has ended. Raises OSError when that is not allowed."""
        try:
            if self._fd >= 0:
                try:
                    signal.pidfd_send_signal(self._fd, number)
                    return True
                except ProcessLookupError:
                    return False
                except OSError:
                    pass  # that may be refused by itself
            if self.wait(0):
                return False
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True
