"""``shmq stats``: every figure of a broker's queues, topics, groups and processes, or what they do per second."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable

from shmq._names import check_broker_name
from shmq._segment import observe
from shmq._values import parse_duration
from shmq.cli.out import say
from shmq.errors import InvalidOption, explain, printable
from shmq.stats.broker import CLIENT_COUNTERS, BrokerStats, ClientStats, read_stats
from shmq.stats.counters import COUNTERS
from shmq.stats.queue import Latency, QueueStats

COUNTS = tuple(counter.name for counter in COUNTERS if counter.shown)


def stats(options: argparse.Namespace) -> int:
    """Print the figures; with an interval, what happened per second in it."""
    name = check_broker_name(options.name)
    interval = None
    if options.interval is not None:
        interval = parse_duration(options.interval, "--interval")
        if not interval:
            raise InvalidOption(
                explain("--interval", repr(options.interval), "more than 0 seconds", "such as 1s")
            )
    with observe(name) as (segment, ctx):
        earlier, found = None, read_stats(segment, ctx)
        if interval is not None:
            time.sleep(interval)
            earlier, found = found, read_stats(segment, ctx)
    if options.json:
        print(json.dumps(_as_json(found, earlier), indent=2))
    else:
        tables = list(_tables(found, earlier))
        for i, lines in enumerate(tables):
            say(*[""] * bool(i), *lines)
        if not tables:
            say("no queues and no topics")
    return 0


def _name(one: QueueStats | ClientStats) -> str:
    if one.topic is None:
        return one.name
    return f"{one.topic} > {one.subscription}" if one.subscription else one.topic


# ---- per second ---------------------------------------------------------------------------------


def _rates(found: QueueStats, earlier: BrokerStats) -> dict[str, float] | None:
    before = {one.name: one for one in earlier.streams()}.get(found.name)
    return found.rates_since(before) if before is not None else None


def _client_rates(found: ClientStats, earlier: BrokerStats) -> dict[str, float] | None:
    def key(one: ClientStats) -> tuple[int, int, str]:
        return one.pid, one.attached_ns, one.name

    before = {key(one): one for one in earlier.clients}.get(key(found))
    return found.rates_since(before) if before is not None else None


def _as_json(found: BrokerStats, earlier: BrokerStats | None) -> dict[str, object]:
    """Everything of `BrokerStats`; with an earlier look, `rates` of each name and process as well."""
    whole = dataclasses.asdict(found)
    whole["attached"] = [owner._asdict() for owner in found.attached]
    if earlier is not None:
        whole["rates"] = {one.name: _rates(one, earlier) for one in found.streams()}
        whole["client_rates"] = [
            {"pid": one.pid, "name": one.name, "rates": _client_rates(one, earlier)}
            for one in found.clients
        ]
    return whole


# ---- tables -------------------------------------------------------------------------------------


def _tables(found: BrokerStats, earlier: BrokerStats | None) -> Iterable[list[str]]:
    streams = found.streams()
    if streams:
        now = [
            (
                _name(one),
                *(one.ready, one.unsettled, one.delayed, one.parked, one.bytes),
                _s(one.oldest_age),
                *(*_latency(one.waited), *_latency(one.held)),
            )
            for one in streams
        ]
        head: tuple[str, ...] = ("now", "ready", "unsettled", "delayed", "parked", "bytes")
        head = (*head, "oldest", "wait p50", "p99", "hold p50", "p99")
        yield _table(head, now)
        rows = []
        for one in streams:
            rates = _rates(one, earlier) if earlier else None
            counts = [rates[c] if rates else 0.0 if earlier else getattr(one, c) for c in COUNTS]
            rows.append((_name(one), *counts))
        yield _table(("per second" if earlier else "so far", *COUNTS), rows)
    if found.topics:
        head = ("topic", "subscriptions", "published", "bytes", "full", "deduped")
        topics = [
            (one.name, one.subscribers, one.published, one.published_bytes, one.full, one.deduped)
            for one in found.topics
        ]
        yield _table(head, topics)
    if found.groups:
        groups = [
            (f"{group.name} on {group.source}", group.lag, group.unsettled, len(group.members))
            for group in found.groups
        ]
        yield _table(("group", "lag", "unsettled", "members"), groups)
    if earlier is not None and found.clients:
        rows = []
        for client in found.clients:
            mine = _client_rates(client, earlier) or dict.fromkeys(CLIENT_COUNTERS, 0.0)
            rows.append((f"{client.pid} {_name(client)}", *(mine[c] for c in CLIENT_COUNTERS)))
        yield _table(("process, per second", *CLIENT_COUNTERS), rows)


def _latency(one: Latency | None) -> tuple[str, str]:
    return (_s(one.p50), _s(one.p99)) if one is not None else ("-", "-")


def _s(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    texts = [head, *(tuple(map(_cell, row)) for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]


def _cell(value: object) -> str:
    return (
        printable(value)
        if isinstance(value, str)
        else f"{value:,.1f}"
        if isinstance(value, float)
        else f"{value:,}"
    )
