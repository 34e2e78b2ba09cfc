"""One measurement in a process of its own: parameters as JSON on standard input, the result into a file.

Its own process, so that no peer's leftovers (threads, mappings, imports) touch the next, and so that one that hangs can
be killed whole.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from tools.bench.endpoint import Spec
from tools.bench.peers import load
from tools.bench.workloads import all_workloads


def _write(path: Path, value: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.rename(path)


def main() -> None:
    """Run the measurement, or clean up after one that was killed."""
    params = json.loads(sys.stdin.read())
    out = Path(params["out"])
    if params.get("clean"):
        for side in params.get("sides", ("",)):
            spec = Spec(params["tag"] + side, 64, 64, producers=4, consumers=4, channels=10)
            load(params["peer"])(spec).teardown()
        return
    pids = out.with_suffix(".pids")

    def note_pids(found: list[int]) -> None:
        _write(pids, found)

    params["note_pids"] = note_pids
    try:
        result: dict[str, object] = {"figures": all_workloads()[params["workload"]].run(params)}
    except BaseException:  # noqa: BLE001
        result = {"error": traceback.format_exc()}
    _write(out, result)
    sys.stdout.flush()
    # Not the ordinary exit: a peer's thread that waits for ever must not hold up the run.
    os._exit(0)


if __name__ == "__main__":
    main()
