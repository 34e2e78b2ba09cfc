"""dedup_id and forward: a message once, however often it is published, and both or neither."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from rig import Rig, memory

import shmq
from shmq._native import lib
from shmq.options import QueueOptions


def payloads(queue: shmq.Queue) -> list[bytes]:
    found = []
    with queue.subscribe(ack="auto") as consumer:
        while queue.depth():
            found.append(consumer.get(timeout=5).payload)
    return found


# ---- dedup_id -----------------------------------------------------------------------------------


def test_of_two_publishes_with_one_id_one_becomes_a_message(rig: Rig) -> None:
    q = rig.queue(dedup_window=60)
    first = q.publish(b"1", dedup_id="a")
    assert q.publish(b"2", dedup_id="a") == first
    assert q.publish(shmq.Message(b"3", dedup_id=b"a")) == first  # str and its UTF-8 are one id
    assert q.publish(b"4", dedup_id="b") != first
    q.publish(b"5")
    q.publish(b"6")
    assert payloads(q) == [b"1", b"4", b"5", b"6"]
    stats = q.stats()
    assert (stats.deduped, stats.published, stats.ready) == (2, 4, 0)
    assert q.publish(b"7", dedup_id="a") == first  # consumed and remembered
    assert q.depth() == 0
    assert rig.audit() == {}


def test_an_id_is_free_again_after_the_window(rig: Rig) -> None:
    q = rig.queue(dedup_window="40ms")
    q.publish(b"1", dedup_id="a")
    time.sleep(0.06)
    q.publish(b"2", dedup_id="a")
    assert payloads(q) == [b"1", b"2"]


def test_publish_many_loans_and_headers_know_ids(rig: Rig) -> None:
    q = rig.queue(dedup_window=60)
    q.publish_many([shmq.Message(str(n % 3).encode(), dedup_id=str(n % 3)) for n in range(9)])
    for _ in range(2):
        with q.loan(4, dedup_id="loan", headers={"a": "b"}) as buffer:
            buffer[:] = b"loan"
    with q.subscribe() as consumer:
        got = consumer.get_many(10, timeout=1)
        assert [(d.payload, d.dedup_id) for d in got] == [
            (b"0", "0"), (b"1", "1"), (b"2", "2"), (b"loan", "loan"),
        ]  # fmt: skip
        assert got[-1].headers == {"a": "b"}
        consumer.ack_many(got)
    assert rig.audit() == {}


def test_without_a_window_an_id_is_only_carried(rig: Rig) -> None:
    q = rig.queue()
    for _ in range(2):
        q.publish(b"x", dedup_id="a")
    assert q.depth() == 2


def test_too_many_ids_are_refused_with_the_option_to_change(rig: Rig) -> None:
    q = rig.queue(dedup_window=3600, dedup_capacity=3)
    for n in range(3):
        q.publish(b"x", dedup_id=str(n))
    with pytest.raises(shmq.OutOfSharedMemory, match=r"dedup_capacity.* 3 ids") as caught:
        q.publish(b"x", dedup_id="one more")
    assert "larger dedup_capacity" in str(caught.value)
    q.publish(b"x", dedup_id="0")
    assert q.depth() == 3


def test_options_survive_the_core(rig: Rig) -> None:
    options = QueueOptions(dedup_window=5, dedup_capacity=77)

    class Core:
        def __init__(self) -> None:
            self.__dict__.update(options.to_core(lib.SHMQ_NO_QUEUE))

    assert QueueOptions.from_core(Core()) == options


@pytest.mark.parametrize("value", [0, -1, 1 << 24, "many", 1.5])
def test_capacities_that_cannot_be(value: Any) -> None:
    with pytest.raises(shmq.InvalidOption, match="dedup_capacity"):
        QueueOptions(dedup_capacity=value)


def test_a_table_of_the_largest_size_can_be_made(rig: Rig) -> None:
    q = rig.queue(dedup_window=3600, dedup_capacity=(1 << 24) - 2)
    q.publish(b"1", dedup_id="a")
    q.publish(b"2", dedup_id="a")
    assert payloads(q) == [b"1"]


# ---- forward ------------------------------------------------------------------------------------


def test_forward_publishes_there_and_acks_here(rig: Rig) -> None:
    here, there = rig.queue("here"), rig.queue("there")
    here.publish(b"in", headers={"a": 1}, priority=3, key="k", dedup_id="d")
    with here.subscribe() as consumer, there.subscribe() as after:
        d = consumer.get(timeout=1)
        number = d.forward(there, b"out")
        got = after.get(timeout=1)
        assert (got.id, got.payload, got.headers, got.priority) == (number, b"out", {"a": 1}, 3)
        assert (got.key, got.dedup_id, got.attempt) == ("k", "d", 1)
        with pytest.raises(shmq.StaleDelivery):
            d.ack()
        with pytest.raises(shmq.StaleDelivery):
            d.forward(there)
        got.ack()
    stats = here.stats()
    assert (stats.acked, stats.forwarded, stats.unsettled, stats.ready) == (1, 1, 0, 0)
    assert there.depth() == 0
    assert rig.audit() == {}


@pytest.mark.parametrize("size", [0, 10, 5000, 300_000])
def test_forward_without_a_payload_passes_the_delivery_on(rig: Rig, size: int) -> None:
    here, there = rig.queue("here"), rig.queue("there")
    data = os.urandom(size)
    here.publish(data, headers={"a": 1})
    with here.subscribe() as consumer, there.subscribe(ack="auto") as after:
        consumer.get(timeout=1).forward(there, headers={"b": 2}, priority=5)
        got = after.get(timeout=1)
        assert (got.payload, got.headers, got.priority) == (data, {"b": 2}, 5)


def test_a_view_outlives_the_forward(rig: Rig) -> None:
    here, there = rig.queue("here"), rig.queue("there", max_depth=1, overflow="reject")
    here.publish(b"x" * 100)
    there.publish(b"y")
    with here.subscribe() as consumer:
        d = consumer.get(timeout=1)
        view = d.view
        with pytest.raises(shmq.QueueFull):
            d.forward(there, b"z")
        there.purge()
        d.forward(there, b"z")
        for _ in range(50):
            here.publish(b"w" * 100)
        assert bytes(view) == b"x" * 100
        del view, d
        assert here.purge() == 50
    assert payloads(there) == [b"z"]
    assert rig.states()[shmq._native.lib.SHMQ_LIMBO] == 0
    assert rig.audit() == {}


def test_what_the_target_refuses_changes_nothing(rig: Rig) -> None:
    here = rig.queue("here")
    there = rig.queue("there", max_depth=1)
    here.publish(b"in")
    there.publish(b"full")
    with here.subscribe() as consumer:
        d = consumer.get(timeout=1)
        with pytest.raises(shmq.QueueFull):
            d.forward(there, timeout=0)
        with pytest.raises(shmq.QueueFull):
            d.forward(there, timeout=0.02)
        with pytest.raises(shmq.MessageTooLarge):
            d.forward(here, b"x" * 2_000_000)
        with pytest.raises(TypeError, match="payload"):
            d.forward(there, 5)
        with pytest.raises(TypeError, match="target"):
            d.forward("there")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="unknown name"):
            d.forward(there, nonsense=1)
        with pytest.raises(ValueError, match="priority"):
            d.forward(there, priority=10)
        there.shutdown()
        with pytest.raises(shmq.QueueClosed):
            d.forward(there)
        assert here.stats().unsettled == 1
        d.forward(here, b"again")
        assert consumer.get(timeout=1).payload == b"again"


def test_a_queue_of_another_broker_is_no_target(rig: Rig) -> None:
    with memory() as other:
        here, there = rig.queue("here"), other.queue("there")
        here.publish(b"x")
        with here.subscribe() as consumer:
            d = consumer.get(timeout=1)
            with pytest.raises(ValueError, match="one of broker"):
                d.forward(there)
            d.ack()


def test_forward_to_a_topic_reaches_all_its_subscriptions(rig: Rig) -> None:
    source, topic = rig.queue("source"), rig.topic("t", dedup_window=60)
    source.publish_many([b"one", b"two", b"three"])
    with source.subscribe() as consumer:
        assert consumer.get(timeout=1).forward(topic) > 0  # nobody is there: an ack
        first, second = topic.subscribe("first", max_depth=1), topic.subscribe("second")
        delivery = consumer.get(timeout=1)
        number = delivery.forward(topic, headers={"n": 2}, dedup_id="x")
        third = consumer.get(timeout=1)
        with pytest.raises(shmq.QueueFull, match="first"):
            third.forward(topic, timeout=0)
        for each in (first, second):
            got = each.get(timeout=1)
            assert (got.payload, got.headers, got.id) == (b"two", {"n": 2}, number)
            got.ack()
        assert third.forward(topic, dedup_id="x") == number  # known to both: only settled
        with pytest.raises(shmq.StaleDelivery):
            third.ack()
    assert (source.stats().forwarded, source.depth(), topic.stats().published) == (3, 0, 2)
    assert [topic.subscription(name).depth() for name in ("first", "second")] == [0, 0]


def test_forward_with_an_id_counts_once(rig: Rig) -> None:
    here, there = rig.queue("here"), rig.queue("there", dedup_window=60)
    for n in range(6):
        here.publish(b"x", dedup_id=str(n % 2))
    with here.subscribe() as consumer:
        ids = [consumer.get(timeout=1).forward(there) for _ in range(6)]
    assert len(set(ids)) == 2
    assert ids[:2] * 3 == ids
    assert here.stats().unsettled == here.depth() == 0
    assert (there.depth(), there.stats().deduped) == (2, 4)
    assert rig.audit() == {}


def test_a_forward_that_waits_for_room_goes_on_when_there_is_some(rig: Rig) -> None:
    import threading

    here, there = rig.queue("here"), rig.queue("there", max_depth=1)
    here.publish(b"in")
    there.publish(b"full")
    with here.subscribe() as consumer:
        d = consumer.get(timeout=1)
        timer = threading.Timer(0.05, there.purge)
        timer.start()
        d.forward(there, timeout=10)
        timer.join()
    assert payloads(there) == [b"in"]


def test_the_parents_delivery_is_not_the_childs_to_forward(rig: Rig) -> None:
    here, there = rig.queue("here"), rig.queue("there")
    here.publish(b"in")
    with here.subscribe() as consumer:
        d = consumer.get(timeout=1)
        pid = os.fork()
        if pid == 0:
            try:
                d.forward(there)
            except shmq.StaleDelivery:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        d.forward(there)
    assert payloads(there) == [b"in"]


def test_a_pipeline_whose_processes_are_killed_neither_loses_nor_doubles(rig: Rig) -> None:
    """Each child forwards until it is killed at a random moment; then its death is recovered."""

    n = 3000
    here = rig.queue("here", dedup_window=600, max_retries=None, retry_backoff=0)
    there = rig.queue("there", max_depth=2 * n)

    def child() -> None:
        for i in range(n):
            here.publish(str(i).encode(), dedup_id=str(i))
        with here.subscribe() as consumer:
            while True:
                d = consumer.get(timeout=0.2)
                d.forward(there)

    for round_ in range(30):
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                os._exit(0)
        time.sleep(0.004 * (round_ % 7 + 1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert lib.shmq_reap(rig.client.ctx, 0) >= 0
        rig.fire_timers()
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except shmq.QueueEmpty:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lib.shmq_reap(rig.client.ctx, 0)
    rig.fire_timers()
    assert sorted(map(int, payloads(there))) == list(range(n))
    assert rig.audit() == {}
