"""Graceful ends: whichever part is told to end, work in hand is finished or given back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from kit import Program, ended, processes_of, program
from waiting import wait_until

import shmq

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])

WORKER = """
    broker = shmq.connect(name)
    done = 0
    with broker.get_queue("orders").subscribe() as consumer:
        say("ready")
        for delivery in consumer:
            say("took")
            time.sleep(float(sys.argv[2]))
            delivery.ack()
            done += 1
    say(f"done {done}")
"""


@contextlib.contextmanager
def served(name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A broker in the foreground, as a service manager runs it."""
    with ended(name):
        process = subprocess.Popen(
            [sys.executable, "-m", "shmq.cli", "up", name, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert "is up" in process.stdout.readline()
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


def last_words(worker: Program) -> str:
    code, out, err = worker.finish()
    assert (code, err) == (0, "")
    return out.rstrip("\n").rpartition("\n")[2]


def publish(name: str, n: int, delay: float | None = None) -> None:
    broker = shmq.connect(name)
    queue = broker.create_queue("orders")
    for _ in range(n):
        queue.publish(b"x", delay=delay)
    broker.close()


@SIGNALS
def test_consumers_at_work_finish_what_is_queued(broker_name: str, number: int) -> None:
    with served(broker_name) as up:
        publish(broker_name, 100)
        with program(WORKER, broker_name, "0.005") as worker:
            assert worker.line() == "ready"
            assert worker.line() == "took"
            up.send_signal(number)
            assert up.wait(timeout=30) == 0
            assert last_words(worker) == "done 100"


def test_a_delivery_in_hand_is_waited_for(broker_name: str) -> None:
    with served(broker_name) as up:
        publish(broker_name, 1)
        with program(WORKER, broker_name, "0.7") as worker:
            worker.line()
            assert worker.line() == "took"
            start = time.monotonic()
            up.send_signal(signal.SIGTERM)
            assert up.wait(timeout=30) == 0
            assert time.monotonic() - start > 0.4
            assert last_words(worker) == "done 1"


def test_one_who_never_settles_is_waited_for_until_the_timeout(broker_name: str) -> None:
    with served(broker_name, "--shutdown-timeout", "300ms") as up:
        publish(broker_name, 1)
        with program(WORKER, broker_name, "60") as worker:
            worker.line()
            worker.line()
            start = time.monotonic()
            up.send_signal(signal.SIGTERM)
            assert up.wait(timeout=30) == 0
            assert 0.3 <= time.monotonic() - start < 10


def test_loops_end_although_delayed_messages_are_left(broker_name: str) -> None:
    with served(broker_name) as up:
        publish(broker_name, 1)
        publish(broker_name, 1, delay=3600)
        with program(WORKER, broker_name, "0") as worker:
            worker.line()
            worker.line()
            up.send_signal(signal.SIGTERM)
            assert up.wait(timeout=30) == 0
            assert last_words(worker) == "done 1"


def test_asyncio_loops_end_as_well(broker_name: str) -> None:
    with served(broker_name) as up:
        publish(broker_name, 3)
        publish(broker_name, 1, delay=3600)
        source = """
            import asyncio
            async def work():
                done = 0
                async with shmq.connect(name).get_queue("orders").subscribe() as consumer:
                    async for delivery in consumer:
                        delivery.ack()
                        done += 1
                        if done == 3: say("took")
                say(f"done {done}")
            asyncio.run(work())
        """
        with program(source, broker_name) as worker:
            assert worker.line() == "took"
            up.send_signal(signal.SIGTERM)
            assert up.wait(timeout=30) == 0
            assert last_words(worker) == "done 3"


def test_intake_stops_at_once(broker_name: str) -> None:
    with served(broker_name) as up:
        publish(broker_name, 1)
        source = """
            queue = shmq.connect(name).get_queue("orders")
            n = 0
            try:
                while True:
                    queue.publish(b"y", timeout=20)
                    n += 1
                    if n == 10: say("publishing")
                    time.sleep(0.001)
            except (shmq.QueueClosed, shmq.BrokerNotRunning):
                say("refused")
        """
        with program(source, broker_name) as producer:
            assert producer.line() == "publishing"
            up.send_signal(signal.SIGTERM)
            assert producer.line() == "refused"
            assert up.wait(timeout=30) == 0


def test_a_sidecar_that_is_told_to_end_is_replaced_and_nothing_is_lost(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        for i in range(50):
            queue.publish(b"%d" % i, delay=0.3 + i / 100)
        _, sidecar = processes_of(broker)
        time.sleep(0.4)
        os.kill(sidecar, signal.SIGTERM)
        wait_until(lambda: broker.stats().sidecar_pid not in (None, sidecar), "another sidecar")
        with queue.subscribe() as consumer:
            found = sorted(int(consumer.get(timeout=20).payload) for _ in range(50))
            assert found == list(range(50))


def test_a_consumer_told_to_end_gives_back_what_it_has(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish_many([b"x"] * 20)
        source = """
            def end(*_): raise SystemExit(0)
            signal.signal(signal.SIGTERM, end)
            with shmq.connect(name).get_queue("orders").subscribe(prefetch=8) as consumer:
                for delivery in consumer:
                    say("took")
                    time.sleep(60)
        """
        with program(source, broker_name) as worker:
            assert worker.line() == "took"
            worker.process.terminate()
            assert worker.finish()[0] == 0
        wait_until(lambda: queue.stats().ready == 20, "all of them")
