"""Count primes in many processes, while some of them are killed: the sum is right all the same."""

import os
import random
import signal
import time

import shmq

LIMIT = 3_000_000
STEP = 10_000
KILLS = 10


def primes_between(start: int, stop: int) -> int:
    """How many primes are in [start, stop)."""
    composite = bytearray(stop - start)
    for n in range(2, int(stop**0.5) + 1):
        first = max(n * n, (start + n - 1) // n * n) - start
        composite[first::n] = b"\1" * len(range(first, stop - start, n))
    return composite.count(0) - sum(1 for n in (0, 1) if start <= n < stop)


def kill_a_worker(executor: shmq.Executor) -> None:
    """Kill one by chance; one that is dead already, and not replaced yet, does not count."""
    while True:
        try:
            return os.kill(random.choice(executor.pids), signal.SIGKILL)
        except (IndexError, ProcessLookupError):
            time.sleep(0.001)


if __name__ == "__main__":
    starts = range(0, LIMIT, STEP)
    kills = set(random.sample(range(len(starts)), KILLS))
    total = 0
    with shmq.Executor(max_workers=4, retries=KILLS) as executor:
        results = executor.map(primes_between, starts, (start + STEP for start in starts))
        for i, count in enumerate(results):
            total += count
            if i in kills:
                kill_a_worker(executor)
    print(f"{total:,} primes below {LIMIT:,}; {KILLS} times SIGKILL on the way")
