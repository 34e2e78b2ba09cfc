"""Consumer: a stream of deliveries from one queue.

The parts called for every message, `get`, `get_many` and iteration, are in `ConsumerBase`
(native/accel/consumer.c or shmq/_native/pure); what they cannot finish comes to `_recover`.

What a consumer holds is written down in shared memory and in its own list of leases before any
Python code runs, so Ctrl-C anywhere loses nothing: `close` gives back whatever is not settled.
"""

from __future__ import annotations

import threading
import time
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from shmq._aio import ITEMS, Turn, breathe, pause, task_number, wake
from shmq._client import ADAPTIVE, client_of, context_of, record_of
from shmq._native import ConsumerBase, lib
from shmq._native.settling import settle_all
from shmq._values import parse_choice, parse_count
from shmq.delivery import ACK, NACK, Delivery, error_headers, give_back
from shmq.errors import (
    BrokerNotRunning,
    InvalidOption,
    InvalidOptionType,
    LimitReached,
    QueueClosed,
    QueueEmpty,
    ShmqError,
    StaleDelivery,
    explain,
)
from shmq.message import deadline_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from shmq.keywords import Ack, Seconds
    from shmq.queue import Queue

__all__ = ["Consumer"]

ACK_MODES = ("manual", "auto", "none")
AUTO: int = lib.SHMQ_ACK_AUTO
CONSUMER_CLOSED, CONSUMER_LIMIT = lib.SHMQ_CONSUMER_CLOSED, lib.SHMQ_CONSUMER_LIMIT
FAIRNESS = 64  # deliveries that an async loop takes in a row before other tasks may run


class Consumer(ConsumerBase):
    """Deliveries from one queue, in the order of the queue. Made by `Queue.subscribe`.

    Iterate over it, or call `get` and `get_many`. It may be shared by threads. Closing it, best by
    `with`, gives back what it holds.
    """

    __slots__ = {  # noqa: RUF023 - what users see comes first
        "id": "The name that it was given, or None.",
        "queue": "The queue that it takes from; of a subscription, the one behind it.",
        "queue_name": "That queue's name.",
        "_passed": None,
        "__weakref__": None,
    }

    if TYPE_CHECKING:  # what ConsumerBase hands out is made by this

        def __next__(self) -> Delivery: ...  # noqa: D102
        def get(self, timeout: Seconds | None = None) -> Delivery: ...  # noqa: D102
        def get_many(self, max_n: int, timeout: Seconds | None = None) -> list[Delivery]: ...  # noqa: D102
        def ack_many(self, deliveries: Iterable[Delivery], /) -> int: ...  # type: ignore[override]  # noqa: D102

    def __init__(
        self,
        queue: Queue,
        consumer_id: str | None = None,
        *,
        ack: Ack = "manual",
        prefetch: int = 1,
        max_unsettled: int | None = None,
    ) -> None:
        if consumer_id is not None and not isinstance(consumer_id, str):
            raise InvalidOptionType(
                explain("consumer_id", f"{consumer_id!r}", "a text", "leave it out if it has none")
            )
        mode = ACK_MODES.index(parse_choice(ack, "ack", ACK_MODES))
        parse_count(prefetch, "prefetch", 1, lib.SHMQ_HELD)
        if max_unsettled is not None:
            parse_count(max_unsettled, "max_unsettled", 1, lib.SHMQ_HELD)
            if mode == lib.SHMQ_ACK_NONE:
                raise InvalidOption(
                    explain("max_unsettled", 'ack="none"', "an ack mode that settles", "drop one")
                )
        self.queue = queue
        self.queue_name: str = queue.name
        self.id = consumer_id
        self._passed = 0
        super().__init__(
            client_of(queue),
            context_of(queue),
            record_of(queue),
            mode,
            prefetch,
            max_unsettled or 0,
            ADAPTIVE,
            Delivery,
        )
        where = f"queue {self.queue_name!r}"
        todo = "wait longer (timeout=), or publish one"
        self._empty = QueueEmpty, explain(where, "no message in time", "one", todo)

    @property
    def ack_mode(self) -> str:
        """How deliveries are settled: "manual", "auto" or "none"."""
        return ACK_MODES[self._mode]

    # ---- iteration -------------------------------------------------------------------------

    def __iter__(self) -> Self:
        """Iterate over deliveries until the queue is shut down and drained.

        With ack="auto", a loop that was left by an exception or `break` did not say whether its
        last message was done: entering a loop again nacks it.
        """
        if self._mode == AUTO:
            self._settle_mine(NACK, 1, None, None)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(error, None)

    def _leave(self, error: BaseException | None, owner: int | None) -> None:
        # Ctrl-C and exit() say nothing about the message: close() gives it back.
        if self._mode == AUTO and isinstance(error, Exception):
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self._settle_mine(NACK, -1, owner, error_headers(text))
        elif self._mode == AUTO and error is None:
            self._settle_mine(ACK, 0, owner, None)
        self.close()

    def close(self) -> None:
        """Give back every unsettled delivery and everything read ahead; idempotent, never blocks.

        What was handed out comes to another consumer with `attempt` + 1, what was only read ahead
        as if it had never been taken. Other threads waiting in this consumer get QueueClosed.
        """
        if not self.closed:
            self._close()
            self._wake()

    # ---- what the fast paths leave to Python -----------------------------------------------

    def _deadline(self, timeout: Any) -> int:
        return deadline_of(timeout)

    def _recover(self, rc: int, deadline_ns: int) -> None:
        """Return for another attempt after the outcome ``rc``, or raise what it stands for."""
        if rc == lib.SHMQ_TIMEOUT:
            raise QueueEmpty(self._empty[1])
        if rc == lib.SHMQ_E_FORKED:
            self._client.reattach()
            self._bind(self._client.address, self._qref)
        elif rc == CONSUMER_LIMIT:
            self._wait_for_settle(deadline_ns)
        elif rc == CONSUMER_CLOSED:
            raise QueueClosed(
                explain(
                    f"consumer of queue {self.queue_name!r}",
                    "it was closed",
                    "an open one",
                    "subscribe() again",
                )
            )
        elif rc < 0:
            self._client.check(rc, f"queue {self.queue_name!r}")

    def _wait_for_settle(self, deadline_ns: int) -> None:
        limit = self.unsettled
        if not _others_could_settle():
            raise LimitReached(
                explain(
                    f"consumer of queue {self.queue_name!r}",
                    f"{limit} unsettled deliveries, which is max_unsettled, in the only thread",
                    "one of them settled before the next get",
                    "ack() them, or raise max_unsettled",
                )
            )
        pause = 0.0002
        while self.unsettled >= limit and not self.closed:
            if deadline_ns and lib.shmq_now() >= deadline_ns:
                raise QueueEmpty(
                    explain(
                        f"consumer of queue {self.queue_name!r}",
                        f"{limit} unsettled deliveries, which is max_unsettled",
                        "one of them settled in time",
                        "settle faster, wait longer (timeout=), or raise max_unsettled",
                    )
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.01)

    def release_many(self, deliveries: Iterable[Delivery], /) -> int:
        """Give all of ``deliveries`` back at once, as `Delivery.release` does; return how many.

        Raises: StaleDelivery when the lease of any has moved on; the others are given back all the same.
        """
        given, stale, rc = settle_all(deliveries, give_back, Delivery, "release_many", "given back")
        if rc != lib.SHMQ_OK:
            self._many_failed("release_many", "given back", rc, given, stale)
        return given

    def _ack_many_failed(self, rc: int, acked: int, stale: int) -> NoReturn:
        self._many_failed("ack_many", "acked", rc, acked, stale)

    def _many_failed(self, call: str, done: str, rc: int, settled: int, stale: int) -> NoReturn:
        what = f"{call} on queue {self.queue_name!r}"
        if rc != lib.SHMQ_STALE:
            self._client.check(rc, what)
        raise StaleDelivery(
            explain(
                what,
                f"{stale} deliveries whose lease has moved on (the other {settled} are {done})",
                "leases that are still held",
                "do not settle twice; touch() a delivery that takes long, or raise ack_timeout",
            )
        )

    # ---- asyncio ---------------------------------------------------------------------------

    async def aget(self, timeout: float | str | None = None) -> Delivery:
        """Like `get`, without blocking the event loop. Cancelling it takes nothing."""
        delivery = await self._aget(deadline_of(timeout), False)
        if delivery is None:
            self._recover(lib.SHMQ_TIMEOUT, 0)
        return delivery  # type: ignore[return-value]

    async def aget_many(self, max_n: int, timeout: float | str | None = None) -> list[Delivery]:
        """Like `get_many`, without blocking the event loop. Cancelling it takes nothing."""
        parse_count(max_n, "max_n", 1, 1 << 62)
        found = [await self.aget(timeout)]
        me = task_number()
        while len(found) < max_n:
            try:
                delivery = self._poll(me, False)
            except ShmqError:  # whatever it is, the next call says it
                break
            if delivery is None:
                break
            found.append(delivery)
        return found

    def __aiter__(self) -> Self:
        if self._mode == AUTO:
            self._settle_mine(NACK, 1, task_number(), None)
        return self

    async def __anext__(self) -> Delivery:
        try:
            delivery = await self._aget(0, True)
        except (QueueClosed, BrokerNotRunning):  # closed and drained; of a broker that ended
            raise StopAsyncIteration from None
        assert delivery is not None
        return delivery

    async def _aget(self, deadline: int, looped: bool) -> Delivery | None:
        me = task_number()
        if self._mode == AUTO:
            self._settle_mine(ACK, -1, me, None)
        self._passed += 1
        if self._passed % FAIRNESS == 0:
            await breathe()
        nap = 0.0002
        with Turn() as turn:
            while True:
                try:
                    delivery = self._poll(me, looped)
                except (LimitReached, QueueEmpty):
                    # max_unsettled. Another task may settle; the core has no word to wait on for that.
                    await pause(nap)
                    nap = min(nap * 2, 0.01)
                    if deadline and lib.shmq_now() >= deadline:
                        return None
                    continue
                if delivery is not None:
                    return delivery  # type: ignore[no-any-return]
                if deadline and lib.shmq_now() >= deadline:
                    return None
                await self._wait(turn, deadline)

    async def _wait(self, turn: Turn, deadline: int) -> None:
        await turn.wait(self._client, self._ctx, self._qref, ITEMS, deadline)

    def _wake(self) -> None:
        wake(self._ctx, self._qref)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(error, task_number())

    # ---- the rest --------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.unsettled} unsettled"
        return f"<shmq.Consumer {self.id or ''} of {self.queue_name!r}, {state}>".replace("  ", " ")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            explain(
                f"consumer of queue {self.queue_name!r}",
                "an attempt to pickle it",
                "its queue",
                "leases belong to one process; send the Queue and subscribe() there",
            )
        )


def _others_could_settle() -> bool:
    me = threading.current_thread()
    return any(
        thread is not me
        and not isinstance(thread, threading.Timer)
        and not thread.name.startswith("shmq-")
        for thread in threading.enumerate()
    )
