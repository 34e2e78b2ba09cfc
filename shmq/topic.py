"""Topic: what is published into it goes to every subscription.

A subscription is a queue of its own, named "/topic/subscription": leases, retries, dead letters,
depth and all the rest work there as anywhere. The payload lies in shared memory once for all of
them. Publishing is one step: a publisher that is killed has published to all or to none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from shmq._client import Client, record_of
from shmq._names import check_record_name, check_share_name
from shmq._native import ffi, lib
from shmq._records import (
    find_or_make,
    index_of,
    make_record,
    name_of,
    name_then,
    options_of,
    queue_defaults,
    records,
)
from shmq._sender import Sender
from shmq._values import reject_unknown
from shmq.consumer import Consumer
from shmq.errors import (
    InvalidOption,
    InvalidOptionType,
    OptionsMismatch,
    QueueNotFound,
    TopicNotFound,
    explain,
)
from shmq.message import check_headers, decode_headers, encode_headers
from shmq.options import QueueOptions
from shmq.queue import Queue
from shmq.stats.counters import COUNTERS, place_of_counter
from shmq.stats.queue import QueueStats, counts_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from shmq.keywords import Ack, QueueKeywords

__all__ = [
    "Ending",
    "Topic",
    "TopicStats",
    "refuse_reject",
    "subscribe_pattern",
    "topic_stats_of",
    "unsubscribe",
]

MAX_FILTER: int = lib.SHMQ_FILTER_MAX  # bytes of encoded headers
_DISCONNECTED = place_of_counter("disconnected")
OWN_OPTIONS = ("filter", "ephemeral", "ack", "prefetch", "max_unsettled")  # of subscribe()
SLICE_NS = 50_000_000  # who was in the way may have changed


@dataclass(frozen=True)
class TopicStats:
    """A topic's figures. Counts are since its creation, over all processes.

    Attributes:
        name: Its name.
        subscribers: How many subscriptions get its messages, patterns included.
        published, published_bytes: Messages, each counted once, and their payload bytes.
        full: Publishes that found a subscription full whose policy is to wait.
        deduped: Publishes that every subscription recognised as a duplicate.
        disconnected: Subscriptions that were cut off and are still there.
        closed: Shut down.
        subscriptions: The figures of each subscription, those that were cut off included.
    """

    name: str
    subscribers: int
    published: int
    published_bytes: int
    full: int
    deduped: int
    disconnected: int
    closed: bool
    subscriptions: tuple[QueueStats, ...]


def topic_stats_of(info: Any, subscribers: int, subscriptions: list[QueueStats]) -> TopicStats:
    """Return the figures in a topic's `shmq_queue_info`, with those of its subscriptions."""
    counts = counts_of(info)
    return TopicStats(
        name=name_of(info)[1:],
        subscribers=subscribers,
        **{counter.name: counts[counter.name] for counter in COUNTERS if counter.topic},
        disconnected=sum(one.closed and one.disconnected > 0 for one in subscriptions),
        closed=info.state != lib.SHMQ_Q_LIVE,
        subscriptions=tuple(subscriptions),
    )


class Topic(Sender):
    """A topic of a broker. Made by `Broker.create_topic` and `Broker.get_topic`.

    May be shared by threads, used in forked children, and sent to other processes by pickling.
    """

    __slots__ = ()

    def __init__(self, client: Client, name: str, qref: int | None = None) -> None:
        if qref is None:
            qref = client.call(lib.shmq_queue_open, b"/" + name.encode())
            if qref in (lib.SHMQ_E_NOTFOUND, lib.SHMQ_GONE):
                raise _not_found(name)
            client.check(qref, f"topic {name!r}")
        super().__init__(client, name, qref, fans=True)

    # ---- room ------------------------------------------------------------------------------

    def _wait_for_room(self, rc: int, deadline: int, last: bool, done: int | None = None) -> bool:
        if rc == lib.SHMQ_GONE:
            raise _not_found(self.name)
        return super()._wait_for_room(rc, deadline, last, done)

    def _what(self) -> str:
        return f"topic {self.name!r}"

    def _full(self, went: str) -> str:
        return explain(
            self._what(),
            f"no room in subscription {self._blocker()!r}{went}",
            "room within the timeout",
            'read faster, raise its max_depth, or give it overflow="drop-oldest" or "disconnect"',
        )

    def _blocker(self) -> str:
        blocker = int(lib.shmq_topic_blocker(self._client.ctx, self._qref))
        return name_then(self._client, index_of(blocker), lib.shmq_now())

    def _full_one(self, deadline: int) -> tuple[int, int]:
        until = int(lib.shmq_now()) + SLICE_NS
        blocker = int(lib.shmq_topic_blocker(ffi.cast("shmq_ctx *", self._ctx), self._qref))
        return max(blocker, 0), min(until, deadline) if deadline else until

    # ---- subscriptions ---------------------------------------------------------------------

    def subscribe(
        self,
        name: str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        ephemeral: bool | None = None,
        ack: Ack = "manual",
        prefetch: int = 1,
        max_unsettled: int | None = None,
        **options: Unpack[QueueKeywords],
    ) -> Consumer:
        """Return a consumer of the subscription ``name``, made if it does not exist.

        Every subscription gets every message that is published from now on. A named one is durable:
        it collects messages while nobody consumes, until `unsubscribe`. Consumers of one and the
        same subscription share its messages. Without a name it is ephemeral: it ends with its
        consumer, or with this process however that one ends.

        Args:
            name: Of the subscription; None for an ephemeral one.
            filter: Headers that a message must have, all of them, equal in value and type.
            ephemeral: True ends a named subscription with this process, too.
            ack, prefetch, max_unsettled: As in `Queue.subscribe`.
            options: Queue options of the subscription (`max_depth`, `ttl`, `dead_letter`, …). What
                is not given is the topic's. ``overflow`` says what happens when it is full:
                "block" (publishers wait), "drop-oldest", or "disconnect": it is cut off, gets
                nothing more, and its consumer's loop ends after what is there. Subscribing again
                under its name starts it anew.

        Raises: TopicNotFound; OptionsMismatch: it exists with other options or another filter.
        """
        qref, full_name, passing = self.join(name, filter, ephemeral, options)
        kind = Ending if passing else Consumer
        queue = Queue(self._client, full_name, qref)
        return kind(queue, name, ack=ack, prefetch=prefetch, max_unsettled=max_unsettled)

    def join(
        self,
        name: str | None,
        filter: Mapping[str, Any] | None,
        ephemeral: bool | None,
        options: Mapping[str, Any],
        flags: int = 0,
    ) -> tuple[int, str, bool]:
        """Find or make a subscription, for `subscribe` and for groups, without a consumer of it.

        Returns (reference, full name, whether it ends with its consumer).
        """
        found = _subscription(
            self._client,
            f"/{self.name}",
            name,
            (lib.SHMQ_KIND_SUBSCRIPTION, self._qref),
            options_of(self._info()),
            options,
            filter,
            ephemeral,
            self._is_over,
            flags,
        )
        if self._is_over():  # shut down meanwhile, maybe before it was there
            self._client.call(lib.shmq_queue_close, found[0])
        return found

    def subscription(self, name: str) -> Queue:
        """Return the queue behind a subscription: to look at, purge or count what waits there."""
        check_share_name(name, "subscription name")
        what = f"subscription {name!r} of {self.name!r}"
        qref = _open_subscription(self._client, f"/{self.name}/{name}", what)
        return Queue(self._client, f"/{self.name}/{name}", qref)

    def unsubscribe(self, name: str) -> None:
        """End the subscription ``name`` with everything in it. Raises QueueNotFound for none."""
        unsubscribe(self._client, self.name, name)

    def subscriber_count(self) -> int:
        """Return how many subscriptions get this topic's messages, patterns included."""
        return self._call(lib.shmq_topic_subscribers, ffi.NULL, 0)

    def subscriptions(self) -> list[str]:
        """Return the names of this topic's own subscriptions, sorted; without patterns."""
        return sorted(name.rpartition("/")[2] for name, _ in self._own())

    def _own(self) -> list[tuple[str, int]]:
        return [
            (name, qref)
            for name, qref, info in records(self._client)
            if info.options.kind == lib.SHMQ_KIND_SUBSCRIPTION and info.options.topic == self._qref
        ]

    def stats(self) -> TopicStats:
        """Return the topic's figures and those of its subscriptions. For people, not for loops."""
        info = self._info()
        subscriptions = []
        for name, qref in sorted(self._own()):
            with contextlib.suppress(QueueNotFound):  # it went meanwhile
                subscriptions.append(Queue(self._client, name, qref).stats())
        return topic_stats_of(info, self.subscriber_count(), subscriptions)

    def shutdown(self) -> None:
        """Take nothing in any more; consumers of its subscriptions end when what is there is settled."""
        self._call(lib.shmq_queue_close)
        for _, qref in self._own():
            self._client.call(lib.shmq_queue_close, qref)

    # ---- the rest --------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return bool(self._info().state != lib.SHMQ_Q_LIVE)

    def _info(self) -> Any:
        info = ffi.new("shmq_queue_info *")
        rc = self._client.call(lib.shmq_queue_snapshot, index_of(self._qref), info)
        if rc == lib.SHMQ_OK and info.ref != self._qref:
            rc = lib.SHMQ_GONE
        if rc in (lib.SHMQ_GONE, lib.SHMQ_E_NOTFOUND) or info.state not in (
            lib.SHMQ_Q_LIVE,
            lib.SHMQ_Q_CLOSED,
        ):
            raise _not_found(self.name)
        self._client.check(rc, f"topic {self.name!r}")
        return info

    def _call(self, call: Callable[..., int], *args: Any) -> int:
        rc = self._client.call(call, self._qref, *args)
        if rc == lib.SHMQ_GONE:
            raise _not_found(self.name)
        return int(self._client.check(rc, self._what()))

    def __reduce__(self) -> Any:
        return _reopen, (self._client.name, self.name)

    def __repr__(self) -> str:
        return f"<shmq.Topic {self.name!r} of broker {self._client.name!r}>"


class Ending(Consumer):
    """A consumer with which a record ends: its ephemeral subscription, or its membership of a group."""

    __slots__ = ("_ends", "_maker")

    def __init__(
        self, queue: Queue, consumer_id: str | None, *, ends: int | None = None, **how: Any
    ) -> None:
        """``ends``: reference of the record; None: that of ``queue``."""
        self._ends = record_of(queue) if ends is None else ends
        self._maker = os.getpid()
        super().__init__(queue, consumer_id, **how)

    def close(self) -> None:
        """Give back what is unsettled and end the record; idempotent."""
        if self.closed:
            return
        super().close()
        if self._maker == os.getpid() and not self._client.closed:  # not in a forked child
            lib.shmq_queue_delete(ffi.cast("shmq_ctx *", self._ctx), self._ends)


def subscribe_pattern(
    client: Client,
    pattern: str,
    name: str | None,
    *,
    filter: Mapping[str, Any] | None = None,
    ephemeral: bool | None = None,
    ack: Ack = "manual",
    prefetch: int = 1,
    max_unsettled: int | None = None,
    **options: Any,
) -> Consumer:
    """Return a consumer of the messages of all topics that match; see `Broker.subscribe`."""
    qref, full_name, passing = _subscription(
        client,
        f"/{pattern}",
        name,
        (lib.SHMQ_KIND_PATTERN, 0),
        QueueOptions.make(queue_defaults(client), {}),
        options,
        filter,
        ephemeral,
    )
    kind = Ending if passing else Consumer
    queue = Queue(client, full_name, qref)
    return kind(queue, name, ack=ack, prefetch=prefetch, max_unsettled=max_unsettled)


def _subscription(
    client: Client,
    source: str,
    name: str | None,
    kind: tuple[int, int],
    defaults: QueueOptions,
    options: Mapping[str, Any],
    filter: Mapping[str, Any] | None,
    ephemeral: bool | None,
    over: Callable[[], bool] = lambda: False,
    flags: int = 0,
) -> tuple[int, str, bool]:
    """Find or make a subscription; return (reference, full name, whether it ends with its consumer).

    ``over`` says whether its topic was shut down: asked after a closed one was found, since a topic
    is closed before its subscriptions.
    """
    passing = name is None
    label = check_share_name(
        f"~{os.getpid()}-{secrets.token_hex(6)}" if name is None else name, "subscription name"
    )
    full_name = f"{source}/{label}"
    what = f"subscription {label!r} of {source[1:]!r}"
    check_record_name(full_name, what, "topic and subscription")
    given = {field: getattr(defaults, field) for field in defaults.__dataclass_fields__}
    reject_unknown("subscription option", options, [*given, *OWN_OPTIONS])
    wanted = QueueOptions.make(given, options)
    refuse_reject(wanted, what)
    ends: object = ephemeral
    if ends is not None and not isinstance(ends, bool):
        todo = "True ends the subscription with this process"
        raise InvalidOptionType(explain("ephemeral", repr(ephemeral), "True or False", todo))
    asked = check_headers(filter, "filter")
    blob = encode_headers(asked) if asked else b""
    if len(blob) > MAX_FILTER:
        raise InvalidOption(
            explain(
                f"filter of {what}",
                f"{len(blob)} bytes when encoded",
                f"at most {MAX_FILTER}",
                "filter by fewer or shorter headers",
            )
        )
    mortal = passing if ephemeral is None else bool(ephemeral)

    def is_as_asked(ref: int) -> bool:
        info = ffi.new("shmq_queue_info *")
        if client.call(lib.shmq_queue_snapshot, index_of(ref), info) != lib.SHMQ_OK:
            return False
        of_another_life = kind[1] and info.options.topic != kind[1]
        # One that a shutdown has closed keeps what is in it.
        cut_off = info.state != lib.SHMQ_Q_LIVE and info.counters[_DISCONNECTED] and not over()
        if cut_off or of_another_life:
            client.call(lib.shmq_queue_delete, ref)
            return False
        differences = [
            each for each in options_of(info).differences(wanted.kept()) if each[0] in options
        ]
        here = bytes(ffi.buffer(info.filter, info.filter_size))
        if filter is not None and here != blob:
            old = dict(decode_headers(here).headers) if here else {}
            differences.append(("filter", old, asked))
        if not differences:
            return True
        raise OptionsMismatch(
            explain(
                what,
                ", ".join(f"{option}={old!r}" for option, old, _ in differences),
                ", ".join(f"{option}={new!r}" for option, _, new in differences),
                "ask for the same options, for none, or unsubscribe() first",
            )
        )

    make = partial(
        make_record, client, full_name, wanted, kind, filter=blob, ephemeral=mortal, flags=flags
    )
    return find_or_make(client, full_name, what, make, is_as_asked), full_name, passing


def unsubscribe(client: Client, source: str, name: str) -> None:
    """End the subscription ``name`` of a topic or pattern; see `Topic.unsubscribe`."""
    full_name = f"/{source}/{check_share_name(name, 'subscription name')}"
    what = f"subscription {name!r} of {source!r}"
    qref = _open_subscription(client, full_name, what)
    client.check(client.call(lib.shmq_queue_delete, qref), what)


def _open_subscription(client: Client, full_name: str, what: str) -> int:
    rc = client.call(lib.shmq_queue_open, full_name.encode())
    if rc in (lib.SHMQ_E_NOTFOUND, lib.SHMQ_GONE):
        todo = "subscribe() makes it; topic.subscriptions() shows what is there"
        raise QueueNotFound(explain(what, "no such subscription", "one that exists", todo))
    return client.check(rc, what)


def refuse_reject(options: QueueOptions, what: str) -> None:
    """Raise InvalidOption for overflow="reject", which is not for what many publishers feed."""
    if options.overflow == "reject":
        raise InvalidOption(
            explain(
                f"overflow of {what}",
                "'reject'",
                "'block', 'drop-oldest' or 'disconnect'",
                "publish(timeout=0) does not wait",
            )
        )


def _not_found(name: str) -> TopicNotFound:
    return TopicNotFound(
        explain(f"topic {name!r}", "no such topic", "one that exists", "create_topic() makes it")
    )


def _reopen(broker: str, name: str) -> Topic:
    return Topic(Client.connect(broker), name)
