"""A broker's figures for Prometheus.

`families` turns `broker.stats()` into metrics named by Prometheus conventions, `text` writes them
in its text format; neither needs anything installed. `Collector` hands the same to
prometheus-client (``pip install shmq[metrics]``), `serve` answers scrapes.

Figures are read from shared memory when they are asked for, at most once per `metrics_interval` of
the broker; nothing runs in between, and no process of the broker takes part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shmq._locks import Lock
from shmq._segment import observe
from shmq.errors import BrokerNotRunning, InvalidOption, ShmqError, explain, printable
from shmq.settings import unpack_metrics
from shmq.stats.broker import BrokerStats, ClientStats, GroupStats, read_stats
from shmq.stats.counters import COUNTERS, Counter
from shmq.stats.queue import BOUNDS, Latency, QueueStats
from shmq.topic import TopicStats

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector as _Base
else:
    _Base = object

__all__ = ["Collector", "Family", "families", "serve", "text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATES = ("ready", "unsettled", "delayed", "parked")
HISTOGRAMS = {
    "waited": ("wait_seconds", "From publish, or from when it was due, to delivery; 1 message in 32"),
    "held": ("hold_seconds", "From delivery to ack; 1 message in 32"),
}  # fmt: skip

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    """One metric: its samples are (suffix of the name, labels, value)."""

    name: str
    kind: str
    """"counter", "gauge" or "histogram" """
    help: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)


def families(stats: BrokerStats) -> list[Family]:
    """Return all metrics of a broker."""
    broker = (("broker", stats.name),)
    found: list[Family] = []

    def family(name: str, kind: str, text: str) -> Family:
        found.append(Family(f"shmq_{name}", kind, text))
        return found[-1]

    def gauge(name: str, text: str, value: float) -> None:
        family(name, "gauge", text).samples.append(("", broker, value))

    gauge("up", "Whether the broker is there", 1)
    gauge("uptime_seconds", "Since the segment was made", stats.uptime)
    processes = family("process_up", "gauge", "Whether that process of the broker lives")
    for role, pid in (("supervisor", stats.supervisor_pid), ("sidecar", stats.sidecar_pid)):
        processes.samples.append(("", (*broker, ("role", role)), float(pid is not None)))
    gauge("memory_used_bytes", "Shared memory with pages behind it", stats.memory_used)
    gauge(
        "memory_limit_bytes",
        "Bytes of memory for payloads, those of all size classes together",
        stats.memory_limit,
    )
    gauge("blocks", "Blocks ever made", stats.blocks)
    gauge("free_blocks", "Blocks that hold no message", stats.free_blocks)
    family("corrupt", "counter", "Impossible values that were found and put right").samples.append(
        ("_total", broker, stats.corrupt)
    )
    clients = [owner for owner in stats.attached if owner.role == "client"]
    gauge("clients", "Processes attached", len(clients))
    held = family("client_unsettled_messages", "gauge", "Deliveries and views that a process holds")
    for owner in clients:
        held.samples.append(("", (*broker, ("pid", str(owner.pid))), owner.held))

    found += _of_streams(broker, stats.streams())
    found += _of_topics(broker, stats.topics)
    found += _of_groups(broker, stats.groups)
    found += _of_clients(broker, stats.clients)
    return found


def _place(one: QueueStats | ClientStats) -> Labels:
    """Return the labels of a queue, a topic, a subscription, or one of many topics."""
    kind = (("kind", one.kind),)
    if one.topic is None:
        return (*kind, ("queue", one.name))
    return (*kind, ("topic", one.topic), *(("subscription", x) for x in [one.subscription] if x))


def _of_streams(broker: Labels, streams: list[QueueStats]) -> Iterator[Family]:
    labels = [(*broker, *_place(one)) for one in streams]
    both = list(zip(labels, streams, strict=True))
    depth = Family("shmq_queue_messages", "gauge", "Messages in a queue, by state")
    for place, one in both:
        for state in STATES:
            depth.samples.append(("", (*place, ("state", state)), getattr(one, state)))
    yield depth
    size = [("", place, float(one.bytes)) for place, one in both]
    yield Family("shmq_queue_bytes", "gauge", "Payload bytes of the ready messages", size)
    age = [("", place, one.oldest_age or 0.0) for place, one in both]
    text = "Since the oldest ready message was published"
    yield Family("shmq_queue_oldest_age_seconds", "gauge", text, age)
    for counter in COUNTERS:
        if counter.metric:
            yield _counted("queue", counter, counter.help, both)
    for attribute, (name, text) in HISTOGRAMS.items():
        buckets = [x for place, one in both for x in _histogram(place, getattr(one, attribute))]
        yield Family(f"shmq_queue_{name}", "histogram", text, buckets)


def _of_topics(broker: Labels, topics: Iterable[TopicStats]) -> Iterator[Family]:
    both = [((*broker, ("topic", one.name)), one) for one in topics]
    text = "Subscriptions that get a topic's messages, patterns included"
    yield Family(
        "shmq_topic_subscriptions", "gauge", text, [("", x, one.subscribers) for x, one in both]
    )
    for counter in COUNTERS:
        if counter.topic:
            yield _counted("topic", counter, counter.topic, both)


def _of_groups(broker: Labels, groups: Iterable[GroupStats]) -> Iterator[Family]:
    both = [((*broker, (one.source_kind, one.source), ("group", one.name)), one) for one in groups]
    lag = Family("shmq_group_lag_messages", "gauge", "Messages that wait for a member")
    unsettled = Family("shmq_group_unsettled_messages", "gauge", "Messages in members' hands")
    members = Family("shmq_group_members", "gauge", "Living members of a group")
    member = Family("shmq_group_member", "gauge", "1 for each living member, with its process")
    turns = Family("shmq_group_member_turns", "counter", "Messages that a member in turn has had")
    for place, one in both:
        lag.samples.append(("", place, one.lag))
        unsettled.samples.append(("", place, one.unsettled))
        members.samples.append(("", place, len(one.members)))
        for each in one.members:
            who = (*place, ("member", each.name), ("pid", str(each.pid)))
            member.samples.append(("", who, 1))
            if each.turns is not None:
                turns.samples.append(("_total", who, each.turns))
    yield from (lag, unsettled, members, member, turns)


def _of_clients(broker: Labels, clients: Iterable[ClientStats]) -> Iterator[Family]:
    both = [((*broker, ("pid", str(one.pid)), *_place(one)), one) for one in clients]
    for counter in COUNTERS:
        if counter.client:
            found = _counted("client", counter, counter.client, both)
            found.samples = [
                one for one in found.samples if one[2]
            ]  # most do one thing with one queue
            yield found


def _counted(of: str, counter: Counter, text: str, both: Iterable[tuple[Labels, object]]) -> Family:
    counts = [("_total", place, float(getattr(one, counter.name))) for place, one in both]
    return Family(f"shmq_{of}_{counter.metric}", "counter", text, counts)


def _histogram(labels: Labels, latency: Latency | None) -> Iterator[tuple[str, Labels, float]]:
    if latency is None:
        latency = Latency(0, 0.0, 0.0, 0.0, 0.0, (0,) * (len(BOUNDS) + 1))
    below = 0
    for bound, n in zip(
        [*(f"{bound:g}" for bound in BOUNDS), "+Inf"], latency.buckets, strict=True
    ):
        below += n
        yield "_bucket", (*labels, ("le", bound)), below
    yield "_count", labels, latency.samples
    yield "_sum", labels, latency.mean * latency.samples


def text(metrics: Iterable[Family]) -> str:
    """Return the Prometheus text format, version 0.0.4."""
    lines = []
    for family in metrics:
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
        for suffix, labels, value in family.samples:
            shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels)
            number = repr(float(value)) if value != int(value) else str(int(value))
            lines.append(f"{family.name}{suffix}{{{shown}}} {number}")
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    # A line feed has an escape of the format. It has none for what else a terminal would obey, and
    # an encoding none for half a character: those are written out, with a backslash of their own.
    lines = [printable(line) for line in label.split("\n")]
    return "\n".join(lines).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


# ---- reading ------------------------------------------------------------------------------------


class Reader:
    """Reads a broker's metrics by name, without being attached, at most once per interval."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._lock = Lock()
        self._until = 0.0
        self._last: list[Family] = []

    def read(self) -> list[Family]:
        """Return the metrics; only ``shmq_up 0`` while there is no broker of that name.

        Raises: InvalidOption when the broker was started with ``metrics`` off.
        """
        with self._lock:
            if self._clock() >= self._until:
                self._last = self._read()
            return self._last

    def _read(self) -> list[Family]:
        interval = 1.0
        try:
            with observe(self.name) as (segment, ctx):
                wanted, interval = unpack_metrics(segment.user_word())
                if not wanted:
                    raise InvalidOption(
                        explain(
                            f"metrics of broker {self.name!r}",
                            "a broker that was started with metrics off",
                            "one with metrics on",
                            "start it with metrics=True (SHMQ_METRICS=on)",
                        )
                    )
                return families(read_stats(segment, ctx))
        except BrokerNotRunning:
            down = Family("shmq_up", "gauge", "Whether the broker is there")
            down.samples.append(("", (("broker", self.name),), 0))
            return [down]
        finally:
            self._until = self._clock() + interval


class Collector(_Base):
    """A collector for prometheus-client: ``REGISTRY.register(Collector("shop"))``.

    For a program that serves metrics of its own; `serve` and ``shmq metrics`` need none.
    """

    def __init__(self, name: str) -> None:
        self._reader = Reader(name)

    def collect(self) -> Iterable[Metric]:
        """Yield the broker's metrics; called by prometheus-client for each scrape."""
        from prometheus_client.core import Metric as _Metric

        try:
            found = self._reader.read()
        except ShmqError:  # a scrape of other metrics must not fail for this one
            return
        for family in found:
            metric = _Metric(family.name, family.help, family.kind)
            for suffix, labels, value in family.samples:
                metric.add_sample(family.name + suffix, dict(labels), value)
            yield metric

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering reads no broker."""
        return []


def serve(name: str, host: str, port: int) -> tuple[Any, int]:
    """Answer scrapes of broker ``name`` on http://host:port/metrics in a thread of its own.

    Port 0 chooses one. Returns (server, port); ``server.shutdown()`` ends it.

    Raises: InvalidOption without prometheus-client, or when the broker has metrics off; OSError when
        the address cannot be had.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise InvalidOption(
            explain(
                "metrics server",
                "no prometheus-client",
                "the package",
                "pip install 'shmq[metrics]'; without a server, `shmq metrics NAME` prints them",
            )
        ) from None
    Reader(name).read()  # says it if there is nothing to serve
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(name))
    server, _ = start_http_server(port, addr=host, registry=registry)
    return server, int(server.server_port)
