"""What those processes of features.py do whose queues are full all the time: what comes back, is due or dead finds no room
and is parked, the oldest has to go, dead-letter queues are at their bounds, purged, and deleted under their letters.

    slot      delayed messages become due into a queue that a blocked producer keeps full
    back      more is in hand than a queue has places for what comes back; lane: the same, of an ordered one
    over.*    what is rejected goes to dead-letter queues of each policy (*.dead), which are too small
    hold.*    ordered queues that drop their oldest, while some are in a consumer's hands; held: a topic with such a subscription
    spill     delayed ones into a full queue that is purged now and then
    phoenix   its dead-letter queue is deleted and made anew
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from roles import FOREVER, KEYS, Role, taker

import shmq

SMALL = (0, 0, 50, 3000)
POLICIES = ("block", "drop", "reject", "bytes")
BOUNDS = {
    "block.dead": 6,
    "drop.dead": 6,
    "reject.dead": 6,
    "slot": 6,
    "spill": 6,
    "hold.key": 8,
    "hold.strict": 8,
}
BYTES = {"bytes.dead": 12_000, "over.bytes": 8_000, "spill": 8_000}
PARKING = ("slot", "back", "lane", "block.dead", "spill")
"""where something has to wait for room in any run that is long enough"""
HOARD = 1400  # what comes back has at least 1,024 places, and those of the ring


def make(broker: shmq.Broker) -> None:
    broker.create_queue("slot", max_depth=BOUNDS["slot"], **FOREVER)
    broker.create_queue("spill", max_depth=BOUNDS["spill"], max_bytes=BYTES["spill"], **FOREVER)
    broker.create_queue("back", max_depth=32, **FOREVER)
    # Those whose lane is in the hoarder's hands wait meanwhile: with 192 places they are all when it has some 1,130.
    broker.create_queue("lane", order="key", max_depth=400, **FOREVER)
    broker.create_topic("nobody")
    how: dict[str, dict[str, Any]] = {
        "block": {"max_depth": BOUNDS["block.dead"]},
        "drop": {"max_depth": BOUNDS["drop.dead"], "overflow": "drop-oldest"},
        "reject": {"max_depth": BOUNDS["reject.dead"], "overflow": "reject"},
        "bytes": {"max_bytes": BYTES["bytes.dead"], "overflow": "drop-oldest"},
    }
    for policy, options in how.items():
        broker.create_queue(f"{policy}.dead", ttl=None, **options, **FOREVER)
        most = BYTES.get(f"over.{policy}")
        broker.create_queue(
            f"over.{policy}", dead_letter=f"{policy}.dead", max_depth=50, max_bytes=most, **FOREVER
        )
    broker.create_queue("hold.dead", ttl=None, **FOREVER)
    oldest: dict[str, Any] = {"overflow": "drop-oldest", "max_depth": BOUNDS["hold.key"]}
    broker.create_queue("hold.key", order="key", dead_letter="hold.dead", **oldest, **FOREVER)
    broker.create_queue("hold.strict", order="strict", **oldest, **FOREVER)
    held = broker.create_topic("held", **FOREVER)
    held.subscribe("all").close()
    held.subscribe("latest", order="key", **oldest, **FOREVER).close()
    broker.create_queue("phoenix.dead", ttl=None, **FOREVER)
    broker.create_queue("phoenix", dead_letter="phoenix.dead", max_depth=20, **FOREVER)


def is_over(me: Role) -> bool:
    """No more comes: what is left is taken without a rest."""
    return (me.folder / "no-more").exists()


def look(me: Role, consumer: shmq.Consumer, many: int = 1) -> list[shmq.Delivery]:
    """What is there now, logged."""
    before = time.monotonic_ns()
    try:
        got = [consumer.get(timeout=0)] if many == 1 else consumer.get_many(many, timeout=0)
    except shmq.QueueEmpty:
        return []
    me.got(got, before)
    return got


# ---- parked -------------------------------------------------------------------------------------


def filler(name: str) -> Callable[[Role], None]:
    def fill(me: Role) -> None:
        queue = me.broker.get_queue(name)
        for n in me.numbers():
            me.publish(queue, f"{me.who}-{n}", timeout=None)

    return fill


def postponer(name: str, many: int) -> Callable[[Role], None]:
    """Lots of delayed ones: what a slow consumer cannot take at once, and can until the next lot."""

    def postpone(me: Role) -> None:
        queue = me.broker.get_queue(name)
        for n in me.numbers():
            delay = me.dice.choice((0.02, 0.05, 0.2))
            me.publish(queue, f"{me.who}-{n}", str(delay), sizes=SMALL, delay=delay)
            if me.dice.random() < 1 / many:
                me.rest(1.5)

    return postpone


def slow(name: str) -> Callable[[Role], None]:
    def take(me: Role) -> None:
        with me.broker.get_queue(name).subscribe() as consumer:
            for d in me.deliveries(consumer):
                me.ack(d)
                if not is_over(me):
                    me.rest(0.02)

    return take


def batches(name: str, keyed: float) -> Callable[[Role], None]:
    """Many at a time, of which a few have a key."""

    def publish(me: Role) -> None:
        queue = me.broker.get_queue(name)
        # Ids, and with them the lanes of messages without a key, that differ from those of a former life.
        me.broker.get_topic("nobody").publish_many([b""] * me.dice.randrange(4096))
        numbers = me.numbers()
        for n in numbers:
            first = n * 100
            keys = [
                me.dice.randrange(KEYS) if me.dice.random() < keyed else None for _ in range(100)
            ]
            names = [f"{me.who}.{'x' if k is None else k}-{first + i}" for i, k in enumerate(keys)]
            begun = [("p", name, label) for label in names]
            me.log.put_all(
                [*begun, ("p", f"{name}.lots", f"{me.who}-{n}")]
            )  # numbers() goes on from the last
            lot = [
                shmq.Message(label.encode(), key=None if k is None else f"{me.who}.{k}")
                for label, k in zip(names, keys, strict=True)
            ]
            with contextlib.suppress(shmq.QueueFull):
                queue.publish_many(lot, timeout=2)
                me.log.put_all([("B", name, label) for label in names])

    return publish


def hoarder(name: str) -> Callable[[Role], None]:
    def hoard(me: Role) -> None:
        while me.on("the-end"):
            with me.broker.get_queue(name).subscribe() as consumer:
                held = gather(me, consumer)
                chance = 1.0 if is_over(me) else me.dice.random()
                if chance < 0.2:
                    continue  # closed: all goes back at once
                for i, d in enumerate(held):
                    if chance < 0.5:
                        d.nack(0.02 if i % 10 == 9 else 0)
                    else:
                        me.ack(d)
                if chance < 1:
                    me.rest(0.3)

    return hoard


def gather(me: Role, consumer: shmq.Consumer) -> list[shmq.Delivery]:
    held: list[shmq.Delivery] = []
    until = time.monotonic() + 1
    last = time.monotonic()
    while len(held) < HOARD and last < until:
        got = look(me, consumer, 100)
        held += got
        now = time.monotonic()
        if got:
            last = now
        elif now - last > 0.1 or is_over(me):
            break
        else:
            time.sleep(0.01)
    me.rest()
    return held


# ---- dead-letter queues at their bounds -----------------------------------------------------------


@contextlib.contextmanager
def consumers_of(me: Role, names: list[str]) -> Iterator[list[shmq.Consumer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(me.broker.get_queue(name).subscribe()) for name in names]


def over_in(me: Role) -> None:
    queues = [me.broker.get_queue(f"over.{policy}") for policy in POLICIES]
    for n in me.numbers():
        me.publish(queues[n % len(queues)], f"{me.who}-{n}", sizes=SMALL)


def over_out(me: Role) -> None:
    """One after the other: the order in which they die is known."""
    with consumers_of(me, [f"over.{policy}" for policy in POLICIES]) as consumers:
        while me.on("the-end"):
            got = [d for consumer in consumers for d in look(me, consumer)]
            for d in got:
                if me.dice.random() < 0.2:
                    me.ack(d)
                else:
                    reject(me, d)
            if not got:
                me.rest()


def reject(me: Role, d: shmq.Delivery) -> None:
    me.log.put("r", d.queue, d.id)
    d.reject(me.dice.choice((None, "no good")))
    me.log.put("R", d.queue, d.id)


def over_dead(me: Role) -> None:
    with consumers_of(me, [f"{policy}.dead" for policy in POLICIES]) as consumers:
        while me.on("the-end"):
            got = [d for consumer in consumers for d in look(me, consumer)]
            for d in got:
                me.ack(d)
            if not is_over(me):
                me.rest(0.1)
            elif not got:
                me.rest()


# ---- the oldest goes, and the others keep their order ----------------------------------------------


def hold_in(me: Role) -> None:
    queues = [me.broker.get_queue(name) for name in ("hold.key", "hold.strict")]
    for n in me.numbers():
        key = f"{me.who}.{n // 2 % KEYS}" if n % 2 == 0 else me.who
        me.publish(queues[n % 2], f"{key}-{n}", key=key, timeout=None)


def held_in(me: Role) -> None:
    topic = me.broker.get_topic("held")
    for n in me.numbers():
        key = f"{me.who}.{n % KEYS}"
        me.publish(topic, f"{key}-{n}", key=key, timeout=None)


def holder(source: Callable[[Role], list[shmq.Consumer]]) -> Callable[[Role], None]:
    """Holds some deliveries of each for a while."""

    def hold(me: Role) -> None:
        with contextlib.ExitStack() as stack:
            consumers = [stack.enter_context(one) for one in source(me)]
            hands: list[list[tuple[float, shmq.Delivery]]] = [[] for _ in consumers]
            while me.on("the-end"):
                for consumer, hand in zip(consumers, hands, strict=True):
                    if len(hand) < 4:
                        until = time.monotonic() + (0 if is_over(me) else me.dice.random() * 0.2)
                        hand += [(until, d) for d in look(me, consumer)]
                    let_go(me, hand)
                me.rest(0.02)

    return hold


def let_go(me: Role, hand: list[tuple[float, shmq.Delivery]]) -> None:
    now = time.monotonic()
    for one in [one for one in hand if one[0] <= now or is_over(me)]:
        hand.remove(one)
        if me.dice.random() < 0.2:
            one[1].nack(0)
        else:
            me.ack(one[1])


def of_queues(me: Role) -> list[shmq.Consumer]:
    return [me.broker.get_queue(name).subscribe() for name in ("hold.key", "hold.strict")]


def of_topic(me: Role) -> list[shmq.Consumer]:
    return [me.broker.get_topic("held").subscribe("latest")]


def of_all(me: Role) -> None:
    me.consume(me.broker.get_topic("held").subscribe("all"), 10)


# ---- purged, and deleted ----------------------------------------------------------------------------


def purger(me: Role) -> None:
    queue = me.broker.get_queue("spill")
    while me.on("no-more"):
        me.rest(1.5)
        me.log.put("u", "spill")
        me.log.put("U", "spill", queue.purge())


def phoenix(me: Role) -> None:
    queue = me.broker.get_queue("phoenix")
    with queue.subscribe() as consumer:
        for n in me.numbers():
            me.publish(queue, f"{me.who}-{n}", sizes=SMALL)
            for d in look(me, consumer):
                reject(me, d)


def ashes(me: Role) -> None:
    """The rest of what is in the queue, and all of its letters, whichever life of theirs it is."""
    name = "phoenix" if me.who.endswith("0") else "phoenix.dead"
    while me.on("the-end"):
        with (
            contextlib.suppress(shmq.QueueNotFound),
            me.broker.get_queue(name).subscribe() as consumer,
        ):
            for d in letters(me, consumer):
                if name == "phoenix":
                    reject(me, d)
                else:
                    me.ack(d)
        me.rest()


def letters(me: Role, consumer: shmq.Consumer) -> Iterator[shmq.Delivery]:
    while me.on("the-end"):
        got = look(me, consumer)
        yield from got
        if not got:
            me.rest()


def renewer(me: Role) -> None:
    """Deletes when it has just seen it empty: what came until then has been delivered."""
    name = "phoenix.dead"
    made: dict[str, Any] = {"ttl": None, **FOREVER}
    broker = me.broker
    broker.create_queue(name, **made)
    me.log.put("Y", name)
    while me.on("no-more"):
        me.rest(0.5)
        for _ in range(200):
            before = time.monotonic_ns()
            stats = broker.get_queue(name).stats()
            if not stats.ready + stats.unsettled + stats.delayed + stats.parked:
                me.log.put("E", name, before)
                me.log.put("X", name)
                broker.delete_queue(name)
                me.rest(0.02)
                broker.create_queue(name, **made)
                me.log.put("Y", name)
                break
            if not me.on("no-more"):
                return


ROLES: dict[str, tuple[int, Callable[[Role], None]]] = {
    "slot-in": (1, filler("slot")),
    "slot-timer": (1, postponer("slot", 40)),
    "slot-out": (1, slow("slot")),
    "back-in": (1, batches("back", 0)),
    "back-out": (1, hoarder("back")),
    "lane-in": (1, batches("lane", 0.02)),
    "lane-out": (1, hoarder("lane")),
    "over-in": (1, over_in),
    "over-out": (1, over_out),
    "over-dead": (1, over_dead),
    "hold-in": (1, hold_in),
    "hold-out": (1, holder(of_queues)),
    "hold-dead": (1, taker("hold.dead")),
    "held-in": (1, held_in),
    "held-out": (1, holder(of_topic)),
    "held-all": (1, of_all),
    "spill-timer": (1, postponer("spill", 40)),
    "spill-out": (1, slow("spill")),
    "purger": (1, purger),
    "phoenix-in": (1, phoenix),
    "phoenix-out": (2, ashes),
    "renewer": (1, renewer),
}
