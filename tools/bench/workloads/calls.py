"""Calls in other processes: shmq.Executor beside the standard library's ProcessPoolExecutor."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from time import perf_counter_ns
from typing import Any

from tools.bench.loops import WrongMessageError
from tools.bench.workloads import Figure, Workload

STDLIB, SHMQ = "ProcessPoolExecutor", "shmq.Executor"
_WORKERS = 2
_WARM = 500


def _same(x: int) -> int:
    return x


def _executor(kind: str) -> Any:
    if kind == STDLIB:
        return ProcessPoolExecutor(_WORKERS)
    import shmq

    return shmq.Executor(_WORKERS)


def _calls(executor: Any, how: str, n: int) -> list[int]:
    if how == "map":
        return list(executor.map(_same, range(n)))
    return [future.result() for future in [executor.submit(_same, i) for i in range(n)]]


def run(params: dict[str, Any]) -> dict[str, float]:
    """Make `n` calls that do nothing; each result must be there, in its place."""
    n = params["n"]
    with _executor(params["executor"]) as executor:
        _calls(executor, params["how"], _WARM)
        begin = perf_counter_ns()
        found = _calls(executor, params["how"], n)
        end = perf_counter_ns()
    if found != list(range(n)):
        text = "results lost or out of order"
        raise WrongMessageError(text)
    return {"n": n, "rate": n / (end - begin) * 1e9}


WORKLOADS = (
    Workload(
        "calls",
        "Calls that do nothing, two workers",
        "`list(executor.map(f, range(n)))` with the default chunksize of 1, and n times `submit`, then n times `result`; "
        "processes are not pinned. × is against `ProcessPoolExecutor.map`.",
        (Figure("rate", "calls", "k/s", 1e-3, 1),),
        run,
        params=tuple(
            {"label": f"{kind}, {how}", "executor": kind, "how": how, "first_n": 4000}
            for how in ("map", "submit")
            for kind in (STDLIB, SHMQ)
        ),
    ),
)
