"""Delivery: one message in one consumer's hands, until it is settled.

The parts called for every message, `payload` and `ack`, are in `DeliveryBase` (native/accel/delivery.c or
shmq/_native/pure). Everything else is here, over cffi.

A view may outlive the settle, and even the Delivery: what `_view` makes holds the block until the last
memoryview that reads it is gone. Its end may come in any thread, in a forked child and while the
interpreter shuts down; it takes no lock and never raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, NoReturn

from shmq._client import client_of, record_of
from shmq._native import DeliveryBase, ffi, lib, names_of
from shmq._records import name_then
from shmq._sender import Sender, encode_for, levels_of, wait_for_room
from shmq._values import MAX_SECONDS, NS, parse_duration
from shmq.errors import RESULTS, InvalidOption, StaleDelivery, explain
from shmq.message import (
    Decoded,
    bytes_of,
    contiguous,
    deadline_of,
    decode_headers,
    encode_headers,
    message_of,
)
from shmq.serializers import CONTENT_TYPE, Serializer, find, find_by_content_type

if TYPE_CHECKING:
    from shmq.keywords import HeaderValue

__all__ = ["Delivery", "attempts_of", "give_back", "is_settled", "meta_of", "reason_of", "settle"]

ACK, NACK, REJECT, RELEASE = (
    lib.SHMQ_ACK, lib.SHMQ_NACK, lib.SHMQ_REJECTED, lib.SHMQ_RELEASE,
)  # fmt: skip
MAX_ERROR_BYTES = 8192
ONE_MOMENT_NS = 100_000  # readings of two clocks no further apart are of one moment
EAGER: int = lib.SHMQ_EAGER  # payloads up to this size are bytes already
DEATHS = ("", *names_of("shmq_reason", "SHMQ_R_")[1:])
_NO_ERROR = {
    "retries": "not settled in {} attempts",
    "rejected": "rejected without a reason",
    "expired": "outlived its ttl",
    "overflow": "dropped from a full queue",
}


mode_of: Callable[[Any], int] = attrgetter("_mode")  # a consumer's way of settling

# What a delivery keeps for the package. Its users do not see it: it is asked for here.
meta_of: Callable[[Any], bytes | None] = attrgetter("_meta")  # its headers, encoded
# Why it died, a place in DEATHS; 0: it did not. And how many attempts there were before.
reason_of: Callable[[Any], int] = attrgetter("_reason")
attempts_of: Callable[[Any], int] = attrgetter("_died_attempts")
is_settled: Callable[[Any], bool] = attrgetter("_settled")
give_back: Callable[[Any], int] = methodcaller("_settle", RELEASE, 0, None)


class Delivery(DeliveryBase):
    """One delivered message and the right to settle it.

    Exactly one of `ack`, `nack`, `reject`, `release` and `forward` settles it. Whoever does nothing keeps the message
    until the consumer closes or its process ends; then another consumer gets it, with `attempt` + 1.
    """

    __slots__ = ()

    # ---- settling --------------------------------------------------------------------------

    def nack(self, delay: float | str | None = None, reason: str | None = None) -> None:
        """Put the message back for another attempt.

        It comes back after the queue's backoff, or after ``delay`` seconds (0: at once); past
        `max_retries` it goes to the dead-letter queue instead. ``reason`` becomes its `x-error`,
        which the next attempt sees in the headers. Blocks on nothing.

        Raises: StaleDelivery when the lease has moved on or was settled before; ValueError for a
            negative delay.
        """
        delay_ns = lib.SHMQ_DELAY_DEFAULT
        if delay is not None:
            seconds = parse_duration(delay, "delay")
            if seconds is not None:
                delay_ns = round(seconds * NS)
        self._settle_or_raise(NACK, delay_ns, _as_error(reason))

    def reject(self, reason: str | None = None) -> None:
        """Send the message to the dead-letter queue at once; ``reason`` becomes its `x-error`.

        Without a dead-letter queue the message is dropped. Blocks on nothing.

        Raises: StaleDelivery when the lease has moved on or was settled before.
        """
        self._settle_or_raise(REJECT, 0, _as_error(reason))

    def release(self) -> None:
        """Give the message back at once: the next consumer gets it, before all that is new.

        There is no backoff. An attempt counts; past `max_retries` the message goes to the dead-letter
        queue instead. Blocks on nothing.

        Raises: StaleDelivery when the lease has moved on or was settled before.
        """
        self._settle_or_raise(RELEASE, 0, None)

    def forward(
        self,
        target: Sender,
        payload: Any = None,
        *,
        timeout: float | str | None = None,
        **fields: Any,
    ) -> int:
        """Publish to ``target`` and ack, both or neither; return the new message's id.

        Wherever this process is killed, the message is afterwards either still to be delivered here
        or there in ``target``, never both and never neither. With a `dedup_id` that ``target`` has
        had within its `dedup_window` nothing is published, and the delivery is settled all the same.

        ``payload`` is a bytes-like object; left out, it is the delivery's own. Headers, priority,
        key and dedup_id are the delivery's own too unless ``fields`` (those of Message) say
        otherwise; ttl and delay are not. ``target`` is a queue or a topic of the same broker; a
        topic's subscriptions get it all or none, and without any it is an ack.

        Blocks only while ``target`` is full and its overflow policy is "block"; ``timeout`` seconds
        at most (None: for ever, 0: not at all).

        Raises: StaleDelivery when the lease has moved on or was settled before. QueueFull,
            QueueClosed, QueueNotFound, TopicNotFound, MessageTooLarge, OutOfSharedMemory,
            TypeError, ValueError as for `Queue.publish`: the delivery is then as it was, and can
            be settled otherwise.
        """
        self._must_be_near(target)
        deadline = deadline_of(timeout)
        meta: bytes | None = self._meta
        ttl, delay = lib.SHMQ_DELAY_DEFAULT, 0
        priority = min(self.priority, levels_of(target) - 1)
        key: bytes | None = None
        dedup: bytes | None = None
        if fields or meta:
            own = self._decoded()
            if fields:
                inherited = {
                    "headers": own.headers, "priority": priority, "key": own.key,
                    "dedup_id": own.dedup_id,
                }  # fmt: skip
                m = message_of(b"", inherited | fields)
                _, meta, ttl, delay, priority, key, dedup = encode_for(target, m)
            else:
                key, dedup = bytes_of(own.key), bytes_of(own.dedup_id)
        if payload is not None and type(payload) is not bytes:
            payload = contiguous(payload)
        last = False
        while True:
            rc = self._forward(record_of(target), payload, meta, ttl, delay, priority, key, dedup)
            if rc >= 0:
                return rc
            if rc in (lib.SHMQ_STALE, lib.SHMQ_E_FORKED):
                self._ack_failed(rc)
            last = wait_for_room(target, rc, deadline, last)

    def _must_be_near(self, target: object) -> None:
        if not isinstance(target, Sender):
            raise TypeError(
                explain(
                    "target",
                    type(target).__name__,
                    "a Queue or a Topic",
                    "see Broker.get_queue and Broker.get_topic",
                )
            )
        here, there = client_of(self._consumer), client_of(target)
        if there is not here:
            raise ValueError(
                explain(
                    f"target {target.name!r}",
                    f"one of broker {there.name!r}",
                    f"one of broker {here.name!r}, as the delivery",
                    "publish there, then ack: at least once",
                )
            )

    def touch(self, seconds: float | str) -> None:
        """Keep the lease for another ``seconds`` from now, whatever the queue's `ack_timeout`.

        Raises: StaleDelivery when the lease has moved on already.
        """
        duration = parse_duration(seconds, "seconds")
        if duration is None or duration <= 0:
            raise InvalidOption(
                explain("seconds", f"{seconds!r}", "more than 0", "use nack() to give it back")
            )
        rc = lib.SHMQ_STALE if self._settled else lib.shmq_touch(
            ffi.cast("shmq_ctx *", self._ctx),
            ffi.cast("shmq_delivery *", self._address),
            round(duration * NS),
        )  # fmt: skip
        if rc < 0:
            self._ack_failed(rc)

    def _settle_or_raise(self, kind: int, delay_ns: int, extra: bytes | None) -> None:
        rc = self._settle(kind, delay_ns, extra)
        if rc < 0:
            self._ack_failed(rc)

    def _ack_failed(self, rc: int) -> NoReturn:
        what = f"delivery of message {self.id} from queue {self.queue!r}"
        if rc == lib.SHMQ_E_FORKED:
            raise StaleDelivery(
                explain(
                    what,
                    "a lease of the process that this one was forked from",
                    "a lease of this process",
                    "settle it in the process that got it",
                )
            )
        if rc == lib.SHMQ_STALE and mode_of(self._consumer) == lib.SHMQ_ACK_NONE:
            raise StaleDelivery(
                explain(
                    what,
                    'a consumer with ack="none"',
                    "one that settles",
                    "leave the call out, or subscribe with ack='manual'",
                )
            )
        client_of(self._consumer).check(rc, what)
        raise RESULTS["SHMQ_STALE"][0](what)

    # ---- reading ---------------------------------------------------------------------------

    @property
    def view(self) -> memoryview:
        """A read-only memoryview of the payload in shared memory; nothing is copied.

        It stays readable after the settle, as do slices and arrays made of it: the memory is given
        back when the last of them is gone. In a forked child the memory is not mapped.

        Raises: StaleDelivery when the delivery is settled already.
        """
        if mode_of(self._consumer) == lib.SHMQ_ACK_NONE:
            return memoryview(self.payload)  # copied already: the block is gone
        return self._view()

    def object(self, serializer: str | Serializer | None = None, *, copy: bool = False) -> Any:
        """Return the object in the payload.

        It is read by ``serializer``, a name or an object, or by the one that the header `content-type`
        names. What it has of large buffers (arrays of `pickle`, columns of `arrow`, all of `raw`) are
        read-only views into shared memory, whose block stays until the last of them is gone; with
        ``copy`` they are the object's own.

        Raises: StaleDelivery for a payload above 4 KiB of a settled delivery; InvalidOption for an
            unknown content type; MissingPackage when the serializer's package is not installed;
            whatever the serializer raises for a payload that is not its own.
        """
        if serializer is not None:
            codec = find(serializer)
        else:
            content_type = self.headers.get(CONTENT_TYPE)
            codec = find_by_content_type(content_type, f"message {self.id} of {self.queue!r}")
        small = self.size <= EAGER
        return codec.decode(memoryview(self.payload) if small else self.view, copy=copy)

    @property
    def queue(self) -> str:
        """Name of the queue that it came from."""
        return self._consumer.queue_name  # type: ignore[no-any-return]

    def _headers_slow(self) -> dict[str, HeaderValue]:
        return headers_of(
            self._meta,
            self._extra,
            self._reason,
            lambda: name_then(client_of(self._consumer), self._origin, self._died_ns),
            self._died_ns,
            self._died_attempts,
        )

    @property
    def timestamp(self) -> float:
        """When it was published: seconds since 1970, by this machine's clock."""
        return wall_clock(self._published_ns)

    @property
    def ttl(self) -> float | None:
        """Seconds from publish to expiry; None is never."""
        return ttl_of(self._published_ns, self._expires_ns)

    @property
    def delay(self) -> None:
        """None: whatever the delay was, it is over."""
        return

    @property
    def key(self) -> str | bytes | None:
        """The message's key."""
        return self._decoded().key

    @property
    def dedup_id(self) -> str | bytes | None:
        """The message's deduplication id."""
        return self._decoded().dedup_id

    def _decoded(self) -> Decoded:
        return decode_headers(self._meta) if self._meta else Decoded({})

    def __repr__(self) -> str:
        state = "settled" if self._settled else "unsettled"
        return f"<shmq.Delivery {self.id} of {self.queue!r}, attempt {self.attempt}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            explain(
                f"delivery of message {self.id}",
                "an attempt to pickle it",
                "its payload",
                "a lease belongs to one process; send delivery.payload instead",
            )
        )


def settle(delivery: Any, kind: int) -> int:
    """Settle ``delivery`` as ``kind`` (`ACK`, `RELEASE`) says; return the result instead of raising it."""
    rc: int = delivery._settle(kind, 0, None)
    return rc


def _as_error(reason: str | None) -> bytes | None:
    if reason is not None and not isinstance(reason, str):
        raise TypeError(
            explain("reason", f"{reason!r}", "a text", "say str(reason) if that is meant")
        )
    return None if reason is None else error_headers(reason)


# ---- shared with Queue.peek ---------------------------------------------------------------------


def error_headers(text: str) -> bytes:
    """Return the encoding of ``x-error``; of a long text the end, where tracebacks say what."""
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_ERROR_BYTES:
        text = "…" + data[-MAX_ERROR_BYTES:].decode("utf-8", "ignore")
    return encode_headers({"x-error": text})


def wall_clock(monotonic_ns: int) -> float:
    """Return the wall clock time (seconds since 1970) of a CLOCK_MONOTONIC time."""
    for _ in range(16):
        before, wall, after = lib.shmq_now(), time.time_ns(), lib.shmq_now()
        if after - before < ONE_MOMENT_NS:  # else the process was stopped in between
            break
    return (wall - (before + after) // 2 + monotonic_ns) / NS


def ttl_of(published_ns: int, expires_ns: int) -> float | None:
    """Return seconds from publish to expiry; None when it never expires.

    Always a ttl that a message can have, whatever the two times say.
    """
    if not expires_ns:
        return None
    return min(max(expires_ns - published_ns, 1) / NS, MAX_SECONDS)


def headers_of(
    meta: bytes | None,
    extra: bytes | None,
    reason: int,
    origin: Any,
    died_ns: int,
    died_attempts: int,
) -> dict[str, HeaderValue]:
    """Return the headers published with a message and those added since."""
    headers = decode_headers(meta).headers if meta else {}
    if extra:
        headers.update(decode_headers(extra).headers)
    if reason:
        death = DEATHS[reason] if reason < len(DEATHS) else str(reason)
        headers.setdefault("x-error", _NO_ERROR.get(death, death).format(died_attempts))
        headers["x-death-reason"] = death
        headers["x-death-queue"] = origin()
        headers["x-death-time"] = wall_clock(died_ns)
        headers["x-attempts"] = died_attempts
    return headers
