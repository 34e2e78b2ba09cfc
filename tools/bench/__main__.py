"""Command line: `python -m tools.bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tools.bench import machine, report
from tools.bench.distance import Distance
from tools.bench.peers import MODULES, load
from tools.bench.run import Options, run_workload
from tools.bench.workloads import all_workloads


def _arguments(workloads: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Measure shmq beside other ways between Python processes.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", default="", help="workloads, of: " + ", ".join(workloads))
    parser.add_argument("--peers", default="", help="peers, of: " + ", ".join(MODULES))
    parser.add_argument("--rounds", type=int, default=0, help="default 7, quick 3")
    parser.add_argument(
        "--out",
        type=Path,
        help="write the report here; a run of everything writes docs/benchmarks.md, others are printed",
    )
    parser.add_argument("--json", type=Path, help="write every round's figures here")
    parser.add_argument("--from-json", type=Path, help="measure nothing: report earlier figures")
    parser.add_argument(
        "--merge", type=Path, help="keep the workloads of this JSON that are not measured now"
    )
    args = parser.parse_args()
    if args.out is None and not (args.quick or args.only or args.peers):
        args.out = Path("docs/benchmarks.md")
    return args


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _chosen(text: str, known: list[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(names) - set(known))
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return names


def _peer_notes(keys: list[str]) -> dict[str, str]:
    notes = {}
    for key in keys:
        try:
            peer = load(key)
        except ImportError:
            continue
        notes[peer.title] = peer.caps.notes
    return notes


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    workloads = all_workloads()
    only = _chosen(args.only, list(workloads)) or list(workloads)
    peers = _chosen(args.peers, list(MODULES))
    options = Options(
        rounds=args.rounds or (3 if args.quick else 7),
        seconds=0.15 if args.quick else 0.4,
        idle_seconds=3 if args.quick else 10,
    )
    load_before = os.getloadavg()[0]
    results = {}
    distance = Distance()
    for key in workloads:
        if key in only:
            print(f"{key}:", file=sys.stderr, flush=True)
            load_here = os.getloadavg()[0]
            rows = run_workload(workloads[key], peers, options, distance)
            results[key] = {
                "rows": [asdict(row) for row in rows],
                "date": _now(),
                "rounds": options.rounds,
                "load": [load_here, os.getloadavg()[0]],
            }
    meta = {
        "date": _now(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "notes": _peer_notes(peers or list(MODULES)),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load": [load_before, os.getloadavg()[0]],
    }
    return {"meta": meta, "results": results}


def main() -> None:
    """Measure, report."""
    # So that a terminated run kills its measurements as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    workloads = all_workloads()
    args = _arguments(list(workloads))
    if args.from_json:
        document = json.loads(args.from_json.read_text())
    else:
        document = _measure(args)
    if args.merge and args.merge.exists():
        earlier = json.loads(args.merge.read_text())
        document["results"] = earlier["results"] | document["results"]
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    text = report.render(document, workloads, report.notes_of(args.out))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
