"""Commands about brokers as a whole: up, down, status, ls, clean."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from typing import Any

from shmq._names import check_broker_name
from shmq._segment import Segment, list_segments, observe
from shmq._segment import clean as clean_segments
from shmq._values import parse_duration
from shmq.broker import Broker, connect
from shmq.cli.out import complain, say
from shmq.errors import BrokerNotRunning, ShmqError, printable
from shmq.settings import Settings
from shmq.stats.broker import BrokerStats, read_stats
from shmq.stats.queue import QueueStats
from shmq.supervisor.spawn import command, environment

SETTINGS = (
    "shm", "memory_limit", "max_message_size", "max_queues", "max_processes", "max_queue_depth",
    "max_retries", "default_ttl",
)  # fmt: skip


def up(options: argparse.Namespace) -> int:
    """Start a broker, in the foreground or not."""
    name = check_broker_name(options.name)
    given = {key: getattr(options, key) for key in SETTINGS if getattr(options, key) is not None}
    if options.detach:
        broker = Broker(name, config=options.config, **given)
        stats = broker.stats()
        broker.close()
        say(
            f"broker {name!r} is up: supervisor {stats.supervisor_pid}, sidecar {stats.sidecar_pid}"
        )
        return 0
    grace = parse_duration(options.shutdown_timeout, "--shutdown-timeout")
    settings = Settings.load(given, config=options.config)
    words = command(
        name,
        {
            "grace": "inf" if grace is None else grace,
            **settings.for_supervisor(),
        },
    )
    # This very process becomes the supervisor: what a service manager stops is what serves.
    sys.stdout.flush()
    return os.execve(words[0], [*words, "--foreground"], environment())


def down(options: argparse.Namespace) -> int:
    """End a broker."""
    timeout = parse_duration(options.timeout, "--timeout")
    name = check_broker_name(options.name)
    broker = connect(name)
    left = sum(one.ready for one in broker.stats().streams())
    broker.shutdown(timeout=timeout)
    lost = f"; {left:,} queued messages at that time" if left else ""
    say(f"broker {name!r} is down{lost}")
    return 0


def status(options: argparse.Namespace) -> int:
    """Show one broker or all."""
    if options.name is not None:
        found = [_look(check_broker_name(options.name))]
        if isinstance(found[0], BrokerNotRunning):
            raise found[0]
    else:
        found = [_look(segment.name) for segment in list_segments()]
    if options.json:
        shown: Any = [_as_json(one) for one in found]
        print(json.dumps(shown[0] if options.name is not None else shown, indent=2))
    else:
        for i, one in enumerate(found):
            say(*[""] * bool(i), *_as_lines(one))
        if not found:
            say("no brokers")
    return 0 if all(_whole(one) for one in found) else 1


def ls(options: argparse.Namespace) -> int:
    """List brokers."""
    found = [(segment.name, _look(segment.name)) for segment in list_segments()]
    if options.json:
        rows = [{"name": name, "state": _state(one), **_counts(one)} for name, one in found]
        print(json.dumps(rows, indent=2))
    else:
        width = max((len(printable(name)) for name, _ in found), default=0)
        for name, one in found:
            counts = [
                f"{n} {what[: None if n != 1 else -1]}" for what, n in _counts(one).items() if n
            ]
            shown = f"{printable(name):<{width}}"
            say(f"{shown}  {_state(one)}{', ' * bool(counts)}{', '.join(counts)}")
    return 0


def clean(options: argparse.Namespace) -> int:
    """Remove segments in which nobody lives."""
    found = clean_segments(dry_run=options.dry_run, names=options.name)
    missing = sorted(set(options.name) - {one.name for one in found})
    removed = 0
    for one in found:
        if one.removable:
            removed += 1
            verb = "would remove" if options.dry_run else "removed"
            say(f"{verb} {one.name} ({one.provider}): {one.reason}")
        else:
            say(f"kept {one.name} ({one.provider}): {one.reason}")
    for name in missing:
        complain(f"broker {name!r}: no segment of that name")
    if not removed and not missing:
        say("nothing to clean")
    return 3 if missing else 0


# ---- looking ------------------------------------------------------------------------------------

Seen = BrokerStats | ShmqError


def _look(name: str) -> Seen:
    try:
        with observe(name) as (segment, ctx):
            return _read(segment, ctx)
    except ShmqError as error:
        return error


def _read(segment: Segment, ctx: Any) -> BrokerStats:
    return read_stats(segment, ctx)


def _whole(one: Seen) -> bool:
    return isinstance(one, BrokerStats) and bool(one.supervisor_pid and one.sidecar_pid)


def _state(one: Seen) -> str:
    if isinstance(one, BrokerNotRunning):
        return "unfinished (shmq clean)"
    if isinstance(one, ShmqError):
        return f"unusable: {type(one).__name__} (shmq status)"
    if one.closing:
        return "shutting down"
    if one.supervisor_pid and one.sidecar_pid:
        return "up"
    if one.supervisor_pid or one.attached:
        missing = "supervisor" if not one.supervisor_pid else "sidecar"
        return f"up without {missing} (shmq up NAME brings it back)"
    return "down, messages kept (shmq up NAME, or shmq clean)"


def _counts(one: Seen) -> dict[str, int]:
    if not isinstance(one, BrokerStats):
        return {}
    return {
        "queues": len(one.queues),
        "topics": len(one.topics),
        "subscriptions": len(one.streams()) - len(one.queues),
        "groups": len(one.groups),
    }


def _as_json(one: Seen) -> dict[str, Any]:
    if isinstance(one, BrokerStats):
        return {"state": _state(one), **dataclasses.asdict(one), "attached": [
            owner._asdict() for owner in one.attached
        ]}  # fmt: skip
    return {"state": _state(one), "error": type(one).__name__, "text": str(one)}


def _as_lines(one: Seen) -> list[str]:
    if isinstance(one, ShmqError):
        return [str(one)]
    clients = [owner for owner in one.attached if owner.role == "client"]
    processes = (
        f"supervisor {one.supervisor_pid or 'missing'}, sidecar {one.sidecar_pid or 'missing'}"
    )
    lines = [
        f"broker {one.name!r}: {_state(one)}",
        f"  {processes}, up {_duration(one.uptime)}",
        f"  memory     {_size(one.memory_used)} used, limit {_size(one.memory_limit)}",
        f"  clients    {len(clients)}"
        + (": " + ", ".join(str(owner.pid) for owner in clients[:20]) if clients else ""),
    ]
    if one.corrupt:
        lines.append(f"  corrupt    {one.corrupt} impossible values were put right")
    return [*lines, *_table(one)]


def _table(one: BrokerStats) -> list[str]:
    rows = [("queue", queue.name, _line(queue)) for queue in one.queues]
    for topic in one.topics:
        closed = " (closed)" if topic.closed else ""
        to = "1 subscription" if topic.subscribers == 1 else f"{topic.subscribers} subscriptions"
        rows.append(("topic", topic.name, f"{topic.published:,} published, to {to}{closed}"))
        rows += [("", f"  {sub.subscription}", _line(sub)) for sub in topic.subscriptions]
    for pattern in one.patterns:
        rows.append(("pattern", f"{pattern.topic} {pattern.subscription}", _line(pattern)))
    for group in one.groups:
        members = ", ".join(f"{member.name} (pid {member.pid})" for member in group.members)
        text = (
            f"on {group.source_kind} {group.source}: lag {group.lag:,}, {members or 'no members'}"
        )
        rows.append(("group", group.name, text))
    rows = [(kind, printable(name), text) for kind, name, text in rows]
    width = max((len(name) for _, name, _ in rows), default=0)
    return [f"  {kind:<10} {name:<{width}}  {text}" for kind, name, text in rows]


def _line(one: QueueStats) -> str:
    parts = [f"{one.ready:,} ready"]
    parts += [
        f"{n:,} {what}"
        for n, what in (
            (one.unsettled, "unsettled"),
            (one.delayed, "delayed"),
            (one.parked, "waiting for room"),
        )
        if n
    ]
    parts += [f"{one.published:,} published, {one.acked:,} acked"]
    cut = " (cut off: it was full)" if one.closed and one.disconnected else ""
    return ", ".join(parts) + (cut or ("" if one.state == "live" else f" ({one.state})"))


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
