"""Queues under asyncio, trio and anyio: a cancelled call has taken and put nothing."""

from __future__ import annotations

import asyncio
import queue as stdlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tree import run

from shmq.mp import JoinableQueue, Queue, SimpleQueue


def in_asyncio(main: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    return asyncio.run(main(*arguments))  # type: ignore[arg-type]


def in_trio(main: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    return pytest.importorskip("trio").run(main, *arguments)


Runner = Callable[..., Any]


@pytest.fixture(params=[in_asyncio, in_trio])
def runner(request: pytest.FixtureRequest) -> Runner:
    found: Runner = request.param
    return found


@pytest.mark.parametrize("kind", [Queue, JoinableQueue, SimpleQueue])
def test_put_get_and_iterate(runner: Runner, kind: Any) -> None:
    async def main() -> list[Any]:
        q = kind()
        for obj in (1, b"x", {"a"}, "last"):
            await q.aput(obj)
        first = await q.aget()
        if hasattr(q, "shutdown"):
            q.shutdown()
            return [first, *[obj async for obj in q]]
        return [first, await q.aget(), await q.aget(), await q.aget()]

    assert runner(main) == [1, b"x", {"a"}, "last"]


def test_timeouts(runner: Runner) -> None:
    async def main() -> None:
        q = Queue(1)
        with pytest.raises(stdlib.Empty):
            await q.aget(timeout=0.02)
        await q.aput(1, timeout=1)
        with pytest.raises(stdlib.Full):
            await q.aput(2, timeout=0.02)
        assert await q.aget() == 1

    runner(main)


def test_a_get_that_waits_is_woken_from_another_thread(runner: Runner) -> None:
    async def main() -> Any:
        q = Queue()
        threading.Timer(0.03, q.put, ("late",)).start()
        return await q.aget(timeout=10)

    assert runner(main) == "late"


def test_cancelled_under_asyncio() -> None:
    async def main() -> None:
        q = Queue(1)
        for _ in range(20):
            task = asyncio.create_task(q.aget())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await q.aput("kept")
        blocked = asyncio.create_task(q.aput("never"))
        await asyncio.sleep(0.01)
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked
        assert await q.aget() == "kept"
        assert q.empty()

    asyncio.run(main())


def test_cancelled_at_the_moment_of_a_put() -> None:
    """The item is either what the task returned, or still there."""

    async def main() -> None:
        q = Queue()
        for i in range(200):
            task = asyncio.create_task(q.aget())
            await asyncio.sleep(0)
            q.put(i)
            if i % 2:
                await asyncio.sleep(0)
            task.cancel()
            try:
                found = await task
            except asyncio.CancelledError:
                found = q.get(timeout=5)
            assert found == i
            assert q.empty()

    asyncio.run(main())


def test_cancelled_under_trio() -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        q = Queue()
        with trio.move_on_after(0.02) as scope:
            await q.aget()
        assert scope.cancelled_caught
        q.put("kept")
        assert await q.aget() == "kept"

    trio.run(main)


def test_under_anyio(runner: Runner) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> list[int]:
        q = Queue(2)
        found: list[int] = []

        async def consume() -> None:
            async for item in q:
                found.append(item)  # noqa: PERF401 - seen one by one

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            for i in range(50):
                await q.aput(i)
            q.shutdown()
        return found

    assert runner(main) == list(range(50))


def test_other_tasks_run_while_one_takes_what_is_there(runner: Runner) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> int:
        q = Queue()
        q.put_many(range(1000))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0)

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            for _ in range(1000):
                await q.aget()
            group.cancel_scope.cancel()
        return turns

    assert runner(main) >= 10


def test_between_processes(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        "spawn",
        """
import asyncio

def child(q, answers):
    async def main():
        async for item in q:
            await answers.aput(item * 2)
    asyncio.run(main())

async def main(q, answers):
    async def produce():
        for i in range(100):
            await q.aput(i)
        q.shutdown()
    task = asyncio.create_task(produce())
    found = sorted([await answers.aget(timeout=20) for _ in range(100)])
    await task
    return found

if __name__ == "__main__":
    q, answers = queues.Queue(5), queues.Queue(5)
    say(home=home().name, pids=helpers())
    workers = [context.Process(target=child, args=(q, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    say(found=asyncio.run(main(q, answers)))
    for worker in workers:
        worker.join()
""",
    )
    assert said[1]["found"] == [2 * i for i in range(100)]
