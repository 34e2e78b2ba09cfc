"""Chaos over all features at once: every process of a broker and its users is killed and stopped at random, and at
the end every message is accounted for.

    python tests/crash/features.py --seconds 300 --seed 7

Each process writes what it is about to do and what it was told into a file of its own, outside the segment, by single
appends: what a dead one left there is true. `Ledger` reads these files when all is over:

    lost      a publish returned, and the message was neither settled nor became a dead letter, nor is it there
    after     delivered although an ack or forward of it had returned before
    twice     one id of `dedup_id` became two messages; or a forwarded message two in one place
    torn      of the subscriptions of a topic some have a message and some do not
    order     of one key a message was delivered after a later one
    late      delivered after its ttl; early: before it was due
    refused   published although publish had raised
    nowhere   nobody has published it
    hung      a process that did nothing for a long time, or did not end when told to
    left      messages that nobody could take; what the audit finds
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import random
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import shmq
from shmq._native import ffi, lib

HUNG_S = 20.0
DRAIN_S = 60.0
FOREVER = {"max_retries": None, "retry_backoff": 0.005, "retry_backoff_max": 0.005}
KEYS = 6


class Log:
    """Appends of one process: what it is about to do, what it was told."""

    def __init__(self, folder: Path, who: str) -> None:
        self.path = folder / who
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._beat = 0.0

    def put(self, *words: object) -> None:
        text = " ".join(map(str, (words[0], time.monotonic_ns(), *words[1:])))
        os.write(self._fd, text.encode() + b"\n")

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

    def publish(self, target: Any, label: str, extra: str = "", **fields: Any) -> bool:
        self.log.put("p", target.name, label, extra)
        payload = label.encode() + b" " * self.dice.choice((0, 0, 50, 3000, 20_000))
        try:
            number = target.publish(payload, timeout=2, **fields)
        except shmq.QueueFull:
            self.log.put("x", target.name, label)
            return False
        self.log.put("P", target.name, label, number)
        return True

    def deliveries(self, consumer: Any, many: int = 1, flag: str = "the-end") -> Iterator[Any]:
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
            for d in got:
                label = bytes(d.view[:40]).split()[0].decode()
                self.log.put("g", d.queue, label, d.id, before, d.attempt)
            yield from got
            self.rest(0.003)

    def ack(self, d: Any) -> None:
        self.log.put("a", d.queue, d.id)
        d.ack()
        self.log.put("A", d.queue, d.id)

    def consume(self, consumer: Any, many: int = 1) -> None:
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
    for group, dispatch in (("ready", "ready"), ("turns", "round-robin")):
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


def stage(me: Role, origin: str, target: Any) -> None:
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
        name, dispatch = (("ready", "ready"), ("turns", "round-robin"))[number % 2]
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


# ---- chaos --------------------------------------------------------------------------------------


class Chaos:
    def __init__(self, folder: Path, seed: int, rate: float) -> None:
        self.folder, self.rate = folder, rate
        self.dice = random.Random(seed)
        self.name = f"features-{os.getpid()}-{secrets.token_hex(3)}"
        self.pids: dict[str, int] = {}
        self.stopped: dict[int, float] = {}
        self.seen: dict[str, tuple[int, float]] = {}
        self.figures: Counter[str] = Counter()
        self.bad: list[str] = []
        self.fresh: shmq.Broker | None = None

    def run(self, seconds: float) -> None:
        self.broker = shmq.Broker(self.name, memory_limit="256MB")
        try:
            make(self.broker)
            for role, (n, _) in ROLES.items():
                for i in range(n):
                    self.start(f"{role}.{i}")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                self.strike()
                self.tend()
                time.sleep(self.dice.random() * 2 / self.rate)
            self.finish()
        finally:
            for pid in self.pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            self.broker.start()
            self.broker.shutdown(timeout=0)

    def start(self, who: str) -> None:
        seed = self.dice.randrange(1 << 30)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                faulthandler.register(signal.SIGUSR1)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                me = Role(self.name, self.folder, who, seed)
                ROLES[who.rpartition(".")[0]][1](me)
                me.broker.close()
                code = 0
            except BaseException:
                sys.stderr.write(f"{who}:\n{traceback.format_exc()}")
                sys.stderr.flush()
            finally:
                os._exit(code)
        self.pids[who] = pid
        self.seen[who] = (0, time.monotonic())

    def strike(self) -> None:
        chance = self.dice.random()
        if chance < 0.06:
            stats = self.broker.stats()
            helper = stats.sidecar_pid if chance < 0.04 else stats.supervisor_pid
            if helper is not None and self.strike_helper(helper, kill=chance < 0.05):
                self.figures["sidecar" if chance < 0.04 else "supervisor"] += 1
                if chance >= 0.05:
                    self.stopped[helper] = time.monotonic() + self.dice.random()
            return
        who = self.dice.choice(list(self.pids))
        pid = self.pids[who]
        if chance < 0.25 and pid not in self.stopped:
            os.kill(pid, signal.SIGSTOP)
            self.stopped[pid] = time.monotonic() + self.dice.random() * 0.5
            self.figures["stops"] += 1
        elif chance >= 0.25:
            os.kill(pid, signal.SIGKILL)
            self.figures["kills"] += 1

    def strike_helper(self, pid: int, *, kill: bool) -> bool:
        """Not our child: it may be gone, and its pid another process's by now."""
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"shmq.supervisor" not in words or self.name.encode() not in words:
                return False
            signal.pidfd_send_signal(fd, signal.SIGKILL if kill else signal.SIGSTOP)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def tend(self) -> None:
        now = time.monotonic()
        for pid, until in list(self.stopped.items()):
            if until < now:
                del self.stopped[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        for who, pid in list(self.pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.stopped.pop(pid, None)
                if status != signal.SIGKILL:
                    self.bad.append(f"{who} ended with {status:#x}")
                self.start(who)
            else:
                self.is_alive(who, pid, now)
        if self.dice.random() < 0.1 and self.broker.stats().supervisor_pid is None:
            self.broker.start()

    def is_alive(self, who: str, pid: int, now: float) -> None:
        size = (self.folder / who).stat().st_size if (self.folder / who).exists() else 0
        before, since = self.seen[who]
        if size != before or pid in self.stopped:
            self.seen[who] = (size, now)
        elif now - since > HUNG_S:
            self.bad.append(f"hung: {who}")
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.2)
            os.kill(pid, signal.SIGKILL)
            self.seen[who] = (size, now)

    def finish(self) -> None:
        """No more is published; all is taken; then all end."""
        for pid in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.broker.start()
        (self.folder / "no-more").touch()
        self.tend_to_the_end("no-more", ("source", "-in", "publisher", "passer-by", "timer"))
        deadline = time.monotonic() + DRAIN_S
        left, empty = ["?"], 0
        while (
            empty < 2 and time.monotonic() < deadline
        ):  # twice: one look may miss what moves on meanwhile
            time.sleep(0.1)
            left = [
                f"{q.name}: {q.ready} ready, {q.unsettled} unsettled, {q.delayed} delayed"
                for q in self.broker.stats().streams()
                if q.ready + q.unsettled + q.delayed
            ]
            empty = 0 if left else empty + 1
            for who, pid in list(self.pids.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    if status != signal.SIGKILL:
                        self.bad.append(f"{who} ended with {status:#x} before the end")
                    self.start(who)
        self.bad += [f"left: {text}" for text in left]
        (self.folder / "the-end").touch()
        self.tend_to_the_end("the-end", ("",))
        client = self.broker._client
        lib.shmq_reap(client.ctx, 0)
        lib.shmq_queue_collect(client.ctx)
        report = ffi.new("shmq_audit_report *")
        client.check(lib.shmq_audit(client.ctx, report), "audit")
        names = ("orphans", "unlinked", "dangling", "limbo", "attached", "fans", "held", "bad")
        self.bad += [f"audit: {n} {getattr(report, n)}" for n in names if getattr(report, n)]
        held = sum(report.states[i] for i in range(16) if i not in (lib.SHMQ_VOID, lib.SHMQ_FREE))
        if held and not left:
            self.bad.append(f"leaked: {held} blocks, states {list(report.states)}")
        if self.broker.stats().corrupt:
            self.bad.append(f"corrupt: {self.broker.stats().corrupt}")

    def tend_to_the_end(self, flag: str, parts: tuple[str, ...]) -> None:
        deadline = time.monotonic() + HUNG_S
        waiting = {w: p for w, p in self.pids.items() if any(x in w for x in parts)}
        while waiting and time.monotonic() < deadline:
            for who, pid in list(waiting.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    del waiting[who], self.pids[who]
                    if status not in (0, signal.SIGKILL):
                        self.bad.append(f"{who} ended with {status:#x}")
            time.sleep(0.02)
        for who, pid in waiting.items():
            self.bad.append(f"hung: {who} after {flag}")
            os.kill(pid, signal.SIGUSR1)


# ---- accounts -----------------------------------------------------------------------------------


class Ledger:
    """All that the processes wrote, put together."""

    def __init__(self, folder: Path) -> None:
        self.bad: list[str] = []
        self.begun: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
        self.done: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        """target: label: when it was published, and its id"""
        self.refused: dict[str, set[str]] = defaultdict(set)
        self.got: dict[str, dict[int, list[tuple[int, int, str]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        """queue: id: not before, logged at, label"""
        self.acking: dict[str, set[int]] = defaultdict(set)
        self.acked: dict[str, dict[int, int]] = defaultdict(dict)
        self.dead: dict[str, dict[int, str]] = defaultdict(dict)
        for path in sorted(folder.iterdir()):
            with path.open() as lines:
                for line in lines:
                    kind, at, *words = line.split()
                    self.enter(kind, int(at), words)

    def enter(self, kind: str, at: int, words: list[str]) -> None:
        if kind == "p":
            self.begun[words[0]].setdefault(words[1], (at, words[2] if len(words) > 2 else ""))
        elif kind == "P":
            self.done[words[0]].setdefault(words[1], (at, int(words[2])))
            self.refused[words[0]].discard(words[1])
        elif kind == "x":
            self.refused[words[0]].add(words[1])
        elif kind == "g":
            queue, label = map(sys.intern, words[:2])
            number, before = int(words[2]), int(words[3])
            self.got[queue][number].append((before, at, label))
        elif kind == "a":
            self.acking[words[0]].add(int(words[1]))
        elif kind == "A":
            self.acked[words[0]].setdefault(int(words[1]), at)
        elif kind == "d":
            self.dead[words[0]][int(words[1])] = words[2]

    def check(self) -> None:
        for queue in ("keyed", "strict", "timed", "work", "lossy"):
            self.all_are_settled(queue)
        for queue in self.got:
            self.nothing_comes_after_its_ack(queue)
        for queue in ("keyed", "strict"):
            self.keys_are_in_order(queue)
        self.keys_are_in_order("/events.a/keyed")
        self.times_are_kept()
        self.pipeline_is_exact()
        self.fan_outs_are_whole()

    def labels(self, queue: str) -> dict[str, set[int]]:
        found: dict[str, set[int]] = defaultdict(set)
        for number, events in self.got[queue].items():
            found[events[0][2]].add(number)
        return found

    def all_are_settled(self, queue: str) -> None:
        for label, (_, number) in self.done[queue].items():
            dead = number in self.dead[queue]
            if number not in self.acking[queue] and not dead:
                self.bad.append(f"lost: {label} of {queue}")
            if number in self.acked[queue] and dead:
                self.bad.append(f"after: {label} of {queue} acked, and a dead letter")
        for label in self.labels(queue):
            if label not in self.begun[queue]:
                self.bad.append(f"nowhere: {label} of {queue}")
            if label in self.refused[queue]:
                self.bad.append(f"refused: {label} of {queue}")

    def nothing_comes_after_its_ack(self, queue: str) -> None:
        for number, events in self.got[queue].items():
            settled = self.acked[queue].get(number)
            for before, _, label in events:
                if settled is not None and before > settled:
                    self.bad.append(f"after: {label} of {queue} {(before - settled) / 1e6:.1f} ms")

    def keys_are_in_order(self, queue: str) -> None:
        """By the log: a delivery is logged before it is settled, and the next one is given out after."""
        events = sorted(
            (at, label)
            for found in self.got[queue].values()
            for _, at, label in found
        )  # fmt: skip
        last: dict[str, int] = {}
        for _, label in events:
            key, _, n = label.rpartition("-")
            if queue.startswith("/"):
                key += f".{int(n) % KEYS}"
            if int(n) < last.get(key, -1):
                self.bad.append(f"order: {label} of {queue} after {last[key]}")
            last[key] = max(int(n), last.get(key, -1))

    def times_are_kept(self) -> None:
        labels = self.labels("timed")
        for label, (began, extra) in self.begun["timed"].items():
            delay, life = (float(x) * 1e9 for x in extra.split(":"))
            done = self.done["timed"].get(label)
            for number in labels[label]:
                for before, at, _ in self.got["timed"][number]:
                    if done and before > done[0] + life:
                        self.bad.append(f"late: {label} {(before - done[0] - life) / 1e6:.1f} ms")
                    if at < began + delay:
                        self.bad.append(f"early: {label} {(began + delay - at) / 1e6:.3f} ms")
        for number, reason in self.dead["timed"].items():
            if reason != "expired":
                self.bad.append(f"nowhere: {number} of timed is dead by {reason}")

    def pipeline_is_exact(self) -> None:
        for place in ("in", "mid", "/done/one", "/done/two"):
            found = self.labels(place)
            for label, numbers in found.items():
                if len(numbers) > 1:
                    self.bad.append(f"twice: {label} in {place} as {sorted(numbers)}")
            for label in self.done["in"]:
                if label not in found:
                    self.bad.append(f"lost: {label} did not come to {place}")

    def fan_outs_are_whole(self) -> None:
        whole = ["audit", "keyed", "all", "ready", "turns"]
        places = ["/events.*/all" if name == "all" else f"/events.a/{name}" for name in whole]
        seen = {place: set(self.labels(place)) for place in places}
        everything = set().union(*seen.values())
        for place in places:
            self.bad += [f"torn: {label} is not in {place}" for label in everything - seen[place]]
            self.bad += [
                f"lost: {label} is not in {place}"
                for label in set(self.done["events.a"]) - seen[place]
            ]
        even = {label for label in everything if int(label.rpartition("-")[2]) % 2 == 0}
        if set(self.labels("/events.a/even")) != even:
            self.bad.append(f"torn: even ones {even ^ set(self.labels('/events.a/even'))}")
        self.bad += [f"refused: {x}" for x in self.refused["events.a"] & everything]
        self.bad += [f"nowhere: {x}" for x in everything - set(self.begun["events.a"])]
        for place in [name for name in self.got if "/~" in name]:
            self.is_gapless(place, everything)

    def is_gapless(self, place: str, everything: set[str]) -> None:
        numbers: dict[str, set[int]] = defaultdict(set)
        for label in self.labels(place):
            who, _, n = label.rpartition("-")
            numbers[who].add(int(n))
        for who, ns in numbers.items():
            # Levels let later ones overtake; of level 0 all are there up to its last one.
            level = {n for n in ns if n % 3 == 0}
            if level:
                missing = set(range(min(level), max(level) + 1, 3)) - level
                bad = [f"{who}-{n}" for n in missing if f"{who}-{n}" in everything]
                self.bad += [f"torn: {label} is missing in {place}" for label in bad]

    def messages(self) -> Counter[str]:
        return Counter(
            {
                "published": sum(len(found) for found in self.done.values()),
                "delivered": sum(len(e) for found in self.got.values() for e in found.values()),
                "acked": sum(len(found) for found in self.acked.values()),
                "dead letters": sum(len(found) for found in self.dead.values()),
            }
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="chaos over all features at once")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 30))
    parser.add_argument("--rate", type=float, default=40, help="deaths and stops per second")
    parser.add_argument("--keep", type=Path, help="where the logs stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        chaos = Chaos(folder, given.seed, given.rate)
        chaos.run(given.seconds)
        for flag in ("no-more", "the-end"):
            (folder / flag).unlink(missing_ok=True)
        ledger = Ledger(folder)
        ledger.check()
    bad = chaos.bad + ledger.bad
    print(*sorted(bad)[:60], sep="\n")
    counts = ", ".join(f"{n} {what}" for what, n in (chaos.figures + ledger.messages()).items())
    print(f"seed {given.seed}, {given.seconds:g} s: {counts}; {len(bad)} violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
