"""The messages: prepared before the clock starts, each with its sequence number in the first eight bytes."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_SEQ = struct.Struct("<Q")
CYCLE_64B = 4000
CYCLE_BIG = 5
_LINE = 64
_HEADER = bytes.__basicsize__ - 1  # in front of the bytes of a bytes object


def numbered(size: int, seq: int) -> bytes:
    """Return a message of `size` bytes: the number in front and, from 16 bytes on, at the end as well."""
    head = _SEQ.pack(seq)
    if size < 2 * _SEQ.size:
        return head.ljust(size, b".")
    return head + b"." * (size - 2 * _SEQ.size) + head


def on_a_line(make: Callable[[], bytes]) -> bytes:
    """Return a message whose bytes begin on a cache line.

    Copying from between two lines is 40 % slower for everybody, and where an object comes to lie depends on as little
    as the name of a folder: it must not decide between two rows.
    """
    beside = []  # what did not fit stays, so that the next one lies elsewhere
    for _ in range(100):
        message = make()
        if (id(message) + _HEADER) % _LINE == 0:
            return message
        beside.append(message)
    text = f"found no place for {len(message):,} bytes at the start of a cache line"
    raise RuntimeError(text)


def number_of(item: bytes) -> int:
    """Return the sequence number of a message."""
    number: int = _SEQ.unpack_from(item)[0]
    return number


def stop_of(size: int) -> bytes:
    """Return the message that tells a consumer to stop; its number is used by no other."""
    return b"\xff" * size


def chunks_of(messages: list[T], length: int) -> list[list[T]]:
    """Cut the list into chunks of `length`."""
    return [messages[i : i + length] for i in range(0, len(messages), length)]


def cycle(size: int, room: int, *, chunk: int = 250) -> list[list[bytes]]:
    """Return one cycle of distinct messages in chunks.

    A loop sends the cycle again and again. Its length is no power of two, so a ring that loses or repeats a whole
    lap is found out; the total count is checked as well.
    """
    length = CYCLE_64B if size <= 1024 else CYCLE_BIG  # noqa: PLR2004
    place = on_a_line if size > 1024 else lambda make: make()  # noqa: PLR2004
    messages = [place(partial(numbered, size, seq)) for seq in range(length)]
    return chunks_of(messages, max(1, min(chunk, room // 4, length)))
