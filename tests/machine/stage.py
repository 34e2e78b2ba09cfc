"""What the rules of the state machine stand on: a world, its reference, and how they are compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from draw import CLIENTS, DEAD, KEYS, QUEUES, TOPICS, dead_options, options
from hand import Hand
from hypothesis.stateful import RuleBasedStateMachine, initialize
from reference import Note, Shelf
from world import World, lanes_differ

import shmq
from shmq.queue import Queue
from shmq.topic import Topic

NS = 1_000_000_000


class Stage(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.shelves: dict[str, Shelf] = {}
        self.handles: dict[tuple[str, int], Queue] = {}
        self.subs: dict[str, tuple[str, dict[str, Any] | None, int | None]] = {}
        """subscription: topic or pattern, filter, whose end it ends with"""
        self.hands: list[Hand] = []
        self.number = 0
        self.turn = 0

    @initialize(drawn=st.lists(options, min_size=3, max_size=3), dead=dead_options)
    def begin(self, drawn: list[dict[str, Any]], dead: dict[str, Any]) -> None:
        while not lanes_differ(self.world, KEYS):
            KEYS[:] = [key + "'" for key in KEYS]
        self.make(DEAD, dead)
        for name, chosen in zip(QUEUES, drawn, strict=True):
            self.make(name, chosen)
        for name in TOPICS:
            self.world.make_topic(name, ttl=None)

    def teardown(self) -> None:
        try:
            for hand in self.hands:
                hand.consumer.close()
            assert self.world.rig.audit() == {}
        finally:
            self.hands = []
            self.handles.clear()
            self.world.close()

    # ---- what is there ---------------------------------------------------------------------

    def now(self) -> float:
        return self.world.clock.now() / NS

    def make(self, name: str, chosen: dict[str, Any]) -> None:
        self.world.make(name, retry_jitter=0, **chosen)
        self.put(name, chosen)

    def put(self, name: str, chosen: dict[str, Any]) -> Shelf:
        """Have in the reference what has been made, and its dead-letter queue, which is made along."""
        options = vars(shmq.QueueOptions(retry_jitter=0.0, **chosen)).copy()
        self.made_along(options["dead_letter"])
        self.shelves[name] = Shelf(name, options, self.now, self.shelves)
        return self.shelves[name]

    def made_along(self, dead: str | None) -> None:
        if dead is not None and dead not in self.shelves:
            self.put(dead, {"ttl": None})

    def forget(self, name: str) -> None:
        """It has been deleted, whatever it is."""
        self.shelves.pop(name).gone = True
        self.subs.pop(name, None)
        for i in CLIENTS:
            self.handles.pop((name, i), None)

    def handle(self, name: str, client: int) -> Queue:
        if (name, client) not in self.handles:
            self.handles[name, client] = self.world.queue(name, client)
        return self.handles[name, client]

    def topic(self, name: str, client: int) -> Topic:
        return self.world.topic(name, client)

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
