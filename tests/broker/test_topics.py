"""Topics and groups with real processes: killed in the middle, ended, stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from kit import kill, program
from waiting import wait_until

import shmq
from shmq._native import lib
from shmq.keywords import Dispatch

PUBLISHER = """
    topic = shmq.connect(name).get_topic("news")
    say("ready")
    n = 0
    while True:
        topic.publish(b"%d" % n)
        n += 1
"""
LISTENER = """
    topic = shmq.connect(name).get_topic("news")
    consumer = topic.subscribe(max_depth=10)
    say("ready")
    sys.stdin.readline()
"""
MEMBER = """
    group = shmq.connect(name).create_consumer_group("workers", "jobs", dispatch=sys.argv[2])
    consumer = group.add_consumer(sys.argv[3])
    say("member")
    say(consumer.get(timeout=20).payload.decode())
    sys.stdin.readline()
"""


def fans(broker: shmq.Broker) -> int:
    report = shmq._native.ffi.new("shmq_audit_report *")
    assert broker._client.call(lib.shmq_audit, report) == lib.SHMQ_OK
    return int(report.states[lib.SHMQ_FAN])


def test_a_killed_publisher_has_published_to_all_or_to_none(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        topic = broker.create_topic("news", max_depth=1 << 20)
        subscriptions = [topic.subscribe(f"s{i}", ack="none") for i in range(5)]
        for _ in range(8):
            with program(PUBLISHER, broker_name) as running:
                running.line()
                time.sleep(random.uniform(0.001, 0.03))
                kill(running.pid)
            broker._client.call(lib.shmq_reap, 0)
            got = [
                [d.payload for d in consumer.get_many(1 << 16, timeout=0)] if depth else []
                for consumer, depth in (
                    (consumer, consumer.queue.depth()) for consumer in subscriptions
                )
            ]
            assert got[0] == [b"%d" % n for n in range(len(got[0]))]
            assert all(each == got[0] for each in got)
        wait_until(lambda: fans(broker) == 0, "the last payload to go")


def test_an_ephemeral_subscription_ends_with_its_process(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        topic = broker.create_topic("news")
        for how in (signal.SIGKILL, None):
            with program(LISTENER, broker_name) as running:
                running.line()
                assert topic.subscriber_count() == 1
                for _ in range(10):
                    topic.publish(b"x", timeout=0)
                with pytest.raises(shmq.QueueFull):
                    topic.publish(b"x", timeout=0.01)
                if how is None:
                    running.tell()
                    running.finish()
                else:
                    os.kill(running.pid, how)
                topic.publish(b"y", timeout=20)  # nobody is waited for any more
                wait_until(lambda: topic.subscriber_count() == 0, "the end of the subscription")
            wait_until(lambda: fans(broker) == 0, "its messages to go")


def test_a_stopped_subscriber_holds_back_only_those_that_chose_to_wait(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        topic = broker.create_topic("news", overflow="drop-oldest", max_depth=10)
        fast = topic.subscribe("fast", max_depth=1000)
        source = LISTENER.replace("max_depth=10", "")
        with program(source, broker_name) as running:
            running.line()
            os.kill(running.pid, signal.SIGSTOP)
            for n in range(100):
                topic.publish(b"%d" % n, timeout=0)
            assert [d.payload for d in fast.get_many(100, timeout=1)] == [
                b"%d" % n for n in range(100)
            ]
            os.kill(running.pid, signal.SIGCONT)
            kill(running.pid)


@pytest.mark.parametrize("dispatch", ["ready", "round-robin"])
def test_a_dead_members_message_goes_to_another_at_once(
    broker_name: str, dispatch: Dispatch
) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("jobs")
        group = broker.create_consumer_group("workers", queue, dispatch=dispatch)
        with program(MEMBER, broker_name, dispatch, "first") as first:
            first.line()
            queue.publish(b"job")
            assert first.line() == "job"
            assert group.members() == ["first"]
            with group.add_consumer("second") as second:
                assert group.members() == ["first", "second"]
                kill(first.pid)
                delivery = second.get(timeout=20)
                assert (delivery.payload, delivery.redelivered) == (b"job", True)
                delivery.ack()
                wait_until(lambda: group.members() == ["second"], "the record of the dead to go")
        assert group.members() == []


def test_names_of_topics_queues_and_subscriptions_do_not_mix(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        broker.create_queue("orders", max_depth=5)
        topic = broker.create_topic("orders", max_depth=6)
        topic.subscribe("orders").close()
        broker.subscribe("orders.*", "orders").close()
        assert (broker.list_queues(), broker.list_topics()) == (["orders"], ["orders"])
        assert broker.create_topic("orders", max_depth=6).name == "orders"
        with pytest.raises(shmq.OptionsMismatch):
            broker.create_topic("orders", max_depth=7)
        for bad in ("a/b", "orders.*", "#", ""):
            with pytest.raises(shmq.InvalidOption):
                broker.create_topic(bad)
        with pytest.raises(shmq.InvalidOption):
            broker.subscribe("ord*")
        with pytest.raises(shmq.InvalidOption):
            broker.create_queue("q", overflow="disconnect")
        assert broker.create_consumer_group("g", "orders").queue.name == "orders"
        broker.unsubscribe("orders.*", "orders")
        broker.delete_topic("orders")
        with pytest.raises(shmq.TopicNotFound):
            broker.get_topic("orders")
        assert (broker.list_queues(), broker.list_topics()) == (["orders"], [])


@pytest.mark.parametrize(
    "option", ["ttl", "ack_timeout", "retry_backoff", "retry_jitter", "aging", "dedup_window"]
)
def test_times_that_are_no_whole_nanoseconds_are_found_again(broker_name: str, option: str) -> None:
    third: dict[str, Any] = {option: 1 / 3}
    two_thirds: dict[str, Any] = {option: 2 / 3}
    with shmq.Broker(broker_name) as broker:
        for _ in range(2):  # the second one finds what the first one made
            broker.create_queue("jobs", **third)
            topic = broker.create_topic("news", **two_thirds)
            topic.subscribe("billing", **third).close()
            broker.subscribe("news.*", "mail", **third).close()


def test_broker_shutdown_ends_subscribers_loops(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        topic = broker.create_topic("news")
        topic.subscribe("a").close()
        topic.publish(b"last")
        source = """
            with shmq.connect(name).get_topic("news").subscribe("a") as consumer:
                say("ready")
                for delivery in consumer:
                    say(delivery.payload.decode())
                    delivery.ack()
            say("over")
        """
        with program(source, broker_name) as running:
            running.line()
            assert running.line() == "last"
            broker.shutdown()
            assert running.line() == "over"


WRONG: dict[str, tuple[Callable[[shmq.Broker], object], type[Exception], str]] = {
    "aging of an order": (
        lambda broker: broker.create_queue("a", order="key", aging=1),
        shmq.InvalidOption,
        "aging: found order='key'.*expected order='fifo'; leave one of them out",
    ),
    "aging of one level": (
        lambda broker: broker.create_queue("a", priorities=1, aging=1),
        shmq.InvalidOption,
        "aging: found priorities=1, expected 2 or more levels; ",
    ),
    "a capacity for no window": (
        lambda broker: broker.create_queue("a", dedup_capacity=10),
        shmq.InvalidOption,
        "dedup_capacity: found no dedup_window, expected one; ",
    ),
    "an order that is none": (
        lambda broker: broker.create_queue("a", order="keys"),  # type: ignore[arg-type]
        shmq.InvalidOption,
        "order: found 'keys', expected one of .*; did you mean 'key'",
    ),
    "a topic that rejects": (
        lambda broker: broker.create_topic("a", overflow="reject"),
        shmq.InvalidOption,
        "overflow of topic 'a': found 'reject', expected .*; publish",
    ),
    "a durable subscription": (
        lambda broker: broker.get_topic("t").subscribe("a", durability="sync"),
        shmq.InvalidOption,
        "durability: found 'sync', expected 'none'; ",
    ),
    "a misspelt filter": (
        lambda broker: broker.get_topic("t").subscribe("a", fliter={"a": 1}),  # type: ignore[call-arg]
        shmq.InvalidOption,
        "subscription option 'fliter': .*; did you mean 'filter'",
    ),
    "a filter that is no mapping": (
        lambda broker: broker.get_topic("t").subscribe("a", filter="region"),  # type: ignore[arg-type]
        TypeError,
        "filter: found str, expected a mapping; ",
    ),
    "a filter for what no header can be": (
        lambda broker: broker.get_topic("t").subscribe("a", filter={"a": [1]}),
        TypeError,
        "filter 'a': found list, expected str, .*; ",
    ),
    "a filter of another kind than there is": (
        lambda broker: broker.get_topic("t").subscribe("filtered", filter={"a": 2}),
        shmq.OptionsMismatch,
        r"found filter=\{'a': 1\}, expected filter=\{'a': 2\}; ",
    ),
    "ephemeral by a text": (
        lambda broker: broker.get_topic("t").subscribe("a", ephemeral="yes"),  # type: ignore[arg-type]
        shmq.InvalidOption,
        "ephemeral: found 'yes', expected True or False; ",
    ),
    "names too long together": (
        lambda broker: broker.get_topic("t").subscribe("x" * 253),
        shmq.InvalidOption,
        "256 bytes for topic and subscription together, expected at most 255; .* by 1 bytes",
    ),
    "a subscription that is not there": (
        lambda broker: broker.get_topic("t").subscription("none"),
        shmq.QueueNotFound,
        "found no such subscription, expected one that exists; subscribe",
    ),
    "an end of what is not there": (
        lambda broker: broker.unsubscribe("t.*", "none"),
        shmq.QueueNotFound,
        "subscription 'none' of 't.\\*': found no such subscription",
    ),
    "a topic as a queue": (
        lambda broker: broker.get_queue("t"),
        shmq.QueueNotFound,
        "queue 't': found a topic of that name, expected a queue; get_topic",
    ),
    "a deletion of a topic as a queue": (
        lambda broker: broker.delete_queue("t"),
        shmq.QueueNotFound,
        "found a topic of that name",
    ),
    "a queue as a topic": (
        lambda broker: broker.get_topic("q"),
        shmq.TopicNotFound,
        "topic 'q': found a queue of that name, expected a topic; get_queue",
    ),
    "a group on nothing": (
        lambda broker: broker.create_consumer_group("g", "none"),
        shmq.QueueNotFound,
        "source of group 'g': found no queue and no topic 'none', expected one that exists; ",
    ),
    "a group on a number": (
        lambda broker: broker.create_consumer_group("g", 5),  # type: ignore[arg-type]
        shmq.InvalidOption,
        "source of group 'g': found int, expected a Queue, a Topic, ",
    ),
    "a group with too long names": (
        lambda broker: broker.create_consumer_group("g" * 200, "q").add_consumer("m" * 60),
        shmq.InvalidOption,
        "265 bytes for source, group and member together, expected at most 255; ",
    ),
    "a member without a name": (
        lambda broker: broker.create_consumer_group("g", "q").add_consumer(""),
        shmq.InvalidOption,
        "consumer_id: found an empty text, expected ",
    ),
    "a dispatch that is none": (
        lambda broker: broker.create_consumer_group("g", "q", dispatch="roundrobin"),  # type: ignore[arg-type]
        shmq.InvalidOption,
        "dispatch: found 'roundrobin', expected .*; did you mean 'round-robin'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_says_found_expected_and_what_to_do(broker_name: str, name: str) -> None:
    call, error, text = WRONG[name]
    with shmq.Broker(broker_name) as broker:
        broker.create_queue("q")
        with broker.create_topic("t").subscribe("filtered", filter={"a": 1}):
            before = (
                broker.list_queues(),
                broker.list_topics(),
                broker.get_topic("t").subscriptions(),
            )
            with pytest.raises(error, match=text):
                call(broker)
            after = (
                broker.list_queues(),
                broker.list_topics(),
                broker.get_topic("t").subscriptions(),
            )
            assert after == before
            assert broker.stats().groups == ()


def test_a_group_is_of_its_sources_broker(broker_names: Callable[[], str]) -> None:
    with shmq.Broker(broker_names()) as broker, shmq.Broker(broker_names()) as other:
        with pytest.raises(shmq.InvalidOption, match=r"found one of broker .*, expected one of"):
            broker.create_consumer_group("g", other.create_queue("q"))
