"""DeliveryBase, and the lease behind it: what is taken and not settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from shmq._native._shmq import ffi, lib
from shmq._native.structs import message_struct

if TYPE_CHECKING:
    from typing_extensions import Self

    from shmq._native._shmq import CData
    from shmq._native.pure.consumer import ConsumerBase

EAGER = lib.SHMQ_EAGER
NONE, ACK = lib.SHMQ_ACK_NONE, lib.SHMQ_ACK


class Lease:
    """What is taken and not settled: a delivery struct and who it was handed to."""

    SETTLED, LIVE, VIEWED = 0, 1, 2  # the last: settled, and somebody reads its block

    __slots__ = ("batch", "ctx", "d", "looped", "state", "thread", "views")

    def __init__(self, ctx: CData, d: CData) -> None:
        self.ctx = ctx
        self.d = d
        self.batch: CData = None  # the array that d lies in, which d alone would not keep
        self.state = Lease.SETTLED
        self.thread = 0
        self.looped = False
        self.views: list[None] = []


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
            if lease.state != Lease.LIVE:
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
        if lease.state != Lease.LIVE:
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
        if lease.state != Lease.LIVE:
            return lib.SHMQ_STALE
        m, keep = message_struct(payload, meta, ttl, delay, priority, key, dedup)
        if payload is None:
            m.data, m.size = lease.d.data, lease.d.size
        rc = self._consumer._lease_forward(lease, target, m)
        del keep
        return rc if rc < 0 else int(m.id)

    def _view(self) -> memoryview:
        lease = self._lease
        if lease.state != Lease.LIVE:
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
        end_of_views(lease)

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
        return self._lease.state != Lease.LIVE

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


def end_of_views(lease: Lease) -> None:
    """Free the block of a settled lease when its last view is gone; exactly one caller does."""
    if lease.views or lease.state != Lease.VIEWED:
        return
    d, held = lease.d, lease.d.held
    if held:
        d.held = 0
        lib.shmq_view_end(lease.ctx, held, d.idx)
    lease.state = Lease.SETTLED
