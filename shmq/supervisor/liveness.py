"""What wakes the supervisor: an ended process, a changed owner table, a signal.

Processes are pidfds in an epoll. The owner table announces changes on a futex, which epoll cannot
wait for: a thread does, and turns each change into a byte in a pipe. Signals write there as well.
"""

from __future__ import annotations

import _thread
import os
import select
from typing import Any

from shmq._native import lib

SLICE_NS = 60_000_000_000  # the core returns from a wait at least every second anyway


class Liveness:
    """An epoll, and a pipe into it that anything may poke."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self.epoll.register(self._reader, select.EPOLLIN)
        self._stopped = False

    def poke(self) -> None:
        """Make `wait` return; async-signal-safe as far as Python is."""
        try:
            os.write(self._writer, b"!")
        except OSError:
            pass  # full: it is awake anyway

    def watch_table(self, ctx: Any) -> None:
        """Poke whenever the owner table of ``ctx`` changes, until the process ends."""
        seen = lib.shmq_read_word(ctx, lib.SHMQ_WORD_ATTACH)

        def follow(seen: int) -> None:
            while not self._stopped:
                lib.shmq_wait_word(ctx, lib.SHMQ_WORD_ATTACH, seen, lib.shmq_now() + SLICE_NS)
                now = lib.shmq_read_word(ctx, lib.SHMQ_WORD_ATTACH)
                if now != seen:
                    seen = now
                    self.poke()

        _thread.start_new_thread(follow, (seen,))

    def stop(self) -> None:
        """Let the thread end when it next looks."""
        self._stopped = True

    def wait(self, timeout: float) -> tuple[list[int], bool]:
        """Return (readable pidfds, whether somebody poked) after at most ``timeout`` seconds."""
        fds = []
        poked = False
        for fd, _ in self.epoll.poll(max(0.0, timeout)):
            if fd == self._reader:
                poked = True
                try:
                    while os.read(self._reader, 4096):
                        pass
                except BlockingIOError:
                    pass
            else:
                fds.append(fd)
        return fds, poked

    def close_in_child(self) -> None:
        """In a forked child: give up the descriptors."""
        self.epoll.close()
        os.close(self._reader)
        os.close(self._writer)
