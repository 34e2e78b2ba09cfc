"""A segment in this process, three attachments that publish, consume and die, a clock moved by hand,
against the reference: after each step everything that can be seen has to be what the reference says.

SHMQ_MACHINE_STEPS=100000 pytest tests/machine -k many_steps -n0: as long as you like.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from draw import (
    CLIENTS,
    KEYS,
    QUEUES,
    TOPICS,
    UNIT,
    clients,
    fields,
    filters,
    options,
    picks,
    queue_names,
)
from hand import Hand, Lease
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from reference import Note, Shelf
from rig import memory
from world import Clock, another, die, end_leases, fire, lanes_differ, ready_bytes, tell_apart

import shmq
from shmq._native import lib
from shmq.group import ConsumerGroup
from shmq.queue import Queue
from shmq.topic import Topic, subscribe_pattern, unsubscribe

NS = 1_000_000_000
STEPS = 60
COUNTS = (
    "published", "delivered", "acked", "nacked", "rejected", "redelivered", "dead_lettered",
    "expired", "dropped", "recovered", "returned", "deduped", "forwarded",
)  # fmt: skip


class SegmentMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self.rig = self._stack.enter_context(memory())
        self.clock = Clock(self.rig)
        self._stack.callback(self.clock.close)
        tell_apart(self.clock)
        self.clients = [self.rig.client, another(self.rig), another(self.rig)]
        self.shelves: dict[str, Shelf] = {}
        self.handles: dict[tuple[str, int], Any] = {}
        self.topics: dict[str, Any] = {}
        self.subs: dict[str, tuple[str, dict[str, Any] | None, int | None]] = {}
        """subscription: topic or pattern, filter, whose end it ends with"""
        self.hands: list[Hand] = []
        self.number = 0
        self.turn = 0

    @initialize(drawn=st.lists(options, min_size=3, max_size=3), depth=st.sampled_from([2, 100]))
    def begin(self, drawn: list[dict[str, Any]], depth: int) -> None:
        while not lanes_differ(self.rig, KEYS):
            KEYS[:] = [key + "'" for key in KEYS]
        self.make("dead", {"max_depth": depth, "ttl": None, "max_retries": 0})
        for name, chosen in zip(QUEUES, drawn, strict=True):
            self.make(name, chosen)
        for name in TOPICS:
            self.topics[name] = self.rig.topic(name, ttl=None)

    def teardown(self) -> None:
        try:
            for hand in self.hands:
                hand.consumer.close()
            assert self.rig.audit() == {}
        finally:
            self.hands = []
            for client in self.clients[1:]:
                client.detach()
            self.handles.clear()
            self.topics.clear()
            self._stack.close()

    # ---- what is there ---------------------------------------------------------------------

    def now(self) -> float:
        return self.clock.now() / NS

    def make(self, name: str, chosen: dict[str, Any]) -> None:
        chosen = dict(chosen)
        dead = self.shelves.get("dead") if chosen.pop("dead_letter", None) else None
        queue = self.rig.queue(
            name,
            dead_letter=self.handles["dead", 0] if dead else None,
            retry_jitter=0,
            **chosen,
        )
        self.shelves[name] = Shelf(name, self.full(chosen, dead), self.now, dead)
        for i, client in enumerate(self.clients):
            self.handles[name, i] = Queue(client, name, queue._qref)

    @staticmethod
    def full(chosen: dict[str, Any], dead: Shelf | None) -> dict[str, Any]:
        found = vars(shmq.QueueOptions(retry_jitter=0.0, **chosen)).copy()
        found["dead_letter"] = dead.name if dead else None
        return found

    def handle(self, name: str, client: int) -> Any:
        if (name, client) not in self.handles:
            self.handles[name, client] = Queue(self.clients[client], name)
        return self.handles[name, client]

    def topic(self, name: str, client: int) -> Topic:
        return Topic(self.clients[client], name, self.topics[name]._qref)

    def note(self, shelf: Shelf, given: dict[str, Any], payload: bytes) -> Note:
        now = self.now()
        ttl = given.get("ttl", shelf.ttl)
        return Note(
            id=0,
            payload=payload,
            headers=dict(given.get("headers", {})),
            priority=given.get("priority", 0),
            key=given.get("key"),
            dedup_id=given.get("dedup_id"),
            published=now,
            expires=now + ttl if ttl is not None else math.inf,
        )

    def payload(self, size: int = 0) -> bytes:
        self.number += 1
        return b"%d" % self.number + b"." * size

    def loosely(self, step: Callable[[], None]) -> None:
        """Do what the reference does about many messages at once; the caller has done the real one."""
        everything = list(self.shelves.values())
        for shelf in everything:
            shelf.loosen()
        step()
        for shelf in everything:
            if shelf.gone:
                shelf.arrivals = None
                continue
            shelf.reconcile(self.ready(shelf))

    def ready(self, shelf: Shelf) -> list[bytes]:
        return [message.payload for message in self.handle(shelf.name, 0).peek(1000)]

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

    @rule(name=queue_names, client=clients, given=fields, size=st.sampled_from([0, 1, 2, 20]))
    def publish(self, name: str, client: int, given: dict[str, Any], size: int) -> None:
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

    @rule(name=queue_names, client=clients, n=st.integers(1, 6), given=fields)
    def publish_many(self, name: str, client: int, n: int, given: dict[str, Any]) -> None:
        shelf = self.shelves[name]
        given.pop("dedup_id", None)
        given["priority"] = min(given.get("priority", 0), shelf.priorities - 1)
        messages: list[Any] = []
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

    # ---- topics ----------------------------------------------------------------------------

    @rule(
        source=st.sampled_from(["t.a", "t.b", "t.*", "#"]),
        name=st.sampled_from(["s0", "s1", None]),
        client=clients,
        chosen=options,
        overflow=st.sampled_from(["block", "drop-oldest", "disconnect"]),
        wanted=filters,
        ephemeral=st.booleans(),
    )
    def subscribe(
        self, source: str, name: str | None, client: int, chosen: dict[str, Any], overflow: str,
        wanted: Any, ephemeral: bool,
    ) -> None:  # fmt: skip
        if len(self.subs) >= 5 or len(self.hands) >= 8:
            return
        full_name = f"/{source}/{name}"
        if full_name in self.subs and not self.shelves[full_name].closed:
            consumer = self.subscribed(source, name, client, {})
            self.hands.append(Hand(self.shelves[full_name], consumer, client))
            return
        chosen = {**chosen, "overflow": overflow, "retry_jitter": 0}
        chosen["dead_letter"] = None
        how = {**chosen, "filter": wanted, "ephemeral": True if ephemeral else None}
        if full_name in self.subs:  # cut off: begins anew
            self.shelves[full_name].gone = True
            for i in CLIENTS:
                self.handles.pop((full_name, i), None)
        consumer = self.subscribed(source, name, client, how)
        full_name = consumer.queue_name
        mortal = ephemeral or name is None
        del chosen["retry_jitter"]
        shelf = Shelf(full_name, self.full(chosen, None), self.now)
        self.shelves[full_name] = shelf
        self.subs[full_name] = (source, wanted, client if mortal else None)
        hand = Hand(shelf, consumer, client)
        hand.passing = full_name if name is None else None
        self.hands.append(hand)

    def subscribed(self, source: str, name: str | None, client: int, how: Any) -> Any:
        if source in TOPICS:
            return self.topic(source, client).subscribe(name, **how)
        return subscribe_pattern(self.clients[client], source, name, **how)

    def forget(self, full_name: str) -> None:
        self.shelves.pop(full_name).gone = True
        self.subs.pop(full_name, None)
        for i in CLIENTS:
            self.handles.pop((full_name, i), None)

    @rule(pick=picks)
    def unsubscribe(self, pick: int) -> None:
        named = [name for name in self.subs if "~" not in name]
        if not named:
            return
        full_name = named[pick % len(named)]
        source, _, name = full_name[1:].partition("/")
        unsubscribe(self.rig.client, source, name)
        self.forget(full_name)

    @rule(
        topic=st.sampled_from(TOPICS), client=clients, given=fields, size=st.sampled_from([0, 30])
    )
    def publish_topic(self, topic: str, client: int, given: dict[str, Any], size: int) -> None:
        given = {"key": KEYS[(size + self.number) % 3], **given}
        payload = self.payload(size)
        delay = given.get("delay", 0)
        going, full, doubles = [], False, set()
        for name in sorted(self.subs, key=self.record_number):
            source, wanted, _ = self.subs[name]
            shelf = self.shelves[name]
            if source not in (topic, "t.*", "#") or shelf.closed or full:
                continue
            headers = given.get("headers", {})
            if wanted and not all(
                k in headers and headers[k] == v and type(headers[k]) is type(v)
                for k, v in wanted.items()
            ):
                continue
            note = self.note(shelf, given, payload)
            first = shelf.known(note.dedup_id)
            if first is None and not delay and not shelf.room(size + len(b"%d" % self.number)):
                if shelf.overflow == "disconnect":
                    shelf.closed = True
                    continue
                full = not shelf.make_room(len(payload))
            going.append((shelf, note, first))
        try:
            found = self.topic(topic, client).publish(payload, timeout=0, **given)
        except shmq.QueueFull:
            assert full
            return
        assert not full
        for shelf, note, first in going:
            if first is not None:
                shelf.counts["deduped"] += 1
                doubles.add(first.id)
                continue
            note.id = found
            shelf.accept(note, delay)
        if going and all(first is not None for _, _, first in going):
            assert found in doubles or -1 in doubles

    def record_number(self, name: str) -> int:
        return int(self.handle(name, 0)._qref & 0xFFFF)

    # ---- consuming -------------------------------------------------------------------------

    @precondition(lambda self: len(self.hands) < 8)
    @rule(
        name=queue_names | st.just("dead"),
        client=clients,
        ack=st.sampled_from(["manual", "manual", "auto", "none"]),
        prefetch=st.sampled_from([1, 1, 3]),
    )
    def open_consumer(self, name: str, client: int, ack: str, prefetch: int) -> None:
        consumer = self.handle(name, client).subscribe(ack=ack, prefetch=prefetch)
        self.hands.append(Hand(self.shelves[name], consumer, client))
        self.hands[-1].prefetch = 1 if ack == "none" else prefetch

    @precondition(lambda self: len(self.hands) < 8)
    @rule(name=queue_names | st.sampled_from(["t.a/g"]), client=clients, turns=st.booleans())
    def join(self, name: str, client: int, turns: bool) -> None:
        source: Any = self.topic("t.a", client) if "/" in name else self.handle(name, client)
        dispatch = "round-robin" if turns else "ready"
        if "/" in name and self.shelves.get(f"/{name}") is None:
            shelf = Shelf(f"/{name}", self.full({"ttl": None}, None), self.now)
            self.shelves[shelf.name] = shelf
            self.subs[shelf.name] = ("t.a", None, None)
        shelf = self.shelves[f"/{name}" if "/" in name else name]
        here = [hand for hand in self.hands if hand.group and hand.shelf is shelf]
        try:
            group = ConsumerGroup.on(self.clients[client], "g", source, dispatch, {})
            consumer = group.add_consumer()
        except shmq.OptionsMismatch:
            assert any(hand.group != dispatch for hand in here)
            return
        assert all(hand.group == dispatch for hand in here)
        assert len(group.members()) == len(here) + 1
        hand = Hand(shelf, consumer, client)
        hand.group, hand.taken = dispatch, min((hand.taken for hand in here), default=0)
        self.hands.append(hand)

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
            note = hand.next(self.now())
            if note is None:
                break
            hand.taken += 1
            wanted.append(note)
        assert [d.payload for d in deliveries] == [note.payload for note in wanted], (
            f"next of {shelf.name} {shelf.options}"
        )
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
        how=st.sampled_from(["ack", "ack", "nack", "nack", "nack", "reject", "touch"]),
        delay=st.sampled_from([None, None, 0, UNIT]),
        text=st.sampled_from([None, "boom"]),
    )
    def settle(self, pick: int, how: str, delay: Any, text: Any) -> None:
        hand, lease, held = self.one(pick)
        shelf, note = hand.shelf, lease.note
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
            pause = delay
            if delay is None:
                pause = min(shelf.retry_backoff * 2**note.attempts, shelf.retry_backoff_max)
            shelf.come_back(note, True, pause)
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
    publish_more = rule(name=queue_names, client=clients, n=st.integers(1, 4))(
        lambda self, name, client, n: self.publish_many(name, client, n, {})
    )
    get_on = rule(pick=picks, n=st.just(1))(lambda self, pick, n: self.get(pick, n))
    get_more = rule(pick=picks, n=st.just(2))(lambda self, pick, n: self.get(pick, n))

    @rule(pick=picks, how=st.sampled_from(["ack", "nack"]), delay=st.sampled_from([None, 0]))
    def settle_on(self, pick: int, how: str, delay: Any) -> None:
        self.get(pick, 1)
        if any(hand.had for hand in self.hands):
            self.settle(pick // 3, how, delay, None)

    @rule(pick=picks, name=queue_names, given=fields)
    def forward_on(self, pick: int, name: str, given: dict[str, Any]) -> None:
        self.get(pick, 1)
        if any(hand.had for hand in self.hands):
            self.forward(pick // 3, name, given, True)

    # ---- death and time --------------------------------------------------------------------

    @rule(client=st.sampled_from([1, 2]))
    def kill(self, client: int) -> None:
        die(self.rig, self.clients[client])
        dead = [hand for hand in self.hands if hand.client == client]
        self.hands = [hand for hand in self.hands if hand.client != client]
        self.clients[client] = another(self.rig)
        for key in [key for key in self.handles if key[1] == client]:
            name, _ = key
            self.handles[key] = Queue(self.clients[client], name, self.handles[key]._qref)
        for name in [name for name, (_, _, whose) in self.subs.items() if whose == client]:
            self.forget(name)

        def back() -> None:
            for shelf in {hand.shelf for hand in dead}:
                lost = [note for note, holder in shelf.held.items() if holder in dead]
                for note in sorted(lost, key=lambda note: note.place):
                    if not shelf.gone:
                        shelf.counts["recovered"] += 1
                    ahead = any(note in hand.ahead for hand in dead)
                    shelf.come_back(note, not ahead, taken_back=True)

        self.loosely(back)

    @rule(units=st.integers(1, 2))
    def advance(self, units: int) -> None:
        if self.clock.can_pass(units * UNIT * NS):
            self.clock.advance(units * UNIT * NS)
            for hand in self.hands:
                hand.moved.update(dict.fromkeys(hand.ahead, units * UNIT))

    @rule()
    def fire(self) -> None:
        fire(self.rig)
        self.loosely(lambda: [shelf.fire() for shelf in list(self.shelves.values())])

    @rule()
    def sweep(self) -> None:
        self.rig.sweep_expired()
        self.loosely(lambda: [shelf.expire() for shelf in list(self.shelves.values())])

    @rule()
    def lapse(self) -> None:
        end_leases(self.rig)

        def back() -> None:
            for hand in self.hands:
                for lease in hand.had:
                    if hand.holds(lease) and lease.end <= self.now():
                        hand.shelf.come_back(lease.note, True, taken_back=True)

        self.loosely(back)

    # ---- administration --------------------------------------------------------------------

    @rule(name=queue_names | st.just("dead"), client=clients, really=st.integers(0, 3))
    def purge(self, name: str, client: int, really: int) -> None:
        if really:
            return
        shelf = self.shelves[name]
        dropped = self.handle(name, client).purge()
        there = shelf.new + shelf.back + shelf.parked
        live = [note for note in there if note.expires > self.now()]
        assert dropped == len(live)
        shelf.counts["dropped"] += len(live)

        def over() -> None:
            gone = [note for note in there if note not in live]
            for ring in (shelf.new, shelf.back, shelf.parked):
                ring.clear()
            for note in gone:
                shelf.kill(note, "expired")

        self.loosely(over)

    @rule(name=queue_names | st.just("dead"), chosen=options, really=st.integers(0, 9))
    def delete(self, name: str, chosen: dict[str, Any], really: int) -> None:
        if really:
            return
        lib.shmq_queue_delete(self.rig.client.ctx, self.handles[name, 0]._qref)
        former = self.shelves.pop(name)
        former.gone = True
        if name == "dead":
            chosen = {"max_depth": 3, "ttl": None, "max_retries": 0}
        self.make(name, chosen)
        for shelf in self.shelves.values():
            if shelf.dead is former:  # dead letters follow the name
                shelf.dead = self.shelves[name]

    @rule(name=queue_names, immediate=st.booleans(), really=st.integers(0, 12))
    def shut_down(self, name: str, immediate: bool, really: int) -> None:
        if really:
            return
        self.handle(name, 0).shutdown(immediate=immediate)
        shelf = self.shelves[name]
        shelf.closed = True
        if immediate:
            for ring in (shelf.new, shelf.back, shelf.delayed, shelf.parked):
                ring.clear()

    # ---- what has to be so -----------------------------------------------------------------

    @invariant()
    def all_is_as_the_reference_says(self) -> None:
        for name, shelf in self.shelves.items():
            queue = self.handle(name, self.turn % 3)
            stats = queue.stats()
            found = self.ready(shelf)
            blurred = shelf.blurred
            if blurred:
                shelf.follow(found)
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
            assert self.rig.audit() == {}
        self.turn += 1


def run(steps: int, derandomize: bool) -> None:
    run_state_machine_as_test(
        SegmentMachine,
        settings=settings(
            max_examples=steps // STEPS,
            stateful_step_count=STEPS,
            derandomize=derandomize,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            print_blob=True,
        ),
    )


@pytest.mark.timeout(600)
def test_a_segment_does_what_the_reference_says() -> None:
    run(STEPS * 40, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_segment_does_so_for_many_steps() -> None:
    run(int(os.environ.get("SHMQ_MACHINE_STEPS", "12000")), derandomize=False)
