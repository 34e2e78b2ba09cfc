"""What the processes of features.py do, and the log that each keeps: by single appends to a file of its own, outside the
segment. What a dead one left there is true.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import shmq
from shmq.keywords import Dispatch


class Retries(TypedDict):
    max_retries: int | None
    retry_backoff: float
    retry_backoff_max: float


FOREVER: Retries = {"max_retries": None, "retry_backoff": 0.005, "retry_backoff_max": 0.005}
KEYS = 6
GROUPS: tuple[tuple[str, Dispatch], ...] = (("ready", "ready"), ("turns", "round-robin"))


class Log:
    """Appends of one process: what it is about to do, what it was told."""

    def __init__(self, folder: Path, who: str) -> None:
        self.path = folder / who
        if self.path.exists():
            whole = self.path.read_bytes().rpartition(b"\n")
            os.truncate(self.path, len(whole[0] + whole[1]))  # a kill may come between two pages
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._beat = 0.0

    def put(self, *words: object) -> None:
        text = " ".join(map(str, (words[0], time.monotonic_ns(), *words[1:])))
        os.write(self._fd, text.encode() + b"\n")

    def put_all(self, lines: Sequence[Sequence[object]]) -> None:
        now = time.monotonic_ns()
        text = "".join(" ".join(map(str, (one[0], now, *one[1:]))) + "\n" for one in lines)
        os.write(self._fd, text.encode())

    def beat(self) -> None:
        if time.monotonic() - self._beat > 0.5:
            self._beat = time.monotonic()
            self.put("h")

    def lines(self) -> Iterator[list[str]]:
        yield from (line.split() for line in self.path.read_text().splitlines())


class Role:
    """What a child process knows."""

    def __init__(self, name: str, folder: Path, who: str, seed: int) -> None:
        self.broker = shmq.connect(name)
        self.folder = folder
        self.who = who
        self.log = Log(folder, who)
        self.dice = random.Random(seed)

    def on(self, flag: str) -> bool:
        """Is there more to do? `flag` is the file that says no."""
        self.log.beat()
        return not (self.folder / flag).exists()

    def rest(self, most: float = 0.01) -> None:
        time.sleep(self.dice.random() * most)

    def numbers(self, again: bool = False) -> Iterator[int]:
        """Numbers after those of former lives; ``again``: from the one that may not have got there."""
        last, known = -1, -1
        for kind, _, *words in self.log.lines():
            if kind == "p":
                last = int(words[1].rpartition("-")[2])
            elif kind == "P":
                known = last
        n = known + 1 if again else last + 1
        while self.on("no-more"):
            yield n
            n += 1
            self.rest()

    def publish(
        self,
        target: shmq.Queue | shmq.Topic,
        label: str,
        extra: str = "",
        *,
        timeout: float | None = 2,
        sizes: Sequence[int] = (0, 0, 50, 3000, 20_000),
        **fields: Any,
    ) -> bool:
        self.log.put("p", target.name, label, extra)
        payload = label.encode() + b" " * self.dice.choice(sizes)
        try:
            number = target.publish(payload, timeout=timeout, **fields)
        except shmq.QueueFull:
            self.log.put("x", target.name, label)
            return False
        self.log.put("P", target.name, label, number)
        return True

    def deliveries(
        self, consumer: shmq.Consumer, many: int = 1, flag: str = "the-end"
    ) -> Iterator[shmq.Delivery]:
        """What there is; logged as delivered, with a time before which it was not."""
        while self.on(flag):
            before = time.monotonic_ns()
            try:
                got = [consumer.get(timeout=0)] if many == 1 else consumer.get_many(many, timeout=0)
            except shmq.QueueEmpty:
                got = []
                with contextlib.suppress(shmq.QueueEmpty):
                    before = time.monotonic_ns()
                    got = [consumer.get(timeout=0.1)]
            except shmq.QueueClosed:
                return
            self.got(got, before)
            yield from got
            self.rest(0.003)

    def got(self, deliveries: Sequence[shmq.Delivery], before: int) -> None:
        self.log.put_all(
            [
                (
                    *("g", d.queue, bytes(d.view[:40]).split()[0].decode(), d.id, before),
                    *(d.attempt, int(d.redelivered)),
                )
                for d in deliveries
            ]
        )

    def ack(self, d: shmq.Delivery) -> None:
        self.log.put("a", d.queue, d.id)
        d.ack()
        self.log.put("A", d.queue, d.id)

    def consume(self, consumer: shmq.Consumer, many: int = 1) -> None:
        with consumer:
            for d in self.deliveries(consumer, many):
                self.ack(d)


# ---- what the processes do ----------------------------------------------------------------------


def make(broker: shmq.Broker) -> None:
    """All that the roles use. Retries without end, but where dead letters are the point."""
    broker.create_queue("in", dedup_window=3600, max_depth=300, **FOREVER)
    broker.create_queue("mid", order="key", max_depth=300, **FOREVER)
    done = broker.create_topic("done", **FOREVER)
    events = broker.create_topic("events.a", **FOREVER)
    broker.create_queue("keyed", order="key", max_depth=200, **FOREVER)
    broker.create_queue("strict", order="strict", max_depth=50, **FOREVER)
    for name in ("work", "timed", "lossy"):
        broker.create_queue(f"{name}.dead", ttl=None, max_depth=100, **FOREVER)
    broker.create_queue(
        "work", dead_letter="work.dead", max_retries=3, retry_backoff=0.01, aging=0.5, max_depth=500
    )
    broker.create_queue("timed", dead_letter="timed.dead", **FOREVER)
    broker.create_queue(
        "lossy", dead_letter="lossy.dead", overflow="drop-oldest", max_depth=5, **FOREVER
    )
    for name in ("one", "two"):
        done.subscribe(name).close()
    events.subscribe("audit").close()
    events.subscribe("keyed", order="key").close()
    events.subscribe("even", filter={"even": True}).close()
    broker.subscribe("events.*", "all", **FOREVER).close()
    for group, dispatch in GROUPS:
        broker.create_consumer_group(group, "events.a", dispatch=dispatch)


def source(me: Role) -> None:
    """Both sources publish the same ids, and again where they are not sure."""
    queue = me.broker.get_queue("in")
    for n in me.numbers(again=True):
        while not me.publish(
            queue, f"job-{n}", dedup_id=f"job-{n}", key=f"k{n % KEYS}", headers={"n": n}
        ):
            if not me.on("no-more"):
                return


def stage(me: Role, origin: str, target: shmq.Queue | shmq.Topic) -> None:
    with me.broker.get_queue(origin).subscribe(prefetch=me.dice.choice((1, 4))) as consumer:
        for d in me.deliveries(consumer):
            if me.dice.random() < 0.1:
                d.nack(me.dice.choice((0, 0.01, None)))
                continue
            me.log.put("a", d.queue, d.id)
            try:
                payload = bytes(d.view) if me.dice.random() < 0.5 else None
                number = d.forward(target, payload, timeout=5)
            except shmq.QueueFull:
                me.log.put("x", target.name, d.id)
                d.nack(0)
                continue
            me.log.put("A", d.queue, d.id, number)


def first_stage(me: Role) -> None:
    stage(me, "in", me.broker.get_queue("mid"))


def second_stage(me: Role) -> None:
    stage(me, "mid", me.broker.get_topic("done"))


def sink(me: Role) -> None:
    name = "one" if me.who.endswith("0") else "two"
    me.consume(me.broker.get_topic("done").subscribe(name), many=1 if name == "one" else 5)


def in_order(name: str, keys: int) -> Callable[[Role], None]:
    def produce(me: Role) -> None:
        queue = me.broker.get_queue(name)
        for n in me.numbers():
            key = f"{me.who}.{n % keys}"
            me.publish(queue, f"{key}-{n}", key=key, priority=n % 10)

    return produce


def any_order(name: str) -> Callable[[Role], None]:
    def consume(me: Role) -> None:
        with me.broker.get_queue(name).subscribe() as consumer:
            for d in me.deliveries(consumer):
                if me.dice.random() < 0.2:
                    d.nack(me.dice.choice((0, 0.003, None)))
                else:
                    me.ack(d)

    return consume


def publisher(me: Role) -> None:
    topic = me.broker.get_topic("events.a")
    for n in me.numbers():
        headers = {"even": n % 2 == 0, "n": n}
        me.publish(
            topic, f"{me.who}-{n}", headers=headers, key=f"{me.who}.{n % KEYS}", priority=n % 3
        )


def subscriber(me: Role) -> None:
    number = int(me.who.rpartition(".")[2])
    if number < 3:
        me.consume(me.broker.get_topic("events.a").subscribe(("audit", "keyed", "even")[number]), 3)
    elif number == 3:
        me.consume(me.broker.subscribe("events.*", "all"))
    else:
        name, dispatch = GROUPS[number % 2]
        group = me.broker.create_consumer_group(name, "events.a", dispatch=dispatch)
        me.consume(group.add_consumer())


def passer_by(me: Role) -> None:
    """An ephemeral subscription: from its first message to its last it has them all."""
    while me.on("no-more"):
        with me.broker.get_topic("events.a").subscribe() as consumer:
            until = time.monotonic() + me.dice.random()
            for d in me.deliveries(consumer, flag="no-more"):
                me.ack(d)
                if time.monotonic() > until:
                    break


def timer(me: Role) -> None:
    queue = me.broker.get_queue("timed")
    for n in me.numbers():
        delay, life = me.dice.choice((0, 0, 0.02, 0.2)), me.dice.choice((0.03, 0.1, 0.5, 60))
        me.publish(queue, f"{me.who}-{n}", f"{delay}:{delay + life}", delay=delay, ttl=delay + life)


def work_maker(me: Role) -> None:
    queue = me.broker.get_queue("work")
    for n in me.numbers():
        if n % 10 == 0:
            batch = [f"{me.who}.{i}-{n}" for i in range(20)]
            for label in batch:
                me.log.put("p", "work", label)
            with contextlib.suppress(shmq.QueueFull):
                queue.publish_many([label.encode() for label in batch], timeout=1)
        me.publish(queue, f"{me.who}-{n}", priority=me.dice.randrange(10))


def worker(me: Role) -> None:
    many = me.dice.choice((1, 1, 10))
    prefetch = me.dice.choice((1, 8))
    with me.broker.get_queue("work").subscribe(prefetch=prefetch) as consumer:
        for d in me.deliveries(consumer, many):
            chance = me.dice.random()
            if chance < 0.1:
                me.log.put("r", d.queue, d.id)
                d.reject("no good")
            elif chance < 0.3:
                d.nack(me.dice.choice((0, 0.02, None)))
            else:
                me.ack(d)


def loser(me: Role) -> None:
    queue = me.broker.get_queue("lossy")
    for n in me.numbers():
        me.publish(queue, f"{me.who}-{n}")


def taker(name: str, pause: float = 0) -> Callable[[Role], None]:
    def take(me: Role) -> None:
        with me.broker.get_queue(name).subscribe() as consumer:
            for d in me.deliveries(consumer):
                reason = d.headers.get("x-death-reason", "")
                if reason:
                    me.log.put("d", d.headers["x-death-queue"], d.id, reason)
                me.ack(d)
                me.rest(pause)

    return take


ROLES: dict[str, tuple[int, Callable[[Role], None]]] = {
    "source": (2, source),
    "first": (2, first_stage),
    "second": (2, second_stage),
    "sink": (2, sink),
    "keyed-in": (2, in_order("keyed", KEYS)),
    "keyed-out": (3, any_order("keyed")),
    "strict-in": (1, in_order("strict", 1)),
    "strict-out": (2, any_order("strict")),
    "publisher": (2, publisher),
    "subscriber": (8, subscriber),
    "passer-by": (2, passer_by),
    "timer": (1, timer),
    "timed-out": (2, taker("timed", 0.02)),
    "timed-dead": (1, taker("timed.dead")),
    "work-in": (2, work_maker),
    "work-out": (3, worker),
    "work-dead": (1, taker("work.dead")),
    "lossy-in": (1, loser),
    "lossy-out": (1, taker("lossy", 0.05)),
    "lossy-dead": (1, taker("lossy.dead")),
}
