"""A live progress bar drawn from the queues' own counters: rich, or a plain line, or a log."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Protocol

REDRAW = 0.1  # seconds


class Progress(Protocol):
    def show(self, settled: int, state: str) -> None:
        """Draw, at most every `REDRAW` seconds."""

    def close(self) -> None:
        """Draw the last state and leave the line."""


class Silent:
    def show(self, settled: int, state: str) -> None: ...
    def close(self) -> None: ...


class Rich:
    """A bar with the time left. Drawn by this thread: no second thread, safe to fork."""

    def __init__(self, rows: int) -> None:
        import rich.progress as rich_progress

        self._bar = rich_progress.Progress(
            rich_progress.BarColumn(bar_width=16),
            rich_progress.TaskProgressColumn(),
            rich_progress.TimeRemainingColumn(compact=True),
            rich_progress.TextColumn("{task.fields[state]}"),
            auto_refresh=False,
        )
        self._task = self._bar.add_task("flights", total=rows, state="")
        self._drawn = 0.0
        self._bar.start()

    def show(self, settled: int, state: str) -> None:
        self._bar.update(self._task, completed=settled, state=state)
        if time.monotonic() - self._drawn > REDRAW:
            self._drawn = time.monotonic()
            self._bar.refresh()

    def close(self) -> None:
        self._bar.refresh()
        self._bar.stop()


class Plain:
    """One line, rewritten in place on a terminal; a new line for each tenth of the job elsewhere."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._terminal = sys.stdout.isatty()
        self._drawn = 0.0
        self._tenth = -1
        self._line = ""

    def show(self, settled: int, state: str) -> None:
        self._line = f"{settled:>7}/{self._rows} flights {settled / self._rows:>4.0%}  {state}"
        if not self._terminal:
            if settled * 10 // self._rows > self._tenth:
                self._tenth = settled * 10 // self._rows
                print(self._line, flush=True)
        elif time.monotonic() - self._drawn > REDRAW:
            self._drawn = time.monotonic()
            print(f"\r{self._line}\x1b[K", end="", flush=True)

    def close(self) -> None:
        if self._terminal and self._line:
            print(f"\r{self._line}\x1b[K", flush=True)


def best(rows: int, *, wanted: bool) -> Progress:
    if not wanted:
        return Silent()
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):  # a nicety, not a requirement
        return Rich(rows)
    return Plain(rows)
