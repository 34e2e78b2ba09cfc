"""Every operation of the core is killed after every instruction (native/tests/sweep.c) and the world is checked."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the sweep decodes x86-64 stops"),
]


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sweep from the sources as they are."""
    binary = tmp_path_factory.mktemp("sweep") / "sweep"
    command = [
        os.environ.get("CC", shutil.which("cc") or "gcc"), "-std=gnu11", "-O1", "-g",
        f"-I{NATIVE / 'include'}", f"-I{NATIVE / 'src'}", f"-I{NATIVE / 'tests'}",
        str(NATIVE / "tests" / "sweep.c"), *map(str, sorted((NATIVE / "src").glob("*.c"))),
        "-o", str(binary),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return binary


@pytest.mark.timeout(600)
def test_no_kill_at_any_instruction_breaks_an_invariant(sweep: Path) -> None:
    result = subprocess.run(
        [str(sweep), "--no-pair"], capture_output=True, text=True, timeout=580, check=False
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout[-4000:]
    assert result.stdout.rstrip().splitlines()[-1].endswith(" passed, 0 failed")
