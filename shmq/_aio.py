"""Waiting under asyncio and under trio. anyio runs on either of the two.

Taking and publishing themselves happen in the event loop's own thread, at once or not at all. Only the waiting in between
is done elsewhere: by the threads of the hub, a few for all that a process waits for; or, on kernels that cannot wait for
many, by a thread of its own for each wait. So a cancelled call has taken nothing and published nothing: it only waited.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from shmq._descriptors import scarce
from shmq._hub import Wait, hub, works
from shmq._native import ffi, lib
from shmq._values import NS

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CALL", "ITEMS", "SPACE", "Turn", "breathe", "pause", "task_number", "wake"]

ITEMS = int(lib.SHMQ_FOR_ITEMS)
SPACE = int(lib.SHMQ_FOR_SPACE)
CALL = int(lib.SHMQ_FOR_CALL)

_tasks: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)


def _trio() -> Any:
    """Return trio, when it runs the calling task."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None


def task_number() -> int:
    """Return a number of the running task that no other task ever has, and no thread."""
    trio = _trio()
    task = trio.lowlevel.current_task() if trio else asyncio.current_task()
    if task is None:
        return 0
    number = _tasks.get(task)
    if number is None:
        number = _tasks[task] = next(_numbers)
    return number


async def breathe() -> None:
    """Let other tasks run, and cancellations arrive."""
    trio = _trio()
    await (trio.lowlevel.checkpoint() if trio else asyncio.sleep(0))


async def pause(seconds: float) -> None:
    """Sleep."""
    trio = _trio()
    await (trio.sleep(seconds) if trio else asyncio.sleep(seconds))


class Turn:
    """Waiting until there may be something, as often as it takes.

    Whoever has waited looks at the queue next. If the block ends by an exception instead, what woke it is passed on.
    """

    __slots__ = ("_wait",)

    def __init__(self) -> None:
        self._wait: Wait | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._over(pass_on=kind is not None)

    def _over(self, *, pass_on: bool = False) -> None:
        if self._wait is not None:
            wait, self._wait = self._wait, None
            hub().over(wait, pass_on=pass_on)

    async def wait(self, client: object, ctx: int, qref: int, what: int, deadline: int) -> None:
        """Return when queue ``qref`` may be ready, or at ``deadline`` (ns of shmq_now; 0 = none).

        ``what``: ITEMS, SPACE, or CALL, which only `wake` ends. ``client`` keeps the mapping of the
        context at ``ctx``.
        """
        self._over()
        trio = _trio()
        if not works():
            await _wait_in_thread(trio, client, ctx, qref, what, deadline)
        elif trio:
            event = trio.Event()
            post = trio.lowlevel.current_trio_token().run_sync_soon
            self._wait = hub().wait(client, ctx, qref, what, post, event.set)
            with trio.move_on_after(_left(deadline) if deadline else float("inf")):
                await event.wait()
        else:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[None] = loop.create_future()
            tell = functools.partial(_tell, done)
            self._wait = hub().wait(client, ctx, qref, what, loop.call_soon_threadsafe, tell)
            timer = loop.call_later(_left(deadline), tell) if deadline else None
            try:
                await done
            finally:
                if timer is not None:
                    timer.cancel()


def wake(ctx: int, qref: int) -> None:
    """Have everybody look who waits for queue ``qref``, in this process at once."""
    lib.shmq_wake_queue(ffi.cast("shmq_ctx *", ctx), qref)
    hub().wake(ctx, qref)


def _tell(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _left(deadline: int) -> float:
    return max(0.0, (deadline - int(lib.shmq_now())) / NS)


async def _wait_in_thread(
    trio: Any, client: object, address: int, qref: int, what: int, deadline: int
) -> None:
    """`Turn.wait` on a kernel that cannot wait for many. The thread touches nothing but the core."""
    ctx = ffi.cast("shmq_ctx *", address)
    call = lib.shmq_wait_space if what == SPACE else lib.shmq_wait_items

    def wait() -> object:
        # Naming client keeps its mapping while the wait lasts.
        return call(ctx, qref, deadline, 0) if client is not None else 0

    if trio:
        try:
            await trio.to_thread.run_sync(wait, abandon_on_cancel=True)
        except trio.Cancelled:
            lib.shmq_wake_queue(ctx, qref)
            raise
        return
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        wait()
        try:
            loop.call_soon_threadsafe(_tell, done)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    with scarce("waiting in asyncio"):
        threading.Thread(target=run, name="shmq-wait", daemon=True).start()
    try:
        await done
    except asyncio.CancelledError:
        lib.shmq_wake_queue(ctx, qref)
        raise
