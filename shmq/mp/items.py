"""What all queues of shmq.mp are: a queue of the process tree's broker, and handles on it.

The parts called for every item, `put` and `get`, are in `ItemsBase` (native/accel/items.c or
shmq/_native/pure); what they do not finish comes to the `_slow` methods here.
"""

from __future__ import annotations

import gc
import itertools
import operator
import os
import queue as stdlib
import secrets
import sys
import time
import types
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from shmq._aio import ITEMS, SPACE, Turn, breathe
from shmq._client import ADAPTIVE, Client, client_of
from shmq._native import ItemsBase, ffi, lib
from shmq._native.structs import deadline_of
from shmq._records import index_of
from shmq.consumer import Consumer
from shmq.delivery import meta_of
from shmq.errors import CorruptSegment, QueueClosed, QueueEmpty, QueueFull, explain
from shmq.home import Parcel, home, parcel, unpack
from shmq.mp import handles, pickling
from shmq.mp.bell import Bell
from shmq.options import MAX_DEPTH, QueueOptions
from shmq.queue import Queue as BrokerQueue

if TYPE_CHECKING:
    from typing import Generic

    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)

    class Typed(ItemsBase, Generic[T]):
        """ItemsBase, for type checkers: what goes in comes out."""

        def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None: ...  # noqa: D102
        def get(  # noqa: D102
            self, block: bool = True, timeout: float | None = None, *, copy: bool = True
        ) -> T: ...

else:
    T = None
    Typed = {T: ItemsBase}

SEM_VALUE_MAX = 2**31 - 1  # what the standard library takes for "no limit"
CHUNK = 256
RECORDS_S = 5.0  # until records of given-up queues are free again
ANEW = 100  # times that others may give a queue up while it is made
FAIRNESS = 64  # items that an async loop takes in a row before other tasks may run
ONCE = 1  # a deadline in the past

if sys.version_info >= (3, 13):

    class ShutDown(QueueClosed, stdlib.ShutDown):
        """The queue was shut down. Also a `queue.ShutDown`."""

else:

    class ShutDown(QueueClosed):
        """The queue was shut down."""


_numbers = itertools.count(1)
_token = ""
_token_pid = 0


def _new_name() -> str:
    global _token, _token_pid
    if _token_pid != os.getpid():
        _token_pid = os.getpid()
        _token = secrets.token_hex(4)
    return f"mp-{_token_pid}-{_token}-{next(_numbers)}"


class Items(Typed[T]):
    """A handle on a queue of objects. Goes anywhere by pickling, fork or inheritance."""

    _flags = 0  # beside COUNTED
    _plain_takes = True
    _passed = 0
    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(types.GenericAlias)

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(self._plain_takes)
        self._maxsize: int = SEM_VALUE_MAX if maxsize <= 0 else operator.index(maxsize)
        self._name = _new_name()
        self._start(client_of(home()))
        self._create()

    def _start(self, client: Client | None) -> None:
        self._depth = min(self._maxsize, MAX_DEPTH)
        self._home: Client | None = client
        self._parcel: Parcel | None = None
        self._note: handles.Note | None = None
        self._reader_of_views: Consumer | None = None
        handles.remember(self)

    def _options(self) -> Any:
        plain = QueueOptions(
            max_depth=self._depth, ttl=None, max_retries=None, retry_backoff=0.0,
            retry_backoff_max=0.0, retry_jitter=0.0, priorities=1,
        ).to_core(lib.SHMQ_NO_QUEUE)  # fmt: skip
        plain["flags"] = lib.SHMQ_COUNTED | self._flags
        return ffi.new("shmq_queue_options *", plain)

    # ---- binding ---------------------------------------------------------------------------

    def _create(self) -> None:
        """Bind to the queue of this handle's name, made if it does not exist; count the handle."""
        client = self._home
        assert client is not None
        what = f"queue {self._name!r}"
        deadline = time.monotonic() + RECORDS_S
        gone = 0
        while True:
            rc = client.call(lib.shmq_queue_create, self._name.encode(), self._options())
            if rc == lib.SHMQ_E_EXISTS:
                rc = client.call(lib.shmq_queue_open, self._name.encode())
            if rc == lib.SHMQ_E_QUEUES and time.monotonic() < deadline:
                gc.collect()  # handles in cycles; then the supervisor gives their queues up
                time.sleep(0.005)
                continue
            if rc not in (lib.SHMQ_E_NOTFOUND, lib.SHMQ_GONE):
                qref = client.check(rc, what)
                self._note = handles.count(client, self._name, qref)
                if self._note is not None:
                    break
            gone += 1
            if gone == ANEW:
                raise CorruptSegment(
                    explain(
                        what,
                        f"a record that is neither there nor gone, at {ANEW} looks",
                        "a queue, or room for one",
                        "the shared memory is damaged: end the processes that use it, and start again",
                    )
                )
        self._bind(client, client.address, qref)
        if not handles.inheriting():
            handles.settle_once(client)

    def _settle_in(self) -> None:
        """Bind, in a process that has got this handle from another one."""
        if self._home is None:
            assert self._parcel is not None
            self._home = unpack(self._parcel)
            self._parcel = None
        elif self._home.pid != os.getpid():
            self._home.reattach()
        if self._note is None or self._note.pid != os.getpid():
            client, qref = self._home, self._qref
            # Inherited by a fork: the queue is known, and still there.
            self._note = handles.count(client, self._name, qref) if qref else None
            if self._note is None:
                self._create()
            else:
                self._bind(client, client.address, qref)

    def _forked(self) -> None:
        """Begin anew in a forked child: open, unused, and to be bound."""
        self._closed = self._used = False
        self._bell = None
        self._note = None
        self._reader_of_views = None

    def __getstate__(self) -> Any:
        if self._home is None:
            self._settle_in()
        client = self._home
        assert client is not None
        place = parcel(client)
        if not _spawning():
            # It may lie in some message for long, while no process has a handle.
            client.check(
                client.call(lib.shmq_queue_mark, self._qref, lib.SHMQ_TRAVELLED), self._name
            )
        return place, self._name, self._maxsize

    def __setstate__(self, state: Any) -> None:
        place, self._name, self._maxsize = state
        ItemsBase.__init__(self, self._plain_takes)
        self._start(None)
        self._parcel = place
        if not handles.inheriting():
            self._settle_in()

    def __repr__(self) -> str:
        return f"<shmq.mp.{type(self).__name__} {self._name!r}>"

    # ---- results ---------------------------------------------------------------------------

    def _ready(self) -> None:
        """Be bound in this process, or raise why not."""
        if self._home is None or self._home.pid != os.getpid() or self._note is None:
            self._settle_in()
            handles.settle_once(self._client)
        elif self._ctx != self._client.address:
            self._bind(self._client, self._client.address, self._qref)

    def _call(self, call: Callable[..., int], *args: Any) -> int:
        self._ready()
        rc = self._client.call(call, self._qref, *args)
        return self._check(rc)

    def _check(self, rc: int) -> int:
        if rc >= 0:
            return rc
        if rc == lib.SHMQ_CLOSED:
            self._shut_down()
        client: Client = self._client
        return client.check(rc, f"queue {self._name!r}")

    def _shut_down(self) -> NoReturn:
        raise ShutDown(
            explain(
                f"queue {self._name!r}", "one that was shut down", "an open one", "make a new one"
            )
        )

    def _full(self, went: int | None = None) -> NoReturn:
        after = "" if went is None else f" after {went} items of many went"
        raise QueueFull(
            explain(
                f"queue {self._name!r}",
                f"{self._maxsize} items, its maxsize,{after}",
                "room within the timeout",
                "let consumers catch up, wait longer (timeout=), or raise maxsize",
            )
        )

    def _none(self) -> NoReturn:
        raise QueueEmpty(
            explain(f"queue {self._name!r}", "no item in time", "one", "wait longer (timeout=)")
        )

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")

    def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:
        """Called when an item cannot be pickled; what it does not raise is the end of that item."""
        raise e

    # ---- putting ---------------------------------------------------------------------------

    def _put_slow(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        self._refuse_closed()
        self._ready()
        if type(obj) is bytes:
            item = None
        else:
            try:
                item = pickling.encode(obj)
            except Exception as error:
                self._on_queue_feeder_error(error, obj)
                return
        deadline = None
        last = False
        while True:
            if item is None:
                _, rc = self._put_some((obj,), 0)
            else:
                rc = self._send_parts(*item)
            if rc >= 0:
                self._used = True
                return
            if rc == lib.SHMQ_E_FORKED:
                self._ready()
                continue
            if rc != lib.SHMQ_FULL:
                size = len(obj) if item is None else item.size
                if rc == lib.SHMQ_CLOSED:
                    self._shut_down()
                self._client.check(rc, f"queue {self._name!r}", size=size)
            if deadline is None:
                deadline = deadline_of(block, timeout)
            if last or deadline == ONCE:
                self._full()
            rc = lib.shmq_wait_space(self._client.ctx, self._qref, deadline, ADAPTIVE)
            last = rc == lib.SHMQ_TIMEOUT

    def put_nowait(self, obj: T) -> None:
        """Like ``put(obj, block=False)``."""
        self.put(obj, False)

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> int:
        """Put all of ``items`` in order, in few crossings into C; return how many.

        Not a transaction: others see each one as soon as it is in. ``timeout`` seconds are for all
        together; queue.Full says how many went.
        """
        self._refuse_closed()
        self._ready()
        deadline = deadline_of(block, timeout)
        done = 0
        source = iter(items)
        while chunk := list(islice(source, CHUNK)):
            at = 0
            last = False
            while at < len(chunk):
                sent, rc = self._put_some(chunk, at)
                at += sent
                if at == len(chunk):
                    break
                if rc >= 0:  # an item to be pickled
                    try:
                        self._put_slow(chunk[at], True, seconds_until(deadline))
                    except QueueFull:
                        self._full(done + at)
                    at += 1
                    continue
                if rc != lib.SHMQ_FULL:
                    self._check(rc)
                if last or deadline == ONCE:
                    self._full(done + at)
                rc = lib.shmq_wait_space(self._client.ctx, self._qref, deadline, ADAPTIVE)
                last = rc == lib.SHMQ_TIMEOUT
            done += at
        return done

    # ---- getting ---------------------------------------------------------------------------

    def _load(self, meta: bytes, data: memoryview) -> Any:
        return pickling.decode(meta, data, view=False)

    def _get_slow(self, block: bool = True, timeout: float | None = None, copy: bool = True) -> Any:
        self._refuse_closed()
        self._ready()
        deadline = deadline_of(block, timeout)
        if not copy:
            return self._get_view(deadline)
        return self._take_some(1, deadline)[0]

    def _take_some(self, n: int, deadline: int) -> list[Any]:
        found: list[Any] = []
        last = False
        while True:
            rc = self._get_some(found, n)
            if rc > 0:
                return found
            last = self._wait_for_items(rc, deadline, last)

    def _wait_for_items(self, rc: int, deadline: int, last: bool) -> bool:
        if rc == lib.SHMQ_E_FORKED:
            self._ready()
            return last
        if rc != lib.SHMQ_EMPTY:
            self._check(rc)
        if last or deadline == ONCE:
            self._none()
        rc = lib.shmq_wait_items(self._client.ctx, self._qref, deadline, ADAPTIVE)
        return rc == lib.SHMQ_TIMEOUT

    def _consumer(self) -> Consumer:
        if self._reader_of_views is None:
            queue = BrokerQueue(self._client, self._name, self._qref)
            self._reader_of_views = Consumer(queue)
        return self._reader_of_views

    def _take_delivery(self, deadline: int) -> Any:
        try:
            return self._consumer().get(seconds_until(deadline))
        except QueueEmpty:
            self._none()
        except QueueClosed:
            self._shut_down()

    def _get_view(self, deadline: int) -> Any:
        delivery = self._take_delivery(deadline)
        if self._bell is not None:
            self._bell.ring()
        meta = meta_of(delivery)
        obj = pickling.decode(meta, delivery.view, view=True) if meta else delivery.payload
        delivery.ack()
        return obj

    def get_nowait(self) -> T:
        """Like ``get(block=False)``."""
        return self.get(False)

    def get_many(self, max_n: int, timeout: float | None = None, *, block: bool = True) -> list[T]:
        """Return 1 to ``max_n`` items: what is there now; waits like `get` only for the first one.

        An item that cannot be unpickled raises and is gone; the others are delivered again.
        """
        self._refuse_closed()
        self._ready()
        n = operator.index(max_n)
        if n < 1:
            raise ValueError(
                explain("max_n", n, "1 or more", "say how many items you want at most")
            )
        return self._take_some(n, deadline_of(block, timeout))

    # ---- asyncio, trio, anyio --------------------------------------------------------------

    async def aput(self, obj: T, timeout: float | None = None) -> None:
        """Like `put`, without blocking the event loop. Cancelled, it has put nothing."""
        deadline = deadline_of(True, timeout)
        await breathe()
        with Turn() as turn:
            while True:
                try:
                    super().put(obj, False)
                    return
                except QueueFull:
                    if deadline and lib.shmq_now() >= deadline:
                        raise
                await turn.wait(self._client, self._client.address, self._qref, SPACE, deadline)

    async def aget(self, timeout: float | None = None) -> T:
        """Like `get`, without blocking the event loop. Cancelled, it has taken nothing."""
        deadline = deadline_of(True, timeout)
        self._passed += 1
        if self._passed % FAIRNESS == 0:
            await breathe()
        with Turn() as turn:
            while True:
                try:
                    return super().get(False)
                except QueueEmpty:
                    if deadline and lib.shmq_now() >= deadline:
                        raise
                await turn.wait(self._client, self._client.address, self._qref, ITEMS, deadline)

    def __aiter__(self) -> Items[T]:
        return self

    async def __anext__(self) -> T:
        """Return the next item; the loop ends when the queue is shut down and empty."""
        try:
            return await self.aget()
        except ShutDown:
            raise StopAsyncIteration from None

    def _state(self) -> int:
        info = ffi.new("shmq_queue_info *")
        self._client.check(
            self._client.call(lib.shmq_queue_snapshot, index_of(self._qref), info), self._name
        )
        return int(info.state) if info.ref == self._qref else int(lib.SHMQ_Q_FREE)

    # ---- looking ---------------------------------------------------------------------------

    def qsize(self) -> int:
        """Return how many items are in the queue now."""
        return self._call(lib.shmq_depth)

    def full(self) -> bool:
        """Return whether `maxsize` items are in the queue."""
        return self.qsize() >= self._maxsize

    def empty(self) -> bool:
        """Return whether no item is in the queue. Raises OSError when it was used and closed."""
        if self._closed and self._used:
            raise OSError(f"queue {self._name!r} is closed")
        return self.qsize() == 0

    def fileno(self) -> int:
        """Return a descriptor that is readable while there are items, for select and its like.

        It belongs to this process, and costs it a thread. Others may be quicker: take with
        ``block=False``.
        """
        self._refuse_closed()
        self._ready()
        if self._bell is None or self._bell.lost():
            self._bell = Bell(self._client, self._qref)
        return int(self._bell.fd)


def _spawning() -> bool:
    from multiprocessing import context

    return context.get_spawning_popen() is not None


def seconds_until(deadline: int) -> float | None:
    """Return how long it is until ``deadline``: None for ever, 0.0 not at all."""
    if deadline == 0:
        return None
    return max(0.0, (deadline - lib.shmq_now()) / 1e9) if deadline != ONCE else 0.0


def _bound(items: Items[Any]) -> Client:
    items._settle_in()
    return client_of(items)


handles.know(forked=lambda items: items._forked(), bound=_bound)
