"""Queue: publishing, looking, shutting down; threads, forks, pickles."""

from __future__ import annotations

import array
import asyncio
import math
import os
import pickle
import queue as stdlib_queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import Rig, drained, in_child

from shmq.errors import (
    MessageTooLarge,
    QueueClosed,
    QueueFull,
    QueueNotFound,
)
from shmq.keywords import HeaderValue
from shmq.message import Message
from shmq.queue import Queue
from shmq.topic import Topic

# ---- publish ------------------------------------------------------------------------------------


def test_publish_returns_ids_that_never_repeat(rig: Rig) -> None:
    a, b = rig.queue("a"), rig.queue("b")
    ids = [a.publish(b"1"), b.publish(b"2"), a.publish(b"3", priority=1), b.publish(Message(b"4"))]
    assert len(set(ids)) == 4
    assert all(type(number) is int and number > 0 for number in ids)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"x" * 4096,
        b"x" * 4097,
        bytearray(b"ab"),
        memoryview(b"abc"),
        memoryview(b"abcdef")[::2],
    ],
)
def test_any_bytes_like_payload_arrives_as_bytes(rig: Rig, payload: Any) -> None:
    queue = rig.queue()
    queue.publish(payload)
    queue.publish(Message(payload))
    assert drained(queue) == [bytes(payload)] * 2


def test_payloads_of_every_size_class_arrive(rig: Rig) -> None:
    queue = rig.queue()
    sizes = [63, 64, 65, 255, 257, 1024, 1025, 4096, 5000, 16384, 65536, 65537, 300_000, 1 << 20]
    for size in sizes:
        queue.publish(os.urandom(1)[:1] * size)
    assert [len(payload) for payload in drained(queue)] == sizes


def test_arrays_of_numbers_are_bytes_like(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish(array.array("d", [1.0, 2.0]))
    assert drained(queue) == [array.array("d", [1.0, 2.0]).tobytes()]


def test_a_payload_changed_after_publish_arrives_as_it_was(rig: Rig) -> None:
    queue = rig.queue()
    payload = bytearray(b"before")
    queue.publish(payload)
    payload[:] = b"after!"
    assert drained(queue) == [b"before"]


@pytest.mark.parametrize(
    ("arguments", "fields", "kind", "text"),
    [
        (("text",), {}, TypeError, "payload: found str"),
        ((None,), {}, TypeError, "payload: found NoneType"),
        ((), {}, TypeError, "missing 1 required positional"),
        ((b"x", 1), {}, TypeError, "positional"),
        ((b"x",), {"unknown": 1}, TypeError, "'unknown': found an unknown name"),
        ((b"x",), {"ttl": -1}, ValueError, "ttl: found -1"),
        ((b"x",), {"timeout": -1}, ValueError, "timeout: found -1"),
        ((b"x",), {"timeout": math.nan}, ValueError, "timeout: found nan"),
        ((b"x",), {"timeout": []}, TypeError, r"timeout: found \[\]"),
        ((b"x",), {"priority": 12}, ValueError, "priority: found 12"),
    ],
)
def test_wrong_arguments_are_named(
    rig: Rig, arguments: Any, fields: Any, kind: type[Exception], text: str
) -> None:
    queue = rig.queue()
    with pytest.raises(kind, match=text):
        queue.publish(*arguments, **fields)
    assert queue.depth() == 0


def test_priority_must_be_below_the_queues_levels(rig: Rig) -> None:
    queue = rig.queue(priorities=3)
    queue.publish(b"x", priority=2)
    with pytest.raises(ValueError, match="priority: found 3, expected less than 3"):
        queue.publish(b"x", priority=3)


def test_a_message_above_the_limit_is_refused(rig: Rig) -> None:
    queue = rig.queue()
    with pytest.raises(MessageTooLarge, match="split it"):
        queue.publish(bytes((1 << 20) + 1))
    with pytest.raises(ValueError, match="max_message_size"):
        queue.publish_many([b"x", bytes((1 << 20) + 1), b"y"])
    assert drained(queue) == [b"x"]


# ---- full ---------------------------------------------------------------------------------------


def test_a_full_queue_blocks_for_the_timeout_and_then_raises(rig: Rig) -> None:
    queue = rig.queue(max_depth=2)
    assert queue.publish_many([b"1", b"2"]) == 2
    started = time.monotonic()
    with pytest.raises(QueueFull, match="add consumers"):
        queue.publish(b"3", timeout=0.1)
    assert time.monotonic() - started >= 0.1
    with pytest.raises(stdlib_queue.Full):
        queue.publish(b"3", timeout=0)
    with pytest.raises(QueueFull):
        queue.publish(b"3", timeout="5ms")
    assert drained(queue) == [b"1", b"2"]


def test_a_blocked_publish_goes_on_when_there_is_room(rig: Rig) -> None:
    queue = rig.queue(max_depth=1)
    queue.publish(b"1")
    thread = threading.Thread(target=queue.publish, args=(b"2",))
    thread.start()
    time.sleep(0.05)
    with queue.subscribe(ack="none") as consumer:
        assert consumer.get(timeout=5).payload == b"1"
        assert consumer.get(timeout=5).payload == b"2"
    thread.join(5)
    assert not thread.is_alive()


def test_reject_raises_at_once(rig: Rig) -> None:
    queue = rig.queue(max_depth=1, overflow="reject")
    queue.publish(b"1")
    with pytest.raises(QueueFull, match='overflow="block"'):
        queue.publish(b"2")
    with pytest.raises(QueueFull):
        queue.publish_many([b"2"], timeout=5)


def test_drop_oldest_makes_room(rig: Rig) -> None:
    queue = rig.queue(max_depth=3, overflow="drop-oldest")
    for i in range(10):
        queue.publish(b"%d" % i)
    assert drained(queue) == [b"7", b"8", b"9"]


@pytest.mark.parametrize("depth", [1, 5, 40])
@pytest.mark.parametrize("way", ["plain", "id", "level", "loan", "copy", "forward"])
def test_what_others_have_published_counts_at_once(rig: Rig, way: str, depth: int) -> None:
    """One who has not published since cannot know it from what it remembers of the ring."""
    topic = rig.topic()
    copies = topic.subscribe("s", max_depth=depth)
    first = rig.queue(max_depth=depth, dedup_window=60)
    if way == "copy":
        first = Queue(rig.client, copies.queue_name)
    source = rig.queue("source")
    with copies, rig.another() as other:
        second = Queue(other, first.name, first._qref)
        second.depth()  # looks at the empty ring
        for i in range(depth):
            if way == "copy":
                topic.publish(b"%d" % i, timeout=0)
            else:
                first.publish(b"%d" % i, timeout=0)
        with pytest.raises(QueueFull):
            if way == "plain":
                second.publish(b"x", timeout=0)
            elif way == "id":
                second.publish(b"x", timeout=0, dedup_id="x")
            elif way == "level":
                second.publish(b"x", timeout=0, priority=3)
            elif way == "loan":
                with second.loan(1, timeout=0, dedup_id="x"):
                    pass
            elif way == "copy":
                Topic(other, "t", topic._qref).publish(b"x", timeout=0)
            else:
                source.publish(b"x")
                Queue(other, "source", source._qref).subscribe().get(timeout=0).forward(
                    second, timeout=0
                )
        assert first.depth() == depth


# ---- publish_many -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 128, 1000])
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_publish_many_keeps_order_and_counts(rig: Rig, n: int, kind: Any) -> None:
    queue = rig.queue()
    items = [b"%d" % i for i in range(n)]
    assert queue.publish_many(kind(items)) == n
    assert drained(queue) == items


def test_publish_many_takes_messages_between_bytes(rig: Rig) -> None:
    queue = rig.queue()
    assert queue.publish_many([b"1", Message(b"2", headers={"h": 1}), bytearray(b"3"), b"4"]) == 4
    assert [message.headers for message in queue.peek(4)] == [{}, {"h": 1}, {}, {}]
    assert drained(queue) == [b"1", b"2", b"3", b"4"]


def test_publish_many_says_how_many_went(rig: Rig) -> None:
    queue = rig.queue(max_depth=5)
    with pytest.raises(QueueFull, match="after 5 messages were published"):
        queue.publish_many([b"x"] * 9, timeout=0.02)
    assert queue.depth() == 5


def test_publish_many_waits_for_room(rig: Rig) -> None:
    queue = rig.queue(max_depth=4)
    items = [b"%d" % i for i in range(500)]
    thread = threading.Thread(target=queue.publish_many, args=(items,))
    thread.start()
    with queue.subscribe(ack="none") as consumer:
        assert [consumer.get(timeout=10).payload for _ in items] == items
    thread.join(5)


def test_publish_many_publishes_what_came_before_a_failure(rig: Rig) -> None:
    queue = rig.queue()

    def items() -> Iterator[Any]:
        yield b"1"
        yield b"2"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        queue.publish_many(items())
    with pytest.raises(TypeError, match="payload: found int"):
        queue.publish_many([b"3", 4, b"5"])  # type: ignore[list-item]
    assert drained(queue) == [b"1", b"2", b"3"]


# ---- looking ------------------------------------------------------------------------------------


def test_peek_changes_nothing(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish(b"1", headers={"a": "b"}, key="k", dedup_id=b"d", ttl=5, priority=2)
    queue.publish(b"2")
    before = queue.stats()
    first, second = queue.peek(10)
    assert [message.id for message in queue.peek(1)] == [first.id]
    assert (first.payload, second.payload) == (b"1", b"2")
    assert (first.headers, first.key, first.dedup_id) == ({"a": "b"}, "k", b"d")
    assert (first.ttl, first.priority) == (5.0, 2)
    assert first.timestamp == pytest.approx(time.time(), abs=5)
    assert queue.peek(0) == []
    after = queue.stats()
    assert (after.ready, after.delivered) == (before.ready, before.delivered)
    with queue.subscribe() as consumer:
        delivery = consumer.get(timeout=0)
        assert (delivery.attempt, delivery.id) == (1, first.id)
        delivery.ack()
    drained(queue)
    assert sum(rig.states()[2:]) == 0


def test_stats_count(rig: Rig) -> None:
    queue = rig.queue()
    assert queue.stats().oldest_age is None
    queue.publish_many([b"12", b"345"])
    with queue.subscribe() as consumer:
        consumer.get().ack()
        held = consumer.get()
        stats = queue.stats()
        assert (stats.ready, stats.unsettled, stats.delayed) == (0, 1, 0)
        assert (stats.published, stats.published_bytes) == (2, 5)
        assert (stats.delivered, stats.acked) == (2, 1)
        held.nack(delay=60)
    stats = queue.stats()
    assert (stats.ready, stats.unsettled, stats.delayed, stats.nacked) == (0, 0, 1, 1)
    queue.publish(b"1234")
    stats = queue.stats()
    assert (stats.name, stats.bytes, stats.closed) == ("q", 4, False)
    assert stats.oldest_age is not None
    assert 0 <= stats.oldest_age < 5


def test_purge_drops_what_is_ready(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish_many([b"x"] * 100)
    with queue.subscribe() as consumer:
        held = consumer.get()
        assert queue.purge() == 99
        assert queue.depth() == 0
        held.ack()


# ---- shutdown -----------------------------------------------------------------------------------


def test_shutdown_takes_nothing_in_and_ends_consumers_when_drained(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish_many([b"1", b"2"])
    queue.shutdown()
    assert queue.stats().closed
    with pytest.raises(QueueClosed):
        queue.publish(b"3")
    with pytest.raises(QueueClosed):
        queue.publish_many([b"3"])
    with queue.subscribe(ack="auto") as consumer:
        assert [delivery.payload for delivery in consumer] == [b"1", b"2"]
        with pytest.raises(QueueClosed):
            consumer.get(timeout=1)


def test_immediate_shutdown_drops_what_is_ready(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish_many([b"1", b"2"])
    queue.shutdown(immediate=True)
    with queue.subscribe() as consumer:
        assert list(consumer) == []


# ---- processes and threads ----------------------------------------------------------------------


def test_a_queue_pickles_as_broker_and_name(rig: Rig) -> None:
    queue = rig.queue("päckchen")
    again = pickle.loads(pickle.dumps(queue))
    again.publish(b"x")
    assert drained(queue) == [b"x"]
    assert (again.name, repr(again)) == (queue.name, repr(queue))
    with pytest.raises(QueueNotFound, match="create_queue"):
        Queue(rig.client, "other")
    again._client.close()


def test_a_queue_survives_fork(rig: Rig) -> None:
    queue = rig.queue(max_depth=10)
    queue.publish(b"parent")

    def child() -> int:
        queue.publish(b"child")
        queue.publish_many([b"many"] * 2)
        queue.publish(b"fields", ttl=60)
        with queue.loan(4) as buffer:
            buffer[:] = b"loan"
        assert queue.depth() == 6
        assert len(queue.peek(6)) == 6
        return queue.stats().ready

    assert in_child(child) == 6
    assert drained(queue) == [b"parent", b"child", b"many", b"many", b"fields", b"loan"]


@pytest.mark.parametrize(
    "first", ["publish_many", "depth", "stats", "peek", "purge", "loan", "get"]
)
def test_whatever_a_forked_child_calls_first_works(rig: Rig, first: str) -> None:
    queue = rig.queue()
    queue.publish(b"x")

    def child() -> int:
        if first == "publish_many":
            return int(queue.publish_many([b"x"]) != 1)
        if first == "peek":
            return int(len(queue.peek(1)) != 1)
        if first == "loan":
            with queue.loan(1):
                return 0
        if first == "get":
            with queue.subscribe() as consumer:
                return int(consumer.get(timeout=0).payload != b"x")
        getattr(queue, first)()
        return 0

    assert in_child(child) == 0


def test_threads_share_a_queue(rig: Rig) -> None:
    queue = rig.queue(max_depth=64)
    n, threads = 2000, 4
    got: list[bytes] = []

    def produce(number: int) -> None:
        for i in range(n):
            queue.publish(b"%d %d" % (number, i))

    def consume() -> None:
        with queue.subscribe() as consumer:
            for delivery in consumer:
                got.append(delivery.payload)
                delivery.ack()

    producers = [threading.Thread(target=produce, args=(i,)) for i in range(threads)]
    consumers = [threading.Thread(target=consume) for _ in range(threads)]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        thread.join(60)
    queue.shutdown()
    for thread in consumers:
        thread.join(60)
    assert sorted(got) == sorted(b"%d %d" % (a, b) for a in range(threads) for b in range(n))
    assert rig.audit() == {}


# ---- asyncio ------------------------------------------------------------------------------------


def test_apublish_waits_without_blocking_the_loop(rig: Rig) -> None:
    queue = rig.queue(max_depth=1)

    async def main() -> None:
        assert await queue.apublish(b"1", headers={"a": 1})
        with pytest.raises(QueueFull):
            await queue.apublish(b"2", timeout=0.02)
        waiting = asyncio.create_task(queue.apublish(b"3"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert drained(queue) == [b"1"]
        await asyncio.wait_for(waiting, 5)
        cancelled = asyncio.create_task(queue.apublish(b"4"))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert drained(queue) == [b"3"]

    asyncio.run(main())
    assert queue.depth() == 0


# ---- fields: what the accelerator does and what it leaves to Python must be the same ---------------

names = st.text(st.characters(), max_size=12)
header_values = (
    names
    | st.binary(max_size=60)
    | st.integers()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
)
texts_or_bytes = st.none() | names | st.binary(max_size=20)


@given(
    st.dictionaries(names, header_values, max_size=6),
    texts_or_bytes,
    texts_or_bytes,
    st.integers(0, 9),
    st.none() | st.floats(30, 1e9) | st.integers(30, 10**9) | st.just(math.inf),
)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_fields_given_to_publish_are_those_of_the_message(
    rig: Rig, headers: dict[str, Any], key: Any, dedup_id: Any, priority: int, ttl: Any
) -> None:
    try:
        queue = Queue(rig.client, "q")
    except QueueNotFound:
        queue = rig.queue()
    fields: dict[str, Any] = {"headers": headers, "priority": priority, "ttl": ttl}
    fields |= {"key": key, "dedup_id": dedup_id}
    queue.publish(b"x", **fields)
    queue.publish(Message(b"x", **fields))  # never by the accelerator
    with queue.subscribe() as consumer:
        first, second = consumer.get(timeout=1), consumer.get(timeout=1)
        assert first._meta == second._meta
        assert first.headers == second.headers == headers
        assert [type(v) for v in first.headers.values()] == [type(v) for v in headers.values()]
        assert (first.key, first.dedup_id, first.priority) == (key, dedup_id, priority)
        if ttl is not None:
            expected = -1 if ttl == math.inf else round(ttl * 1e9)
            lives = [
                d._expires_ns - d._published_ns if d._expires_ns else -1 for d in (first, second)
            ]
            assert lives == [expected, expected]
        first.ack()
        second.ack()


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"priority": 10}, ValueError, "priority"),
        ({"priority": True}, TypeError, "priority"),
        ({"ttl": 0}, ValueError, "ttl"),
        ({"ttl": -1.0}, ValueError, "ttl"),
        ({"delay": math.nan}, ValueError, "delay"),
        ({"headers": {1: "x"}}, TypeError, "header"),
        ({"headers": {"x": object()}}, TypeError, "header 'x'"),
        ({"headers": [("a", 1)]}, TypeError, "headers"),
        ({"key": 7}, TypeError, "key"),
        ({"dedup_id": 7}, TypeError, "dedup_id"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
def test_bad_fields_are_errors_and_publish_nothing(
    rig: Rig, fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    queue = rig.queue()
    with pytest.raises(error, match=text):
        queue.publish(b"x", **fields)
    with pytest.raises(error, match=text):
        queue.publish(b"x", **{"headers": {"fine": 1}, **fields})
    assert queue.depth() == 0


def test_headers_too_large_for_the_accelerator_arrive_whole(rig: Rig) -> None:
    queue = rig.queue()
    large: dict[str, HeaderValue] = {"n": 1 << 70, "text": "x" * 5000, "lone": "\ud800"}
    queue.publish(b"x", headers=large)
    assert queue.peek(1)[0].headers == large
