"""What the steps of the state machine are drawn from."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st

UNIT = 10  # seconds; whatever takes time takes a multiple of it, and no step takes as long
KEYS = ["a", "b", "c"]
QUEUES = ["q0", "q1", "q2"]
DEAD = "dead"
TOPICS = ["t.a", "t.b"]
CLIENTS = range(3)

times = st.integers(1, 3).map(lambda n: n * UNIT)
options = st.fixed_dictionaries(
    {
        "max_depth": st.sampled_from([1, 2, 3, 5, 5, 100, 100]),
        "max_bytes": st.sampled_from([None, None, 60]),
        "overflow": st.sampled_from(["block", "block", "drop-oldest", "drop-oldest", "reject"]),
        "ttl": st.none() | times,
        "max_retries": st.sampled_from([0, 1, 3, None]),
        "retry_backoff": st.sampled_from([0, 0, UNIT]),
        "ack_timeout": st.none() | times,
        "expired": st.sampled_from(["dead-letter", "drop"]),
        "dead_letter": st.sampled_from([None, DEAD, DEAD]),
        "priorities": st.sampled_from([1, 3, 10]),
        "aging": st.sampled_from([None, None, 1e-9]),
        "dedup_window": st.sampled_from([None, 1e6]),
        "order": st.sampled_from(["fifo", "fifo", "key", "key", "strict"]),
    }
)
dead_options = st.fixed_dictionaries(
    {
        "max_depth": st.sampled_from([1, 2, 2, 100]),
        "max_bytes": st.sampled_from([None, None, 60]),
        "overflow": st.sampled_from(["block", "block", "drop-oldest", "reject"]),
        "ttl": st.none(),
        "max_retries": st.sampled_from([0, None]),
        "retry_backoff": st.sampled_from([0, UNIT]),
        "ack_timeout": st.none() | times,
        "priorities": st.sampled_from([1, 10]),
        # Not by key: a dead letter has the lane of its number, which nobody can foretell.
        "order": st.sampled_from(["fifo", "fifo", "strict"]),
    }
)
filters = st.sampled_from([None, None, {"eu": True}, {"eu": True, "n": 1}])
fields = st.fixed_dictionaries(
    {},
    optional={
        "headers": st.sampled_from([{"eu": True}, {"eu": True, "n": 1}, {"eu": 1, "x": b"y"}]),
        "priority": st.integers(0, 9),
        "ttl": times | st.just(math.inf),
        "delay": times,
        "dedup_id": st.sampled_from("uvwxyz"),
    },
)


def alive(given: dict[str, Any]) -> dict[str, Any]:
    """Return fields with a ttl beyond the delay: others are refused."""
    if "delay" in given:
        given["ttl"] = given.get("ttl", math.inf) + given["delay"]
    return given


def sensible(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return options without those that would be idle: these are refused."""
    if chosen["order"] != "fifo" or chosen["priorities"] == 1:
        chosen["aging"] = None
    return chosen


def forgetful(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return options by which the number of dead letters that are dropped does not hang on their order."""
    if chosen["overflow"] != "block":
        chosen.update(max_bytes=None, priorities=1)
    return chosen


fields = fields.map(alive)
dead_options = dead_options.map(forgetful)
options = options.map(sensible)
picks = st.integers(0, 1 << 16)
clients = st.sampled_from(CLIENTS)
queue_names = st.sampled_from(QUEUES)
places = st.sampled_from([*QUEUES, DEAD])
