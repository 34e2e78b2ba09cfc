"""What a broker's figures are: its processes, memory, queues, topics, groups, and who does what.

Read from shared memory when they are asked for, by an attached process or by an observer that is
not (`segment.observe`). Nobody is stopped for it, and nothing is counted for it that is not anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shmq._native import ffi, lib
from shmq._records import KINDS, OF_A_GROUP, is_alive, name_of, place_of
from shmq._segment import Owner, Segment, owners_alive
from shmq._values import NS
from shmq.errors import explain
from shmq.group import DISPATCH, place_of_member
from shmq.stats.counters import COUNTERS, NAMES, place_of_counter
from shmq.stats.queue import QueueStats, stats_of
from shmq.topic import TopicStats, topic_stats_of

__all__ = [
    "BrokerStats", "ClientStats", "GroupStats", "MemberStats", "read_stats",
]  # fmt: skip

CLIENT_COUNTERS = tuple(counter.name for counter in COUNTERS if counter.client)
ROW = len(NAMES) * 8  # bytes of a process's and queue's counters that are read


@dataclass(frozen=True)
class MemberStats:
    """One living member of a consumer group."""

    name: str
    pid: int
    turns: int | None
    """messages it has had, counted on from what the others had when it joined; of strict turns only"""


@dataclass(frozen=True)
class GroupStats:
    """A consumer group. One on a queue is there while it has members, one on a topic until unsubscribed."""

    name: str
    source: str
    """name of the queue or topic"""
    source_kind: str
    """"queue" or "topic" """
    dispatch: str | None
    """None while it has no members"""
    lag: int
    """messages that wait for a member; a queue's are those of all its groups"""
    unsettled: int
    members: tuple[MemberStats, ...]


@dataclass(frozen=True)
class ClientStats:
    """What an attached process does with one queue, subscription or topic.

    The counts go on from those of earlier processes that had the same place in the broker: only
    what was added between two looks is this process's, see `rates_since`.
    """

    pid: int
    attached_ns: int
    """when it attached, nanoseconds of the monotonic clock; tells processes with the same pid apart"""
    name: str
    """of the queue; "/topic" and "/topic/subscription" of the others"""
    kind: str
    topic: str | None
    subscription: str | None
    published: int
    delivered: int
    acked: int
    nacked: int
    rejected: int
    redelivered: int
    returned: int
    at: float
    """when these figures were taken, seconds of the monotonic clock"""

    def rates_since(self, earlier: ClientStats) -> dict[str, float]:
        """Return how many per second of each count there were since ``earlier`` figures."""
        seconds = self.at - earlier.at
        mine, other = ((one.pid, one.attached_ns, one.name) for one in (self, earlier))
        if mine != other or seconds <= 0:
            raise ValueError(
                explain(
                    "earlier",
                    f"figures of process {earlier.pid} and {earlier.name!r}, {seconds:g} s earlier",
                    f"earlier ones of process {self.pid} and {self.name!r}",
                    "call broker.stats() twice and pass what the first has of the same process",
                )
            )
        return {
            name: max(0, getattr(self, name) - getattr(earlier, name)) / seconds
            for name in CLIENT_COUNTERS
        }


@dataclass(frozen=True)
class BrokerStats:
    """A broker at one moment. Sizes in bytes, times in seconds."""

    name: str
    url: str
    supervisor_pid: int | None
    """None while there is none: `Broker.start` or `shmq up` starts one"""
    sidecar_pid: int | None
    uptime: float
    memory_used: int
    """shared memory that really has pages behind it"""
    memory_reserved: int
    """address space of the segment; costs nothing"""
    memory_limit: int
    """bytes of memory for payloads, those of all size classes together"""
    blocks: int
    free_blocks: int
    corrupt: int
    """impossible values that were found and put right; 0 in a healthy broker"""
    anonymous: bool
    closing: bool
    attached: tuple[Owner, ...]
    """processes that use it, supervisor and sidecar included"""
    queues: tuple[QueueStats, ...]
    topics: tuple[TopicStats, ...]
    """each with its subscriptions"""
    patterns: tuple[QueueStats, ...]
    """subscriptions of all topics that match"""
    groups: tuple[GroupStats, ...]
    clients: tuple[ClientStats, ...]
    """one for each process and queue, subscription or topic that it has used"""

    def streams(self) -> list[QueueStats]:
        """Return the figures of all that messages wait in: queues, subscriptions, patterns."""
        subscriptions = [one for topic in self.topics for one in topic.subscriptions]
        return [*self.queues, *subscriptions, *self.patterns]


def read_stats(segment: Segment, ctx: Any) -> BrokerStats:
    """Return the state of the broker that is mapped into ``ctx``; attached or not."""
    info = ffi.new("shmq_segment_info *")
    lib.shmq_segment_snapshot(ctx, info)
    owners = owners_alive(ctx)
    by_role = {owner.role: owner.pid for owner in owners}
    found = _records(ctx, info.queues)
    streams = _streams(ctx, found, info.queues)
    return BrokerStats(
        name=segment.name,
        url=f"shm://{segment.name}",
        supervisor_pid=by_role.get("supervisor"),
        sidecar_pid=by_role.get("sidecar"),
        uptime=max(0, lib.shmq_now() - info.created_ns) / NS,
        memory_used=segment.memory_used(),
        memory_reserved=info.total,
        memory_limit=info.memory_limit,
        blocks=info.blocks,
        free_blocks=info.free_blocks,
        corrupt=info.corrupt,
        anonymous=bool(info.anonymous),
        closing=bool(info.closing),
        attached=tuple(owners),
        queues=tuple(one for one in streams.values() if one.kind == "queue"),
        topics=tuple(_topics(ctx, found, streams)),
        patterns=tuple(one for one in streams.values() if one.kind == "pattern"),
        groups=tuple(_groups(ctx, found, streams)),
        clients=tuple(_clients(segment, ctx, owners, found)),
    )


# ---- records ------------------------------------------------------------------------------------


def _records(ctx: Any, n: int) -> list[Any]:
    found = []
    for index in range(n):
        info = ffi.new("shmq_queue_info *")
        if lib.shmq_queue_snapshot(ctx, index, info) != lib.SHMQ_OK:
            continue
        if info.state in (lib.SHMQ_Q_LIVE, lib.SHMQ_Q_CLOSED):
            found.append(info)
    return sorted(found, key=name_of)


def _kind(info: Any) -> str:
    return place_of(info)[0]


def _reference(info: Any) -> int:
    return int(info.ref)


def _streams(ctx: Any, found: list[Any], n: int) -> dict[str, QueueStats]:
    census = ffi.new("shmq_census[]", max(1, n))
    lib.shmq_census_all(ctx, census, n)
    return {
        name_of(info): stats_of(info, census[info.index])
        for info in found
        if _kind(info) not in ("topic", "member")
    }


def _topics(ctx: Any, found: list[Any], streams: dict[str, QueueStats]) -> Iterable[TopicStats]:
    patterns = [info for info in found if _kind(info) == "pattern"]
    for topic in found:
        if _kind(topic) != "topic":
            continue
        own = [info for info in found if info.options.topic == _reference(topic)]
        own = [info for info in own if _kind(info) == "subscription"]
        name = name_of(topic)[1:].encode()
        those = [*own, *(info for info in patterns if _matches(info, name))]
        subscribers = sum(info.state == lib.SHMQ_Q_LIVE and is_alive(ctx, info) for info in those)
        yield topic_stats_of(topic, subscribers, [streams[name_of(info)] for info in own])


def _matches(info: Any, topic: bytes) -> bool:
    pattern = (place_of(info)[1] or "").encode()
    return bool(lib.shmq_topic_matches(pattern, len(pattern), topic, len(topic)))


def _groups(ctx: Any, found: list[Any], streams: dict[str, QueueStats]) -> Iterable[GroupStats]:
    members: dict[tuple[str, str], list[MemberStats]] = {}
    dispatch: dict[tuple[str, str], str] = {}
    for info in found:
        kind, topic, subscription = place_of(info)
        if kind == "subscription" and info.options.flags & OF_A_GROUP:
            members.setdefault((f"/{topic}/{subscription}", str(subscription)), [])
        if kind != "member" or info.state != lib.SHMQ_Q_LIVE or not is_alive(ctx, info):
            continue
        stream, group, name = place_of_member(name_of(info))
        way = DISPATCH[(info.options.flags - 1) & 1]
        turns = int(info.bytes) if way == "round-robin" else None
        members.setdefault((stream, group), []).append(MemberStats(name, _pid(ctx, info), turns))
        dispatch[stream, group] = way
    for (stream, group), those in sorted(members.items()):
        figures = streams.get(stream)
        if figures is None:  # deleted meanwhile
            continue
        yield GroupStats(
            name=group,
            source=figures.topic or figures.name,
            source_kind="topic" if figures.topic else "queue",
            dispatch=dispatch.get((stream, group)),
            lag=figures.ready,
            unsettled=figures.unsettled,
            members=tuple(sorted(those, key=lambda member: member.name)),
        )


def _pid(ctx: Any, info: Any) -> int:
    owner = ffi.new("shmq_owner_info *")
    lib.shmq_owner_snapshot(ctx, info.owner, owner)
    return int(owner.pid)


# ---- processes ----------------------------------------------------------------------------------
# Each process counts in rows of its own, one per queue; the core only adds them up. Here they are
# read one by one, as a copy of the bytes: of memory that its owner says is there, so that a look
# makes no pages.

_OWNER = ffi.sizeof("shmq_owner"), ffi.offsetof("shmq_owner", "counters")


def _clients(
    segment: Segment, ctx: Any, owners: list[Owner], found: list[Any]
) -> Iterable[ClientStats]:
    geometry = ffi.new("shmq_geometry *")  # the checked copy, whatever the header says by now
    if lib.shmq_geometry_of(ctx, geometry) != lib.SHMQ_OK:
        return
    wanted = [place_of_counter(name) for name in CLIENT_COUNTERS]
    for owner in owners:
        if owner.role != "client":
            continue
        at = geometry.owners + owner.record * _OWNER[0] + _OWNER[1]
        there = int.from_bytes(segment.read(at, 4), "little")
        for one in found:
            kind, topic, subscription = place_of(one)
            if kind == KINDS[lib.SHMQ_KIND_MEMBER] or not there >> one.index // 32 & 1:
                continue
            place = owner.record * geometry.queue_count + one.index
            row = segment.read(geometry.counters + place * ffi.sizeof("shmq_counters"), ROW)
            counts = [int.from_bytes(row[8 * i : 8 * i + 8], "little") for i in wanted]
            if any(counts):
                yield ClientStats(
                    pid=owner.pid,
                    attached_ns=owner.attached_ns,
                    name=name_of(one),
                    kind=kind,
                    topic=topic,
                    subscription=subscription,
                    **dict(zip(CLIENT_COUNTERS, counts, strict=True)),
                    at=lib.shmq_now() / NS,
                )
