"""A user's program that type checkers have nothing to say about, and see through: checked, never run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from datetime import datetime, timezone

from typing_extensions import assert_type

import shmq
import shmq.mp
from shmq.keywords import HeaderValue


def brew(order: int, *, milk: bool = False) -> str:
    return f"{order} {milk}"


def queues(broker: shmq.Broker) -> None:
    queue = broker.create_queue(
        "orders", max_depth=10, overflow="drop-oldest", ttl="90s", order="key", dead_letter="dead"
    )
    assert_type(queue, shmq.Queue)
    assert_type(queue.publish(b"espresso"), int)
    assert_type(queue.publish(bytearray(3), headers={"n": 1}, priority=2, ttl="5s", key="k"), int)
    assert_type(queue.publish(shmq.Message(b"x", delay=1), timeout=0), int)
    assert_type(queue.publish({"any": object}, serializer="json", dedup_id="1"), int)
    assert_type(queue.publish(b"x", deliver_at=datetime.now(timezone.utc)), int)
    assert_type(queue.publish_many([b"a", shmq.Message(b"b")]), int)
    assert_type(queue.stats(), shmq.QueueStats)
    assert_type(queue.stats().ready, int)
    assert_type(queue.peek(), "list[shmq.Message]")
    assert_type(queue.purge(), int)
    with queue.loan(100, priority=1) as buffer:
        assert_type(buffer[0], int)


def consumers(queue: shmq.Queue) -> None:
    with queue.subscribe("me", ack="auto", prefetch=8) as consumer:
        assert_type(consumer, shmq.Consumer)
        for each in consumer:
            assert_type(each, shmq.Delivery)
        delivery = consumer.get(timeout="1s")
        assert_type(delivery, shmq.Delivery)
        assert_type(delivery.payload, bytes)
        headers: Mapping[str, HeaderValue] = delivery.headers
        assert headers
        assert_type(delivery.id, int)
        assert_type(delivery.attempt, int)
        assert_type(delivery.priority, int)
        assert_type(delivery.redelivered, bool)
        assert_type(delivery.timestamp, float)
        assert_type(delivery.view[0], int)
        delivery.nack(delay=1.5, reason="no milk")
        assert_type(delivery.forward(queue, b"next", headers={"a": "b"}), int)
        many = consumer.get_many(10, timeout=0)
        assert_type(many, "list[shmq.Delivery]")
        assert_type(consumer.ack_many(many), int)
        assert_type(consumer.release_many(many), int)
        assert_type(consumer.unsettled, int)
        assert_type(consumer.closed, bool)


def topics(broker: shmq.Broker) -> None:
    topic = broker.create_topic("drinks", max_depth=5)
    assert_type(topic, shmq.Topic)
    assert_type(topic.publish(b"x", headers={"hot": True}), int)
    assert_type(topic.publish_many([b"x"]), int)
    subscription = topic.subscribe("counter", filter={"hot": True}, overflow="disconnect")
    assert_type(subscription, shmq.Consumer)
    assert_type(broker.subscribe("drinks.*", "all"), shmq.Consumer)
    group = broker.create_consumer_group("g", topic, dispatch="round-robin")
    assert_type(group, shmq.ConsumerGroup)
    assert_type(group.add_consumer("one"), shmq.Consumer)


async def events(queue: shmq.Queue) -> None:
    assert_type(await queue.apublish(b"x"), int)
    async with queue.subscribe() as consumer:
        assert_type(await consumer.aget(timeout=1), shmq.Delivery)
        async for each in consumer:
            assert_type(each, shmq.Delivery)


def calls() -> None:
    with shmq.Executor(2) as executor:
        future: Future[str] = executor.submit(brew, 1, milk=True)
        assert_type(future.result(), str)
        for name in executor.map(brew, [1, 2]):
            assert_type(name, str)


def items() -> None:
    with closing(shmq.mp.Queue(3)) as queue:
        queue.put({"any": "thing"}, timeout=1)
    numbers: shmq.mp.Queue[int] = shmq.mp.Queue()
    numbers.put_many([1, 2])
    assert_type(numbers.get(timeout=1), int)
    assert_type(numbers.get_many(3), "list[int]")
    jobs: shmq.mp.JoinableQueue[str] = shmq.mp.JoinableQueue(5)
    assert_type(jobs.get_nowait(), str)
    jobs.task_done()
    simple: shmq.mp.SimpleQueue[bytes] = shmq.mp.SimpleQueue()
    assert_type(simple.get(), bytes)


with shmq.Broker(memory_limit="64MB") as opened:
    queues(opened)
    consumers(opened.get_queue("orders"))
    topics(opened)
    asyncio.run(events(opened.get_queue("orders")))
calls()
items()
