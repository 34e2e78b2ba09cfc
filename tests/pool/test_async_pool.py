"""WorkerPool with handlers that are awaited, and those that never would be."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
from jobs import to
from owner import QUICK, clients, drained, program
from waiting import WATCHDOG_S, wait_until

import shmq

KINDS: dict[str, Callable[[shmq.Queue], Any]] = {
    "function": lambda _: jobs.ahandle,
    "partial": lambda out: functools.partial(jobs.ahandle_for, out),
    "object": jobs.AsyncHandler,
    "partial of an object": lambda out: functools.partial(jobs.AsyncHandler(out)),
    "method": lambda out: jobs.AsyncHandler(out).method,
    "returns one": lambda _: jobs.returns_coroutine,
}


def begun(folder: Path, n: int) -> None:
    """Wait until ``n`` handlers have begun and wait for a go in ``folder``."""
    wait_until(lambda: len(list(folder.glob("begun-*"))) == n, f"{n} begun handlers")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("concurrency", [1, 7])
def test_whatever_can_be_awaited_is_run(broker: shmq.Broker, kind: str, concurrency: int) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    handler = KINDS[kind](out)
    sent = [b"do %03d" % i for i in range(200)]
    queue.publish_many(sent)
    with shmq.WorkerPool(queue, handler, 2, concurrency=concurrency, prefetch=5, **to(out)) as pool:
        queue.shutdown()
        assert pool.wait(60)
    assert drained(out) == sent
    assert queue.stats().acked == 200
    assert pool.deaths == []


def test_so_many_at_a_time_and_each_acked_when_its_own_is_done(
    broker: shmq.Broker, method: str, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    slow, quick = tmp_path / "slow", tmp_path / "quick"
    slow.mkdir()
    quick.mkdir()
    (quick / "go").touch()
    for i in range(3):
        queue.publish(f"wait {slow} {i}".encode())
    with shmq.WorkerPool(
        queue, jobs.ahandle, 1, concurrency=4, mp_context=method, **to(out)
    ) as pool:
        begun(slow, 3)
        for i in range(20):
            queue.publish(f"wait {quick} {i}".encode())
        wait_until(lambda: queue.stats().acked == 20)
        assert queue.stats().unsettled == 3
        for i in range(3, 7):
            queue.publish(f"wait {slow} {i}".encode())
        begun(slow, 4)
        assert list(pool.in_hand.values()) != [None]
        assert queue.stats().unsettled == 4
        assert queue.depth() == 3
        (slow / "go").touch()
        wait_until(lambda: queue.stats().acked == 27)
        wait_until(lambda: list(pool.in_hand.values()) == [None])
    assert pool.deaths == []


def test_what_is_raised_in_one_is_its_own_messages(broker: shmq.Broker) -> None:
    queue, out = broker.create_queue("q", max_retries=1, **QUICK), broker.create_queue("out")
    queue.publish(b"fail the oven is cold")
    queue.publish(b"cancel")
    queue.publish(b"reject it")
    queue.publish(b"ack it")
    queue.publish(b"do it")
    with shmq.WorkerPool(queue, jobs.ahandle, 1, concurrency=3, **to(out)) as pool:
        dead = broker.get_queue("dead")
        wait_until(lambda: dead.depth() == 3 and out.depth() == 2)
        assert pool.deaths == []
    errors = {message.payload: str(message.headers["x-error"]) for message in dead.peek(9)}
    assert errors[b"fail the oven is cold"].endswith("ValueError: the oven is cold\n")
    assert "CancelledError" in errors[b"cancel"]
    assert errors[b"reject it"] == "not mine"
    assert drained(out) == [b"ack it", b"do it"]


def test_stop_finishes_all_that_is_in_hand_and_leaves_the_rest(
    broker: shmq.Broker, method: str, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q", max_retries=0, **QUICK), broker.create_queue("out")
    for i in range(20):
        queue.publish(f"wait {tmp_path} {i}".encode())
    pool = shmq.WorkerPool(
        queue, jobs.ahandle, 2, mp_context=method, prefetch=3, concurrency=4, **to(out)
    )
    pool.start()
    begun(tmp_path, 8)
    (tmp_path / "go").touch()
    assert pool.stop()
    assert out.depth() + queue.depth() == 20
    assert out.depth() >= 8
    assert broker.get_queue("dead").depth() == 0
    assert pool.deaths == []


def test_an_idle_pool_stops_at_once(broker: shmq.Broker) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    with shmq.WorkerPool(queue, jobs.ahandle, 2, concurrency=4, **to(out)) as pool:
        queue.publish(b"do it")
        wait_until(lambda: out.depth() == 1)
        assert pool.stop()
    assert pool.deaths == []
    assert queue.stats().unsettled == 0


def test_stop_with_a_timeout_cancels_what_takes_longer_and_gives_it_back(
    broker: shmq.Broker, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    for i in range(3):
        queue.publish(f"wait {tmp_path} {i}".encode())
    pool = shmq.WorkerPool(queue, jobs.ahandle, 1, concurrency=5, **to(out))
    pool.start()
    begun(tmp_path, 3)
    assert not pool.stop(timeout=0.05)
    assert len(list(tmp_path.glob("over-*"))) == 3  # their `finally` has run
    assert out.depth() == 0
    assert [delivery.attempt for delivery in queue.subscribe().get_many(9, 60)] == [2, 2, 2]
    assert pool.deaths == []


def test_a_worker_that_dies_gives_all_it_has_to_another(
    broker: shmq.Broker, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    for i in range(3):
        queue.publish(f"wait {tmp_path} {i}".encode())
    with shmq.WorkerPool(queue, jobs.ahandle, 1, concurrency=3, **to(out)) as pool:
        begun(tmp_path, 3)
        os.kill(pool.pids[0], signal.SIGKILL)
        wait_until(lambda: len(pool.deaths) == 1)
        (tmp_path / "go").touch()
        wait_until(lambda: out.depth() == 3)
        wait_until(lambda: queue.stats().acked == 3)


def signals_pending(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [line.split()[1] for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(int(mask, 16) for mask in masks)


RUN = """
import signal, sys, jobs, shmq

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    name, method = sys.argv[1:3]
    broker = shmq.connect(name)
    pool = shmq.WorkerPool(
        broker.get_queue("q"), jobs.ahandle, 2, mp_context=method, concurrency=2,
        **jobs.to(broker.get_queue("out")),
    )
    print("finished", pool.run(), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("twice", [False, True])
def test_the_first_signal_finishes_and_the_second_gives_back(
    broker: shmq.Broker, method: str, number: signal.Signals, twice: bool, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    for i in range(9):
        queue.publish(f"wait {tmp_path} {i}".encode())
    with program(tmp_path, RUN, broker.name, method) as owner:
        begun(tmp_path, 4)
        send = os.killpg if number == signal.SIGINT else os.kill
        send(owner.pid, number)
        deadline = time.monotonic() + WATCHDOG_S
        if not twice:
            (tmp_path / "go").touch()
        while twice and owner.poll() is None:
            send(owner.pid, number)
            try:
                owner.wait(0.1)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline
        output, err = owner.communicate(timeout=WATCHDOG_S)
    assert (output, owner.returncode) == (f"finished {not twice}\n", 0), err
    assert err == ""
    assert out.depth() + queue.depth() == 9
    assert out.depth() == (0 if twice else len(list(tmp_path.glob("begun-*"))))
    assert queue.stats().unsettled == 0


def test_workers_whose_owner_is_killed_finish_what_they_have(
    broker: shmq.Broker, method: str, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    for i in range(9):
        queue.publish(f"wait {tmp_path} {i}".encode())
    with program(tmp_path, RUN, broker.name, method) as owner:
        begun(tmp_path, 4)
        workers = clients(broker) - {os.getpid(), owner.pid}
        owner.kill()
        owner.wait()
        # They have heard of its death: what is in hand is finished all the same.
        wait_until(lambda: not any(map(signals_pending, workers)), "the workers' handlers")
        (tmp_path / "go").touch()
    assert len(workers) == 2
    wait_until(lambda: clients(broker) == {os.getpid()}, "the end of the workers")
    assert out.depth() == len(list(tmp_path.glob("begun-*")))
    assert out.depth() + queue.depth() == 9


# ---- what is refused ------------------------------------------------------------------------------


class Generating:
    def __call__(self, delivery: shmq.Delivery) -> Iterator[int]:
        yield 1

    async def method(self, delivery: shmq.Delivery) -> Any:
        yield 1


@pytest.mark.parametrize(
    "handler",
    [
        jobs.generator, jobs.async_generator, functools.partial(jobs.generator), Generating(),
        Generating().method, functools.partial(Generating()),
    ],
)  # fmt: skip
def test_generators_are_refused_at_the_start(broker: shmq.Broker, handler: Any) -> None:
    queue = broker.create_queue("q")
    with pytest.raises(TypeError, match="a generator, of which a call runs nothing"):
        shmq.WorkerPool(queue, handler)


def test_a_generator_that_is_only_returned_nacks(broker: shmq.Broker) -> None:
    queue = broker.create_queue("q", max_retries=0, **QUICK)
    queue.publish(b"x")
    for concurrency in (1, 2):
        with shmq.WorkerPool(queue, jobs.returns_generator, 1, concurrency=concurrency):
            dead = broker.get_queue("dead").subscribe().get(60)
            assert "a generator, of which a call runs nothing" in str(dead.headers["x-error"])
            dead.ack()
        queue.publish(b"x")


def test_initializers_and_listeners_that_would_not_run_are_refused(broker: shmq.Broker) -> None:
    queue = broker.create_queue("q")
    with pytest.raises(TypeError, match="of which a call runs nothing"):
        shmq.WorkerPool(queue, jobs.handle, initializer=jobs.ainitializer)
    with pytest.raises(TypeError, match="of which a call runs nothing"):
        shmq.WorkerPool(queue, jobs.handle, on_death=jobs.ainitializer)
    with pytest.raises(TypeError, match="of which a call runs nothing"):
        shmq.Executor(1, initializer=jobs.ainitializer)
    with pytest.raises(shmq.InvalidOption, match="concurrency"):
        shmq.WorkerPool(queue, jobs.ahandle, concurrency=0)
