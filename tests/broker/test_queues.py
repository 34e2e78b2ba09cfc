"""Queues as the broker knows them: created, found, compared, deleted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shmq
from shmq.keywords import QueueKeywords


@pytest.fixture
def broker(broker_name: str) -> Iterator[shmq.Broker]:
    with shmq.Broker(broker_name, max_queue_depth=77, max_retries=5, default_ttl="2h") as broker:
        yield broker


def test_creating_twice_with_equal_options_is_one_queue(broker: shmq.Broker) -> None:
    one = broker.create_queue("orders", max_depth=10, ttl="90s")
    two = broker.create_queue("orders", ttl=90.0, max_depth=10)
    one.publish(b"x")
    assert two.depth() == 1


def test_other_options_are_named_with_both_values(broker: shmq.Broker) -> None:
    broker.create_queue("orders", max_depth=10, dead_letter="dead")
    with pytest.raises(shmq.OptionsMismatch) as caught:
        broker.create_queue("orders", max_depth=20)
    text = str(caught.value)
    assert "max_depth=10" in text
    assert "max_depth=20" in text
    assert "dead_letter='dead'" in text
    assert "dead_letter=None" in text
    assert "ttl" not in text


def test_defaults_are_the_brokers_whoever_creates(broker: shmq.Broker) -> None:
    broker.create_queue("orders")
    same: QueueKeywords = {"max_depth": 77, "max_retries": 5, "ttl": 7200}
    shmq.connect(broker.name).create_queue("orders", **same)


def test_a_missing_dead_letter_queue_is_made(broker: shmq.Broker) -> None:
    broker.create_queue("orders", dead_letter="orders-dead")
    assert broker.list_queues() == ["orders", "orders-dead"]
    broker.create_queue("orders", dead_letter="orders-dead")
    broker.create_queue("others", dead_letter="orders-dead")


def test_a_queue_is_not_its_own_dead_letter_queue(broker: shmq.Broker) -> None:
    with pytest.raises(shmq.InvalidOption, match="itself"):
        broker.create_queue("orders", dead_letter="orders")


def test_unknown_queues_are_not_found(broker: shmq.Broker) -> None:
    with pytest.raises(shmq.QueueNotFound, match="nothing-there"):
        broker.get_queue("nothing-there")
    with pytest.raises(KeyError):
        broker.delete_queue("nothing-there")


def test_a_deleted_queue_is_gone_for_all_handles(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders")
    queue.publish(b"x")
    broker.delete_queue("orders")
    assert broker.list_queues() == []
    with pytest.raises(shmq.QueueNotFound):
        queue.publish(b"y")
    again = broker.create_queue("orders")
    assert again.depth() == 0


def test_create_and_delete_can_alternate_for_long(broker: shmq.Broker) -> None:
    for i in range(200):
        broker.create_queue("orders", max_depth=1 + i % 7).publish(b"x")
        broker.delete_queue("orders")
    assert broker.list_queues() == []


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "q" * 300, "ü" * 128, 3, None])
def test_queue_names_that_cannot_be_are_refused(broker: shmq.Broker, name: object) -> None:
    for use in (broker.create_queue, broker.get_queue, broker.delete_queue):
        with pytest.raises(shmq.InvalidOption, match="queue name"):
            use(name)  # type: ignore[arg-type]


def test_a_queue_name_may_have_255_bytes(broker: shmq.Broker) -> None:
    name = "ü" * 127 + "x"
    broker.create_queue(name).publish(b"x")
    assert broker.get_queue(name).depth() == 1
    assert broker.list_queues() == [name]


def test_misspelt_options_are_refused_with_a_hint(broker: shmq.Broker) -> None:
    with pytest.raises(TypeError, match="did you mean 'max_depth'"):
        broker.create_queue("orders", max_dept=5)  # type: ignore[call-arg]
    assert broker.list_queues() == []


@pytest.mark.parametrize("option", [{"durability": "sync"}])
def test_what_this_version_lacks_is_refused_not_ignored(
    broker: shmq.Broker, option: QueueKeywords
) -> None:
    with pytest.raises(shmq.InvalidOption, match="no storage on disk yet"):
        broker.create_queue("orders", **option)


def test_stats_show_queues_and_memory(broker: shmq.Broker) -> None:
    broker.create_queue("orders").publish(b"x" * 1000)
    stats = broker.stats()
    (queue,) = stats.queues
    assert (queue.name, queue.ready, queue.published) == ("orders", 1, 1)
    assert 0 < stats.memory_used < stats.memory_reserved
    assert stats.uptime > 0
    assert stats.corrupt == 0
