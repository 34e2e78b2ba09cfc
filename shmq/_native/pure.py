"""SenderBase, QueueBase, ConsumerBase and DeliveryBase over cffi: the reference for native/accel.

Both bindings behave alike; what each part is for is written at the head of native/accel/accel.h. Where that one
relies on the GIL, this one relies on operations that are atomic in Python (of dicts, lists, deques):
no lock is held, so neither a signal handler nor a finalizer can deadlock here.

A lease is registered with its consumer before the call that fills it. An exception between the
two (Ctrl-C) leaves a filled lease without a Delivery: close() gives it back.
"""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from shmq._native._shmq import ffi, lib
from shmq._native.structs import message_struct

if TYPE_CHECKING:
    from typing_extensions import Self

    from shmq._native._shmq import CData

EAGER = lib.SHMQ_EAGER
CHUNK = lib.SHMQ_CHUNK
CONSUMER_CLOSED, CONSUMER_LIMIT = lib.SHMQ_CONSUMER_CLOSED, lib.SHMQ_CONSUMER_LIMIT
AUTO, NONE = lib.SHMQ_ACK_AUTO, lib.SHMQ_ACK_NONE
ACK, NACK = lib.SHMQ_ACK, lib.SHMQ_NACK
REJECT, RELEASE = lib.SHMQ_REJECTED, lib.SHMQ_RELEASE
_SETTLED, _LIVE, _VIEWED = 0, 1, 2
_FOR_GOOD = (lib.SHMQ_STALE, lib.SHMQ_GONE)


class Lease:
    """What is taken and not settled: a delivery struct and who it was handed to."""

    __slots__ = ("batch", "ctx", "d", "looped", "state", "thread", "views")

    def __init__(self, ctx: CData, d: CData) -> None:
        self.ctx = ctx
        self.d = d
        self.batch: CData = None  # the array that d lies in, which d alone would not keep
        self.state = _SETTLED
        self.thread = 0
        self.looped = False
        self.views: list[None] = []


class SenderBase:
    """The part of Sender that is called for every message."""

    __slots__ = ("_client", "_ctx_pointer", "_one", "_qref", "_some")

    def __init__(
        self,
        client: object,
        address: int,
        qref: int,
        waits: bool,
        fans: bool = False,
        levels: int = 10,
    ) -> None:
        self._client: Any = client
        self._one: Any = lib.shmq_topic_publish if fans else lib.shmq_publish
        self._some: Any = lib.shmq_topic_publish_many if fans else lib.shmq_publish_many
        self._bind(address, qref)

    def _bind(self, address: int, qref: int) -> None:
        self._ctx_pointer = ffi.cast("shmq_ctx *", address)
        self._qref = qref

    @property
    def _ctx(self) -> int:
        return int(ffi.cast("uintptr_t", self._ctx_pointer))

    def publish(
        self,
        message: Any,
        *,
        timeout: Any = None,
        serializer: Any = None,
        **fields: Any,
    ) -> int:
        """Publish a message; return its id, a number unique in this broker.

        ``message`` is a bytes-like object or a Message; ``fields`` are those of Message and override
        the message's own. The payload is copied once, into shared memory. When this returns, every
        process sees the message, and it survives the death of this one.

        In a queue with a `dedup_window`, of all publishes with one `dedup_id` within the window one
        becomes a message; the others return that one's id. The window counts from the call.

        With ``serializer``, a name such as "json" or an object (see `shmq.serializers`), ``message``
        is any object that it takes; the header `content-type` says how to read it.

        Blocks only while the queue, or a topic's subscription, is full and its overflow policy is "block"
        (or "drop-oldest", and there is nothing to drop); ``timeout`` seconds at most (None: for ever, 0:
        not at all).

        Raises: QueueFull when the time is over, or at once with overflow="reject"; QueueClosed after
            shutdown(); MessageTooLarge; MessageExpired when its ttl, or the queue's, ends before it is
            due; OutOfSharedMemory, also for more ids than `dedup_capacity`; TypeError and ValueError
            for bad fields.
        """
        plain = timeout is None and serializer is None and not fields
        if plain and type(message) is bytes:
            sent = self._send(message, None, lib.SHMQ_DELAY_DEFAULT, 0, 0, None, None)
            if sent >= 0:
                return sent
        return self._publish_slow(message, timeout=timeout, serializer=serializer, **fields)

    def publish_many(self, messages: Iterable[Any], *, timeout: Any = None) -> int:
        """Publish many messages in order, in few crossings into C; return how many.

        Not a transaction: others see each one as soon as it is in. Blocks like `publish`;
        ``timeout`` is for all together, and QueueFull's text says how many went.
        """
        return self._publish_many_slow(messages, timeout=timeout)

    def _publish_slow(
        self, message: Any, *, timeout: Any = None, serializer: Any = None, **fields: Any
    ) -> int:
        raise NotImplementedError

    def _publish_many_slow(
        self, messages: Iterable[Any], _done: int = 0, *, timeout: Any = None
    ) -> int:
        raise NotImplementedError

    def _send(
        self,
        payload: Any,
        meta: bytes | None,
        ttl: int,
        delay: int,
        priority: int,
        key: bytes | None,
        dedup: bytes | None,
    ) -> int:
        """Publish without waiting; return the id, or a negative result."""
        m, keep = message_struct(payload, meta, ttl, delay, priority, key, dedup)
        rc = self._one(self._ctx_pointer, self._qref, m)
        del keep
        return rc if rc < 0 else int(m.id)

    def _send_many(self, items: list[bytes], start: int) -> int:
        """Publish items[start:] as far as it goes without waiting; how many, or why not the first."""
        sent = 0
        while start + sent < len(items):
            part = items[start + sent : start + sent + CHUNK]
            messages = ffi.new("shmq_message[]", len(part))
            keep = [ffi.from_buffer(item) for item in part]
            for m, data in zip(messages, keep, strict=True):
                m.data, m.size, m.ttl_ns = data, len(data), lib.SHMQ_DELAY_DEFAULT
            rc = self._some(self._ctx_pointer, self._qref, messages, len(part))
            if rc < 0:
                return sent or rc
            sent += rc
        return sent


class QueueBase(SenderBase):
    """The part of Queue that is called for every message."""

    __slots__ = ()

    def loan(
        self, nbytes: int, *, timeout: Any = None, **fields: Any
    ) -> AbstractContextManager[memoryview]:
        """Return a context manager whose value is a writable memoryview in shared memory.

        Leaving the block publishes what was written there, without a copy; an exception in it
        publishes nothing. Its contents are undefined at first. ``fields`` are those of Message.
        The memoryview is invalid afterwards, and no slice or array made of it may be left.

            with queue.loan(1_000_000) as buffer:
                numpy.frombuffer(buffer)[:] = samples

        Raises (at the end): like `publish`; BufferError when something still refers to the buffer.
        """
        return self._loan_slow(nbytes, timeout=timeout, **fields)

    def _loan_slow(self, nbytes: int, **fields: Any) -> AbstractContextManager[memoryview]:
        raise NotImplementedError


class DeliveryBase:
    """One message in one consumer's hands; the part of Delivery that is called for every message."""

    __slots__ = ("_consumer", "_extra", "_lease", "_meta", "_payload")

    _consumer: Any
    _lease: Lease
    _payload: bytes | None
    _meta: bytes | None
    _extra: bytes | None

    def __init__(self) -> None:
        raise TypeError(f"cannot create '{type(self).__name__}' instances")

    @classmethod
    def _of(cls, consumer: ConsumerBase, lease: Lease) -> Self:
        self = cls.__new__(cls)
        d = lease.d
        self._consumer = consumer
        self._lease = lease
        everything = d.size <= EAGER or consumer._mode == NONE
        self._payload = ffi.unpack(ffi.cast("char *", d.data), d.size) if everything else None
        self._meta = ffi.buffer(d.meta, d.meta_size)[:] if d.meta_size else None
        self._extra = ffi.buffer(d.extra, d.extra_size)[:] if d.extra_size else None
        return self

    @property
    def payload(self) -> bytes:
        """The message's bytes, copied once.

        Up to 4 KiB they are copied at delivery, larger ones on first use, which must be before the
        settle.
        """
        if self._payload is None:
            lease = self._lease
            if lease.state != _LIVE:
                self._ack_failed(lib.SHMQ_STALE)
            lease.views.append(None)  # another thread may settle meanwhile
            try:
                payload: bytes = ffi.buffer(lease.d.data, lease.d.size)[:]
            finally:
                self._view_end()
            self._payload = payload
        return self._payload

    def ack(self) -> None:
        """Settle: the message is done and its memory free.

        Copies nothing, blocks on nothing.
        Raises: StaleDelivery when the lease has moved on or was settled before.
        """
        rc = self._settle(ACK, 0, None)
        if rc < 0:
            self._ack_failed(rc)

    def _ack_failed(self, rc: int) -> NoReturn:
        raise NotImplementedError

    def _settle(self, kind: int, delay_ns: int, extra: bytes | None) -> int:
        lease = self._lease
        if lease.state != _LIVE:
            return lib.SHMQ_STALE
        return self._consumer._lease_settle(lease, kind, delay_ns, extra)  # type: ignore[no-any-return]

    def _forward(
        self,
        target: int,
        payload: Any,
        meta: bytes | None,
        ttl: int,
        delay: int,
        priority: int,
        key: bytes | None,
        dedup: bytes | None,
    ) -> int:
        """Publish to `target` and settle, or neither; the new id, or a negative result."""
        lease = self._lease
        if lease.state != _LIVE:
            return lib.SHMQ_STALE
        m, keep = message_struct(payload, meta, ttl, delay, priority, key, dedup)
        if payload is None:
            m.data, m.size = lease.d.data, lease.d.size
        rc = self._consumer._lease_forward(lease, target, m)
        del keep
        return rc if rc < 0 else int(m.id)

    def _view(self) -> memoryview:
        lease = self._lease
        if lease.state != _LIVE:
            self._ack_failed(lib.SHMQ_STALE)
        lease.views.append(None)
        try:
            pointer = ffi.gc(ffi.cast("char *", lease.d.data), self._end_of_view())
        except BaseException:
            self._view_end()
            raise
        return memoryview(ffi.buffer(pointer, lease.d.size)).toreadonly()

    def _end_of_view(self) -> Any:
        # Runs when the last slice or array over the payload is gone.
        end, client = self._view_end, self._consumer._client

        def destroy(_: Any) -> None:
            try:
                if not client.closed:  # else the entries went with the attachment
                    end()
            except BaseException:  # noqa: BLE001 - a finalizer has nobody to tell
                pass

        return destroy

    def _view_end(self) -> None:
        lease = self._lease
        if lease.views:
            lease.views.pop()
        _end_of_views(lease)

    @property
    def headers(self) -> dict[str, str | bytes | int | float | bool | None]:
        """The message's headers, decoded anew at each use.

        A dead letter's include `x-error`, `x-death-reason` ("retries", "rejected", "expired" or
        "overflow"), `x-death-queue`, `x-death-time` (seconds since 1970) and `x-attempts`.
        """
        return self._headers_slow()

    def _headers_slow(self) -> dict[str, str | bytes | int | float | bool | None]:
        raise NotImplementedError

    @property
    def redelivered(self) -> bool:
        """True when it was delivered before."""
        return bool(self._lease.d.redelivered)

    @property
    def attempt(self) -> int:
        """How often the message has been delivered, this time included."""
        return int(self._lease.d.attempt)

    @property
    def id(self) -> int:
        """A number unique in its broker."""
        return int(self._lease.d.id)

    @property
    def priority(self) -> int:
        """0 (lowest) to 9."""
        return int(self._lease.d.priority)

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return int(self._lease.d.size)

    @property
    def _address(self) -> int:
        return int(ffi.cast("uintptr_t", self._lease.d))

    @property
    def _ctx(self) -> int:
        return int(ffi.cast("uintptr_t", self._lease.ctx))

    @property
    def _settled(self) -> bool:
        return self._lease.state != _LIVE

    @property
    def _thread(self) -> int:
        return self._lease.thread

    @property
    def _queue(self) -> int:
        return int(self._lease.d.queue)

    @property
    def _reason(self) -> int:
        return int(self._lease.d.reason)

    @property
    def _origin(self) -> int:
        return int(self._lease.d.origin)

    @property
    def _died_attempts(self) -> int:
        return int(self._lease.d.died_attempts)

    @property
    def _published_ns(self) -> int:
        return int(self._lease.d.published_ns)

    @property
    def _expires_ns(self) -> int:
        return int(self._lease.d.expires_ns)

    @property
    def _died_ns(self) -> int:
        return int(self._lease.d.died_ns)


def _end_of_views(lease: Lease) -> None:
    """Free the block of a settled lease when its last view is gone; exactly one caller does."""
    if lease.views or lease.state != _VIEWED:
        return
    d, held = lease.d, lease.d.held
    if held:
        d.held = 0
        lib.shmq_view_end(lease.ctx, held, d.idx)
    lease.state = _SETTLED


class ConsumerBase:
    """The part of Consumer that is called for every message."""

    __slots__ = (
        "_ahead", "_client", "_ctx_pointer", "_delivery", "_empty", "_leases", "_limit", "_mode",
        "_over", "_prefetch", "_qref", "_spin_ns", "_taken",
    )  # fmt: skip

    def __init__(
        self,
        client: object,
        address: int,
        qref: int,
        mode: int,
        prefetch: int,
        limit: int,
        spin_ns: int,
        delivery: type[DeliveryBase],
    ) -> None:
        self._over = False
        self._leases: dict[int, Lease] = {}
        self._ahead: deque[Lease] = deque()
        self._taken: dict[int, Lease] = {}  # what is or may be read ahead
        self._client: Any = client
        self._ctx_pointer = ffi.cast("shmq_ctx *", address)
        self._qref = qref
        self._mode = mode
        self._prefetch = max(prefetch, 1)
        self._limit = limit
        self._spin_ns = spin_ns
        self._delivery = delivery
        # Set by Consumer; the accelerator raises it itself.
        self._empty: tuple[type[Exception], str]

    def _bind(self, address: int, qref: int) -> None:
        if address != self._ctx:
            # What the parent process holds is the parent's to settle.
            for lease in list(self._leases.values()):
                lease.state = _SETTLED
            self._leases.clear()
            self._ahead.clear()
            self._taken.clear()
        self._ctx_pointer = ffi.cast("shmq_ctx *", address)
        self._qref = qref

    @property
    def _ctx(self) -> int:
        return int(ffi.cast("uintptr_t", self._ctx_pointer))

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._over

    @property
    def unsettled(self) -> int:
        """Deliveries handed out and not settled."""
        return sum(lease.state == _LIVE for lease in list(self._leases.values()))

    @property
    def _read_ahead(self) -> int:
        return len(self._ahead)

    def _recover(self, rc: int, deadline_ns: int) -> None:
        raise NotImplementedError

    def _deadline(self, timeout: Any) -> int:
        raise NotImplementedError

    def _ack_many_failed(self, rc: int, acked: int, stale: int) -> int:
        raise NotImplementedError

    # ---- settling ----

    def _lease_settle(self, lease: Lease, kind: int, delay_ns: int, extra: bytes | None) -> int:
        ctx, d, keep = lease.ctx, lease.d, 0
        if lease.views and kind != ACK:
            keep = lib.shmq_view_keep(ctx, d)
            if keep < 0 and keep != lib.SHMQ_STALE:
                return keep
        viewed = bool(lease.views)
        note = ffi.NULL if extra is None else ffi.from_buffer(extra)
        size = 0 if extra is None else len(extra)
        if kind == ACK:
            rc = lib.shmq_settle_viewed(ctx, d) if viewed else lib.shmq_ack(ctx, d, 1)
        elif kind == NACK:
            rc = lib.shmq_nack(ctx, d, delay_ns, note, size)
        elif kind == REJECT:
            rc = lib.shmq_reject(ctx, d, note, size)
        else:
            rc = lib.shmq_release(ctx, d)
        if rc < 0 and rc not in _FOR_GOOD:
            if keep > 0:
                lib.shmq_view_end(ctx, keep, d.idx)
            return rc
        if keep > 0:
            d.held = keep
        lease.state = _VIEWED if viewed else _SETTLED
        self._leases.pop(id(lease), None)
        _end_of_views(lease)
        return rc

    def _lease_forward(self, lease: Lease, target: int, m: Any) -> int:
        ctx, d, keep = lease.ctx, lease.d, 0
        if lease.views:
            keep = lib.shmq_view_keep(ctx, d)
            if keep < 0 and keep != lib.SHMQ_STALE:
                return keep
        viewed = bool(lease.views)
        rc = lib.shmq_forward(ctx, d, target, m)
        if rc < 0 and rc != lib.SHMQ_STALE:  # any other reason leaves the lease as it is
            if keep > 0:
                lib.shmq_view_end(ctx, keep, d.idx)
            return rc
        if keep > 0:
            d.held = keep
        lease.state = _VIEWED if viewed else _SETTLED
        self._leases.pop(id(lease), None)
        _end_of_views(lease)
        return rc

    def _settle_mine(self, kind: int, looped: int, thread: int | None, extra: bytes | None) -> int:
        """Settle what `thread` holds of the loop (looped 1), otherwise (0) or all (-1); how many."""
        me = threading.get_ident() if thread is None else thread
        done = 0
        for lease in list(self._leases.values()):
            if lease.state != _LIVE or lease.thread != me or looped == (not lease.looped):
                continue
            done += self._lease_settle(lease, kind, lib.SHMQ_DELAY_DEFAULT, extra) >= 0
        return done

    def _close(self) -> int:
        """Give everything back; how many deliveries."""
        self._over = True
        given = 0
        self._ahead.clear()
        for lease in list(self._taken.values()):
            given += lease.d.ctl != 0 and lib.shmq_release(lease.ctx, lease.d) >= 0
        self._taken.clear()
        for lease in list(self._leases.values()):
            if lease.d.ctl == 0:  # registered, never filled
                continue
            lease.state = _LIVE
            given += self._lease_settle(lease, RELEASE, 0, None) >= 0
            lease.state = _VIEWED if lease.state == _VIEWED else _SETTLED
        self._leases.clear()
        return given

    def ack_many(self, deliveries: Iterable[DeliveryBase], /) -> int:
        """Ack all of ``deliveries`` in few crossings into C; return how many.

        Raises: StaleDelivery when the lease of any has moved on; the others are acked all the same.
        """
        deliveries = list(deliveries)
        for i, delivery in enumerate(deliveries):
            if not isinstance(delivery, DeliveryBase):
                raise TypeError(
                    f"ack_many: found {type(delivery).__name__} at position {i}, expected a "
                    f"Delivery; nothing was acked"
                )
        acked = stale = 0
        for delivery in deliveries:
            rc = delivery._settle(ACK, 0, None)
            if rc >= 0:
                acked += 1
            elif rc == lib.SHMQ_STALE:
                stale += 1
            else:
                return self._ack_many_failed(rc, acked, stale)
        return self._ack_many_failed(lib.SHMQ_STALE, acked, stale) if stale else acked

    # ---- taking ----

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        delivery = self._get_until(0, True)
        if delivery is None:
            raise StopIteration
        return delivery

    def get(self, timeout: Any = None) -> Any:
        """Return the next delivery; wait up to ``timeout`` seconds for one (None: for ever, 0: not at all).

        Raises: QueueEmpty when the time is over; QueueClosed when the queue is shut down and drained.
        """
        return self._get_until(0 if timeout is None else self._deadline(timeout), False)

    def get_many(self, max_n: int, timeout: Any = None) -> list[Any]:
        """Return a list of 1 to ``max_n`` deliveries: what is there now; wait like get() only while there is none.

        Raises: QueueEmpty when the time is over; QueueClosed when the queue is shut down and drained.
        """
        deadline = 0 if timeout is None else self._deadline(timeout)
        max_n = operator.index(max_n)
        if max_n < 1:
            raise ValueError(
                f"max_n: found {max_n}, expected 1 or more; say how many deliveries you want at most"
            )
        got = [self._get_until(deadline, False)]
        while len(got) < max_n:
            lease, rc = self._take_one()
            if rc <= 0:
                break
            got.append(self._hand_out(lease, got[0]._thread, False))
        return got

    def _poll(self, thread: int, looped: bool) -> Any:
        """Return a delivery, or None when there is nothing now: the get of asyncio, where a task is a thread."""
        while True:
            lease, rc = self._take_one()
            if rc > 0:
                return self._hand_out(lease, thread, looped)
            if rc == lib.SHMQ_EMPTY:
                return None
            self._recover(rc, 1)

    def _get_until(self, deadline: int, looped: bool) -> Any:
        thread = 0
        if self._mode == AUTO:
            thread = threading.get_ident()
            self._settle_mine(ACK, -1, thread, None)
        last = False
        while True:
            lease, rc = self._take_one()
            if rc > 0:
                return self._hand_out(lease, thread, looped)
            if rc == lib.SHMQ_EMPTY:
                if last or deadline == 1:
                    self._recover(lib.SHMQ_TIMEOUT, deadline)
                    continue
                rc = lib.shmq_wait_items(self._ctx_pointer, self._qref, deadline, self._spin_ns)
                last = rc == lib.SHMQ_TIMEOUT
            elif looped and rc in (lib.SHMQ_CLOSED, CONSUMER_CLOSED):
                return None
            else:
                self._recover(rc, deadline)

    def _hand_out(self, lease: Lease, thread: int, looped: bool) -> DeliveryBase:
        delivery = self._delivery._of(self, lease)
        if self._mode == NONE:
            lib.shmq_ack(self._ctx_pointer, lease.d, 1)
            self._leases.pop(id(lease), None)
        else:
            lease.thread, lease.looped, lease.state = thread, looped, _LIVE
        return delivery

    def _take_one(self) -> tuple[Lease, int]:
        """Take one without waiting: its registered lease and 1, or why not."""
        ctx, qref = self._ctx_pointer, self._qref
        lease = Lease(ctx, ffi.NULL)
        if self._over:
            return lease, CONSUMER_CLOSED
        if self._limit and self.unsettled >= self._limit:
            return lease, CONSUMER_LIMIT
        if self._mode == NONE or self._prefetch == 1:
            lease.d = ffi.new("shmq_delivery *")
            self._leases[id(lease)] = lease
            rc = lib.shmq_take(
                ctx, qref, 1, lib.SHMQ_TAKE_FREE if self._mode == NONE else 0, lease.d
            )
            if rc <= 0:
                self._leases.pop(id(lease), None)
            return lease, rc
        while True:
            while self._ahead:
                try:
                    lease = self._ahead.popleft()
                except IndexError:  # another thread was faster
                    break
                self._leases[id(lease)] = lease
                self._taken.pop(id(lease), None)
                rc = lib.shmq_start(ctx, lease.d)
                if rc >= 0:
                    return lease, 1
                self._leases.pop(id(lease), None)
                if rc != lib.SHMQ_STALE:  # STALE: given up to a consumer that waited
                    return lease, rc
            batch = ffi.new("shmq_delivery[]", self._prefetch)
            leases = [Lease(ctx, batch + i) for i in range(self._prefetch)]
            for new in leases:
                new.batch = batch
                self._taken[id(new)] = new
            rc = lib.shmq_take(ctx, qref, self._prefetch, lib.SHMQ_TAKE_AHEAD, batch)
            for unused in leases[max(rc, 0) :]:
                del self._taken[id(unused)]
            if rc <= 0:
                return lease, rc
            self._ahead.extend(leases[:rc])

    def __del__(self) -> None:
        try:
            # A Client that is garbage together with us may have been finalized first: its context
            # is gone, and its detaching gave everything back.
            if not self._over and not self._client.closed:
                self._close()
        except Exception:  # at interpreter exit anything may be gone; death gives back as well
            pass
