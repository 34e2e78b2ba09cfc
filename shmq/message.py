"""Message: what is published, and how its headers travel.

Headers are encoded once by the publisher and stored behind the payload; a reader that does not ask
for them pays nothing. The encoding, entry after entry:

    kind:u8 | length of key:varint | key, UTF-8 | value

    0 None   1 False   2 True   3 int: length:varint, two's complement, little-endian
    4 float: 8 bytes, IEEE 754, little-endian   5 str, 6 bytes: length:varint, bytes
    7 deduplication id, 8 key: no key of their own, the value is a str; 9, 10 the same as bytes

A varint is 7 bits per byte, low bits first, the top bit says that more follow. Unknown kinds are an
error: a segment is read by the build that wrote it (the layout fingerprint sees to that).
"""

from __future__ import annotations

import dataclasses
import math
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from shmq._native import decode_fields, lib
from shmq._values import MAX_SECONDS, NS, parse_duration
from shmq.errors import CorruptSegment, MessageTooLarge, explain

if TYPE_CHECKING:
    import datetime

    from typing_extensions import Buffer

    from shmq.keywords import HeaderValue

__all__ = ["MAX_HEADER_BYTES", "MAX_PRIORITY", "Message", "decode_headers", "encode_headers"]

MAX_HEADER_BYTES = 65_535
MAX_PRIORITY: int = lib.SHMQ_LEVELS - 1
QUEUE_DEFAULT: int = lib.SHMQ_DELAY_DEFAULT  # ttl of a message that leaves it to the queue

_DOUBLE = struct.Struct("<d")
_FIELDS = frozenset(
    ("headers", "priority", "ttl", "delay", "deliver_at", "dedup_id", "key", "id", "timestamp")
)


@dataclass(frozen=True)
class Message:
    """A payload with what is known about it. Immutable; the same one may be published repeatedly.

    Args:
        payload: Any bytes-like object. It is copied when the message is published, not before.
        headers: Names to str, bytes, int, float, bool or None; up to 64 KiB when encoded.
        priority: 0 (lowest) to 9, below the queue's number of levels.
        ttl: Seconds, or text such as "250ms", after which it is no longer delivered. None: the
            queue's default. `math.inf`: never.
        delay: Seconds before it becomes visible to consumers.
        deliver_at: The same as a point in time, a `datetime` (a naive one is local time) or seconds
            since 1970; one that is past means at once. Turned into a delay when it is published:
            setting the machine's clock afterwards moves nothing.
        dedup_id: Publishes with equal ids within the queue's `dedup_window` count once.
        key: For `order="key"`: messages of one key are settled one after the other, in order.
        id, timestamp: Set on what was published: a number unique in its broker, and seconds since
            1970.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a negative time, one that is not a number, a priority out of range.
    """

    payload: Any = b""
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    priority: int = 0
    ttl: float | None = None
    delay: float | None = None
    dedup_id: str | bytes | None = None
    key: str | bytes | None = None
    id: int | None = None
    timestamp: float | None = None
    deliver_at: float | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            payload: Buffer = b"",
            headers: Mapping[str, HeaderValue] | None = None,
            priority: int = 0,
            ttl: float | str | None = None,
            delay: float | str | None = None,
            dedup_id: str | bytes | None = None,
            key: str | bytes | None = None,
            id: int | None = None,
            timestamp: float | None = None,
            deliver_at: float | datetime.datetime | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        payload = self.payload
        if type(payload) is not bytes:
            try:
                memoryview(payload)
            except TypeError:
                raise TypeError(
                    explain(
                        "payload",
                        type(payload).__name__,
                        "a bytes-like object",
                        "encode it first, e.g. text.encode() or json.dumps(x).encode()",
                    )
                ) from None
        set_(self, "headers", check_headers(self.headers))
        priority = self.priority
        if type(priority) is not int:
            raise TypeError(
                explain(
                    "priority", f"{priority!r}", "a whole number from 0 to 9", "0 is the lowest"
                )
            )
        if not 0 <= priority <= MAX_PRIORITY:
            raise ValueError(
                explain("priority", priority, "0 (lowest) to 9", "choose one of these")
            )
        if self.ttl is not None and self.ttl != math.inf:
            ttl = _seconds(self.ttl, "ttl")
            if round(ttl * NS) < 1:
                raise ValueError(
                    explain(
                        "ttl",
                        f"{self.ttl!r}",
                        "more than 0 seconds",
                        "leave it out for the queue's default; math.inf is never",
                    )
                )
            set_(self, "ttl", ttl)
        if self.delay is not None:
            set_(self, "delay", _seconds(self.delay, "delay"))
        if self.deliver_at is not None:
            if self.delay is not None:
                raise ValueError(
                    explain("deliver_at", "a delay as well", "one of them", "leave one out")
                )
            set_(self, "deliver_at", _point_in_time(self.deliver_at))
        for name in ("dedup_id", "key"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (str, bytes)):
                raise TypeError(
                    explain(name, f"{value!r}", "str or bytes", f"use str({name}) if that is meant")
                )

    @property
    def ttl_ns(self) -> int:
        """Nanoseconds for the core: 0 is never, QUEUE_DEFAULT leaves it to the queue."""
        if self.ttl is None:
            return QUEUE_DEFAULT
        return 0 if self.ttl == math.inf else round(self.ttl * NS)

    @property
    def delay_ns(self) -> int:
        """Nanoseconds from now for the core; 0 is at once."""
        if self.deliver_at is not None:
            return max(0, round((self.deliver_at - time.time()) * NS))
        return round(self.delay * NS) if self.delay else 0

    def encoded_headers(self) -> bytes | None:
        """Return headers, key and deduplication id for the core; None when there are none."""
        if not self.headers and self.key is None and self.dedup_id is None:
            return None
        return encode_headers(self.headers, self.key, self.dedup_id)


def message_of(message: Any, fields: Mapping[str, Any]) -> Message:
    """Return what ``publish(message, **fields)`` means."""
    unknown = fields.keys() - _FIELDS
    if unknown:
        raise TypeError(
            explain(
                f"message field {min(unknown)!r}",
                "an unknown name",
                "one of " + ", ".join(sorted(_FIELDS)),
                "put what is yours into headers={…}",
            )
        )
    if isinstance(message, Message):
        if not fields:
            return message
        # Two ways to say when; the field says it for this publish.
        other = {"delay": "deliver_at", "deliver_at": "delay"}
        unsaid = {other[name]: None for name in other if name in fields}
        return dataclasses.replace(message, **{**unsaid, **fields})
    return Message(message, **fields)


def _point_in_time(value: object) -> float:
    stamp = getattr(value, "timestamp", None)
    if callable(stamp):  # a datetime, or what behaves like one
        value = stamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            explain(
                "deliver_at",
                f"{value!r}",
                "a datetime or seconds since 1970",
                "delay= takes seconds from now",
            )
        )
    if not abs(value) <= time.time() + MAX_SECONDS:  # false for NaN as well
        raise ValueError(
            explain("deliver_at", f"{value!r}", "a time within 100 years", "choose an earlier one")
        )
    return float(value)


def bytes_of(text: str | bytes | None) -> bytes | None:
    """Return what the core compares keys and deduplication ids by."""
    return _text(text) if isinstance(text, str) else text


def contiguous(payload: Any) -> Any:
    """Return ``payload`` as the core can copy it. Raises: TypeError when it is not bytes-like."""
    try:
        return payload if memoryview(payload).c_contiguous else bytes(payload)
    except TypeError:
        raise TypeError(
            explain(
                "payload",
                type(payload).__name__,
                "a bytes-like object",
                "encode it first, e.g. text.encode() or json.dumps(x).encode()",
            )
        ) from None


def _seconds(value: object, what: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == math.inf:
        raise ValueError(explain(what, "infinity", "seconds", "a message must come some day"))
    seconds = parse_duration(value, what)
    if seconds is None:
        raise ValueError(explain(what, f"{value!r}", "seconds", "leave it out instead"))
    return seconds


def deadline_of(timeout: float | str | None) -> int:
    """Return the absolute CLOCK_MONOTONIC nanoseconds at which a call has to give up.

    0 is never, 1 is at once (a timeout of 0).
    Raises: TypeError for what is not a number, ValueError for negative ones and NaN.
    """
    if timeout is None or timeout == math.inf:
        return 0
    seconds = parse_duration(timeout, "timeout")
    if seconds is None:
        return 0
    return lib.shmq_now() + round(seconds * NS) if seconds else 1


def check_headers(headers: object, what: str = "headers") -> dict[str, HeaderValue]:
    """Return a dict of ``headers``. Raises: TypeError, for which ``what`` says what they are."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(
            explain(what, type(headers).__name__, "a mapping", "give a dict of names to values")
        )
    one = what.removesuffix("s") if what == "headers" else what
    for name, value in headers.items():
        if not isinstance(name, str):
            raise TypeError(
                explain(f"{one} name", f"{name!r}", "str", "names of headers are texts")
            )
        if not isinstance(value, (str, bytes, int, float, bool, type(None))):
            raise TypeError(
                explain(
                    f"{one} {name!r}",
                    type(value).__name__,
                    "str, bytes, int, float, bool or None",
                    "encode it, e.g. with json.dumps()",
                )
            )
    return dict(headers)


# ---- encoding -----------------------------------------------------------------------------------


def encode_varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def read_varint(blob: bytes, at: int) -> tuple[int, int]:
    """Return the number at ``at`` and where it ends. Raises ValueError, IndexError when there is none."""
    n = shift = 0
    while True:
        byte = blob[at]
        at += 1
        n |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return n, at
        if shift > 28:  # no length has more digits
            raise ValueError("a length without an end")


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def encode_headers(
    headers: Mapping[str, HeaderValue],
    key: str | bytes | None = None,
    dedup_id: str | bytes | None = None,
) -> bytes:
    """Return the encoding of headers, key and deduplication id.

    Raises: MessageTooLarge above 65,535 bytes.
    """
    parts: list[bytes] = []
    add = parts.append
    for kind, own in ((7, dedup_id), (8, key)):
        if own is not None:
            data = _text(own) if isinstance(own, str) else own
            add(
                bytes((kind if isinstance(own, str) else kind + 2, 0))
                + encode_varint(len(data))
                + data
            )
    for name, value in headers.items():
        encoded = _text(name)
        start = encode_varint(len(encoded)) + encoded
        if isinstance(value, str):
            data = _text(value)
            add(b"\x05" + start + encode_varint(len(data)) + data)
        elif isinstance(value, bytes):
            add(b"\x06" + start + encode_varint(len(value)) + value)
        elif value is None:
            add(b"\x00" + start)
        elif isinstance(value, bool):
            add((b"\x02" if value else b"\x01") + start)
        elif isinstance(value, int):
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            add(b"\x03" + start + encode_varint(len(data)) + data)
        else:
            add(b"\x04" + start + _DOUBLE.pack(value))
    blob = b"".join(parts)
    if len(blob) > MAX_HEADER_BYTES:
        raise MessageTooLarge(
            explain(
                "headers",
                f"{len(blob):,} bytes when encoded",
                f"at most {MAX_HEADER_BYTES:,}",
                "put the large ones into the payload",
            )
        )
    return blob


class Decoded(NamedTuple):
    """What `encode_headers` put in."""

    headers: dict[str, HeaderValue]
    key: str | bytes | None = None
    dedup_id: str | bytes | None = None


def decode_headers(blob: bytes) -> Decoded:
    """Return what is encoded in ``blob``, which lay in shared memory.

    Raises: CorruptSegment for anything `encode_headers` does not write.
    """
    quick = decode_fields(blob)
    if quick is not None:
        return Decoded(*quick)
    headers: dict[str, HeaderValue] = {}
    reserved: dict[int, str | bytes] = {}
    at = 0

    def data() -> bytes:
        nonlocal at
        size, at = read_varint(blob, at)
        at += size
        if at > len(blob):
            raise IndexError
        return blob[at - size : at]

    try:
        while at < len(blob):
            kind = blob[at]
            at += 1
            name = data().decode("utf-8", "surrogatepass")
            if kind == 5:
                headers[name] = data().decode("utf-8", "surrogatepass")
            elif kind == 6:
                headers[name] = data()
            elif kind == 3:
                headers[name] = int.from_bytes(data(), "little", signed=True)
            elif kind == 4:
                headers[name] = _DOUBLE.unpack_from(blob, at)[0]
                at += 8
            elif kind in (0, 1, 2):
                headers[name] = (None, False, True)[kind]
            elif kind in (7, 8):
                reserved[kind] = data().decode("utf-8", "surrogatepass")
            elif kind in (9, 10):
                reserved[kind - 2] = data()
            else:
                raise ValueError(f"kind {kind}")
    except (IndexError, ValueError, struct.error) as error:
        found = f"{blob[:40]!r}… ({error})"
        todo = "reject the message or purge its queue; something has written into shared memory"
        raise CorruptSegment(explain("headers", found, "an encoding of headers", todo)) from None
    return Decoded(headers, reserved.get(8), reserved.get(7))
