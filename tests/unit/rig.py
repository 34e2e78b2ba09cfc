"""A broker's memory without its processes: what tests of the data path need.

Nothing fires timers here; `fire_timers` does what the sidecar would do.
"""

from __future__ import annotations

import os
import signal
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shmq._client import Client
from shmq._native import ffi, lib
from shmq._records import dead_letter_place, make_record
from shmq._segment import create_segment, open_segment
from shmq.consumer import Consumer
from shmq.errors import QueueEmpty
from shmq.options import QueueOptions
from shmq.queue import Queue
from shmq.topic import Topic


class Rig:
    def __init__(self, client: Client) -> None:
        self.client = client

    def queue(
        self, name: str = "q", dead_letter: Queue | str | None = None, **options: Any
    ) -> Queue:
        dead = dead_letter.name if isinstance(dead_letter, Queue) else dead_letter
        place = dead_letter_place(self.client, dead)
        struct = ffi.new("shmq_queue_options *", QueueOptions(**options).to_core(*place))
        qref = lib.shmq_queue_create(self.client.ctx, name.encode(), struct)
        return Queue(self.client, name, self.client.check(qref, name))

    def topic(self, name: str = "t", **options: Any) -> Topic:
        kind = (lib.SHMQ_KIND_TOPIC, 0)
        qref = make_record(self.client, f"/{name}", QueueOptions(**options), kind)
        return Topic(self.client, name, self.client.check(qref, name))

    @contextmanager
    def another(self) -> Iterator[Client]:
        """Attach once more, as another process would."""
        client = Client(open_segment(self.client.name))
        try:
            yield client
        finally:
            client.detach()

    def fire_timers(self) -> None:
        ctx = self.client.ctx
        idx, due = ffi.new("uint32_t[1024]"), ffi.new("uint64_t[1024]")
        start, late = ffi.new("uint32_t *"), ffi.new("uint64_t *")
        n = lib.shmq_timers_scan(ctx, start, idx, due, 1024)
        for i in range(n):
            lib.shmq_timer_fire(ctx, idx[i], lib.shmq_now(), late)

    def sweep_expired(self) -> None:
        start, earliest = ffi.new("uint32_t *"), ffi.new("uint64_t *")
        while start[0] < lib.SHMQ_BLOCKS:
            now = lib.shmq_now()
            rc = lib.shmq_expire_scan(
                self.client.ctx, start, now, now, ffi.NULL, ffi.NULL, 0, earliest
            )
            self.client.check(rc, "sweep")

    def audit(self) -> dict[str, int]:
        report = ffi.new("shmq_audit_report *")
        self.client.check(lib.shmq_audit(self.client.ctx, report), "audit")
        names = ("orphans", "unlinked", "dangling", "limbo", "attached", "fans", "held", "bad")
        return {name: getattr(report, name) for name in names if getattr(report, name)}

    def states(self) -> list[int]:
        report = ffi.new("shmq_audit_report *")
        self.client.check(lib.shmq_audit(self.client.ctx, report), "audit")
        return list(report.states)


@contextmanager
def memory(**config: int) -> Iterator[Rig]:
    """Yield a Rig over a fresh segment."""
    name = f"t-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    settings = {"memory_limit": 1 << 28, "max_message": 1 << 20, "provider": lib.SHMQ_POSIX}
    struct = ffi.new("shmq_config *", settings | config)
    segment, _ = create_segment(name, "posix", struct)
    try:
        client = Client.connect(name)
        try:
            yield Rig(client)
        finally:
            client.close()
    finally:
        segment.unlink()
        segment.close()


def filled(rig: Rig, n: int, **options: Any) -> Queue:
    """Return a queue with n messages, "0" and so on."""
    queue = rig.queue(**options)
    queue.publish_many([b"%d" % i for i in range(n)])
    return queue


def in_child(work: Callable[[], int | None]) -> int:
    """Run ``work`` in a forked child; its exit code, 99 for an exception."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Interrupt(BaseException):
    pass


def interrupted(work: Callable[[], object], times: int, after: float = 0.0002) -> int:
    """Call ``work`` so often, and have a handler raise amid it each time; return how often it came through."""
    armed = False

    def handler(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interrupt

    hits = 0
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(times):
            armed = True
            try:
                signal.setitimer(signal.ITIMER_REAL, after)
                work()
                armed = False
            except Interrupt:
                hits += 1
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return hits


def drained(queue: Queue) -> list[bytes]:
    with queue.subscribe(ack="none") as consumer:
        return [consumer.get(timeout=0).payload for _ in range(queue.depth())]


def texts(consumer: Consumer, n: int) -> list[bytes]:
    got = []
    for _ in range(n):
        delivery = consumer.get(timeout=5)
        got.append(delivery.payload)
        delivery.ack()
    with pytest.raises(QueueEmpty):
        consumer.get(timeout=0)
    return got
