"""What a broker's segment is called: a file in /dev/shm, or one of a few System V keys."""

from __future__ import annotations

import os
from collections.abc import Iterator

ANONYMOUS_PREFIX = "anonymous-"
DEV_SHM = "/dev/shm"
KEY_MARK = 0x53 << 24  # the top byte of our System V keys
KEY_TRIES = 8


def posix_prefix() -> str:
    """Return how the names of this user's files in /dev/shm begin."""
    return f"shmq.{os.geteuid()}."


def posix_name(name: str) -> str:
    """Return the name of the POSIX shared memory object of broker ``name``."""
    return "/" + posix_prefix() + name


def hash_of(name: str) -> int:
    """Return 64 bits that stand for this user and ``name``."""
    hashed = 0xCBF29CE484222325  # FNV-1a; not for secrets
    for byte in os.fsencode(f"{os.geteuid()}:{name}"):
        hashed = (hashed ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return hashed


def sysv_keys(name: str) -> Iterator[int]:
    """Yield the System V keys of broker ``name``, in the order in which they are tried."""
    hashed = hash_of(name)
    for _ in range(KEY_TRIES):
        hashed = (hashed ^ 0x5B) * 0x100000001B3 & (1 << 64) - 1
        yield KEY_MARK | (hashed >> 20) & 0xFFFFFF
