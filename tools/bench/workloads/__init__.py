"""The workloads. Each knows its rows, how to run one measurement of a row, and how its figures read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

REFERENCE = "mp"
"""The peer every ratio is against."""


@dataclass(frozen=True)
class Figure:
    """One number of a measurement."""

    key: str
    title: str
    unit: str
    scale: float = 1.0
    digits: int = 0
    higher_is_better: bool = True


@dataclass(frozen=True)
class Workload:
    """A table of the report. `figures[0]` is the one ratios are made of."""

    key: str
    title: str
    text: str
    """What exactly is done, for the report."""
    figures: tuple[Figure, ...]
    run: Callable[[dict[str, Any]], dict[str, float]]
    """One measurement, called in a process of its own with the row's parameters; see `run.py`."""
    peers: tuple[str, ...] = ()
    """Peers to measure; empty: this is a workload of shmq alone, its rows are in `params`."""
    params: tuple[dict[str, Any], ...] = ({},)
    """Parameter sets; each is a row for each peer (and variant)."""
    calibrate: bool = True
    """The message count `n` is found by a short first run; otherwise the parameters say all."""
    near: bool = True
    """Only what is measured while the cores are near each other counts, see `distance.py`."""
    ratio: bool = True


def all_workloads() -> dict[str, Workload]:
    """Return every workload by key, in the order of the report."""
    from tools.bench.workloads import (
        calls,
        costs,
        fan_out,
        feature_costs,
        features,
        latency,
        many,
        objects,
        throughput,
    )

    modules = (throughput, features, feature_costs, latency, many, fan_out, objects, calls, costs)
    found = [workload for module in modules for workload in module.WORKLOADS]
    order = [
        "one-by-one",
        "batch",
        "features",
        "feature-costs",
        "publish-watched",
        "publish-deep",
        "round-trip-spinning",
        "round-trip-blocking",
        "payload-1k",
        "payload-64k",
        "payload-1m",
        "dicts",
        "dicts-batch",
        "array-1m",
        "four-to-four",
        "fan-out",
        "calls",
        "depth",
        "memory",
        "idle",
        "start",
        "first-queue",
        "recovery",
    ]
    return {w.key: w for w in sorted(found, key=lambda w: order.index(w.key))}
