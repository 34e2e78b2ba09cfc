"""What tests of every folder wait with: for a condition, never for a time, and not for ever."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
WATCHDOG_S = 60.0  # until a test that waits gives up; never a limit on speed


def wait_until(condition: Callable[[], T | None], what: str = "", timeout: float = WATCHDOG_S) -> T:
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout:g} s in vain: {what or condition}"
        time.sleep(0.002)


def alive(pid: int) -> bool:
    """Return whether a process runs: a zombie does not, one with a thread left does."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([fd], [], [], 0)[0]
    finally:
        os.close(fd)
