"""The accounts of features.py: what all its processes wrote, put together, and what is wrong with it.

    lost      a publish returned, and the message was neither settled nor became a dead letter, nor is it there
    after     delivered although an ack or forward of it had returned before
    twice     one id of `dedup_id` became two messages; or a forwarded message two in one place
    torn      of the subscriptions of a topic some have a message and some do not
    order     of one key a message was delivered after a later one
    late      delivered after its ttl; early: before it was due
    refused   published although publish had raised
    nowhere   nobody has published it
    above     a queue had more in it than its bound
    uncounted what is missing is not among what was counted as dropped
    untried   something that a run of that length should have come to has not happened

Each line is `kind time words`; see `roles.Log`.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

from overflow import BOUNDS, BYTES, PARKING, POLICIES
from roles import KEYS

NEWEST = 4  # of a queue that drops its oldest: far less than its max_depth
SLACK = 8  # redeliveries do not count towards max_depth; few can be there at a time
LONG_STOP = 0.8  # seconds; whoever sends on and has not moved for one loses its turn
FOREVER = 1 << 62


class Ledger:
    """All that the processes wrote, put together."""

    def __init__(self, folder: Path) -> None:
        self.bad: list[str] = []
        self.begun: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
        self.done: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        """target: label: when it was published, and its id"""
        self.refused: dict[str, set[str]] = defaultdict(set)
        self.got: dict[str, dict[int, list[tuple[int, int, str, bool]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        """queue: id: not before, logged at, label, redelivered"""
        self.acking: dict[str, set[int]] = defaultdict(set)
        self.acked: dict[str, dict[int, int]] = defaultdict(dict)
        self.dead: dict[str, dict[int, str]] = defaultdict(dict)
        self.batched: dict[str, set[str]] = defaultdict(set)
        """queue: labels that were published for sure, by ids that nobody knows"""
        self.rejecting: dict[str, dict[int, int]] = defaultdict(dict)
        self.rejected: dict[str, dict[int, int]] = defaultdict(dict)
        """queue: id: when"""
        self.lives: dict[str, list[tuple[int, str]]] = defaultdict(list)
        """queue: when it was Y made, E seen empty, X deleted"""
        self.most: dict[str, tuple[int, int, int]] = {}
        """queue: the most that were seen ready, of bytes, parked"""
        self.counts: dict[str, tuple[int, int]] = {}
        """queue: dropped, dead_lettered"""
        self.kills: Counter[str] = Counter()
        self.long_stops = 0
        for path in sorted(folder.iterdir()):
            with path.open() as lines:
                for line in lines:
                    if line.endswith("\n"):  # else its writer was killed at it
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
            self.got[queue][number].append((before, at, label, words[5:] == ["1"]))
        elif kind == "a":
            self.acking[words[0]].add(int(words[1]))
        elif kind == "A":
            self.acked[words[0]].setdefault(int(words[1]), at)
        elif kind == "d":
            self.dead[words[0]][int(words[1])] = words[2]
        elif kind == "B":
            self.batched[words[0]].add(words[1])
        elif kind == "r":
            self.rejecting[words[0]].setdefault(int(words[1]), at)
        elif kind == "R":
            self.rejected[words[0]].setdefault(int(words[1]), at)
        elif kind in "YEX":
            self.lives[words[0]].append((int(words[1]) if kind == "E" else at, kind))
        else:
            self.enter_harness(kind, words)

    def enter_harness(self, kind: str, words: list[str]) -> None:
        if kind == "m":
            seen = self.most.get(words[0], (0, 0, 0))
            ready, size, parked = (max(x, int(y)) for x, y in zip(seen, words[1:], strict=True))
            self.most[words[0]] = (ready, size, parked)
        elif kind == "c":
            self.counts[words[0]] = (int(words[1]), int(words[2]))
        elif kind == "k":
            self.kills[words[0]] += 1
        elif kind == "s":
            self.long_stops += float(words[1]) > LONG_STOP

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
        self.what_finds_it_full_is_kept()
        self.the_oldest_goes()

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
            for before, _, label, _ in events:
                if settled is not None and before > settled:
                    self.bad.append(f"after: {label} of {queue} {(before - settled) / 1e6:.1f} ms")

    def keys_are_in_order(self, queue: str, *, dropping: bool = False) -> None:
        """By the log: a delivery is logged before it is settled, and the next one is given out after.

        A topic's message has been published before it has its place in a queue: that of a publisher that died in between
        comes when its death is found, maybe after one of its successor. One that was being dropped by who died comes back.
        """
        known = self.done[queue[1:].partition("/")[0]] if queue.startswith("/") else None
        events = sorted(
            (at, label, again)
            for found in self.got[queue].values()
            for _, at, label, again in found
        )  # fmt: skip
        last: dict[str, int] = {}
        seen: set[str] = set()
        for _, label, again in events:
            key, _, n = label.rpartition("-")
            if queue.startswith("/events"):
                key += f".{int(n) % KEYS}"
            if key.endswith(".x"):
                continue
            came_back = dropping and again and label not in seen
            seen.add(label)
            if int(n) < last.get(key, -1) and (known is None or label in known) and not came_back:
                self.bad.append(f"order: {label} of {queue} after {last[key]}")
            last[key] = max(int(n), last.get(key, -1))

    def times_are_kept(self) -> None:
        labels = self.labels("timed")
        for label, (began, extra) in self.begun["timed"].items():
            delay, life = (float(x) * 1e9 for x in extra.split(":"))
            done = self.done["timed"].get(label)
            for number in labels[label]:
                for before, at, *_ in self.got["timed"][number]:
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

    # ---- full queues: what overflow.py does ------------------------------------------------------

    def what_finds_it_full_is_kept(self) -> None:
        for queue in ("slot", "phoenix", *(f"over.{policy}" for policy in POLICIES)):
            self.all_are_settled_or_rejected(queue)
        for queue in ("back", "lane"):
            found = self.labels(queue)
            settled = {x for x, ids in found.items() if ids & self.acking[queue]}
            self.bad += [f"lost: {x} of {queue}" for x in self.batched[queue] - settled]
            self.bad += [f"nowhere: {x} of {queue}" for x in set(found) - set(self.begun[queue])]
            self.bad += [f"twice: {x} in {queue}" for x, ids in found.items() if len(ids) > 1]
        self.keys_are_in_order("lane")
        # A sidecar that dies with a message in hand: it is the last of those that wait then.
        self.comes_in_order("slot", self.when_due("slot"), self.kills["sidecar"])
        when = {
            number: (at, self.rejected["over.block"].get(number, FOREVER))
            for number, at in self.rejecting["over.block"].items()
        }
        self.comes_in_order("block.dead", when, 0)
        for policy in POLICIES:
            self.letters_are_counted(f"over.{policy}", f"{policy}.dead")
        self.letters_follow_the_name("phoenix", "phoenix.dead")
        self.nobody_else("spill")
        self.missing_are_counted("spill")
        for queue, (ready, size, _) in self.most.items():
            if queue in BOUNDS and ready > BOUNDS[queue] + SLACK:
                self.bad.append(f"above: {ready} in {queue}, {BOUNDS[queue]} allowed")
            if queue in BYTES and size > 2 * BYTES[queue]:
                self.bad.append(f"above: {size} bytes in {queue}, {BYTES[queue]} allowed")

    def missing_are_counted(self, queue: str) -> None:
        """Purged, or the oldest: it is counted before it is gone."""
        gone = {number for _, number in self.done[queue].values()} - set(self.got[queue])
        dropped, _ = self.counts.get(queue, (0, 0))
        if len(gone) > dropped:
            self.bad.append(f"uncounted: {len(gone)} of {queue} are missing, {dropped} dropped")

    def nobody_else(self, queue: str) -> None:
        for label in self.labels(queue):
            if label not in self.begun[queue]:
                self.bad.append(f"nowhere: {label} of {queue}")
            if label in self.refused[queue]:
                self.bad.append(f"refused: {label} of {queue}")

    def all_are_settled_or_rejected(self, queue: str) -> None:
        self.nobody_else(queue)
        for label, (_, number) in self.done[queue].items():
            if number not in self.acking[queue] and number not in self.rejecting[queue]:
                self.bad.append(f"lost: {label} of {queue}")

    def when_due(self, queue: str) -> dict[int, tuple[int, int]]:
        """id: not before, not after"""
        found = {}
        for label, (at, number) in self.done[queue].items():
            began, extra = self.begun[queue][label]
            if extra:
                delay = int(float(extra) * 1e9)
                found[number] = (began + delay, at + delay)
        return found

    def comes_in_order(self, queue: str, when: dict[int, tuple[int, int]], excused: int) -> None:
        """What waits for room is sent on as it came. First deliveries, to one consumer at a time.

        It came at some time between the two that are known; who was surely later must not be here earlier.
        """
        first = sorted(
            (at, number) for number, found in self.got[queue].items()
            for _, at, _, again in found if not again and number in when
        )  # fmt: skip
        latest, before = 0, 0
        wrong = []
        for _, number in first:
            began, ended = when[number]
            if ended < latest:
                wrong.append(
                    f"order: {number} of {queue} {(latest - ended) / 1e6:.1f} ms, after {before}"
                )
            if began > latest:
                latest, before = began, number
        if len(wrong) > excused + 5 * self.long_stops:
            self.bad += wrong

    def letters_are_counted(self, queue: str, dead: str) -> None:
        """Who was surely rejected is a letter that was delivered, or one that is counted as dropped."""
        for number in self.got[dead]:
            if number not in self.rejecting[queue]:
                self.bad.append(f"nowhere: {number} in {dead}")
            if number in self.acked[queue]:
                self.bad.append(f"after: {number} of {queue} acked, and a dead letter")
        missing = set(self.rejected[queue]) - set(self.got[dead])
        dropped, _ = self.counts.get(dead, (0, 0))
        _, died = self.counts.get(queue, (0, 0))
        if len(missing) > dropped or (missing and dead == "block.dead"):
            self.bad.append(f"uncounted: {len(missing)} in {dead}, {dropped} dropped")
        # A letter whose killer dies is counted again by who does it again.
        again = sum(self.kills[who] for who in ("over-out", "over-dead", "sidecar", "supervisor"))
        most = len(set(self.rejecting[queue]) - set(self.got[dead])) + again
        if dead in self.counts and dropped > most:
            self.bad.append(f"uncounted: {dropped} of {dead} dropped, {most} at most are missing")
        if queue in self.counts and not (
            len(self.rejected[queue]) <= died <= len(self.rejecting[queue]) + again
        ):
            self.bad.append(f"uncounted: {died} died in {queue}, {len(self.rejected[queue])} did")

    def letters_follow_the_name(self, queue: str, dead: str) -> None:
        """Letters of a time in which their queue was there, and which ended with a look that found it empty, were delivered."""
        lives = sorted(self.lives[dead])
        for i, (made, kind) in enumerate(lives):
            if kind != "Y":
                continue
            rest = lives[i + 1 :]
            seen = [at for at, other in rest[:1] if other == "E"]
            until = seen[0] if seen else FOREVER if not rest else made
            for number, at in self.rejected[queue].items():
                began = self.rejecting[queue][number]
                if made < began and at < until and number not in self.got[dead]:
                    self.bad.append(f"lost: letter {number} of {queue}")

    def the_oldest_goes(self) -> None:
        for queue in ("hold.key", "hold.strict", "/held/latest"):
            self.keys_are_in_order(queue, dropping=True)
            self.nobody_else(queue) if queue[0] != "/" else None
        self.all_are_settled("hold.key")
        self.missing_are_counted("hold.strict")
        for queue, origin in (("hold.strict", "hold.strict"), ("/held/latest", "held")):
            newest = sorted(self.done[origin].values())[-NEWEST:]
            for _, number in newest:
                if number not in self.got[queue]:
                    self.bad.append(f"lost: {number} of {queue}, one of the newest")
        there = set(self.labels("/held/all"))
        self.bad += [f"lost: {x} is not in /held/all" for x in set(self.done["held"]) - there]
        self.bad += [
            f"torn: {x} is not in /held/all" for x in set(self.labels("/held/latest")) - there
        ]
        self.bad += [f"nowhere: {x} of held" for x in there - set(self.begun["held"])]

    def everything_was_tried(self, seconds: float) -> None:
        parked = {queue: self.most.get(queue, (0, 0, 0))[2] for queue in PARKING}
        if seconds >= 60:
            self.bad += [
                f"untried: nothing waited for room in {q}"
                for q, n in parked.items()
                if not n and (seconds >= 200 or q not in ("back", "lane"))
            ]  # more than a thousand in hand are rare on a busy machine
            self.bad += [f"untried: {q} dropped nothing" for q in ("drop.dead", "reject.dead", "bytes.dead",
                "hold.key", "hold.strict", "/held/latest", "spill") if not max(self.counts.get(q, (0, 0)))]  # fmt: skip
        elif seconds >= 10 and not any(parked.values()):
            self.bad.append("untried: nothing waited for room anywhere")

    def parked(self) -> str:
        found = [f"{self.most[q][2]} in {q}" for q in PARKING if q in self.most]
        return "at most parked: " + ", ".join(found)

    def messages(self) -> Counter[str]:
        return Counter(
            {
                "published": sum(len(found) for found in self.done.values()),
                "delivered": sum(len(e) for found in self.got.values() for e in found.values()),
                "acked": sum(len(found) for found in self.acked.values()),
                "dead letters": sum(len(found) for found in self.dead.values()),
            }
        )
