"""Crew: the owner's side of its worker processes: it starts, watches, replaces and ends them.

Deaths are seen through pidfds, whatever the start method, also when a grandchild keeps the pipes of
multiprocessing open. Where these are refused, by those pipes, and by a look at each worker ten times a
second. Nothing here waits unless it is asked to, and nothing starts a thread.

Restart storms are bounded: a worker that has done anything is replaced at once; when several in a row
die before they have, the pauses before the next ones grow from a tenth of a second to five seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection  # noqa: F401 - `join` imports it, perhaps when no descriptor is left for that
import os
import select
import signal
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

from shmq._descriptors import SCARCE, Kept, pipe, scarce, standing_in
from shmq._segment import Process
from shmq.errors import LimitReached, explain
from shmq.workers.death import Death, WorkersFailed
from shmq.workers.lent import Lent, Pipes, close_pipes
from shmq.workers.post import (
    CALL,
    DONE,
    DRAINED,
    FINISHED,
    HOLDS,
    SIGNALS,
    STARTING,
    STATE,
    WORDS,
    main,
)

__all__ = ["Crew", "cpus"]

PAUSE_S = 0.1
PAUSE_MAX_S = 5.0
CHECK_S = 1.0  # how often one who waits looks whether its descriptors are still there
LOOK_S = 0.1  # the same where there are no pidfds, and nothing may wake him
REAP_S = 5.0  # a dead process's exit code comes from its parent, which may be the fork server


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class _Worker:
    place: int
    process: Any
    pipes: Pipes
    kept: Kept  # readable when it has ended: a pidfd; without one its sentinel, then perhaps later
    seen: Process | None  # of one without a pidfd that may still run

    @property
    def fd(self) -> int:
        return self.kept.fd

    def ended(self, readable: set[int]) -> bool:
        if self.fd in readable or not self.kept.ours():
            return True
        return self.seen is not None and self.seen.wait(0)


def _watch(process: Any) -> tuple[Kept, Process | None]:
    try:
        return Kept(os.pidfd_open(process.pid)), None
    except ProcessLookupError:  # dead and reaped by the fork server already
        return Kept(os.dup(process.sentinel)), None
    except OSError as error:
        if error.errno in SCARCE:
            raise
    try:  # pidfds are refused here
        return Kept(os.dup(process.sentinel)), Process(process.pid)
    except ProcessLookupError:
        return Kept(os.dup(process.sentinel)), None


class Crew:
    """Up to ``size`` processes that run ``work(post, *args)``."""

    def __init__(
        self,
        context: BaseContext,
        size: int,
        work: Callable[..., object],
        args: tuple[Any, ...],
        *,
        name: str,
        abandon: bool,
    ) -> None:
        """Prepare; `start` starts. ``abandon``: whether workers leave their work when the owner dies."""
        self._context: Any = context
        self.size = size
        self._work, self._args = work, args
        self._name, self._abandon = name, abandon
        with scarce(f"workers of {name}"), standing_in():
            self._slots = self._context.RawArray("Q", size * WORDS)
        self._lent = Lent(self._slots)
        self._words = memoryview(self._slots).cast("B").cast("Q")
        self._workers: dict[int, _Worker] = {}  # by place
        # Lives as long as this object: `wake` may come at any time, from any thread.
        # A pipe, because its ends can be told from files that the program has got their numbers for.
        self._poll = select.poll()
        self._bell, self._rope = self._hang_bell()
        self._limit = max(4, 2 * size)
        self._begun = False
        self._in_vain = 0
        self.stillborn = 0.0
        """workers in a row that died before they were ready; one killed by SIGKILL is a tenth"""
        self._not_before = 0.0
        self.drained = False
        """a worker has seen the queue shut down and empty"""

    # ---- looking ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def forks(self) -> bool:
        """Whether workers are copies of this process."""
        return bool(self._context.get_start_method() == "fork")

    def pids(self) -> list[int]:
        """Return the pids of the workers that are there."""
        return [worker.process.pid for worker in list(self._workers.values())]

    def held(self) -> dict[int, int | None]:
        """Return {pid: id of the message in hand, or None}."""
        words = self._words
        return {
            worker.process.pid: words[worker.place * WORDS + HOLDS] or None
            for worker in list(self._workers.values())
        }

    def at_work(self) -> bool:
        """Return whether a living worker has a message in hand, or is giving its memory back."""
        ended = select.poll()  # of its own: this may be another thread than the one that waits
        busy = [w for w in list(self._workers.values()) if self._words[w.place * WORDS + HOLDS]]
        for worker in busy:
            ended.register(worker.fd, select.POLLIN)
        return len({fd for fd, _ in ended.poll(0)}) < len(busy)

    def begun(self) -> set[int]:
        """Return the numbers of the calls that workers have begun last."""
        return set(self._words[CALL::WORDS])

    @property
    def hopeless(self) -> bool:
        """Whether so many workers in a row died at their start that more will as well."""
        return self.stillborn >= self._limit

    def pause(self) -> float:
        """Return the seconds until the next worker may be started; 0: now."""
        return max(0.0, self._not_before - time.monotonic())

    # ---- starting --------------------------------------------------------------------------

    def fill(self, size: int | None = None) -> None:
        """Start what is missing to ``size`` workers (default: all), unless it has to wait."""
        size = self.size if size is None else min(size, self.size)
        for place in range(self.size):
            if len(self._workers) >= size or self._not_before > time.monotonic():
                return
            if place in self._workers:
                continue
            try:
                self._start(place)
            except (OSError, LimitReached, WorkersFailed) as error:
                # no more processes, no memory for one: the first time the caller's business
                if not self._begun or (isinstance(error, WorkersFailed) and not self._workers):
                    raise
                self._started_in_vain()
            self._begun = True

    def _start(self, place: int) -> None:
        self._words[place * WORDS : (place + 1) * WORDS] = memoryview(bytes(8 * WORDS)).cast("Q")
        if not self.forks and not self._lent.intact():
            raise WorkersFailed(
                explain(
                    f"workers of {self._name}",
                    "that this program has closed descriptors of multiprocessing, whose numbers may be other files by now",
                    "those with which it starts processes",
                    "start all workers before such a clean start, or give a context that forks",
                )
            )
        process = self._context.Process(
            target=main,
            args=(self._work, self._args, self._slots, place, os.getpid(), self._abandon),
            name=f"{self._name}-{place}",
            daemon=False,  # a worker may have children of its own
        )
        # Until the child has handlers of its own, signals wait for it. (The fork server's children get
        # the mask of the fork server, which must not be started with this one.)
        mask = self._context.get_start_method() != "forkserver"
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if mask else ())
        try:
            with scarce(f"worker {process.name}"), standing_in():
                process.start()
        except BaseException as error:
            close_pipes(error)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            with scarce(f"worker {process.name}"):
                kept, seen = _watch(process)
        except BaseException:  # one that nobody could watch
            process.kill()
            process.join(REAP_S)
            with contextlib.suppress(ValueError):
                process.close()
            raise
        self._poll.register(kept.fd, select.POLLIN)
        self._workers[place] = _Worker(place, process, Pipes(process), kept, seen)

    def _started_in_vain(self) -> None:
        self._in_vain += 1
        if self._in_vain >= self._limit:
            pause = PAUSE_S * 2 ** min(self._in_vain - self._limit, 10)
            self._not_before = time.monotonic() + min(pause, PAUSE_MAX_S)

    # ---- watching --------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> None:
        """Wait until a worker has ended, somebody calls `wake`, or ``timeout`` seconds are over."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            blind = [w.seen for w in self._workers.values() if w.seen is not None]
            left = LOOK_S if blind else CHECK_S
            left = left if until is None else min(left, until - time.monotonic())
            if self._poll.poll(max(0, round(left * 1000 + 0.5))):
                break
            if any(seen.wait(0) for seen in blind):
                break
            if not self._sound() or (until is not None and time.monotonic() >= until):
                break
        if not self._sound():
            self._mend()
        with contextlib.suppress(BlockingIOError):
            self._silence()

    def _silence(self) -> None:
        while self._bell.ours() and os.read(self._bell.fd, 4096):
            pass

    def wake(self) -> None:
        """End a `wait`, the running one or the next. Safe in signal handlers and threads."""
        with contextlib.suppress(BlockingIOError):  # full: it rings already
            if self._rope.ours():  # else the one who waits finds out
                os.write(self._rope.fd, b"!")

    def _hang_bell(self) -> tuple[Kept, Kept]:
        with scarce(f"workers of {self._name}"):
            bell, rope = (Kept(fd) for fd in pipe())
        for end in (bell, rope):
            os.set_blocking(end.fd, False)
            # Not before that: what is left when the interpreter ends, an iterator of results say, still wakes.
            weakref.finalize(self, end.close).atexit = False
        self._poll.register(bell.fd, select.POLLIN)
        return bell, rope

    def _sound(self) -> bool:
        """Return whether the descriptors are still ours: the program may have closed what it did not open."""
        workers = list(self._workers.values())
        return self._bell.ours() and self._rope.ours() and all(w.kept.ours() for w in workers)

    def _mend(self) -> None:
        """Have others in place of descriptors that are not ours any more."""
        if not (self._bell.ours() and self._rope.ours()):
            self._poll.unregister(self._bell.fd)
            for end in (self._bell, self._rope):
                end.close()
            self._bell, self._rope = self._hang_bell()
        for worker in list(self._workers.values()):
            if not worker.kept.ours():
                self._poll.unregister(worker.fd)
                worker.kept.close()
                with contextlib.suppress(
                    ProcessLookupError
                ):  # dead, and taken note of: `reap` buries it
                    worker.kept, worker.seen = _watch(worker.process)
                    self._poll.register(worker.fd, select.POLLIN)

    def reap(self) -> list[Death]:
        """Take away the workers that have ended; return those that nobody asked to."""
        if not self._workers:
            return []
        if not self._sound():
            self._mend()
        ended = {fd for fd, _ in self._poll.poll(0)}
        deaths = []
        for place, worker in list(self._workers.items()):
            if worker.ended(ended):
                death = self._bury(place, worker)
                if death is not None:
                    deaths.append(death)
        return deaths

    def _bury(self, place: int, worker: _Worker) -> Death | None:
        process, words = worker.process, self._words[place * WORDS : (place + 1) * WORDS]
        worker.pipes.let_go()
        process.join(REAP_S)
        del self._workers[place]
        with contextlib.suppress(KeyError):
            self._poll.unregister(worker.fd)
        worker.kept.close()
        if worker.seen is not None:
            worker.seen.close()
        code = process.exitcode
        pid = process.pid
        with contextlib.suppress(ValueError):
            process.close()
        if words[DONE] or words[STATE] in (FINISHED, DRAINED):
            self._in_vain = 0
        else:
            self._started_in_vain()
        if words[STATE] == STARTING:
            # SIGKILL comes from outside, and may end; what a worker does to itself will be done again.
            self.stillborn += 0.1 if code == -signal.SIGKILL else 1
        else:
            self.stillborn = 0
        self.drained = self.drained or words[STATE] == DRAINED
        if words[STATE] in (FINISHED, DRAINED) and code == 0:
            return None
        return Death(pid, -signal.SIGKILL if code is None else code, words[HOLDS] or None)

    # ---- ending ----------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Send a signal to all workers."""
        for worker in list(self._workers.values()):
            with contextlib.suppress(OSError):
                if worker.seen is not None:
                    worker.seen.send(number)
                elif worker.kept.ours():
                    signal.pidfd_send_signal(worker.fd, number)
                else:  # the program has closed it; the child is ours until it is joined
                    os.kill(worker.process.pid, number)

    def close(self) -> None:
        """Kill whoever is still there."""
        self.signal(signal.SIGKILL)
        while self._workers:
            self.wait(None)
            self.reap()
