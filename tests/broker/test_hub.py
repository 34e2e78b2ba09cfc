"""Many coroutines wait for many queues, under asyncio and trio: few threads, nobody forgotten, nothing lost by cancelling."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import platform
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from kit import ended, program
from test_refused_calls import REFUSE
from waiting import wait_until

import shmq
from shmq._aio import ITEMS
from shmq._client import client_of, context_of, record_of
from shmq._hub import hub
from shmq._native import lib

pytestmark = pytest.mark.skipif(
    not lib.shmq_waits_many(), reason="this kernel cannot wait for many words"
)

ROW = int(lib.SHMQ_WAIT_MANY)


def hubs() -> int:
    """Return how many threads of the hub live."""
    return sum(thread.name == "shmq-hub" for thread in threading.enumerate())


def no_hubs() -> bool:
    return hubs() == 0


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """Runs a coroutine function, under either."""
    if request.param == "asyncio":
        return lambda main: asyncio.run(main())  # type: ignore[arg-type]
    return pytest.importorskip("trio").run  # type: ignore[no-any-return]


async def gather(waits: Sequence[Callable[..., Awaitable[Any]]]) -> list[Any]:
    """Await all of ``waits`` at a time; return what they return."""
    found: list[Any] = [None] * len(waits)

    async def one(i: int) -> None:
        found[i] = await waits[i]()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio

        async with trio.open_nursery() as nursery:
            for i in range(len(waits)):
                nursery.start_soon(one, i)
    else:
        await asyncio.gather(*(one(i) for i in range(len(waits))))
    return found


def test_waits_for_many_queues_share_few_threads(
    broker: shmq.Broker, run: Callable[..., Any]
) -> None:
    queues = [broker.create_queue(f"q{i}", max_depth=8) for i in range(2 * ROW + 10)]
    consumers = [queue.subscribe(ack="none") for queue in queues]
    most = []

    def publish() -> None:
        wait_until(lambda: sum(q.stats().sleeps > 0 for q in queues) == len(queues))
        most.append(hubs())
        for i, queue in enumerate(queues):
            for j in range(2):
                queue.publish(b"%d %d" % (i, j))

    async def main() -> list[Any]:
        publisher = threading.Thread(target=publish)
        publisher.start()
        waits = [lambda c=c: c.aget(timeout=50) for c in consumers for _ in range(2)]
        return await gather(waits)

    payloads = sorted(delivery.payload for delivery in run(main))
    assert payloads == sorted(b"%d %d" % (i, j) for i in range(len(queues)) for j in range(2))
    assert most == [math.ceil(len(queues) / ROW)]
    wait_until(no_hubs, "the end of threads that have nothing to do")


def test_a_wait_ends_at_its_timeout(broker: shmq.Broker, run: Callable[..., Any]) -> None:
    consumer = broker.create_queue("q").subscribe()

    async def main() -> None:
        start = time.monotonic()
        with pytest.raises(shmq.QueueEmpty):
            await consumer.aget(timeout=0.05)
        assert time.monotonic() - start >= 0.05

    run(main)


def test_who_closes_a_consumer_ends_its_waits(broker: shmq.Broker, run: Callable[..., Any]) -> None:
    queue = broker.create_queue("q")
    consumer, other = queue.subscribe(ack="none"), queue.subscribe(ack="none")

    def close() -> None:
        wait_until(lambda: queue.stats().sleeps)
        consumer.close()
        queue.publish(b"for the other")

    async def closed() -> bool:
        with pytest.raises(shmq.QueueClosed):
            await consumer.aget()
        return True

    async def main() -> list[Any]:
        threading.Thread(target=close).start()
        return await gather([closed, closed, lambda: other.aget(timeout=50)])

    assert run(main)[2].payload == b"for the other"


def test_publishers_wait_for_room(broker: shmq.Broker, run: Callable[..., Any]) -> None:
    queues = [broker.create_queue(f"q{i}", max_depth=1) for i in range(20)]
    topic = broker.create_topic("t")
    subscription = topic.subscribe("s", max_depth=1)
    for target in (*queues, topic):
        target.publish(b"first")

    def take() -> None:
        wait_until(hubs)
        for queue in queues:
            consumer = queue.subscribe(ack="none")
            for want in (b"first", b"second", b"third"):
                assert consumer.get(timeout=50).payload == want
        for want in (b"first", b"second"):
            delivery = subscription.get(timeout=50)
            assert delivery.payload == want
            delivery.ack()

    async def main() -> list[Any]:
        taker = threading.Thread(target=take)
        taker.start()
        waits = [lambda q=q: q.apublish_many([b"second", b"third"], timeout=50) for q in queues]
        return await gather([*waits, lambda: topic.apublish(b"second", timeout=50)])

    assert run(main)[: len(queues)] == [2] * len(queues)

    async def full() -> None:
        topic.publish(b"third")
        for target in (topic, broker.create_queue("small", max_depth=2)):
            with pytest.raises(shmq.QueueFull):
                await target.apublish_many([b"1", b"2", b"3", b"4"], timeout=0.05)

    wait_until(lambda: subscription.queue.depth() == 0)
    run(full)


def test_get_many_and_publish_many_do_not_block_the_loop(
    broker: shmq.Broker, run: Callable[..., Any]
) -> None:
    queue = broker.create_queue("q", max_depth=300)
    consumer = queue.subscribe()

    async def main() -> None:
        assert await queue.apublish_many(b"%d" % i for i in range(300)) == 300
        found = await consumer.aget_many(200)
        assert [d.payload for d in found] == [b"%d" % i for i in range(200)]
        assert consumer.ack_many(found) == 200
        found = await consumer.aget_many(200, timeout=1)
        assert len(found) == 100
        with pytest.raises(shmq.QueueEmpty):
            await consumer.aget_many(1, timeout=0.01)
        with pytest.raises(shmq.InvalidOption):
            await consumer.aget_many(0)

        def fails() -> Any:
            yield b"goes"
            raise KeyError("what came before it goes all the same")

        with pytest.raises(KeyError):
            await queue.apublish_many(fails())
        assert (await consumer.aget()).payload == b"goes"
        with pytest.raises(shmq.QueueFull, match="after 300 messages"):
            await queue.apublish_many((b"x" for _ in range(400)), timeout=0.01)

    run(main)


def test_cancelling_loses_nothing(broker: shmq.Broker) -> None:
    """Waits are cancelled at random, told or not, while messages come; each message gets to one of those that stay."""
    queues = [broker.create_queue(f"q{i}") for i in range(10)]
    consumers = [queue.subscribe(ack="none") for queue in queues]
    n = 2000
    got: list[int] = []
    rnd = random.Random(7)

    def publish() -> None:
        for i in range(n):
            rnd_queue = queues[i * 7 % len(queues)]
            rnd_queue.publish(b"%d" % i)
            if i % 20 == 0:
                time.sleep(0.0005)

    async def main() -> int:
        publisher = threading.Thread(target=publish)
        publisher.start()
        cancelled = 0
        waits: set[asyncio.Task[Any]] = set()
        while len(got) < n:
            while len(waits) < 40:
                waits.add(asyncio.create_task(rnd.choice(consumers).aget(timeout=50)))
            await asyncio.sleep(0)
            for task in rnd.sample(sorted(waits, key=id), 4):
                if not task.done():
                    task.cancel()
                    cancelled += 1
            done, waits = await asyncio.wait(waits, timeout=0.002)
            got.extend(int(task.result().payload) for task in done if not task.cancelled())
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return cancelled

    assert asyncio.run(main()) > 100
    assert sorted(got) == list(range(n))
    assert sum(queue.depth() for queue in queues) == 0


def test_a_cancelled_wait_passes_its_message_on_to_another_process(
    broker: shmq.Broker, broker_name: str
) -> None:
    """Of several processes that wait for one queue each message wakes one; if that one does not want it, the next is woken."""
    queue = broker.create_queue("q")
    source = """
    import asyncio
    consumer = shmq.connect(name).get_queue("q").subscribe(ack="none")
    async def main():
        say("waits")
        for i in range(200):
            task = asyncio.create_task(consumer.aget())
            await asyncio.sleep(0.001)
            if sys.argv[2] == "fickle":
                task.cancel()
            try:
                delivery = await asyncio.wait_for(task, 50)
            except asyncio.CancelledError:
                continue
            say(delivery.payload.decode())
            if delivery.payload == b"end":
                return
    asyncio.run(main())
    say("ends")
    """
    with (
        program(source, broker_name, "fickle") as fickle,
        program(source, broker_name, "true") as true,
    ):
        assert (fickle.line(), true.line()) == ("waits", "waits")
        got = []
        for i in range(100):
            queue.publish(b"%d" % i)
            wait_until(lambda: queue.depth() == 0)
        while (line := fickle.line()) != "ends":
            got.append(int(line))
        queue.publish(b"end")
        while (line := true.line()) != "end":
            got.append(int(line))
    assert sorted(got) == list(range(100))


def test_event_loops_in_several_threads_share_the_hub(broker: shmq.Broker) -> None:
    queues = [broker.create_queue(f"q{i}") for i in range(8)]
    found: list[bytes] = []

    def loop(queue: shmq.Queue) -> None:
        async def main() -> None:
            consumer = queue.subscribe(ack="none")
            for _ in range(50):
                delivery = await consumer.aget(timeout=50)
                found.append(delivery.payload)

        asyncio.run(main())

    threads = [threading.Thread(target=loop, args=(q,)) for q in queues for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(100):
        for queue in queues:
            queue.publish(b"%d" % i)
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(b"%d" % i for i in range(100) for _ in queues)
    assert hubs() <= 1


def test_an_event_loop_that_is_busy_keeps_no_message_from_others(broker: shmq.Broker) -> None:
    queue = broker.create_queue("q")
    consumer = queue.subscribe(ack="none")
    over = threading.Event()

    async def is_told_and_does_not_look() -> None:
        wait = asyncio.create_task(consumer.aget())
        await asyncio.sleep(0)
        await asyncio.to_thread(wait_until, lambda: queue.stats().sleeps)
        queue.publish(b"x")
        over.wait(50)  # the loop stands still
        wait.cancel()

    async def main() -> bytes:
        return (await consumer.aget(timeout=50)).payload

    busy = threading.Thread(target=lambda: asyncio.run(is_told_and_does_not_look()))
    busy.start()
    try:
        wait_until(queue.depth)
        assert asyncio.run(main()) == b"x"
        publisher = threading.Timer(0.05, lambda: queue.publish(b"y"))
        publisher.start()
        assert asyncio.run(main()) == b"y"
    finally:
        over.set()
        busy.join()


def test_a_loop_that_ended_keeps_no_message_from_others(broker: shmq.Broker) -> None:
    queue = broker.create_queue("q")
    consumer = queue.subscribe(ack="none")
    loop = asyncio.new_event_loop()
    task = loop.create_task(consumer.aget())
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()  # nobody cancels it
    queue.publish(b"x")

    async def main() -> bytes:
        return (await consumer.aget(timeout=50)).payload

    assert asyncio.run(main()) == b"x"
    queue.publish(b"y")
    assert asyncio.run(main()) == b"y"
    del task


def test_a_wait_that_was_lost_keeps_no_message_from_others(broker: shmq.Broker) -> None:
    """As by a handler that raises before anybody has kept it."""
    queue = broker.create_queue("q")
    consumer = queue.subscribe(ack="none")
    told: list[object] = []
    client, qref = client_of(consumer), record_of(consumer)
    hub().wait(
        client, context_of(consumer), qref, ITEMS, lambda f, tells: f(tells), lambda: told.append(1)
    )

    async def main() -> bytes:
        publisher = threading.Timer(0.05, lambda: queue.publish(b"x"))
        publisher.start()
        return (await consumer.aget(timeout=50)).payload

    assert asyncio.run(main()) == b"x"
    assert told == [1]


def test_a_forked_child_waits_with_a_hub_of_its_own(broker: shmq.Broker) -> None:
    queue, answers = broker.create_queue("q"), broker.create_queue("answers")
    consumer = queue.subscribe(ack="none")

    async def one() -> bytes:
        return (await consumer.aget(timeout=50)).payload

    queue.publish(b"parent")
    assert asyncio.run(one()) == b"parent"

    async def wait_in_vain() -> None:
        with pytest.raises(shmq.QueueEmpty):
            await consumer.aget(timeout=0.01)

    asyncio.run(wait_in_vain())
    assert hubs() == 1
    sleeps = queue.stats().sleeps
    child = os.fork()
    if child == 0:
        try:
            own = queue.subscribe(ack="none")
            answers.publish(b"ready")

            async def wait() -> None:
                answers.publish((await own.aget(timeout=50)).payload + b" %d" % hubs())

            asyncio.run(wait())
        finally:
            os._exit(0)
    taker = answers.subscribe(ack="none")
    assert taker.get(timeout=50).payload == b"ready"
    wait_until(lambda: queue.stats().sleeps > sleeps)
    queue.publish(b"child")
    assert taker.get(timeout=50).payload == b"child 1"
    os.waitpid(child, 0)


FALLBACK = """
import asyncio
from shmq._aio import works
assert not works()
with shmq.Broker(name) as broker:
    queues = [broker.create_queue(f"q{i}", max_depth=1) for i in range(20)]
    async def main():
        consumers = [queue.subscribe(ack="none") for queue in queues]
        waits = [asyncio.create_task(consumer.aget(timeout=50)) for consumer in consumers]
        cancelled = asyncio.create_task(consumers[0].aget())
        await asyncio.sleep(0.05)
        cancelled.cancel()
        for queue in queues:
            await queue.apublish_many([b"1", b"2"], timeout=50) if queue is queues[1] else await queue.apublish(b"1")
        assert [d.payload for d in await asyncio.gather(*waits)] == [b"1"] * 20
        return (await consumers[1].aget(timeout=50)).payload
    assert asyncio.run(main()) == b"2"
say("fine")
"""


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_without_futex_waitv_each_wait_has_a_thread(broker_name: str, error: int) -> None:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the number of futex_waitv is not known here")
    with ended(broker_name), program(REFUSE + FALLBACK, broker_name, "[449]", str(error)) as run:
        assert run.finish() == (0, "fine\n", "")


REFUSED_LATER = """
import asyncio
from shmq import _aio
with shmq.Broker(name) as broker:
    queue = broker.create_queue("q")
    async def main():
        consumer = queue.subscribe(ack="none")
        wait = asyncio.create_task(consumer.aget(timeout=50))
        while not queue.stats().sleeps:
            await asyncio.sleep(0.01)
        refuse([449], 1)
        while _aio.works():
            await asyncio.sleep(0.01)
        queue.publish(b"x")
        assert (await wait).payload == b"x"
    asyncio.run(main())
say("fine")
"""


def test_a_process_that_forbids_itself_futex_waitv_goes_on(broker_name: str) -> None:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the number of futex_waitv is not known here")
    source = REFUSE.replace(
        "refuse(eval", "0 and refuse(eval"
    ).replace(
        "libc.prctl(22, 2, ctypes.byref(filter), 0, 0)",
        "libc.syscall(317 if os.uname().machine == 'x86_64' else 277, 1, 1, ctypes.byref(filter))",  # all threads
    )
    with ended(broker_name), program(source + REFUSED_LATER, broker_name, "[]", "1") as run:
        assert run.finish() == (0, "fine\n", "")


ENDS = """
import asyncio, threading
q, r = [shmq.connect(name).get_queue(x).subscribe(ack="none") for x in "qr"]
async def main():
    try:
        await q.aget(timeout=0.01)
    except shmq.QueueEmpty:
        pass
asyncio.run(main())
if sys.argv[2] == "waits":
    before = r.queue.stats().sleeps
    threading.Thread(target=lambda: asyncio.run(r.aget()), daemon=True).start()
    while r.queue.stats().sleeps == before:
        time.sleep(0.001)
"""


@pytest.mark.parametrize("how", ["lingers", "waits"])
def test_a_program_ends_in_silence_whatever_the_hub_does(
    broker: shmq.Broker, broker_name: str, how: str
) -> None:
    broker.create_queue("q")
    broker.create_queue("r")
    for _ in range(3):
        with program(ENDS, broker_name, how) as run:
            assert run.finish() == (0, "", "")
