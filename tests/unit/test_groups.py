"""Consumer groups on queues and topics, over both bindings."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time

import pytest
from rig import Rig, in_child, texts

from shmq._records import info_of
from shmq.errors import (
    InvalidOption,
    OptionsMismatch,
    QueueEmpty,
)
from shmq.group import ConsumerGroup
from shmq.queue import Queue
from shmq.stats.counters import place_of_counter
from shmq.topic import Topic


def group_on(
    rig: Rig, source: Queue | Topic, name: str = "g", dispatch: str = "ready"
) -> ConsumerGroup:
    return ConsumerGroup.on(rig.client, name, source, dispatch, {})


def test_members_share_a_queue(rig: Rig) -> None:
    group = group_on(rig, rig.queue())
    first, second = group.add_consumer("one"), group.add_consumer("two")
    third = group.add_consumer()
    assert len(group.members()) == 3
    assert group.members()[-2:] == ["one", "two"]
    group.queue.publish_many([b"1", b"2", b"3"])
    assert group.lag() == 3
    assert [c.get(timeout=1).payload for c in (first, second, third)] == [b"1", b"2", b"3"]
    assert (group.lag(), group.stats().unsettled) == (0, 3)
    first.close()
    assert second.get(timeout=1).payload == b"1"  # handed over at once
    group.remove_consumer("two")
    assert len(group.members()) == 1
    with pytest.raises(InvalidOption, match="no such member"):
        group.remove_consumer("two")
    with pytest.raises(InvalidOption, match="a living member"):
        group.add_consumer(third.id)
    with group.add_consumer("two"):
        assert "two" in group.members()


def test_groups_on_a_topic_each_get_everything(rig: Rig) -> None:
    topic = rig.topic()
    billing, shipping = group_on(rig, topic, "billing"), group_on(rig, topic, "shipping")
    topic.publish_many([b"1", b"2"])
    with billing.add_consumer("b1") as b1, billing.add_consumer("b2") as b2:
        assert [b1.get(timeout=1).payload, b2.get(timeout=1).payload] == [b"1", b"2"]
    assert (billing.lag(), shipping.lag()) == (2, 2)
    with shipping.add_consumer() as only:
        assert texts(only, 2) == [b"1", b"2"]
    same = pickle.loads(pickle.dumps(billing))
    assert (same.name, same.lag(), same.source) == ("billing", 2, "/t")
    assert topic.subscriptions() == ["billing", "shipping"]


def test_strict_turns(rig: Rig) -> None:
    group = group_on(rig, rig.queue(), dispatch="round-robin")
    a, b = group.add_consumer("a"), group.add_consumer("b")
    group.queue.publish_many([b"%d" % i for i in range(6)])
    assert a.get(timeout=1).payload == b"0"
    with pytest.raises(QueueEmpty):
        a.get(timeout=0.01)
    assert b.get(timeout=1).payload == b"1"
    assert b.get(timeout=1).payload == b"2"
    assert a.get(timeout=1).payload == b"3"
    b.close()
    assert a.get(timeout=1).payload == b"1"
    assert a.get(timeout=1).payload == b"2"
    late = group.add_consumer("late")
    assert late.get(timeout=1).payload == b"4"
    with pytest.raises(QueueEmpty):
        late.get(timeout=0.01)
    with pytest.raises(InvalidOption):
        group.add_consumer("ahead", prefetch=2)
    with pytest.raises(OptionsMismatch):
        group_on(rig, group.queue)


def test_strict_turns_of_threads(rig: Rig) -> None:
    group = group_on(rig, rig.queue(), dispatch="round-robin")
    members = [group.add_consumer(f"m{i}", ack="auto") for i in range(3)]
    counts = [0, 0, 0]

    def work(i: int) -> None:
        with members[i] as consumer:
            for _ in consumer:
                counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    group.queue.publish_many([b"x"] * 60)
    group.queue.shutdown()
    for thread in threads:
        thread.join(20)
    assert counts == [20, 20, 20]


def test_who_takes_wakes_the_one_whose_turn_it_is(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without wakes each of these sleeps lasts a second, which is the longest that the core allows.
    monkeypatch.setattr("shmq.group.LOOK_NS", 60 * 10**9)
    monkeypatch.setattr("shmq.group.LOOK_MOST_NS", 60 * 10**9)
    group = group_on(rig, rig.queue(), dispatch="round-robin")
    waiting, front = group.add_consumer("waiting"), group.add_consumer("front")
    group.queue.publish_many([b"x"] * 41)
    waiting.get(timeout=0).ack()
    sleeps = place_of_counter("sleeps")

    def slept() -> int:
        return int(info_of(rig.client, waiting._member & 0xFFFF).counters[sleeps])  # type: ignore[attr-defined]

    started = time.monotonic()
    for _ in range(20):
        before = slept()
        thread = threading.Thread(target=lambda: waiting.get().ack())
        thread.start()
        while slept() == before:
            time.sleep(0.0005)
        front.get(timeout=0).ack()
        thread.join()
    assert time.monotonic() - started < 15, "nobody woke the one whose turn it was"


def test_a_member_that_leaves_wakes_those_who_waited_for_it(rig: Rig) -> None:
    queue = rig.queue()
    group = group_on(rig, queue, dispatch="round-robin")
    first, second = group.add_consumer("first"), group.add_consumer("second")
    queue.publish_many([b"1", b"2"])
    second.get(timeout=1).ack()

    async def main() -> bytes:
        waiting = asyncio.create_task(second.aget())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        first.close()
        return (await asyncio.wait_for(waiting, 20)).payload

    assert asyncio.run(main()) == b"2"


def test_a_member_of_another_process_is_that_ones_to_remove(rig: Rig) -> None:
    group = group_on(rig, rig.queue())
    again = group_on(rig, group.queue)
    with group.add_consumer("here"):
        with pytest.raises(InvalidOption, match="another ConsumerGroup object"):
            again.remove_consumer("here")
        with pytest.raises(InvalidOption, match=r"no such member.*members are here"):
            group.remove_consumer("nobody")

        def child() -> None:
            other = group_on(rig, group.queue)
            with pytest.raises(InvalidOption, match=f"a member of process {os.getppid()}"):
                other.remove_consumer("here")

        assert in_child(child) == 0
        group.remove_consumer("here")
    assert group.members() == []


def test_what_groups_refuse(rig: Rig) -> None:
    with pytest.raises(InvalidOption):
        group_on(rig, rig.queue(), dispatch="random")
    with pytest.raises(InvalidOption):
        group_on(rig, rig.queue("r"), name="a/b")
    with pytest.raises(InvalidOption, match="max_depth"):
        ConsumerGroup.on(rig.client, "g", rig.queue("s"), "ready", {"max_depth": 3})
    with pytest.raises(InvalidOption, match="'prefetch'"):  # which is add_consumer's
        ConsumerGroup.on(rig.client, "g", rig.topic(), "ready", {"prefetch": 3})
