"""Segments without any process around them: names, creation, claims, headers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmq._native import ffi, lib
from shmq._segment import Segment, create_segment, list_segments, observe, open_segment
from shmq._segment.header import HEAD_BYTES
from shmq._segment.names import KEY_MARK, posix_name, sysv_keys
from shmq._segment.posix import create_posix
from shmq.errors import BrokerExists, BrokerNotRunning


@pytest.fixture
def config() -> Any:
    config = ffi.new("shmq_config *")
    config.memory_limit = 64 << 20
    config.max_message = 1 << 20
    config.default_ttl_ns = 5
    return config


@pytest.fixture(params=["posix", "sysv"])
def segment(request: pytest.FixtureRequest, broker_name: str, config: Any) -> Iterator[Segment]:
    if request.param == "sysv":
        config.provider = lib.SHMQ_SYSV
    segment, adopted = create_segment(broker_name, request.param, config, user_word=7 << 60)
    assert not adopted
    yield segment
    segment.unlink()
    segment.close()


def test_names_carry_the_user(broker_name: str) -> None:
    assert posix_name("shop") == f"/shmq.{os.getuid()}.shop"


def test_keys_are_ours_distinct_and_the_same_again() -> None:
    keys = list(sysv_keys("shop"))
    assert keys == list(sysv_keys("shop"))
    assert len(set(keys)) == len(keys)
    assert all(key & 0xFF << 24 == KEY_MARK for key in keys)
    assert not set(keys) & set(sysv_keys("shop2"))


def test_a_new_segment_is_found_checked_and_described(segment: Segment) -> None:
    again = open_segment(segment.name)
    try:
        header = again.header()
        assert header.provider == segment.provider
        assert (header.memory_limit, header.max_message, header.default_ttl_ns) == (
            64 << 20, 1 << 20, 5,
        )  # fmt: skip
        assert header.total == segment.size
        assert again.user_word() == 7 << 60
        assert again.current()
        assert not again.unfinished()
        assert len(again.read_head()) == HEAD_BYTES
    finally:
        again.close()
    assert (segment.name, segment.provider) in list_segments()


def test_a_claimed_segment_is_refused_to_others(segment: Segment, config: Any) -> None:
    with pytest.raises(BrokerExists, match=segment.name):
        create_segment(segment.name, segment.provider, config)


def test_the_claim_goes_with_the_process(broker_name: str, config: Any) -> None:
    pid = os.fork()
    if pid == 0:
        create_segment(broker_name, "posix", config)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    segment, adopted = create_segment(broker_name, "posix", config)
    assert adopted
    segment.unlink()
    segment.close()


def test_a_child_that_drops_the_claim_leaves_it_to_its_parent(
    segment: Segment, config: Any
) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            segment.drop_claim()
            os.read(read, 1)
            code = 0
        finally:
            os._exit(code)
    with pytest.raises(BrokerExists):
        create_segment(segment.name, segment.provider, config)
    os.write(write, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(read)
    os.close(write)


def test_a_segment_without_name_is_no_longer_current(segment: Segment) -> None:
    again = open_segment(segment.name)
    segment.unlink()
    assert not segment.current()
    assert not again.current()
    again.unlink()  # nothing to do
    again.close()
    with pytest.raises(BrokerNotRunning):
        open_segment(segment.name)


def test_unlink_spares_a_successor_of_the_same_name(segment: Segment, config: Any) -> None:
    old = open_segment(segment.name)
    segment.unlink()
    successor, _ = create_segment(segment.name, segment.provider, config)
    try:
        old.unlink()
        assert successor.current()
    finally:
        old.close()
        successor.unlink()
        successor.close()


def test_an_observer_is_not_attached(segment: Segment) -> None:
    with observe(segment.name) as (_, ctx):
        info = ffi.new("shmq_segment_info *")
        assert lib.shmq_segment_snapshot(ctx, info) == lib.SHMQ_OK
        assert info.owners == 0
        assert lib.shmq_attached(ctx) == 0


def test_handles_do_not_leak_descriptors(segment: Segment) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    open_segment(segment.name).close()
    before = count()
    for _ in range(20):
        open_segment(segment.name).close()
    assert count() == before


def test_an_unfinished_segment_that_is_taken_away_meanwhile_is_not_there(
    broker_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its creator gave up, or somebody cleaned, between two looks of one who wants to open it."""
    path = Path("/dev/shm") / posix_name(broker_name)[1:]
    path.write_bytes(bytes(HEAD_BYTES))
    monkeypatch.setattr("shmq._segment.access.time.sleep", lambda _: path.unlink(missing_ok=True))
    try:
        with pytest.raises(BrokerNotRunning, match="none of that name"):
            open_segment(broker_name)
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("taken_away", [False, True])
def test_who_looks_at_a_segment_in_the_making_keeps_nobody_from_it(
    broker_name: str, config: Any, taken_away: bool
) -> None:
    """`clean`, and each supervisor at its start, claim what seems to be left unfinished."""
    looked_at = create_posix(broker_name)
    assert looked_at is not None
    assert looked_at.claim()

    def let_go() -> None:
        if taken_away:
            looked_at.unlink()
        looked_at.close()

    cleaner = threading.Timer(0.05, let_go)
    cleaner.start()
    made, adopted = create_segment(broker_name, "posix", config)
    try:
        assert not adopted
        assert made.current()
    finally:
        cleaner.join()
        made.unlink()
        made.close()
