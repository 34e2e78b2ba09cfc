"""The counters of queues: one table of them, for `stats()`, the metrics and the command line.

A new one is added here and, at the same place, to `shmq_counters` in native/include/shmq.h; a test compares. Then it has
a field in `QueueStats`, and all else follows from its row.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COUNTERS", "NAMES", "Counter", "place_of_counter"]


class Counter(NamedTuple):
    """One counter of a queue, subscription or topic."""

    name: str
    """of the attribute of `QueueStats`"""
    metric: str | None = None
    """name for Prometheus, without "shmq_queue_" and "_total"; None: it is no metric"""
    help: str = ""
    client: str | None = None
    """what it says of one process; None: it is not told for each"""
    topic: str | None = None
    """what it says of a topic; None: a topic has none"""
    shown: bool = False
    """a column of `shmq stats`"""


COUNTERS = (
    Counter(
        "published", "published_messages", "Messages published", shown=True,
        client="Messages published by a process", topic="Messages published, each counted once",
    ),
    Counter(
        "published_bytes", "published_bytes", "Payload bytes published",
        topic="Payload bytes published, each counted once",
    ),
    Counter(
        "delivered", "delivered_messages", "Deliveries, repeated ones included", shown=True,
        client="Deliveries to a process, repeated ones included",
    ),
    Counter("delivered_bytes", "delivered_bytes", "Payload bytes delivered"),
    Counter("acked", "acked_messages", "Deliveries acked", "Deliveries acked by a process", shown=True),
    Counter(
        "nacked", "nacked_messages", "Deliveries given back by nack", "Deliveries given back by nack",
        shown=True,
    ),
    Counter("rejected", "rejected_messages", "Deliveries rejected", "Deliveries rejected", shown=True),
    Counter(
        "redelivered", "redelivered_messages", "Deliveries that were not the first one of their message",
        "Deliveries that were not the first one of their message", shown=True,
    ),
    Counter("dead_lettered", "dead_lettered_messages", "Messages moved to the dead-letter queue", shown=True),
    Counter("expired", "expired_messages", "Messages that outlived their ttl", shown=True),
    Counter("dropped", "dropped_messages", "Messages given up", shown=True),
    Counter("recovered", "recovered_messages", "Deliveries taken back from dead processes"),
    Counter(
        "returned", "returned_messages", "Deliveries given back by consumers that closed",
        "Deliveries given back by consumers that closed",
    ),
    Counter("wakes"),
    Counter("sleeps"),
    Counter(
        "full", "full_publishes", "Publishes that found the queue full",
        topic="Publishes that found a subscription full whose policy is to wait",
    ),
    Counter(
        "deduped", "deduped_messages", "Publishes recognised as duplicates", shown=True,
        topic="Publishes that every subscription recognised as a duplicate",
    ),
    Counter("forwarded", "forwarded_messages", "Deliveries settled by a forward"),
    Counter("disconnected", "disconnects", "Times that a subscription was cut off because it was full"),
)  # fmt: skip
"""the first of `shmq_counters`, in its order"""

NAMES = tuple(counter.name for counter in COUNTERS)


def place_of_counter(name: str) -> int:
    """Return the place of a counter among a queue's."""
    return NAMES.index(name)
