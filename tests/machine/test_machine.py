"""Three attachments that publish, consume and die, a clock moved by hand, against the reference: after
each step everything that can be seen has to be what the reference says. Over a segment alone, which is
quick, and over a broker, in which all goes the way of a user.

SHMQ_MACHINE_STEPS=100000 pytest tests/machine -k many_steps -n0: as long as you like.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from brokers import BrokerWorld
from draw import DEAD, KEYS, UNIT, clients, fields, picks, places, queue_names
from hand import Hand, Lease
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from reference import Note, Shelf
from rules_care import CareRules
from rules_topics import TopicRules
from world import RigWorld, World, ready_bytes

import shmq
from shmq.keywords import Ack

STEPS = 60
COUNTS = (
    "published", "delivered", "acked", "nacked", "rejected", "redelivered", "dead_lettered",
    "expired", "dropped", "recovered", "returned", "deduped", "forwarded",
)  # fmt: skip


class Machine(TopicRules, CareRules):
    # ---- publishing ------------------------------------------------------------------------

    def expect(self, shelf: Shelf, note: Note, delay: float) -> Note | str | None:
        """Look in the reference what a publish does: the message that it doubles, or an error."""
        if shelf.closed:
            return "QueueClosed"
        first = shelf.known(note.dedup_id)
        if first is not None:
            shelf.counts["deduped"] += 1
            return first
        if not delay and not shelf.make_room(len(note.payload)):
            return "QueueFull"
        return None

    @staticmethod
    def refused(wanted: Note | str | None, error: Exception) -> None:
        assert wanted == type(error).__name__, f"{error!r} instead of {wanted!r}"

    @staticmethod
    def same(first: Note, found: int) -> None:
        assert found in (first.id, -1) or first.id == -1
        first.id = max(first.id, found)

    def publish_one(self, name: str, given: dict[str, Any], size: int, publish: Any) -> None:
        shelf = self.shelves[name]
        if shelf.order != "fifo":
            given = {"key": KEYS[size % 3], **given}
        given = {**given, "priority": min(given.get("priority", 0), shelf.priorities - 1)}
        note = self.note(shelf, given, self.payload(size))
        wanted = self.expect(shelf, note, given.get("delay", 0))
        try:
            found = publish(note.payload, given)
        except (shmq.QueueFull, shmq.QueueClosed) as error:
            self.refused(wanted, error)
            return
        if wanted is None:
            note.id = found
            shelf.accept(note, given.get("delay", 0))
        else:
            assert isinstance(wanted, Note), wanted
            self.same(wanted, found)

    @rule(name=places, client=clients, given=fields, size=st.sampled_from([0, 1, 2, 20]))
    def publish(self, name: str, client: int, given: dict[str, Any], size: int) -> None:
        if name not in self.shelves:
            return
        if name == DEAD:
            given.pop("ttl", None)  # room that is made by expiry comes in an open order
        queue = self.handle(name, client)
        self.publish_one(name, given, size, lambda data, f: queue.publish(data, timeout=0, **f))

    @rule(name=queue_names, client=clients, given=fields, size=st.integers(0, 3))
    def loan(self, name: str, client: int, given: dict[str, Any], size: int) -> None:
        queue = self.handle(name, client)

        def publish(data: bytes, f: dict[str, Any]) -> int:
            with queue.loan(len(data), timeout=0, **f) as buffer:
                buffer[:] = data
            return -1  # a loan does not say its id

        self.publish_one(name, given, size, publish)

    @rule(name=places, client=clients, n=st.integers(1, 6), given=fields)
    def publish_many(self, name: str, client: int, n: int, given: dict[str, Any]) -> None:
        if name not in self.shelves:
            return
        shelf = self.shelves[name]
        given.pop("dedup_id", None)
        if name == DEAD:
            given.pop("ttl", None)
        given["priority"] = min(given.get("priority", 0), shelf.priorities - 1)
        messages: list[bytes | shmq.Message] = []
        notes = []
        for i in range(n):
            own = given if i % 2 else {}
            if shelf.order != "fifo":
                own = {**own, "key": KEYS[i % 3]}
            note = self.note(shelf, own, self.payload())
            messages.append(shmq.Message(note.payload, **own) if own else note.payload)
            notes.append((note, own.get("delay", 0)))
        error, went = "", 0
        try:
            went = self.handle(name, client).publish_many(messages, timeout=0)
        except (shmq.QueueFull, shmq.QueueClosed) as found:
            error = type(found).__name__
        done = 0
        for note, delay in notes:
            note.id = -1
            wanted = self.expect(shelf, note, delay)
            if wanted:
                assert wanted == error  # whose text says how many went
                return
            shelf.accept(note, delay)
            done += 1
        assert (error, went) == ("", done)

    # ---- consuming -------------------------------------------------------------------------

    @precondition(lambda self: len(self.hands) < 8)
    @rule(
        name=places,
        client=clients,
        ack=st.sampled_from(["manual", "manual", "auto", "none"]),
        prefetch=st.sampled_from([1, 1, 3]),
    )
    def open_consumer(self, name: str, client: int, ack: Ack, prefetch: int) -> None:
        if name not in self.shelves:
            return
        consumer = self.handle(name, client).subscribe(ack=ack, prefetch=prefetch)
        self.hands.append(Hand(self.shelves[name], consumer, client))
        self.hands[-1].prefetch = 1 if ack == "none" else prefetch

    def is_its_turn(self, hand: Hand) -> bool:
        return hand.group != "round-robin" or hand.taken <= min(
            other.taken for other in self.hands if other.shelf is hand.shelf and other.group
        )

    def lease_end(self, shelf: Shelf) -> float:
        return self.now() + shelf.ack_timeout if shelf.ack_timeout else math.inf

    @rule(pick=picks, n=st.sampled_from([1, 1, 1, 4]))
    def get(self, pick: int, n: int) -> None:
        """Have a consumer take something; one of those who can, if there are any."""
        full = [shelf for shelf in self.shelves.values() if shelf.new or shelf.back]
        if full and not any(hand.shelf in full for hand in self.hands):
            name, client = full[pick % len(full)].name, pick % 3
            consumer = self.handle(name, client).subscribe()
            self.hands.append(Hand(self.shelves[name], consumer, client))
        hands = [hand for hand in self.hands if hand.shelf in full or pick % 5 == 0] or self.hands
        if not hands:
            return
        hand = hands[pick % len(hands)]
        shelf, mode = hand.shelf, hand.consumer.ack_mode
        if mode == "auto":
            for lease in hand.had:
                if hand.holds(lease):
                    shelf.release(lease.note)
                    shelf.counts["acked"] += 1
            hand.had.clear()
        try:
            if n == 1 or hand.prefetch > 1 or hand.group:
                n = 1
                deliveries = [hand.consumer.get(timeout=0)]
            else:
                deliveries = hand.consumer.get_many(n, timeout=0)
        except shmq.QueueEmpty:
            deliveries = []
        except (shmq.QueueClosed, shmq.QueueNotFound) as error:
            assert hand.next(self.now()) is None
            over = shelf.closed and not shelf.everything()
            self.refused("QueueNotFound" if shelf.gone else "QueueClosed" if over else "", error)
            return
        wanted: list[Note] = []
        while len(wanted) < n and self.is_its_turn(hand):
            note = hand.next(self.now(), bool(wanted))
            if note is None:
                break
            hand.taken += 1
            wanted.append(note)
        got = [d.payload for d in deliveries], [note.payload for note in wanted]
        assert got[0] == got[1], f"next of {shelf.name}: {got[0]}, not {got[1]}; {shelf.options}"
        for note, d in zip(wanted, deliveries, strict=True):
            hand.compare(note, d, self.now())
            shelf.handed_out(note)
            if mode == "none":
                shelf.release(note)
            else:
                hand.had.append(Lease(note, d, self.lease_end(shelf)))

    def one(self, pick: int) -> tuple[Hand, Lease, bool]:
        """Some delivery that somebody was given: is its lease still held?"""
        having = [hand for hand in self.hands if hand.had]
        hand = having[pick % len(having)]
        lease = hand.had[pick // 7 % len(hand.had)]
        return hand, lease, hand.holds(lease)

    @precondition(lambda self: any(hand.had for hand in self.hands))
    @rule(
        pick=picks,
        how=st.sampled_from(["ack", "ack", "nack", "nack", "nack", "reject", "release", "touch"]),
        delay=st.sampled_from([None, None, 0, UNIT]),
        text=st.sampled_from([None, "boom"]),
    )
    def settle(self, pick: int, how: str, delay: float | None, text: str | None) -> None:
        hand, lease, held = self.one(pick)
        shelf, note = hand.shelf, lease.note
        if delay is None and shelf.retry_backoff % UNIT:
            delay = 0  # made along, with a backoff so short that real time would count
        arguments = {"nack": (delay,), "reject": (text,), "touch": (2 * UNIT,)}.get(how, ())
        try:
            getattr(lease.delivery, how)(*arguments)
        except shmq.StaleDelivery:
            assert not held
            hand.had.remove(lease)
            return
        assert held
        if how == "touch":
            lease.end = self.now() + 2 * UNIT if shelf.ack_timeout else math.inf
            return
        hand.had.remove(lease)
        if how == "ack":
            shelf.release(note)
            shelf.counts["acked"] += 1
        elif how == "nack":
            shelf.counts["nacked"] += 1
            if delay is None:
                delay = min(shelf.retry_backoff * 2**note.attempts, shelf.retry_backoff_max)
            shelf.come_back(note, True, delay)
        elif how == "release":
            shelf.counts["returned"] += 1
            shelf.come_back(note, True)
        elif shelf.gone:
            shelf.release(note)
        else:
            shelf.counts["rejected"] += 1
            shelf.release(note)
            note.attempts += 1
            note.error = text or note.error
            shelf.kill(note, "rejected")

    @precondition(lambda self: any(hand.had for hand in self.hands))
    @rule(pick=picks, name=queue_names, given=fields, own=st.booleans())
    def forward(self, pick: int, name: str, given: dict[str, Any], own: bool) -> None:
        hand, lease, held = self.one(pick)
        note = lease.note
        everywhere = [n for s in self.shelves.values() for n in s.everything()]
        own = own and sum(n.payload == note.payload for n in everywhere) == 1
        to, queue = self.shelves[name], self.handle(name, hand.client)
        if to.order != "fifo" and note.key is None:
            given = {"key": KEYS[pick % 3], **given}
        if "priority" in given:
            given["priority"] = min(given["priority"], to.priorities - 1)
        payload = None if own else self.payload()
        inherited = {
            "headers": note.headers,
            "priority": min(note.priority, to.priorities - 1),
            "key": note.key,
            "dedup_id": note.dedup_id,
        }
        put = self.note(to, {**inherited, **given}, note.payload if own else payload or b"")
        wanted: Note | str | None = "StaleDelivery"
        if held:
            wanted = self.expect(to, put, given.get("delay", 0))
        try:
            found = lease.delivery.forward(queue, payload, timeout=0, **given)
        except (shmq.StaleDelivery, shmq.QueueFull, shmq.QueueClosed) as error:
            if held:
                self.refused(wanted, error)
            elif isinstance(error, shmq.StaleDelivery):
                hand.had.remove(lease)
            return
        assert held
        hand.had.remove(lease)
        hand.shelf.release(note)
        hand.shelf.counts["acked"] += 1
        hand.shelf.counts["forwarded"] += 1
        if isinstance(wanted, Note):
            self.same(wanted, found)
        else:
            put.id = found
            to.accept(put, given.get("delay", 0))

    @precondition(lambda self: self.hands)
    @rule(pick=picks)
    def close_consumer(self, pick: int) -> None:
        hand = self.hands.pop(pick % len(self.hands))
        hand.consumer.close()
        shelf = hand.shelf

        def back() -> None:
            for note in [note for note, holder in shelf.held.items() if holder is hand]:
                if not shelf.gone:
                    shelf.counts["returned"] += 1
                shelf.come_back(note, note not in hand.ahead)

        if hand.passing:
            for note in [note for note, holder in shelf.held.items() if holder is hand]:
                shelf.release(note)
            if hand.passing in self.subs:
                self.forget(hand.passing)
            shelf.gone = True
        else:
            self.loosely(back)

    # What is worth more steps than one rule among many gets.
    publish_on = rule(name=queue_names, client=clients, given=fields)(
        lambda self, name, client, given: self.publish(name, client, given, 1)
    )
    publish_more = rule(name=queue_names, client=clients, n=st.integers(1, 6))(
        lambda self, name, client, n: self.publish_many(name, client, n, {})
    )
    get_on = rule(pick=picks, n=st.just(1))(lambda self, pick, n: self.get(pick, n))
    get_more = rule(pick=picks, n=st.just(2))(lambda self, pick, n: self.get(pick, n))

    @rule(name=places, client=clients, n=st.integers(1, 4))
    def come_due(self, name: str, client: int, n: int) -> None:
        """Delayed messages, also for a queue that has become full meanwhile."""
        for _ in range(n):
            self.publish(name, client, {"delay": UNIT, "ttl": math.inf}, 1)
        self.publish(name, client, {}, 1)
        self.advance(1)
        self.fire()

    @rule(
        pick=picks,
        how=st.sampled_from(["ack", "nack", "reject"]),
        delay=st.sampled_from([None, 0]),
        n=st.integers(1, 4),
    )
    def settle_on(self, pick: int, how: str, delay: float | None, n: int) -> None:
        for _ in range(n):
            self.get(pick, 1)
            self.catch_up()
            if any(hand.had for hand in self.hands):
                self.settle(pick // 3, how, delay, None)

    @rule(
        name=queue_names, pick=picks, n=st.integers(1, 6), how=st.sampled_from(["reject", "nack"])
    )
    def doom(self, name: str, pick: int, n: int, how: str) -> None:
        """Dead letters, many at a time."""
        self.publish_many(name, pick % 3, n, {})
        self.settle_on(pick, how, 0, n)

    @rule(pick=picks, name=queue_names, given=fields)
    def forward_on(self, pick: int, name: str, given: dict[str, Any]) -> None:
        self.get(pick, 1)
        self.catch_up()
        if any(hand.had for hand in self.hands):
            self.forward(pick // 3, name, given, True)

    def catch_up(self) -> None:
        """In the midst of a step: what waited for room may have moved on."""
        for name, shelf in self.shelves.items():
            if shelf.blurred:
                shelf.follow(self.ready(shelf), self.handle(name, self.turn % 3).depth())

    # ---- what has to be so -----------------------------------------------------------------

    @invariant()
    def all_is_as_the_reference_says(self) -> None:
        for name, shelf in self.shelves.items():
            queue = self.handle(name, self.turn % 3)
            stats = queue.stats()
            found = self.ready(shelf)
            blurred = shelf.blurred
            if blurred:
                shelf.follow(found, queue.depth())
            counted = (stats.ready, stats.unsettled, stats.delayed, stats.parked)
            wanted = (
                len(shelf.new) + len(shelf.back),
                len(shelf.held),
                len(shelf.delayed),
                len(shelf.parked),
            )
            assert counted == wanted, (
                f"ready, unsettled, delayed, parked of {name}: {counted}, not {wanted}; "
                f"{shelf.options}"
            )
            depth = queue.depth(), shelf.depth()
            assert blurred or depth[0] == depth[1], f"depth of {name}: {depth}; {shelf.options}"
            order = [note.payload for note in shelf.ready_in_order()]
            assert found == order, f"order of {name}: {found}, not {order}; {shelf.options}"
            for each in COUNTS:
                figures = getattr(stats, each), shelf.counts[each]
                assert figures[0] == figures[1], f"{each} of {name}: {figures}; {shelf.options}"
            if shelf.max_bytes:
                assert ready_bytes(queue) == sum(map(len, order))
        if self.turn % 10 == 0:
            assert self.world.rig.audit() == {}
        self.turn += 1


def run(world: Callable[[], World], steps: int, derandomize: bool) -> None:
    run_state_machine_as_test(
        lambda: Machine(world()),  # type: ignore[arg-type]  # makes one
        settings=settings(
            max_examples=max(1, steps // STEPS),
            stateful_step_count=STEPS,
            derandomize=derandomize,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            print_blob=True,
        ),
    )


def many() -> int:
    return int(os.environ.get("SHMQ_MACHINE_STEPS", "12000"))


@pytest.mark.timeout(600)
def test_a_segment_does_what_the_reference_says() -> None:
    run(RigWorld, STEPS * 40, derandomize=True)


@pytest.mark.timeout(600)
def test_a_broker_does_what_the_reference_says(broker_names: Callable[[], str]) -> None:
    run(lambda: BrokerWorld(broker_names()), STEPS * 6, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_segment_does_so_for_many_steps() -> None:
    run(RigWorld, many(), derandomize=False)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_broker_does_so_for_many_steps(broker_names: Callable[[], str]) -> None:
    run(lambda: BrokerWorld(broker_names()), many(), derandomize=False)
