"""What a feature adds to the time of a message: with it and without it in turn, by the same two processes."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tools.bench import loops
from tools.bench.endpoint import Spec
from tools.bench.messages import CYCLE_64B
from tools.bench.peers import Peer, load
from tools.bench.peers.shmq_features import DEDUP, DEDUP_RANDOM, KEY, NO_METRICS, PLAIN
from tools.bench.transfer import transfers
from tools.bench.workloads import Figure, Workload
from tools.bench.workloads.features import CONSUME, PRODUCE, SIZE, laps_of

if TYPE_CHECKING:
    from collections.abc import Iterator

METRICS = "metrics"
_SERIES = 3
_LAPS = 20
_TURNS = (0, 1, 1, 0) * 5
_Sides = tuple[Peer, Peer]


def _producer(sides: _Sides, variants: tuple[str, str]) -> Iterator[Any]:
    endpoints = [side.producer() for side in sides]
    puts = [loops.compile_loop(PRODUCE, endpoint) for endpoint in endpoints]
    yield "open"
    for put, variant in zip(puts, variants, strict=True):
        put(*laps_of(variant, 0, 1))
    for turn, side in enumerate(_TURNS):
        laps = laps_of(variants[side], CYCLE_64B * (1 + turn * _LAPS), _LAPS)
        yield "ready"
        begin = perf_counter_ns()
        puts[side](*laps)
        yield begin
    for endpoint in endpoints:
        endpoint.close()


def _consumer(sides: _Sides, variants: tuple[str, str]) -> Iterator[Any]:
    endpoints = [side.consumer() for side in sides]
    gets = [loops.compile_loop(CONSUME, endpoint) for endpoint in endpoints]
    # What an ever new extra was is not looked at; the others are the same in each cycle.
    laps = [laps_of(variant, 0, 1)[0] for variant in variants]
    yield "open"
    for get, lap in zip(gets, laps, strict=True):
        get(lap, 1)
    for side in _TURNS:
        yield "ready"
        gets[side](laps[side], _LAPS)
        yield perf_counter_ns()
    for endpoint in endpoints:
        endpoint.close()


def _series(params: dict[str, Any], number: int) -> list[tuple[int, int]]:
    """Return the nanoseconds of each pair of turns, without and with, between two processes and in two brokers."""
    variants = (params["without"], params["with"])
    spec = Spec(params["tag"], SIZE, 4096)
    shmq = load("shmq")
    without, with_ = (
        shmq(replace(spec, tag=f"{spec.tag}{side}", variant=variant))
        for side, variant in zip(params["sides"][2 * number :], variants, strict=False)
    )
    sides = (without, with_)
    times = transfers(
        sides, params["note_pids"], _producer, _consumer, sides, variants, turns=len(_TURNS)
    )
    cheap, dear = (
        [t for t, at in zip(times, _TURNS, strict=True) if at == side] for side in (0, 1)
    )
    return list(zip(cheap, dear, strict=True))


def run(params: dict[str, Any]) -> dict[str, float]:
    """Send the same messages without and with the feature, turn by turn."""
    series = [_series(params, number) for number in range(_SERIES)]
    cheap, dear = zip(*(pair for pairs in series for pair in pairs), strict=True)
    n = _LAPS * CYCLE_64B
    return {
        "cost": median(median(b / a for a, b in pairs) for pairs in series) - 1,
        "without": n / median(cheap) * 1e9,
        "with": n / median(dear) * 1e9,
    }


def _row(label: str, without: str, with_: str) -> dict[str, Any]:
    return {"label": label, "without": without, "with": with_, "sides": "abcdef"}


WORKLOADS = (
    Workload(
        "feature-costs",
        "What ids, keys and metrics add to the time of a message",
        "As above, but the same two processes send 80,000 messages without the feature and 80,000 with it in turn "
        "(without, with, with, without), ten times each, in two brokers: neither the place of the cores nor that of "
        "the memory differs. The figure is the median over the ten pairs, and over three such series, each with brokers and "
        "processes of its own. The broker of _metrics_ is compared with one of `metrics=False`. Ids count up (_dedup_id_: "
        '"order-0000012345") or are 16 digits by chance (_random_).',
        (
            Figure("cost", "more time", "%", 100, 1, higher_is_better=False),
            Figure("without", "without", "k/s", 1e-3),
            Figure("with", "with", "k/s", 1e-3),
        ),
        run,
        params=(
            _row(DEDUP, PLAIN, DEDUP),
            _row(DEDUP_RANDOM, PLAIN, DEDUP_RANDOM),
            _row(KEY, PLAIN, KEY),
            _row(METRICS, NO_METRICS, PLAIN),
        ),
        calibrate=False,
        ratio=False,
    ),
)
