"""Types for users: mypy and pyright see through a right program, and find planted mistakes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RIGHT, WRONG = ROOT / "tests" / "typing" / "right.py", ROOT / "tests" / "typing" / "wrong.py"


def said_by(words: list[str], where: Path, **environment: str) -> str:
    """What a checker prints, run where no settings of this project lie about."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=where,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert re.search(r"Success|Found \d+ error|\d+ error", done.stdout), done.stdout + done.stderr
    return done.stdout


def lines_in(text: str, path: Path) -> set[int]:
    return {int(n) for n in re.findall(rf"{path.name}:(\d+)(?::\d+)?(?: -|:) error", text)}


def mypy(path: Path, where: Path) -> set[int]:
    cache = f"--cache-dir={where}"
    said = said_by(["mypy", "--strict", cache, str(path)], where, MYPYPATH=str(ROOT))
    return lines_in(said, path)


def pyright(path: Path, where: Path) -> set[int]:
    settings = f'{{"extraPaths": ["{ROOT}"], "typeCheckingMode": "strict", "reportMissingModuleSource": false}}'
    (where / "pyrightconfig.json").write_text(settings)
    (where / path.name).write_text(path.read_text())
    return lines_in(said_by(["pyright", "-p", str(where)], where), path)


both = pytest.mark.parametrize("checker", [mypy, pyright])
Checker = Callable[[Path, Path], set[int]]


@both
def test_a_right_program_passes(checker: Checker, tmp_path: Path) -> None:
    assert checker(RIGHT, tmp_path) == set()


@both
def test_each_planted_mistake_is_found_and_nothing_else(checker: Checker, tmp_path: Path) -> None:
    lines = WRONG.read_text().splitlines()
    planted = {n for n, line in enumerate(lines, 1) if "# wrong" in line and n > 1}
    assert len(planted) > 7
    assert checker(WRONG, tmp_path) == planted


def test_the_checkers_words_are_those_of_the_options() -> None:
    import dataclasses
    from typing import get_args, get_type_hints

    from shmq import consumer, group, keywords, options
    from shmq.message import Message

    own = {"payload", "id", "timestamp"}
    fields = {field.name for field in dataclasses.fields(options.QueueOptions)}
    assert set(keywords.QueueKeywords.__annotations__) == fields
    assert (
        set(keywords.MessageKeywords.__annotations__)
        == {field.name for field in dataclasses.fields(Message)} - own
    )
    hints = get_type_hints(keywords.QueueKeywords)
    assert get_args(keywords.Ack) == consumer.ACK_MODES
    assert get_args(keywords.Dispatch) == group.DISPATCH
    assert get_args(keywords.Overflow) == options.OVERFLOWS
    assert get_args(hints["expired"]) == options.EXPIRED
    assert get_args(hints["order"]) == options.ORDERS
    assert get_args(hints["durability"]) == options.DURABILITIES
