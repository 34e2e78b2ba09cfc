"""Who is attached: the owner table of the segment, and a pidfd for each process in it.

The table is the truth and is read whenever its futex word moved; what is kept here is only which
process each descriptor stands for. A death is declared for exactly the owner word that was read
before the descriptor was opened: a record used again in between is another word, and safe.
"""

from __future__ import annotations

import os
import select
from typing import Any, NamedTuple

from shmq._native import ffi, lib


class Watched(NamedTuple):
    """One attachment under watch."""

    owner: int
    word: int
    pid: int
    role: int


class Registry:
    """Keeps one pidfd per attached process registered with ``epoll``."""

    def __init__(self, ctx: Any, epoll: select.epoll) -> None:
        self._ctx = ctx
        self._epoll = epoll
        self._self = lib.shmq_self(ctx)
        self._info = ffi.new("shmq_segment_info *")
        self._owner = ffi.new("shmq_owner_info *")
        self._by_fd: dict[int, Watched] = {}
        self._fd_of: dict[tuple[int, int], int] = {}
        self.alive: dict[int, Watched] = {}
        """owner -> attachment, of all that are alive, this process excepted"""

    def count(self, role: int) -> int:
        """Return how many living attachments have that role."""
        return sum(1 for watched in self.alive.values() if watched.role == role)

    def find(self, role: int) -> Watched | None:
        """Return some living attachment with that role."""
        return next((w for w in self.alive.values() if w.role == role), None)

    def held(self, role: int) -> int:
        """Return how many deliveries the attachments of that role have not settled."""
        total = 0
        for watched in self.alive.values():
            if watched.role == role:
                lib.shmq_owner_snapshot(self._ctx, watched.owner, self._owner)
                total += self._owner.held if self._owner.word == watched.word else 0
        return total

    def sync(self) -> None:
        """Read the table; watch who is new, forget who is gone."""
        alive: dict[int, Watched] = {}
        lib.shmq_segment_snapshot(self._ctx, self._info)
        for index in range(self._info.owners):
            if index == self._self:
                continue
            lib.shmq_owner_snapshot(self._ctx, index, self._owner)
            if self._owner.state == lib.SHMQ_OWNER_ALIVE:
                alive[index] = Watched(index, self._owner.word, self._owner.pid, self._owner.role)
            elif self._owner.state == lib.SHMQ_OWNER_DEAD:
                lib.shmq_recover(self._ctx, index)  # whoever declared it may have died at it
        for key in [key for key in self._fd_of if _gone(alive, key)]:
            self._forget(self._fd_of[key])
        self.alive = alive
        for watched in list(alive.values()):
            if (watched.owner, watched.word) not in self._fd_of:
                self._watch(watched)

    def _watch(self, watched: Watched) -> None:
        try:
            fd = os.pidfd_open(watched.pid)
        except ProcessLookupError:
            self.bury(watched)
            return
        except OSError:
            return  # no descriptor to be had: look() sees this one
        # The pid may have been used again between its owner's death and this open.
        if lib.shmq_owner_prove(self._ctx, watched.owner, 0) == lib.SHMQ_OK:
            os.close(fd)
            self.bury(watched)
            return
        self._by_fd[fd] = watched
        self._fd_of[watched.owner, watched.word] = fd
        self._epoll.register(fd, select.EPOLLIN)

    @property
    def blind(self) -> bool:
        """Whether there are processes whose end wakes nobody: descriptors are refused, or used up."""
        return len(self._fd_of) < len(self.alive)

    def look(self) -> None:
        """Look for ends that no descriptor tells of."""
        for watched in list(self.alive.values()):
            if (watched.owner, watched.word) in self._fd_of:
                continue
            if lib.shmq_owner_prove(self._ctx, watched.owner, 0) == lib.SHMQ_OK:
                self.bury(watched)

    def died(self, fd: int) -> Watched | None:
        """Take note that the process behind ``fd`` has ended; returns who it was."""
        watched = self._by_fd.get(fd)
        if watched is None:
            return None
        self._forget(fd)
        self.bury(watched)
        return watched

    def bury(self, watched: Watched) -> None:
        """Declare an attachment dead and give back what it held."""
        lib.shmq_owner_declare(self._ctx, watched.owner, watched.word)
        lib.shmq_recover(self._ctx, watched.owner)
        if self.alive.get(watched.owner) == watched:
            del self.alive[watched.owner]

    def _forget(self, fd: int) -> None:
        watched = self._by_fd.pop(fd)
        del self._fd_of[watched.owner, watched.word]
        self._epoll.unregister(fd)
        os.close(fd)

    def close_in_child(self) -> None:
        """In a forked child: give up the descriptors."""
        for fd in self._by_fd:
            os.close(fd)
        self._by_fd.clear()
        self._fd_of.clear()


def _gone(alive: dict[int, Watched], key: tuple[int, int]) -> bool:
    owner, word = key
    return owner not in alive or alive[owner].word != word
