"""What tests of process trees need: a program of its own, which must leave nothing when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from waiting import WATCHDOG_S, alive, wait_until

from shmq._segment import list_segments

METHODS = ("fork", "spawn", "forkserver")

PROLOGUE = """
import json, multiprocessing, os, signal, sys, threading, time
import shmq.mp
from shmq.home import home
from shmq._segment import living

method = sys.argv[1]
context = multiprocessing.get_context(method)
queues = shmq.mp.get_context(method)

def say(**facts):
    sys.stdout.write(json.dumps(facts) + "\\n")
    sys.stdout.flush()

def helpers():
    stats = home().stats()
    return [stats.supervisor_pid, stats.sidecar_pid]

def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
"""


def homes() -> set[str]:
    """The brokers of process trees on this machine."""
    return {found.name for found in list_segments() if found.name.startswith("anonymous-")}


def run(folder: Path, method: str, source: str, *, errors: str = "") -> list[dict[str, Any]]:
    """Run a program for a start method; return what it said.

    Its first line has to name its ``home`` and the ``pids`` of its helpers, which must be gone
    afterwards. ``errors`` is what it may write to stderr.
    """
    file = folder / "program.py"
    file.write_text(PROLOGUE + textwrap.dedent(source))
    environment = {k: v for k, v in os.environ.items() if k != "SHMQ_HOME"}
    done = subprocess.run(
        [sys.executable, str(file), method],
        capture_output=True, text=True, timeout=WATCHDOG_S, check=False, env=environment,
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said, done.stderr
    assert done.stderr.strip() == errors or errors in done.stderr, done.stderr
    first = said[0]
    for pid in first["pids"]:
        wait_until(lambda pid=pid: not alive(pid), f"the end of {pid}")  # type: ignore[misc]
    wait_until(lambda: first["home"] not in homes(), f"the end of broker {first['home']}")
    return said
