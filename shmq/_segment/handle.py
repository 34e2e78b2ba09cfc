"""Segment: a handle on memory that exists, whoever provides it."""

from __future__ import annotations

from typing import Any

from shmq._segment.header import HEAD_BYTES, USER_WORD_OFFSET, Header, check_header


class Segment:
    """A handle on one existing segment. Two siblings do the work: `PosixSegment`, `SysvSegment`."""

    provider = ""
    name: str
    size: int

    def read(self, offset: int, n: int) -> bytes:
        """Return ``n`` bytes at ``offset``, without a mapping of our own."""
        raise NotImplementedError

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset`` of a segment that nobody else uses yet."""
        raise NotImplementedError

    def resize(self, size: int) -> None:
        """Give a new segment its size."""
        raise NotImplementedError

    def map(self, ctx: Any) -> None:
        """Map the segment into ``ctx``."""
        raise NotImplementedError

    def memory_used(self) -> int:
        """Return how many bytes of the segment have memory behind them."""
        raise NotImplementedError

    def room(self) -> tuple[int, int] | None:
        """Return the size of the file system behind it and how much is free; None: nothing bounds it."""
        return None

    def current(self) -> bool:
        """Return whether the broker's name still leads to this segment."""
        raise NotImplementedError

    def claim(self) -> bool:
        """Become the one who serves this segment, until this process ends. False: another does."""
        raise NotImplementedError

    def drop_claim(self) -> None:
        """In a child: leave the claim to the parent alone."""
        raise NotImplementedError

    def others(self) -> bool | None:
        """Return whether anybody but this handle has it open or mapped, in whatever namespace.

        None when the kernel does not say.
        """
        raise NotImplementedError

    def unlink(self) -> None:
        """Take the name away; the memory lives until the last mapping is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up the handle (not the name)."""
        raise NotImplementedError

    def user_word(self) -> int:
        """Return the word in which the upper floors keep their defaults."""
        return int.from_bytes(self.read(USER_WORD_OFFSET, 8), "little")

    def header(self) -> Header:
        """Return the header, checked; raises what is wrong with it."""
        return check_header(self.name, self.provider, self.read_head(), self.size)

    def read_head(self) -> bytes:
        """Return the first bytes, fewer than HEAD_BYTES when there are not more."""
        return self.read(0, min(HEAD_BYTES, self.size))

    def unfinished(self) -> bool:
        """Return whether there is no magic yet: the creator is at work, or died at it."""
        return not any(self.read_head()[:8])
