"""Structs of the C core that are filled in more than one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmq._native._shmq import ffi

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
