"""Small objects of builtin types as a few bytes; the form is described in native/accel/compact.c.

Only the accelerator writes it. This reads it where there is none.
"""

from __future__ import annotations

import struct
from typing import Any

from shmq.errors import CorruptSegment, explain

_INT = struct.Struct("<q")
_FLOAT = struct.Struct("<d")
_LENGTH = struct.Struct("<I")
DEPTH = 12  # of native/accel/compact.c: deeper ones are pickled
_CONSTANTS = {"N": None, "T": True, "F": False}


def read(data: memoryview) -> Any:
    """Return the object that ``data`` stands for. Raises CorruptSegment for anything else."""
    try:
        obj, at = _read(data, 0)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:  # an unhashable key
        raise _bad(str(error)) from None
    if at != len(data):
        raise _bad(f"{len(data) - at} bytes too many")
    return obj


def _bad(what: str) -> CorruptSegment:
    todo = "take the next item; something has written into shared memory"
    return CorruptSegment(explain("compact item", what, "an item", todo))


def _read(data: memoryview, at: int, depth: int = 0) -> tuple[Any, int]:
    if depth > DEPTH:
        raise _bad("containers within containers without end")
    tag = chr(data[at])
    at += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == "i":
        return _INT.unpack_from(data, at)[0], at + 8
    if tag == "f":
        return _FLOAT.unpack_from(data, at)[0], at + 8
    if tag not in "aub([{":
        raise _bad(f"tag {tag!r}")
    n = data[at]
    at += 1
    if n == 255:
        n = _LENGTH.unpack_from(data, at)[0]
        at += 4
    if tag in "aub":
        if at + n > len(data):
            raise IndexError("too short")
        raw = bytes(data[at : at + n])
        return raw if tag == "b" else raw.decode(), at + n
    items = []
    for _ in range(2 * n if tag == "{" else n):
        item, at = _read(data, at, depth + 1)
        items.append(item)
    if tag == "{":
        return dict(zip(items[::2], items[1::2], strict=True)), at
    return (tuple(items) if tag == "(" else items), at
