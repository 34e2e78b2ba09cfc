"""Forked, pinned child processes that run a role phase by phase under the parent's command."""

from __future__ import annotations

import gc
import multiprocessing as mp
import os
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

_fork = mp.get_context("fork")


class CellError(Exception):
    """A child failed; carries its traceback."""


def cores() -> list[int]:
    """Return the processor cores this process may use, lowest first."""
    return sorted(os.sched_getaffinity(0))


PRODUCER_CORE = cores()[0]
CONSUMER_CORE = cores()[-1] if len(cores()) == 1 else cores()[1]


def _main(
    role: Callable[..., Iterator[Any]], args: tuple[Any, ...], core: int, pipe: Connection
) -> None:
    os.sched_setaffinity(0, {core})
    try:
        for phase in role(*args):
            gc.collect()
            gc.freeze()
            pipe.send(("phase", phase))
            pipe.recv()
    except BaseException:  # noqa: BLE001
        pipe.send(("error", traceback.format_exc()))


class Child:
    """A role running in its own process: a generator that yields at the end of each phase.

    The value yielded goes to the parent; the next phase starts when the parent says so.
    """

    def __init__(self, role: Callable[..., Iterator[Any]], *args: Any, core: int) -> None:
        """Fork and run the first phase."""
        self.pipe, theirs = _fork.Pipe()
        self.process = _fork.Process(target=_main, args=(role, args, core, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def wait(self) -> Any:
        """Block until the current phase ends; return what it yielded."""
        try:
            kind, value = self.pipe.recv()
        except EOFError:
            self.process.join(1)
            text = f"child died, exit code {self.process.exitcode}"
            raise CellError(text) from None
        if kind == "error":
            raise CellError(value)
        return value

    def go(self) -> None:
        """Start the next phase."""
        self.pipe.send(None)

    def finish(self) -> None:
        """Let the role end and the process exit."""
        self.go()
        self.process.join()


def together(*children: Child) -> list[Any]:
    """Start the next phase in every child, then wait for all; return what they yielded."""
    for child in children:
        child.go()
    return [child.wait() for child in children]
