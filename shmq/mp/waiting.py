"""Waiting for a queue under asyncio and trio.

Putting and getting happen in the event loop's own thread, at once or not at all; only the waiting
in between is done elsewhere, by a thread that is borrowed while it lasts. So a cancelled call has
taken nothing and put nothing. anyio runs on either of the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from shmq._aio import wait_in_thread

__all__ = ["breathe", "wait"]


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


async def wait(call: Callable[[], int], wake: Callable[[], object]) -> int:
    """Return what ``call`` returns; it waits in a thread, and returns soon after ``wake``."""
    if not _in_trio():
        return await wait_in_thread(call, wake)
    import trio

    try:
        return int(await trio.to_thread.run_sync(call, abandon_on_cancel=True))
    except trio.Cancelled:
        wake()
        raise


async def breathe() -> None:
    """Let other tasks run, and cancellations arrive."""
    if _in_trio():
        import trio

        await trio.lowlevel.checkpoint()
    else:
        import asyncio

        await asyncio.sleep(0)
