"""Calls and results as payloads.

    call      pickle of args          | function | id:u64, size of function:u32, BY_NAME
              pickle of (args, kw)    | function | id:u64, size of function:u32, BY_NAME_KW
              pickle of (f, args, kw) |          | id:u64, 0, WHOLE
    result    pickle of it            |          | id:u64, 0, VALUE
              pickle of an Error      |          | id:u64, 0, ERROR

The pickles are those of `shmq.serializers.pickle`, large buffers beside them. One without such buffers
ends where it ends, whatever comes behind: it is read without being cut out first.

A plain function is pickled as its name, so its pickle stands for it: the sender makes it once, and
the worker looks it up once. Anything else (bound methods, partials) is pickled with the arguments, anew
for each call, because its state may change.

Whoever makes calls unpickles results, and never arguments: these may end or block the process that does,
which is why their call is one that is told of.
"""

from __future__ import annotations

import inspect
import pickle
import pickletools
import reprlib
import struct
import traceback
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

from shmq.errors import explain
from shmq.serializers import Encoded
from shmq.serializers.pickle import dump, dumps, load

__all__ = [
    "RemoteTraceback", "call", "call_in", "error", "named", "result", "result_in", "text_of", "title",
]  # fmt: skip

TRAILER = struct.Struct("<QIBBH")  # id, size of function, kind, framed, attempts before
SIZE = TRAILER.size
BY_NAME, BY_NAME_KW, WHOLE, VALUE, ERROR, NOT_READY = range(6)
SHOWN = 4096  # larger calls are shown without their arguments
FUNCTIONS = 1000  # looked up and kept by a worker

_BY_NAME = (FunctionType, BuiltinFunctionType, type)
_short = reprlib.repr
# A pickle of nothing but these is numbers, texts and containers of them: it names no class and no
# function, so that reading it runs nothing.
_INERT = frozenset(
    """PROTO FRAME MARK STOP MEMOIZE BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1
    LONG4 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
    EMPTY_SET ADDITEMS FROZENSET""".split()  # noqa: SIM905
)
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
    if name is not None:
        if not kwargs:
            return _with(dump(args), name, number, BY_NAME)
        return _with(dump((args, kwargs)), name, number, BY_NAME_KW)
    return _with(dump((function, args, kwargs or {})), b"", number, WHOLE)


def _with(body: bytes | Encoded, name: bytes, number: int, kind: int) -> bytes | Encoded:
    if type(body) is bytes:
        return body + name + TRAILER.pack(number, len(name), kind, 0, 0)
    assert isinstance(body, Encoded)
    size, fill = body.size, body.write
    end = name + TRAILER.pack(number, len(name), kind, 1, 0)

    def write(out: memoryview) -> None:
        fill(out[:size])
        out[size:] = end

    return Encoded(size + len(end), write)


def number_of(data: bytes | memoryview) -> int:
    """Return the id of a call or a result."""
    number: int = TRAILER.unpack_from(data, len(data) - SIZE)[0]
    return number


def before(data: bytes | memoryview) -> int:
    """Return in how many attempts a call had been given up to another worker before it was sent."""
    attempts: int = TRAILER.unpack_from(data, len(data) - SIZE)[4]
    return attempts


def again(data: bytes, attempts: int) -> bytes:
    """Return the payload of a call that is sent once more, ``attempts`` of which are over."""
    number, size, kind, framed, _ = TRAILER.unpack_from(data, len(data) - SIZE)
    return data[:-SIZE] + TRAILER.pack(number, size, kind, framed, attempts)


def call_in(data: bytes | memoryview) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return (function, args, kwargs) of a payload; they are the caller's own."""
    _, size, kind, framed, _ = TRAILER.unpack_from(data, len(data) - SIZE)
    end = len(data) - SIZE - size
    body = load(memoryview(data)[:end], copy=True) if framed else pickle.loads(data)
    if not size:  # WHOLE
        return body  # type: ignore[no-any-return]
    name = bytes(data[end : end + size])
    function = _functions.get(name)
    if function is None:
        if len(_functions) >= FUNCTIONS:
            _functions.clear()
        function = _functions[name] = pickle.loads(name)
    if kind == BY_NAME:
        return function, body, {}
    args, kwargs = body
    return function, args, kwargs


def title(function: Callable[..., Any]) -> Any:
    """Return what to keep of a function for `text_of`: itself, or its name where it may be large."""
    return function if type(function) in _BY_NAME else _qualified(function)


def text_of(titled: Any, data: bytes | memoryview) -> str:
    """Return what a payload calls, for people; arguments are shown if they are plain.

    Runs nothing of what is in the payload.
    """
    shown = "…"
    try:
        _, size, kind, framed, _ = TRAILER.unpack_from(data, len(data) - SIZE)
        body = bytes(data[: len(data) - SIZE - size]) if len(data) <= SHOWN else b""
        if body and not framed and all(op.name in _INERT for op, _, _ in pickletools.genops(body)):
            found = pickle.loads(body)
            args, kwargs = (found, {}) if kind == BY_NAME else found
            parts = [
                *map(_short, args),
                *(f"{name}={_short(value)}" for name, value in kwargs.items()),
            ]
            shown = ", ".join(parts)
    except Exception:  # noqa: BLE001 - it is for a text only
        pass
    return f"{titled if isinstance(titled, str) else _qualified(titled)}({shown})"


def _qualified(function: Any) -> str:
    try:
        function = getattr(function, "func", function)  # of a partial
        if not hasattr(function, "__qualname__"):  # an object that can be called
            function = type(function)
        return f"{function.__module__}.{function.__qualname__}"
    except Exception:  # noqa: BLE001 - it is for a text only
        return f"{type(function).__module__}.{type(function).__qualname__}"


def result(number: int, value: Any) -> bytes | Encoded:
    """Return the payload of a result."""
    try:
        body = dump(value)
    except Exception:
        refusal = _refusal(value)
        if refusal is None:
            raise
        raise refusal from None
    return _with(body, b"", number, VALUE)


def _refusal(value: Any) -> TypeError | None:
    """Return the error for a result that stands for work that is still to be done; None for others."""
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        what, advice = "generator", "return list(...) of it, or publish to a queue what it yields"
    elif inspect.isawaitable(value):
        what, advice = "coroutine", "submit a function that says asyncio.run(...) of it"
        if inspect.iscoroutine(value):
            value.close()  # else Python warns that it was never awaited
    else:
        return None
    return TypeError(
        explain("result of a call", f"a {what}, none of which has run", "a value", advice)
    )


def error(number: int, exception: BaseException, kind: int = ERROR) -> bytes:
    """Return the payload of an exception, with the traceback from the called function on."""
    trace = exception.__traceback__
    text = "".join(
        traceback.format_exception(type(exception), exception, trace and (trace.tb_next or trace))
    )
    try:
        pickled = dumps(exception)
        pickle.loads(pickled)  # many have an __init__ that pickle cannot call
    except BaseException:  # noqa: BLE001 - whatever keeps it from being pickled
        pickled = None
    summary = "".join(traceback.format_exception_only(type(exception), exception)).strip()
    body = pickle.dumps(Error(pickled, summary, text))
    return body + TRAILER.pack(number, 0, kind, 0, 0)


def result_in(data: bytes | memoryview) -> tuple[Any, BaseException | None]:
    """Return (value, None) or (None, exception)."""
    _, _, kind, framed, _ = TRAILER.unpack_from(data, len(data) - SIZE)
    try:
        body = (
            load(memoryview(data)[: len(data) - SIZE], copy=True) if framed else pickle.loads(data)
        )
        if kind == VALUE:
            return body, None
        return None, exception_of(body)
    except BaseException as exception:  # noqa: BLE001 - a result that cannot be read here is the call's failure
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
