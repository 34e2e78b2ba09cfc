"""Keyword arguments and choices as type checkers see them; at run time nothing needs them.

`QueueKeywords` are the fields of `QueueOptions`, `MessageKeywords` those of `Message`; a test holds them to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypedDict

Ack = Literal["manual", "auto", "none"]
Overflow = Literal["block", "reject", "drop-oldest", "disconnect"]
Dispatch = Literal["ready", "round-robin"]
Seconds = float | str  # a number, or text such as "250ms"
Bytes = int | str  # a whole number, or text such as "64KiB"
HeaderValue = str | bytes | int | float | bool | None


class QueueKeywords(TypedDict, total=False):
    """Options of a queue, as `Broker.create_queue` takes them; see `QueueOptions`."""

    max_depth: int
    max_bytes: Bytes | None
    overflow: Overflow
    ttl: Seconds | None
    max_retries: int | None
    retry_backoff: Seconds
    retry_backoff_max: Seconds
    retry_jitter: float
    ack_timeout: Seconds | None
    expired: Literal["dead-letter", "drop"]
    dead_letter: str | None
    priorities: int
    aging: Seconds | None
    dedup_window: Seconds | None
    dedup_capacity: int
    order: Literal["fifo", "key", "strict"]
    durability: Literal["none", "snapshot", "interval", "sync"]


class MessageKeywords(TypedDict, total=False):
    """Fields of a message, as `publish` takes them; see `Message`."""

    headers: Mapping[str, HeaderValue] | None
    priority: int
    ttl: Seconds | None
    delay: Seconds | None
    dedup_id: str | bytes | None
    key: str | bytes | None
    deliver_at: datetime | float | None
