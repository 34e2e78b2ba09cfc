"""Dead letters of a whole broker: they stay, they follow names, and the bounds of their queue hold."""

from __future__ import annotations

import pytest
from waiting import wait_until

import shmq


def test_a_dead_letter_is_never_dropped_for_being_tried_too_often(broker: shmq.Broker) -> None:
    work = broker.create_queue("work", dead_letter="dead", max_retries=0, retry_backoff=0)
    work.publish(b"x")
    with work.subscribe() as consumer:
        consumer.get(timeout=5).reject("bad")
    dead = broker.get_queue("dead")
    with dead.subscribe() as consumer:
        for attempt in range(1, 9):
            delivery = consumer.get(timeout=5)
            assert delivery.attempt == attempt
            delivery.nack(delay=0)
        assert consumer.get(timeout=5).payload == b"x"
    assert dead.stats().dropped == 0


def reject_one(queue: shmq.Queue, text: bytes) -> None:
    queue.publish(text)
    with queue.subscribe() as consumer:
        consumer.get(timeout=5).reject("bad")


def test_dead_letters_go_to_the_queue_that_has_the_name_now(broker: shmq.Broker) -> None:
    work = broker.create_queue("work", dead_letter="dead")
    reject_one(work, b"1")
    broker.delete_queue("dead")
    dead = broker.create_queue("dead", max_depth=1000, ttl=None)
    reject_one(work, b"2")
    assert [message.payload for message in dead.peek(2)] == [b"2"]
    assert work.stats().dropped == 0


def test_a_source_can_be_declared_again_whatever_became_of_its_dead_letter_queue(
    broker: shmq.Broker,
) -> None:
    broker.create_queue("work", dead_letter="dead")
    broker.delete_queue("dead")
    broker.create_queue("other")  # takes the number, not the place
    broker.create_queue("work", dead_letter="dead")
    with pytest.raises(shmq.OptionsMismatch, match="dead_letter='dead'"):
        broker.create_queue("work", dead_letter="other")
    assert "dead" in broker.list_queues()


def test_without_its_dead_letter_queue_a_rejected_message_is_dropped_and_counted(
    broker: shmq.Broker,
) -> None:
    work = broker.create_queue("work", dead_letter="dead")
    broker.delete_queue("dead")
    reject_one(work, b"1")
    assert work.stats().dropped == 1


def test_a_subscription_finds_its_dead_letter_queue_by_name(broker: shmq.Broker) -> None:
    topic = broker.create_topic("news")
    with topic.subscribe("reader", dead_letter="dead") as reader:
        broker.delete_queue("dead")
        dead = broker.create_queue("dead")
        topic.publish(b"x")
        reader.get(timeout=5).reject("bad")
    topic.subscribe("reader", dead_letter="dead").close()
    assert dead.depth() == 1


def test_a_dead_letter_queue_that_rejects_does_so_while_a_delayed_message_waits_there(
    broker: shmq.Broker,
) -> None:
    dead = broker.create_queue("dead", max_depth=1, overflow="reject", ttl=None)
    dead.publish(b"1")
    dead.publish(b"2", delay=0.01)
    wait_until(lambda: dead.stats().parked == 1, "a message that waits for room")
    work = broker.create_queue("work", dead_letter="dead")
    for _ in range(5):
        reject_one(work, b"x")
    assert (dead.stats().parked, dead.stats().dropped) == (1, 5)
    with dead.subscribe() as consumer:
        assert [consumer.get(timeout=5).payload for _ in range(2)] == [b"1", b"2"]


def test_a_dead_letter_keeps_its_key_to_read_but_no_order(broker: shmq.Broker) -> None:
    dead = broker.create_queue("dead", order="key")
    source = broker.create_queue("source", dead_letter="dead")
    source.publish_many([shmq.Message(b"1", key="k"), shmq.Message(b"2", key="k")])
    with source.subscribe() as consumer, dead.subscribe(prefetch=2) as undertaker:
        for _ in range(2):
            consumer.get(timeout=5).reject("bad")
        held = [undertaker.get(timeout=5) for _ in range(2)]  # neither waits
        assert [(one.payload, one.key) for one in held] == [(b"1", "k"), (b"2", "k")]
        for one in held:
            one.ack()
