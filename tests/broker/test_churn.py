"""Queues and subscriptions that come and go, more often than a broker has records, whoever is in the middle of something."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from kit import Program, program
from waiting import wait_until

import shmq
from shmq._client import client_of
from shmq._native import ffi, lib

PUBLISHER = """
with shmq.connect(name) as broker:
    where = broker.get_topic("news") if sys.argv[2] == "topic" else broker.get_queue("orders")
    say("")
    while True:
        where.publish(b"x" * 64)
"""
LIVES = lib.SHMQ_QUEUES * 3 // 2


def inside(broker: shmq.Broker, pid: int) -> bool:
    """Return whether that process is in the middle of an operation of the core."""
    ctx, owner = client_of(broker.get_queue("orders")).ctx, ffi.new("shmq_owner_info *")
    for index in range(lib.SHMQ_OWNERS):
        if lib.shmq_owner_snapshot(ctx, index, owner) == lib.SHMQ_OK and owner.pid == pid:
            return bool(owner.op & 1)
    raise AssertionError("not attached")


def stopped_inside(broker: shmq.Broker, run: Program) -> bool:
    os.kill(run.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, run.pid, os.WSTOPPED)
    if inside(broker, run.pid):
        return True
    os.kill(run.pid, signal.SIGCONT)
    return False


@pytest.mark.parametrize("where", ["queue", "topic"])
def test_a_process_stopped_inside_a_publish_holds_back_its_own_records_only(
    broker: shmq.Broker, where: str
) -> None:
    broker.create_queue("orders", overflow="drop-oldest", max_depth=10)
    news = broker.create_topic("news")
    old = news.subscribe("old", overflow="drop-oldest", max_depth=10)
    with program(PUBLISHER, broker.name, where) as run:
        run.line()
        wait_until(lambda: stopped_inside(broker, run), "a stop in the middle of a publish")
        for i in range(LIVES):
            broker.create_queue("brief", max_depth=10).publish(b"x")
            broker.delete_queue("brief")
            with news.subscribe(overflow="drop-oldest", max_depth=10) as brief:
                news.publish(b"%d" % i)
                assert brief.get(timeout=20).payload == b"%d" % i
        os.kill(run.pid, signal.SIGCONT)
        published = news.stats().published if where == "topic" else 0
        wait_until(lambda: where == "queue" or news.stats().published > published, "it goes on")
    old.close()


def test_deleting_while_many_publish_frees_the_records(broker: shmq.Broker) -> None:
    broker.create_queue("orders", overflow="drop-oldest", max_depth=10)
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(program(PUBLISHER, broker.name, "queue")).line()
        for _ in range(LIVES):
            broker.create_queue("brief", max_depth=10).publish(b"x")
            broker.delete_queue("brief")
