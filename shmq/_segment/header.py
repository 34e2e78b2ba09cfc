"""The first bytes of a segment, and whether this build can use what they say."""

from __future__ import annotations

from typing import NamedTuple

from shmq._native import ffi, lib, names_of
from shmq._segment.refusals import refusal

HEAD_BYTES = 4096
PROVIDERS = names_of("shmq_provider", "SHMQ_")
NAME_OFFSET: int = ffi.offsetof("shmq_header", "name")
USER_WORD_OFFSET: int = ffi.offsetof("shmq_header", "user_word")


class Header(NamedTuple):
    """What a sound header says; immutable for the life of the segment."""

    provider: str
    memory_limit: int
    max_message: int
    default_ttl_ns: int
    created_ns: int
    total: int


def check_header(name: str, provider: str, head: bytes, size: int) -> Header:
    """Return what the first bytes of a segment say; raises what is wrong with them."""
    detail = ffi.new("shmq_detail *")
    total = ffi.new("uint64_t *")
    raw = ffi.from_buffer(head)
    rc = lib.shmq_check_header(raw, len(head), size, detail, total)
    if rc != lib.SHMQ_OK:
        raise refusal(name, provider, rc, detail, size)
    header = ffi.cast("shmq_header *", raw)
    geometry = header.geometry
    return Header(
        PROVIDERS[header.provider] if header.provider < len(PROVIDERS) else provider,
        geometry.memory_limit,
        geometry.max_message,
        geometry.default_ttl_ns,
        header.created_ns,
        geometry.total,
    )
