"""Taking away what nobody lives in.

Who is attached is judged by pid and start time, and so only where those say something: in the pid
namespace and the time namespace that the segment was made in. Everywhere else, and of a segment
whose records cannot be read, the kernel is asked whether anybody at all has it open or mapped. Where
it does not say, /proc is searched; and if that may have shown less than everybody, the segment is
kept.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from shmq._segment.access import list_segments
from shmq._segment.handle import Segment
from shmq._segment.owners import mapped, owners_alive
from shmq._segment.posix import PosixSegment, open_posix
from shmq._segment.sysv import open_sysv
from shmq.errors import ForeignSegment, ShmqError

FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h


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
    and start time agree), or, where that cannot be judged, when anybody has it open. What cannot be
    found out keeps it.
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
            return Stale(name, provider, False, _claimed(segment))
        if not segment.current():
            return None
        removable, reason = _judge(segment)
        if not removable:
            return Stale(name, provider, False, reason)
        if not dry_run:
            segment.unlink()
        return Stale(name, provider, True, reason)
    finally:
        segment.close()


def _claimed(segment: Segment) -> str:
    try:
        segment.header()
    except ForeignSegment as error:
        return f"claimed, and cannot be judged from here: {error}"
    except ShmqError:
        pass
    return "its supervisor is alive"


def _judge(segment: Segment) -> tuple[bool, str]:
    """Return (removable, why) of a segment that we have claimed."""
    if segment.size == 0 or segment.unfinished():
        # Its creator would have the claim, or gives up when it finds ours; others wait for a magic.
        pids = _mappers(segment)[0] if isinstance(segment, PosixSegment) else []
        return not pids, _by(pids) or "unfinished; its creator is dead"
    try:
        segment.header()
        with mapped(segment) as ctx:
            users = _attached(ctx)
        if users:
            return False, "used by " + ", ".join(users)
        return True, "nobody is attached to it"
    except ForeignSegment as error:
        used = _used(segment)
        if used:
            return False, f"{used}, and cannot be judged from here: {error}"
        return True, f"nobody has it open: {error}"
    except ShmqError as error:
        used = _used(segment)
        return not used, used or f"not usable ({type(error).__name__}), and nobody uses it"


def _attached(ctx: Any) -> list[str]:
    return [f"{owner.role} {owner.pid}" for owner in owners_alive(ctx) if owner.pid]


def _used(segment: Segment) -> str:
    """Return who has the segment open or mapped, or that this cannot be told; empty: nobody."""
    others = segment.others()
    if others is False:
        return ""
    pids, everybody = _mappers(segment) if isinstance(segment, PosixSegment) else ([], True)
    if pids:
        return _by(pids)
    if others:
        return "used by processes that do not show in /proc here"
    return "" if everybody else "no telling who uses it: /proc does not show all processes here"


def _by(pids: list[int]) -> str:
    return "used by " + ", ".join(f"process {pid}" for pid in pids) if pids else ""


def _mappers(segment: PosixSegment) -> tuple[list[int], bool]:
    """Return (who else maps the file, whether all who might do so were seen)."""
    status = os.fstat(segment.fd)
    place = (f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}", str(status.st_ino))
    pids = []
    everybody = _proc_is_whole()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/maps", encoding="utf-8", errors="replace") as maps:
                if any(tuple(line.split(maxsplit=5)[3:5]) == place for line in maps):
                    pids.append(int(entry))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        except OSError:
            # Another user's process cannot have opened a file of ours; one of ours that hides can.
            everybody = everybody and not _may_be_ours(entry)
    return pids, everybody


def _may_be_ours(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            uids = next(line.split()[1:] for line in status if line.startswith("Uid:"))
    except FileNotFoundError:
        return False
    except (OSError, StopIteration):
        return True
    return str(os.geteuid()) in uids


def _options_of_proc(mounts: Iterable[str]) -> list[str]:
    return [fields[3] for line in mounts if (fields := line.split())[1] == "/proc"]


def _proc_is_whole() -> bool:
    """Return whether every process of this machine shows in our /proc."""
    try:
        if os.stat("/proc/self/ns/pid").st_ino != FIRST_PID_NAMESPACE:
            return False
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            options = _options_of_proc(mounts)
    except OSError:
        return False
    return bool(options) and "hidepid" not in options[-1]
