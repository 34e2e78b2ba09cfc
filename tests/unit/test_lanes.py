"""Priorities, aging, and order by key: through the Python interface, over both bindings."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rig import Rig

from shmq._client import Client
from shmq._native import lib
from shmq.errors import QueueEmpty, QueueFull
from shmq.keywords import QueueKeywords
from shmq.message import Message
from shmq.queue import Queue

FOREVER: QueueKeywords = {"max_retries": None, "retry_backoff": 0, "retry_backoff_max": 60.0}


def taken(queue: Queue) -> list[bytes]:
    with queue.subscribe(ack="auto") as consumer:
        found = []
        while True:
            try:
                found.append(bytes(consumer.get(timeout=0).payload))
            except QueueEmpty:
                return found


# ---- priorities ---------------------------------------------------------------------------------


def test_the_highest_level_comes_first_in_order_within_it(rig: Rig) -> None:
    queue = rig.queue()
    sent = [(random.Random(5 + i).randrange(10), i) for i in range(200)]
    for level, i in sent:
        queue.publish(b"%d" % i, priority=level)
    assert queue.depth() == 200
    wanted = [b"%d" % i for level, i in sorted(sent, key=lambda pair: (-pair[0], pair[1]))]
    assert [d.payload for d in queue.peek(200)] == wanted
    assert taken(queue) == wanted
    assert rig.audit() == {}


def test_redelivered_messages_precede_new_ones_of_their_level_only(rig: Rig) -> None:
    queue = rig.queue(**FOREVER)
    with queue.subscribe() as consumer:
        queue.publish(b"low 1")
        consumer.get().nack()
        queue.publish(b"low 2")
        queue.publish(b"high 1", priority=7)
        consumer.get().nack()
        queue.publish(b"high 2", priority=7)
        queue.publish(b"higher", priority=8)
    assert taken(queue) == [b"higher", b"high 1", b"high 2", b"low 1", b"low 2"]


def test_without_aging_the_lowest_waits_and_with_aging_it_does_not(rig: Rig) -> None:
    queues = [rig.queue("plain"), rig.queue("aged", aging=0.01)]
    for queue in queues:
        queue.publish(b"low")
    found = []
    for queue in queues:
        seen = []
        with queue.subscribe(ack="auto") as consumer:
            end = time.monotonic() + 0.4
            while time.monotonic() < end and b"low" not in seen:
                queue.publish(b"high", priority=9)
                queue.publish(b"high", priority=9)
                seen.append(consumer.get().payload)
                time.sleep(0.001)
        found.append(seen)
    assert b"low" not in found[0]
    assert found[1][-1] == b"low"


def test_max_depth_counts_all_levels(rig: Rig) -> None:
    queue = rig.queue(max_depth=5, overflow="reject")
    for level in range(5):
        queue.publish(b"x", priority=level)
    with pytest.raises(QueueFull):
        queue.publish(b"x", priority=9)
    assert queue.purge() == 5
    queue.publish(b"x", priority=9)
    assert queue.stats().ready == 1


def test_max_depth_counts_what_waits_behind_a_key_whoever_published_it(rig: Rig) -> None:
    """The places of what was taken from the middle are no messages; those of others are."""
    queue = rig.queue(max_depth=40, order="key")
    with rig.another() as other, queue.subscribe() as consumer:
        second = Queue(other, "q", queue._qref)
        queue.publish_many([Message(b"busy", key="a")] * 2)
        busy = consumer.get(timeout=0)
        free = 0  # a key that shares no lane with the busy one
        for _ in range(100):
            queue.publish(b"x", key=str(free), timeout=0)
            try:
                consumer.get(timeout=0).ack()
            except QueueEmpty:
                free += 1
        queue.publish(b"x", key=str(free), timeout=0)
        for _ in range(40 - queue.stats().ready):
            second.publish(b"x", key=str(free), timeout=0)
        for publisher in (queue, second):
            with pytest.raises(QueueFull):
                publisher.publish(b"x", key=str(free), timeout=0)
        assert queue.stats().ready == 40
        busy.ack()


def test_a_loan_goes_to_its_level(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish(b"low")
    with queue.loan(4, priority=3) as view:
        view[:] = b"high"
    assert taken(queue) == [b"high", b"low"]


# ---- order by key -------------------------------------------------------------------------------


def test_one_unsettled_message_of_a_key_at_a_time(rig: Rig) -> None:
    queue = rig.queue(order="key", **FOREVER)
    for i in range(3):
        for key in ("a", "b"):
            queue.publish(f"{key}{i}".encode(), key=key)
    with queue.subscribe() as one, queue.subscribe() as two:
        first, second = one.get(timeout=0), two.get(timeout=0)
        assert (first.payload, second.payload, first.key) == (b"a0", b"b0", "a")
        with pytest.raises(QueueEmpty):
            two.get(timeout=0)
        second.ack()
        assert two.get(timeout=0).payload == b"b1"
        first.nack()
        again = one.get(timeout=0)
        assert (again.payload, again.attempt) == (b"a0", 2)
        again.ack()
        assert one.get(timeout=0).payload == b"a1"
    assert [p for p in taken(queue) if p[:1] == b"a"] == [b"a1", b"a2"]
    assert queue.depth() == 0
    assert rig.audit() == {}


def test_a_key_waits_for_its_backoff_and_others_do_not(rig: Rig) -> None:
    queue = rig.queue(order="key", max_retries=None, retry_backoff=0.05, retry_jitter=0)
    for payload, key in ((b"a0", b"a"), (b"a1", "a"), (b"b0", "b")):
        queue.publish(payload, key=key)
    with queue.subscribe(ack="auto") as consumer, queue.subscribe() as failing:
        failing.get(timeout=0).nack()
        assert consumer.get(timeout=0).payload == b"b0"
        with pytest.raises(QueueEmpty):
            consumer.get(timeout=0)
        time.sleep(0.06)
        rig.fire_timers()
        assert [consumer.get(timeout=0).payload for _ in range(2)] == [b"a0", b"a1"]


def test_reading_ahead_goes_across_keys_only(rig: Rig) -> None:
    queue = rig.queue(order="key")
    for i in range(20):
        queue.publish(b"%d" % i, key=str(i % 4))
    with queue.subscribe(prefetch=8) as ahead, queue.subscribe(ack="auto") as other:
        assert ahead.get(timeout=0).payload == b"0"
        assert other.get(timeout=0.5).payload in (
            b"1",
            b"2",
            b"3",
        )  # taken back from who read ahead
    rest = [int(payload) for payload in taken(queue)]
    for key in range(4):
        mine = [i for i in rest if i % 4 == key]
        assert mine == sorted(mine)


def test_strict_is_one_at_a_time_and_priorities_do_not_matter(rig: Rig) -> None:
    queue = rig.queue(order="strict", **FOREVER)
    for i in range(5):
        queue.publish(b"%d" % i, key=str(i), priority=i)
    with queue.subscribe() as one, queue.subscribe() as two:
        for i in range(5):
            d = one.get(timeout=0)
            with pytest.raises(QueueEmpty):
                two.get(timeout=0)
            d.nack()
            d = two.get(timeout=0)
            assert (d.payload, d.priority) == (b"%d" % i, i)
            d.ack()


def test_a_dead_letter_lets_its_key_go_on(rig: Rig) -> None:
    dead = rig.queue("dead", order="key")
    queue = rig.queue(dead_letter=dead, order="key", max_retries=0)
    for i in range(2):
        queue.publish(b"%d" % i, key="k")
    with queue.subscribe() as consumer:
        consumer.get(timeout=0).reject()
        consumer.get(timeout=0).ack()
    (letter,) = [d.payload for d in dead.peek(5)]
    assert letter == b"0"


def _worker(name: str, seed: int, shared: Any) -> None:
    luck = random.Random(seed)
    client = Client.connect(name)
    queue = Queue(client, "q")
    with queue.subscribe() as consumer:
        for d in consumer:
            key, number = (int(part) for part in bytes(d.payload).split())
            if shared[key] != number:
                os._exit(3)
            dice = luck.random()
            if dice < 0.02:
                os.kill(os.getpid(), signal.SIGKILL)
            if dice < 0.15:
                d.nack()
            else:
                shared[key] = number + 1
                d.ack()
    os._exit(0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("order", ["key", "strict"])
def test_order_survives_consumers_that_are_killed(rig: Rig, order: str) -> None:
    """Keys go on in parallel, each in its order, over nacks and SIGKILL of the consumers."""
    context = multiprocessing.get_context("spawn")
    queue = rig.queue(order=order, **FOREVER)
    keys, each = 5, 60
    shared = context.Array("l", keys, lock=False)
    for i in range(each):
        for key in range(keys):
            queue.publish(b"%d %d" % (key, i), key=str(key))
    queue.shutdown()
    name = rig.client.name
    workers = [context.Process(target=_worker, args=(name, s, shared)) for s in range(2)]
    for worker in workers:
        worker.start()
    seed = 100
    while workers:
        worker = workers.pop(0)
        worker.join(timeout=0.05)
        lib.shmq_reap(rig.client.ctx, 0)  # a broker's supervisor does this
        if worker.exitcode is None:
            workers.append(worker)
            continue
        assert worker.exitcode in (0, -signal.SIGKILL)
        if worker.exitcode:
            seed += 1
            workers.append(context.Process(target=_worker, args=(name, seed, shared)))
            workers[-1].start()
    assert list(shared) == [each] * keys
    assert rig.audit() == {}


# ---- the other binding ----------------------------------------------------------------------------


@pytest.mark.timeout(180)
@pytest.mark.skipif("SHMQ_NO_ACCEL" in os.environ, reason="this is that run")
def test_the_same_over_the_pure_binding() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", __file__],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "SHMQ_NO_ACCEL": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
