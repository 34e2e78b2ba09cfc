"""Words of a living broker's segment are damaged, then everything is called: through Broker, Topic, groups, shmq.mp and
the command line, in both bindings, with the supervisor and the sidecar at work.

    python tests/crash/damage.py --runs 10000        the long one
    python tests/crash/damage.py --seed 7 --only 4711    one run again; a failure prints this line

A run restores the segment to what it was, changes one to six words of it in a process that is attached, calls everything
there and, attached anew, once more. It fails when the process crashes or hangs, when anything but a ShmqError comes out,
or when a helper dies, spins, or does not do its work any more after the segment was restored. A damaged word may end the
broker only if it says that the broker ends (closing; anonymous).
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import faulthandler
import io
import json
import mmap
import os
import pickle
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import shmq
import shmq.home
import shmq.mp
from shmq._native import ffi, lib
from shmq._segment import open_segment
from shmq.cli.main import main as command_line
from shmq.keywords import Ack, Dispatch, HeaderValue, MessageKeywords, QueueKeywords

SECOND = 1_000_000_000
HANG_S = 60.0  # of a whole run; the core itself waits for an administrator for 10 s at most, several times
SPIN = 0.6  # of a core
WORLD_RUNS = 400  # runs of one broker
PROBE_EVERY = 20
ENDING = ("closing", "anonymous")  # words that may end a broker
ALLOWED = (shmq.ShmqError,)
TIMES: dict[str, float] | None = {} if os.environ.get("DAMAGE_TIMES") else None
WORD = struct.Struct("<Q")


def offset(struct_name: str, *path: str | int) -> int:
    return int(ffi.offsetof(struct_name, *path))


def size(struct_name: str) -> int:
    return int(ffi.sizeof(struct_name))


# ---- what is there ------------------------------------------------------------------------------


class Image:
    """A segment as bytes, and where its words are."""

    def __init__(self, name: str) -> None:
        self.segment = open_segment(name)
        self.fd: int = self.segment.fd  # type: ignore[attr-defined]
        self.geometry = ffi.new("shmq_geometry *")
        ffi.buffer(self.geometry)[:] = self.read(
            offset("shmq_header", "geometry"), size("shmq_geometry")
        )
        self.extents: list[tuple[int, bytes]] = []

    def read(self, at: int, n: int) -> bytes:
        return os.pread(self.fd, n, at)

    def word(self, at: int) -> int:
        return int(WORD.unpack(self.read(at, 8).ljust(8, b"\0"))[0])

    def save(self) -> None:
        at, total = 0, 0
        while True:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(self.fd, start, os.SEEK_HOLE)
            self.extents.append((start, self.read(start, at - start)))
            total += at - start
        assert 0 < total < 256 << 20, total
        g = self.geometry
        self.queues = int.from_bytes(self.read(offset("shmq_header", "queue_hwm"), 4), "little")
        self.owners = int.from_bytes(self.read(offset("shmq_header", "owner_hwm"), 4), "little")
        self.places: list[tuple[int, int]] = []  # tables of queues: (offset, words)
        for i in range(self.queues):
            record = g.queues + i * size("shmq_queue")
            for place in (
                *(offset("shmq_queue", "place", n) for n in range(11)),
                offset("shmq_queue", "keys"),
                offset("shmq_queue", "dedup"),
            ):
                start, lg = struct.unpack("<QI", self.read(record + place, 12))
                if start:
                    self.places.append((start, min(1 << (lg & 31), 3000)))
        self.blocks: list[tuple[int, int, int]] = []  # (header, payload, bytes of payload) in use
        for k in range(lib.SHMQ_CLASSES):
            made = self.word(offset("shmq_header", "hwm") + 128 * k)
            for i in range(min(made, 4000)):
                header = g.blocks + (g.first[k] + i) * size("shmq_block")
                ctl, *_, n, _ = struct.unpack("<7QII", self.read(header, 64))
                if ctl >> 60 not in (lib.SHMQ_VOID, lib.SHMQ_FREE):
                    n = min(n + 700, g.stride[k]) if n < 1 << 24 else 64
                    self.blocks.append((header, g.payload[k] + i * g.stride[k], int(n)))

    def restore(self) -> None:
        for at, data in self.extents:
            os.pwrite(self.fd, data, at)

    def undo(self, hurt: list[tuple[str, int, int, int]]) -> None:
        """Mend what was damaged where nothing is saved: a record that a run has made goes on living."""
        for _, at, old, new in hurt:
            if self.word(at) == new:
                os.pwrite(self.fd, WORD.pack(old), at)


# ---- what is changed ----------------------------------------------------------------------------


def pick(image: Image, rnd: random.Random) -> tuple[str, int]:
    """Return (kind of word, offset) of a word in use."""
    g = image.geometry
    queue = g.queues + rnd.randrange(image.queues + 1) * size("shmq_queue")
    owner = rnd.randrange(image.owners + 2)
    live = offset("shmq_header", "admin")

    def within(struct_name: str) -> int:
        return rnd.randrange(size(struct_name) // 8) * 8

    def part(member: str, n: int) -> tuple[str, int]:
        return f"queue.{member}", queue + offset("shmq_queue", member) + rnd.randrange(n) * 8

    def header_word() -> tuple[str, int]:
        named = rnd.choice(
            ("admin", "anonymous", "closing", "user_word", "next_id", "attach_evt", "timer_tail",
             "queue_hwm", "leases", "topology", "next_expiry", "secret")
        )  # fmt: skip
        return f"header.{named}", offset("shmq_header", named)

    def block_word() -> tuple[str, int]:
        return "block", rnd.choice(image.blocks)[0] + rnd.randrange(8) * 8

    def payload_word() -> tuple[str, int]:
        _, at, n = rnd.choice(image.blocks)
        return "payload", at + rnd.randrange(max(1, n // 8)) * 8

    def trailer_word() -> tuple[str, int]:
        header, at, _ = rnd.choice(image.blocks)
        n = int.from_bytes(image.read(header + 56, 4), "little") & 0xFFFFFF
        return "trailer", at + (n + 7) // 8 * 8 + rnd.randrange(8) * 8

    def slot() -> tuple[str, int]:
        at, n = rnd.choice(image.places)
        return "slot", at + rnd.randrange(min(n, 64) if rnd.random() < 0.7 else n) * 8

    choices: list[tuple[int, Callable[[], tuple[str, int]]]] = [
        (4, header_word),
        (1, lambda: ("header", live + rnd.randrange((size("shmq_header") - live) // 8) * 8)),
        (1, lambda: ("header.fixed", rnd.randrange(live // 8) * 8)),
        (1, lambda: ("header.hwm", offset("shmq_header", "hwm") + rnd.randrange(11) * 128)),
        (3, lambda: ("owner", g.owners + owner * size("shmq_owner") + rnd.randrange(8) * 8)),
        (4, lambda: part("options", size("shmq_queue_options") // 8)),
        (2, lambda: part("place", 11 * size("shmq_ring_place") // 8)),
        (1, lambda: part("keys", 4)),
        (1, lambda: part("name", 4)),
        (1, lambda: part("ephemeral", 4)),
        (1, lambda: part("filter", 4)),
        (1, lambda: part("lanes", 2)),
        (1, lambda: part("chunks", 1)),
        (1, lambda: part("evt", 1)),
        (1, lambda: part("space", 2)),
        (2, lambda: ("queue.ends", queue + offset("shmq_queue", "ends") + rnd.randrange(22) * 128)),
        (2, lambda: ("queue", queue + within("shmq_queue"))),
        (1, lambda: ("queue.word", queue)),
        (6, block_word),
        (2, payload_word),
        (4, trailer_word),
        (4, slot),
        (2, lambda: ("held", g.held + (owner * lib.SHMQ_HELD + rnd.randrange(24)) * 16 + rnd.randrange(2) * 8)),
        (1, lambda: ("timers", g.timers + rnd.randrange(64) * 8)),
        (1, lambda: ("l0", g.l0 + rnd.choice(image.blocks)[0] % 4096 // 64 * 8)),
        (1, lambda: ("l1", g.l1 + rnd.randrange(64) * 8)),
        (2, lambda: ("counters", g.counters
                     + (rnd.choice((owner, lib.SHMQ_OWNERS)) * lib.SHMQ_QUEUES + rnd.randrange(image.queues))
                     * size("shmq_counters") + within("shmq_counters"))),
    ]  # fmt: skip
    weights, makers = zip(*choices, strict=True)
    kind, at = rnd.choices(makers, weights)[0]()
    return kind, at // 8 * 8


def changed(old: int, other: int, rnd: random.Random) -> int:
    """Return another value for a word."""
    half = rnd.choice((0, 32))
    narrow = rnd.choice((0, 1, 2, 3, 7, 10, 255, 0x7FFFFFFF, 0xFFFFFFFF, rnd.getrandbits(32)))
    return rnd.choice(
        (
            old ^ 1 << rnd.randrange(64),
            old ^ 1 << rnd.randrange(64),
            0,
            (1 << 64) - 1,
            rnd.getrandbits(64),
            rnd.getrandbits(64) >> rnd.randrange(64),
            old + 1 & (1 << 64) - 1,
            old - 1 & (1 << 64) - 1,
            old & ~(0xFFFFFFFF << half) | narrow << half,
            old & ~(0xFFFFFFFF << half) | narrow << half,
            1 << 63,
            (1 << 63) - 1,
            other,
        )
    )


def damages(image: Image, rnd: random.Random) -> list[tuple[str, int, int, int]]:
    found = []
    for _ in range(rnd.choice((1, 1, 1, 2, 3, 6))):
        kind, at = pick(image, rnd)
        old = image.word(at)
        found.append((kind, at, old, changed(old, image.word(pick(image, rnd)[1]), rnd)))
    return found


# ---- what is called -----------------------------------------------------------------------------

QUEUES = ("dead", "plain", "drop", "gone", "levels", "keys", "strict", "reject")
OPTIONS: dict[str, QueueKeywords] = {
    "dead": {},
    "plain": {"max_bytes": 1 << 20, "ack_timeout": 1000, "dead_letter": "dead", "max_retries": 2, "retry_backoff": 0},
    "drop": {"max_depth": 12, "overflow": "drop-oldest", "dedup_window": 0.05, "dedup_capacity": 600, "retry_backoff": 0.001},
    "gone": {},
    "levels": {"priorities": 10, "aging": 0.001, "retry_backoff": 0},
    "keys": {"order": "key", "dead_letter": "dead", "retry_backoff": 0.001},
    "strict": {"order": "strict", "max_depth": 30},
    "reject": {"max_depth": 20, "overflow": "reject", "ttl": 0.2, "dead_letter": "dead", "expired": "drop"},
}  # fmt: skip
HEADERS: dict[str, HeaderValue] = {
    "a": "text",
    "b": b"bytes",
    "n": 12345678901234567890,
    "f": 1.5,
    "t": True,
    "x": None,
}


def fields_of(name: str, k: int) -> MessageKeywords:
    fields: MessageKeywords = {"headers": HEADERS} if k % 2 else {}
    if name in ("keys", "strict"):
        fields["key"] = f"k{k % 3}"
    if name == "drop":
        fields["dedup_id"] = f"id-{k}"
    if name == "levels":
        fields["priority"] = k % 10
    if k % 5 == 3:
        fields["ttl"] = 1000
    return fields


def live(broker: shmq.Broker) -> list[object]:
    """Fill a broker; returns what has to be kept."""
    kept: list[Any] = []
    for name in QUEUES:
        queue = broker.create_queue(name, **OPTIONS[name])
        for k in range(14):
            with contextlib.suppress(shmq.ShmqError):
                queue.publish(b"x" * (30 if k % 4 else 9000), timeout=0, **fields_of(name, k))
        with contextlib.suppress(shmq.ShmqError):
            queue.publish(b"later", delay=3000, timeout=0)
        with contextlib.suppress(shmq.ShmqError):
            queue.publish({"big": bytes(70000)}, serializer="pickle", timeout=0)
        consumer = queue.subscribe(prefetch=3)
        for k in range(5):
            with contextlib.suppress(shmq.ShmqError):
                delivery = consumer.get(timeout=0)
                kept.append(delivery)
                if k == 0:
                    delivery.nack(reason="some text")
                elif k == 1:
                    delivery.reject("other text")
                elif k == 2:
                    kept.append(delivery.view)
                    delivery.ack()
                elif k == 3:
                    delivery.nack(delay=2000, reason="later")
        kept.append(consumer)
    broker.get_queue("gone").shutdown()
    topic = broker.create_topic("t.a", max_depth=50)
    kept += [
        topic.subscribe("all"),
        topic.subscribe("paid", filter={"t": True}, dedup_window=5, dedup_capacity=500),
        topic.subscribe("strict", order="strict", overflow="drop-oldest", max_depth=8),
        topic.subscribe("cut", overflow="disconnect", max_depth=5, priorities=3),
        topic.subscribe(),
        broker.subscribe("t.*", "pattern"),
        broker.create_consumer_group("g", "plain", dispatch="round-robin").add_consumer("one"),
        broker.create_consumer_group("h", topic).add_consumer("two"),
    ]
    for k in range(12):
        topic.publish(
            b"t" * (20 + 5000 * (k % 2)), timeout=0, headers=HEADERS, dedup_id=f"t{k}", key="k"
        )
    for consumer in kept[-8:]:
        with contextlib.suppress(shmq.ShmqError):
            kept.append(consumer.get(timeout=0))
    return kept


def look(thing: Any, rnd: random.Random) -> None:
    """Read all that a delivery or a message has."""
    for name in (
        "payload",
        "headers",
        "key",
        "dedup_id",
        "timestamp",
        "ttl",
        "delay",
        "id",
        "priority",
    ):
        getattr(thing, name)
    repr(thing)
    if isinstance(thing, shmq.Delivery):
        for name in ("attempt", "redelivered", "size", "queue"):
            getattr(thing, name)
        with contextlib.suppress(*ALLOWED):
            bytes(thing.view)
        with contextlib.suppress(*ALLOWED):
            thing.object("raw")


class Over(Exception):
    """A call that may wait without end has waited."""


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def over(*_: object) -> None:
        raise Over

    before = signal.signal(signal.SIGALRM, over)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    except Over:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


T = TypeVar("T")
Call = tuple[str, Callable[[], object]]
"""what it is called, and how it is done"""


class Calls:
    """Everything that can be called, one after the other; what comes out that should not."""

    def __init__(self, name: str, rnd: random.Random, note: Callable[[str], None]) -> None:
        self.name = name
        self.rnd = rnd
        self.note = note
        self.problems: list[str] = []
        self.deliveries: list[shmq.Delivery] = []
        self.kept: list[object] = []

    def do(self, what: str, call: Callable[[], T]) -> T | None:
        self.note(what)
        begun = time.monotonic()
        try:
            return call()
        except ALLOWED:
            return None
        except BaseException:  # noqa: BLE001 - that is what is looked for
            self.problems.append(f"{what}: {traceback.format_exc()}")
            return None
        finally:
            if TIMES is not None:
                TIMES[what] = TIMES.get(what, 0.0) + time.monotonic() - begun

    def attach(self) -> None:
        broker = self.broker = self.do("connect", lambda: shmq.connect(self.name))
        self.queues: dict[str, shmq.Queue] = {}
        if broker is None:
            return
        for name in QUEUES:
            queue = self.do(f"get_queue {name}", partial(broker.get_queue, name))
            if queue is not None:
                self.queues[name] = queue
        self.topic = self.do("get_topic", lambda: broker.get_topic("t.a"))

    def warm(self) -> None:
        """Use what will be damaged: copies in this process are to be of before."""
        for name, queue in self.queues.items():
            self.warm_up(name, queue)

    def warm_up(self, name: str, queue: shmq.Queue) -> None:
        consumer = self.do("subscribe", lambda: queue.subscribe(prefetch=self.rnd.choice((1, 4))))
        if consumer is None:
            return
        self.kept.append(consumer)
        for _ in range(self.rnd.randrange(3)):
            self.take(consumer)
        self.do("publish", lambda: queue.publish(b"warm", timeout=0, **fields_of(name, 1)))

    def take(self, consumer: shmq.Consumer) -> None:
        delivery = self.do("get", lambda: consumer.get(timeout=0))
        if delivery is not None:
            self.deliveries.append(delivery)

    def everything(self, sometimes: float) -> None:
        broker, rnd = self.broker, self.rnd
        if broker is None:
            return
        todo: list[Call] = []
        for name in self.queues:
            todo += [(f"{what} of {name}", call) for what, call in self.of_queue(name)]
        todo += self.of_topic(broker)
        todo += self.of_broker(broker, sometimes)
        todo += self.of_commands(sometimes)
        rnd.shuffle(todo)
        for what, call in todo:
            if rnd.random() < 0.3:
                self.do(what, call)
            if rnd.random() < 0.5 and self.deliveries:
                self.settle()
        while self.deliveries:
            self.settle()

    def settle(self) -> None:
        rnd = self.rnd
        delivery = self.deliveries.pop(rnd.randrange(len(self.deliveries)))
        self.do("look", lambda: look(delivery, rnd))
        target = rnd.choice([one for one in (*self.queues.values(), self.topic) if one is not None])
        how: list[Call] = [
            ("ack", delivery.ack),
            ("ack", delivery.ack),
            ("nack", lambda: delivery.nack(delay=rnd.choice((None, 0, 0.001)), reason="r")),
            ("reject", lambda: delivery.reject("r")),
            ("touch", lambda: delivery.touch(10)),
            ("forward", lambda: delivery.forward(target, timeout=0)),
            (
                "forward",
                lambda: delivery.forward(target, b"new", timeout=0, headers={"y": 1}, dedup_id="f"),
            ),
            ("leave", lambda: self.kept.append(delivery)),
        ]
        what, call = rnd.choice(how)
        self.do(what, call)

    def of_queue(self, name: str) -> list[Call]:
        queue, rnd = self.queues[name], self.rnd
        k = rnd.randrange(20)
        fields = fields_of(name, k)

        def loan() -> None:
            with queue.loan(rnd.choice((5, 5000)), timeout=0.001, **fields) as buffer:
                buffer[0] = 1

        def quick_loan() -> None:  # without fields it may wait for room, as publish does
            # Where a damaged option or sum says that there is no room, for good: that is no hang.
            if name == "drop":
                with no_longer_than(1), queue.loan(100) as buffer:
                    buffer[0] = 1

        def consume(ack: Ack, prefetch: int) -> None:
            with queue.subscribe(ack=ack, prefetch=prefetch) as consumer:
                for delivery in consumer.get_many(3, timeout=0.001):
                    look(delivery, rnd)

        def many() -> None:
            consumer = queue.subscribe()
            self.kept.append(consumer)
            self.deliveries += consumer.get_many(4, timeout=0)

        def peek() -> None:
            for message in queue.peek(30):
                look(message, rnd)

        def ack_many() -> None:
            with queue.subscribe() as consumer:
                consumer.ack_many(consumer.get_many(4, timeout=0))

        def release_many() -> None:
            with queue.subscribe() as consumer:
                consumer.release_many(consumer.get_many(4, timeout=0))

        return [
            ("publish", lambda: queue.publish(b"p" * rnd.choice((10, 3000)), timeout=0.001, **fields)),
            ("publish plain", lambda: queue.publish(b"plain", timeout=0)),
            ("publish delayed", lambda: queue.publish(b"d", delay=rnd.choice((0.001, 5)), timeout=0)),
            ("publish object", lambda: queue.publish({"k": k}, serializer="json", timeout=0)),
            ("publish_many", lambda: queue.publish_many([b"m"] * 5, timeout=0.001)),
            ("loan", loan),
            ("quick loan", quick_loan),
            ("get_many", many),
            ("ack_many", ack_many),
            ("release_many", release_many),
            ("auto", lambda: consume("auto", 1)),
            ("none", lambda: consume("none", 1)),
            ("ahead", lambda: consume("manual", 4)),
            ("depth", queue.depth),
            ("stats", lambda: dataclasses.asdict(queue.stats())),
            ("peek", peek),
            ("purge", lambda: queue.purge() if rnd.random() < 0.1 else None),
            ("pickle", lambda: pickle.loads(pickle.dumps(queue)).depth()),
            ("shutdown", lambda: queue.shutdown(immediate=k % 2 == 0) if rnd.random() < 0.02 else None),
        ]  # fmt: skip

    def of_topic(self, broker: shmq.Broker) -> list[Call]:
        topic, rnd = self.topic, self.rnd
        if topic is None:
            return []

        def subscribe(**how: Any) -> None:
            with topic.subscribe(**how) as consumer:
                look(consumer.get(timeout=0), rnd)

        def pattern() -> None:
            with broker.subscribe("t.*", "pattern") as consumer:
                consumer.get(timeout=0).nack()

        def group(name: str, source: shmq.Topic | str, dispatch: Dispatch) -> None:
            made = broker.create_consumer_group(name, source, dispatch=dispatch)
            made.members()
            made.lag()
            made.stats()
            with made.add_consumer() as consumer:
                consumer.get(timeout=0.001).ack()

        waiting: list[list[Call]] = [  # each for a barrier of the kernel
            [],
            [],
            [],
            [("topic.subscribe ephemeral", subscribe)],
            [("group on a queue", lambda: group("g", "plain", "round-robin"))],
            [("group on a topic", lambda: group("h", topic, "ready"))],
        ]
        return [
            ("topic.publish", lambda: topic.publish(b"t", timeout=0.001, headers=HEADERS, dedup_id="x", key="k")),
            ("topic.publish plain", lambda: topic.publish(b"t" * 3000, timeout=0)),
            ("topic.publish_many", lambda: topic.publish_many([b"t"] * 3, timeout=0.001)),
            ("topic.subscribe", lambda: subscribe(name="all")),
            ("topic.subscribe filter", lambda: subscribe(name="paid", filter={"t": True})),
            ("topic.subscribe cut", lambda: subscribe(name="cut", overflow="disconnect")),
            ("topic.stats", lambda: dataclasses.asdict(topic.stats())),
            ("topic.subscriptions", topic.subscriptions),
            ("topic.subscriber_count", topic.subscriber_count),
            ("topic.subscription", lambda: topic.subscription("all").peek(5)),
            ("topic.unsubscribe", lambda: topic.unsubscribe("strict") if rnd.random() < 0.1 else None),
            ("pattern", pattern),
            *rnd.choice(waiting),
        ]  # fmt: skip

    def of_broker(self, broker: shmq.Broker, sometimes: float) -> list[Call]:
        rnd = self.rnd
        name = rnd.choice(QUEUES)

        def fork() -> None:  # an inherited broker, attached anew
            pid = os.fork()
            if pid == 0:
                code = 0
                try:
                    shmq.connect(self.name).get_queue(name).publish(b"child", timeout=0)
                except ALLOWED:
                    pass
                except BaseException:  # noqa: BLE001
                    code = 1
                    traceback.print_exc()
                os._exit(code)
            if os.waitpid(pid, 0)[1]:
                raise RuntimeError("a forked child ended badly; see above")

        def create() -> None:
            queue = broker.create_queue(
                f"fresh-{rnd.randrange(3)}", max_depth=30, dead_letter="dead"
            )
            queue.publish(b"f", timeout=0)
            queue.subscribe().get(timeout=0).ack()
            if rnd.random() < 0.5:
                broker.delete_queue(queue.name)

        todo: list[Call] = [
            ("broker.stats", lambda: json.dumps(dataclasses.asdict(broker.stats()))),
            ("list_queues", broker.list_queues),
            ("list_topics", broker.list_topics),
            ("create_queue again", lambda: broker.create_queue(name, **OPTIONS[name])),
            ("create_topic again", lambda: broker.create_topic("t.a", max_depth=50)),
        ]
        if rnd.random() < sometimes:  # these wait for the kernel, or for processes
            todo += [("create_queue", create), ("fork", fork)]
            todo += [("create_topic", lambda: broker.create_topic("t.b").publish(b"b", timeout=0))]
        if rnd.random() < sometimes / 4:
            todo += [("delete_queue", lambda: broker.delete_queue(name))]
        if rnd.random() < sometimes / 8:
            todo += [("delete_topic", lambda: broker.delete_topic("t.a"))]
        return todo

    def of_commands(self, sometimes: float) -> list[Call]:
        def command(*words: str) -> None:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = command_line(list(words))
            assert code in (0, 1, 2, 3), code
            if "--json" in words and code != 3 and out.getvalue():
                json.loads(out.getvalue())

        def process(*words: str) -> None:
            done = subprocess.run(
                [sys.executable, "-m", "shmq.cli", *words],
                capture_output=True,
                timeout=30,
                check=False,
            )
            assert done.returncode in (0, 1, 2, 3), done
            assert b"Traceback" not in done.stderr, done.stderr.decode()

        name = self.name
        looks = [("status", name, "--json"), ("status", name), ("stats", name, "--json"), ("stats", name), ("metrics", name)]  # fmt: skip
        words = self.rnd.choice(looks)
        found: list[Call] = [(f"shmq {' '.join(words)}", lambda: command(*words))]
        if self.rnd.random() < sometimes / 20:
            found += [
                ("shmq status", lambda: process("status", name)),
                ("shmq stats", lambda: command("stats", name, "--interval", "10ms")),
            ]
        return found


class MpCalls(Calls):
    """The same for queues of shmq.mp."""

    def __init__(
        self, queues: list[Any], name: str, rnd: random.Random, note: Callable[[str], None]
    ) -> None:
        super().__init__(name, rnd, note)
        self.mine = queues

    def attach(self) -> None:
        for queue in self.mine:
            self.do("qsize", queue.qsize)

    def warm(self) -> None:
        for queue in self.mine:
            self.do("qsize", queue.qsize)

    def everything(self, sometimes: float) -> None:
        rnd = self.rnd
        todo = [one for queue in self.mine for one in self.of_mine(queue)]
        todo += self.of_commands(sometimes)
        rnd.shuffle(todo)
        for what, call in todo:
            self.do(what, call)

    def of_mine(self, queue: Any) -> list[Call]:
        if isinstance(queue, shmq.mp.SimpleQueue):
            return [
                ("empty", queue.empty),
                ("get", lambda: queue.get() if not queue.empty() else None),
            ]
        return [
            ("qsize", queue.qsize),
            ("full", queue.full),
            ("put", lambda: queue.put({"a": [1, 2.5, "x"]}, False)),
            ("put bytes", lambda: queue.put(b"x" * 5000, timeout=0.001)),
            ("put_many", lambda: queue.put_many([1, "a", b"b"], timeout=0.001)),
            ("get", lambda: queue.get(False)),
            ("get", lambda: queue.get(timeout=0.001)),
            ("get_many", lambda: queue.get_many(3, timeout=0.001)),
            ("get view", lambda: queue.get(False, copy=False)),
        ]


def raised_by_the_object(problem: str) -> bool:
    """Was it the damaged pickle of an object itself, as it lay in the payload? That is the user's data, of which shmq knows nothing."""
    return "pickle.loads(" in problem or "pickle data was truncated" in problem


# ---- one run, in a process of its own -----------------------------------------------------------


class Note(mmap.mmap):
    """What a run is doing, for whoever finds it dead."""

    def say(self, text: str) -> None:
        data = text.encode()[:500]
        self[: len(data) + 1] = data + b"\0"

    def said(self) -> str:
        return bytes(self[:501]).partition(b"\0")[0].decode()


def one_run(
    name: str, rnd: random.Random, image: Image, note: Note, out: int, mine: list[Any] | None
) -> None:
    hurt = damages(image, rnd)  # first, so that one number always means the same damage
    os.write(out, json.dumps(hurt).encode() + b"\n")
    calls = MpCalls(mine, name, rnd, note.say) if mine is not None else Calls(name, rnd, note.say)
    calls.attach()
    calls.warm()
    problems = [f"before any damage: {problem}" for problem in calls.problems]
    calls.problems.clear()
    for _, at, _, value in hurt:
        os.pwrite(image.fd, WORD.pack(value), at)
    calls.everything(0.2)
    if mine is None:
        if calls.broker is not None:
            calls.do("close", calls.broker.close)
        problems += calls.problems
        calls = Calls(name, rnd, note.say)  # what a process sees that comes afterwards
        calls.attach()
        calls.everything(0.1)
    problems += calls.problems
    if mine is not None:
        problems = [one for one in problems if not raised_by_the_object(one)]
    note.say("end")
    if TIMES is not None:
        print(
            "TIMES",
            sorted(((round(t, 3), what) for what, t in TIMES.items()), reverse=True)[:12],
            file=sys.stderr,
        )
    os.write(out, json.dumps(problems).encode() + b"\n")


# ---- the host of a broker, and its runs ---------------------------------------------------------


class World:
    """A broker with life in it, its helpers, and a copy of its segment."""

    def __init__(self, name: str, with_mp: bool) -> None:
        self.with_mp = with_mp
        self.mine: list[Any] | None = None
        self.debug = tempfile.mktemp(prefix="shmq-damage-")  # noqa: S306
        os.environ["SHMQ_DEBUG"] = self.debug
        reader, writer = os.pipe()
        if with_mp:
            os.environ.pop("SHMQ_HOME", None)
            self.mine = [
                shmq.mp.Queue(),
                shmq.mp.Queue(5),
                shmq.mp.JoinableQueue(),
                shmq.mp.SimpleQueue(),
            ]
            name = shmq.home.home().name
            for queue in self.mine:
                for item in (
                    1,
                    "text",
                    b"bytes" * 1000,
                    {"a": [1, 2.5, None, (b"x", "y")]},
                    [{"k": k} for k in range(300)],
                ):
                    queue.put(item)
        self.name = name
        self.resident = 0
        if not with_mp:
            self.resident = os.fork()
            if self.resident == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                code = 1
                try:
                    os.close(reader)
                    broker = shmq.Broker(name, memory_limit="64MB")
                    kept = live(broker)
                    dying = os.fork()
                    if dying == 0:  # somebody who died with things in hand
                        queue = broker.get_queue("plain")
                        kept.append(queue.subscribe().get(timeout=0))
                        os.kill(os.getpid(), signal.SIGKILL)
                    os.waitpid(dying, 0)
                    time.sleep(0.3)
                    os.write(writer, b"!")
                    while True:
                        signal.pause()
                except BaseException:  # noqa: BLE001
                    traceback.print_exc()
                finally:
                    os._exit(code)
            assert select.select([reader], [], [], 60)[0], "no broker within a minute"
            assert os.read(reader, 1) == b"!", "no broker"
        os.close(reader)
        os.close(writer)
        self.image = Image(self.name)
        with shmq_observed(self.name) as stats:
            self.helpers = {"supervisor": stats.supervisor_pid, "sidecar": stats.sidecar_pid}
        for _ in range(200):  # at a moment when nobody changes records
            if not self.image.word(offset("shmq_header", "admin")):
                break
            time.sleep(0.01)
        self.image.save()

    def end(self) -> None:
        for pid in (self.resident, *self.helpers.values()):
            if pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        if self.resident:
            os.waitpid(self.resident, 0)
        self.image.segment.unlink()
        self.image.segment.close()
        if self.mine is not None:
            shmq.home._home._client.detach()  # type: ignore[union-attr]
            shmq.home._home = None
            os.environ.pop("SHMQ_HOME", None)
        with contextlib.suppress(OSError):
            os.unlink(self.debug)

    def helper_text(self) -> str:
        """Return what helpers noted, but for errors of ours, which a damaged header is to end in."""
        with contextlib.suppress(OSError), open(self.debug) as file:
            text = file.read()
            return "" if "\nshmq.errors." in text else text
        return ""

    def gone(self) -> str | None:
        """Return which helper is dead; a sidecar comes back by itself."""
        for role, pid in self.helpers.items():
            if not running(pid):
                return role
        return None

    def find_sidecar(self) -> bool:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(shmq.ShmqError), shmq_observed(self.name) as stats:
                if stats.sidecar_pid and running(stats.sidecar_pid):
                    self.helpers["sidecar"] = stats.sidecar_pid
                    return True
            time.sleep(0.02)
        return False


@contextlib.contextmanager
def shmq_observed(name: str) -> Iterator[shmq.BrokerStats]:
    from shmq._segment import observe
    from shmq.stats.broker import read_stats

    with observe(name) as (segment, ctx):
        yield read_stats(segment, ctx)


def running(pid: int | None) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def cpu_ns(pid: int | None) -> int:
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError):
        return 0


PROBE = """
import sys, time, shmq
broker = shmq.connect(sys.argv[1])
queue = broker.create_queue("probe", max_depth=100, retry_backoff=0)
queue.purge()
queue.publish(b"late", delay=0.01)
assert queue.subscribe(ack="none").get(timeout=30).payload == b"late"
"""


class Host:
    """One worker of the fuzz: brokers, one after the other, and runs in each."""

    def __init__(self, prefix: str, seed: int, number: int, say: Callable[[str], None]) -> None:
        self.prefix, self.seed, self.number, self.say = prefix, seed, number, say
        self.worlds: dict[bool, World] = {}
        self.used = 0
        self.made = 0
        self.failures = 0
        self.note = Note(-1, 4096)
        self.ends = 0

    def world(self, with_mp: bool) -> World:
        if with_mp not in self.worlds:
            self.made += 1
            self.worlds[with_mp] = World(f"{self.prefix}{self.number}-{self.made}", with_mp)
        return self.worlds[with_mp]

    def drop(self, with_mp: bool) -> None:
        world = self.worlds.pop(with_mp, None)
        if world is not None:
            world.end()

    def fail(self, run: int, what: str, hurt: list[tuple[str, int, int, int]]) -> None:
        self.failures += 1
        words = "; ".join(f"{kind} at {at:#x}: {old:#x} -> {new:#x}" for kind, at, old, new in hurt)
        self.say(
            f"FAILED --seed {self.seed} --only {run}: {what}\n    {words}\n    in: {self.note.said()}"
        )

    def run(self, run: int) -> None:
        with_mp = run // 2 % 10 == 9
        world = self.world(with_mp)
        image = world.image
        image.restore()
        seed = f"{self.seed}/{run}"
        before = {role: cpu_ns(pid) for role, pid in world.helpers.items()}
        begun = time.monotonic()
        reader, writer = os.pipe()
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.close(reader)
                os.dup2(log.fileno(), 2)
                os.dup2(log.fileno(), 1)
                faulthandler.enable(log)
                faulthandler.dump_traceback_later(HANG_S - 10, file=log, exit=True)
                told = os.dup(writer)
                one_run(world.name, random.Random(seed), image, self.note, told, world.mine)
                if run % 3:
                    atexit._run_exitfuncs()
                os._exit(0)
            except BaseException:  # noqa: BLE001
                traceback.print_exc(file=log)
                log.flush()
                os._exit(7)
        os.close(writer)
        said = read_all(reader, begun + HANG_S)
        os.close(reader)
        status = ended(pid, begun + HANG_S)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        log.seek(0)
        printed = log.read()[-6000:]
        log.close()
        hurt = [(one[0], one[1], one[2], one[3]) for one in said[0]] if said else []
        image.undo(hurt)
        problems = said[1] if len(said) > 1 else []
        if status is None or "Timeout (" in printed:
            self.fail(run, f"hang\n{printed}", hurt)
        elif status != 0:
            how = (
                f"signal {os.WTERMSIG(status)}"
                if os.WIFSIGNALED(status)
                else f"exit {os.WEXITSTATUS(status)}"
            )
            self.fail(run, f"crash: {how}\n{printed}", hurt)
        elif TIMES is not None:
            self.say(printed)
        elif "Traceback" in printed or "Exception ignored" in printed:
            self.fail(run, f"printed:\n{printed}", hurt)
        for problem in problems:
            self.fail(run, f"exception: {problem}", hurt)
        self.look_at_helpers(run, world, before, begun, hurt)

    def look_at_helpers(
        self,
        run: int,
        world: World,
        before: dict[str, int],
        begun: float,
        hurt: list[tuple[str, int, int, int]],
    ) -> None:
        text = world.helper_text()
        gone = world.gone()
        may_end = any(
            kind == "header.closing"
            or kind == "header.anonymous"
            or kind in ("header", "header.admin")
            for kind, *_ in hurt
        )
        if text:
            self.fail(run, f"a helper printed:\n{text[-3000:]}", hurt)
        if gone == "sidecar" and not text and not may_end:
            world.image.restore()
            if world.find_sidecar():
                self.ends += 1
                gone = None
        if gone or text:
            if not may_end and not text:
                self.fail(run, f"the {gone} is dead", hurt)
            self.drop(world.with_mp)
            return
        if may_end:  # it may be about to: the next run would be blamed
            self.drop(world.with_mp)
            return
        wall = (time.monotonic() - begun) * SECOND
        if any(
            cpu_ns(pid) - before[role] > max(SPIN * wall, 20_000_000)
            for role, pid in world.helpers.items()
        ):
            for _ in range(8):  # busy with what was done, or for ever?
                now = {role: cpu_ns(pid) for role, pid in world.helpers.items()}
                time.sleep(0.4)
                busy = [
                    role
                    for role, pid in world.helpers.items()
                    if cpu_ns(pid) - now[role] > SPIN * 0.4 * SECOND
                ]
                if not busy:
                    break
            else:
                self.fail(run, f"the {busy[0]} spins", hurt)
                self.drop(world.with_mp)
                return
        if run // 2 % PROBE_EVERY == 0 and not world.with_mp:
            world.image.restore()
            done = subprocess.run(
                [sys.executable, "-c", PROBE, world.name],
                capture_output=True,
                timeout=60,
                check=False,
            )
            if done.returncode:
                self.fail(
                    run,
                    f"after the segment was restored, a helper does not do its work:\n{done.stderr.decode()}",
                    hurt,
                )
                self.drop(world.with_mp)

    def end(self) -> None:
        for with_mp in list(self.worlds):
            self.drop(with_mp)


def read_all(fd: int, deadline: float) -> list[Any]:
    """Return what a run has told: its damage, and its problems if it has come to its end."""
    data = b""
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        some = os.read(fd, 1 << 16)
        if not some:
            break
        data += some
    lines = data.decode().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def ended(pid: int, deadline: float) -> int | None:
    pause = 0.0002
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(pause)
        pause = min(pause * 2, 0.01)
    return None


# ---- all of it ----------------------------------------------------------------------------------


def host(prefix: str, seed: int, number: int, of: int, first: int, runs: int) -> int:
    def say(text: str) -> None:
        print(text, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    mine = Host(prefix, seed, number, say)
    begun = time.monotonic()
    try:
        for done, run in enumerate(range(first + number, first + runs, of)):
            mine.run(run)
            if done % 200 == 199:
                say(
                    f"host {number}: {done + 1} runs, {mine.failures} failures, {time.monotonic() - begun:.0f} s"
                )
            if done % WORLD_RUNS == WORLD_RUNS - 1:
                for with_mp in list(mine.worlds):
                    mine.drop(with_mp)
            if mine.failures > 200:
                break
    finally:
        mine.end()
    say(
        f"host {number}: brokers {mine.made}, sidecars restarted {mine.ends}, failures {mine.failures}"
    )
    return 1 if mine.failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--only", type=int, help="this run only")
    parser.add_argument(
        "--jobs", type=int, default=2, help="even ones with the accelerator, odd ones without"
    )
    parser.add_argument("--prefix", default=f"damage-{os.getpid()}-")
    parser.add_argument("--host", type=int)
    options = parser.parse_args()
    first, runs = (options.only, 1) if options.only is not None else (options.first, options.runs)
    if options.host is not None:
        if options.only is not None:
            return host(options.prefix, options.seed, 0, 1, first, runs)
        return host(options.prefix, options.seed, options.host, options.jobs, first, runs)
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"seed {options.seed}: {runs} runs", flush=True)
    hosts = []
    for number in [first % 2] if options.only is not None else range(options.jobs):
        environment = dict(os.environ)
        environment.pop("SHMQ_NO_ACCEL", None)
        if number % 2:
            environment["SHMQ_NO_ACCEL"] = "1"
        words = [sys.executable, __file__, "--host", str(number), "--seed", str(options.seed)]
        words += [
            "--jobs",
            str(options.jobs),
            "--runs",
            str(runs),
            "--first",
            str(first),
            "--prefix",
            options.prefix,
        ]
        words += ["--only", str(options.only)] if options.only is not None else []
        hosts.append(subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL))
    try:
        bad = sum(each.wait() != 0 for each in hosts)
    finally:
        for each in hosts:
            each.terminate()
            each.wait()
    print(
        f"seed {options.seed}: {runs} runs in {time.monotonic() - begun:.0f} s; {'FAILED' if bad else '0 failures'}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
