"""pickle: any picklable object; large buffers (numpy arrays, PickleBuffer) beside the pickle, not in it.

Without such buffers a payload is a plain pickle, which any `pickle.loads` reads. With them:

    pickle | 0 | buffer | 0 | buffer ... | sizes: n x u64 | pickle's size: u64 | n: u32 | 0 0 0 | 0xff

each buffer at a multiple of 64 bytes. The last byte tells the two apart: a pickle ends with b".".

Reducers registered with multiprocessing (Connections, sockets, types of `ForkingPickler.register`)
are used where multiprocessing has been imported: without it, there is nothing of the sort.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any

from shmq.serializers import Encoded

__all__ = ["Pickle", "dump", "dumps", "load"]

PROTOCOL = 5
ALIGN = 64
OUT_OF_BAND = 4096  # smaller buffers are cheaper inside
MARK = 0xFF
STOP = ord(".")
_TAIL = struct.Struct("<QIxxxB")
_PLAIN = frozenset((int, str, bytes, float, bool, type(None)))

_tables: tuple[int, int, dict[type, Callable[[Any], Any]]] = (-1, -1, {})


def _dispatch_table() -> dict[type, Callable[[Any], Any]]:
    # A plain dict: the ChainMap of ForkingPickler is asked in Python for every single object.
    global _tables
    reduction = sys.modules.get("multiprocessing.reduction")
    extra = reduction.ForkingPickler._extra_reducers if reduction is not None else {}
    if _tables[:2] != (len(copyreg.dispatch_table), len(extra)):
        merged = {**copyreg.dispatch_table, **extra}
        _tables = (len(copyreg.dispatch_table), len(extra), merged)
    return _tables[2]


def dumps(obj: Any, keep: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    """Return ``obj`` pickled; ``keep`` gets its buffers and returns false for those it took."""
    kind = type(obj)
    if kind in _PLAIN or (kind is tuple and all(type(item) in _PLAIN for item in obj)):
        return pickle.dumps(obj, PROTOCOL)
    out = io.BytesIO()
    pickler = pickle.Pickler(out, PROTOCOL, buffer_callback=keep)
    pickler.dispatch_table = _dispatch_table()
    pickler.dump(obj)
    return out.getvalue()


def dump(obj: Any) -> bytes | Encoded:
    """Return ``obj`` as a plain pickle, or, when it has large buffers, as what writes them.

    The latter refers to the memory of ``obj``, which must not change until it is written.
    """
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < OUT_OF_BAND:
            return True
        buffers.append(raw)
        return False

    head = dumps(obj, keep)
    return _framed(head, buffers) if buffers else head


def _aligned(at: int) -> int:
    return (at + ALIGN - 1) & -ALIGN


def _framed(head: bytes, buffers: list[memoryview]) -> Encoded:
    sizes = [buffer.nbytes for buffer in buffers]
    tail = struct.pack(f"<{len(sizes)}Q", *sizes) + _TAIL.pack(len(head), len(sizes), MARK)
    starts = []
    end = len(head)
    for size in sizes:
        starts.append(_aligned(end))
        end = starts[-1] + size

    def write(out: memoryview) -> None:
        out[: len(head)] = head
        before = len(head)
        for start, size, buffer in zip(starts, sizes, buffers, strict=True):
            out[before:start] = bytes(start - before)
            out[start : start + size] = buffer
            before = start + size
        out[before:] = tail

    return Encoded(end + len(tail), write)


def load(data: memoryview, *, copy: bool) -> Any:
    """Return the object in ``data``. Its large buffers refer to it, or, with ``copy``, are its own."""
    if not len(data) or data[-1] != MARK:
        return pickle.loads(data)
    length, n, _ = _TAIL.unpack_from(data, len(data) - _TAIL.size)
    sizes_at = len(data) - _TAIL.size - 8 * n
    if sizes_at < length:
        raise pickle.UnpicklingError("truncated: the buffers' sizes do not fit the payload")
    buffers: list[memoryview | bytearray] = []
    end = length
    for size in struct.unpack_from(f"<{n}Q", data, sizes_at):
        start = _aligned(end)
        end = start + size
        if end > sizes_at:
            raise pickle.UnpicklingError("truncated: the buffers do not fit the payload")
        part = data[start:end]
        buffers.append(bytearray(part) if copy else part)
    return pickle.loads(data[:length], buffers=buffers)


class Pickle:
    """Arrays come back as read-only views into shared memory, or as their own with ``copy``."""

    name = "pickle"
    content_type = "application/x-python-pickle"

    def encode(self, obj: Any) -> bytes | Encoded:
        """Return ``obj`` pickled; whatever pickle raises for what it cannot."""
        return dump(obj)

    def decode(self, data: memoryview, *, copy: bool) -> Any:
        """Return the object. Runs code that the payload names: read only what you trust."""
        return load(data, copy=copy)


def make(name: str) -> Pickle:
    """Return the serializer."""
    return Pickle()
