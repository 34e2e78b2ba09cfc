"""Locks and latches, and exceptions of signal handlers at any moment."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest
from rig import interrupted

from shmq._locks import Latch, Lock
from shmq.workers.call import _Condition

WATCHDOG_S = 30.0


def in_a_thread(work: Callable[[], object]) -> bool:
    """Return whether a thread gets through ``work``."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WATCHDOG_S)
    return not thread.is_alive()


def take_and_give(lock: Lock | threading.Condition) -> None:
    with lock:
        pass


@pytest.mark.parametrize("what", [Lock, lambda: _condition(threading.RLock())])
def test_an_exception_at_any_moment_leaves_no_lock_taken(
    what: Callable[[], Lock | threading.Condition],
) -> None:
    lock = what()

    def forever() -> None:
        while True:
            take_and_give(lock)

    for _ in range(50):
        assert interrupted(forever, 6) == 6
        assert in_a_thread(lambda: take_and_give(lock))


def _condition(lock: threading.RLock) -> threading.Condition:
    condition = threading.Condition(lock)
    condition.__class__ = _Condition
    return condition


def test_an_exception_amid_a_wait_for_a_latch_keeps_nobody_from_it() -> None:
    for _ in range(50):
        latch = Latch()

        def forever(latch: Latch = latch) -> None:
            while True:
                latch.wait(0)
                latch.wait(0)
                latch.wait(0.00001)

        others = [threading.Thread(target=latch.wait, daemon=True) for _ in range(2)]
        for thread in others:
            thread.start()
        assert interrupted(forever, 6) == 6
        assert in_a_thread(latch.set)
        for thread in others:
            thread.join(WATCHDOG_S)
            assert not thread.is_alive()
        assert latch.wait()


def test_a_handler_sets_a_latch_amid_a_wait_for_it() -> None:
    before = signal.getsignal(signal.SIGALRM)
    try:
        for _ in range(300):
            latch = Latch()
            signal.signal(signal.SIGALRM, lambda *_, latch=latch: latch.set())
            signal.setitimer(signal.ITIMER_REAL, 0.0002)
            while not latch.wait(0.00001):
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_latch_is_waited_for_no_longer_than_asked() -> None:
    latch = Latch()
    before = time.monotonic()
    assert not latch.wait(0)
    assert not latch.wait(-1)
    assert not latch.wait(0.02)
    assert time.monotonic() - before >= 0.02
    latch.set()
    latch.set()
    assert latch.is_set()
    assert latch.wait(0)
    assert latch.wait(-1)


def test_a_lock_is_taken_again_by_who_has_it_and_by_nobody_else() -> None:
    lock = Lock()
    with lock, lock:
        assert lock.mine()
        assert in_a_thread(lambda: not lock.mine() and not lock.acquire(blocking=False))
    assert not lock.mine()
    assert in_a_thread(lambda: take_and_give(lock))
