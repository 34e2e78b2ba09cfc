"""How large a segment may be in address space, and what a broker's limits are when nobody says."""

from __future__ import annotations

import mmap
import resource
from typing import Any, NamedTuple

from shmq._native import ffi, lib

SHARE = 3  # of the address space that a process may have, one broker asks for this part unasked
MIB = 1 << 20
LEAST_MEMORY = 1 << 20  # memory_limit
# (processes and queues, smallest memory_limit with which that many are worth while)
STEPS = ((1024, 1024 * MIB), (256, 256 * MIB), (64, 64 * MIB), (32, 8 * MIB), (16, LEAST_MEMORY))


class Limits(NamedTuple):
    """What the size of a segment follows from, beside the size of the largest message."""

    memory: int
    queues: int
    processes: int


def config_of(limits: Limits, max_message: int) -> Any:
    """Return a `shmq_config *` with these."""
    config = ffi.new("shmq_config *")
    config.memory_limit = limits.memory
    config.max_message = max_message
    config.max_queues = limits.queues
    config.max_processes = limits.processes
    return config


def bytes_of(limits: Limits, max_message: int) -> int:
    """Return the address space that a segment with these limits takes, in each of its processes."""
    return int(lib.shmq_plan(config_of(limits, max_message), ffi.new("shmq_geometry *")))


def soft_limit() -> int | None:
    """Return what `ulimit -v` allows a process, in bytes; None without such a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _fits(size: int) -> bool:
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except (OSError, OverflowError, ValueError, MemoryError):
        return False
    return True


def allowance(wanted: int) -> int | None:
    """Return how much address space a broker takes unasked; None when it may be ``wanted`` bytes.

    `ulimit -v` bounds it in batch systems; there are machines with 39 bits for addresses, and tools
    (valgrind) that leave less. So what there is is tried, by mappings that take no memory.
    """
    limit = soft_limit()
    if limit is not None:
        return None if SHARE * wanted <= limit else limit // SHARE
    size = SHARE * wanted
    if _fits(size):
        return None
    while size > MIB and not _fits(size):
        size //= 2
    return size // SHARE


def fits(limits: Limits, max_message: int) -> bool:
    """Return whether a broker takes so much address space unasked."""
    return allowance(bytes_of(limits, max_message)) is None


def default_limits(
    memory: int,
    max_message: int,
    given: dict[str, int],
) -> Limits:
    """Return the limits of a broker of which only those in ``given`` were asked for.

    They are ``memory`` (the size of RAM), and as many queues and processes as there can be. Where address
    space is short, those that were not asked for are so much smaller that the segment fits.
    """
    wanted = Limits(
        given.get("memory_limit", memory),
        given.get("max_queues", lib.SHMQ_QUEUES),
        given.get("max_processes", lib.SHMQ_OWNERS),
    )
    room = allowance(bytes_of(wanted, max_message))
    if room is None:
        return wanted
    for number, worth in STEPS:
        limits = wanted._replace(
            queues=given.get("max_queues", number), processes=given.get("max_processes", number)
        )
        if "memory_limit" not in given:
            limits = limits._replace(memory=_most_memory(limits, max_message, room))
            worth = min(worth, wanted.memory)
            if limits.memory >= worth:
                return limits
        elif bytes_of(limits, max_message) <= room:
            return limits
    return limits


def _most_memory(limits: Limits, max_message: int, room: int) -> int:
    """Return the largest memory_limit up to that of ``limits`` with which they fit into ``room``."""
    least, most = 0, limits.memory // MIB
    while least < most:
        middle = (least + most + 1) // 2
        if bytes_of(limits._replace(memory=middle * MIB), max_message) <= room:
            least = middle
        else:
            most = middle - 1
    return max(least * MIB, LEAST_MEMORY)
