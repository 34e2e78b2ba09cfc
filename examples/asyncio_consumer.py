#!/usr/bin/env python3
"""An asyncio program that takes work from processes and gives answers back.

Two processes put numbers; the program reads them with `async for` while other tasks run, handles
several at a time, and awaits a place in a short queue of answers. It ends when the producers are
done and the queue is shut down and empty.

    python examples/asyncio_consumer.py [--numbers 200]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

import shmq.mp as multiprocessing

PRODUCERS = 2


def produce(queue: Any, first: int, count: int) -> None:
    """Put numbers, in an ordinary process."""
    for n in range(first, first + count):
        queue.put({"number": n})


def add_up(answers: Any, expected: int, total: Any) -> None:
    """Read all answers, in another ordinary process, and put their sum."""
    total.put(sum(answers.get(timeout=60)["square"] for _ in range(expected)))


async def handle(item: dict[str, int], answers: Any, at_once: asyncio.Semaphore) -> None:
    async with at_once:
        await asyncio.sleep(0.001)  # a request to somebody else
        await answers.aput({"square": item["number"] ** 2})


async def consume(queue: Any, answers: Any) -> int:
    """Handle every item, at most ten at a time; return how many."""
    at_once = asyncio.Semaphore(10)
    tasks = set[asyncio.Task[None]]()
    count = 0
    async for item in queue:
        count += 1
        task = asyncio.create_task(handle(item, answers, at_once))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return count


async def heartbeat(beats: list[int]) -> None:
    """Show that the event loop is never blocked."""
    while True:
        await asyncio.sleep(0.002)
        beats[0] += 1


async def serve(queue: Any, answers: Any, producers: list[Any]) -> tuple[int, int]:
    """Consume until the producers are done; return how many items, and beats of the heart."""
    beats = [0]
    beating = asyncio.create_task(heartbeat(beats))
    consuming = asyncio.create_task(consume(queue, answers))
    for process in producers:
        await asyncio.to_thread(process.join)
    queue.shutdown()  # the loop over it ends when it is empty
    count = await consuming
    beating.cancel()
    return count, beats[0]


def main(numbers: int) -> int:
    queue, answers, total = (
        multiprocessing.Queue(),
        multiprocessing.Queue(5),
        multiprocessing.Queue(),
    )
    each = numbers // PRODUCERS
    producers = [
        multiprocessing.Process(target=produce, args=(queue, i * each, each))
        for i in range(PRODUCERS)
    ]
    adder = multiprocessing.Process(target=add_up, args=(answers, each * PRODUCERS, total))
    for process in (*producers, adder):
        process.start()
    count, beats = asyncio.run(serve(queue, answers, producers))
    found = total.get(timeout=60)
    adder.join()

    expected = sum(n * n for n in range(each * PRODUCERS))
    print(f"{count} numbers, sum of squares {found:,}, {beats} beats of the loop meanwhile")
    print("right" if found == expected and beats else f"wrong: expected {expected:,}")
    return 0 if found == expected and beats else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--numbers", type=int, default=200)
    sys.exit(main(parser.parse_args().numbers))
