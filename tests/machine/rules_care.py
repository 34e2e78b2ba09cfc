"""The rules of the state machine about death, time, and what is done to whole queues."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from draw import DEAD, UNIT, clients, dead_options, options, places, queue_names
from hypothesis.stateful import precondition, rule
from stage import NS, Stage

import shmq


class CareRules(Stage):
    # ---- death and time --------------------------------------------------------------------

    @rule(client=st.sampled_from([1, 2]))
    def kill(self, client: int) -> None:
        self.world.kill(client)
        dead = [hand for hand in self.hands if hand.client == client]
        self.hands = [hand for hand in self.hands if hand.client != client]
        for key in [key for key in self.handles if key[1] == client]:
            del self.handles[key]
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

    @rule()
    def kill_sidecar(self) -> None:
        self.world.kill_sidecar()

    @rule(units=st.integers(1, 2))
    def advance(self, units: int) -> None:
        if self.world.clock.can_pass(units * UNIT * NS):
            self.world.advance(units * UNIT * NS)
            for hand in self.hands:
                hand.moved.update(dict.fromkeys(hand.ahead, units * UNIT))

    @rule()
    def fire(self) -> None:
        self.world.fire()
        self.loosely(self.all_fire)

    @rule()
    def sweep(self) -> None:
        self.world.sweep()
        self.loosely(self.all_expire)

    @rule()
    def lapse(self) -> None:
        self.world.lapse()
        self.loosely(self.all_lapse)

    @rule()
    def tend(self) -> None:
        self.world.tend()

        def all_of_it() -> None:
            self.all_fire()
            self.all_expire()
            self.all_lapse()

        self.loosely(all_of_it)

    def all_fire(self) -> None:
        now, all_of_them = self.now(), list(self.shelves.values())
        due = [(shelf, note) for shelf in all_of_them for note in shelf.delayed if note.due <= now]
        for shelf, note in sorted(due, key=lambda pair: pair[1].due):
            shelf.fire(note)

    def all_expire(self) -> None:
        for shelf in list(self.shelves.values()):
            shelf.expire()

    def all_lapse(self) -> None:
        for hand in self.hands:
            for lease in hand.had:
                if hand.holds(lease) and lease.end <= self.now():
                    hand.shelf.come_back(lease.note, True, taken_back=True)

    # ---- administration --------------------------------------------------------------------

    @rule(name=places, client=clients, really=st.integers(0, 3))
    def purge(self, name: str, client: int, really: int) -> None:
        if really or name not in self.shelves:
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

    @rule(name=queue_names, chosen=options, really=st.integers(0, 9))
    def delete(self, name: str, chosen: dict[str, Any], really: int) -> None:
        """And make one of that name anew."""
        if really:
            return
        self.world.delete(name)
        self.forget(name)
        self.make(name, chosen)

    @precondition(lambda self: DEAD in self.shelves)
    @rule(really=st.integers(0, 5))
    def delete_dead(self, really: int) -> None:
        """Until it is made anew, by itself or along with a queue that names it, dead letters are dropped."""
        if really:
            return
        self.world.delete(DEAD)
        self.forget(DEAD)

    @precondition(lambda self: DEAD not in self.shelves)
    @rule(chosen=dead_options)
    def make_dead(self, chosen: dict[str, Any]) -> None:
        self.make(DEAD, chosen)

    @precondition(lambda self: self.world.declares)
    @rule(name=queue_names, chosen=options, same=st.booleans())
    def declare(self, name: str, chosen: dict[str, Any], same: bool) -> None:
        """Make a queue that is there."""
        has = self.shelves[name].options
        if same:
            chosen = {key: value for key, value in has.items() if key != "dedup_capacity"}
        wanted = vars(shmq.QueueOptions(**{"retry_jitter": 0.0, **chosen}))
        self.made_along(wanted["dead_letter"])
        try:
            self.world.make(name, **{"retry_jitter": 0, **chosen})
        except shmq.OptionsMismatch:
            assert wanted != has
        else:
            assert wanted == has

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
