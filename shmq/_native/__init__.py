"""The one importer of the C extensions.

``ffi`` and ``lib`` are the complete binding (cffi, required). ``ACCEL`` is the optional CPython
binding of the hottest calls, or None: not built, of another build than ``lib``, or switched off by
``SHMQ_NO_ACCEL=1``. ``SenderBase``, ``QueueBase``, ``ConsumerBase`` and ``DeliveryBase`` come from it or, with the
same behaviour, from `shmq._native.pure`.

Static typing ends here: `CData` is Any, and what C calls take and give is declared in _shmq.pyi.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from shmq._native._shmq import ffi, lib
from shmq._native.structs import message_struct

if TYPE_CHECKING:
    from shmq._native._shmq import CData as CData
    from shmq._native.pure import ConsumerBase, DeliveryBase, ItemsBase, QueueBase, SenderBase

__all__ = [
    "ACCEL", "ConsumerBase", "DeliveryBase", "ItemsBase", "QueueBase", "SenderBase", "decode_fields", "ffi", "lib",
    "message_struct", "names_of",
]  # fmt: skip


def _load() -> ModuleType | None:
    if os.environ.get("SHMQ_NO_ACCEL", "0") not in ("", "0"):
        return None
    try:
        from shmq._native import _accel  # type: ignore[attr-defined]
    except ImportError:
        return None
    # Both share structs by address: an accelerator left over from another build would corrupt them.
    accel: ModuleType = _accel
    return accel if _accel.fingerprint == lib.shmq_fingerprint() else None


ACCEL = _load()


def names_of(enum: str, prefix: str) -> tuple[str, ...]:
    """Return the names in an enum of shmq.h, whose numbers go from 0 up: "SHMQ_R_EXPIRED" is "expired"."""
    found: dict[int, str] = ffi.typeof(f"enum {enum}").elements
    assert sorted(found) == list(range(len(found)))
    return tuple(found[number].removeprefix(prefix).lower() for number in sorted(found))


def _nothing(_: bytes) -> tuple[dict[str, Any], Any, Any] | None:
    return None


# Decodes what shmq.message encodes, or returns None: then that decodes it, or says what is wrong.
decode_fields: Callable[[bytes], tuple[dict[str, Any], Any, Any] | None] = getattr(
    ACCEL, "decode_fields", _nothing
)

if not TYPE_CHECKING:
    if ACCEL is not None:
        ConsumerBase, DeliveryBase, ItemsBase, QueueBase, SenderBase = (
            ACCEL.ConsumerBase,
            ACCEL.DeliveryBase,
            ACCEL.ItemsBase,
            ACCEL.QueueBase,
            ACCEL.SenderBase,
        )
    else:
        from shmq._native.pure import ConsumerBase, DeliveryBase, ItemsBase, QueueBase, SenderBase
