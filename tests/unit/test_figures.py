"""Latencies, rates and points in time."""

from __future__ import annotations

import datetime
import math
import time
from typing import Any

import pytest
from rig import Rig

from shmq.errors import MessageExpired
from shmq.message import Message
from shmq.stats.queue import BOUNDS, latency_of

# ---- figures ------------------------------------------------------------------------------------


def test_stats_measure_how_long_messages_waited_and_were_held(rig: Rig) -> None:
    queue = rig.queue(max_depth=1000)
    assert queue.stats().waited is None
    queue.publish_many([b"x"] * 100)
    time.sleep(0.02)
    with queue.subscribe(max_unsettled=200) as consumer:
        deliveries = consumer.get_many(100)
        time.sleep(0.05)
        consumer.ack_many(deliveries)
    stats = queue.stats()
    assert stats.waited is not None
    assert stats.held is not None
    assert stats.waited.samples == stats.held.samples == 4  # of 100, one in 32
    assert stats.waited.mean >= 0.02
    assert stats.held.mean >= 0.05
    assert stats.held.p50 >= 0.03  # its bucket is that from 30 to 100 ms
    assert stats.waited.p50 <= stats.waited.p90 <= stats.waited.p99


def test_held_is_measured_through_touch_views_and_read_ahead(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish_many([b"x", b"y"])
    with queue.subscribe() as consumer:
        delivery = consumer.get()
        delivery.touch(10)
        view = delivery.view
        delivery.ack()
        view.release()
    held = queue.stats().held
    assert held is not None
    assert held.samples == 1
    with queue.subscribe(prefetch=8) as consumer:
        consumer.get().ack()
    waited = queue.stats().waited
    assert waited is not None
    assert waited.samples == 2


def test_a_delay_does_not_count_as_waiting(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish(b"x", delay=0.5)
    time.sleep(0.51)
    rig.fire_timers()
    with queue.subscribe() as consumer:
        consumer.get(timeout=5).ack()
    waited = queue.stats().waited
    assert waited is not None
    assert waited.mean < 0.4


def test_rates_are_counts_per_second_between_two_looks(rig: Rig) -> None:
    queue = rig.queue()
    before = queue.stats()
    queue.publish_many([b"x"] * 10)
    time.sleep(0.05)
    rates = queue.stats().rates_since(before)
    assert 10 / 5 < rates["published"] <= 10 / 0.05
    assert rates["acked"] == 0
    with pytest.raises(ValueError, match="earlier"):
        before.rates_since(queue.stats())


def test_percentiles_come_from_the_right_bucket() -> None:
    buckets = [0] * 20
    buckets[6], buckets[12] = 90, 10  # 0.3 to 1 ms; 0.3 to 1 s
    latency = latency_of(buckets, 10**9)
    assert latency is not None
    assert 0.0003 < latency.p50 < latency.p90 <= 0.001
    assert 0.3 < latency.p99 <= 1
    assert latency_of([0] * 19 + [1], 5 * 10**12) is not None
    assert len(BOUNDS) == 19


# ---- deliver_at ---------------------------------------------------------------------------------


def test_deliver_at_takes_a_datetime_or_seconds_since_1970(rig: Rig) -> None:
    queue = rig.queue()
    utc = datetime.timezone.utc
    queue.publish(b"past", deliver_at=time.time() - 5)
    queue.publish(b"soon", deliver_at=datetime.datetime.now(utc) + datetime.timedelta(seconds=0.1))
    queue.publish(Message(b"later", delay=3600), deliver_at=time.time() + 0.1)
    queue.publish(Message(b"far", deliver_at=time.time()), delay=3600)
    assert queue.depth() == 1
    assert queue.stats().delayed == 3
    time.sleep(0.12)
    rig.fire_timers()
    assert sorted(m.payload for m in queue.peek(9)) == [b"later", b"past", b"soon"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"deliver_at": "tomorrow"}, TypeError),
        ({"deliver_at": True}, TypeError),
        ({"deliver_at": math.nan}, ValueError),
        ({"deliver_at": math.inf}, ValueError),
        ({"deliver_at": 1e18}, ValueError),
        ({"deliver_at": 0, "delay": 1}, ValueError),
    ],
)
def test_an_impossible_deliver_at_is_refused(
    rig: Rig, fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match="deliver_at"):
        rig.queue().publish(b"x", **fields)


def test_a_message_that_would_expire_before_it_is_due_is_refused(rig: Rig) -> None:
    queue = rig.queue(ttl=60)
    due = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    stillborn: list[dict[str, Any]] = [{"delay": 60}, {"deliver_at": due}, {"delay": 2, "ttl": 1}]
    for fields in stillborn:
        with pytest.raises(MessageExpired, match=r"queue '.*': found a ttl of .* expected"):
            queue.publish(b"x", **fields)
    with pytest.raises(MessageExpired, match="the default here"):
        queue.publish_many([b"went", Message(b"x", delay=61)])
    assert queue.depth() == 1
    for fields in ({"delay": 59}, {"delay": 60, "ttl": math.inf}, {"delay": 2, "ttl": 3}):
        queue.publish(b"x", **fields)
    assert queue.stats().delayed == 3
    rig.queue("patient", ttl=None).publish(b"x", delay=1e6)
