"""The process tree's own broker: started by whoever needs it first, ended by whoever goes last.

    home()     the broker of this process and its relatives; starts it when there is none
    parcel()   what a pickled handle takes along, so that its receiver finds this broker
    unpack()   the broker that a parcel came from

How relatives find it. The name is in the environment (SHMQ_HOME), which programs started later
inherit; in memory, which forked children inherit; and in each parcel, which reaches a child that
was started before there was a broker, by a fork server for instance.

How it ends. It is anonymous: its supervisor ends it when no process is attached any more. But a
child that has inherited a handle and not used it yet is not attached. So each process of the tree
also holds the writing end of one pipe, the *lease*: forked children inherit it, children of
multiprocessing get it with their arguments. The supervisor has the reading end, and hears from the
kernel when the last holder is gone, however it went.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import Any, NamedTuple

from shmq._client import Client, others_run
from shmq._descriptors import Kept, lift, pipe, scarce
from shmq._locks import Lock
from shmq._segment import Process, living
from shmq._segment.space import Limits, fits
from shmq.broker import Broker
from shmq.errors import ShmqError
from shmq.settings import Settings
from shmq.supervisor.spawn import Started, start_supervisor

__all__ = ["Parcel", "attach_here", "home", "parcel", "unpack"]

VARIABLE = "SHMQ_HOME"
# A pickled array of 1 GiB is a little more than that: as much as the largest size class takes.
LARGEST_MESSAGES = ((1 << 30) + (60 << 10), 64 << 20, 8 << 20, 1 << 20)
FAREWELL_S = 0.5  # at exit, for the helpers of a broker that this process was the last to use

_lock = Lock()
_home: Home | None = None


class Parcel(NamedTuple):
    """What finds a home again: its broker's name and, for a child being started, its lease."""

    name: str
    lease: Any


class Home(Broker):
    """The broker of a process tree. `home` makes it; it is a Broker in every respect."""

    def __init__(self) -> None:
        with scarce("broker of this process tree"):
            reader, lease = pipe()
        self._lease: Kept | None = Kept(lease)
        self._reader = reader
        try:
            super().__init__()
        except BaseException:
            self._drop_lease()
            raise
        finally:
            os.close(reader)

    @classmethod
    def _of(cls, name: str) -> Home:
        found: Home = cls._attach(name)  # type: ignore[assignment]
        found._be_inherited()
        return found

    def _be_inherited(self) -> None:
        self._lease = None
        self._anonymous = True

    def _launch(self, **more: object) -> Started:
        if "adopt" in more:  # for a supervisor that was killed: the pipe is still the same one
            if self.lease_fd() < 0:
                return super()._launch(**more)
            with scarce(f"supervisor of broker {self.name!r}"):
                path = f"/proc/self/fd/{self.lease_fd()}"
                reader = lift(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        else:
            with scarce(f"supervisor of broker {self.name!r}"):
                reader = lift(os.dup(self._reader))
        try:
            options = {**self._supervisor_options(), **more}
            return start_supervisor(self.name, {**options, "lease_fd": reader}, (reader,))
        finally:
            os.close(reader)

    def _supervisor_options(self) -> dict[str, object]:
        # Where address space is short, rather a smaller largest message than no broker.
        settings = self._settings or Settings.load()
        for size in LARGEST_MESSAGES:
            found = settings.fitted(size)
            limits = Limits(found.memory_limit, found.max_queues, found.max_processes)
            if fits(limits, size):
                break
        return {
            **super()._supervisor_options(),
            "max_message": size,
            "memory_limit": limits.memory,
            "max_queues": limits.queues,
            "max_processes": limits.processes,
        }

    def _attached(self) -> Client | None:
        return self._client if self._open else None

    def _usable(self) -> bool:
        return self._open and not self._client.closed and self._client.segment.current()

    def _take_lease(self, fd: int) -> None:
        """Hold ``fd`` as this process's lease, until it ends."""
        if self.lease_fd() >= 0:
            os.close(fd)
            return
        os.set_inheritable(fd, False)
        self._lease = Kept(fd)

    def lease_fd(self) -> int:
        """Return the descriptor of the lease; -1 when this process has none (any more)."""
        return self._lease.fd if self._lease is not None and self._lease.ours() else -1

    def _drop_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.close()


def home() -> Broker:
    """Return the broker of this process tree; start one if there is none.

    Starting takes a tenth of a second, finding it again some microseconds. It ends by itself when
    the last process of the tree that uses it, or has inherited a handle on it, is gone. To have all
    queues of a program in a broker with a name, set SHMQ_HOME to that of a running one.

    Raises: OutOfSharedMemory when there is no room for a broker; LimitReached when max_processes
        are attached.
    """
    global _home
    found = _home
    if found is not None and found._usable():
        return found
    with _lock:
        if _home is not None and _home._usable():
            return _home
        if _home is not None:
            _home._drop_lease()
            _home = None
        name = os.environ.get(VARIABLE)
        if name:
            with contextlib.suppress(ShmqError, ValueError):
                _home = Home._of(name)  # of a parent that is gone, it may be gone as well
        if _home is None:
            made = Home()
            _home = _first(made)
            os.environ[VARIABLE] = _home.name
        _at_exit()
        return _home


def _first(made: Home) -> Home:
    """Return what is the home by now: a signal handler or a finalizer may have been here meanwhile."""
    if _home is None or not _home._usable():
        return made
    made._drop_lease()
    made.close()
    return _home


def parcel(client: Client) -> Parcel:
    """Return what a handle on the broker of ``client`` pickles as, to find it from elsewhere."""
    lease = _home.lease_fd() if _home is not None and _home.name == client.name else -1
    if lease < 0:
        return Parcel(client.name, None)
    from multiprocessing import context, reduction

    child: Any = context.get_spawning_popen()
    if child is None or getattr(child, "_shmq_lease", None) == client.name:
        return Parcel(client.name, None)
    # One descriptor per child, however many queues it is given.
    child._shmq_lease = client.name
    return Parcel(client.name, reduction.DupFd(lease))


def unpack(parcel: Parcel) -> Client:
    """Return a client, attached, of the broker that ``parcel`` came from; it counts once.

    Raises: BrokerNotRunning when that broker is gone.
    """
    global _home
    fd = parcel.lease.detach() if parcel.lease is not None else -1
    try:
        with _lock:
            if fd >= 0 and (_home is None or not _home._usable()):
                # A child of a process that was started before there was a broker.
                _home = Home._of(parcel.name)
                os.environ[VARIABLE] = parcel.name
                _at_exit()
            if fd >= 0 and _home is not None and _home.name == parcel.name:
                _home._take_lease(fd)
                fd = -1
        return Client.connect(parcel.name)
    finally:
        if fd >= 0:
            os.close(fd)


def attach_here() -> Client | None:
    """Attach this process to the home that it inherited; return the client, None without a home."""
    client = _home._attached() if _home is not None else None
    if client is not None:
        client.reattach()
    return client


# ---- end of the process, and its forks -----------------------------------------------------------


def _farewell() -> None:
    """Let go of the broker; if nobody else uses it, wait until it is gone.

    Not while daemon threads use it: the supervisor hears when the process is gone.
    """
    found = _home
    client = found._attached() if found is not None else None
    if found is None or client is None or others_run():
        return
    with contextlib.suppress(Exception):
        name, me = found.name, os.getpid()
        client.detach()
        found._drop_lease()
        owners = living(name)
        if any(owner.role == "client" and owner.pid != me for owner in owners):
            return
        for pid in (owner.pid for owner in owners if owner.role == "supervisor"):
            with Process(pid) as supervisor:
                supervisor.wait(FAREWELL_S)


class _Ending:
    """What multiprocessing remembers: forked children of its own go through its registries."""


_ending = _Ending()
_registered_pid = 0


def _at_exit() -> None:
    # multiprocessing joins its children at exit and then calls this: so it comes after the last
    # user, and a child, which never runs atexit, has it too.
    global _registered_pid
    if _registered_pid == os.getpid():
        return
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        _registered_pid = os.getpid()
        util.Finalize(None, _farewell, exitpriority=-900)
        util.register_after_fork(_ending, _in_child_of_multiprocessing)


def _in_child_of_multiprocessing(_: object) -> None:
    global _registered_pid
    _registered_pid = 0  # it has forgotten what was registered before
    if _home is not None and _home._attached() is not None:
        _at_exit()


atexit.register(_farewell)
