"""Words of a living broker's segment are damaged, then everything is called: through Broker, Topic, groups, shmq.mp and
the command line, in both bindings, with the supervisor and the sidecar at work.

    python tests/crash/damage.py --runs 10000        the long one
    python tests/crash/damage.py --seed 7 --only 4711    one run again; a failure prints this line

A run restores the segment to what it was, changes one to six words of it in a process that is attached, calls everything
there and, attached anew, once more. It fails when the process crashes or hangs, when anything but a ShmqError comes out,
or when a helper dies, spins, or does not do its work any more after the segment was restored. A damaged word may end the
broker only if it says that the broker ends (closing; anonymous).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time

from damage_host import Host

WORLD_RUNS = 400  # runs of one broker


def host(prefix: str, seed: int, number: int, of: int, first: int, runs: int) -> int:
    def say(text: str) -> None:
        print(text, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    mine = Host(prefix, seed, number, say)
    begun = time.monotonic()
    try:
        for done, run in enumerate(range(first + number, first + runs, of)):
            mine.run(run)
            if done % 200 == 199:
                say(
                    f"host {number}: {done + 1} runs, {mine.failures} failures, {time.monotonic() - begun:.0f} s"
                )
            if done % WORLD_RUNS == WORLD_RUNS - 1:
                for with_mp in list(mine.worlds):
                    mine.drop(with_mp)
            if mine.failures > 200:
                break
    finally:
        mine.end()
    say(
        f"host {number}: brokers {mine.made}, sidecars restarted {mine.ends}, failures {mine.failures}"
    )
    return 1 if mine.failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--only", type=int, help="this run only")
    parser.add_argument(
        "--jobs", type=int, default=2, help="even ones with the accelerator, odd ones without"
    )
    parser.add_argument("--prefix", default=f"damage-{os.getpid()}-")
    parser.add_argument("--host", type=int)
    options = parser.parse_args()
    first, runs = (options.only, 1) if options.only is not None else (options.first, options.runs)
    if options.host is not None:
        if options.only is not None:
            return host(options.prefix, options.seed, 0, 1, first, runs)
        return host(options.prefix, options.seed, options.host, options.jobs, first, runs)
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"seed {options.seed}: {runs} runs", flush=True)
    hosts = []
    for number in [first % 2] if options.only is not None else range(options.jobs):
        environment = dict(os.environ)
        environment.pop("SHMQ_NO_ACCEL", None)
        if number % 2:
            environment["SHMQ_NO_ACCEL"] = "1"
        words = [sys.executable, __file__, "--host", str(number), "--seed", str(options.seed)]
        words += [
            "--jobs",
            str(options.jobs),
            "--runs",
            str(runs),
            "--first",
            str(first),
            "--prefix",
            options.prefix,
        ]
        words += ["--only", str(options.only)] if options.only is not None else []
        hosts.append(subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL))
    try:
        bad = sum(each.wait() != 0 for each in hosts)
    finally:
        for each in hosts:
            each.terminate()
            each.wait()
    print(
        f"seed {options.seed}: {runs} runs in {time.monotonic() - begun:.0f} s; {'FAILED' if bad else '0 failures'}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
