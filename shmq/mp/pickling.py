"""Objects to bytes and back.

    kind      headers        payload
    bytes     none           the bytes
    compact   py=1           native/accel/compact.c
    pickle    py=2           a pickle of protocol 5, by multiprocessing's ForkingPickler
    buffers   py=3, sizes    the pickle's out-of-band buffers, each at a multiple of 64, then the pickle

Buffers are copied once, from where they are into shared memory. On the way out, the buffer of a
numpy array is either copied into a new array that owns its memory, or (view) becomes a read-only
array over shared memory. Other types' buffers are copied to a bytearray, or given as a memoryview.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
import threading
from collections import ChainMap
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from shmq._native import lib
from shmq.errors import CorruptSegment, explain
from shmq.message import encode_varint, read_varint
from shmq.mp import compact

COMPACT, PICKLE, BUFFERS = (
    lib.SHMQ_ITEM_COMPACT, lib.SHMQ_ITEM_PICKLE, lib.SHMQ_ITEM_BUFFERS,
)  # fmt: skip
ALIGN: int = lib.SHMQ_ITEM_ALIGN
SMALL = 2048  # bytes; smaller buffers are cheaper in the pickle than beside it
MOST_BUFFERS = 4096  # what headers have room for; the rest goes into the pickle
_HEAD = b"\x03\x02py\x01"  # the header py=…, an int of one byte
_PICKLE = _HEAD + bytes((PICKLE,))
_BUFFERS = _HEAD + bytes((BUFFERS,)) + b"\x06\x01n"  # and n=…, bytes: the sizes

# What ForkingPickler's instances look reducers up in: live, so that later registrations count.
_registered: dict[type, Any] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
_reducers = ChainMap(_registered, copyreg.dispatch_table)
_mode = threading.local()


class Item(NamedTuple):
    """What goes into a message: headers, and parts that each begin at a multiple of ALIGN."""

    meta: bytes
    parts: tuple[Any, ...]
    size: int


class _Buffers:
    """The buffers that were taken out of a pickle, each with whether it is an array's."""

    def __init__(self) -> None:
        self.taken: list[tuple[memoryview, bool]] = []
        self.arrays: dict[int, pickle.PickleBuffer] = {}

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out, if that pays; returns whether it did not."""
        raw = buffer.raw()
        if raw.nbytes < SMALL or len(self.taken) >= MOST_BUFFERS:
            return True
        self.taken.append((raw, id(buffer) in self.arrays))
        return False


class _Pickler(pickle.Pickler):
    """ForkingPickler with out-of-band buffers. In no circle: it keeps what it has pickled alive."""

    def __init__(self, file: io.BytesIO, buffers: _Buffers) -> None:
        super().__init__(file, 5, buffer_callback=buffers)
        self.dispatch_table = _reducers
        self._buffers = buffers

    def reducer_override(self, obj: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is None or type(obj) is not numpy.ndarray or type(obj) in _registered:
            return NotImplemented
        dtype = obj.dtype
        if obj.nbytes < SMALL or dtype.hasobject or dtype.kind == "V":
            return NotImplemented
        if not obj.flags.forc:
            obj = numpy.ascontiguousarray(obj)
        plain = dtype.isbuiltin == 1 and dtype.metadata is None
        # Times have no buffer of their own.
        buffer = pickle.PickleBuffer(obj.view("i8") if dtype.kind in "Mm" else obj)
        self._buffers.arrays[id(buffer)] = buffer
        order = "F" if obj.flags.fnc else "C"
        return _array, (buffer, dtype.str if plain else dtype, obj.shape, order)


def _array(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    """Rebuild an array: over the buffer, or as a copy that owns its memory."""
    import numpy

    array = numpy.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)
    return array if getattr(_mode, "view", False) else array.copy(order)


def encode(obj: Any) -> Item:
    """Return what ``obj`` is in a message. Its buffers are not copied: send it at once.

    Raises whatever the object's own pickling raises.
    """
    file = io.BytesIO()
    buffers = _Buffers()
    _Pickler(file, buffers).dump(obj)
    stream = file.getbuffer()
    if not buffers.taken:
        return Item(_PICKLE, (stream,), len(stream))
    sizes = [raw.nbytes << 1 | own for raw, own in buffers.taken]
    table = struct.pack(f"<{len(sizes)}Q", *sizes)
    parts = (*(raw for raw, _ in buffers.taken), stream)
    size = 0
    for part in parts:
        size += -size % ALIGN + part.nbytes
    return Item(_BUFFERS + encode_varint(len(table)) + table, parts, size)


def decode(meta: bytes, data: memoryview, *, view: bool) -> Any:
    """Return the object of a message with headers.

    ``view``: arrays and other buffers refer to ``data``, which has to stay as long as any of them.
    Otherwise nothing refers to it when this returns.
    """
    if not meta.startswith(_HEAD):  # published by somebody else, with headers of their own
        return data if view else bytes(data)
    kind = meta[len(_HEAD)] if len(meta) > len(_HEAD) else 0
    if kind == COMPACT:
        return compact.read(data)
    if kind == PICKLE:
        return pickle.loads(data)
    if kind != BUFFERS:
        raise _damaged(meta)
    at = 0
    buffers: list[Any] = []
    for size in _sizes(meta):
        at += -at % ALIGN
        part = data[at : at + (size >> 1)]
        at += size >> 1
        buffers.append(part if view or size & 1 else bytearray(part))
    at += -at % ALIGN
    before = getattr(_mode, "view", False)
    _mode.view = view
    try:
        return pickle.loads(data[at:], buffers=buffers)
    finally:
        _mode.view = before


def _sizes(meta: bytes) -> tuple[int, ...]:
    try:
        length, at = read_varint(meta, len(_BUFFERS))
        return struct.unpack(f"<{length // 8}Q", meta[at : at + length])
    except (IndexError, ValueError, struct.error):
        raise _damaged(meta) from None


def _damaged(meta: bytes) -> CorruptSegment:
    todo = "take the next item; something has written into shared memory"
    return CorruptSegment(explain("item", f"headers {meta[:20]!r}…", "those of an item", todo))
