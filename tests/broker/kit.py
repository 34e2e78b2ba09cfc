"""What tests about processes need: programs in processes of their own, and their ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from waiting import WATCHDOG_S, alive, wait_until

import shmq
from shmq._segment import list_segments

# In front of every program below: errors as in production, deaths of the test end it as well.
PROLOGUE = """
import os, signal, sys, time
import shmq
name = sys.argv[1]
def say(text):
    sys.stdout.write(f"{text}\\n"); sys.stdout.flush()
"""


def kill(pid: int) -> None:
    """SIGKILL a process and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), f"the end of {pid}")


def shm_path(name: str) -> str:
    return f"/dev/shm/shmq.{os.getuid()}.{name}"


def exists(name: str) -> bool:
    """Return whether a broker of that name has a segment, by whichever provider."""
    return any(found.name == name for found in list_segments())


class Program:
    """A Python program in a process of its own; talks by lines on its stdout."""

    def __init__(self, source: str, *arguments: str, options: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", PROLOGUE + textwrap.dedent(source), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def line(self) -> str:
        """Return its next line; fails the test when it ends instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"ended with {self.process.wait()}: {self.process.communicate()[1]}"
        return line.rstrip("\n")

    def tell(self, text: str = "") -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end; returns (exit code, stdout, stderr)."""
        out, err = self.process.communicate(timeout=WATCHDOG_S)
        return self.process.returncode, out, err


@contextlib.contextmanager
def program(source: str, *arguments: str, options: tuple[str, ...] = ()) -> Iterator[Program]:
    """Run a `Program`; killed at the end of the block if it still runs."""
    running = Program(source, *arguments, options=options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()
        for pipe in (running.process.stdin, running.process.stdout, running.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextlib.contextmanager
def ended(*names: str) -> Iterator[None]:
    """Take brokers of these names away after the block, whatever became of them."""
    try:
        yield
    finally:
        for name in names:
            with contextlib.suppress(shmq.ShmqError):
                shmq.connect(name).shutdown(timeout=0)


def cli(
    *arguments: str, before: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run ``shmq ARGUMENTS``, ``before`` in front of it; returns (exit code, stdout, stderr)."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "shmq.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )
    return done.returncode, done.stdout, done.stderr


def processes_of(broker: shmq.Broker) -> tuple[int, int]:
    """Return (supervisor, sidecar), both alive."""
    stats = broker.stats()
    assert stats.supervisor_pid is not None
    assert stats.sidecar_pid is not None
    return stats.supervisor_pid, stats.sidecar_pid


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def can_unshare(*options: str) -> bool:
    """Return whether ``unshare OPTIONS`` works here."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, *options, "true"]).returncode == 0


def in_a_tmpfs(size: str, source: str) -> str:
    """Run a program that sees a /dev/shm of its own with ``size``; returns its stdout."""
    shell = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, "sh", sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def pickled_text(value: str) -> bytes:
    """Return a text as pickle protocol 2 writes it."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data
