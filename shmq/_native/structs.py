"""What more than one place fills in or works out for calls of the C core."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from shmq._native._shmq import ffi, lib

if TYPE_CHECKING:
    from shmq._native._shmq import CData


def message_struct(
    payload: Any,
    meta: bytes | None,
    ttl: int,
    delay: int,
    priority: int,
    key: bytes | None,
    dedup: bytes | None,
) -> tuple[CData, list[CData]]:
    """Return a `shmq_message` that points to these bytes, and what must live while it is used."""
    m = ffi.new("shmq_message *")
    m.ttl_ns, m.delay_ns, m.priority = ttl, delay, priority
    keep = []
    for item, data, size in (
        (payload, "data", "size"),
        (meta, "meta", "meta_size"),
        (key, "key", "key_size"),
        (dedup, "dedup", "dedup_size"),
    ):
        if item is not None:
            pointer = ffi.from_buffer(item)
            setattr(m, data, pointer)
            setattr(m, size, len(pointer))
            keep.append(pointer)
    return m, keep


def deadline_of(block: object, timeout: float | None) -> int:
    """Return the deadline that a call of `queue` stands for: 0 never, 1 at once."""
    if not block:
        return 1
    if timeout is None:
        return 0
    seconds = timeout + 0.0
    if math.isnan(seconds) or seconds <= 0:
        return 1
    return 0 if seconds >= 1e9 else lib.shmq_now() + int(seconds * 1e9)
