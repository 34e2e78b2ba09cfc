"""The timed loops, compiled with a peer's own statements inside (see `endpoint`).

Each template is ordinary Python in which a line of the form `<name>` stands for that statement of the endpoint. What
the endpoint's `env` holds becomes a default argument, so that the loop reads fast locals.
"""

from __future__ import annotations

import re
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.bench.endpoint import Endpoint


class WrongMessageError(Exception):
    """A message was lost, doubled, reordered or damaged."""


def _wrong(item: object, want: bytes) -> None:
    got = bytes(item) if isinstance(item, (bytes, bytearray, memoryview)) else item
    shown = got[:16] if isinstance(got, bytes) else repr(got)
    text = f"found {shown!r}…, expected {want[:16]!r}…"
    raise WrongMessageError(text)


PRODUCE = """
def loop(chunks, repeat):
    for _ in range(repeat):
        for chunk in chunks:
            <before_chunk>
            for data in chunk:
                <put>
"""

CONSUME = """
def loop(chunks, repeat):
    for _ in range(repeat):
        for chunk in chunks:
            for want in chunk:
                <get>
                if item != want:
                    wrong(item, want)
                <done>
            <after_chunk>
"""

CONSUME_WORDS = """
def loop(chunks, repeat):
    for _ in range(repeat):
        for chunk in chunks:
            for want in chunk:
                <get>
                if len(item) != size or item[:8] != want[:8] or item[-8:] != want[-8:]:
                    wrong(item, want)
                <done>
            <after_chunk>
"""


def with_extra(template: str) -> str:
    """Return the template for chunks of pairs (message, extra)."""
    template = template.replace("for data in chunk", "for data, extra in chunk")
    template = template.replace("for want in chunk", "for want, extra in chunk")
    return template.replace("<done>", "<check>\n                <done>")


CONSUME_SPINNING = CONSUME.replace("<get>", "<spin>")

PRODUCE_BATCHES = """
def loop(chunks, repeat):
    for _ in range(repeat):
        for batch in chunks:
            <put_many>
"""

CONSUME_BATCHES = """
def loop(chunks, repeat):
    wants = chain.from_iterable(chain.from_iterable(chunks) for _ in range(repeat))
    left = repeat * sum(map(len, chunks))
    while left:
        <get_many>
        left -= len(items)
        for x, want in zip(items, wants):
            if <each> != want:
                wrong(<each>, want)
            <each_done>
        <many_done>
"""

PRODUCE_TIMED = """
def loop(chunks, repeat, pace):
    times = []
    note = times.append
    for _ in range(repeat):
        for chunk in chunks:
            <before_chunk>
            for data in chunk:
                begin = clock()
                <put>
                end = clock()
                note(end - begin)
                end += pace
                while clock() < end:
                    pass
    return times
"""

PING = """
def loop(chunks, repeat, pause):
    times = []
    note = times.append
    for _ in range(repeat):
        for chunk in chunks:
            <before_chunk>
            for data in chunk:
                begin = clock()
                <put>
                <receive>
                end = clock()
                if item != data:
                    wrong(item, data)
                <done>
                note(end - begin)
                end += pause
                while clock() < end:
                    pass
            <after_chunk>
    return times
"""

PONG = """
def loop(chunks, repeat, pause):
    for _ in range(repeat):
        for chunk in chunks:
            <before_chunk>
            for want in chunk:
                <receive>
                data = item
                <put>
                if data != want:
                    wrong(data, want)
                <done>
            <after_chunk>
"""

DRAIN = """
def loop(stop, stops):
    got = []
    keep = got.append
    while True:
        <get>
        if item == stop:
            <done>
            stops -= 1
            if not stops:
                return got
        else:
            keep(item)
            <done>
"""

_STATEMENT = re.compile(r"^( *)<(\w+)>$", re.MULTILINE)
_EXPRESSION = re.compile(r"<(\w+)>")


def compile_loop(
    template: str, *endpoints: Endpoint, size: int = 0, **statements: str
) -> Callable[..., Any]:
    """Return the template as a function, its statements taken from `statements`, else from the endpoints.

    With two endpoints (a round trip) the names in their `env` must differ; a statement found in both runs twice.
    """
    from itertools import chain  # noqa: PLC0415

    env: dict[str, Any] = {"clock": perf_counter_ns, "wrong": _wrong, "size": size, "chain": chain}
    for endpoint in endpoints:
        env.update(endpoint.env)

    def find(name: str) -> str:
        if name in statements:
            return statements[name]
        return "\n".join(filter(None, (getattr(endpoint, name) for endpoint in endpoints)))

    def indented(match: re.Match[str]) -> str:
        indent, text = match[1], find(match[2])
        return "\n".join(indent + line for line in text.splitlines() or ["pass"])

    source = _STATEMENT.sub(indented, template)
    source = _EXPRESSION.sub(lambda match: find(match[1]), source)
    defaults = "".join(f", {name}={name}" for name in env)
    source = re.sub(r"(def loop\([^)]*)\)", rf"\1{defaults})", source, count=1)
    namespace = dict(env)
    exec(compile(source, "<benchmark loop>", "exec"), namespace)  # noqa: S102
    loop: Callable[..., Any] = namespace["loop"]
    return loop
