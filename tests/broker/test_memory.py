"""What a broker takes of a machine that has little: small file systems, little address space."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq._segment.space import Limits, bytes_of

MIB = 1 << 20
SMALL: dict[str, Any] = {"memory_limit": "16MB", "max_queues": 8, "max_processes": 8}


def run(source: str, *words: str, limit: int | None = None) -> str:
    """Run a program in a process of its own, with so much address space; return what it says."""
    program = subprocess.run(
        [*words, sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd="/",
        preexec_fn=None
        if limit is None
        else lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert program.returncode == 0, program.stdout + program.stderr
    return program.stdout


# ---- a file system of 64 MB, as Docker's /dev/shm ------------------------------------------------

BURSTS = """
import os, sys, time
import shmq

def wait_until(condition, what):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)

def fill(queue, size, most=10**9):
    done = 0
    try:
        while done < most:
            queue.publish(bytes(size))
            done += 1
    except shmq.OutOfSharedMemory:
        pass
    return done

def drain(queue):
    with queue.subscribe(ack="none") as consumer:
        while queue.depth():
            consumer.get_many(10_000, timeout=1)

# anonymous ones: they end with this process, however that ends
one = shmq.Broker(max_message_size="32MB", default_ttl=None)
bulk = one.create_queue("bulk", max_depth=1_000_000)
for size, most in ((40, 350_000), (200, 120_000), (900, 25_000)):
    assert fill(bulk, size, most) > 20_000
    drain(bulk)
"""


def on_64_mb(source: str) -> str:
    """Run a program with a /dev/shm of 64 MB, after three drained bursts of small messages."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounts a file system of its own: needs root")
    mount = 'mount -t tmpfs -o size=64m tmpfs /dev/shm || exit 77; exec "$0" "$@"'
    words = ("unshare", "-m", "--propagation", "private", "sh", "-c", mount)
    try:
        return run(BURSTS + textwrap.dedent(source), *words)
    except AssertionError:
        if subprocess.run([*words, "true"], check=False).returncode == 77:
            pytest.skip("may not mount a file system")
        raise


@pytest.mark.timeout(120)
def test_after_bursts_of_small_messages_an_empty_queue_takes_messages_of_any_size() -> None:
    on_64_mb(
        """
        with bulk.subscribe(ack="none") as consumer:
            for size in (2_000, 15_000, 60_000, 250_000, 1_000_000, 8_000_000, 20_000_000):
                bulk.publish(bytes(size))
                assert len(consumer.get(timeout=5).payload) == size
        one.shutdown(timeout=0)
        """
    )


@pytest.mark.timeout(120)
def test_after_a_burst_its_memory_serves_another_broker_within_seconds() -> None:
    on_64_mb(
        """
        fill(bulk, 40)
        drain(bulk)
        # nobody asks the first broker for anything any more: its sidecar gives the memory back
        two = shmq.Broker(max_message_size="32MB")
        queue = two.create_queue("q")
        def taken():
            try:
                return queue.publish(bytes(15_000_000)) or True
            except shmq.OutOfSharedMemory:
                return False
        wait_until(taken, "memory for the second broker")
        two.shutdown(timeout=0)
        one.shutdown(timeout=0)
        """
    )


@pytest.mark.timeout(120)
def test_on_a_file_system_full_of_queued_messages_all_that_must_not_fail_works() -> None:
    on_64_mb(
        """
        work = one.create_queue("work", dead_letter="dead", max_retries=1, retry_backoff="1ms", priorities=3)
        dead = one.get_queue("dead")
        for i in range(100):
            work.publish(b"%d" % i)
        assert fill(bulk, 900) > 10_000
        two = shmq.Broker()          # another broker starts
        other = two.create_queue("q")
        fill(other, 900)                                   # and takes what there may still be
        three = shmq.Broker()
        three.create_queue("q")

        children = []
        for n in range(10):                                # new consumers attach
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    with shmq.connect(one.name).get_queue("work").subscribe() as consumer:
                        for _ in range(2):                 # what is nacked comes back, then dies
                            delivery = consumer.get(timeout=20)
                            delivery.nack(delay=0.001)
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * len(children)
        with work.subscribe() as consumer:
            while dead.depth() < 100:                      # some may be on their way between two looks
                try:
                    for delivery in consumer.get_many(100, timeout=0.1):
                        delivery.nack(delay=0)
                except shmq.QueueEmpty:
                    pass
        wait_until(lambda: dead.depth() == 100, f"dead letters: {dead.depth()}")
        with dead.subscribe(ack="auto") as consumer:       # what is settled makes room,
            for _ in range(64):
                consumer.get(timeout=5)
        work.publish(b"high", priority=2)                  # and a level that was never used opens
        with work.subscribe() as consumer:
            assert consumer.get(timeout=5).payload == b"high"
        for broker in (three, two, one):
            broker.shutdown(timeout=0)
        """
    )


# ---- address space ---------------------------------------------------------------------------------


def test_a_segment_takes_as_much_address_space_as_its_limits_need(broker_name: str) -> None:
    with shmq.Broker(broker_name, **SMALL) as broker:
        stats = broker.stats()
        assert stats.memory_reserved <= 256 * MIB
        assert stats.memory_reserved == bytes_of(Limits(16 * MIB, 8, 8), MIB)
        queues = [broker.create_queue(f"q{i}") for i in range(8)]
        for queue in queues:
            queue.publish(b"x")
        with pytest.raises(shmq.LimitReached, match="larger max_queues"):
            broker.create_queue("more")


def test_as_many_processes_as_asked_for_may_attach(broker_name: str) -> None:
    with shmq.Broker(broker_name, **{**SMALL, "max_processes": 4}) as broker:
        attach = "import shmq, sys; b = shmq.connect(sys.argv[1]); print('in', flush=True); input()"
        one = subprocess.Popen(
            [sys.executable, "-c", attach, broker_name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert one.stdout is not None
        assert one.stdout.readline() == "in\n"
        late = subprocess.run(
            [sys.executable, "-c", attach, broker_name], capture_output=True, text=True, check=False
        )
        assert "LimitReached" in late.stderr
        assert "larger max_processes" in late.stderr
        one.communicate("\n")
        assert broker.stats().attached


@pytest.mark.timeout(100)
def test_brokers_work_where_a_process_has_2_gib_of_address_space() -> None:
    said = run(
        """
        import os, shmq, shmq.mp as mp
        with shmq.Broker() as broker:                        # defaults follow the limit
            queue = broker.create_queue("q", dead_letter="dead", max_retries=0)
            queue.publish(b"x")
            if os.fork() == 0:
                with shmq.connect(broker.name).get_queue("q").subscribe() as consumer:
                    consumer.get(timeout=20).nack(delay=0)
                os._exit(0)
            assert os.wait()[1] == 0
            with broker.get_queue("dead").subscribe() as consumer:
                print(consumer.get(timeout=20).payload)
        with shmq.Broker(memory_limit="16MB", max_queues=16, max_processes=16) as small:
            small.create_queue("q").publish(b"x")
        queue = mp.Queue()
        queue.put(["home"])
        print(queue.get(timeout=20))
        """,
        limit=2 << 30,
    )
    assert said == "b'x'\n['home']\n"


def test_what_does_not_fit_is_refused_with_the_numbers_and_the_way_out() -> None:
    said = run(
        """
        import shmq
        for settings in ({"memory_limit": "1GB"}, {"max_processes": 1024, "memory_limit": "500MB"}):
            try:
                shmq.Broker(**settings)
            except shmq.StorageError as error:
                print(error)
        """,
        limit=2 << 30,
    )
    first, second = said.splitlines()
    assert "2,147,483,648 bytes (`ulimit -v`)" in first
    assert f"{bytes_of(Limits(1 << 30, 16, 16), MIB):,} bytes" in first
    for text in (first, second):
        for way in ("memory_limit", "max_queues", "max_processes", "`ulimit -v`"):
            assert way in text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_broker_works_under_valgrind() -> None:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("needs valgrind")
    said = run(
        """
        import shmq
        with shmq.Broker() as broker:
            queue = broker.create_queue("q")
            queue.publish(b"x")
            with queue.subscribe() as consumer:
                print(consumer.get(timeout=60).payload)
        """,
        valgrind,
        "-q",
        "--tool=none",
    )
    assert said == "b'x'\n"


# ---- settings ---------------------------------------------------------------------------------------


def test_the_limits_may_be_given_on_the_command_line(broker_name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "shmq.cli", "up", broker_name, "--detach"]
    words += ["--memory-limit", "16MB", "--max-queues", "3", "--max-processes", "9"]
    subprocess.run(words, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    broker = shmq.connect(broker_name)
    try:
        assert broker.stats().memory_reserved == bytes_of(Limits(16 * MIB, 3, 9), MIB)
    finally:
        broker.shutdown(timeout=0)


def test_memory_limit_bounds_all_size_classes_together_and_says_so(broker_name: str) -> None:
    with shmq.Broker(broker_name, **SMALL) as broker:
        queue = broker.create_queue("q")
        published = 0
        with pytest.raises(shmq.OutOfSharedMemory, match=r"memory_limit, 16,777,216 bytes, in use"):
            while True:
                for size in (40, 900, 15_000, 200_000, 900_000):
                    queue.publish(bytes(size), timeout=0)
                    published += size
        assert published <= 16 * MIB
        queue.purge()
        queue.publish(bytes(1_000_000))
