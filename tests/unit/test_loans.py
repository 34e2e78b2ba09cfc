"""Loans: a message written where it will be read."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from rig import Rig, drained, interrupted

from shmq.errors import (
    MessageTooLarge,
    QueueFull,
)


def test_a_loan_is_published_when_the_block_ends(rig: Rig) -> None:
    queue = rig.queue()
    with queue.loan(5, headers={"h": 1}) as buffer:
        assert len(buffer) == 5
        assert not buffer.readonly
        buffer[:] = b"hello"
        assert queue.depth() == 0
    (message,) = queue.peek(1)
    assert (message.payload, message.headers) == (b"hello", {"h": 1})
    with pytest.raises(ValueError, match="released"):
        buffer[0] = 1


def test_a_loan_is_aborted_by_an_exception(rig: Rig) -> None:
    queue = rig.queue()
    with pytest.raises(RuntimeError), queue.loan(100) as buffer:
        buffer[0] = 1
        raise RuntimeError
    assert queue.depth() == 0
    assert sum(rig.states()[2:]) == 0


def test_a_loan_with_views_left_is_refused_and_comes_back_when_they_die(rig: Rig) -> None:
    queue = rig.queue()
    with pytest.raises(BufferError, match="slices or arrays"), queue.loan(100) as buffer:
        part = buffer[10:20]
    assert queue.depth() == 0
    part[0] = 1  # still memory of its own
    assert sum(rig.states()[2:]) == 1
    del part, buffer
    assert sum(rig.states()[2:]) == 0


def test_a_loan_waits_for_room(rig: Rig) -> None:
    queue = rig.queue(max_depth=1)
    queue.publish(b"1")
    with pytest.raises(QueueFull), queue.loan(1, timeout=0.02) as buffer:
        buffer[:] = b"2"
    assert sum(rig.states()[2:]) == 1
    thread = threading.Timer(0.05, lambda: drained(queue))
    thread.start()
    with queue.loan(1, timeout=5) as buffer:
        buffer[:] = b"3"
    thread.join()
    assert drained(queue) == [b"3"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fields", [{}, {"key": "k"}])
def test_an_exception_at_any_moment_keeps_no_loan(rig: Rig, fields: dict[str, Any]) -> None:
    queue = rig.queue(max_depth=1 << 16)

    def lend() -> None:
        with queue.loan(100, **fields) as buffer:
            buffer[0] = 1

    def for_a_while() -> None:
        for _ in range(1000):
            lend()

    for _ in range(50):
        assert interrupted(for_a_while, 20)  # one that hits a finalizer is swallowed by Python
        queue.purge()
    assert sum(rig.states()[2:]) == 0


@pytest.mark.parametrize("fields", [{}, {"key": "k"}])
def test_a_loan_does_not_mind_who_keeps_its_frames(rig: Rig, fields: dict[str, Any]) -> None:
    # As a debugger does, or whoever keeps an exception that was raised in a finalizer below one of them.
    queue = rig.queue()
    kept: list[Any] = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, arg: kept.append(frame))
    try:
        with queue.loan(100, **fields) as buffer:
            buffer[0] = 1
    finally:
        sys.setprofile(before)
    assert kept
    assert queue.depth() == 1


def test_empty_and_too_large_loans(rig: Rig) -> None:
    queue = rig.queue()
    with queue.loan(0) as buffer:
        assert len(buffer) == 0
    with pytest.raises(MessageTooLarge), queue.loan((1 << 20) + 1):
        pass
    with pytest.raises(ValueError, match="nbytes: found -1"):
        queue.loan(-1)
    assert drained(queue) == [b""]
