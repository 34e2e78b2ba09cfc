"""Overflow: who is full gives up its oldest message, also where messages have an order to keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shmq


@pytest.fixture
def broker(broker_name: str) -> Iterator[shmq.Broker]:
    with shmq.Broker(broker_name) as broker:
        yield broker


def rest(consumer: shmq.Consumer) -> list[int]:
    found = []
    while consumer.queue.depth():
        delivery = consumer.get(timeout=5)
        found.append(int(delivery.payload))
        delivery.ack()
    return found


@pytest.mark.parametrize("order", ["fifo", "key", "strict"])
def test_the_oldest_message_goes_also_when_it_waits_for_its_key(
    broker: shmq.Broker, order: str
) -> None:
    queue = broker.create_queue("orders", order=order, max_depth=3, overflow="drop-oldest")
    with queue.subscribe() as consumer:
        queue.publish(b"0", key="k")
        held = consumer.get(timeout=5)
        for i in range(1, 20):
            queue.publish(b"%d" % i, key="k")
        held.ack()
        assert rest(consumer) == [17, 18, 19]
    assert queue.stats().dropped == 16


@pytest.mark.parametrize("order", ["fifo", "key", "strict"])
def test_a_slow_subscription_that_drops_never_holds_a_publisher_back(
    broker: shmq.Broker, order: str
) -> None:
    topic = broker.create_topic("news")
    other = topic.subscribe("other")
    slow = topic.subscribe("slow", overflow="drop-oldest", max_depth=3, order=order)
    topic.publish(b"0", key="k")
    held = slow.get(timeout=5)
    for i in range(1, 20):
        topic.publish(b"%d" % i, key="k", timeout=5)
    held.ack()
    assert rest(slow) == [17, 18, 19]
    assert rest(other) == list(range(20))
    slow.close()
    other.close()


def test_what_was_given_back_is_not_what_is_dropped(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders", order="key", max_depth=2, overflow="drop-oldest")
    with queue.subscribe() as consumer:
        queue.publish(b"0", key="k")
        consumer.get(timeout=5).nack(delay=0)
        for i in range(1, 5):
            queue.publish(b"%d" % i, key="k")
        assert rest(consumer) == [0, 3, 4]


@pytest.mark.parametrize("overflow", ["block", "reject"])
def test_a_full_queue_never_advises_what_it_has_already(broker: shmq.Broker, overflow: str) -> None:
    queue = broker.create_queue("orders", max_depth=1, overflow=overflow)
    queue.publish(b"1")
    with pytest.raises(shmq.QueueFull) as caught:
        queue.publish(b"2", timeout=0)
    assert f'overflow="{overflow}"' not in str(caught.value)
