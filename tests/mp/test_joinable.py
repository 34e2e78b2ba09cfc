"""JoinableQueue: task_done and join."""

from __future__ import annotations

import threading

import pytest

from shmq.mp import JoinableQueue


def test_task_done_and_join() -> None:
    q = JoinableQueue()
    q.join()
    with pytest.raises(ValueError, match="called too many times"):
        q.task_done()
    q.put_many([1, {2}, b"3"])
    assert [q.get(), q.get(), q.get()] == [1, {2}, b"3"]
    joined = threading.Event()

    def join() -> None:
        q.join()
        joined.set()

    joiner = threading.Thread(target=join)
    joiner.start()
    q.task_done()
    q.task_done()
    assert not joined.wait(0.05)
    q.put(4)  # while somebody joins
    assert q.get() == 4
    q.task_done()
    assert not joined.wait(0.05)
    q.task_done()
    assert joined.wait(10)
    joiner.join()
    with pytest.raises(ValueError, match="called too many times"):
        q.task_done()


def test_each_thread_is_done_with_its_own_item_first() -> None:
    q = JoinableQueue()
    q.put_many(["mine", "other's"])
    assert q.get() == "mine"

    def work() -> None:
        assert q.get() == "other's"
        q.task_done()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    del q._reader_of_views  # what this thread holds goes back, as at the end of a process
    q._reader_of_views = None
    q._tasks()._by_thread.clear()
    assert q.get(timeout=5) == "mine"
    q.task_done()
    q.join()


def test_join_does_not_miss_what_an_item_has_put() -> None:
    """Each item puts the next before it is done: there is always one."""
    q = JoinableQueue()
    last = 300
    ended: list[int] = []

    def work() -> None:
        while True:
            n = q.get()
            if n < last:
                q.put(n + 1)
            ended.append(n)
            q.task_done()
            if n == last:
                return

    worker = threading.Thread(target=work)
    q.put(0)
    worker.start()
    q.join()
    assert ended == list(range(last + 1))
    worker.join()


def test_immediate_shutdown_ends_joins() -> None:
    q = JoinableQueue()
    q.put(1)
    q.put(2)
    assert q.get() == 1
    joiner = threading.Thread(target=q.join)
    joiner.start()
    q.shutdown(immediate=True)
    joiner.join(10)
    assert not joiner.is_alive()
