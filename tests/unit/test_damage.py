"""Words of shared memory that nobody can have written: each is put right, or is a CorruptSegment. See tests/crash/damage.py."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from rig import Rig

from shmq._native import ffi, lib
from shmq._records import index_of, info_of, options_of, records
from shmq.errors import CorruptSegment, QueueNotFound, ShmqError
from shmq.group import place_of_member
from shmq.message import Message
from shmq.mp import compact, pickling
from shmq.queue import Queue
from shmq.settings import pack_defaults, unpack_defaults, unpack_metrics
from shmq.stats.broker import read_stats

HUGE = 0xFFFFFFFF


def geometry(rig: Rig) -> Any:
    found = ffi.new("shmq_geometry *")
    assert lib.shmq_geometry_of(rig.client.ctx, found) == lib.SHMQ_OK
    return found


def put(rig: Rig, at: int, value: int, size: int = 4) -> None:
    rig.client.segment.write(at, value.to_bytes(size, "little"))


def record(rig: Rig, queue: Queue, *member: str | int) -> int:
    place = geometry(rig).queues + index_of(queue._qref) * ffi.sizeof("shmq_queue")
    return int(place + ffi.offsetof("shmq_queue", *member))


def block_word(rig: Rig, member: str) -> int:
    """Where a word of the one block in use is."""
    g, n = geometry(rig), ffi.sizeof("shmq_block")
    for first in (g.first[0], g.first[1]):
        for i in range(64):
            at = g.blocks + (first + i) * n
            if rig.client.segment.read(at + 7, 1)[0] >> 4 == lib.SHMQ_READY:
                return int(at + ffi.offsetof("shmq_block", member))
    raise AssertionError("no message")


@pytest.mark.parametrize("word", ["owner_hwm", "queue_hwm"])
def test_counts_of_records_beyond_their_tables_are_no_more_than_these(rig: Rig, word: str) -> None:
    rig.queue()
    put(rig, ffi.offsetof("shmq_header", word), HUGE)
    info = ffi.new("shmq_segment_info *")
    lib.shmq_segment_snapshot(rig.client.ctx, info)
    assert info.owners <= lib.SHMQ_OWNERS
    assert info.queues <= lib.SHMQ_QUEUES
    assert [name for name, _, _ in records(rig.client)] == ["q"]
    assert len(read_stats(rig.client.segment, rig.client.ctx).queues) == 1


@pytest.mark.parametrize("option", ["overflow", "order", "expired", "durability", "priorities"])
def test_options_that_no_queue_was_made_with_are_told_to_be_corrupt(rig: Rig, option: str) -> None:
    queue = rig.queue()
    put(rig, record(rig, queue, "options", option), HUGE)
    with pytest.raises(CorruptSegment, match="options of a queue: found "):
        options_of(info_of(rig.client, index_of(queue._qref)))
    with contextlib.suppress(ShmqError):
        Queue(rig.client, "q").publish(b"x", timeout=0)


@pytest.mark.parametrize("levels", [0, lib.SHMQ_LEVELS + 1])
def test_a_queue_without_levels_or_with_too_many_is_corrupt(rig: Rig, levels: int) -> None:
    # Else a message of a level that the queue was made with would be its publisher's mistake: a ValueError.
    queue = rig.queue()
    put(rig, record(rig, queue, "options", "priorities"), levels)
    with pytest.raises(CorruptSegment, match="priorities: found "):
        Queue(rig.client, "q")
    queue.publish(b"x", priority=9)  # a handle that was there goes on
    with queue.subscribe() as consumer:
        consumer.get(timeout=0).ack()


def test_a_generation_without_end_is_a_queue_that_is_gone(rig: Rig) -> None:
    queue = rig.queue()
    put(rig, record(rig, queue, "word"), (1 << 64) - 256 + lib.SHMQ_Q_LIVE, 8)
    with pytest.raises(QueueNotFound):
        queue.depth()
    for _, reference, info in records(rig.client):
        assert 0 <= reference < 1 << 63
        assert reference == info.ref
    with pytest.raises(QueueNotFound):
        Queue(rig.client, "q").depth()


def test_what_a_message_says_of_itself_is_what_a_message_can_say(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish(b"x", ttl=50)
    put(rig, block_word(rig, "fate") + 6, 0xF0, 1)
    put(rig, block_word(rig, "published_ns"), (1 << 64) - 1, 8)
    (message,) = queue.peek()
    assert isinstance(message, Message)
    assert message.priority <= lib.SHMQ_LEVELS - 1
    assert message.ttl is not None
    assert message.ttl > 0


def test_headers_that_cannot_be_decoded_are_told_to_be_corrupt(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish(b"x" * 8, headers={"a": "text"})
    g = geometry(rig)
    payload = rig.client.segment.read(g.payload[0], 64 * 64)
    at = payload.index(b"\x05\x01a\x04text")
    rig.client.segment.write(g.payload[0] + at, b"\xff\xff\xff\xff")
    with pytest.raises(CorruptSegment, match="headers: found"):
        queue.peek()
    with queue.subscribe() as consumer:
        delivery = consumer.get(timeout=0)
        with pytest.raises(CorruptSegment):
            delivery.headers  # noqa: B018
        delivery.reject()  # it can be got rid of


def test_a_broker_of_the_future_has_been_up_for_no_time(rig: Rig) -> None:
    put(rig, ffi.offsetof("shmq_header", "created_ns"), (1 << 64) - 1, 8)
    put(rig, ffi.offsetof("shmq_header", "geometry"), (1 << 64) - 1, 8)
    stats = read_stats(rig.client.segment, rig.client.ctx)
    assert stats.uptime == 0
    dataclasses.asdict(stats)


def test_defaults_that_no_settings_can_give_do_not_count() -> None:
    assert unpack_defaults((1 << 64) - 1) is None
    assert unpack_defaults(1 << 63) is None
    assert unpack_metrics(1 << 63)[1] > 0
    assert unpack_defaults(pack_defaults(7, 2)) == (7, 2)


@pytest.mark.parametrize("name", ["", "//", "//a", "//a/b", "x"])
def test_a_member_with_another_name_belongs_nowhere(name: str) -> None:
    stream, _, _ = place_of_member(name)
    assert stream == ""


@pytest.mark.parametrize("meta", [b"\x03\x02py\x01", b"\x03\x02py\x01\x09", b"\x03\x02py\x01\x03\x06\x01n\xff\xff", b"\x03\x02py\x01\x03\x06\x01n\x10a", b"\x03\x02py\x01\x03\x06\x01n" + b"\xff" * 20_000 + b"\x01"])  # fmt: skip
def test_headers_of_an_item_that_no_put_writes_are_told_to_be_corrupt(meta: bytes) -> None:
    with pytest.raises(CorruptSegment, match="item: found headers"):
        pickling.decode(meta, memoryview(b"x" * 64), view=False)


@pytest.mark.parametrize("data", [b"", b"?", b"i\x01", b"[\xff\xff\xff\xff\xff", b"[\x01" * 5000, b"{\x01[\x00N", b"u\x01\xff", b"NN"])  # fmt: skip
def test_an_item_that_no_put_writes_is_told_to_be_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptSegment, match="compact item: found"):
        compact.read(memoryview(data))
