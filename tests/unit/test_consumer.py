"""Consumer: getting, ack modes, limits, read-ahead, closing, Ctrl-C."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import queue as stdlib_queue
import signal
import threading
import time
from typing import Any

import pytest
from rig import Rig, filled, in_child, interrupted

from shmq._client import Client
from shmq._native import ACCEL
from shmq._segment import open_segment
from shmq.consumer import Consumer
from shmq.errors import LimitReached, QueueClosed, QueueEmpty, StaleDelivery
from shmq.keywords import Ack
from shmq.queue import Queue

# ---- get ----------------------------------------------------------------------------------------


def test_get_waits_for_the_timeout_and_then_raises(rig: Rig) -> None:
    consumer = rig.queue().subscribe()
    for timeout, least in ((0, 0), (0.0, 0), (0.05, 0.05), ("50ms", 0.05)):
        started = time.monotonic()
        with pytest.raises(QueueEmpty, match="found no message in time"):
            consumer.get(timeout)
        assert time.monotonic() - started >= least
        with pytest.raises(stdlib_queue.Empty):
            consumer.get_many(5, timeout=timeout)


@pytest.mark.parametrize(
    ("timeout", "kind"),
    [
        (-1, ValueError),
        (math.nan, ValueError),
        (-0.5, ValueError),
        ([], TypeError),
        (True, TypeError),
        ("soon", ValueError),
    ],
)
def test_wrong_timeouts_are_named(rig: Rig, timeout: Any, kind: type[Exception]) -> None:
    consumer = rig.queue().subscribe()
    with pytest.raises(kind, match="timeout: found"):
        consumer.get(timeout)
    with pytest.raises(kind, match="timeout: found"):
        consumer.get_many(1, timeout=timeout)


def test_get_wants_its_own_arguments(rig: Rig) -> None:
    consumer = filled(rig, 1).subscribe()
    with pytest.raises(TypeError):
        consumer.get(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        consumer.get(wait=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        consumer.get_many()  # type: ignore[call-arg]
    assert consumer.get(timeout=math.inf).payload == b"0"
    with pytest.raises(ValueError, match="max_n: found 0"):
        consumer.get_many(0)
    with pytest.raises(TypeError):
        consumer.get_many(1.5)  # type: ignore[arg-type]


def test_get_wakes_when_a_message_comes(rig: Rig) -> None:
    queue = rig.queue()
    timer = threading.Timer(0.1, queue.publish, (b"late",))
    timer.start()
    with queue.subscribe() as consumer:
        assert consumer.get(timeout=10).payload == b"late"
    timer.join()


@pytest.mark.parametrize("ack", ["manual", "auto", "none"])
@pytest.mark.parametrize("prefetch", [1, 7])
def test_get_many_returns_what_is_there(rig: Rig, ack: Ack, prefetch: int) -> None:
    queue = filled(rig, 150)
    with queue.subscribe(ack=ack, prefetch=prefetch) as consumer:
        first = consumer.get_many(3)
        rest = consumer.get_many(1000, timeout=1)
        payloads = [d.payload for d in first + rest]
        while len(payloads) < 150:
            payloads += [d.payload for d in consumer.get_many(1000, timeout=0)]
        assert len(first) == 3
        assert payloads == [b"%d" % i for i in range(150)]


def test_a_message_that_expired_is_not_delivered(rig: Rig) -> None:
    dead = rig.queue("dead")
    queue = rig.queue(dead_letter=dead)
    queue.publish(b"old", ttl=0.01)
    queue.publish(b"new")
    time.sleep(0.02)
    assert queue.subscribe().get(timeout=0).payload == b"new"
    assert dead.peek(1)[0].headers["x-death-reason"] == "expired"


# ---- ack modes ----------------------------------------------------------------------------------


def test_manual_deliveries_stay_until_settled(rig: Rig) -> None:
    queue = filled(rig, 3)
    with queue.subscribe() as consumer:
        a, b, _ = consumer.get(), consumer.get(), consumer.get()
        assert consumer.unsettled == 3
        b.ack()
        a.ack()
        assert consumer.unsettled == 1
    assert queue.depth() == 1
    assert queue.subscribe().get(timeout=0).attempt == 2


def test_none_has_nothing_to_settle(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish(b"x" * 10_000, headers={"a": 1})
    with queue.subscribe(ack="none") as consumer:
        d = consumer.get()
        assert (queue.depth(), queue.stats().unsettled) == (0, 0)
        assert (d.payload, d.headers, bytes(d.view[:2])) == (b"x" * 10_000, {"a": 1}, b"xx")
        for call in (d.ack, d.nack, d.reject):
            with pytest.raises(StaleDelivery, match='ack="none"'):
                call()


def test_auto_acks_when_the_next_one_is_asked_for(rig: Rig) -> None:
    queue = filled(rig, 3)
    queue.shutdown()
    seen: list[bytes] = []
    with queue.subscribe(ack="auto") as consumer:
        for delivery in consumer:
            assert queue.stats().acked == len(seen)
            seen.append(delivery.payload)
    assert seen == [b"0", b"1", b"2"]
    assert queue.stats().acked == 3


def test_auto_keeps_what_the_body_settled_itself(rig: Rig) -> None:
    dead = rig.queue("dead")
    queue = filled(rig, 3, dead_letter=dead)
    queue.shutdown()
    with queue.subscribe(ack="auto") as consumer:
        for delivery in consumer:
            if delivery.payload == b"1":
                delivery.reject("no")
    assert (queue.stats().acked, dead.depth()) == (2, 1)


def test_auto_nacks_with_the_traceback_when_the_body_raises(rig: Rig) -> None:
    dead = rig.queue("dead")
    queue = filled(rig, 2, max_retries=0, dead_letter=dead)
    with pytest.raises(ZeroDivisionError), queue.subscribe(ack="auto") as consumer:
        for delivery in consumer:
            print(1 // int(delivery.payload))
    (message,) = dead.peek(5)
    assert message.payload == b"0"
    error = message.headers["x-error"]
    assert isinstance(error, str)
    assert error.startswith("Traceback")
    assert "ZeroDivisionError" in error
    assert "int(delivery.payload)" in error
    assert queue.depth() == 1


def test_auto_counts_get_as_coming_back_and_a_clean_end_as_done(rig: Rig) -> None:
    queue = filled(rig, 3)
    with queue.subscribe(ack="auto") as consumer:
        consumer.get()
        consumer.get_many(1)
        assert queue.stats().acked == 1
    assert queue.stats().acked == 2
    assert queue.depth() == 1


def test_auto_gives_back_what_break_left_undecided(rig: Rig) -> None:
    queue = filled(rig, 2, retry_backoff=0)
    with queue.subscribe(ack="auto") as consumer:
        for _ in consumer:
            break
        for delivery in consumer:
            assert (delivery.payload, delivery.attempt) == (b"0", 2)
            break
    assert queue.stats().acked == 0
    assert queue.depth() == 2


def test_ctrl_c_in_the_body_is_no_fault_of_the_message(rig: Rig) -> None:
    queue = filled(rig, 1)
    with pytest.raises(KeyboardInterrupt), queue.subscribe(ack="auto") as consumer:
        for _ in consumer:
            raise KeyboardInterrupt
    stats = queue.stats()
    assert (stats.nacked, stats.ready) == (0, 1)


def test_auto_of_one_thread_leaves_the_others_alone(rig: Rig) -> None:
    queue = filled(rig, 3)
    with queue.subscribe(ack="auto") as consumer:
        consumer.get()
        thread = threading.Thread(target=consumer.get)
        thread.start()
        thread.join()
        assert queue.stats().acked == 0
        consumer.get()
        assert queue.stats().acked == 1


# ---- release_many ---------------------------------------------------------------------------------


def test_release_many_gives_all_back_at_once_and_counts_attempts(rig: Rig) -> None:
    queue = rig.queue(retry_backoff=30, max_retries=1, dead_letter=rig.queue("dead").name)
    queue.publish_many([b"%d" % i for i in range(50)])
    consumer, other = queue.subscribe(), queue.subscribe()
    assert consumer.release_many(consumer.get_many(50)) == 50
    again = other.get_many(50)
    assert [d.payload for d in again] == [b"%d" % i for i in range(50)]
    assert {d.attempt for d in again} == {2}
    assert queue.stats().nacked == 0
    again[0].release()
    assert other.release_many(again[1:]) == 49
    assert queue.depth() == 0
    assert queue.stats().dead_lettered == 50


def test_release_many_says_how_many_were_stale(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish_many([b"a", b"b"])
    consumer = queue.subscribe()
    deliveries = consumer.get_many(2)
    with pytest.raises(StaleDelivery, match=r"1 deliveries whose lease .* other 2 are given back"):
        consumer.release_many([*deliveries, deliveries[0]])
    assert queue.depth() == 2
    with pytest.raises(StaleDelivery):
        deliveries[0].release()
    with pytest.raises(TypeError, match=r"release_many: found int at position 1.*nothing was"):
        consumer.release_many([consumer.get(), 1])  # type: ignore[list-item]
    assert consumer.unsettled == 1


# ---- ack_many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 64, 65, 200])
def test_ack_many_acks_all(rig: Rig, n: int) -> None:
    queue = filled(rig, n)
    consumer = queue.subscribe()
    deliveries = [consumer.get(timeout=0) for _ in range(n)]
    views = [d.view for d in deliveries[::7]]
    assert consumer.ack_many(deliveries) == n
    assert (queue.stats().acked, consumer.unsettled) == (n, 0)
    views.clear()
    assert sum(rig.states()[2:]) == 0


def test_ack_many_says_how_many_were_stale(rig: Rig) -> None:
    queue = filled(rig, 3)
    consumer = queue.subscribe()
    deliveries = consumer.get_many(3)
    deliveries[1].ack()
    with pytest.raises(StaleDelivery, match=r"found 2 deliveries .* other 2 are acked"):
        consumer.ack_many([*deliveries, deliveries[0]])
    assert queue.stats().acked == 3
    with pytest.raises(TypeError, match="found int at position 1"):
        consumer.ack_many([deliveries[0], 1])  # type: ignore[list-item]


# ---- limits -------------------------------------------------------------------------------------


def test_max_unsettled_in_the_only_thread_is_an_error(rig: Rig) -> None:
    consumer = filled(rig, 5).subscribe(max_unsettled=2)
    first = consumer.get()
    assert len(consumer.get_many(5)) == 1
    with pytest.raises(LimitReached, match="2 unsettled deliveries, which is max_unsettled"):
        consumer.get()
    with pytest.raises(LimitReached):
        next(consumer)
    with pytest.raises(LimitReached):
        consumer.get_many(1)
    first.ack()
    assert consumer.get().payload == b"2"


def test_max_unsettled_waits_for_other_threads(rig: Rig) -> None:
    consumer = filled(rig, 2).subscribe(max_unsettled=1)
    first = consumer.get()

    def settle() -> None:
        time.sleep(0.1)
        first.ack()

    thread = threading.Thread(target=settle)
    thread.start()
    with pytest.raises(QueueEmpty, match="max_unsettled"):
        consumer.get(timeout=0.01)
    assert consumer.get(timeout=5).payload == b"1"
    thread.join()


@pytest.mark.parametrize(
    "options",
    [
        {"ack": "later"}, {"ack": None}, {"prefetch": 0}, {"prefetch": 1.5}, {"max_unsettled": 0},
        {"max_unsettled": True}, {"consumer_id": 5}, {"ack": "none", "max_unsettled": 5},
    ],
)  # fmt: skip
def test_wrong_subscriptions_are_refused(rig: Rig, options: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="found"):
        rig.queue().subscribe(**options)


# ---- read-ahead ---------------------------------------------------------------------------------


def test_what_is_read_ahead_goes_back_uncounted(rig: Rig) -> None:
    queue = filled(rig, 10)
    with queue.subscribe(prefetch=5) as consumer:
        consumer.get().ack()
        assert (queue.depth(), consumer.unsettled) == (5, 1 - 1)
    assert queue.depth() == 9
    attempts = [d.attempt for d in queue.subscribe().get_many(10)]
    assert attempts == [1] * 9
    assert rig.audit() == {}


def test_read_ahead_keeps_order(rig: Rig) -> None:
    queue = filled(rig, 100)
    queue.shutdown()
    with queue.subscribe(prefetch=8, ack="auto") as consumer:
        assert [d.payload for d in consumer] == [b"%d" % i for i in range(100)]


# ---- closing ------------------------------------------------------------------------------------


def test_close_gives_back_and_is_idempotent(rig: Rig) -> None:
    queue = filled(rig, 3)
    consumer = queue.subscribe("me")
    d = consumer.get()
    assert repr(consumer) == "<shmq.Consumer me of 'q', 1 unsettled>"
    consumer.close()
    consumer.close()
    assert consumer.closed
    assert queue.depth() == 3
    with pytest.raises(StaleDelivery):
        d.ack()
    with pytest.raises(QueueClosed, match="it was closed"):
        consumer.get()
    with pytest.raises(QueueClosed):
        consumer.get_many(1)
    assert list(consumer) == []


def test_a_dropped_delivery_stays_unsettled_until_the_consumer_closes(rig: Rig) -> None:
    queue = filled(rig, 3)
    with queue.subscribe() as consumer:
        consumer.get()
        consumer.get()
        assert consumer.unsettled == 2
        assert queue.depth() == 1
    assert queue.depth() == 3


def test_a_dropped_consumer_gives_back(rig: Rig) -> None:
    queue = filled(rig, 3)
    d = queue.subscribe().get()
    assert queue.depth() == 2
    del d
    gc.collect()
    assert queue.depth() == 3


def test_close_wakes_other_threads(rig: Rig) -> None:
    consumer = rig.queue().subscribe()
    outcome: list[Any] = []

    def wait() -> None:
        try:
            consumer.get()
        except QueueClosed as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    consumer.close()
    thread.join(5)
    assert len(outcome) == 1


def test_closing_counts_an_attempt_for_what_was_handed_out(rig: Rig) -> None:
    queue = filled(rig, 1)
    for attempt in (1, 2, 3):
        with queue.subscribe() as consumer:
            assert consumer.get(timeout=0).attempt == attempt


def test_iteration_waits_for_what_others_hold(rig: Rig) -> None:
    queue = filled(rig, 1, retry_backoff=0)
    other = queue.subscribe()
    held = other.get()
    queue.shutdown()
    timer = threading.Timer(0.1, held.nack)
    timer.start()
    with queue.subscribe(ack="auto") as consumer:
        assert [d.attempt for d in consumer] == [2]
    timer.join()


def test_consumers_do_not_pickle(rig: Rig) -> None:
    with pytest.raises(TypeError, match="send the Queue"):
        pickle.dumps(rig.queue().subscribe())


# ---- signals and processes ----------------------------------------------------------------------


def test_ctrl_c_interrupts_a_waiting_get(rig: Rig) -> None:
    consumer = rig.queue().subscribe()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        consumer.get()


def test_a_signal_handler_may_use_the_same_consumer(rig: Rig) -> None:
    queue = rig.queue()
    consumer = queue.subscribe()
    got: list[bytes] = []

    def handler(*_: object) -> None:
        queue.publish(b"1")
        queue.publish(b"2")
        got.append(consumer.get().payload)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert consumer.get(timeout=5).payload == b"2"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert got == [b"1"]


# One that hits a finalizer is swallowed by Python, which says so; what is lost by it is asked below.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ack", ["manual", "none", "auto"])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_exceptions_at_any_moment_lose_nothing(rig: Rig, ack: Ack, prefetch: int) -> None:
    queue = rig.queue(max_depth=1 << 16, max_retries=None, retry_backoff=0)
    n = 3000 if ACCEL is None else 60_000
    queue.publish_many([b"%d" % i for i in range(n)])

    # In a function of its own: CPython 3.12 to 3.14 leave the jump back of some loops out of the `try`
    # around them, and an exception that comes right there passes by its `except`.
    def take_all(consumer: Consumer) -> None:
        while True:
            d = consumer.get(timeout=0)
            seen.add(d.payload)
            if ack == "manual":
                d.ack()

    def until_empty() -> None:
        with contextlib.suppress(QueueEmpty):
            take_all(consumer)

    seen: set[bytes] = set()
    interrupts = 0
    deadline = time.monotonic() + 20
    while len(seen) < n and queue.depth() and time.monotonic() < deadline:
        consumer = queue.subscribe(ack=ack, prefetch=prefetch)
        interrupts += interrupted(until_empty, 1)
        consumer.close()
    assert interrupts
    if ack != "none":  # at most once may lose what was in flight
        assert len(seen) == n
    consumer = None  # type: ignore[assignment]
    gc.collect()
    assert queue.stats().unsettled == 0
    assert rig.audit() == {}


def test_a_consumer_works_in_a_forked_child_and_holds_nothing_of_the_parent(rig: Rig) -> None:
    queue = filled(rig, 3)
    consumer = queue.subscribe(prefetch=2)
    held = consumer.get()

    def child() -> int:
        d = consumer.get(timeout=0)
        assert d.payload == b"2"
        assert consumer.unsettled == 1
        d.ack()
        consumer.close()
        return 0

    assert in_child(child) == 0
    assert consumer.get(timeout=0).payload == b"1"
    held.ack()
    assert queue.stats().acked == 2


# ---- garbage ------------------------------------------------------------------------------------


def test_client_and_consumer_may_be_garbage_together(rig: Rig) -> None:
    queue = filled(rig, 5)
    client = Client(open_segment(rig.client.name))
    consumer = Queue(client, "q").subscribe(prefetch=2)
    deliveries = [consumer.get(), consumer.get()]
    circle: list[Any] = [client, consumer, deliveries, deliveries[0].view]
    circle.append(circle)
    del client, consumer, deliveries, circle
    gc.collect()
    assert queue.depth() == 5
    assert rig.audit() == {}
