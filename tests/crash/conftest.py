"""The C programs that kill: built once for all workers, from the sources as they are."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "crash"


@pytest.fixture(scope="session")
def program() -> Callable[[str], Path]:
    def build(name: str) -> Path:
        OUT.mkdir(parents=True, exist_ok=True)
        with (OUT / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(
                ["make", "-s", "-C", str(ROOT / "native"), "tests", f"ONLY={name}", f"OUT={OUT}"],
                check=True,
            )
        return OUT / "tests" / name

    return build


@pytest.fixture(scope="session")
def run(program: Callable[[str], Path]) -> Callable[..., str]:
    """Run a program to its end; its last line has to say that nothing failed."""

    def go(name: str, *arguments: str, limit: float) -> str:
        done = subprocess.run(
            [str(program(name)), *arguments],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        assert done.stdout.rstrip().splitlines()[-1].endswith(" passed, 0 failed")
        return done.stdout

    return go
