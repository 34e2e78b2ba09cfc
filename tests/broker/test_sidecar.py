"""What the sidecar does in a running broker, and the rules by which it decides."""

from __future__ import annotations

import math
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import kill, processes_of
from waiting import wait_until

import shmq
from shmq.sidecar.decide import (
    ALONE_PATIENCE,
    ANONYMOUS_PATIENCE,
    LEASE_LEAST,
    LEASE_MOST,
    MS,
    NEVER,
    SECOND,
    SWEEP_BLIND,
    SWEEP_LEAD,
    Every,
    ExpirySweep,
    Timers,
    TrimRule,
    earliest,
    lease_period,
    must_end,
)

# ---- in a running broker ------------------------------------------------------------------------


def test_a_lease_that_times_out_goes_to_somebody_else(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders", ack_timeout="100ms", retry_backoff=0)
    queue.publish(b"slow")
    with queue.subscribe() as slow, queue.subscribe() as other:
        first = slow.get(timeout=10)
        second = other.get(timeout=10)
        assert (second.payload, second.attempt) == (b"slow", 2)
        with pytest.raises(shmq.StaleDelivery):
            first.ack()
        second.ack()


def test_a_delayed_message_arrives_when_it_is_due(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders")
    start = time.monotonic()
    queue.publish(b"later", delay=0.2)
    queue.publish(b"now")
    with queue.subscribe() as consumer:
        first = consumer.get(timeout=10)
        first.ack()
        second = consumer.get(timeout=10)
        second.ack()
    assert (first.payload, second.payload) == (b"now", b"later")
    assert time.monotonic() - start >= 0.2


def test_retries_that_are_used_up_end_in_the_dead_letter_queue(broker: shmq.Broker) -> None:
    queue = broker.create_queue(
        "orders", max_retries=2, retry_backoff="10ms", retry_jitter=0, dead_letter="dead"
    )
    queue.publish(b"poison")
    with queue.subscribe() as consumer:
        for attempt in (1, 2, 3):
            delivery = consumer.get(timeout=10)
            assert delivery.attempt == attempt
            delivery.nack()
    with broker.get_queue("dead").subscribe() as consumer:
        dead = consumer.get(timeout=10)
        assert dead.payload == b"poison"
        assert dead.headers["x-death-reason"] == "retries"
        assert dead.headers["x-death-queue"] == "orders"
        dead.ack()


def test_many_timers_all_fire(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders")
    for i in range(6000):  # more than the mailbox for hints has room for
        queue.publish(b"%d" % i, delay=0.05 + (i % 10) / 100)
    seen: set[int] = set()
    with queue.subscribe(ack="auto") as consumer:
        while len(seen) < 6000:
            seen.update(int(d.payload) for d in consumer.get_many(500, timeout=20))
    assert seen == set(range(6000))


def test_memory_of_a_burst_goes_back_to_the_system(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders")
    with queue.subscribe(ack="none") as consumer:
        for _ in range(100):
            queue.publish(bytes(1_000_000))
        assert broker.stats().memory_used > 90_000_000
        for _ in range(100):
            consumer.get(timeout=10)
    wait_until(lambda: broker.stats().memory_used < 40_000_000, "memory to go back")


def test_consumers_in_threads_end_with_the_broker(broker_name: str) -> None:
    import threading

    broker = shmq.Broker(broker_name)
    queue = broker.create_queue("orders")
    for i in range(50):
        queue.publish(b"%d" % i)
    done: list[object] = []
    ready = threading.Barrier(4)

    def consume() -> None:
        try:
            with queue.subscribe() as consumer:
                ready.wait()
                for delivery in consumer:
                    delivery.ack()
                    done.append(delivery.payload)
        except BaseException as error:
            done.append(error)

    threads = [threading.Thread(target=consume) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    broker.shutdown()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not [one for one in done if isinstance(one, BaseException)]
    assert len(done) == 50


def test_supervisor_and_sidecar_stay_small(broker: shmq.Broker) -> None:
    total = 0
    for pid in processes_of(broker):
        with open(f"/proc/{pid}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert total < 50 * 1024


# ---- the rules ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 100)), max_size=200))
def test_the_latest_word_on_a_timer_counts(puts: list[tuple[int, int]]) -> None:
    timers = Timers()
    latest: dict[int, int] = {}
    for block, due in puts:
        timers.put(block, due)
        latest[block] = due
    assert len(timers) == len(latest)
    fired: list[int] = []
    for now in range(101):
        due_now = timers.pop_due(now, 1000)
        assert {latest[block] for block in due_now} <= {now}
        fired += due_now
    assert sorted(fired) == sorted(latest)
    assert timers.next_due() == NEVER


def test_timers_fire_in_order_and_in_lots() -> None:
    timers = Timers()
    for block in range(10):
        timers.put(block, 100 - block)
    assert timers.next_due() == 91
    assert timers.pop_due(95, 3) == [9, 8, 7]
    assert timers.pop_due(95, 3) == [6, 5]
    assert timers.pop_due(95, 3) == []
    assert timers.next_due() == 96


def test_timers_put_again_and_again_do_not_grow() -> None:
    timers = Timers()
    for due in range(1, 10_000):
        timers.put(7, due)
    assert len(timers) == 1
    assert len(timers._heap) < 200
    assert timers.pop_due(10_000, 10) == [7]


@pytest.mark.parametrize(
    ("timeouts", "period"),
    [
        ([], NEVER),
        ([0, 0], NEVER),
        ([0, 400 * MS], 400 * MS),
        ([60 * SECOND], LEASE_MOST),
        ([MS, SECOND], LEASE_LEAST),
    ],
)
def test_leases_are_looked_at_as_often_as_the_shortest_needs(
    timeouts: list[int], period: int
) -> None:
    assert lease_period(timeouts) == period


def test_earliest_ignores_never() -> None:
    assert earliest() == NEVER
    assert earliest(NEVER, NEVER) == NEVER
    assert earliest(NEVER, 5, 3) == 3


def test_every_is_due_at_once_then_once_per_period() -> None:
    every = Every(10)
    assert every.due(100)
    assert not every.due(105)
    assert every.next() == 110
    assert every.due(115)
    every.change(3, 116)
    assert every.next() == 119
    every.no_later_than(117)
    assert every.next() == 117
    every.change(NEVER, 118)
    assert every.next() == NEVER
    assert not every.due(1000)


def test_trim_waits_for_the_end_of_the_burst() -> None:
    rule = TrimRule(keep=100)
    assert rule.decide(memory_used=5000, blocks=100, free_blocks=0) is None  # it rises
    assert rule.decide(memory_used=5000, blocks=100, free_blocks=20) is None  # most is in use
    assert rule.decide(memory_used=5000, blocks=100, free_blocks=90) == 100
    rule.trimmed(4000)
    assert rule.decide(memory_used=4000, blocks=100, free_blocks=90) is None  # nothing new
    assert rule.decide(memory_used=4500, blocks=100, free_blocks=50) is None  # it rises again
    assert rule.decide(memory_used=4500, blocks=100, free_blocks=90) == 100
    assert TrimRule(keep=100).decide(memory_used=99, blocks=100, free_blocks=100) is None


def test_trim_keeps_little_of_a_small_file_system_and_nothing_of_a_short_one() -> None:
    mib = 1 << 20
    roomy = (64 * mib, 40 * mib)
    assert TrimRule().decide(20 * mib, 100, 100, (64 << 30, 40 << 30)) == 16 * mib
    assert TrimRule().decide(20 * mib, 100, 100, roomy) == mib // 2
    rule = TrimRule()
    assert rule.decide(40 * mib, 100, 10, (64 * mib, 2 * mib)) == 0  # others need it: no waiting
    rule.trimmed(39 * mib)
    assert rule.decide(39 * mib, 100, 10, (64 * mib, 2 * mib)) is None  # as when last tried
    assert rule.decide(39 * mib, 100, 0, (64 * mib, 2 * mib)) is None  # nothing is free
    assert rule.decide(39 * mib, 100, 11, (64 * mib, 2 * mib)) == 0


@pytest.mark.parametrize(
    ("facts", "ends"),
    [
        ({"closing": True}, True),
        ({"closing": True, "supervisor": True, "clients": 3}, True),
        ({"supervisor": True}, False),
        ({"supervisor": True, "linked": False}, False),
        ({"clients": 1, "alone_for": 10 * ALONE_PATIENCE}, False),
        ({"clients": 1, "linked": False, "alone_for": 10 * ALONE_PATIENCE}, False),
        ({"alone_for": ALONE_PATIENCE - 1}, False),
        ({"alone_for": ALONE_PATIENCE}, True),
        ({"alone_for": ANONYMOUS_PATIENCE, "anonymous": True}, True),
        ({"alone_for": ANONYMOUS_PATIENCE - 1, "anonymous": True}, False),
        ({"alone_for": ANONYMOUS_PATIENCE, "linked": False}, True),
    ],
    ids=str,
)
def test_the_sidecar_ends_when_nobody_can_need_it(facts: dict[str, int], ends: bool) -> None:
    plain = {
        "closing": False,
        "linked": True,
        "anonymous": False,
        "supervisor": False,
        "clients": 0,
        "alone_for": 0,
    }
    assert must_end(**{**plain, **facts}) is ends  # type: ignore[arg-type]


# ---- time to live -------------------------------------------------------------------------------


def died_at(delivery: shmq.Delivery) -> float:
    found = delivery.headers["x-death-time"]
    assert isinstance(found, float)
    return found


def test_an_expired_message_is_dead_lettered_though_nobody_takes_it(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders", dead_letter="dead")
    dead = broker.get_queue("dead")
    queue.publish(b"for ever", ttl=math.inf)
    queue.publish(b"short", ttl="50ms")
    queue.publish(b"delayed", ttl="2s", priority=9)
    with queue.subscribe() as consumer:
        consumer.get(timeout=10).nack(delay="1h")
    wait_until(lambda: dead.depth() == 2, "the sweep")
    with dead.subscribe() as consumer:
        found = {consumer.get(timeout=10) for _ in range(2)}
        for delivery in found:
            assert delivery.headers["x-death-reason"] == "expired"
            least = 0.05 if delivery.payload == b"short" else 2
            assert died_at(delivery) - delivery.timestamp >= least
        assert {delivery.payload for delivery in found} == {b"short", b"delayed"}
        for delivery in found:
            delivery.ack()
    stats = queue.stats()
    assert (stats.ready, stats.delayed, stats.expired, stats.dead_lettered) == (1, 0, 2, 2)


def test_expired_messages_can_be_dropped(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders", dead_letter="dead", expired="drop", ttl="20ms")
    queue.publish_many([b"x"] * 1000)
    wait_until(lambda: queue.depth() == 0, "the sweep")
    stats = queue.stats()
    assert (stats.expired, stats.dropped, stats.dead_lettered) == (1000, 1000, 0)
    assert broker.get_queue("dead").depth() == 0


def test_a_sweep_makes_room_for_a_producer_that_waits(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders", max_depth=4, ttl="100ms")
    queue.publish_many([b"x"] * 4)
    queue.publish(b"y", timeout=20)
    wait_until(lambda: queue.stats().expired == 5, "the sweep")


def test_a_new_sidecar_finds_all_that_expires(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders")
    queue.publish(b"x", ttl=0.5)
    _, sidecar = processes_of(broker)
    wait_until(lambda: broker.stats().sidecar_pid is not None, "the sidecar")
    kill(sidecar)
    wait_until(lambda: queue.stats().expired == 1, "the sweep of the new sidecar")


def test_expiries_and_delays_are_exact_among_100_000_others(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders", max_depth=200_000, dead_letter="dead")
    waiting = [shmq.Message(b"later", delay=3600 + i % 997) for i in range(100_000)]
    queue.publish_many(waiting)
    other = broker.create_queue("other")
    late = []
    with other.subscribe() as consumer, broker.get_queue("dead").subscribe() as dead:
        for _ in range(20):
            start = time.time()
            other.publish(b"due", delay=0.05)
            consumer.get(timeout=10).ack()
            late.append(time.time() - start - 0.05)
            start = time.time()
            queue.publish(b"short", ttl=0.05)
            delivery = dead.get(timeout=10)
            late.append(died_at(delivery) - delivery.timestamp - 0.05)
            delivery.ack()
    late.sort()
    assert late[0] >= 0
    # On a machine with other work a few may be late: the wake-up itself then is.
    assert late[len(late) // 2] < 0.005, late


def test_100_000_pending_delays_cost_an_idle_sidecar_nothing(broker: shmq.Broker) -> None:
    queue = broker.create_queue("orders", max_depth=200_000)
    queue.publish_many([shmq.Message(b"later", delay=3600 + i % 997) for i in range(100_000)])
    _, sidecar = processes_of(broker)

    def cpu() -> float:
        with open(f"/proc/{sidecar}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    wait_until(lambda: queue.stats().delayed == 100_000, "all of them")
    time.sleep(1.0)  # let it read them
    before, begun = cpu(), time.monotonic()
    time.sleep(4.0)
    assert (cpu() - before) / (time.monotonic() - begun) < 0.01


@given(st.lists(st.integers(1, 10**9), max_size=50), st.integers(1, 10**9))
def test_the_sweep_gives_out_what_is_over_in_order(times: list[int], now: int) -> None:
    sweep = ExpirySweep()
    for block, at in enumerate(times):
        sweep.put(block, at)
    over = sweep.pop_due(now, 1000)
    assert [times[block] for block in over] == sorted(at for at in times if at <= now)


def test_a_sweep_rests_in_proportion_to_its_cost() -> None:
    sweep = ExpirySweep()
    assert sweep.due(1, 10**18)  # a new sidecar knows nothing
    sweep.swept(SECOND, SECOND + 2 * MS)
    assert not sweep.due(SECOND + 19 * MS, 0)
    assert sweep.due(SECOND + 20 * MS, 0)
    assert not sweep.due(SECOND + 20 * MS, SECOND + 20 * MS + SWEEP_LEAD + 1)
    assert sweep.next(SECOND + 50 * MS) == SECOND + 50 * MS - SWEEP_LEAD
    assert sweep.next(10**18) == SECOND + SWEEP_BLIND
    sweep.put(7, SECOND + 5 * MS)
    assert sweep.next(10**18) == SECOND + 5 * MS
