"""The end of a broker: nothing more comes in, and when is nobody at work any more?

`Broker.shutdown` and the supervisor ask this in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from shmq._native import ffi, lib
from shmq.stats.counters import place_of_counter

__all__ = ["Calm", "close_queues"]

CALM_S = 0.2  # nothing moved for so long: what is left waits for consumers that do not come
DELIVERED, ACKED = place_of_counter("delivered"), place_of_counter("acked")


def close_queues(ctx: Any) -> None:
    """Shut all queues down: nothing more comes in, sleepers wake."""
    for index, info in _queues(ctx):
        if info.state == lib.SHMQ_Q_LIVE:
            qref = lib.shmq_queue_adopt(ctx, index)
            if qref >= 0:
                lib.shmq_queue_close(ctx, qref)


class Calm:
    """Watches whether anything still moves in a broker whose queues are closed."""

    def __init__(self) -> None:
        self._last: object = None
        self._since = 0.0

    def is_there(self, ctx: Any, held: int, *, elsewhere: bool, alone: bool) -> bool:
        """Return whether nobody is at work any more.

        ``held`` is how many messages clients have in hand; ``elsewhere``: some of these are in hands that may still
        settle them; ``alone``: nobody else is attached who could take what is ready.
        """
        queues = _progress(ctx)
        if held == 0 and (alone or not any(ready for ready, *_ in queues)):
            return True
        now = time.monotonic()
        if (held, queues) != self._last:
            self._last, self._since = (held, queues), now
        return not elsewhere and now - self._since > CALM_S


def _progress(ctx: Any) -> list[tuple[int, int, int]]:
    """Return (messages ready, delivered, acked) of each queue. What comes back, or goes to another queue, changes no sum over all."""
    return [
        (int(info.ready), int(info.counters[DELIVERED]), int(info.counters[ACKED]))
        for _, info in _queues(ctx)
    ]


def _queues(ctx: Any) -> Iterator[tuple[int, Any]]:
    """Yield (number, shmq_queue_info) of each record; the second is overwritten by the next."""
    segment = ffi.new("shmq_segment_info *")
    info = ffi.new("shmq_queue_info *")
    if lib.shmq_segment_snapshot(ctx, segment) != lib.SHMQ_OK:
        return
    for index in range(segment.queues):
        if lib.shmq_queue_snapshot(ctx, index, info) == lib.SHMQ_OK:
            yield index, info
