"""Descriptors and processes that the system has no more of."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from programs import USES, run

LIMITED = """
import gc, os, resource, sys, tempfile, threading
import shmq, shmq.mp as mp, shmq.workers, multiprocessing.heap, multiprocessing.popen_fork, subprocess
import multiprocessing.sharedctypes   # ctypes: libffi keeps a descriptor for good
what, kind, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
tempfile.gettempdir()
multiprocessing.heap.BufferWrapper(1)   # for good, with a descriptor
if multiprocessing.get_start_method() == "forkserver":
    import multiprocessing.forkserver
    multiprocessing.forkserver.ensure_running()   # likewise; and a resource tracker
def fds(): return len(os.listdir("/proc/self/fd"))
before, threads = fds(), threading.active_count()
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
highest = max(map(int, os.listdir("/proc/self/fd")))
if kind == "descriptors": resource.setrlimit(resource.RLIMIT_NOFILE, (highest + n, most))
if kind == "descriptors of helpers": resource.setrlimit(resource.RLIMIT_NOFILE, (highest + n, highest + n))
if kind == "processes": resource.setrlimit(resource.RLIMIT_NPROC, (n, n))
def main():
    try:
        for _ in (1,):
            BODY
        return "OK"
    except shmq.ShmqError as error:
        return f"{type(error).__name__} {error}"
said = main()
if kind == "descriptors": resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
gc.collect()
if not said.startswith("OK"):
    assert fds() == before and threading.active_count() == threads, (fds(), before, threading.enumerate())
print(said)
"""


def limited(what: str, kind: str, n: int, prefix: tuple[str, ...] = ()) -> str:
    body = textwrap.indent(textwrap.dedent(USES[what]), " " * 12)
    source = LIMITED.replace("            BODY", body)
    code, out, err = run(source, what, kind, str(n), prefix=prefix)
    assert code == 0, (n, out, err)
    return out


@pytest.mark.parametrize("what", USES)
def test_a_start_without_descriptors_says_so_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("SHMQ_SOMETHING", "1")  # asked whether it is misspelt: that imports difflib
    said = [limited(what, "descriptors", n) for n in (*range(1, 21), 40)]
    assert said[-1] == "OK\n"
    for text in said:
        assert text == "OK\n" or text.startswith(("LimitReached ", "WorkersFailed ")), text
    assert said[0].startswith("LimitReached ")
    assert "ulimit -n" in said[0]


@pytest.mark.parametrize("n", [7, 9, 11, 13])
def test_helpers_without_descriptors_say_so_and_leave_nothing(n: int) -> None:
    text = limited("broker", "descriptors of helpers", n)
    assert text == "OK\n" or text.startswith("LimitReached "), text


UNPRIVILEGED = (
    50_000 + os.getpid() % 10_000
)  # a uid with no processes; each of pytest's has its own
PREFIX = (
    "setpriv", f"--reuid={UNPRIVILEGED}", "--clear-groups",
    "--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search",
)  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, whose limits are those of another user")
@pytest.mark.parametrize("what", USES)
def test_a_start_without_processes_says_so_and_leaves_nothing(what: str) -> None:
    if subprocess.run([*PREFIX, sys.executable, "-c", "import shmq"], check=False).returncode:
        pytest.skip("setpriv cannot give this interpreter to another user")
    said = [limited(what, "processes", n, PREFIX) for n in (1, 2, 3, 4, 40)]
    assert said[-1] == "OK\n"
    for text in said[:-1]:
        assert text.startswith("LimitReached "), text
        assert "ulimit -u" in text
