"""Workers that are killed at random: nothing is lost, nobody hangs, `join` returns."""

from __future__ import annotations

from pathlib import Path

import pytest
from tree import METHODS, run

JOINABLE = """
import random
ITEMS = 20

def worker(q, results):
    while True:
        n = q.get()
        results.put(n)
        q.task_done()

def start(q, results):
    p = context.Process(target=worker, args=(q, results), daemon=True)
    p.start()
    return p

if __name__ == "__main__":
    kills = int(os.environ["KILLS"])
    q, results = queues.JoinableQueue(), queues.Queue()
    say(home=home().name, pids=helpers())
    pool = [start(q, results) for _ in range(4)]
    dice = random.Random(1)
    put = 0
    for kill in range(kills):
        q.put_many(range(put, put + ITEMS))
        put += ITEMS
        spin = time.monotonic() + dice.random() * 0.002
        while time.monotonic() < spin:
            pass
        victim = dice.randrange(len(pool))
        os.kill(pool[victim].pid, signal.SIGKILL)
        pool[victim].join()
        pool[victim] = start(q, results)
    q.join()
    seen = []
    while not results.empty():
        seen += results.get_many(1000)
    say(all=set(seen) == set(range(put)), more=len(seen) - put, left=q.qsize())
    for p in pool:
        p.terminate()
"""

PLAIN = """
import queue, random

def producer(q, first, n):
    for i in range(first, first + n):
        q.put({"n": i, "pad": "x" * (i % 300)})

def consumer(q, out):
    while True:
        out.put(q.get()["n"])

if __name__ == "__main__":
    kills = int(os.environ["KILLS"])
    q, out = queues.Queue(50), queues.Queue()
    say(home=home().name, pids=helpers())
    dice = random.Random(2)
    start = lambda: context.Process(target=consumer, args=(q, out), daemon=True)
    pool = [start() for _ in range(3)]
    for p in pool:
        p.start()
    seen = []
    total = 0
    for kill in range(kills):
        q.put_many({"n": total + i} for i in range(20))
        total += 20
        victim = dice.randrange(len(pool))
        os.kill(pool[victim].pid, signal.SIGKILL)
        pool[victim].join()
        pool[victim] = start()
        pool[victim].start()
    while True:
        try:
            seen += out.get_many(1000, timeout=1.0)
        except queue.Empty:
            break
    # At most once: each kill may have cost the one item that its victim had in hand.
    say(twice=len(seen) - len(set(seen)), lost=total - len(set(seen)) <= kills, left=q.qsize())
    for p in pool:
        p.terminate()
"""


@pytest.mark.parametrize(
    ("method", "kills"),
    [
        *((method, 20) for method in METHODS),
        pytest.param("fork", 1000, marks=pytest.mark.crash),
    ],
)
def test_killed_workers_of_a_joinable_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kills: int
) -> None:
    monkeypatch.setenv("KILLS", str(kills))
    said = run(tmp_path, method, JOINABLE)
    assert said[1]["all"]
    assert 0 <= said[1]["more"] <= kills  # done, and killed before it could say so
    assert said[1]["left"] == 0


@pytest.mark.parametrize("kills", [30, pytest.param(1000, marks=pytest.mark.crash)])
def test_killed_consumers_of_a_plain_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    monkeypatch.setenv("KILLS", str(kills))
    said = run(tmp_path, "fork", PLAIN)
    assert said[1] == {"twice": 0, "lost": True, "left": 0}
