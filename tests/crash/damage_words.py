"""What is damaged: the words of a segment, where they are, and what is written there instead. See damage.py."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable

from shmq._native import ffi, lib
from shmq._segment import open_segment

ENDING = ("closing", "anonymous")  # words that may end a broker
WORD = struct.Struct("<Q")


def offset(struct_name: str, *path: str | int) -> int:
    return int(ffi.offsetof(struct_name, *path))


def size(struct_name: str) -> int:
    return int(ffi.sizeof(struct_name))


class Image:
    """A segment as bytes, and where its words are."""

    def __init__(self, name: str) -> None:
        self.segment = open_segment(name)
        self.fd: int = self.segment.fd  # type: ignore[attr-defined]
        self.geometry = ffi.new("shmq_geometry *")
        ffi.buffer(self.geometry)[:] = self.read(
            offset("shmq_header", "geometry"), size("shmq_geometry")
        )
        self.extents: list[tuple[int, bytes]] = []

    def read(self, at: int, n: int) -> bytes:
        return os.pread(self.fd, n, at)

    def word(self, at: int) -> int:
        return int(WORD.unpack(self.read(at, 8).ljust(8, b"\0"))[0])

    def save(self) -> None:
        at, total = 0, 0
        while True:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(self.fd, start, os.SEEK_HOLE)
            self.extents.append((start, self.read(start, at - start)))
            total += at - start
        assert 0 < total < 256 << 20, total
        g = self.geometry
        self.queues = int.from_bytes(self.read(offset("shmq_header", "queue_hwm"), 4), "little")
        self.owners = int.from_bytes(self.read(offset("shmq_header", "owner_hwm"), 4), "little")
        self.places: list[tuple[int, int]] = []  # tables of queues: (offset, words)
        for i in range(self.queues):
            record = g.queues + i * size("shmq_queue")
            for place in (
                *(offset("shmq_queue", "place", n) for n in range(11)),
                offset("shmq_queue", "keys"),
                offset("shmq_queue", "dedup"),
            ):
                start, lg = struct.unpack("<QI", self.read(record + place, 12))
                if start:
                    self.places.append((start, min(1 << (lg & 31), 3000)))
        self.blocks: list[tuple[int, int, int]] = []  # (header, payload, bytes of payload) in use
        for k in range(lib.SHMQ_CLASSES):
            made = self.word(offset("shmq_header", "hwm") + 128 * k)
            for i in range(min(made, 4000)):
                header = g.blocks + (g.first[k] + i) * size("shmq_block")
                ctl, *_, n, _ = struct.unpack("<7QII", self.read(header, 64))
                if ctl >> 60 not in (lib.SHMQ_VOID, lib.SHMQ_FREE):
                    n = min(n + 700, g.stride[k]) if n < 1 << 24 else 64
                    self.blocks.append((header, g.payload[k] + i * g.stride[k], int(n)))

    def restore(self) -> None:
        for at, data in self.extents:
            os.pwrite(self.fd, data, at)

    def undo(self, hurt: list[tuple[str, int, int, int]]) -> None:
        """Mend what was damaged where nothing is saved: a record that a run has made goes on living."""
        for _, at, old, new in hurt:
            if self.word(at) == new:
                os.pwrite(self.fd, WORD.pack(old), at)


def pick(image: Image, rnd: random.Random) -> tuple[str, int]:
    """Return (kind of word, offset) of a word in use."""
    g = image.geometry
    queue = g.queues + rnd.randrange(image.queues + 1) * size("shmq_queue")
    owner = rnd.randrange(image.owners + 2)
    live = offset("shmq_header", "admin")

    def within(struct_name: str) -> int:
        return rnd.randrange(size(struct_name) // 8) * 8

    def part(member: str, n: int) -> tuple[str, int]:
        return f"queue.{member}", queue + offset("shmq_queue", member) + rnd.randrange(n) * 8

    def header_word() -> tuple[str, int]:
        named = rnd.choice(
            ("admin", "anonymous", "closing", "user_word", "next_id", "attach_evt", "timer_tail",
             "queue_hwm", "leases", "topology", "next_expiry", "secret")
        )  # fmt: skip
        return f"header.{named}", offset("shmq_header", named)

    def block_word() -> tuple[str, int]:
        return "block", rnd.choice(image.blocks)[0] + rnd.randrange(8) * 8

    def payload_word() -> tuple[str, int]:
        _, at, n = rnd.choice(image.blocks)
        return "payload", at + rnd.randrange(max(1, n // 8)) * 8

    def trailer_word() -> tuple[str, int]:
        header, at, _ = rnd.choice(image.blocks)
        n = int.from_bytes(image.read(header + 56, 4), "little") & 0xFFFFFF
        return "trailer", at + (n + 7) // 8 * 8 + rnd.randrange(8) * 8

    def slot() -> tuple[str, int]:
        at, n = rnd.choice(image.places)
        return "slot", at + rnd.randrange(min(n, 64) if rnd.random() < 0.7 else n) * 8

    choices: list[tuple[int, Callable[[], tuple[str, int]]]] = [
        (4, header_word),
        (1, lambda: ("header", live + rnd.randrange((size("shmq_header") - live) // 8) * 8)),
        (1, lambda: ("header.fixed", rnd.randrange(live // 8) * 8)),
        (1, lambda: ("header.hwm", offset("shmq_header", "hwm") + rnd.randrange(11) * 128)),
        (3, lambda: ("owner", g.owners + owner * size("shmq_owner") + rnd.randrange(8) * 8)),
        (4, lambda: part("options", size("shmq_queue_options") // 8)),
        (2, lambda: part("place", 11 * size("shmq_ring_place") // 8)),
        (1, lambda: part("keys", 4)),
        (1, lambda: part("name", 4)),
        (1, lambda: part("ephemeral", 4)),
        (1, lambda: part("filter", 4)),
        (1, lambda: part("lanes", 2)),
        (1, lambda: part("chunks", 1)),
        (1, lambda: part("evt", 1)),
        (1, lambda: part("space", 2)),
        (2, lambda: ("queue.ends", queue + offset("shmq_queue", "ends") + rnd.randrange(22) * 128)),
        (2, lambda: ("queue", queue + within("shmq_queue"))),
        (1, lambda: ("queue.word", queue)),
        (6, block_word),
        (2, payload_word),
        (4, trailer_word),
        (4, slot),
        (2, lambda: ("held", g.held + (owner * lib.SHMQ_HELD + rnd.randrange(24)) * 16 + rnd.randrange(2) * 8)),
        (1, lambda: ("timers", g.timers + rnd.randrange(64) * 8)),
        (1, lambda: ("l0", g.l0 + rnd.choice(image.blocks)[0] % 4096 // 64 * 8)),
        (1, lambda: ("l1", g.l1 + rnd.randrange(64) * 8)),
        (2, lambda: ("counters", g.counters
                     + (rnd.choice((owner, lib.SHMQ_OWNERS)) * lib.SHMQ_QUEUES + rnd.randrange(image.queues))
                     * size("shmq_counters") + within("shmq_counters"))),
    ]  # fmt: skip
    weights, makers = zip(*choices, strict=True)
    kind, at = rnd.choices(makers, weights)[0]()
    return kind, at // 8 * 8


def changed(old: int, other: int, rnd: random.Random) -> int:
    """Return another value for a word."""
    half = rnd.choice((0, 32))
    narrow = rnd.choice((0, 1, 2, 3, 7, 10, 255, 0x7FFFFFFF, 0xFFFFFFFF, rnd.getrandbits(32)))
    return rnd.choice(
        (
            old ^ 1 << rnd.randrange(64),
            old ^ 1 << rnd.randrange(64),
            0,
            (1 << 64) - 1,
            rnd.getrandbits(64),
            rnd.getrandbits(64) >> rnd.randrange(64),
            old + 1 & (1 << 64) - 1,
            old - 1 & (1 << 64) - 1,
            old & ~(0xFFFFFFFF << half) | narrow << half,
            old & ~(0xFFFFFFFF << half) | narrow << half,
            1 << 63,
            (1 << 63) - 1,
            other,
        )
    )


def damages(image: Image, rnd: random.Random) -> list[tuple[str, int, int, int]]:
    found = []
    for _ in range(rnd.choice((1, 1, 1, 2, 3, 6))):
        kind, at = pick(image, rnd)
        old = image.word(at)
        found.append((kind, at, old, changed(old, image.word(pick(image, rnd)[1]), rnd)))
    return found
