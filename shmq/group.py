"""ConsumerGroup: consumers in any processes that share one stream of messages.

The stream is a queue, or one subscription of a topic; the core hands each message to one consumer
and takes it back when that one dies, so a group needs no coordinator. What the group adds is who
its members are (a record each, which ends with the member's process) and, on demand, strict turns.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shmq._aio import CALL, Turn, wake
from shmq._client import Client, record_of
from shmq._locks import Lock
from shmq._names import check_record_name, check_share_name
from shmq._native import ffi, lib
from shmq._records import OF_A_GROUP, is_alive, make_record, records
from shmq._values import NS, parse_choice
from shmq.consumer import Consumer
from shmq.errors import (
    InvalidOption,
    OptionsMismatch,
    QueueClosed,
    QueueEmpty,
    QueueNotFound,
    explain,
)
from shmq.message import deadline_of
from shmq.options import QueueOptions
from shmq.queue import Queue
from shmq.stats.queue import QueueStats
from shmq.topic import Ending, Topic

if TYPE_CHECKING:
    from typing_extensions import Self

    from shmq.delivery import Delivery
    from shmq.keywords import Ack

__all__ = ["DISPATCH", "ConsumerGroup", "place_of_member"]

DISPATCH = ("ready", "round-robin")
NEW = 1 << 62  # messages that a member has had before it knows what the others had
# How long a member sleeps that waits for its turn. Who takes wakes it; it looks by itself as well,
# because a wake between its look and its sleep is lost, and because the one in front may have died.
LOOK_NS, LOOK_MOST_NS = 500_000, 20_000_000
KNOWN_NS = NS  # how long a list of the other members is believed


class ConsumerGroup:
    """A group of consumers. Made by `Broker.create_consumer_group`, in each process that needs it."""

    __slots__ = {  # noqa: RUF023 - what users see comes first
        "name": "The group's name.",
        "source": "Name of the queue or topic that it is on.",
        "queue": "The queue that its members share: the source itself, or the group's subscription.",
        "dispatch": 'How messages are given out: "ready" or "round-robin".',
        "_client": None,
        "_local": None,
        "__weakref__": None,
    }

    def __init__(self, client: Client, name: str, queue: Queue, source: str, dispatch: str) -> None:
        self._client = client
        self.name = name
        self.queue = queue
        self.source = source
        self.dispatch = dispatch
        self._local: weakref.WeakValueDictionary[str, Consumer] = weakref.WeakValueDictionary()

    @classmethod
    def on(
        cls,
        client: Client,
        name: str,
        source: Queue | Topic,
        dispatch: str,
        options: Mapping[str, Any],
    ) -> Self:
        """See `Broker.create_consumer_group`."""
        check_share_name(name, "group name")
        parse_choice(dispatch, "dispatch", DISPATCH)
        if isinstance(source, Topic):
            how = dict(options)
            given = how.pop("filter", None), how.pop("ephemeral", None)
            source.join(name, *given, how, OF_A_GROUP)
            group = cls(client, name, source.subscription(name), f"/{source.name}", dispatch)
        else:
            if options:
                raise InvalidOption(
                    explain(
                        f"group {name!r} on queue {source.name!r}",
                        f"options {', '.join(options)}",
                        "none: the queue has its own",
                        "give them to create_queue(), or make the group on a topic",
                    )
                )
            group = cls(client, name, source, source.name, dispatch)
        group._agree()
        return group

    # ---- members ---------------------------------------------------------------------------

    def add_consumer(
        self,
        consumer_id: str | None = None,
        *,
        ack: Ack = "manual",
        prefetch: int = 1,
        max_unsettled: int | None = None,
    ) -> Consumer:
        """Return a new member's consumer; arguments as in `Queue.subscribe`.

        It is a member until it is closed, removed, or its process ends; what a dead member held goes
        to the others at once. ``consumer_id`` is unique in the group (None: one is made up).

        Raises: InvalidOption: the group has a living member of that name, or prefetch above 1 with
            dispatch="round-robin".
        """
        label = f"{os.getpid()}-{secrets.token_hex(4)}" if consumer_id is None else consumer_id
        check_share_name(label, "consumer_id")
        turns = self.dispatch == "round-robin"
        if turns and prefetch != 1:
            raise InvalidOption(
                explain(
                    "prefetch",
                    f"{prefetch} in a group with strict turns",
                    "1",
                    'reading ahead is for dispatch="ready"',
                )
            )
        self._agree()
        options = QueueOptions(max_depth=1)
        name = self._prefix() + label
        check_record_name(
            name, f"consumer {label!r} of group {self.name!r}", "source, group and member"
        )
        kind = (lib.SHMQ_KIND_MEMBER, record_of(self.queue))
        flags = 1 + DISPATCH.index(self.dispatch)
        rc = make_record(self._client, name, options, kind, ephemeral=True, flags=flags)
        if rc == lib.SHMQ_E_EXISTS:
            # Of somebody who is gone? Then it goes now; of the living it stays.
            self._client.call(lib.shmq_queue_collect)
            rc = make_record(self._client, name, options, kind, ephemeral=True, flags=flags)
        if rc == lib.SHMQ_E_EXISTS:
            raise InvalidOption(
                explain(
                    f"consumer {label!r} of group {self.name!r}",
                    "a living member of that name",
                    "a name of its own for each member",
                    "choose another one, or leave it out",
                )
            )
        self._client.check(rc, f"consumer {label!r} of group {self.name!r}")
        how = {"ack": ack, "prefetch": prefetch, "max_unsettled": max_unsettled}
        try:
            made = (_Turns if turns else _Member)(self.queue, label, rc, **how)
        except BaseException:
            self._client.call(lib.shmq_queue_delete, rc)
            raise
        self._local[label] = made
        return made

    def remove_consumer(self, consumer_id: str) -> None:
        """Close the member ``consumer_id``, which this process has added: what it holds goes back.

        A lease belongs to its process: only that one, or its end, gives back what a member holds.

        Raises: InvalidOption: there is no such member, or it is another process's to close.
        """
        consumer = self._local.get(consumer_id)
        if consumer is not None and not consumer.closed:
            consumer.close()
            return
        what = f"consumer {consumer_id!r} of group {self.name!r}"
        pids = self._pids()
        if consumer_id in pids:
            found = f"a member of process {pids[consumer_id]}"
            if pids[consumer_id] == os.getpid():
                found = "a member that this process has added by another ConsumerGroup object"
            todo = "remove it there, or end that process: what it holds goes to the others at once"
            raise InvalidOption(explain(what, found, "one that was added here", todo))
        raise InvalidOption(
            explain(
                what,
                "no such member",
                "one that was added here",
                f"members are {', '.join(sorted(pids)) or 'none'}",
            )
        )

    def _pids(self) -> dict[str, int]:
        owner = ffi.new("shmq_owner_info *")
        pids = {}
        for name, info in self._members():
            self._client.call(lib.shmq_owner_snapshot, info.owner, owner)
            pids[name] = int(owner.pid)
        return pids

    def members(self) -> list[str]:
        """Return the names of the living members in all processes, sorted."""
        return sorted(name for name, _ in self._members())

    def _members(self) -> list[tuple[str, Any]]:
        prefix = self._prefix()
        return [
            (name[len(prefix) :], info)
            for name, _, info in members_of(self._client, record_of(self.queue))
            if name.startswith(prefix)
        ]

    def _prefix(self) -> str:
        return f"//{self.queue.name}/{self.name}/"

    def _agree(self) -> None:
        mine = 1 + DISPATCH.index(self.dispatch)
        for member, info in self._members():
            flags = info.options.flags
            if flags != mine:
                raise OptionsMismatch(
                    explain(
                        f"group {self.name!r}",
                        f"member {member!r} with dispatch={DISPATCH[(flags - 1) & 1]!r}",
                        f"dispatch={self.dispatch!r}",
                        "use the same dispatch in all processes",
                    )
                )

    # ---- looking ---------------------------------------------------------------------------

    def lag(self) -> int:
        """Return how many messages wait for a member to take them."""
        return self.queue.depth()

    def stats(self) -> QueueStats:
        """Return the figures of the shared queue; see `Queue.stats`."""
        return self.queue.stats()

    def __reduce__(self) -> Any:
        return _reopen, (
            self._client.name, self.name, self.queue.name, self.source, self.dispatch,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<shmq.ConsumerGroup {self.name!r} on {self.source!r}, {self.dispatch}>"


def members_of(client: Client, qref: int) -> list[tuple[str, int, Any]]:
    """Return (name of the record, reference, shmq_queue_info) of the living members on a queue."""
    return [
        (name, member, info)
        for name, member, info in records(client)
        if info.options.kind == lib.SHMQ_KIND_MEMBER
        and info.options.topic == qref
        and info.state == lib.SHMQ_Q_LIVE
        and is_alive(client.ctx, info)
    ]


def place_of_member(record: str) -> tuple[str, str, str]:
    """Return (name of the shared queue, group, member) of a member's record; "" for what is missing."""
    stream, group, member = ["", "", *record[2:].rsplit("/", 2)][-3:]
    return stream, group, member


class _Member(Ending):
    """A consumer with a record that says who is a member."""

    __slots__ = ("_member",)

    def __init__(self, queue: Queue, consumer_id: str, member: int, **how: Any) -> None:
        self._member = member
        super().__init__(queue, consumer_id, ends=member, **how)


class _Turns(_Member):
    """A member that takes strict turns: it asks the queue only when nobody has had fewer messages.

    While it is not its turn it sleeps on the event of its own record, in which nothing ever lies;
    whoever takes a message wakes the others.
    """

    __slots__ = ("_had", "_known", "_known_until", "_lock")

    def __init__(self, queue: Queue, consumer_id: str, member: int, **how: Any) -> None:
        super().__init__(queue, consumer_id, member, **how)
        self._lock = Lock()
        self._known: list[int] = []
        self._known_until = 0
        least = self._say(NEW)
        self._had = 0 if least >= NEW else least
        self._say(self._had)

    def _say(self, taken: int) -> int:
        ctx = ffi.cast("shmq_ctx *", self._ctx)
        rc = int(lib.shmq_member_turn(ctx, self._member, taken))
        if rc == lib.SHMQ_GONE:  # the queue was deleted, and its members with it; or a fork
            self._client.check(lib.SHMQ_GONE, f"queue {self.queue_name!r}")
        if rc == lib.SHMQ_E_FORKED:
            raise QueueClosed(
                explain(
                    f"consumer {self.id!r}",
                    "a forked child",
                    "the process that is the member",
                    "add_consumer() in the child makes one of its own",
                )
            )
        client: Client = self._client
        return client.check(rc, f"consumer {self.id!r}")

    def _is_my_turn(self) -> bool:
        return self.closed or self._say(self._had) >= self._had

    def _await_turn(self, deadline: int) -> bool:
        pause = LOOK_NS
        while not self._is_my_turn():
            if deadline and lib.shmq_now() >= deadline:
                return False
            self._sleep(deadline, pause)
            pause = min(pause * 2, LOOK_MOST_NS)
        return True

    def _sleep(self, deadline: int, pause: int) -> None:
        until = lib.shmq_now() + pause
        until = min(until, deadline) if deadline else until
        lib.shmq_wait_items(ffi.cast("shmq_ctx *", self._ctx), self._member, until, 0)

    def _took(self, n: int = 1) -> None:
        self._had += n
        self._say(self._had)
        self._wake_others()

    def _wake_others(self) -> None:
        if lib.shmq_now() >= self._known_until:
            before = lib.shmq_now()
            found = members_of(self._client, self._qref)
            self._known = [member for _, member, _ in found if member != self._member]
            # Where there are very many records, looking for members costs at most 1 % of the time.
            self._known_until = lib.shmq_now() + max(KNOWN_NS, 100 * (lib.shmq_now() - before))
        ctx = ffi.cast("shmq_ctx *", self._ctx)
        for member in self._known:
            lib.shmq_wake_queue(ctx, member)  # of one that is gone: nothing happens

    def _wake(self) -> None:
        super()._wake()
        wake(self._ctx, self._member)

    def close(self) -> None:
        """Give back what is unsettled and leave the group; idempotent."""
        if self.closed:
            return
        super().close()
        if self._maker == os.getpid() and not self._client.closed:
            self._wake_others()  # nobody waits for this one any more

    def get(self, timeout: float | str | None = None) -> Delivery:
        """Return the next delivery of this member's turn; see `Consumer.get`."""
        deadline = deadline_of(timeout)
        with self._lock:
            if not self._await_turn(deadline):
                raise QueueEmpty(self._empty[1])
            left = max(0.0, (deadline - lib.shmq_now()) / NS) if deadline else None
            delivery: Delivery = super().get(timeout=left)
            self._took()
        return delivery

    def get_many(self, max_n: int, timeout: float | str | None = None) -> list[Delivery]:
        """Return a list of one delivery: a turn is one message."""
        return [self.get(timeout=timeout)] if max_n else []

    async def aget_many(self, max_n: int, timeout: float | str | None = None) -> list[Delivery]:
        """Return a list of one delivery: a turn is one message."""
        return [await self.aget(timeout)] if max_n else []

    def __next__(self) -> Delivery:
        with self._lock:
            self._await_turn(0)
            delivery: Delivery = super().__next__()
            self._took()
        return delivery

    def _poll(self, me: int, looped: bool) -> Any:
        if not self._is_my_turn():
            return None
        delivery = super()._poll(me, looped)
        if delivery is not None:
            self._took()
        return delivery

    async def _wait(self, turn: Turn, deadline: int) -> None:
        if self._is_my_turn():
            await super()._wait(turn, deadline)
            return
        until = lib.shmq_now() + LOOK_MOST_NS
        until = min(until, deadline) if deadline else until
        await turn.wait(self._client, self._ctx, self._member, CALL, until)


def _reopen(broker: str, name: str, queue: str, source: str, dispatch: str) -> ConsumerGroup:
    client = Client.connect(broker)
    try:
        return ConsumerGroup(client, name, Queue(client, queue), source, dispatch)
    except QueueNotFound:
        client.close()
        raise
