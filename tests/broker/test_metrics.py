"""Figures for Prometheus, scraped as Prometheus does, and trace context in headers."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from kit import kill, program
from waiting import WATCHDOG_S, wait_until

import shmq
import shmq.metrics
from shmq import otel
from shmq.cli.main import main
from shmq.metrics import Collector, Reader, families, text

prometheus = pytest.importorskip("prometheus_client")


@pytest.fixture
def broker(broker_name: str) -> Iterator[shmq.Broker]:
    with shmq.Broker(broker_name, metrics_interval="10ms") as broker:
        yield broker


def parsed(page: str) -> dict[tuple[str, str, str], float]:
    """Return {(sample, queue, the label that tells it apart): value} by Prometheus' own parser."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (
            sample.name,
            sample.labels.get("queue", ""),
            sample.labels.get("state")
            or sample.labels.get("le")
            or sample.labels.get("role")
            or "",
        ): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def worked(broker: shmq.Broker) -> shmq.Queue:
    queue = broker.create_queue("orders")
    queue.publish_many([b"espresso"] * 100)
    queue.publish(b"later", delay=3600)
    with queue.subscribe(max_unsettled=200) as consumer:
        consumer.ack_many(consumer.get_many(60))
    return queue


def check(found: dict[tuple[str, str, str], float]) -> None:
    assert found["shmq_up", "", ""] == 1
    assert found["shmq_process_up", "", "sidecar"] == 1
    assert found["shmq_queue_messages", "orders", "ready"] == 40
    assert found["shmq_queue_messages", "orders", "delayed"] == 1
    assert found["shmq_queue_published_messages_total", "orders", ""] == 101
    assert found["shmq_queue_acked_messages_total", "orders", ""] == 60
    assert found["shmq_queue_wait_seconds_count", "orders", ""] == 2
    assert found["shmq_queue_wait_seconds_bucket", "orders", "+Inf"] == 2
    assert found["shmq_queue_wait_seconds_bucket", "orders", "1000"] == 2
    assert found["shmq_queue_hold_seconds_sum", "orders", ""] > 0


def test_the_endpoint_answers_a_scrape_until_it_is_told_to_end(broker: shmq.Broker) -> None:
    worked(broker)
    process = subprocess.Popen(
        [sys.executable, "-m", "shmq.cli", "metrics", broker.name, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"{broker.name!r} on http://127.0.0.1:" in line
        url = line.split()[-1]
        with urllib.request.urlopen(url, timeout=WATCHDOG_S) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            check(parsed(answer.read().decode()))
        broker.shutdown()

        def up() -> bool:
            with urllib.request.urlopen(url, timeout=WATCHDOG_S) as answer:
                return parsed(answer.read().decode())["shmq_up", "", ""] == 1

        wait_until(lambda: not up(), "shmq_up 0")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WATCHDOG_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_without_an_address_the_figures_are_printed(
    broker: shmq.Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    worked(broker)
    assert main(["metrics", broker.name]) == 0
    page = capsys.readouterr().out
    check(parsed(page))
    assert "# TYPE shmq_queue_published_messages_total counter" in page
    assert main(["metrics", "nobody-has-this-name"]) == 3
    assert main(["metrics", broker.name, "--listen", "nonsense"]) == 2


def test_a_collector_gives_a_registry_the_same(broker: shmq.Broker) -> None:
    worked(broker)
    registry = prometheus.CollectorRegistry()
    registry.register(Collector(broker.name))
    check(parsed(prometheus.generate_latest(registry).decode()))


def test_names_follow_the_conventions(broker: shmq.Broker) -> None:
    worked(broker)
    for family in families(broker.stats()):
        assert family.name.startswith("shmq_")
        assert not family.name.endswith("_total")  # which is the suffix of its samples
        assert family.help
        for suffix, _, _ in family.samples:
            assert (suffix == "_total") == (family.kind == "counter")


def test_labels_are_escaped() -> None:
    family = shmq.metrics.Family("shmq_x", "gauge", "x", [("", (("queue", 'a"b\\c\nd'),), 1.5)])
    assert text([family]).splitlines()[-1] == 'shmq_x{queue="a\\"b\\\\c\\nd"} 1.5'


def test_figures_are_read_at_most_once_per_interval(broker_name: str) -> None:
    now = [0.0]
    with shmq.Broker(broker_name, metrics_interval="2s") as broker:
        queue = broker.create_queue("orders")
        reader = Reader(broker.name, clock=lambda: now[0])

        def published() -> float:
            return parsed(text(reader.read()))["shmq_queue_published_messages_total", "orders", ""]

        assert published() == 0
        queue.publish(b"x")
        now[0] = 1.9
        assert published() == 0
        now[0] = 2.0
        assert published() == 1


def test_metrics_off_measures_and_shows_nothing(
    broker_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with shmq.Broker(broker_name, metrics=False) as broker:
        stats = worked(broker).stats()
        assert (stats.acked, stats.waited, stats.held) == (60, None, None)
        assert main(["metrics", broker.name]) == 2
        assert "metrics off" in capsys.readouterr().err


def test_broker_stats_have_every_figure_of_every_queue(broker: shmq.Broker) -> None:
    queue = worked(broker)
    broker.create_queue("other").publish(b"x")
    orders, other = broker.stats().queues
    mine = queue.stats()
    assert (orders.name, other.name) == ("orders", "other")
    for name in ("ready", "delayed", "unsettled", "bytes", "published", "acked", "waited", "held"):
        assert getattr(orders, name) == getattr(mine, name)
    assert (other.ready, other.published) == (1, 1)


# ---- topics, groups, processes ------------------------------------------------------------------

CONSUMER = """
    broker = shmq.connect(name)
    group = broker.create_consumer_group("workers", broker.get_topic("news"))
    with group.add_consumer("far") as consumer:
        consumer.get(timeout=20).ack()
        say("acked")
        sys.stdin.readline()
"""


def told(broker: shmq.Broker) -> list[shmq.Consumer]:
    """A topic with three messages for one subscription, two patterns, a cut-off one and a group."""
    topic = broker.create_topic("news")
    consumers = [
        topic.subscribe("audit"),
        topic.subscribe("slow", overflow="disconnect", max_depth=1),
        broker.subscribe("news.#", "all"),
        broker.subscribe("news.*", "none"),
    ]
    group = broker.create_consumer_group("workers", topic)
    consumers.append(group.add_consumer("near"))
    topic.publish_many([b"1", b"22", b"333"])
    return consumers


def test_queues_topics_subscriptions_and_groups_have_labels_of_their_own(
    broker: shmq.Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    queue = broker.create_queue("orders")
    turns = broker.create_consumer_group("in-turn", queue, dispatch="round-robin")
    queue.publish_many([b"a", b"b"])
    consumers = told(broker)
    with program(CONSUMER, broker.name) as far, turns.add_consumer("m") as member:
        assert far.line() == "acked"
        member.get(timeout=10).ack()
        assert main(["metrics", broker.name]) == 0
        page = capsys.readouterr().out
        found = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

        def value(name: str, **labels: object) -> float | None:
            texts = {key: str(label) for key, label in {"broker": broker.name, **labels}.items()}
            return found.get((name, *sorted(texts.items())))

        def ready(**labels: object) -> float | None:
            return value("shmq_queue_messages", state="ready", **labels)

        news = {"kind": "subscription", "topic": "news"}
        assert ready(kind="queue", queue="orders") == 1
        assert ready(subscription="audit", **news) == 3
        assert ready(subscription="slow", **news) == 1
        assert ready(subscription="workers", **news) == 2
        assert ready(kind="pattern", topic="news.#", subscription="all") == 3
        assert ready(kind="pattern", topic="news.*", subscription="none") == 0
        assert value("shmq_queue_disconnects_total", subscription="slow", **news) == 1
        assert value("shmq_queue_disconnects_total", subscription="audit", **news) == 0
        assert value("shmq_topic_published_messages_total", topic="news") == 3
        assert value("shmq_topic_published_bytes_total", topic="news") == 6
        assert value("shmq_topic_subscriptions", topic="news") == 3
        workers = {"topic": "news", "group": "workers"}
        assert value("shmq_group_lag_messages", **workers) == 2
        assert value("shmq_group_members", **workers) == 2
        assert value("shmq_group_member", member="near", pid=os.getpid(), **workers) == 1
        assert value("shmq_group_member", member="far", pid=far.pid, **workers) == 1
        in_turn = {"queue": "orders", "group": "in-turn"}
        assert value("shmq_group_lag_messages", **in_turn) == 1
        mine = {"member": "m", "pid": os.getpid()}
        assert value("shmq_group_member_turns_total", **in_turn, **mine) == 1
        acked = "shmq_client_acked_messages_total"
        assert value(acked, pid=os.getpid(), kind="queue", queue="orders") == 1
        assert value(acked, pid=far.pid, subscription="workers", **news) == 1
        assert value(acked, pid=os.getpid(), subscription="workers", **news) is None
    assert "/news" not in page  # names of records are no labels
    for consumer in consumers:
        consumer.close()


def test_stats_know_topics_groups_members_and_processes(broker: shmq.Broker) -> None:
    consumers = told(broker)
    broker.create_queue("orders")
    with program(CONSUMER, broker.name) as far:
        assert far.line() == "acked"
        stats = broker.stats()
        assert [queue.name for queue in stats.queues] == ["orders"]
        (topic,) = stats.topics
        assert dataclasses.replace(topic, subscriptions=()) == dataclasses.replace(
            broker.get_topic("news").stats(), subscriptions=()
        )
        assert (topic.published, topic.subscribers, topic.disconnected) == (3, 3, 1)
        assert [one.subscription for one in topic.subscriptions] == ["audit", "slow", "workers"]
        assert [one.topic for one in stats.patterns] == ["news.#", "news.*"]
        assert {one.kind for one in stats.streams()} == {"queue", "subscription", "pattern"}
        (group,) = stats.groups
        assert (group.name, group.source, group.source_kind) == ("workers", "news", "topic")
        assert (group.dispatch, group.lag, group.unsettled) == ("ready", 2, 0)
        members = [(member.name, member.pid, member.turns) for member in group.members]
        assert members == [("far", far.pid, None), ("near", os.getpid(), None)]
        before = {(one.pid, one.name): one for one in stats.clients}
        consumers[-1].get(timeout=10).ack()
        after = {(one.pid, one.name): one for one in broker.stats().clients}
        mine, theirs = (os.getpid(), "/news/workers"), (far.pid, "/news/workers")
        assert after[mine].rates_since(before[mine])["acked"] > 0
        assert after[theirs].rates_since(before[theirs])["acked"] == 0
        with pytest.raises(ValueError, match="of the same process"):
            after[theirs].rates_since(before[mine])
        consumers[-1].close()
        kill(far.pid)
    wait_until(lambda: not broker.stats().groups[0].members, "the end of the dead member")
    (group,) = broker.stats().groups  # it collects on
    assert (group.dispatch, group.lag) == (None, 1)
    broker.get_topic("news").unsubscribe("workers")
    assert broker.stats().groups == ()
    for consumer in consumers:
        consumer.close()


@pytest.mark.parametrize("provider", ["posix", "sysv"])
def test_figures_of_processes_are_read_whatever_the_memory(broker_name: str, provider: str) -> None:
    with shmq.Broker(broker_name, shm=provider) as broker:
        queue = broker.create_queue("orders")
        queue.publish_many([b"x"] * 5)
        used = broker.stats().memory_used
        (mine,) = broker.stats().clients
        assert (mine.pid, mine.name, mine.published, mine.delivered) == (
            os.getpid(),
            "orders",
            5,
            0,
        )
        assert broker.stats().memory_used == used  # looking makes no pages


# ---- OpenTelemetry ------------------------------------------------------------------------------


def test_trace_context_travels_in_headers(broker: shmq.Broker) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(0x1234, 0x5678, is_remote=False, trace_flags=trace.TraceFlags(1))
    queue = broker.create_queue("orders")
    with trace.use_span(trace.NonRecordingSpan(context)):
        queue.publish(b"x", headers=otel.inject({"mine": 1}))
    with queue.subscribe() as consumer:
        delivery = consumer.get(timeout=10)
        assert delivery.headers["mine"] == 1
        assert "traceparent" in delivery.headers
        with otel.attached(delivery):
            current = trace.get_current_span().get_span_context()
        assert (current.trace_id, current.span_id) == (0x1234, 0x5678)
        assert trace.get_current_span().get_span_context().trace_id == 0
        delivery.ack()


def test_without_opentelemetry_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", missing)
    assert not otel.available()
    assert otel.inject({"a": 1}) == {"a": 1}
    message = shmq.Message(b"x", headers={"traceparent": "00-1-2-01"})
    assert otel.extract(message) is None
    with otel.attached(message) as context:
        assert context is None
