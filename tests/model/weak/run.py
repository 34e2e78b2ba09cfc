"""The pairs of native/src/atomic.h under the C11 memory model, by the Relacy race detector.

    python tests/model/weak/run.py             each test must pass, each mutation must be found

Needs g++ and the headers of Relacy (Debian: relacy-dev). Exit status 3 and a hint when they are missing.
The last line is ``N passed, N failed``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CASES = {
    "slot": ("MUT_PUBLISH", "MUT_R2"),
    "evt": ("MUT_EVT", "MUT_LOOK"),
    "held": ("MUT_HELD", "MUT_SCAN"),
}


def explored(output: str) -> str:
    for line in output.splitlines():
        if line.startswith("iterations:"):
            return line.split()[1] + " executions"
        if line.startswith("iteration:"):
            return "found in execution " + line.split()[1]
    return "no figure"


def run(folder: Path, name: str, mutation: str | None) -> tuple[bool, str]:
    binary = folder / f"{name}-{mutation or 'base'}"
    define = [f"-D{mutation}"] if mutation else []
    command = [
        "g++",
        "-O1",
        "-w",
        "-fpermissive",
        *define,
        str(HERE / f"{name}.cpp"),
        "-o",
        str(binary),
    ]
    subprocess.run(command, check=True)
    result = subprocess.run([str(binary)], capture_output=True, text=True, timeout=300, check=False)
    return (result.returncode == 0) == (mutation is None), explored(result.stdout)


def main() -> int:
    if shutil.which("g++") is None or not Path("/usr/include/relacy/relacy.hpp").exists():
        print(
            "g++ or the Relacy headers are missing: apt-get install g++ relacy-dev", file=sys.stderr
        )
        return 3
    todo = [(name, each) for name, mutations in CASES.items() for each in (None, *mutations)]
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda case: run(Path(folder), *case), todo)
        for (name, mutation), (good, figure) in zip(todo, results, strict=True):
            passed, failed = passed + good, failed + (not good)
            print(f"{'ok  ' if good else 'FAIL'} {name:5} {mutation or '':12} {figure}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
