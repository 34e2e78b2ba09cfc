"""Dead letters of a whole broker: they stay, they follow names, and the bounds of their queue hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shmq


@pytest.fixture
def broker(broker_name: str) -> Iterator[shmq.Broker]:
    with shmq.Broker(broker_name) as broker:
        yield broker


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
