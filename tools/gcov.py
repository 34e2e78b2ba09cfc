"""Say how much of the C core its tests went through: lines and branches of each file, by gcov. For information only.

    make -C native test COV=1; python tools/gcov.py build/native-cov/src

Processes that end by a signal or by _exit leave no counts: what only those about to be killed went through is missing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Part(NamedTuple):
    percent: float
    of: int

    @property
    def done(self) -> float:
        return self.percent * self.of / 100


def part(what: str, text: str) -> Part:
    found = re.search(rf"^{what}:([\d.]+)% of (\d+)$", text, re.MULTILINE)
    return Part(float(found[1]), int(found[2])) if found else Part(100, 0)


def row(name: str, lines: Part, branches: Part) -> str:
    taken = f"   {branches.percent:6.1f} % of {branches.of:5} branches" if branches.of else ""
    return f"{name:28} {lines.percent:6.1f} % of {lines.of:5} lines{taken}"


def whole(parts: list[Part]) -> Part:
    of = sum(p.of for p in parts)
    return Part(100 * sum(p.done for p in parts) / of if of else 100, of)


def main() -> int:
    objects = sorted(Path(sys.argv[1]).resolve().glob("*.gcda"))
    if not objects:
        print(f"{sys.argv[1]}: no counts there; run: make -C native test COV=1")
        return 0
    # One call for all: what several files include is counted once.
    done = subprocess.run(
        [os.environ.get("GCOV", "gcov"), "--branch-probabilities", "--no-output", *map(str, objects)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = []
    for text in re.split(r"^(?=File ')", done.stdout, flags=re.MULTILINE):
        file = re.match(r"File '(.*)'", text)
        if file and (path := Path(file[1])).is_relative_to(ROOT / "native"):
            name = str(path.relative_to(ROOT / "native"))
            # "Branches executed" says that their condition was reached; this, that they were taken.
            rows.append((name, part("Lines executed", text), part("Taken at least once", text)))
    for name, lines, branches in sorted(rows):
        print(row(name, lines, branches))
    print(row("all", whole([r[1] for r in rows]), whole([r[2] for r in rows])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
