"""Features that meet: what one of them must not do to another. Each of these was once wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from rig import Rig, memory

import shmq
from shmq._native import lib
from shmq.keywords import QueueKeywords

FOREVER: QueueKeywords = {"max_retries": None, "retry_backoff": 0}


@pytest.fixture
def rig() -> Iterator[Rig]:
    with memory() as made:
        yield made
        assert made.audit() == {}


def peeked(queue: shmq.Queue) -> list[bytes]:
    return [message.payload for message in queue.peek(100)]


def test_what_was_read_ahead_is_not_handed_out_after_its_ttl(rig: Rig) -> None:
    dead = rig.queue("dead")
    queue = rig.queue(dead_letter=dead)
    for n in range(4):
        queue.publish(b"%d" % n, ttl=0.03)
    queue.publish(b"lasting")
    with queue.subscribe(prefetch=5) as consumer:
        assert consumer.get(timeout=0).payload == b"0"
        time.sleep(0.04)
        assert consumer.get(timeout=0).payload == b"lasting"
        assert [m.headers["x-death-reason"] for m in dead.peek(9)] == ["expired"] * 3
        assert (queue.stats().expired, queue.stats().delivered) == (3, 2)


def test_a_delayed_message_needs_no_room_and_costs_no_other_its_place(rig: Rig) -> None:
    queue = rig.queue(max_depth=2, overflow="drop-oldest")
    refusing = rig.queue("refusing", max_depth=1, overflow="reject")
    topic = rig.topic()
    subscription = topic.subscribe("s", max_depth=1, overflow="disconnect")
    for target in (queue, queue, refusing, topic):
        target.publish(b"now")
    for target in (queue, refusing, topic):
        target.publish(b"later", delay=60)
    with queue.subscribe() as consumer:
        assert consumer.get(timeout=0).forward(refusing, delay=60)
    assert (queue.depth(), queue.stats().dropped, refusing.stats().delayed) == (1, 0, 2)
    assert (subscription.queue.stats().delayed, subscription.queue.stats().closed) == (1, False)


def test_a_duplicate_needs_no_room_and_costs_no_other_its_place(rig: Rig) -> None:
    queue = rig.queue(max_depth=2, overflow="drop-oldest", dedup_window=60)
    first = queue.publish(b"1", dedup_id="a")
    queue.publish(b"2", dedup_id="b")
    assert queue.publish(b"3", dedup_id="a") == first
    assert peeked(queue) == [b"1", b"2"]
    target = rig.queue("target", max_depth=1, dedup_window=60, dedup_capacity=1)
    there = target.publish(b"1", dedup_id="a")
    assert target.publish(b"again", dedup_id="a", timeout=0) == there
    with queue.subscribe() as consumer:  # full, and no room for another id
        assert consumer.get(timeout=0).forward(target, timeout=0) == there
        with pytest.raises(shmq.ShmqError):
            consumer.get(timeout=0).forward(target, timeout=0)
    topic = rig.topic()
    topic.subscribe("s", max_depth=1, dedup_window=60)
    number = topic.publish(b"1", dedup_id="a")
    assert topic.publish(b"again", dedup_id="a", timeout=0) == number
    with pytest.raises(shmq.QueueFull):
        topic.publish(b"2", dedup_id="b", timeout=0)


def test_in_an_ordered_queue_only_new_messages_make_room(rig: Rig) -> None:
    for order in ("key", "strict"):
        queue = rig.queue(order, order=order, max_depth=2, overflow="drop-oldest", **FOREVER)
        with queue.subscribe() as consumer:
            queue.publish(b"back", key="a")
            delivery = consumer.get(timeout=0)
            for key in ("b", "c"):
                queue.publish(key.encode(), key=key)
            delivery.nack()
        queue.publish(
            b"d", key="d", timeout=0
        )  # also where all new ones wait for the one that came back
        assert peeked(queue) == [b"back", b"c", b"d"]
        assert queue.stats().dropped == 1


def test_a_purge_is_no_delivery_and_expired_messages_expire(rig: Rig) -> None:
    dead = rig.queue("dead")
    for order in ("fifo", "key"):
        queue = rig.queue(order, order=order, dead_letter=dead)
        queue.publish(b"short", ttl=0.01)
        queue.publish(b"high", priority=9)
        queue.publish(b"low")
        time.sleep(0.02)
        assert queue.purge() == 2
        stats = queue.stats()
        assert (stats.delivered, stats.dropped, stats.expired, stats.ready) == (0, 2, 1, 0)
    assert peeked(dead) == [b"short"] * 2


def test_read_ahead_counts_as_delivered_when_it_is_handed_out(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish_many([b"1", b"2", b"3"])
    with queue.subscribe(prefetch=3) as consumer:
        consumer.get(timeout=0).ack()
        assert queue.stats().delivered == 1
    assert queue.stats().delivered == 1
    with queue.subscribe() as consumer:
        assert [d.attempt for d in consumer.get_many(2)] == [1, 1]
    assert queue.stats().delivered == 3


def test_the_depth_of_a_dead_letter_queue_counts_all_levels(rig: Rig) -> None:
    dead = rig.queue("dead", max_depth=1)
    queue = rig.queue(dead_letter=dead)
    for priority in (0, 5):
        queue.publish(b"%d" % priority, priority=priority)
    with queue.subscribe() as consumer:
        for delivery in sorted(consumer.get_many(2), key=lambda d: d.priority):
            delivery.reject()
    assert (dead.stats().ready, dead.stats().parked) == (1, 1)


def test_what_expires_before_it_is_due_waits_for_room_among_the_dead(rig: Rig) -> None:
    dead = rig.queue("dead", max_depth=1)
    queue = rig.queue(dead_letter=dead)
    for n in range(3):
        queue.publish(b"%d" % n, delay=0.01, ttl=0.02)
    time.sleep(0.03)
    rig.sweep_expired()
    assert (dead.stats().ready, dead.stats().parked) == (1, 2)


def test_a_dead_letter_knows_when_it_died_however_often_it_comes_back(rig: Rig) -> None:
    dead = rig.queue("dead", retry_backoff=0)
    queue = rig.queue(dead_letter=dead)
    queue.publish(b"x", ttl=3600)
    before = time.time()
    with queue.subscribe() as consumer:
        consumer.get(timeout=0).reject()
    after = time.time()
    with dead.subscribe() as consumer:
        for delay in (0, None, 0.001):
            delivery = consumer.get(timeout=5)
            died = delivery.headers["x-death-time"]
            assert isinstance(died, float)
            assert before - 0.1 <= died <= after + 0.1
            assert delivery.ttl is None
            delivery.nack(delay)
            time.sleep(0.002)
            rig.sweep_expired()
            rig.fire_timers()
    assert dead.stats().expired == 0


def test_another_queue_under_its_number_is_not_where_it_died(rig: Rig) -> None:
    dead = rig.queue("dead")
    queue = rig.queue("first", dead_letter=dead)
    queue.publish(b"x")
    with queue.subscribe() as consumer:
        consumer.get(timeout=0).reject()
    assert dead.peek()[0].headers["x-death-queue"] == "first"
    number = queue._qref & 0xFFFF
    assert lib.shmq_queue_delete(rig.client.ctx, queue._qref) == 0
    while (rig.queue(f"next-{time.monotonic_ns()}")._qref & 0xFFFF) != number:
        pass
    assert dead.peek()[0].headers["x-death-queue"] == f"queue {number}"
