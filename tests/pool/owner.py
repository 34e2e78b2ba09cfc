"""What tests have around workers: programs that own some, and looks at what became of the messages."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TypedDict

import shmq

ROOT = Path(__file__).resolve().parents[2]


class Quick(TypedDict):
    retry_backoff: float
    dead_letter: str


QUICK: Quick = {"retry_backoff": 0.0, "dead_letter": "dead"}


def program(tmp_path: Path, source: str, *arguments: str) -> subprocess.Popen[str]:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(source))
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "pool")))
    environment = {name: value for name, value in os.environ.items() if name != "SHMQ_HOME"}
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONPATH": path},
        start_new_session=True,
    )


def drained(queue: shmq.Queue) -> list[bytes]:
    return sorted(message.payload for message in queue.peek(100_000))


def clients(broker: shmq.Broker) -> set[int]:
    """Processes that are attached as users."""
    return {owner.pid for owner in broker.stats().attached if owner.role == "client"}
