"""Finding, opening, making and taking over the segment of a broker."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, NamedTuple

from shmq._native import ffi, lib
from shmq._segment.handle import Segment
from shmq._segment.header import NAME_OFFSET, USER_WORD_OFFSET
from shmq._segment.names import DEV_SHM, posix_prefix
from shmq._segment.posix import create_posix, open_posix
from shmq._segment.refusals import exists, no_room, raise_for
from shmq._segment.sysv import attach_sysv, create_sysv, name_in, open_sysv, sysv_ids
from shmq.errors import BrokerNotRunning, ForeignSegment, explain

CONTENTION_S = 2.0  # how long makers and removers of one name may be in each other's way


class Found(NamedTuple):
    """A segment that exists, sound or not."""

    name: str
    provider: str


def list_segments() -> list[Found]:
    """Return all segments of this user, sound or not, sorted by name."""
    found = set()
    prefix = posix_prefix()
    with contextlib.suppress(OSError):
        for entry in os.listdir(DEV_SHM):
            if entry.startswith(prefix) and len(entry) > len(prefix):
                found.add(Found(entry[len(prefix) :], "posix"))
    for key, shmid in sysv_ids().items():
        segment = attach_sysv("", key, shmid)
        if segment is not None:
            name = name_in(segment)
            if name:
                found.add(Found(name, "sysv"))
            segment.close()
    return sorted(found)


def open_handle(name: str, wanted: str = "") -> Segment | None:
    """Return a handle on what has that broker's name, its owner checked; None without anything.

    A stranger's thing in the place of the file does not hide a System V segment of ours, nor keep
    anybody from making one who ``wanted`` that provider.

    Raises ForeignSegment when a stranger's thing is all there is.
    """
    try:
        found: Segment | None = open_posix(name)
    except ForeignSegment:
        found = open_sysv(name)
        if found is None and wanted != "sysv":
            raise
        return found
    return found or open_sysv(name)


def open_segment(name: str) -> Segment:
    """Return a handle on the broker's segment, its header checked before anything is mapped.

    Raises:
        BrokerNotRunning: nothing has that name, or it is not finished yet.
        LayoutMismatch, CorruptSegment, ForeignSegment: it is not what this build can use.
    """
    segment = _handle_or_not_running(name)
    try:
        # A creator needs about a millisecond from the name to the magic; a dead one needs for ever.
        for _ in range(50):
            if segment.size and not segment.unfinished():
                break
            time.sleep(0.002)
            segment.close()
            segment = _handle_or_not_running(name)
        else:
            raise BrokerNotRunning(
                explain(
                    f"broker {name!r}",
                    "an unfinished segment, left by a creator that died",
                    "a running broker",
                    f"start it: `shmq up {name}`, which takes the rest away",
                )
            )
        segment.header()
    except BaseException:
        segment.close()
        raise
    return segment


def _handle_or_not_running(name: str) -> Segment:
    segment = open_handle(name)
    if segment is None:
        raise BrokerNotRunning(
            explain(
                f"broker {name!r}",
                "none of that name",
                "a running one",
                f"start it: `shmq up {name}` or shmq.Broker({name!r}); `shmq ls` shows all",
            )
        )
    return segment


def create_segment(
    name: str, provider: str, config: Any, user_word: int = 0
) -> tuple[Segment, bool]:
    """Return (segment, adopted): made anew, or taken over from a dead supervisor; claimed either way.

    ``config`` is a `shmq_config *`; it counts for a new segment only, an adopted one keeps its own.

    Raises:
        BrokerExists: a living supervisor has it.
        OutOfSharedMemory: there is not even room for the header.
        LayoutMismatch, CorruptSegment, ForeignSegment: something else has that name.
    """
    deadline = time.monotonic() + CONTENTION_S
    while time.monotonic() < deadline:
        segment = open_handle(name, provider)
        if segment is None:
            segment = create_posix(name) if provider == "posix" else create_sysv(name, config)
            if segment is None:  # somebody else is making it, or taking it away
                time.sleep(0.001)
                continue
            try:
                claimed = segment.claim()
                if claimed:
                    _format(segment, config, user_word)
            except BaseException:
                segment.unlink()
                segment.close()
                raise
            if not claimed:  # by who takes it for one that its creator has left unfinished
                segment.close()
                time.sleep(0.001)
                continue
            return segment, False
        try:
            claimed = segment.claim()
        except BaseException:
            segment.close()
            raise
        if not claimed:
            unfinished = segment.size == 0 or segment.unfinished()
            segment.close()
            if unfinished:  # being made, or looked at by who cleans up: neither takes long
                time.sleep(0.001)
                continue
            raise exists(name)
        if not segment.current():  # unlinked between open and claim
            segment.close()
            continue
        if segment.size == 0 or segment.unfinished():
            # Its creator is dead, or finds our claim and gives up.
            segment.unlink()
            segment.close()
            continue
        try:
            segment.header()
        except BaseException:
            segment.close()
            raise
        return segment, True
    raise exists(name)


def _format(segment: Segment, config: Any, user_word: int) -> None:
    ctx = lib.shmq_ctx_new()
    if not ctx:
        raise MemoryError("no memory for a context")
    try:
        segment.resize(lib.shmq_plan(config, ffi.new("shmq_geometry *")))
        segment.map(ctx)
        segment.write(NAME_OFFSET, segment.name.encode() + b"\0")
        if user_word:
            segment.write(USER_WORD_OFFSET, user_word.to_bytes(8, "little"))
        raise_for(lib.shmq_format(ctx, config), ctx, segment.name)
    except OSError as error:
        raise no_room(segment.name, error) from error
    finally:
        lib.shmq_unmap(ctx)
        lib.shmq_ctx_delete(ctx)
