"""The accounts of features.py: what all its processes wrote, put together, and what is wrong with it.

    lost      a publish returned, and the message was neither settled nor became a dead letter, nor is it there
    after     delivered although an ack or forward of it had returned before
    twice     one id of `dedup_id` became two messages; or a forwarded message two in one place
    torn      of the subscriptions of a topic some have a message and some do not
    order     of one key a message was delivered after a later one
    late      delivered after its ttl; early: before it was due
    refused   published although publish had raised
    nowhere   nobody has published it

Each line is `kind time words`; see `roles.Log`.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

from roles import KEYS


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
        """By the log: a delivery is logged before it is settled, and the next one is given out after.

        A topic's message has been published before it has its place in a queue: that of a publisher that died in between
        comes when its death is found, maybe after one of its successor.
        """
        known = self.done[queue[1:].partition("/")[0]] if queue.startswith("/") else None
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
            if int(n) < last.get(key, -1) and (known is None or label in known):
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
