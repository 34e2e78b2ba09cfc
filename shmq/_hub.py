"""The hub: where a process waits for many queues at once, with few threads.

    place    a queue that somebody waits for, for messages or for room: who waits stands in its line
    row      a thread and up to 127 places; it sleeps on all of them in one system call (native/src/many.c)

A place that is ready is told to the first in its line, and leaves the row. It comes back when that one has looked
(`over`), if others stand in line. So each message wakes one, as a futex does, and nobody is passed by: who was told and
does not want it any more says so, and the next one is told, here or in another process.

A thread lives while there are places in its row, and for a second after. In a forked child there is none: its hub is a
new one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable

from shmq._descriptors import scarce
from shmq._locks import Lock
from shmq._native import ffi, lib

__all__ = ["Hub", "Wait", "hub", "works"]

MOST = int(lib.SHMQ_WAIT_MANY)
LINGER_NS = 1_000_000_000
PATIENCE_NS = 1_000_000_000

Tell = Callable[[], object]
Post = Callable[..., object]
"""post(function, *arguments) has an event loop call it, from any thread; RuntimeError: that loop has ended."""


class Wait:
    """Somebody in the line of a place; `tell` is called in the event loop behind ``post``, once at most.

    Who loses it has waited: a signal handler that raises may come before anybody has kept it.
    """

    __slots__ = ("__weakref__", "place", "post", "tell")

    def __init__(self, place: _Place, post: Post, tell: Tell) -> None:
        self.place = place
        self.post = post
        self.tell = tell


class _Place:
    __slots__ = ("client", "ctx", "key", "line", "out", "qref", "row", "watched", "what")

    def __init__(self, key: tuple[int, int, int], client: object, row: _Row) -> None:
        self.key = key
        self.client = client  # keeps the mapping
        address, self.qref, self.what = key
        self.ctx = ffi.cast("shmq_ctx *", address)
        self.row = row
        self.line: dict[Wait, None] = {}
        self.out: weakref.ref[Wait] | None = None  # who was told, and has not looked yet
        self.watched = False  # it is in the row, or about to be

    def pass_on(self) -> None:
        lib.shmq_pass(self.ctx, self.qref, self.what)


class _Row:
    """A thread and its places; what it keeps in C is touched by that thread alone."""

    def __init__(self, home: Hub) -> None:
        self.home = home
        self.taken = 0  # places that are this row's, watched or not
        self.fresh: list[_Place] = []
        self.told: list[tuple[_Place, object, int]] = []  # who was told, and until when it may take
        self.set = ffi.new("shmq_wait_set *")
        self.places: list[_Place] = []

    def start(self) -> None:
        with scarce("waiting in an event loop"):
            threading.Thread(target=self._run, name="shmq-hub", daemon=True).start()

    def watch(self, place: _Place) -> None:
        """Have an eye on ``place`` from now on. Under the hub's lock."""
        place.watched = True
        self.fresh.append(place)
        lib.shmq_wait_nudge(self.set)

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:  # no memory, say: all look, and wait with another row
            self.home.lose(self)
            raise

    def _serve(self) -> None:
        while True:
            seen = lib.shmq_wait_seen(self.set)
            idle = not self._sort_out()
            rc = lib.shmq_wait_many(self.set, seen, lib.shmq_now() + LINGER_NS if idle else 0)
            if rc > 0:
                self._report(rc)
            elif rc == lib.SHMQ_E_SYS:
                self.home.refused(self)
                return
            if idle and self.home.give_up(self):
                return

    def _sort_out(self) -> bool:
        """Take in the fresh, leave out those for which nobody waits; return whether there are any."""
        one = self.set.one
        with self.home.lock:
            for i in reversed(range(len(self.places))):
                place = self.places[i]
                if place.line:
                    continue
                self._leave(i)
                self.home.unwatched(place)
                place.pass_on()  # what woke this thread may have been for it
            self.told = [told for told in self.told if self._has_not_looked(*told)]
            for place in self.fresh:
                if not place.line:
                    self.home.unwatched(place)
                    continue
                entry = one[len(self.places)]
                entry.ctx, entry.queue, entry.what, entry.seen = (
                    place.ctx,
                    place.qref,
                    place.what,
                    0,
                )
                self.places.append(place)
            self.fresh.clear()
        self.set.n = len(self.places)
        return bool(self.places)

    def _has_not_looked(self, place: _Place, out: object, until: int) -> bool:
        # Its event loop is busy, or stopped: the next in line need not wait for it.
        if place.out is out and place.line and not place.watched and lib.shmq_now() >= until:
            place.watched = True
            self.fresh.append(place)
        return place.out is out

    def _leave(self, i: int) -> None:
        last = len(self.places) - 1
        if i != last:
            self.set.one[i] = self.set.one[last]
            self.places[i] = self.places[last]
        self.places.pop()

    def _report(self, ready: int) -> None:
        told: dict[Post, list[Wait]] = {}
        numbers = list(self.set.ready[0:ready])
        with self.home.lock:
            for i in reversed(numbers):
                place, result = self.places[i], self.set.one[i].result
                self._leave(i)
                for wait in self.home.ready(place, everybody=result != lib.SHMQ_OK):
                    told.setdefault(wait.post, []).append(wait)
        for post, waits in told.items():
            try:
                post(_tell_all, [wait.tell for wait in waits])
            except RuntimeError:  # that event loop has ended: they do not wait any more
                for wait in waits:
                    self.home.over(wait, pass_on=True)


class Hub:
    """All rows and places of a process."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._places: dict[tuple[int, int, int], _Place] = {}
        self._rows: list[_Row] = []

    def wait(self, client: object, ctx: int, qref: int, what: int, post: Post, tell: Tell) -> Wait:
        """Stand in line for queue ``qref``; ``tell`` is called through ``post`` when it may be ready.

        Whoever waits calls `over` in the end, told or not.
        """
        key = (ctx, qref, what)
        with self.lock:
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = _Place(key, client, self._row())
            wait = Wait(place, post, tell)
            place.line[wait] = None
            if not place.watched and place.out is None:
                place.row.watch(place)
        return wait

    def over(self, wait: Wait, *, pass_on: bool = False) -> None:
        """Say that ``wait`` has looked, or waits no more. ``pass_on``: it did not look, though it may have been told."""
        place = wait.place
        with self.lock:
            if place.line.pop(wait, wait) is None:
                return  # not told; the row finds out when it looks
            if place.out is not None and place.out() is wait:
                self._looked(place, pass_on)

    def _looked(self, place: _Place, pass_on: bool) -> None:
        # In this order: whatever comes in between, the next in line is not forgotten.
        if place.line:
            if not place.watched:
                place.row.watch(place)
        elif pass_on:
            place.pass_on()
        place.out = None
        self._drop(place)

    def wake(self, ctx: int, qref: int) -> None:
        """Tell everybody who waits for queue ``qref`` to look: a consumer was closed, say."""
        told: list[Wait] = []
        with self.lock:
            for what in (lib.SHMQ_FOR_ITEMS, lib.SHMQ_FOR_SPACE, lib.SHMQ_FOR_CALL):
                place = self._places.get((ctx, qref, what))
                if place is not None:
                    told += place.line
                    place.line.clear()
        _post_all(told)

    # ---- for the rows, under the lock ------------------------------------------------------

    def ready(self, place: _Place, everybody: bool) -> list[Wait]:
        """Return who is to be told that ``place``, which has left its row, may be ready."""
        place.watched = False
        waits = list(place.line) if everybody else list(place.line)[:1]
        for wait in waits:
            place.line.pop(wait, None)
        if not waits:
            place.pass_on()
        elif not everybody:
            place.out = weakref.ref(waits[0], functools.partial(self._lost, place))
            place.row.told.append((place, place.out, int(lib.shmq_now()) + PATIENCE_NS))
        self._drop(place)
        return waits

    def _lost(self, place: _Place, out: object) -> None:
        with self.lock:
            if place.out is out:
                self._looked(place, pass_on=True)

    def unwatched(self, place: _Place) -> None:
        """Note that ``place`` has left its row."""
        place.watched = False
        self._drop(place)

    def _drop(self, place: _Place) -> None:
        if place.watched or place.line or place.out is not None:
            return
        if self._places.get(place.key) is place:
            del self._places[place.key]
            place.row.taken -= 1

    def _row(self) -> _Row:
        for row in self._rows:
            if row.taken < MOST:
                break
        else:
            row = _Row(self)
            row.start()
            self._rows.append(row)
        row.taken += 1
        return row

    def give_up(self, row: _Row) -> bool:
        """Return whether ``row`` ends: it has no place."""
        with self.lock:
            if row.taken:
                return False
            self._rows.remove(row)
            return True

    def refused(self, row: _Row) -> None:
        """Go without ``row``: the kernel does not let this process wait for many any more. All look, and wait another way."""
        global _works
        _works = False
        self.lose(row)

    def lose(self, row: _Row) -> None:
        """Go without ``row``: all who wait there look, and wait anew."""
        with self.lock:
            self._rows.remove(row)
            lines = [place for place in self._places.values() if place.row is row]
            for place in lines:
                del self._places[place.key]
        for place in lines:
            _post_all(list(place.line))


def _post_all(waits: list[Wait]) -> None:
    for wait in waits:
        with contextlib.suppress(RuntimeError):  # that event loop has ended
            wait.post(wait.tell)


def _tell_all(tells: list[Tell]) -> None:
    for tell in tells:
        tell()


_hub = Hub()
_works: bool | None = None


def hub() -> Hub:
    """Return this process's hub."""
    return _hub


def works() -> bool:
    """Return whether the kernel can wait for many words at once (Linux 5.16), and this process is allowed to."""
    global _works
    if _works is None:
        _works = bool(lib.shmq_waits_many())
    return _works


def _after_fork_in_child() -> None:
    global _hub
    _hub = Hub()


os.register_at_fork(after_in_child=_after_fork_in_child)
