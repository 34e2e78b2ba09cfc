"""The command line: what it says, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from kit import ended, kill, processes_of, shm_path
from waiting import alive, wait_until

import shmq


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "shmq.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def up(broker_name: str) -> Iterator[str]:
    """A broker started by `shmq up --detach`."""
    with ended(broker_name):
        code, out, err = run("up", broker_name, "--detach")
        assert (code, err) == (0, "")
        assert broker_name in out
        yield broker_name


def test_up_detached_and_down(up: str) -> None:
    assert shmq.connect(up).list_queues() == []
    code, out, err = run("down", up)
    assert (code, err) == (0, "")
    assert "down" in out
    assert not os.path.exists(shm_path(up))


def test_up_twice_is_negative(up: str) -> None:
    code, out, err = run("up", up, "--detach")
    assert (code, out) == (1, "")
    assert "living supervisor" in err
    assert run("up", up)[0] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_in_the_foreground_until_a_signal(broker_name: str, number: int) -> None:
    with ended(broker_name):
        process = subprocess.Popen(
            [sys.executable, "-m", "shmq.cli", "up", broker_name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert "is up" in process.stdout.readline()
        broker = shmq.connect(broker_name)
        assert broker.stats().supervisor_pid == process.pid
        sidecar = broker.stats().sidecar_pid
        assert sidecar
        broker.close()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
        assert not os.path.exists(shm_path(broker_name))
        wait_until(lambda: not alive(sidecar))


def test_up_takes_over_a_broker_whose_supervisor_was_killed(up: str) -> None:
    broker = shmq.connect(up)
    broker.create_queue("orders").publish(b"kept")
    for pid in processes_of(broker):
        kill(pid)
    code, out, _ = run("status", up)
    assert code == 1
    assert "missing" in out
    assert run("up", up, "--detach")[0] == 0
    assert processes_of(broker)
    assert broker.get_queue("orders").depth() == 1


def test_up_takes_settings(broker_name: str) -> None:
    with ended(broker_name):
        options = ("--max-queue-depth", "7", "--max-retries", "1", "--default-ttl", "never")
        assert run("up", broker_name, "-d", *options, "--max-message-size", "2KB")[0] == 0
        broker = shmq.connect(broker_name)
        queue = broker.create_queue("orders")
        broker.create_queue("orders", max_depth=7, max_retries=1, ttl=None)
        with pytest.raises(shmq.MessageTooLarge):
            queue.publish(b"x" * 3000)


def test_settings_come_from_the_environment(broker_name: str) -> None:
    with ended(broker_name):
        assert run("up", broker_name, "-d", env={"SHMQ_MAX_QUEUE_DEPTH": "9"})[0] == 0
        broker = shmq.connect(broker_name)
        broker.create_queue("orders")
        broker.create_queue("orders", max_depth=9)


def test_status_shows_a_whole_broker(up: str) -> None:
    broker = shmq.connect(up)
    broker.create_queue("orders").publish(b"x")
    code, out, err = run("status", up)
    assert (code, err) == (0, "")
    assert "orders" in out
    assert "1 ready" in out
    assert str(os.getpid()) in out
    code, out, err = run("status", up, "--json")
    assert (code, err) == (0, "")
    seen = json.loads(out)
    assert seen["state"] == "up"
    assert seen["queues"][0]["name"] == "orders"
    assert {owner["role"] for owner in seen["attached"]} == {"client", "supervisor", "sidecar"}


def test_status_shows_topics_patterns_and_groups(up: str) -> None:
    broker = shmq.connect(up)
    topic = broker.create_topic("news")
    cut_off = topic.subscribe("slow", overflow="disconnect", max_depth=1)
    group = broker.create_consumer_group("workers", topic)
    with group.add_consumer("m"), broker.subscribe("news.#", "all"):
        topic.publish_many([b"x", b"y"])
        shown = [line.split(maxsplit=1) for line in run("status", up)[1].splitlines()]
    text = {line[0]: " ".join(line[1].split()) for line in shown if len(line) == 2}
    assert text["topic"] == "news 2 published, to 2 subscriptions"
    assert text["slow"] == "1 ready, 1 published, 0 acked (cut off: it was full)"
    assert text["workers"] == "2 ready, 2 published, 0 acked"
    assert text["pattern"] == "news.# all 2 ready, 2 published, 0 acked"
    assert text["group"] == f"workers on topic news: lag 2, m (pid {os.getpid()})"
    cut_off.close()


def test_stats_shows_every_figure_and_what_happens_per_second(up: str) -> None:
    broker = shmq.connect(up)
    queue = broker.create_queue("orders")
    assert run("stats", up, "--interval", "0")[0] == 2
    queue.publish_many([b"x"] * 1234)
    code, out, err = run("stats", up)
    assert (code, err) == (0, "")
    tables = [[line.split() for line in table.splitlines()] for table in out.split("\n\n")]
    now, so_far = ({row[0]: row for row in table} for table in tables)
    assert now["orders"][1:4] == ["1,234", "0", "0"]
    assert so_far["so"][2:4] == ["published", "delivered"]
    assert so_far["orders"][1:3] == ["1,234", "0"]
    broker.create_topic("news").subscribe("audit").close()
    seen = json.loads(run("stats", up, "--json")[1])
    assert seen["topics"][0]["subscriptions"][0]["subscription"] == "audit"
    over = threading.Event()

    def publish() -> None:
        while not over.wait(0.01):
            queue.publish(b"x", timeout=0)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        seen = json.loads(run("stats", up, "--interval", "300ms", "--json")[1])
        out = run("stats", up, "--interval", "300ms")[1]
    finally:
        over.set()
        thread.join()
    assert seen["rates"]["orders"]["published"] > 0
    assert seen["rates"]["/news/audit"]["published"] == 0
    (mine,) = (one for one in seen["client_rates"] if one["pid"] == os.getpid())
    assert mine["rates"]["published"] > 0
    assert f"{os.getpid()} orders" in out


def test_ls_lists_what_is_there(up: str) -> None:
    code, out, _ = run("ls")
    assert code == 0
    assert [line.split()[1:] for line in out.splitlines() if line.startswith(up)] == [["up"]]
    broker = shmq.connect(up)
    broker.create_queue("orders")
    topic = broker.create_topic("news")
    topic.subscribe("audit").close()
    broker.create_consumer_group("workers", topic)
    code, out, err = run("ls")
    assert (code, err) == (0, "")
    (line,) = (line for line in out.splitlines() if line.startswith(up))
    assert " ".join(line.split()) == f"{up} up, 1 queue, 1 topic, 2 subscriptions, 1 group"
    code, out, err = run("ls", "--json")
    assert (code, err) == (0, "")
    (seen,) = (one for one in json.loads(out) if one["name"] == up)
    assert (seen["state"], seen["queues"], seen["topics"]) == ("up", 1, 1)
    assert (seen["subscriptions"], seen["groups"]) == (2, 1)


def test_looking_does_not_keep_an_anonymous_broker_alive() -> None:
    broker = shmq.Broker()
    name = broker.name
    assert run("status", name)[0] == 0
    assert len(broker.stats().attached) == 3
    del broker
    wait_until(lambda: not os.path.exists(shm_path(name)))


def test_clean_says_what_it_would_do_and_does_it(broker_name: str) -> None:
    with ended(broker_name), open(shm_path(broker_name), "wb"):
        try:
            code, out, _ = run("clean", "--dry-run", broker_name)
            assert code == 0
            assert f"would remove {broker_name} (posix)" in out
            assert os.path.exists(shm_path(broker_name))
            code, out, _ = run("clean", broker_name)
            assert code == 0
            assert f"removed {broker_name} (posix)" in out
            assert not os.path.exists(shm_path(broker_name))
        finally:
            if os.path.exists(shm_path(broker_name)):
                os.unlink(shm_path(broker_name))


@pytest.mark.parametrize("command", ["down", "status", "stats", "metrics", "clean"])
def test_what_is_not_there_is_not_found(broker_name: str, command: str) -> None:
    code, out, err = run(command, broker_name)
    assert (code, out) == (3, "")
    assert broker_name in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("up",),
        ("up", "a/b"),
        ("up", "x" * 300),
        ("up", "name", "--max-queue-depth", "0"),
        ("up", "name", "--memory-limit", "lots"),
        ("up", "name", "--config", "/nonexistent.toml"),
        ("down", "name", "--timeout", "-1"),
    ],
)
def test_wrong_usage_is_code_2(arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["", "up", "down", "status", "ls", "stats", "metrics", "clean"])
def test_help_explains_each_command(command: str) -> None:
    code, out, err = run(*filter(None, [command]), "--help")
    assert (code, err) == (0, "")
    assert "usage: shmq" in out


def test_an_unusable_segment_is_listed_not_a_crash(broker_name: str) -> None:
    with open(shm_path(broker_name), "wb") as file:
        file.write(os.urandom(5000))
    try:
        rows = [line.split() for line in run("ls")[1].splitlines()]  # as wide as others' names
        assert [broker_name, "unusable:", "CorruptSegment"] in [row[:3] for row in rows]
        code, _, err = run("status", broker_name)
        assert code == 1
        assert "Traceback" not in err
        assert run("up", broker_name, "-d")[0] == 1
    finally:
        os.unlink(shm_path(broker_name))
