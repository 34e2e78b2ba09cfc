"""The rules of the state machine about topics, their subscriptions, and groups."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from draw import KEYS, TOPICS, clients, fields, filters, options, picks, queue_names
from hand import Hand
from hypothesis.stateful import precondition, rule
from stage import Stage

import shmq
from shmq.keywords import Dispatch


class TopicRules(Stage):
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
            consumer = self.world.subscribe(source, name, client, {})
            self.hands.append(Hand(self.shelves[full_name], consumer, client))
            return
        chosen = {**chosen, "overflow": overflow, "retry_jitter": 0}
        if full_name != "/t.a/s0":  # of more than one, dead letters could not be told apart
            chosen["dead_letter"] = None
        how = {**chosen, "filter": wanted, "ephemeral": True if ephemeral else None}
        if full_name in self.subs:  # cut off: begins anew
            self.forget(full_name)
        consumer = self.world.subscribe(source, name, client, how)
        full_name = consumer.queue_name
        mortal = ephemeral or name is None
        del chosen["retry_jitter"]
        shelf = self.put(full_name, chosen)
        self.subs[full_name] = (source, wanted, client if mortal else None)
        hand = Hand(shelf, consumer, client)
        hand.passing = full_name if name is None else None
        self.hands.append(hand)

    @rule(pick=picks)
    def unsubscribe(self, pick: int) -> None:
        named = [name for name in self.subs if "~" not in name]
        if not named:
            return
        full_name = named[pick % len(named)]
        source, _, name = full_name[1:].partition("/")
        self.world.unsubscribe(source, name)
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

    # ---- groups ----------------------------------------------------------------------------

    @precondition(lambda self: len(self.hands) < 8)
    @rule(name=queue_names | st.sampled_from(["t.a/g"]), client=clients, turns=st.booleans())
    def join(self, name: str, client: int, turns: bool) -> None:
        source: shmq.Queue | shmq.Topic = (
            self.topic("t.a", client) if "/" in name else self.handle(name, client)
        )
        dispatch: Dispatch = "round-robin" if turns else "ready"
        if "/" in name and self.shelves.get(f"/{name}") is None:
            shelf = self.put(f"/{name}", {"ttl": None})
            self.subs[shelf.name] = ("t.a", None, None)
        shelf = self.shelves[f"/{name}" if "/" in name else name]
        here = [hand for hand in self.hands if hand.group and hand.shelf is shelf]
        try:
            group = self.world.group("g", source, client, dispatch)
            consumer = group.add_consumer()
        except shmq.OptionsMismatch:
            assert any(hand.group != dispatch for hand in here)
            return
        assert all(hand.group == dispatch for hand in here)
        assert len(group.members()) == len(here) + 1
        hand = Hand(shelf, consumer, client)
        hand.group, hand.taken = dispatch, min((hand.taken for hand in here), default=0)
        self.hands.append(hand)
