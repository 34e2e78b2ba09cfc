"""Full queues: the oldest goes, also where messages have an order to keep; what is due waits for room, in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import Literal

import pytest
from kit import program
from waiting import wait_until

import shmq
from shmq.keywords import Overflow, QueueKeywords

Order = Literal["fifo", "key", "strict"]


def rest(consumer: shmq.Consumer) -> list[int]:
    found = []
    while consumer.queue.depth():
        delivery = consumer.get(timeout=5)
        found.append(int(delivery.payload))
        delivery.ack()
    return found


@pytest.mark.parametrize("order", ["fifo", "key", "strict"])
def test_the_oldest_message_goes_also_when_it_waits_for_its_key(
    broker: shmq.Broker, order: Order
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
    broker: shmq.Broker, order: Order
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
def test_a_full_queue_never_advises_what_it_has_already(
    broker: shmq.Broker, overflow: Overflow
) -> None:
    queue = broker.create_queue("orders", max_depth=1, overflow=overflow)
    queue.publish(b"1")
    with pytest.raises(shmq.QueueFull) as caught:
        queue.publish(b"2", timeout=0)
    assert f'overflow="{overflow}"' not in str(caught.value)


@pytest.mark.parametrize("way", ["publish", "many", "loan", "topic", "async"])
def test_a_message_that_needs_more_bytes_than_are_free_waits_its_timeout(
    broker: shmq.Broker, way: str
) -> None:
    topic = broker.create_topic("news")
    topic.subscribe("all", max_bytes=1000).close()
    queue = (
        topic.subscription("all") if way == "topic" else broker.create_queue("q", max_bytes=1000)
    )
    target = topic if way == "topic" else queue
    target.publish(b"x" * 600)
    with pytest.raises(shmq.QueueFull):
        if way == "many":
            queue.publish_many([b"y" * 500], timeout=0.05)
        elif way == "loan":
            with queue.loan(500, timeout=0.05):
                pass
        elif way == "async":
            asyncio.run(queue.apublish(b"y" * 500, timeout=0.05))
        else:
            target.publish(b"y" * 500, timeout=0.05)
    target.publish(b"z" * 400, timeout=5)
    assert queue.depth() == 2


@pytest.mark.parametrize("order", ["key", "strict"])
def test_who_waits_behind_an_unsettled_message_waits_its_timeout(
    broker: shmq.Broker, order: Order
) -> None:
    """It keeps the places behind it, though few messages are in them."""
    queue = broker.create_queue("orders", order=order, max_depth=4)
    queue.publish(b"0", key="k")
    with queue.subscribe() as consumer:
        held = consumer.get(timeout=5)
        queue.publish(b"1", key="k")
        with pytest.raises(shmq.QueueFull):
            for _ in range(5000):
                queue.publish(b"2", timeout=0.05)
                with contextlib.suppress(shmq.QueueEmpty):  # strict, or one that shares its lane
                    consumer.get(timeout=0).ack()
        held.ack()
        assert consumer.get(timeout=5).payload == b"1"
        queue.publish(b"3", timeout=5)


# ---- messages that are due and wait for room ------------------------------------------------------


def hold_many(broker: shmq.Broker, n: int) -> tuple[shmq.Queue, shmq.Consumer, list[shmq.Delivery]]:
    """A key's first message and many without one in hand, none of which shares its lane."""
    for attempt in range(50):
        queue = broker.create_queue(f"keyed-{attempt}", order="key", max_depth=4)
        consumer = queue.subscribe()
        queue.publish(b"0", key="k")
        held = [consumer.get(timeout=5)]
        with contextlib.suppress(shmq.QueueEmpty):
            for _ in range(n):
                queue.publish(b"x")
                held.append(consumer.get(timeout=0))
            return queue, consumer, held
        consumer.close()
    pytest.fail("50 times a lane was shared")


@pytest.mark.parametrize("first", ["the redelivery", "a delayed message"])
def test_what_comes_back_gets_in_though_the_new_ones_wait_for_its_key(
    broker: shmq.Broker, first: str
) -> None:
    """`first` waits for room before all others. The delayed one has no place of its own: the sidecar's look ends that."""
    queue, consumer, held = hold_many(broker, 2100)  # both rings have 1,024 places
    queue.publish_many([shmq.Message(b"%d" % i, key="k") for i in range(1, 5)], timeout=5)
    if first == "a delayed message":
        queue.publish(b"x", delay=0.001)
        wait_until(lambda: queue.stats().parked == 1, "the delayed one to be due")
    for delivery in reversed(held):
        delivery.nack(delay=0)
    wait = queue.stats().parked
    assert wait
    found = []
    for _ in range(queue.depth() + wait):
        delivery = consumer.get(timeout=10)
        found.append(delivery.payload)
        delivery.ack()
    assert [one for one in found if one != b"x"] == [b"0", b"1", b"2", b"3", b"4"]
    assert queue.stats().parked == 0
    consumer.close()


def flood(source: shmq.Queue, n: int) -> None:
    source.publish_many(b"%d" % i for i in range(n))
    with source.subscribe(prefetch=32) as consumer:
        for _ in range(n):
            consumer.get(timeout=10).reject("bad")


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"max_depth": 100, "overflow": "drop-oldest"}, range(900, 1000)),
        ({"max_depth": 100, "overflow": "reject"}, range(100)),
        ({"max_depth": 100}, range(1000)),
        ({"max_bytes": 30, "overflow": "drop-oldest"}, range(990, 1000)),
    ],
)
def test_the_bounds_of_a_dead_letter_queue_hold_for_dead_letters(
    broker: shmq.Broker, options: QueueKeywords, kept: range
) -> None:
    dead = broker.create_queue("dead", **options)
    source = broker.create_queue("source", dead_letter="dead")
    flood(source, 1000)
    figures = dead.stats()
    bound = options.get("max_depth", 10)
    assert figures.ready == min(bound, len(kept))
    assert figures.parked == len(kept) - figures.ready
    assert figures.dropped == 1000 - len(kept)
    with dead.subscribe(ack="auto") as consumer:
        assert [int(consumer.get(timeout=10).payload) for _ in kept] == list(kept)


def test_what_waits_for_room_arrives_in_order_though_a_producer_keeps_the_queue_full(
    broker: shmq.Broker,
) -> None:
    queue = broker.create_queue("busy", max_depth=20)
    stop = threading.Event()

    def keep_full() -> None:
        while not stop.is_set():
            with contextlib.suppress(shmq.QueueFull):
                queue.publish(b"filling", timeout=0.1)

    producer = threading.Thread(target=keep_full)
    producer.start()
    try:
        wait_until(lambda: queue.depth() == 20, "a full queue")
        for i in range(20):
            queue.publish(b"%d" % i, delay=0.001)
        wait_until(lambda: queue.stats().parked == 20, "all to be due")
        taken = 0
        arrived: list[int] = []
        with queue.subscribe(ack="auto") as consumer:
            while len(arrived) < 20:
                payload = consumer.get(timeout=10).payload
                taken += 1
                if payload != b"filling":
                    arrived.append(int(payload))
        assert arrived == list(range(20))
        assert taken <= 3 * 20 + 5  # those in front, and each second room
    finally:
        stop.set()
        producer.join()


def test_the_newest_of_a_queue_of_one_arrives_though_it_was_delayed(broker: shmq.Broker) -> None:
    queue = broker.create_queue("latest", max_depth=1, overflow="drop-oldest")
    queue.publish(b"old")
    queue.publish(b"new", delay=0.01)
    wait_until(lambda: queue.peek()[0].payload == b"new", "the delayed one")
    assert queue.stats().parked == 0


OTHER = """
with shmq.connect(sys.argv[1]).get_queue("dead").subscribe(ack="auto") as consumer:
    say("ready")
    for _ in sys.stdin:
        say(consumer.get(timeout=10).payload.decode())
"""


def test_an_old_look_at_what_waits_does_not_let_a_later_message_overtake(
    broker: shmq.Broker,
) -> None:
    """Each process remembers who waits; by its next look others' messages are in those blocks."""
    dead = broker.create_queue("dead", max_depth=1)
    source = broker.create_queue("source", dead_letter="dead")
    with program(OTHER, broker.name) as other, dead.subscribe() as ours:
        assert other.line() == "ready"
        one_after_the_other(source, 200)
        other.tell()
        assert other.line() == "0"  # it has looked, and has sent on the first of those that wait
        for delivery in [ours.get(timeout=10) for _ in range(199)]:
            delivery.ack()
        one_after_the_other(source, 200)  # into the same blocks, in another order
        arrived = []
        for n in range(200):
            if n % 2:
                delivery = ours.get(timeout=10)
                arrived.append(int(delivery.payload))
                delivery.ack()
            else:
                other.tell()
                arrived.append(int(other.line()))
        assert arrived == list(range(200))


def one_after_the_other(source: shmq.Queue, n: int) -> None:
    with source.subscribe() as consumer:
        for i in range(n):
            source.publish(b"%d" % i)
            consumer.get(timeout=10).reject("bad")


def test_purge_drops_what_waits_for_room(broker: shmq.Broker) -> None:
    dead = broker.create_queue("dead", max_depth=10)
    flood(broker.create_queue("source", dead_letter="dead"), 50)
    dead.publish(b"later", delay=3600)
    assert dead.purge() == 50
    figures = dead.stats()
    assert (figures.ready, figures.parked, figures.delayed) == (0, 0, 1)


def test_a_consumer_of_a_closed_queue_gets_what_waits_for_room(broker: shmq.Broker) -> None:
    dead = broker.create_queue("dead", max_depth=3)
    flood(broker.create_queue("source", dead_letter="dead"), 30)
    dead.shutdown()
    with dead.subscribe(ack="auto") as consumer:
        assert [int(delivery.payload) for delivery in consumer] == list(range(30))


def test_the_sidecar_has_nothing_to_do_with_what_waits_for_room(broker: shmq.Broker) -> None:
    dead = broker.create_queue("dead", max_depth=3)
    flood(broker.create_queue("source", dead_letter="dead"), 10)
    pid = broker.stats().sidecar_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with dead.subscribe(ack="auto") as consumer:
            assert [int(consumer.get(timeout=10).payload) for _ in range(10)] == list(range(10))
    finally:
        os.kill(pid, signal.SIGCONT)
