"""Taking away what nobody lives in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import NamedTuple

from shmq.errors import ShmqError
from shmq.segment.access import list_segments
from shmq.segment.handle import Segment
from shmq.segment.names import DEV_SHM, posix_name
from shmq.segment.owners import mapped, owners_alive
from shmq.segment.posix import open_posix
from shmq.segment.sysv import SysvSegment, open_sysv


class Stale(NamedTuple):
    """Whether a segment may go, and why (not)."""

    name: str
    provider: str
    removable: bool
    reason: str


def clean(
    dry_run: bool = False, prefix: str = "", names: Collection[str] | None = None
) -> list[Stale]:
    """Remove this user's segments in which nobody lives; returns what was found about each.

    ``prefix`` and ``names`` narrow it down to brokers of such names.

    Somebody lives in it when its supervisor's claim is held, when an attached process is alive (pid
    and start time agree), or, where its layout cannot be read, when any process maps it.
    """
    found = []
    for name, provider in list_segments():
        if not name.startswith(prefix) or (names and name not in names):
            continue
        try:
            verdict = _clean_one(name, provider, dry_run)
        except (ShmqError, OSError) as error:
            verdict = Stale(name, provider, False, str(error))
        if verdict is not None:
            found.append(verdict)
    return found


def _clean_one(name: str, provider: str, dry_run: bool) -> Stale | None:
    segment = open_posix(name) if provider == "posix" else open_sysv(name)
    if segment is None:
        return None
    try:
        # From here on no supervisor can come to life in it: it would need the claim.
        if not segment.claim():
            return Stale(name, provider, False, "its supervisor is alive")
        if not segment.current():
            return None
        users = _users(segment)
        if users:
            return Stale(name, provider, False, "used by " + ", ".join(users))
        if segment.size == 0 or segment.unfinished():
            reason = "unfinished; its creator is dead"
        else:
            try:
                segment.header()
                reason = "nobody is attached to it"
            except ShmqError as error:
                reason = f"not usable ({type(error).__name__}), and nobody uses it"
        if not dry_run:
            segment.unlink()
        return Stale(name, provider, True, reason)
    finally:
        segment.close()


def _users(segment: Segment) -> list[str]:
    try:
        if segment.size and not segment.unfinished():
            segment.header()
            with mapped(segment) as ctx:
                return [f"{owner.role} {owner.pid}" for owner in owners_alive(ctx) if owner.pid]
    except ShmqError:
        pass
    if isinstance(segment, SysvSegment):
        others = segment.memory.number_attached - 1
        return [f"{others} processes"] if others > 0 else []
    return [f"process {pid}" for pid in _mappers(segment)]


def _mappers(segment: Segment) -> list[int]:
    path = f"{DEV_SHM}{posix_name(segment.name)}"
    pids = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{entry}/maps", encoding="utf-8", errors="replace") as maps:
                if any(line.rstrip("\n").endswith(path) for line in maps):
                    pids.append(int(entry))
    return pids
