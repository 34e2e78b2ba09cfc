"""What the command line prints: nothing that a name holds reaches the terminal raw."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kit import cli, shm_path

import shmq

NASTY = "a\x1b[31mred\nforged  up\r\x07\u202egnp\u200b\x9b1m"


def assert_plain(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert not any(line.startswith("forged") for line in text.split("\n"))


def test_nothing_that_a_name_holds_reaches_the_terminal_raw(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue(NASTY)
        queue.publish(b"x")
        topic = broker.create_topic(f"topic{NASTY}")
        topic.subscribe(f"sub{NASTY}").close()
        group = broker.create_consumer_group(f"group{NASTY}", queue)
        with group.add_consumer(f"member{NASTY}"):
            command: tuple[str, ...]
            for command in (
                ("status", broker_name),
                ("stats", broker_name),
                ("stats", broker_name, "--interval", "10ms"),
                ("metrics", broker_name),
            ):
                code, out, err = cli(*command)
                assert (code, err) == (0, "")
                assert_plain(out)
                assert "\\x1b[31mred" in out
            for command in (("status", broker_name, "--json"), ("stats", broker_name, "--json")):
                code, out, err = cli(*command)
                assert code == 0
                assert_plain(out)
                assert NASTY in {one["name"] for one in json.loads(out)["queues"]}


def test_nothing_that_a_files_name_holds_reaches_the_terminal_raw(broker_name: str) -> None:
    path = os.fsencode(shm_path(broker_name + NASTY)) + b"\xff"
    Path(os.fsdecode(path)).write_bytes(b"x" * 5000)
    name = broker_name + NASTY + "\udcff"
    try:
        for env in ({}, {"PYTHONIOENCODING": "ascii"}):
            for command in (("ls",), ("status",), ("clean", "-n", name), ("status", name)):
                _, out, err = cli(*command, env={**os.environ, **env})
                assert_plain(out)
                assert_plain(err)
                assert "Traceback" not in err
                assert "\\x1b[31mred\\nforged" in out + err
            assert name in {one["name"] for one in json.loads(cli("ls", "--json")[1])}
    finally:
        os.unlink(path)


def test_labels_for_prometheus_have_no_raw_control_characters() -> None:
    from shmq.metrics import Family, text

    shown = text([Family("m", "gauge", "h", [("", (("queue", f'{NASTY}"\\\udc80'),), 1)])])
    assert_plain(shown)
    assert shown.splitlines()[2] == (
        'm{queue="a\\\\x1b[31mred\\nforged  up\\\\r\\\\x07\\\\u202egnp\\\\u200b\\\\x9b1m\\"\\\\\\\\udc80"} 1'
    )
