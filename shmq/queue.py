"""Queue: publish into it, subscribe to it, look at it.

A Queue is a name, a broker and a number: it pickles as the first two and attaches again on arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from shmq._client import Client
from shmq._loan import Loan, publish_lent, refuse_referred
from shmq._native import QueueBase, ffi, lib
from shmq._records import index_of, name_then, options_of
from shmq._sender import Sender
from shmq._values import parse_count
from shmq.consumer import Consumer
from shmq.delivery import headers_of, ttl_of, wall_clock
from shmq.errors import explain
from shmq.message import Message, deadline_of, decode_headers
from shmq.serializers import Encoded
from shmq.stats.queue import QueueStats, stats_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from typing_extensions import Unpack

    from shmq.keywords import Ack, MessageKeywords, Seconds

__all__ = ["Queue"]

MAX_PEEK: int = lib.SHMQ_BLOCKS


class Queue(Sender, QueueBase):
    """A queue of a broker. Made by `Broker.create_queue` and `Broker.get_queue`.

    May be shared by threads, used in forked children, and sent to other processes by pickling.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def loan(  # type: ignore[override]  # noqa: D102
            self,
            nbytes: int,
            *,
            timeout: Seconds | None = None,
            **fields: Unpack[MessageKeywords],
        ) -> AbstractContextManager[memoryview]: ...

    def __init__(self, client: Client, name: str, qref: int | None = None) -> None:
        what = f"queue {name!r}"
        if qref is None:
            qref = client.check(lib.shmq_queue_open(client.ctx, name.encode()), what)
        info = ffi.new("shmq_queue_info *")
        client.check(lib.shmq_queue_snapshot(client.ctx, index_of(qref), info), what)
        options = info.options
        if not 1 <= options.priorities <= lib.SHMQ_LEVELS:
            options_of(info)  # says what is wrong
        super().__init__(
            client,
            name,
            qref,
            overflow=options.overflow,
            priorities=options.priorities,
            ttl_ns=options.ttl_ns,
        )

    # ---- room ------------------------------------------------------------------------------

    def _what(self) -> str:
        return f"queue {self.name!r}"

    def _full(self, went: str) -> str:
        advice = "add consumers, wait longer (timeout=) or raise the queue's max_depth"
        if self._overflow == lib.SHMQ_REJECT:
            advice = 'add consumers, raise max_depth, or create it with overflow="block"'
        return explain(
            self._what(),
            f"max_depth or max_bytes reached{went}",
            "room within the timeout",
            advice,
        )

    # ---- loans -----------------------------------------------------------------------------

    def _publish_encoded(
        self, encoded: Encoded, timeout: float | str | None, fields: dict[str, Any]
    ) -> int:
        loan = Loan(self, encoded.size, {"timeout": timeout, **fields})
        with loan as buffer:
            encoded.write(buffer)
        return loan.id

    def _loan_slow(self, nbytes: int, **fields: Any) -> Loan:
        """What `loan` is, where the accelerator leaves it."""
        return Loan(self, parse_count(nbytes, "nbytes", 0, 1 << 40), fields)

    def _loan_wait(self, address: int) -> None:
        """Publish a loan of the accelerator that could not be published at once."""
        own = ffi.new("shmq_delivery *", ffi.cast("shmq_delivery *", address)[0])
        m = ffi.new("shmq_message *")
        m.size, m.ttl_ns = own.size, lib.SHMQ_DELAY_DEFAULT
        publish_lent(self, own, m, deadline_of(None))

    def _loan_refused(self) -> NoReturn:
        refuse_referred(self.name)

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
        what = self._what()
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
        """Return copies of up to ``n`` ready messages, those that are next first; changes nothing.

        What came back is shown in the order of its coming back.
        """
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
            self._client.check(rc, self._what())
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

    def _call(self, call: Callable[..., int], *args: Any) -> int:
        rc = call(self._client.ctx, self._qref, *args)
        if rc == lib.SHMQ_E_FORKED:
            self._reattach()
            rc = call(self._client.ctx, self._qref, *args)
        client: Client = self._client
        return client.check(rc, self._what())

    def __reduce__(self) -> Any:
        return _reopen, (self._client.name, self.name)

    def __repr__(self) -> str:
        return f"<shmq.Queue {self.name!r} of broker {self._client.name!r}>"


def _reopen(broker: str, name: str) -> Queue:
    return Queue(Client.connect(broker), name)
