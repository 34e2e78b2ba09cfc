"""What is called in a damaged segment: everything, through the road that users take. See damage.py."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import shmq
import shmq.home
import shmq.mp
from shmq.cli.main import main as command_line
from shmq.keywords import Ack, Dispatch, HeaderValue, MessageKeywords, QueueKeywords

SECOND = 1_000_000_000
ALLOWED = (shmq.ShmqError,)
TIMES: dict[str, float] | None = {} if os.environ.get("DAMAGE_TIMES") else None
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
