"""Queue: publish into it, subscribe to it, look at it.

The parts called for every message, `publish` of bytes and `publish_many` of lists of bytes, are in
`QueueBase` (native/accel/queue.c or shmq/_native/pure.py); what they do not finish at once, because the
queue is full, the message has headers, or this process was forked, comes to the `_slow` methods.

A Queue is a name, a broker and a number: it pickles as the first two and attaches again on arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from shmq._native import QueueBase, ffi, lib
from shmq.aio import wait_in_thread
from shmq.client import Client
from shmq.consumer import ADAPTIVE, Consumer
from shmq.delivery import headers_of, ttl_of, wall_clock
from shmq.errors import MessageExpired, QueueFull, explain
from shmq.figures import QueueStats, stats_of
from shmq.loan import Loan
from shmq.message import Message, bytes_of, deadline_of, decode_headers, message_of
from shmq.options import NS, parse_count
from shmq.records import index_of, name_then
from shmq.serializers import CONTENT_TYPE, Encoded, Serializer, find

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import overload

    from typing_extensions import Buffer, Unpack

    from shmq.keywords import Ack, MessageKeywords, Seconds

__all__ = ["Queue"]

CHUNK = 256
MAX_PEEK: int = lib.SHMQ_BLOCKS


class Queue(QueueBase):
    """A queue of a broker. Made by `Broker.create_queue` and `Broker.get_queue`.

    May be shared by threads, used in forked children, and sent to other processes by pickling.
    """

    __slots__ = ("__weakref__", "_overflow", "_priorities", "_ttl_ns", "name")

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def publish(
            self,
            message: Buffer | Message,
            *,
            timeout: Seconds | None = None,
            **fields: Unpack[MessageKeywords],
        ) -> int: ...
        @overload
        def publish(
            self,
            message: Any,
            *,
            timeout: Seconds | None = None,
            serializer: str | Serializer,
            **fields: Unpack[MessageKeywords],
        ) -> int: ...
        def publish(self, message: Any, **fields: Any) -> int:
            """See `_publish_slow`."""

        def publish_many(
            self, messages: Iterable[Buffer | Message], *, timeout: Seconds | None = None
        ) -> int:
            """See `_publish_many_slow`."""

        def loan(  # type: ignore[override]
            self,
            nbytes: int,
            *,
            timeout: Seconds | None = None,
            **fields: Unpack[MessageKeywords],
        ) -> AbstractContextManager[memoryview]:
            """See `_loan_slow`."""

    def __init__(self, client: Client, name: str, qref: int | None = None) -> None:
        self.name = name
        what = f"queue {name!r}"
        if qref is None:
            qref = client.check(lib.shmq_queue_open(client.ctx, name.encode()), what)
        info = ffi.new("shmq_queue_info *")
        client.check(lib.shmq_queue_snapshot(client.ctx, index_of(qref), info), what)
        self._overflow: int = info.options.overflow
        self._priorities: int = max(1, min(info.options.priorities, lib.SHMQ_LEVELS))
        self._ttl_ns: int = info.options.ttl_ns
        waits = self._overflow == lib.SHMQ_BLOCK
        super().__init__(client, client.address, qref, waits, False, self._priorities)

    # ---- publishing ------------------------------------------------------------------------

    def _publish_slow(
        self,
        message: Any,
        *,
        timeout: float | str | None = None,
        serializer: str | Serializer | None = None,
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

        Blocks only while the queue is full and its overflow policy is "block" (or "drop-oldest", and
        there is nothing to drop); ``timeout`` seconds at most (None: for ever, 0: not at all).

        Raises: QueueFull when the time is over, or at once with overflow="reject"; QueueClosed after
            shutdown(); MessageTooLarge; MessageExpired when its ttl, or the queue's, ends before it is
            due; OutOfSharedMemory, also for more ids than `dedup_capacity`; TypeError and ValueError
            for bad fields.
        """
        if serializer is not None:
            message = self._serialized(message, serializer, fields)
            if isinstance(message, Encoded):
                return self._publish_encoded(message, timeout, fields)
        deadline = deadline_of(timeout)
        m = message_of(message, fields)
        args = self._encoded(m)
        last = False
        while True:
            rc = self._send(*args)
            if rc >= 0:
                return rc
            last = self._wait_for_room(rc, deadline, last)

    def _publish_encoded(
        self, encoded: Encoded, timeout: float | str | None, fields: dict[str, Any]
    ) -> int:
        loan = Loan(self, encoded.size, {"timeout": timeout, **fields})
        with loan as buffer:
            encoded.write(buffer)
        return loan.id

    def _serialized(self, obj: Any, serializer: str | Serializer, fields: dict[str, Any]) -> Any:
        codec = find(serializer)
        encoded = codec.encode(obj)
        fields["headers"] = {CONTENT_TYPE: codec.content_type, **(fields.get("headers") or {})}
        return encoded

    def _encoded(
        self, m: Message
    ) -> tuple[Any, bytes | None, int, int, int, bytes | None, bytes | None]:
        if m.priority >= self._priorities:
            raise ValueError(
                explain(
                    "priority",
                    m.priority,
                    f"less than {self._priorities}, the levels of queue {self.name!r}",
                    "create the queue with more priorities",
                )
            )
        delay_ns, ttl_ns = m.delay_ns, m.ttl_ns
        if delay_ns:
            self._refuse_stillborn(delay_ns, ttl_ns)
        payload = m.payload
        if type(payload) is not bytes and not memoryview(payload).c_contiguous:
            payload = bytes(payload)
        key, dedup = bytes_of(m.key), bytes_of(m.dedup_id)
        return payload, m.encoded_headers(), ttl_ns, delay_ns, m.priority, key, dedup

    def _refuse_stillborn(self, delay_ns: int, own_ttl_ns: int) -> None:
        default = own_ttl_ns == lib.SHMQ_DELAY_DEFAULT
        ttl_ns = self._ttl_ns if default else own_ttl_ns
        if not 0 < ttl_ns <= delay_ns:
            return
        raise MessageExpired(
            explain(
                f"message for {self._what()}",
                f"a ttl of {ttl_ns / NS:g} s{', the default here,' if default else ''} "
                f"that ends before it is due in {delay_ns / NS:g} s",
                "a ttl longer than the delay",
                "give it a ttl= (math.inf: for ever), or a shorter delay",
            )
        )

    def _what(self) -> str:
        return f"queue {self.name!r}"

    def _publish_many_slow(
        self,
        messages: Iterable[Any],
        _done: int = 0,
        *,
        timeout: float | str | None = None,
    ) -> int:
        """Publish many messages in order, in few crossings into C; return how many.

        Not a transaction: others see each one as soon as it is in. Blocks like `publish`;
        ``timeout`` is for all together, and QueueFull's text says how many went.
        """
        deadline = deadline_of(timeout)
        done = _done
        waiting: list[bytes] = []
        try:
            for message in messages:
                if type(message) is bytes:
                    waiting.append(message)
                    if len(waiting) >= CHUNK:
                        done += self._send_all(waiting, deadline, done)
                    continue
                done += self._send_all(waiting, deadline, done)
                args = self._encoded(message_of(message, {}))
                last = False
                while (rc := self._send(*args)) < 0:
                    last = self._wait_for_room(rc, deadline, last, done)
                done += 1
        except QueueFull:
            raise
        except Exception:
            # The iterable or a message failed: what came before it goes all the same.
            self._send_all(waiting, deadline, done)
            raise
        return done + self._send_all(waiting, deadline, done)

    def _send_all(self, items: list[bytes], deadline: int, done: int) -> int:
        sent = 0
        last = False
        while sent < len(items):
            rc = self._send_many(items, sent)
            if rc > 0:
                sent += rc
                last = False
            else:
                last = self._wait_for_room(rc, deadline, last, done + sent)
        items.clear()
        return sent

    def _wait_for_room(self, rc: int, deadline: int, last: bool, done: int | None = None) -> bool:
        """Return for another attempt (whether it is the last one), or raise what ``rc`` stands for."""
        if rc == lib.SHMQ_E_FORKED:
            self._reattach()
            return last
        if rc != lib.SHMQ_FULL:
            self._client.check(rc, f"queue {self.name!r}")
            return last
        if last or deadline == 1 or self._overflow == lib.SHMQ_REJECT:
            advice = "add consumers, wait longer (timeout=) or raise the queue's max_depth"
            if self._overflow == lib.SHMQ_REJECT:
                advice = 'add consumers, raise max_depth, or create it with overflow="block"'
            went = "" if done is None else f" after {done} messages were published"
            raise QueueFull(
                explain(
                    f"queue {self.name!r}",
                    f"max_depth or max_bytes reached{went}",
                    "room within the timeout",
                    advice,
                )
            )
        ctx = ffi.cast("shmq_ctx *", self._ctx)
        return lib.shmq_wait_space(ctx, self._qref, deadline, ADAPTIVE) == lib.SHMQ_TIMEOUT

    async def apublish(
        self,
        message: Any,
        *,
        timeout: float | str | None = None,
        serializer: str | Serializer | None = None,
        **fields: Any,
    ) -> int:
        """Like `publish`, without blocking the event loop. Cancelling it publishes nothing."""
        if serializer is not None:
            message = self._serialized(message, serializer, fields)
            if isinstance(message, Encoded):  # a loan would have to wait for room by blocking
                message = message.to_bytes()
        deadline = deadline_of(timeout)
        args = self._encoded(message_of(message, fields))
        last = False
        while True:
            rc = self._send(*args)
            if rc >= 0:
                return rc
            if rc != lib.SHMQ_FULL or last or deadline == 1 or self._overflow == lib.SHMQ_REJECT:
                last = self._wait_for_room(rc, deadline, last)
                continue
            rc = await wait_in_thread(self._space_wait(deadline), lambda: None)
            last = rc == lib.SHMQ_TIMEOUT

    def _space_wait(self, deadline: int) -> Callable[[], int]:
        client, qref, ctx = self._client, self._qref, ffi.cast("shmq_ctx *", self._ctx)
        # Naming client keeps its mapping while the wait lasts.
        return lambda: lib.shmq_wait_space(ctx, qref, deadline, 0) if client is not None else 0

    def _loan_slow(self, nbytes: int, **fields: Any) -> Loan:
        """Return a context manager whose value is a writable memoryview in shared memory.

        Leaving the block publishes what was written there, without a copy; an exception in it
        publishes nothing. Its contents are undefined at first. ``fields`` are those of Message.
        The memoryview is invalid afterwards, and no slice or array made of it may be left.

            with queue.loan(1_000_000) as buffer:
                numpy.frombuffer(buffer)[:] = samples

        Raises (at the end): like `publish`; BufferError when something still refers to the buffer.
        """
        return Loan(self, parse_count(nbytes, "nbytes", 0, 1 << 40), fields)

    def _loan_wait(self, address: int) -> None:
        """Publish a loan of the accelerator that could not be published at once."""
        own = ffi.new("shmq_delivery *", ffi.cast("shmq_delivery *", address)[0])
        m = ffi.new("shmq_message *")
        m.size, m.ttl_ns = own.size, lib.SHMQ_DELAY_DEFAULT
        self._publish_loan(own, m, deadline_of(None))

    def _publish_loan(self, own: Any, m: Any, deadline: int) -> None:
        try:
            self._try_loan(own, m, deadline)
        except BaseException:
            lib.shmq_loan_abort(self._client.ctx, own)
            raise

    def _try_loan(self, own: Any, m: Any, deadline: int) -> None:
        last = False
        while (rc := lib.shmq_loan_publish(self._client.ctx, self._qref, own, m)) < 0:
            last = self._wait_for_room(rc, deadline, last)

    def _loan_refused(self) -> NoReturn:
        raise BufferError(
            explain(
                f"loan of queue {self.name!r}",
                "slices or arrays that still refer to the buffer",
                "none at the end of the block",
                "del them before; nothing was published",
            )
        )

    # ---- consuming -------------------------------------------------------------------------

    def subscribe(
        self,
        consumer_id: str | None = None,
        *,
        ack: Ack = "manual",
        prefetch: int = 1,
        max_unsettled: int | None = None,
    ) -> Consumer:
        """Return a consumer of this queue; each message goes to one of a queue's consumers.

        Args:
            consumer_id: A name for people; need not be unique.
            ack: "manual": each delivery is settled by its `ack`, `nack` or `reject`. "auto": acked
                when the next one is asked for, nacked with `x-error` when the body of a `with`
                raises. "none": at most once; the message is gone when it is handed over.
            prefetch: How many deliveries it may hold before it is asked for them (1: none).
            max_unsettled: How many may be handed out and not settled.
        """
        return Consumer(self, consumer_id, ack=ack, prefetch=prefetch, max_unsettled=max_unsettled)

    # ---- looking and administering ---------------------------------------------------------

    def depth(self) -> int:
        """Return how many messages are ready, without counting them one by one."""
        return self._call(lib.shmq_depth)

    def stats(self) -> QueueStats:
        """Return the queue's figures. Walks over all blocks: for people and monitors, not for loops."""
        census = ffi.new("shmq_census *")
        self._call(lib.shmq_queue_census, census)
        info = ffi.new("shmq_queue_info *")
        what = f"queue {self.name!r}"
        self._client.check(
            lib.shmq_queue_snapshot(self._client.ctx, index_of(self._qref), info), what
        )
        if info.ref != self._qref:
            self._client.check(lib.SHMQ_GONE, what)
        return stats_of(info, census)

    def purge(self) -> int:
        """Drop every message that is ready or waits for room; return how many.

        Unsettled and delayed ones stay.
        """
        return self._call(lib.shmq_purge)

    def peek(self, n: int = 1) -> list[Message]:
        """Return copies of up to ``n`` ready messages, those that are next first; changes nothing."""
        parse_count(n, "n", 0, MAX_PEEK)
        cursor = ffi.new("uint64_t *")
        d = ffi.new("shmq_delivery *")
        found: list[Message] = []
        while len(found) < n:
            rc = lib.shmq_peek(self._client.ctx, self._qref, cursor, d)
            if rc == lib.SHMQ_EMPTY:
                break
            if rc == lib.SHMQ_E_FORKED:
                self._reattach()
                continue
            self._client.check(rc, f"queue {self.name!r}")
            try:
                found.append(self._message(d))
            finally:
                lib.shmq_view_end(self._client.ctx, d.held, d.idx)
        return found

    def _message(self, d: Any) -> Message:
        meta = ffi.buffer(d.meta, d.meta_size)[:] if d.meta_size else None
        extra = ffi.buffer(d.extra, d.extra_size)[:] if d.extra_size else None
        reserved = decode_headers(meta) if meta else None
        return Message(
            ffi.buffer(d.data, d.size)[:],
            headers=headers_of(
                meta,
                extra,
                d.reason,
                lambda: name_then(self._client, d.origin, d.died_ns),
                d.died_ns,
                d.died_attempts,
            ),
            priority=d.priority,
            ttl=ttl_of(d.published_ns, d.expires_ns),
            key=reserved.key if reserved else None,
            dedup_id=reserved.dedup_id if reserved else None,
            id=d.id,
            timestamp=wall_clock(d.published_ns),
        )

    def shutdown(self, immediate: bool = False) -> None:
        """Take nothing in any more; consumers end when what is there has been settled.

        ``immediate`` drops what is ready or delayed, so that consumers end as soon as they have
        settled what they hold.
        """
        self._call(lib.shmq_queue_close)
        if immediate:
            self._call(lib.shmq_queue_discard)

    # ---- attachment ------------------------------------------------------------------------

    def _reattach(self) -> None:
        self._client.reattach()
        self._bind(self._client.address, self._qref)

    def _call(self, call: Callable[..., int], *args: Any) -> int:
        rc = call(self._client.ctx, self._qref, *args)
        if rc == lib.SHMQ_E_FORKED:
            self._reattach()
            rc = call(self._client.ctx, self._qref, *args)
        client: Client = self._client
        return client.check(rc, f"queue {self.name!r}")

    def __reduce__(self) -> Any:
        return _reopen, (self._client.name, self.name)

    def __repr__(self) -> str:
        return f"<shmq.Queue {self.name!r} of broker {self._client.name!r}>"


def _reopen(broker: str, name: str) -> Queue:
    return Queue(Client.connect(broker), name)
