"""Calls and results as payloads.

    call      pickle of args         | function | id:u64, size of function:u32, BY_NAME
              pickle of (f, args, kw) |         | id:u64, 0, WHOLE
    result    pickle of it           |          | id:u64, 0, VALUE
              pickle of an Error     |          | id:u64, 0, ERROR

The pickles are those of `shmq.serializers.pickle`, large buffers beside them. One without such buffers
ends where it ends, whatever comes behind: it is read without being cut out first.

A plain function is pickled as its name, so its pickle stands for it: the sender makes it once, and
the worker looks it up once. Anything else (bound methods, partials) is pickled with the arguments, anew
for each call, because its state may change.
"""

from __future__ import annotations

import pickle
import reprlib
import struct
import traceback
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

from shmq.errors import explain
from shmq.serializers import Encoded
from shmq.serializers.pickle import dump, dumps, load

__all__ = ["RemoteTraceback", "call", "call_in", "error", "name_of", "named", "result", "result_in"]

TRAILER = struct.Struct("<QIHH")  # id, size of function, kind, framed
SIZE = TRAILER.size
BY_NAME, WHOLE, VALUE, ERROR, NOT_READY = range(5)
SHOWN = 65_536  # larger calls are shown without their arguments
FUNCTIONS = 1000  # looked up and kept by a worker

_BY_NAME = (FunctionType, BuiltinFunctionType, type)
_short = reprlib.repr
_functions: dict[bytes, Callable[..., Any]] = {}


class RemoteTraceback(Exception):
    """Cause of an exception that came from a worker: the traceback there, as text."""

    def __str__(self) -> str:
        return str(self.args[0])


class RemoteError(Exception):
    """Stands for an exception of a worker that cannot be pickled."""


class Error(NamedTuple):
    """An exception on its way."""

    pickled: bytes | None
    summary: str
    trace: str


def named(function: Callable[..., Any]) -> bytes | None:
    """Return the pickle of a function that is pickled by its name; None for all else."""
    return dumps(function) if type(function) in _BY_NAME else None


def call(
    number: int,
    function: Callable[..., Any],
    name: bytes | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
) -> bytes | Encoded:
    """Return the payload of a call; ``name`` is what `named` says of ``function``."""
    if name is not None and not kwargs:
        return _with(dump(args), name, number, BY_NAME)
    return _with(dump((function, args, kwargs or {})), b"", number, WHOLE)


def _with(body: bytes | Encoded, name: bytes, number: int, kind: int) -> bytes | Encoded:
    if type(body) is bytes:
        return body + name + TRAILER.pack(number, len(name), kind, 0)
    assert isinstance(body, Encoded)
    size, fill = body.size, body.write
    end = name + TRAILER.pack(number, len(name), kind, 1)

    def write(out: memoryview) -> None:
        fill(out[:size])
        out[size:] = end

    return Encoded(size + len(end), write)


def number_of(data: bytes | memoryview) -> int:
    """Return the id of a call or a result."""
    number: int = TRAILER.unpack_from(data, len(data) - SIZE)[0]
    return number


def call_in(data: bytes | memoryview) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return (function, args, kwargs) of a payload; they are the caller's own."""
    _, size, kind, framed = TRAILER.unpack_from(data, len(data) - SIZE)
    end = len(data) - SIZE - size
    body = load(memoryview(data)[:end], copy=True) if framed else pickle.loads(data)
    if kind == WHOLE:
        return body  # type: ignore[no-any-return]
    name = bytes(data[end : end + size])
    function = _functions.get(name)
    if function is None:
        if len(_functions) >= FUNCTIONS:
            _functions.clear()
        function = _functions[name] = pickle.loads(name)
    return function, body, {}


def name_of(data: bytes | memoryview) -> str:
    """Return what a payload calls, for people."""
    number, size, _, _ = TRAILER.unpack_from(data, len(data) - SIZE)
    try:
        if len(data) > SHOWN:
            end = len(data) - SIZE
            return f"{_qualified(pickle.loads(data[end - size : end]))}(…)"
        function, args, kwargs = call_in(data)
        shown = [*map(_short, args), *(f"{name}={_short(value)}" for name, value in kwargs.items())]
        return f"{_qualified(function)}({', '.join(shown)})"
    except Exception:  # noqa: BLE001 - it is for a text only
        return f"number {number}"


def _qualified(function: Any) -> str:
    function = getattr(function, "func", function)  # of a partial
    return f"{function.__module__}.{function.__qualname__}"


def result(number: int, value: Any) -> bytes | Encoded:
    """Return the payload of a result."""
    return _with(dump(value), b"", number, VALUE)


def error(number: int, exception: BaseException, kind: int = ERROR) -> bytes:
    """Return the payload of an exception, with the traceback from the called function on."""
    trace = exception.__traceback__
    text = "".join(
        traceback.format_exception(type(exception), exception, trace and (trace.tb_next or trace))
    )
    try:
        pickled = dumps(exception)
        pickle.loads(pickled)  # many have an __init__ that pickle cannot call
    except Exception:  # noqa: BLE001 - whatever keeps it from being pickled
        pickled = None
    summary = "".join(traceback.format_exception_only(type(exception), exception)).strip()
    body = pickle.dumps(Error(pickled, summary, text))
    return body + TRAILER.pack(number, 0, kind, 0)


def result_in(data: bytes | memoryview) -> tuple[Any, BaseException | None]:
    """Return (value, None) or (None, exception)."""
    _, _, kind, framed = TRAILER.unpack_from(data, len(data) - SIZE)
    try:
        body = (
            load(memoryview(data)[: len(data) - SIZE], copy=True) if framed else pickle.loads(data)
        )
        if kind == VALUE:
            return body, None
        return None, exception_of(body)
    except Exception as exception:  # noqa: BLE001 - a result that cannot be read here is the call's failure
        return None, exception


def exception_of(found: Error) -> BaseException:
    """Return the exception that was sent, with its remote traceback as its cause."""
    exception: BaseException
    if found.pickled is not None:
        exception = pickle.loads(found.pickled)
    else:
        exception = RemoteError(
            explain(
                "exception of a call",
                f"{found.summary}, which cannot be pickled",
                "one that can",
                "its traceback is below; give it arguments that its __init__ takes",
            )
        )
    exception.__cause__ = RemoteTraceback(f'\n"""\n{found.trace}"""')
    return exception


def chunk(function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return the results for a chunk of `Executor.map`."""
    return [function(*args) for args in items]
