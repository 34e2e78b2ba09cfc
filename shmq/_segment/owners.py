"""Who lives in a segment: looking without taking part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from shmq._native import ffi, lib, names_of
from shmq._segment.access import open_segment
from shmq._segment.handle import Segment
from shmq._segment.refusals import raise_for

ROLES = names_of("shmq_role", "SHMQ_")


class Owner(NamedTuple):
    """One attached process that is proven alive at the time of asking."""

    record: int
    pid: int
    role: str
    held: int
    attached_ns: int


@contextlib.contextmanager
def mapped(segment: Segment) -> Iterator[Any]:
    """Map a segment without attaching to it: yields the context."""
    ctx = lib.shmq_ctx_new()
    try:
        segment.map(ctx)
        raise_for(lib.shmq_verify(ctx), ctx, segment.name)
        yield ctx
    finally:
        lib.shmq_unmap(ctx)
        lib.shmq_ctx_delete(ctx)


@contextlib.contextmanager
def observe(name: str) -> Iterator[tuple[Segment, Any]]:
    """Map a broker's segment without attaching to it: yields (segment, context)."""
    segment = open_segment(name)
    try:
        with mapped(segment) as ctx:
            yield segment, ctx
    finally:
        segment.close()


def owners_alive(ctx: Any) -> list[Owner]:
    """Return the attached processes that are alive (pid and start time agree)."""
    info = ffi.new("shmq_segment_info *")
    if lib.shmq_segment_snapshot(ctx, info) != lib.SHMQ_OK:
        return []
    alive = []
    owner = ffi.new("shmq_owner_info *")
    for index in range(info.owners):
        if lib.shmq_owner_snapshot(ctx, index, owner) != lib.SHMQ_OK:
            continue
        if owner.state != lib.SHMQ_OWNER_ALIVE:
            continue
        if lib.shmq_owner_prove(ctx, index, 1) == lib.SHMQ_OK:
            continue
        role = ROLES[owner.role] if owner.role < len(ROLES) else "unknown"
        alive.append(Owner(index, owner.pid, role, owner.held, owner.attached_ns))
    return alive


def living(name: str) -> list[Owner]:
    """Return who is attached to the broker ``name`` and alive, without attaching to it."""
    with observe(name) as (_, ctx):
        return owners_alive(ctx)
