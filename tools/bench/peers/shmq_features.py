"""What one message of shmq can carry: for each feature what is said to the broker, the queue, publish() and the consumer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = "plain"
FIELDS = "headers + priority + ttl"
DEDUP = "dedup_id"
DEDUP_RANDOM = "dedup_id, random"
DEDUP_LARGE = "dedup_id, room for 4,000,000 ids"
KEY = 'order="key"'
NO_METRICS = "metrics off"

KEYS = 100
IDS = 950_000
"""Of a table of the default size, 1,000,000."""


@dataclass(frozen=True)
class Feature:
    """One way of publishing and taking; `extra` is what goes with a message beside its payload."""

    arguments: str = ""
    """Of publish(), after `data`."""
    check: str = ""
    """Run by the consumer for each delivery `_d`."""
    extra: Callable[[int], Any] = lambda seq: None  # noqa: ARG005
    """Made before the clock starts, for the message with this number."""
    ever_new: bool = False
    """`extra` is given the number in the whole run, so that none comes twice; else that of the message."""
    most: int | None = None
    """Messages in a run, if there is a limit."""
    queue: dict[str, Any] = field(default_factory=dict)
    broker: dict[str, Any] = field(default_factory=dict)


_WITH_ID = Feature(
    ", dedup_id=extra",
    "",
    lambda number: f"order-{number:010d}",
    ever_new=True,
    most=IDS,
    queue={"dedup_window": 60.0},
)

FEATURES = {
    PLAIN: Feature(),
    FIELDS: Feature(
        ", headers=extra, priority=5, ttl=60.0",
        'if _d.headers["seq"] != extra["seq"]:\n    wrong(_d.headers, item)',
        lambda seq: {"source": "shop-3", "seq": seq, "final": seq % 2 == 0},
    ),
    DEDUP: _WITH_ID,
    # A constant that is odd reaches each number once, with digits that look like chance.
    DEDUP_RANDOM: replace(
        _WITH_ID, extra=lambda number: f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"[::-1]
    ),
    DEDUP_LARGE: replace(
        _WITH_ID, most=None, queue={"dedup_window": 60.0, "dedup_capacity": 4_000_000}
    ),
    KEY: Feature(
        ", key=extra", "", lambda seq: f"customer-{seq % KEYS:03d}", queue={"order": "key"}
    ),
    NO_METRICS: Feature(broker={"metrics": False}),
}


def feature_of(variant: str) -> Feature:
    """Return the feature that a variant names, alone or after the way of acknowledging."""
    return FEATURES.get(variant.rpartition('ack="none", ')[2], FEATURES[PLAIN])
