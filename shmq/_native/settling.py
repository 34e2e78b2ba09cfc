"""Settling many deliveries by one call: each by itself, all before the first reason is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from shmq._native._shmq import lib

__all__ = ["settle_all"]


def settle_all(
    deliveries: Iterable[Any], settle: Callable[[Any], int], base: type, call: str, done: str
) -> tuple[int, int, int]:
    """Settle ``deliveries``; return how many are, how many were stale, and what ended it (OK: nothing).

    Raises: TypeError when one is no ``base``; then nothing was settled.
    """
    deliveries = list(deliveries)
    for i, delivery in enumerate(deliveries):
        if not isinstance(delivery, base):
            raise TypeError(
                f"{call}: found {type(delivery).__name__} at position {i}, expected a "
                f"Delivery; nothing was {done}"
            )
    settled = stale = 0
    for delivery in deliveries:
        rc = settle(delivery)
        if rc >= 0:
            settled += 1
        elif rc == lib.SHMQ_STALE:
            stale += 1
        else:
            return settled, stale, rc
    return settled, stale, lib.SHMQ_STALE if stale else lib.SHMQ_OK
