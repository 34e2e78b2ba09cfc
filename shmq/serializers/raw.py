"""raw: bytes-like objects as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmq.errors import explain

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Raw:
    """Takes bytes-like objects; gives the view itself, or bytes with ``copy``."""

    name = "raw"
    content_type = "application/octet-stream"

    def encode(self, obj: Buffer) -> Buffer:
        """Return ``obj``."""
        try:
            memoryview(obj)
        except TypeError:
            raise TypeError(
                explain(
                    "object for serializer 'raw'",
                    type(obj).__name__,
                    "a bytes-like object",
                    "choose a serializer that knows such objects",
                )
            ) from None
        return obj

    def decode(self, data: memoryview, *, copy: bool) -> memoryview | bytes:
        """Return the view, or a copy of it as bytes."""
        return bytes(data) if copy else data


def make(name: str) -> Raw:
    """Return the serializer."""
    return Raw()
