"""What the command line prints: one line each, whatever names and texts have in them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable

from shmq.errors import printable


def say(*lines: str) -> None:
    """Print lines; what is not printable in them, line ends too, is shown as an escape."""
    _write(sys.stdout, lines)


def complain(text: str) -> None:
    """Print what went wrong, as one line."""
    _write(sys.stderr, [f"shmq: {text}"])


def any_character() -> None:
    """Let output go on where the terminal's encoding lacks a character: it is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _write(stream: object, lines: Iterable[str]) -> None:
    if stream is not None:
        stream.write("".join(f"{printable(line)}\n" for line in lines))  # type: ignore[attr-defined]
