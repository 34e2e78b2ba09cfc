"""The figures of a queue: what `stats()` returns, and how it is read from shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shmq._native import ffi, lib
from shmq._records import name_of, place_of
from shmq._values import NS
from shmq.errors import explain
from shmq.stats.counters import NAMES

__all__ = ["BOUNDS", "Latency", "QueueStats", "counts_of", "latency_of", "stats_of"]

_WAITED_NS, _HELD_NS, _WAITED, _HELD = (
    ffi.offsetof("shmq_counters", name) // 8 for name in ("waited_ns", "held_ns", "waited", "held")
)
_BUCKETS: int = lib.SHMQ_BUCKETS

BOUNDS = (*(x * 10.0**e for e in range(-6, 3) for x in (1, 3)), 1000.0)
"""Upper bounds of all but the last bucket of a `Latency`, seconds."""


@dataclass(frozen=True)
class Latency:
    """How long something took, measured on one message in 32 of each process. Times in seconds.

    The percentiles are read from a histogram with two buckets per decade, so they are good to a
    factor of two or so; `mean` is exact for what was measured.
    """

    samples: int
    mean: float
    p50: float
    p90: float
    p99: float
    buckets: tuple[int, ...]
    """how many took up to `BOUNDS`[i] seconds; the last: longer than all of them"""


@dataclass(frozen=True)
class QueueStats:
    """A queue's figures. States are as of now; counts are since its creation, over all processes.

    Attributes:
        name: Its name.
        ready: Messages waiting to be taken.
        unsettled: Messages in consumers' hands, or just on their way between two states.
        delayed: Messages waiting for their time: delayed publishes and backed-off retries.
        parked: Messages that are due and wait for room: retries, delayed ones, dead letters.
        bytes: Payload bytes of the ready ones.
        oldest_age: Seconds since the oldest ready message was published; None when there is none.
        closed: Shut down.
        published, delivered, acked, nacked, rejected, redelivered, dead_lettered, expired: Counts.
        dropped: Given up for room, for want of a dead-letter queue, or purged.
        recovered: Taken back from dead processes. returned: given back by consumers that closed.
        full: Publishes that found the queue full.
        deduped: Publishes dropped because their dedup_id was there within the window.
        forwarded: Deliveries settled by a forward; counted in acked too.
        disconnected: 1 when a subscription was cut off because it was full.
        published_bytes, delivered_bytes: Payload bytes.
        waited: From publish (or from when it was due, or dead) to delivery; None without samples.
        held: From delivery to ack; None without samples.
        at: When these figures were taken, seconds of the monotonic clock.
        state: "live" or "closed".
        kind: "queue", "subscription" of a topic, or "pattern": a subscription of many topics.
        topic, subscription: Their names, of a subscription; the topic may be a pattern.
    """

    name: str
    ready: int
    unsettled: int
    delayed: int
    parked: int
    bytes: int
    oldest_age: float | None
    closed: bool
    published: int
    published_bytes: int
    delivered: int
    delivered_bytes: int
    acked: int
    nacked: int
    rejected: int
    redelivered: int
    dead_lettered: int
    expired: int
    dropped: int
    recovered: int
    returned: int
    wakes: int
    sleeps: int
    full: int
    deduped: int
    forwarded: int
    disconnected: int
    waited: Latency | None = None
    held: Latency | None = None
    at: float = 0.0
    state: str = "live"
    kind: str = "queue"
    topic: str | None = None
    subscription: str | None = None

    def rates_since(self, earlier: QueueStats) -> dict[str, float]:
        """Return how many per second of each count there were since ``earlier`` figures."""
        seconds = self.at - earlier.at
        if earlier.name != self.name or seconds <= 0:
            raise ValueError(
                explain(
                    "earlier",
                    f"figures of queue {earlier.name!r}, {seconds:g} s earlier",
                    f"earlier ones of queue {self.name!r}",
                    "call stats() twice and pass the first result",
                )
            )
        return {
            name: max(0, getattr(self, name) - getattr(earlier, name)) / seconds for name in NAMES
        }


def latency_of(buckets: Sequence[int], total_ns: int) -> Latency | None:
    """Return the figures of a histogram; None without samples."""
    samples = sum(buckets)
    if not samples:
        return None

    def percentile(part: float) -> float:
        wanted = part * samples
        below = 0
        for i, n in enumerate(buckets):
            if n and below + n >= wanted:
                if i == len(BOUNDS):
                    return BOUNDS[-1]
                low = BOUNDS[i - 1] if i else BOUNDS[0] / 3
                return float(low * (BOUNDS[i] / low) ** ((wanted - below) / n))
            below += n
        return BOUNDS[-1]

    return Latency(
        samples=samples,
        mean=total_ns / NS / samples,
        p50=percentile(0.5),
        p90=percentile(0.9),
        p99=percentile(0.99),
        buckets=tuple(buckets),
    )


def counts_of(info: Any) -> dict[str, int]:
    """Return {counter: value} of a `shmq_queue_info`: no look at blocks is made for it."""
    return {name: int(info.counters[place]) for place, name in enumerate(NAMES)}


def stats_of(info: Any, census: Any) -> QueueStats:
    """Return the figures in a `shmq_queue_info` and a `shmq_census`."""
    counters = list(info.counters)
    now = lib.shmq_now()
    live = info.state == lib.SHMQ_Q_LIVE
    kind, topic, subscription = place_of(info)
    return QueueStats(
        name=name_of(info),
        ready=census.ready,
        unsettled=census.unsettled + census.moving,
        delayed=census.delayed,
        parked=census.parked,
        bytes=census.bytes,
        oldest_age=max(0, now - census.oldest_ns) / NS if census.oldest_ns else None,
        closed=not live,
        **counts_of(info),
        waited=latency_of(counters[_WAITED : _WAITED + _BUCKETS], counters[_WAITED_NS]),
        held=latency_of(counters[_HELD : _HELD + _BUCKETS], counters[_HELD_NS]),
        at=now / NS,
        state="live" if live else "closed",
        kind=kind,
        topic=topic,
        subscription=subscription,
    )
