"""Recall and Ledger: whatever interrupts a recall, each call is in one place afterwards."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rig import Rig, interrupted

from shmq._native import lib
from shmq.workers import wire
from shmq.workers.ledger import Ledger
from shmq.workers.recall import Recall


class Nobody:
    """A Sink that hears nothing."""

    title: Any = None

    def arrive(self, number: int, found: bytes | memoryview | BaseException) -> None:
        raise AssertionError(number, found)

    def landed(self) -> None:
        pass

    def hurry(self) -> None:
        pass


def payload(number: int) -> bytes:
    made = wire.call(number, pow, wire.named(pow), (2, 3))
    assert isinstance(made, bytes)
    return made


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_at_any_moment_of_a_recall_leaves_each_call_in_one_place(rig: Rig) -> None:
    queue = rig.queue(max_depth=1 << 16, retry_backoff=0)
    number = hits = 0
    whole = 0.003  # seconds that one takes, as far as known
    for i in range(400):
        ledger = Ledger(2)
        recall = Recall(queue, ledger)
        mine = list(range(number + 1, number + 301))
        number += 300
        ledger.admit(mine, Nobody())
        queue.publish_many([payload(n) for n in mine])
        hits += interrupted(recall.all, 1, whole * (1 + i % 100) / 100)
        waiting = list(ledger.waiting)
        ready = [wire.number_of(bytes(message.payload)) for message in queue.peek(1000)]
        assert sorted(waiting + ready) == mine
        assert queue.stats().unsettled == 0
        assert ledger.out == len(ready)
        begun = time.perf_counter()
        recall.all()
        if len(ready) == 300:  # it had all to do
            whole = time.perf_counter() - begun
        assert sorted(ledger.waiting) == mine
    assert hits > 50


def test_a_ring_that_says_for_ever_that_it_has_something_does_not_hold_a_recall_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaged:
        def __getattr__(self, name: str) -> Any:
            return getattr(lib, name)

        def shmq_wait_items(self, *_: object) -> int:
            return int(lib.SHMQ_OK)

    monkeypatch.setattr("shmq.workers.recall.lib", Damaged())
    ledger = Ledger(2)
    Recall(rig.queue(), ledger).all()
    assert not ledger.waiting


def test_what_is_withdrawn_is_neither_sent_nor_told_twice() -> None:
    told: list[int] = []

    class Sink(Nobody):
        def arrive(self, number: int, found: bytes | memoryview | BaseException) -> None:
            told.append(number)

    ledger = Ledger(10)
    ledger.admit(range(1, 6), Sink())
    ledger.keep([(n, b"") for n in range(1, 6)])
    ledger.retried[4] = 1
    ledger.doom([2, 4, 7])
    assert list(ledger.doomed) == [2]
    assert [n for n, _ in ledger.next_ones()] == [1, 3, 4, 5]
    ledger.tell()
    ledger.tell()
    assert told == [2]
    assert sorted(ledger.calls) == [1, 3, 4, 5]
    assert ledger.out == 4
