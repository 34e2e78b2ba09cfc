"""An exception of a signal handler, Ctrl-C say, passes by no `finally` of the package.

CPython 3.12 to 3.14 leave the jump back at the end of some loops (a condition is the last thing in
them, mostly) out of the exception table of the block around the loop, and it is there that most
signals are seen. What is raised then leaves the function without its `finally`, without the end of
its `with`: locks stay taken. A loop in a function of its own, called from the block, is safe.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "shmq"

# Where it does not matter, and why.
EXCUSED = {
    # Threads of the package's own: Python runs signal handlers in the main thread only.
    "_Share.serve": "a thread",
    "Engine._collect": "a thread",
    "Engine._refill": "in the thread of _collect",
    # The process ends here; what it holds is given back by its death.
    "_detach_all": "at exit",
    "_farewell": "at exit",
    "Supervisor._fork_sidecar": "the sidecar's main; its handlers raise nothing",
    "serve": "a worker's main",
    "_Loop._unless_stopping": "in a worker's main",
    "work": "a worker's main",
    # What is left to do is done all the same.
    "JoinableQueue.get_many": "the `with` does nothing but suppress",
    "list_segments": "a scandir, closed when it is collected",
    "_users": "a scandir, closed when it is collected",
    "_mappers": "a scandir, closed when it is collected",
    "_flat": "a generator, closed when it is collected",
}


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def cleans_up(instructions: list[dis.Instruction], handler: int) -> bool:
    """Return whether a handler is a `finally`, the end of a `with`, or takes BaseException."""
    after = [found for found in instructions if found.offset >= handler]
    if "WITH_EXCEPT_START" in [found.opname for found in after[:4]]:
        return True
    if after[0].opname != "PUSH_EXC_INFO":
        return False  # the compiler's own: of a comprehension, of a generator
    names: list[object] = []
    for found in after[1:]:
        if found.opname == "CHECK_EXC_MATCH":
            return "BaseException" in names or "KeyboardInterrupt" in names
        if found.opname in ("RERAISE", "POP_EXCEPT"):
            return True
        names.append(found.argval)
    return False


def bare_jumps(code: CodeType) -> Iterator[int]:
    """Lines of the jumps back whose exceptions miss a handler that guards where they lead."""
    table = dis.Bytecode(code)
    entries = table.exception_entries  # type: ignore[attr-defined]
    instructions = list(table)

    def handlers(offset: int) -> list[int]:
        chain: list[int] = []
        while True:
            inner = next((e.target for e in entries if e.start <= offset < e.end), None)
            if inner is None or inner in chain:
                return chain
            chain.append(inner)
            offset = inner

    for found in instructions:
        if found.opname == "JUMP_BACKWARD":
            missed = set(handlers(found.argval)) - set(handlers(found.offset))
            if any(cleans_up(instructions, handler) for handler in missed):
                yield getattr(found, "positions").lineno or code.co_firstlineno  # noqa: B009


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there were no exception tables")
def test_no_exception_at_the_end_of_a_loop_passes_by_its_finally() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line} {code.co_qualname}"  # type: ignore[attr-defined]
        for path in PACKAGE.rglob("*.py")
        for code in codes(compile(path.read_text(), str(path), "exec", dont_inherit=True))
        for line in bare_jumps(code)
    }
    bare = sorted(where for where in found if where.split()[-1] not in EXCUSED)
    assert not bare, "put these loops into functions of their own:\n" + "\n".join(bare)
