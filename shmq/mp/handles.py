"""Which queues this process has handles on, so that those nobody has a handle on can end.

A queue counts the processes that have a handle on it (native/src/refs.c); this counts the handles
of this process. The count of a process ends with the process, however that ends.

A process inherits handles: by fork, or as a child of multiprocessing that gets them with its
arguments. Until it has counted them, the supervisor knows it as a holder of the lease that has not
settled, and gives up no queue (shmq/supervisor/handles.py). Forked children count at once, those
without any handle as well; children that are started with queues when they have them all.

Handles are dropped by finalizers, which may run anywhere: they take no lock that they could have
interrupted, but leave a note for whoever holds it. Handles are made in signal handlers and
finalizers as well, which may have interrupted the one who holds the lock: it looks again at what it
has counted after each step that others see.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import shmq.home as homes
from shmq._locks import Lock
from shmq._native import lib

if TYPE_CHECKING:
    from shmq._client import Client
    from shmq.mp.items import Items

_lock = Lock()
# A mark for each handle. Appended and popped, which nothing can interrupt: a number that is read, added
# to and written back would lose what a signal handler or a finalizer has counted in between.
_marks: dict[tuple[str, str], list[None]] = {}
_drops: deque[tuple[Client, str, int]] = deque()
_forked: Callable[[Items[Any]], None]
_bound: Callable[[Items[Any]], Client]
_live: weakref.WeakSet[Items[Any]] = weakref.WeakSet()


class Note:
    """One handle's share in the count. It goes when its owner does."""

    __slots__ = ("__weakref__", "client", "name", "pid", "qref")

    def __init__(self, client: Client, name: str, qref: int) -> None:
        self.client, self.name, self.qref, self.pid = client, name, qref, os.getpid()

    def __del__(self) -> None:
        try:
            if self.pid == os.getpid() and not self.client.closed:
                _drops.append((self.client, self.name, self.qref))
                _work_off()
        except Exception:  # at interpreter exit anything may be gone; the end of the process counts
            pass


def count(client: Client, name: str, qref: int) -> Note | None:
    """Count one more handle; None when the queue is gone."""
    with _lock:
        marks = _marks.setdefault((client.name, name), [])
        first = not marks
        marks.append(None)
        if first:
            try:
                rc = client.call(lib.shmq_ref, qref, 1)
                if rc != lib.SHMQ_GONE:
                    client.check(rc, f"queue {name!r}")
            except BaseException:
                marks.pop()
                raise
            if rc == lib.SHMQ_GONE:
                marks.pop()
                return None
    _work_off()
    return Note(client, name, qref)


def _work_off() -> None:
    while _drops and not _lock.mine():
        try:
            if not _lock.acquire(blocking=False):
                return  # whoever holds it does it
            _work_off_now()
        finally:
            if _lock.mine():  # an exception may come right after it was taken
                _lock.release()


def _work_off_now() -> None:
    while _drops:
        client, name, qref = _drops.popleft()
        key = (client.name, name)
        marks = _marks.get(key)
        if marks:
            marks.pop()
        if marks:
            continue
        if not client.closed:
            lib.shmq_ref(client.ctx, qref, 0)
        if not marks:
            _marks.pop(key, None)
        elif not client.closed:  # counted meanwhile, by who had interrupted us
            lib.shmq_ref(client.ctx, qref, 1)


def know(forked: Callable[[Items[Any]], None], bound: Callable[[Items[Any]], Client]) -> None:
    """Hear from the handles' own module what they do after a fork, and how they are bound to their queue again."""
    global _forked, _bound
    _forked, _bound = forked, bound


def remember(items: Items[Any]) -> None:
    """Keep in mind that ``items`` is alive, to count it again in a forked child."""
    _live.add(items)
    _listen()


_settled: tuple[int, str, int] = (0, "", 0)


def settle_once(client: Client) -> None:
    """Say, once per attachment, that every handle of this process is counted."""
    global _settled
    attachment = (os.getpid(), client.name, client.generation)
    if _settled != attachment:
        client.call(lib.shmq_refs_settled)
        _settled = attachment


# ---- inheriting ---------------------------------------------------------------------------------


def inheriting() -> bool:
    """Return whether this is a child of multiprocessing that is still getting its arguments."""
    process = sys.modules.get("multiprocessing.process")
    return bool(process and getattr(process.current_process(), "_inheriting", False))


class _Start:
    """What multiprocessing remembers, to call when a child has its arguments."""


_start = _Start()
_listening = False


def _listen() -> None:
    global _listening
    if not _listening:
        from multiprocessing import util

        _listening = True
        util.register_after_fork(_start, _take_stock)


def _take_stock(_: object = None) -> None:
    """Bind and count whatever handles this process was born with."""
    clients: dict[str, Client] = {}
    with contextlib.suppress(Exception):  # a process too many: it attaches when it has to
        client = homes.attach_here()
        if client is not None:
            clients[client.name] = client
    for items in list(_live):
        with contextlib.suppress(Exception):  # who uses it hears why
            client = _bound(items)
            clients[client.name] = client
    for client in clients.values():
        with contextlib.suppress(Exception):
            settle_once(client)


def _after_fork_in_child() -> None:
    _marks.clear()
    _drops.clear()
    for items in list(_live):
        _forked(items)
    _take_stock()


os.register_at_fork(after_in_child=_after_fork_in_child)
