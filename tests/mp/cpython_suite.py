"""Runs one of CPython's own tests of multiprocessing's queues against shmq.mp; a program.

    SUITE="fork factory" python cpython_suite.py                    lists the tests
    SUITE="fork factory" python cpython_suite.py CLASS.test_name    runs one: 0 passed, 1 failed, 2 skipped

The tests are those of the interpreter that runs this. What is replaced:

    factory   the factories of all contexts: what `multiprocessing.Queue()` and `ctx.Queue()` give
    class     also the names in multiprocessing.queues, so that subclasses derive from shmq's

The choice is in the environment because this file is also the main module of every process that a
test starts: there, too, the replacement has to be in place before anything is unpickled.
"""

from __future__ import annotations

import fnmatch
import multiprocessing
import multiprocessing.context
import multiprocessing.queues
import os
import sys
import unittest
from collections.abc import Callable
from typing import Any

import shmq.mp

CORE = ("WithProcessesTestQueue.*", "TestSimpleQueue.*")
MORE = (
    "WithProcessesTestProcess.test_args_argument",
    "WithProcessesTestProcess.test_process",
    "WithProcessesTestProcess.test_process_mainthread_native_id",
    "WithProcessesTestProcess.test_close",
    "WithProcessesTestProcess.test_lose_target_ref",
    "WithProcessesTestProcess.test_child_fd_inflation",
    "WithProcessesTestBarrier.test_wait_return",
    "TestStdinBadfiledescriptor.*",
    "TestStartMethod.test_mixed_startmethod",
    "TestStartMethod.test_nested_startmethod",
    "WithProcessesTestPool.test_map",
    "WithProcessesTestPool.test_imap_unordered",
    "WithProcessesTestPool.test_terminate",
    "TestPoolMaxtasksperchild.*",
)
KINDS = {name: getattr(shmq.mp, name) for name in ("Queue", "JoinableQueue", "SimpleQueue")}


def replace(level: str) -> None:
    base: Any = multiprocessing.context.BaseContext

    def bounded(kind: str) -> Callable[..., object]:
        return lambda self, maxsize=0: KINDS[kind](maxsize, ctx=self.get_context())

    base.Queue = bounded("Queue")
    base.JoinableQueue = bounded("JoinableQueue")
    base.SimpleQueue = lambda self: KINDS["SimpleQueue"](ctx=self.get_context())
    for kind, queue in KINDS.items():
        # The package took bound methods of the default context when it was imported.
        default = multiprocessing.context._default_context
        setattr(multiprocessing, kind, getattr(default, kind))
        if level == "class":
            setattr(multiprocessing.queues, kind, queue)


def install(method: str, space: dict[str, object]) -> None:
    """Put the interpreter's tests for one start method into ``space``."""
    import test._test_multiprocessing as suite  # type: ignore[import-not-found]

    original = suite.close_queue
    queues = (original.__globals__["multiprocessing"].queues.Queue, shmq.mp.Queue)

    def close_queue(queue: object) -> None:
        if isinstance(queue, queues):
            queue.close()
            queue.join_thread()

    close_queue.__module__, close_queue.__qualname__ = suite.__name__, "close_queue"
    suite.close_queue = close_queue
    for kind in ("Queue", "JoinableQueue"):
        setattr(suite.ProcessesMixin, kind, staticmethod(getattr(multiprocessing, kind)))
    suite.install_tests_in_module_dict(space, method)


def names_in(space: dict[str, object], patterns: tuple[str, ...]) -> list[str]:
    found = []
    for name, cls in sorted(space.items()):
        if isinstance(cls, type) and issubclass(cls, unittest.TestCase):
            for test in unittest.defaultTestLoader.getTestCaseNames(cls):
                full = f"{name}.{test}"
                if any(fnmatch.fnmatchcase(full, pattern) for pattern in patterns):
                    found.append(full)
    return found


def main() -> int:
    if len(sys.argv) < 2:
        print("\n".join(names_in(globals(), CORE if level == "class" else CORE + MORE)))
        return 0
    cls, _, test = sys.argv[1].partition(".")
    one = unittest.TestSuite([globals()[cls](test)])  # with what its class sets up
    result = unittest.TextTestRunner(verbosity=0).run(one)
    if result.skipped:
        return 2
    return 0 if result.wasSuccessful() and result.testsRun else 1


method, level = os.environ["SUITE"].split()
replace(level)
install(method, globals())

if __name__ == "__main__":
    sys.exit(main())
