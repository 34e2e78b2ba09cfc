"""Delivery: settling, headers, dead letters, and views that outlive everything."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from rig import Rig, in_child

from shmq import delivery as module
from shmq._native import lib
from shmq.delivery import Delivery, error_headers
from shmq.errors import StaleDelivery
from shmq.message import decode_headers
from shmq.queue import Queue


def one(queue: Queue, payload: bytes = b"payload", **fields: Any) -> Delivery:
    """Publish a message and get it; the delivery keeps its consumer."""
    queue.publish(payload, **fields)
    return queue.subscribe().get(timeout=0)


def test_a_delivery_has_all_of_the_message(rig: Rig) -> None:
    queue = rig.queue()
    number = queue.publish(
        b"p", headers={"a": 1, "b": b"2"}, priority=4, ttl=30, key="k", dedup_id="d"
    )
    d = queue.subscribe().get()
    assert type(d) is Delivery
    assert (d.payload, d.headers, d.priority, d.ttl) == (b"p", {"a": 1, "b": b"2"}, 4, 30.0)
    assert (d.key, d.dedup_id, d.delay, d.id, d.queue) == ("k", "d", None, number, "q")
    assert (d.attempt, d.redelivered, d.size) == (1, False, 1)
    assert d.timestamp == pytest.approx(time.time(), abs=5)
    assert d.payload is d.payload
    d.ack()
    assert (d.payload, d.headers, d.key, d.attempt) == (b"p", {"a": 1, "b": b"2"}, "k", 1)
    assert "settled" in repr(d)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_timestamp_is_right_though_its_reader_was_stopped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    published = time.time()
    d = one(rig.queue())
    reads = 0

    def stopped_after(read: Callable[[], int]) -> Callable[[], int]:
        def reading() -> int:
            nonlocal reads
            found = int(read())
            if reads == which:
                time.sleep(0.3)
            reads += 1
            return found

        return reading

    shmq_now, time_ns = lib.shmq_now, time.time_ns
    monkeypatch.setattr(module, "lib", SimpleNamespace(shmq_now=stopped_after(shmq_now)))
    monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=stopped_after(time_ns)))
    assert d.timestamp == pytest.approx(published, abs=0.1)
    assert reads > which


def test_headers_have_the_names_that_they_were_published_with(rig: Rig) -> None:
    # Of all lengths, many of each, alike at both ends, and not only ASCII: more than are kept.
    names = [f"{c * n}{i}{c * n}" for n in range(20) for c in "aé€" for i in range(5)]
    names += ["", "x" * 300, "\udc80"]
    queue = rig.queue()
    consumer = queue.subscribe()
    for lap in range(2):
        for number, name in enumerate(names):
            extra: dict[str, Any] = {"key": "k", "dedup_id": "d"} if lap else {}
            queue.publish(b"", headers={name: number, "seq": name}, **extra)
            d = consumer.get(timeout=0)
            assert d.headers == {name: number, "seq": name}
            assert d.headers is not d.headers
            assert (d.key, d.dedup_id) == (extra.get("key"), extra.get("dedup_id"))
            d.ack()


def test_deliveries_cannot_be_made_or_pickled(rig: Rig) -> None:
    with pytest.raises(
        TypeError,
        match=r"cannot create 'shmq.delivery.Delivery' instances|cannot create 'Delivery'",
    ):
        Delivery()
    d = one(rig.queue())
    with pytest.raises(TypeError, match=r"send delivery\.payload"):
        pickle.dumps(d)
    with pytest.raises(AttributeError):
        d.anything = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", ["ack", "nack", "reject"])
@pytest.mark.parametrize("second", ["ack", "nack", "reject", "touch", "view"])
def test_what_is_settled_is_stale(rig: Rig, first: str, second: str) -> None:
    d = one(rig.queue(dead_letter=rig.queue("dead")))
    getattr(d, first)()
    with pytest.raises(StaleDelivery, match="do not settle twice"):
        d.touch(1) if second == "touch" else d.view if second == "view" else getattr(d, second)()


def test_large_payloads_are_copied_on_first_use_before_the_settle(rig: Rig) -> None:
    queue = rig.queue()
    for size in (4096, 4097, 300_000, 1 << 20):
        d = one(queue, b"x" * size)
        d.ack() if size <= 4096 else None
        assert d.payload == b"x" * size
        d.ack() if size > 4096 else None
        assert d.payload == b"x" * size
    d = one(queue, b"x" * 5000)
    d.ack()
    with pytest.raises(StaleDelivery):
        _ = d.payload


# ---- nack and reject ----------------------------------------------------------------------------


def test_a_nacked_message_comes_back_with_another_attempt(rig: Rig) -> None:
    queue = rig.queue(retry_backoff=0)
    d = one(queue, headers={"a": 1})
    d.nack()
    again = queue.subscribe().get(timeout=0)
    assert (again.id, again.attempt, again.redelivered) == (d.id, 2, True)
    assert (again.payload, again.headers) == (b"payload", {"a": 1})
    again.ack()


def test_nack_with_a_delay_comes_back_later(rig: Rig) -> None:
    queue = rig.queue()
    one(queue).nack(delay=0.05)
    assert queue.stats().delayed == 1
    time.sleep(0.06)
    rig.fire_timers()
    assert queue.subscribe().get(timeout=0).attempt == 2
    d = one(rig.queue("z"))
    with pytest.raises(ValueError, match="delay: found -1"):
        d.nack(delay=-1)
    d.nack(delay=0)


def test_past_max_retries_it_is_a_dead_letter_with_its_story(rig: Rig) -> None:
    dead = rig.queue("dead")
    queue = rig.queue(max_retries=1, retry_backoff=0, dead_letter=dead)
    consumer = queue.subscribe()
    queue.publish(b"x", headers={"mine": 1})
    consumer.get(timeout=0).nack()
    consumer.get(timeout=0).nack()
    assert queue.depth() == 0
    (message,) = dead.peek(5)
    d = dead.subscribe().get(timeout=0)
    for headers in (message.headers, d.headers):
        assert headers["mine"] == 1
        assert headers["x-death-reason"] == "retries"
        assert headers["x-death-queue"] == "q"
        assert headers["x-attempts"] == 2
        assert headers["x-error"] == "not settled in 2 attempts"
        assert headers["x-death-time"] == pytest.approx(time.time(), abs=5)
    d.ack()


def test_reject_is_a_dead_letter_at_once(rig: Rig) -> None:
    dead = rig.queue("dead")
    queue = rig.queue(dead_letter=dead)
    one(queue).reject("bad ✗ row")
    one(queue).reject()
    first, second = dead.peek(5)
    assert (first.headers["x-error"], first.headers["x-death-reason"]) == ("bad ✗ row", "rejected")
    assert second.headers["x-error"] == "rejected without a reason"
    assert first.headers["x-attempts"] == 1
    with pytest.raises(TypeError, match="reason: found 5"):
        one(queue).reject(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["nack", "reject", "close", "expire"])
def test_what_is_given_back_to_a_deleted_queue_ends_with_it(rig: Rig, how: str) -> None:
    """Whoever still holds something there keeps the queue's record from being used again."""
    dead = rig.queue("dead")
    queue = rig.queue(max_retries=0, dead_letter=dead)
    consumer = queue.subscribe()
    queue.publish(b"x", ttl=0.01 if how == "expire" else 60)
    delivery = consumer.get(timeout=0)
    rig.client.call(lib.shmq_queue_delete, queue._qref)
    if how == "close":
        consumer.close()
    elif how == "expire":
        while time.time() < delivery.timestamp + 0.02:
            time.sleep(0.001)
        delivery.nack(delay=0)
    else:
        getattr(delivery, how)()
    stats = dead.stats()
    assert (stats.ready, stats.delayed, stats.dead_lettered) == (0, 0, 0)
    lib.shmq_queue_collect(rig.client.ctx)
    assert rig.audit() == {}
    again = rig.queue(max_retries=0, dead_letter=dead)
    assert (again.stats().ready, again.stats().dead_lettered) == (0, 0)


def test_a_long_error_keeps_its_end() -> None:
    text = decode_headers(error_headers("ä" * 9000 + "the end")).headers["x-error"]
    assert isinstance(text, str)
    assert text.startswith("…ä")
    assert text.endswith("the end")
    assert len(text.encode()) < 8200


def test_touch_wants_a_positive_time(rig: Rig) -> None:
    d = one(rig.queue(ack_timeout=60))
    d.touch(5)
    d.touch("5s")
    for wrong in (0, -1, None, "never"):
        with pytest.raises(ValueError, match=r"seconds: found"):
            d.touch(wrong)  # type: ignore[arg-type]
    d.ack()


# ---- views --------------------------------------------------------------------------------------


def alive(rig: Rig) -> int:
    return sum(rig.states()[2:])


def test_a_view_reads_shared_memory_and_outlives_the_ack(rig: Rig) -> None:
    queue = rig.queue()
    d = one(queue, b"x" * 10_000)
    view = d.view
    assert view.readonly
    assert len(view) == 10_000
    part = view[5:10]
    d.ack()
    assert queue.stats().unsettled == 0
    del view
    assert alive(rig) == 1
    for _ in range(50):
        queue.publish(b"y" * 10_000)
    assert bytes(part) == b"xxxxx"
    del part
    assert alive(rig) == 50
    assert rig.audit() == {}


def test_a_numpy_array_of_a_view_outlives_ack_and_delivery(rig: Rig) -> None:
    queue = rig.queue()
    d = one(queue, bytes(range(256)) * 100)
    array = numpy.frombuffer(d.view, dtype=numpy.uint8)
    d.ack()
    del d
    gc.collect()
    assert array.sum() == 100 * sum(range(256))
    assert alive(rig) == 1
    del array
    assert alive(rig) == 0


def test_views_that_die_before_the_settle_cost_nothing(rig: Rig) -> None:
    d = one(rig.queue(), b"abc")
    assert bytes(d.view) == b"abc"
    views = [d.view for _ in range(10)]
    views.clear()
    d.ack()
    assert alive(rig) == 0


@pytest.mark.parametrize("how", ["nack", "reject", "close"])
def test_a_view_outlives_the_message_going_elsewhere(rig: Rig, how: str) -> None:
    queue = rig.queue(retry_backoff=0, dead_letter=rig.queue("dead"))
    d = one(queue, b"abc")
    consumer = d._consumer
    view = d.view
    consumer.close() if how == "close" else getattr(d, how)()
    target = Queue(rig.client, "dead") if how == "reject" else queue
    again = target.subscribe().get(timeout=0)
    assert again.payload == b"abc"
    again.ack()
    assert alive(rig) == 1
    assert bytes(view) == b"abc"
    del view
    assert alive(rig) == 0
    assert rig.audit() == {}


def test_a_view_may_die_in_another_thread(rig: Rig) -> None:
    d = one(rig.queue(), b"abc")
    box = [d.view]
    d.ack()
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert alive(rig) == 0


def test_a_view_that_dies_in_a_forked_child_changes_nothing(rig: Rig) -> None:
    queue = rig.queue()
    d = one(queue, b"abc")
    box = [d.view]
    d.ack()

    def child() -> int:
        queue.publish(b"attach anew")
        box.clear()
        return 0

    assert in_child(child) == 0
    assert bytes(box[0]) == b"abc"
    assert alive(rig) == 2
    box.clear()
    assert alive(rig) == 1


def test_a_delivery_of_the_parent_is_stale_in_the_child(rig: Rig) -> None:
    queue = rig.queue()
    d = one(queue)

    def child() -> int:
        queue.depth()
        for call in (d.ack, d.nack, d.reject, lambda: d.touch(1)):
            with pytest.raises(StaleDelivery, match="forked"):
                call()
        return 0

    assert in_child(child) == 0
    d.ack()
    assert queue.stats().acked == 1


def test_a_nack_with_a_reason_shows_it_to_the_next_attempt(rig: Rig) -> None:
    queue = rig.queue(retry_backoff=0.0)
    consumer = queue.subscribe()
    queue.publish(b"x", headers={"a": 1})
    consumer.get(timeout=5).nack(reason="it rained")
    again = consumer.get(timeout=5)
    assert again.headers == {"a": 1, "x-error": "it rained"}
    with pytest.raises(TypeError, match="expected a text"):
        again.nack(reason=7)  # type: ignore[arg-type]
    again.nack()
    assert consumer.get(timeout=5).headers["a"] == 1
