"""Topic: everybody gets everything once; one payload; slow subscribers."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time

import pytest
from rig import Rig, in_child, texts

from shmq._native import lib
from shmq.errors import (
    InvalidOption,
    InvalidOptionType,
    MessageTooLarge,
    OptionsMismatch,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    QueueNotFound,
    TopicNotFound,
)
from shmq.message import Message
from shmq.topic import Topic, subscribe_pattern, unsubscribe


def fans(rig: Rig) -> int:
    return rig.states()[lib.SHMQ_FAN]


# ---- publish and subscribe ----------------------------------------------------------------------


def test_every_subscription_gets_every_message(rig: Rig) -> None:
    topic = rig.topic()
    a, b, c = topic.subscribe("a"), topic.subscribe("b"), topic.subscribe()
    number = topic.publish(b"one")
    assert topic.publish_many([b"two", Message(b"three", headers={"n": 3})]) == 2
    assert topic.publish(bytearray(b"four")) > number
    for consumer in (a, b, c):
        assert texts(consumer, 4) == [b"one", b"two", b"three", b"four"]
    assert fans(rig) == 0


def test_subscriptions_have_levels_and_an_order_of_their_own(rig: Rig) -> None:
    topic = rig.topic()
    plain = topic.subscribe("plain", priorities=1)
    urgent = topic.subscribe("urgent")
    keyed = topic.subscribe("keyed", order="key")
    for text, priority, key in (("a1", 0, "a"), ("a2", 9, "a"), ("b1", 5, "b")):
        topic.publish(text.encode(), priority=priority, key=key)
    assert texts(plain, 3) == [b"a1", b"a2", b"b1"]
    assert texts(urgent, 3) == [b"a2", b"b1", b"a1"]
    first = keyed.get(timeout=1)
    assert first.payload == b"a1"
    second = keyed.get(timeout=1)  # a2 waits for a1
    assert second.payload == b"b1"
    with pytest.raises(QueueEmpty):
        keyed.get(timeout=0)
    first.ack()
    assert keyed.get(timeout=1).payload == b"a2"
    second.ack()


def test_an_id_counts_once_in_each_subscription(rig: Rig) -> None:
    topic = rig.topic(dedup_window=60)
    early = topic.subscribe("early")
    number = topic.publish(b"one", dedup_id="x", headers={"n": 1})
    assert topic.publish(b"one again", dedup_id="x") == number
    late = topic.subscribe("late")  # it has not seen it
    forgetful = topic.subscribe("forgetful", dedup_window=None)
    assert topic.publish(b"once more", dedup_id="x") != number
    topic.publish(b"two", dedup_id="y")
    assert texts(early, 2) == [b"one", b"two"]
    assert texts(late, 2) == [b"once more", b"two"]
    assert texts(forgetful, 2) == [b"once more", b"two"]
    stats = {each.name: each for each in topic.stats().subscriptions}
    assert stats["/t/early"].deduped == 2
    assert stats["/t/late"].deduped == 0
    assert topic.stats().published == 3
    assert fans(rig) == 0


def test_a_share_expires_and_the_payload_stays_for_the_others(rig: Rig) -> None:
    topic = rig.topic()
    hasty = topic.subscribe("hasty", ttl=0.01, expired="drop")
    patient = topic.subscribe("patient", ttl=None)
    topic.publish(b"x")
    while rig.states()[lib.SHMQ_READY] == 2:
        rig.sweep_expired()
    with pytest.raises(QueueEmpty):
        hasty.get(timeout=0)
    assert patient.get(timeout=1).payload == b"x"


def test_all_see_the_same_message(rig: Rig) -> None:
    topic = rig.topic()
    consumers = [topic.subscribe(f"s{i}") for i in range(3)]
    number = topic.publish(b"x", headers={"kind": "new"}, priority=4, key="k", ttl=60)
    for consumer in consumers:
        delivery = consumer.get(timeout=1)
        assert (delivery.id, delivery.headers, delivery.priority) == (number, {"kind": "new"}, 4)
        assert (delivery.key, delivery.attempt) == ("k", 1)
        delivery.ack()


def test_one_payload_serves_all(rig: Rig) -> None:
    topic = rig.topic()
    queues = []
    for i in range(10):
        topic.subscribe(f"s{i}").close()
        queues.append(topic.subscription(f"s{i}"))
    before = sum(rig.states()[lib.SHMQ_NEW :])
    topic.publish(b"x" * 100_000)
    assert fans(rig) == 1
    assert sum(rig.states()[lib.SHMQ_NEW :]) == before + 11
    assert [queue.stats().bytes for queue in queues] == [100_000] * 10
    for queue in queues:
        assert fans(rig) == 1
        with queue.subscribe() as consumer:
            delivery = consumer.get(timeout=1)
            assert len(delivery.payload) == 100_000
            delivery.ack()
    assert fans(rig) == 0


def test_subscribing_late_gets_what_comes_from_then_on(rig: Rig) -> None:
    topic = rig.topic()
    assert topic.publish(b"before") > 0
    with topic.subscribe("a") as a:
        topic.publish(b"after")
        assert texts(a, 1) == [b"after"]


def test_a_named_subscription_collects_while_nobody_consumes(rig: Rig) -> None:
    topic = rig.topic()
    topic.subscribe("a").close()
    topic.publish_many([b"1", b"2"])
    assert topic.subscriber_count() == 1
    with topic.subscribe("a") as first, topic.subscribe("a") as second:
        assert first.get(timeout=1).payload == b"1"
        assert second.get(timeout=1).payload == b"2"


def test_an_unnamed_one_ends_with_its_consumer(rig: Rig) -> None:
    topic = rig.topic()
    with topic.subscribe():
        topic.publish(b"x")
        assert topic.subscriber_count() == 1
    assert topic.subscriber_count() == 0
    assert fans(rig) == 0


def test_unsubscribe_takes_what_is_there_along(rig: Rig) -> None:
    topic = rig.topic()
    consumer = topic.subscribe("a")
    other = topic.subscribe("b")
    topic.publish(b"x")
    topic.unsubscribe("a")
    with pytest.raises(QueueNotFound):
        consumer.get(timeout=1)
    with pytest.raises(QueueNotFound):
        topic.unsubscribe("a")
    assert (topic.subscriptions(), texts(other, 1)) == (["b"], [b"x"])
    assert fans(rig) == 0


def test_unsubscribe_during_publish(rig: Rig) -> None:
    topic = rig.topic(max_depth=1 << 16)
    over = threading.Event()
    kept = topic.subscribe("kept")

    def come_and_go() -> None:
        while not over.is_set():
            topic.subscribe("passing").close()
            topic.unsubscribe("passing")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    for i in range(3000):
        topic.publish(b"%d" % i)
    over.set()
    thread.join()
    assert texts(kept, 3000) == [b"%d" % i for i in range(3000)]
    rig.client.call(lib.shmq_queue_collect)
    assert fans(rig) == 0


def test_settling_one_share_touches_no_other(rig: Rig) -> None:
    topic = rig.topic()
    dead = rig.queue("dead")
    a = topic.subscribe("a", dead_letter="dead", retry_backoff=0)
    b = topic.subscribe("b")
    topic.publish(b"x", headers={"h": 1})
    first = a.get(timeout=1)
    first.nack(delay=0)
    again = a.get(timeout=1)
    assert again.attempt == 2
    again.reject("never")
    with dead.subscribe() as letters:
        letter = letters.get(timeout=1)
        assert (letter.payload, letter.headers["x-error"]) == (b"x", "never")
        assert (letter.headers["h"], letter.headers["x-death-queue"]) == (1, "/t/a")
        letter.ack()
    delivery = b.get(timeout=1)
    assert (delivery.payload, delivery.attempt) == (b"x", 1)
    delivery.ack()
    assert fans(rig) == 0


def test_a_view_outlives_all_acks(rig: Rig) -> None:
    topic = rig.topic()
    a, b = topic.subscribe("a"), topic.subscribe("b")
    payload = os.urandom(5000)
    topic.publish(payload)
    delivery = a.get(timeout=1)
    view = delivery.view
    delivery.ack()
    b.get(timeout=1).ack()
    for _ in range(50):
        topic.publish(b"z" * 5000)
        a.get(timeout=1).ack()
        b.get(timeout=1).ack()
    assert bytes(view) == payload
    assert fans(rig) == 1
    del view, delivery
    assert fans(rig) == 0


def test_delay_ttl_and_at_most_once(rig: Rig) -> None:
    topic = rig.topic()
    a = topic.subscribe("a", ack="none")
    b = topic.subscribe("b", ttl=0.001)
    topic.publish(b"delayed", delay=0.002, ttl=60)
    topic.publish(b"x")
    assert a.get(timeout=1).payload == b"x"
    time.sleep(0.01)
    rig.fire_timers()
    assert a.get(timeout=1).payload == b"delayed"
    assert texts(b, 1) == [b"delayed"]  # b"x" had the lifetime of its subscription
    assert fans(rig) == 0


def test_too_large_and_bad_fields_publish_nothing(rig: Rig) -> None:
    topic = rig.topic()
    a = topic.subscribe("a")
    with pytest.raises(MessageTooLarge):
        topic.publish(b"x" * ((1 << 20) + 1))
    with pytest.raises(TypeError):
        topic.publish("text")  # type: ignore[call-overload]
    topic.publish(b"x" * (1 << 20), headers={"large": "h" * 60_000})
    assert len(a.get(timeout=1).payload) == 1 << 20


# ---- who gets what ------------------------------------------------------------------------------


def test_header_filters(rig: Rig) -> None:
    topic = rig.topic()
    eu = topic.subscribe("eu", filter={"region": "eu"})
    paid = topic.subscribe("paid", filter={"region": "eu", "paid": True, "n": 7})
    topic.publish(b"plain")
    topic.publish(b"us", headers={"region": "us", "paid": True, "n": 7})
    topic.publish(b"eu", headers={"x": 1.5, "region": "eu", "paid": 1, "n": 7}, key="k")
    topic.publish(b"all", headers={"n": 7, "paid": True, "region": "eu"}, dedup_id="d")
    assert texts(eu, 2) == [b"eu", b"all"]
    assert texts(paid, 1) == [b"all"]  # 1 is not True
    with pytest.raises(OptionsMismatch):
        topic.subscribe("eu", filter={"region": "us"})
    topic.subscribe("eu").close()
    with pytest.raises(InvalidOption):
        topic.subscribe("long", filter={"x": "y" * 300})


def test_patterns(rig: Rig) -> None:
    everything = subscribe_pattern(rig.client, "orders.#", "all")
    eu, north = rig.topic("orders.eu"), rig.topic("orders.eu.north")
    one = subscribe_pattern(rig.client, "orders.*", None)
    eu.publish(b"eu")
    north.publish(b"north")
    rig.topic("bills").publish(b"bill")
    assert texts(everything, 2) == [b"eu", b"north"]
    assert texts(one, 1) == [b"eu"]
    assert (eu.subscriber_count(), north.subscriber_count()) == (2, 1)
    unsubscribe(rig.client, "orders.#", "all")
    assert (eu.subscriber_count(), north.subscriber_count()) == (1, 0)


def test_options_of_subscriptions(rig: Rig) -> None:
    topic = rig.topic(max_depth=7)
    topic.subscribe("a", ttl=5).close()
    topic.subscribe("a").close()
    topic.subscribe("a", max_depth=7, ttl=5).close()
    with pytest.raises(OptionsMismatch):
        topic.subscribe("a", ttl=6)
    with pytest.raises(InvalidOption):
        topic.subscribe("b", overflow="reject")
    with pytest.raises(InvalidOptionType):
        topic.subscribe("b", depth=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidOption):
        topic.subscribe("a/b")


# ---- slow subscribers ---------------------------------------------------------------------------


def test_block_waits_for_the_slow_one(rig: Rig) -> None:
    topic = rig.topic()
    slow = topic.subscribe("slow", max_depth=2)
    fast = topic.subscribe("fast")
    assert topic.publish_many([b"1", b"2"]) == 2
    with pytest.raises(QueueFull, match=r"/t/slow"):
        topic.publish(b"3", timeout=0)
    with pytest.raises(QueueFull, match=r"after 0 messages"):
        topic.publish_many([b"3"], timeout=0.02)
    got = []
    thread = threading.Thread(target=lambda: got.append(topic.publish(b"3")))
    thread.start()
    time.sleep(0.05)
    assert not got
    slow.get(timeout=1).ack()
    thread.join(10)
    assert got
    assert texts(fast, 3) == [b"1", b"2", b"3"]  # what was refused reached nobody
    assert texts(slow, 2) == [b"2", b"3"]


def test_drop_oldest_and_disconnect_hold_nobody_back(rig: Rig) -> None:
    topic = rig.topic()
    lossy = topic.subscribe("lossy", max_depth=2, overflow="drop-oldest")
    cut = topic.subscribe("cut", max_depth=2, overflow="disconnect")
    fast = topic.subscribe("fast")
    for i in range(5):
        topic.publish(b"%d" % i, timeout=0)
    assert texts(fast, 5) == [b"0", b"1", b"2", b"3", b"4"]
    assert texts(lossy, 2) == [b"3", b"4"]
    stats = topic.stats()
    assert (stats.published, stats.subscribers, stats.disconnected) == (5, 2, 1)
    assert {s.name: s.dropped for s in stats.subscriptions}["/t/lossy"] == 3
    seen = []
    for delivery in cut:  # ends after what is there
        seen.append(delivery.payload)
        delivery.ack()
    assert seen == [b"0", b"1"]
    with topic.subscribe("cut", max_depth=2, overflow="disconnect") as anew:
        topic.publish(b"5")
        assert texts(anew, 1) == [b"5"]


def test_asyncio(rig: Rig) -> None:
    topic = rig.topic()
    consumer = topic.subscribe("a", max_depth=1)

    async def both() -> list[bytes]:
        got = []

        async def read() -> None:
            for _ in range(3):
                delivery = await consumer.aget(timeout=5)
                got.append(delivery.payload)
                delivery.ack()

        task = asyncio.ensure_future(read())
        for i in range(3):
            await topic.apublish(b"%d" % i, timeout=5)
        await task
        return got

    assert asyncio.run(both()) == [b"0", b"1", b"2"]


# ---- life ---------------------------------------------------------------------------------------


def test_shutdown_lets_subscribers_end(rig: Rig) -> None:
    topic = rig.topic()
    a = topic.subscribe("a")
    topic.publish(b"x")
    topic.shutdown()
    with pytest.raises(QueueClosed):
        topic.publish(b"y")
    with topic.subscribe("a") as again:
        for delivery in again:
            assert delivery.payload == b"x"
            delivery.ack()
    assert list(a) == []
    assert list(topic.subscribe("late")) == []


def test_a_deleted_topic_is_not_found(rig: Rig) -> None:
    topic = rig.topic()
    consumer = topic.subscribe("a")
    topic.publish(b"x")
    rig.client.call(lib.shmq_queue_delete, topic._qref)
    for call in (lambda: topic.publish(b"y"), topic.stats, topic.subscriber_count, topic.subscribe):
        with pytest.raises(TopicNotFound):
            call()
    with pytest.raises(TopicNotFound):
        Topic(rig.client, "t")
    with pytest.raises(QueueNotFound):
        consumer.get(timeout=1)
    again = rig.topic()
    assert again.subscriber_count() == 0
    with again.subscribe("a") as fresh:
        again.publish(b"z")
        assert texts(fresh, 1) == [b"z"]


def test_pickles_and_forks(rig: Rig) -> None:
    topic = rig.topic()
    a = topic.subscribe("a")
    passing = topic.subscribe()
    same = pickle.loads(pickle.dumps(topic))
    assert same.publish(b"pickled") > 0

    def child() -> int:
        topic.publish(b"forked")
        with topic.subscribe() as own:
            topic.publish(b"both")
            assert texts(own, 1) == [b"both"]
        passing.close()  # the parent's to end
        return 0

    assert in_child(child) == 0
    rig.client.call(lib.shmq_reap, 0)
    for consumer in (a, passing):
        assert texts(consumer, 3) == [b"pickled", b"forked", b"both"]
    assert topic.subscriber_count() == 2


def test_threads_share_a_topic(rig: Rig) -> None:
    topic = rig.topic(max_depth=64)
    consumers = [topic.subscribe(f"s{i}") for i in range(3)]
    got: list[list[bytes]] = [[] for _ in consumers]

    def read(i: int) -> None:
        for delivery in consumers[i]:
            got[i].append(delivery.payload)
            delivery.ack()

    readers = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    writers = [
        threading.Thread(target=lambda n=n: [topic.publish(b"%d %d" % (n, i)) for i in range(500)])
        for n in range(3)
    ]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    topic.shutdown()
    for thread in readers:
        thread.join()
    for messages in got:
        assert len(messages) == 1500
        for n in range(3):
            assert [m for m in messages if m.startswith(b"%d " % n)] == [
                b"%d %d" % (n, i) for i in range(500)
            ]
    assert fans(rig) == 0
