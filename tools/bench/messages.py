"""The messages: prepared before the clock starts, each with its sequence number in the first eight bytes."""

from __future__ import annotations

import struct

_SEQ = struct.Struct("<Q")
CYCLE_64B = 4000
CYCLE_BIG = 5


def numbered(size: int, seq: int) -> bytes:
    """Return a message of `size` bytes: the number in front and, from 16 bytes on, at the end as well."""
    head = _SEQ.pack(seq)
    if size < 2 * _SEQ.size:
        return head.ljust(size, b".")
    return head + b"." * (size - 2 * _SEQ.size) + head


def number_of(item: bytes) -> int:
    """Return the sequence number of a message."""
    number: int = _SEQ.unpack_from(item)[0]
    return number


def stop_of(size: int) -> bytes:
    """Return the message that tells a consumer to stop; its number is used by no other."""
    return b"\xff" * size


def chunks_of(messages: list[bytes], length: int) -> list[list[bytes]]:
    """Cut the list into chunks of `length`."""
    return [messages[i : i + length] for i in range(0, len(messages), length)]


def cycle(size: int, room: int, *, chunk: int = 250) -> list[list[bytes]]:
    """Return one cycle of distinct messages in chunks.

    A loop sends the cycle again and again. Its length is no power of two, so a ring that loses or repeats a whole
    lap is found out; the total count is checked as well.
    """
    length = CYCLE_64B if size <= 1024 else CYCLE_BIG  # noqa: PLR2004
    messages = [numbered(size, seq) for seq in range(length)]
    return chunks_of(messages, max(1, min(chunk, room // 4, length)))
