"""Consumer under asyncio: getting, iterating, cancelling, limits."""

from __future__ import annotations

import asyncio
import threading

import pytest
from rig import Rig, filled

from shmq.errors import QueueEmpty


def test_async_iteration_ends_when_drained(rig: Rig) -> None:
    queue = rig.queue()

    async def produce() -> None:
        for i in range(200):
            await queue.apublish(b"%d" % i)
            if i % 50 == 0:
                await asyncio.sleep(0.01)
        queue.shutdown()

    async def consume() -> list[bytes]:
        seen = []
        async with queue.subscribe() as consumer:
            async for delivery in consumer:
                seen.append(delivery.payload)
                delivery.ack()
        return seen

    async def main() -> list[bytes]:
        seen, _ = await asyncio.wait_for(asyncio.gather(consume(), produce()), 20)
        return seen

    assert asyncio.run(main()) == [b"%d" % i for i in range(200)]


def test_a_cancelled_aget_takes_nothing(rig: Rig) -> None:
    queue = rig.queue()

    async def main() -> None:
        consumer = queue.subscribe()
        with pytest.raises(QueueEmpty):
            await consumer.aget(timeout=0.02)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(consumer.aget(), 0.05)
        queue.publish(b"x")
        assert queue.depth() == 1
        assert (await consumer.aget(timeout=5)).payload == b"x"

    asyncio.run(main())


def test_async_auto_acks_per_task_and_nacks_on_error(rig: Rig) -> None:
    dead = rig.queue("dead")
    queue = filled(rig, 3, max_retries=0, dead_letter=dead)

    async def main() -> None:
        async with queue.subscribe(ack="auto") as consumer:
            async for delivery in consumer:
                if delivery.payload == b"1":
                    raise RuntimeError("one")

    with pytest.raises(RuntimeError, match="one"):
        asyncio.run(main())
    assert queue.stats().acked == 1
    assert "RuntimeError: one" in str(dead.peek(1)[0].headers["x-error"])


def test_many_async_consumers_wait_at_once(rig: Rig) -> None:
    queues = [rig.queue(f"q{i}") for i in range(20)]

    async def main() -> list[bytes]:
        waiting = [asyncio.create_task(q.subscribe().aget(timeout=20)) for q in queues]
        await asyncio.sleep(0.1)
        for i, queue in enumerate(queues):
            queue.publish(b"%d" % i)
        return [delivery.payload for delivery in await asyncio.gather(*waiting)]

    assert asyncio.run(main()) == [b"%d" % i for i in range(20)]


def test_async_max_unsettled_waits_for_other_tasks(rig: Rig) -> None:
    queue = filled(rig, 2)

    async def main() -> None:
        consumer = queue.subscribe(max_unsettled=1)
        first = await consumer.aget()
        asyncio.get_running_loop().call_later(0.05, first.ack)
        assert (await consumer.aget(timeout=5)).payload == b"1"

    asyncio.run(main())


def test_async_max_unsettled_waits_though_the_program_has_other_threads(rig: Rig) -> None:
    queue = filled(rig, 2)
    over = threading.Event()
    other = threading.Thread(target=over.wait)

    async def main() -> None:
        consumer = queue.subscribe(max_unsettled=1)
        first = await consumer.aget()
        asyncio.get_running_loop().call_later(0.05, first.ack)
        assert (await consumer.aget(timeout=5)).payload == b"1"

    other.start()
    try:
        asyncio.run(main())
    finally:
        over.set()
        other.join()
