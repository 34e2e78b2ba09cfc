"""Waiting under asyncio.

The core's futexes cannot be waited on by an event loop, so each call that has to wait borrows a
thread, only while it waits. Taking and publishing themselves happen in the loop's thread: a call
that is cancelled has taken nothing and published nothing, it only waited.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Callable

from shmq._descriptors import scarce

__all__ = ["task_number", "wait_in_thread"]

_tasks: weakref.WeakKeyDictionary[asyncio.Task[object], int] = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)


def task_number() -> int:
    """Return a number of the running task that no other task ever has, and no thread."""
    task = asyncio.current_task()
    if task is None:
        return 0
    number = _tasks.get(task)
    if number is None:
        number = _tasks[task] = next(_numbers)
    return number


async def wait_in_thread(wait: Callable[[], int], wake: Callable[[], object]) -> int:
    """Return what ``wait`` returns; it runs in a thread and must return soon after ``wake``.

    The thread is a daemon: it touches nothing but the core, and its closure keeps the mapping.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()

    def hand_over(result: int) -> None:
        if not done.done():
            done.set_result(result)

    def run() -> None:
        result = wait()
        try:
            loop.call_soon_threadsafe(hand_over, result)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    with scarce("waiting in asyncio"):
        threading.Thread(target=run, name="shmq-wait", daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        wake()
        raise
