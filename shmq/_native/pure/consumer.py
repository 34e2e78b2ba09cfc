"""ConsumerBase: taking, and settling what was taken.

A lease is registered with its consumer before the call that fills it. An exception between the
two (Ctrl-C) leaves a filled lease without a Delivery: close() gives it back.
"""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shmq._native._shmq import ffi, lib
from shmq._native.pure.delivery import DeliveryBase, Lease, end_of_views
from shmq._native.settling import settle_all

if TYPE_CHECKING:
    from typing_extensions import Self

CONSUMER_CLOSED, CONSUMER_LIMIT = lib.SHMQ_CONSUMER_CLOSED, lib.SHMQ_CONSUMER_LIMIT
AUTO, NONE = lib.SHMQ_ACK_AUTO, lib.SHMQ_ACK_NONE
ACK, NACK = lib.SHMQ_ACK, lib.SHMQ_NACK
REJECT, RELEASE = lib.SHMQ_REJECTED, lib.SHMQ_RELEASE
_FOR_GOOD = (lib.SHMQ_STALE, lib.SHMQ_GONE)


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
                lease.state = Lease.SETTLED
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
        return sum(lease.state == Lease.LIVE for lease in list(self._leases.values()))

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
        lease.state = Lease.VIEWED if viewed else Lease.SETTLED
        self._leases.pop(id(lease), None)
        end_of_views(lease)
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
        lease.state = Lease.VIEWED if viewed else Lease.SETTLED
        self._leases.pop(id(lease), None)
        end_of_views(lease)
        return rc

    def _settle_mine(self, kind: int, looped: int, thread: int | None, extra: bytes | None) -> int:
        """Settle what `thread` holds of the loop (looped 1), otherwise (0) or all (-1); how many."""
        me = threading.get_ident() if thread is None else thread
        done = 0
        for lease in list(self._leases.values()):
            if lease.state != Lease.LIVE or lease.thread != me or looped == (not lease.looped):
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
            lease.state = Lease.LIVE
            given += self._lease_settle(lease, RELEASE, 0, None) >= 0
            lease.state = Lease.VIEWED if lease.state == Lease.VIEWED else Lease.SETTLED
        self._leases.clear()
        return given

    def ack_many(self, deliveries: Iterable[DeliveryBase], /) -> int:
        """Ack all of ``deliveries`` in few crossings into C; return how many.

        Raises: StaleDelivery when the lease of any has moved on; the others are acked all the same.
        """
        acked, stale, rc = settle_all(
            deliveries, lambda d: d._settle(ACK, 0, None), DeliveryBase, "ack_many", "acked"
        )
        return acked if rc == lib.SHMQ_OK else self._ack_many_failed(rc, acked, stale)

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
            lease.thread, lease.looped, lease.state = thread, looped, Lease.LIVE
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
