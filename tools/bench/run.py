"""The run: every row of a workload once per round, round after round, each under a watchdog."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.bench.distance import Distance
from tools.bench.peers import MODULES, load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tools.bench.workloads import Workload

_FIRST_N = 16_000
_WATCHDOG_S = 20.0
_ATTEMPTS = 6
_NEAR_S = 20.0
_serial = itertools.count()


class HungError(RuntimeError):
    """A measurement did not end and was killed."""


@dataclass
class Row:
    """One line of a table: a peer (and variant), its rounds, or why there are none."""

    label: str
    peer: str
    variant: str
    params: dict[str, Any]
    rounds: list[dict[str, float]] = field(default_factory=list)
    apart: list[dict[str, float]] = field(default_factory=list)
    """Measurements while the cores were far apart, beside the rounds."""
    far: int = 0
    """Rounds that had to be taken although the cores were not near each other all the time."""
    problem: str = ""
    """Why it is not measured (any more)."""
    failures: list[str] = field(default_factory=list)
    """Rounds that failed: a message lost or damaged, an exception."""
    n: int = 0


@dataclass(frozen=True)
class Options:
    """How long and how often."""

    rounds: int
    seconds: float
    idle_seconds: float


def measure(workload: Workload, row: Row, n: int, options: Options) -> dict[str, float]:
    """Run one measurement in a process of its own; raises RuntimeError with the reason if it fails or hangs."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        out = Path(folder) / "result.json"
        tag = f"bench{os.getpid()}x{next(_serial)}"
        params = {**row.params, "peer": row.peer, "variant": row.variant, "n": n, "tag": tag}
        params |= {"workload": workload.key, "out": str(out)}
        if "seconds" in params:
            params["seconds"] = options.idle_seconds
        watchdog = _WATCHDOG_S + 10 * options.seconds + (0 if workload.calibrate else 100)
        watchdog += load(row.peer).start_s
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.bench.cell"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        try:
            process.communicate(json.dumps(params), timeout=watchdog)
        except subprocess.TimeoutExpired:
            pass
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            _clean(params, out.with_suffix(".pids"))
            raise
        hung = process.poll() is None
        result = json.loads(out.read_text()) if out.exists() else {}
        # Children of a failed measurement live on in its process group, its servers outside.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if "figures" in result:
            figures: dict[str, float] = result["figures"]
            return figures
        _clean(params, out.with_suffix(".pids"))
    if hung:
        text = f"hung (killed after {watchdog:.0f} s)"
        raise HungError(text)
    if "error" in result:
        text = result["error"].strip()
    else:
        text = f"died with exit code {process.returncode}"
    raise RuntimeError(text)


def _clean(params: dict[str, Any], pids: Path) -> None:
    """Remove what a killed measurement left."""
    order = json.dumps(params | {"clean": True})
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-m", "tools.bench.cell"],
            input=order,
            text=True,
            timeout=15,
            capture_output=True,
        )
    if pids.exists():
        for pid in json.loads(pids.read_text()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def rows_of(workload: Workload, chosen: Iterable[str]) -> list[Row]:
    """Return the rows to measure, those that cannot be measured with their reason."""
    rows = []
    wanted = set(chosen) or set(MODULES)
    peers = workload.peers or ("shmq",)
    for key in peers:
        if key not in wanted:
            continue
        problem = ""
        variants: tuple[str, ...] = ("",)
        title = key
        try:
            peer = load(key)
        except ImportError as error:
            problem = f"not installed ({error})"
        else:
            title, problem = peer.title, peer.missing()
            variants = peer.variants.get(workload.key, ("",)) if workload.peers else ("",)
            size = workload.params[0].get("size", 64)
            if size > peer.caps.max_size:
                problem = f"messages of at most {peer.caps.max_size} B"
        if problem:
            variants = ("",)
        for variant in variants:
            for params in workload.params:
                label = params.get("label") or ", ".join(filter(None, (title, variant)))
                rows.append(Row(label, key, variant, params, problem=problem))
    return rows


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[-1] if lines else repr(error)


def _round(workload: Workload, row: Row, options: Options, distance: Distance) -> None:
    """Measure a row once with the cores near each other; what was measured while they were far apart is kept aside."""
    figures: dict[str, float] = {}
    for _ in range(_ATTEMPTS if workload.near else 1):
        before = workload.near and distance.far()
        figures = measure(workload, row, row.n, options)
        after = workload.near and distance.far()
        if not (before or after):
            row.rounds.append(figures)
            return
        if before and after:
            row.apart.append(figures)
        if not distance.await_near(_NEAR_S):
            break
    row.rounds.append(figures)
    row.far += 1


def run_workload(
    workload: Workload, chosen: Iterable[str], options: Options, distance: Distance
) -> list[Row]:
    """Measure all rows of a workload, interleaved; one that hangs or fails twice is given up."""
    rows = rows_of(workload, chosen)
    for row in rows:
        if row.problem or not workload.calibrate:
            continue
        try:
            begin = time.monotonic()
            figures = measure(workload, row, int(row.params.get("first_n", _FIRST_N)), options)
            rate = figures.get("rate") or 1e9 / max(figures["p50"], 200.0) / 2
            least, most = row.params.get("min_n", 1000), row.params.get("max_n", 20_000_000)
            row.n = int(min(max(rate * options.seconds, least), most))
            _say(f"  {row.label}: {time.monotonic() - begin:.1f} s, then n = {row.n}")
        except RuntimeError as error:
            row.problem = _reason(error)
            _say(f"  {row.label}: {error}")
    for turn in range(options.rounds):
        for row in rows:
            if row.problem:
                continue
            try:
                _round(workload, row, options, distance)
            except RuntimeError as error:
                _say(f"  {row.label}: {error}")
                row.failures.append(_reason(error))
                if isinstance(error, HungError) or len(row.failures) > 1:
                    row.problem = f"given up in round {turn + 1}: {row.failures[-1]}"
                continue
            first = workload.figures[0]
            value = row.rounds[-1][first.key] * first.scale
            _say(f"  {turn + 1} {row.label}: {value:,.{first.digits}f} {first.unit}")
    return rows


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
