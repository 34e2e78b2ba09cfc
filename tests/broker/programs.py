"""Programs in processes of their own that start brokers, and what is left of these."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from waiting import wait_until

LIMIT_S = 60.0
USES = {
    "broker": """
        with shmq.Broker() as broker:
            queue = broker.create_queue("q")
            queue.publish(b"x" * 100_000)
            with queue.subscribe() as consumer:
                assert len(consumer.get(timeout=20).payload) == 100_000
        """,
    "mp.Queue": """
        queue = mp.Queue()
        queue.put(b"x" * 100_000)
        queue.fileno()
        assert len(queue.get(timeout=20)) == 100_000
        del queue
        """,
    "executor": """
        with shmq.Executor(1) as executor:
            assert executor.submit(pow, 2, 3).result(timeout=20) == 8
        """,
}


def leftovers(pid: int) -> list[str]:
    """Segments and helpers of anonymous brokers that process ``pid`` has started."""
    mark = f"anonymous-{pid}-"
    found = [name for name in os.listdir("/dev/shm") if mark in name]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if mark in (entry / "cmdline").read_text():
                    found.append(f"process {entry.name}")
            except OSError:
                continue
    return found


def run(source: str, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run a program; returns (exit code, stdout, stderr) when nothing of its brokers is left."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", textwrap.dedent(source), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: not leftovers(process.pid), f"the end of {leftovers(process.pid)}: {err}")
    return process.returncode, out, err
