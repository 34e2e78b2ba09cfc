"""Figures for Prometheus, scraped as Prometheus does, and trace context in headers."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from kit import WATCHDOG_S, wait_until

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
