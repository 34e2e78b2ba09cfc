"""Objects to payloads and back: serializers by name, or of your own.

    queue.publish(obj, serializer="json")    writes the payload and the header `content-type`
    delivery.object()                        finds the serializer by that header

A serializer is any object with the four members of `Serializer`. One whose output is large says how
large, and then writes it straight into shared memory (`Encoded`): the only copy. Reading is the
mirror: `decode` gets a view of the payload where it lies, and may build on it without copying.

The packages behind `msgpack`, `msgspec` and `arrow` are optional: they are imported on first use,
and their absence is an error that names what to install.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from shmq.errors import InvalidOption, InvalidOptionType, MissingPackage, explain

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CONTENT_TYPE", "Encoded", "Serializer", "find", "find_by_content_type", "register"]

CONTENT_TYPE = "content-type"


@dataclass(frozen=True)
class Encoded:
    """A payload that is still to be written: into shared memory, not into bytes of its own.

    Attributes:
        size: Bytes that it will have.
        write: Called once with a writable memoryview of ``size`` bytes; must fill all of it and keep
            no reference to it.
    """

    size: int
    write: Callable[[memoryview], object]

    def to_bytes(self) -> bytearray:
        """Return the payload in memory of this process, for whoever cannot use a loan."""
        out = bytearray(self.size)
        with memoryview(out) as view:
            self.write(view)
        return out


@runtime_checkable
class Serializer(Protocol):
    """What `serializer=` takes besides a name. Stateless: it is called by any thread, at any time."""

    @property
    def name(self) -> str:
        """What it is registered and asked for by."""

    @property
    def content_type(self) -> str:
        """Value of the message's header `content-type`."""

    def encode(self, obj: Any) -> Buffer | Encoded:
        """Return the payload for ``obj``; TypeError or ValueError when it has none."""

    def decode(self, data: memoryview, *, copy: bool) -> Any:
        """Return the object whose payload is ``data``, a read-only view into shared memory.

        What is returned may refer to ``data``, which keeps the memory, unless ``copy`` is true.
        """


# Name -> module under shmq.serializers that makes it; imported when it is first asked for.
_BUILT_IN = {
    "pickle": "pickle",
    "json": "json",
    "raw": "raw",
    "msgpack": "msgpack",
    "msgspec": "msgpack",
    "arrow": "arrow",
}
# Content type -> names, in order of preference: the first whose package is there is taken.
_BY_TYPE = {
    "application/x-python-pickle": ("pickle",),
    "application/json": ("json",),
    "application/octet-stream": ("raw",),
    "application/msgpack": ("msgpack", "msgspec"),
    "application/vnd.apache.arrow.stream": ("arrow",),
}
_found: dict[str, Serializer] = {}
_registered_by_type: dict[str, Serializer] = {}


def register(serializer: Serializer) -> None:
    """Make ``serializer`` known in this process, by its name and its content type.

    A name or a content type that is taken, also a built-in one, is this one's from now on. Every
    process that reads by `delivery.object()` without naming it has to register it too.

    Raises: InvalidOptionType for an object that is no `Serializer`.
    """
    _check(serializer)
    _found[serializer.name] = serializer
    _registered_by_type[serializer.content_type] = serializer


def find(serializer: str | Serializer) -> Serializer:
    """Return the serializer of that name, or ``serializer`` itself.

    Raises:
        InvalidOption: no serializer has that name.
        InvalidOptionType: neither a name nor an object with the members of `Serializer`.
        MissingPackage: the package that it needs is not installed.
    """
    if not isinstance(serializer, str):
        return _check(serializer)
    known = _found.get(serializer)
    if known is None:
        known = _found[serializer] = _load(serializer)
    return known


def find_by_content_type(content_type: object, what: str) -> Serializer:
    """Return the serializer for a header's value; ``what`` names the message in errors.

    Raises: InvalidOption when none is known for it; MissingPackage as `find`.
    """
    plain = (
        content_type.partition(";")[0].strip() if isinstance(content_type, str) else content_type
    )
    if isinstance(plain, str):
        registered = _registered_by_type.get(plain)
        if registered is not None:
            return registered
    names = _BY_TYPE.get(plain, ()) if isinstance(plain, str) else ()
    missing: MissingPackage | None = None
    for name in names:
        try:
            return find(name)
        except MissingPackage as error:
            missing = missing or error
    if missing is not None:
        raise missing
    raise InvalidOption(
        explain(
            what,
            f"{CONTENT_TYPE} {content_type!r}" if content_type else f"no header {CONTENT_TYPE!r}",
            "one of " + ", ".join(sorted({*_BY_TYPE, *_registered_by_type})),
            "say object(serializer=…), or register() a serializer for it",
        )
    )


def require(package: str, extra: str, name: str) -> Any:
    """Return the imported ``package``, which the serializer ``name`` is made of.

    Raises: MissingPackage when it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackage(
            explain(
                f"serializer {name!r}",
                f"no package {package!r} ({error})",
                "it to be installed",
                f"pip install 'shmq[{extra}]'",
            )
        ) from None


def _load(name: str) -> Serializer:
    module = _BUILT_IN.get(name)
    if module is None:
        raise InvalidOption(
            explain(
                "serializer",
                repr(name),
                "one of " + ", ".join(sorted({*_BUILT_IN, *_found})),
                "choose one of these, register() yours, or give the object itself",
            )
        )
    made: Serializer = importlib.import_module(f"shmq.serializers.{module}").make(name)
    return made


def _check(serializer: object) -> Serializer:
    if isinstance(serializer, type) or not isinstance(serializer, Serializer):
        raise InvalidOptionType(
            explain(
                "serializer",
                f"{serializer!r}",
                "a name, or an object with name, content_type, encode and decode",
                "see shmq.serializers.Serializer",
            )
        )
    return serializer
