"""msgpack and msgspec: the same format by either of two packages.

`msgspec` also takes dataclasses, datetimes, enums and its own Structs, which come back as the plain
types that they were written as.
"""

from __future__ import annotations

from typing import Any

from shmq.serializers import require

CONTENT_TYPE = "application/msgpack"


class MsgPack:
    """By the package `msgpack`: None, bool, int, float, str, bytes, lists and dicts of these."""

    name = "msgpack"
    content_type = CONTENT_TYPE

    def __init__(self) -> None:
        """Import the package; MissingPackage when it is not there."""
        package = require("msgpack", "msgpack", self.name)
        self._pack, self._unpack = package.packb, package.unpackb

    def encode(self, obj: Any) -> bytes:
        """Return ``obj`` as MessagePack."""
        packed: bytes = self._pack(obj)
        return packed

    def decode(self, data: memoryview, *, copy: bool) -> Any:
        """Return the object; nothing of it refers to ``data``."""
        return self._unpack(data, strict_map_key=False)


class MsgSpec:
    """By the package `msgspec`, which is faster and takes more types."""

    name = "msgspec"
    content_type = CONTENT_TYPE

    def __init__(self) -> None:
        """Import the package; MissingPackage when it is not there."""
        package = require("msgspec.msgpack", "msgspec", self.name)
        self._pack, self._unpack = package.encode, package.decode

    def encode(self, obj: Any) -> bytes:
        """Return ``obj`` as MessagePack."""
        packed: bytes = self._pack(obj)
        return packed

    def decode(self, data: memoryview, *, copy: bool) -> Any:
        """Return the object; nothing of it refers to ``data``."""
        return self._unpack(data)


def make(name: str) -> MsgPack | MsgSpec:
    """Return the serializer of that name."""
    return MsgSpec() if name == MsgSpec.name else MsgPack()
