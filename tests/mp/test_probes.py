"""What `multiprocessing.Queue` loses, hangs on or gets wrong: the rows of docs/multiprocessing.md.

Each probe is a program of its own, run under every start method; it must end by itself, and leave
nothing. `[stdlib]` is what the same program does with the standard library's queue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tree import METHODS, run

pytestmark = pytest.mark.parametrize("method", METHODS)

MAIN = """
if __name__ == "__main__":
    q = queues.{kind}()
    say(home=home().name, pids=helpers())
    result = probe(q)
    say(result=result)
"""


def result_of(folder: Path, method: str, source: str, kind: str = "Queue") -> Any:
    return run(folder, method, source + MAIN.format(kind=kind))[-1]["result"]


def test_killed_consumer(tmp_path: Path, method: str) -> None:
    """A child killed in get() holds up nobody. [stdlib: Empty for ever, while qsize() is 1]"""
    source = """
def child(q, ready):
    ready.set()
    q.get()

def probe(q):
    ready = context.Event()
    p = context.Process(target=child, args=(q, ready))
    p.start()
    ready.wait()
    until(lambda: open(f"/proc/{p.pid}/stat").read().rpartition(")")[2].split()[0] == "S")
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    q.put(1)
    return q.get(timeout=10)
"""
    assert result_of(tmp_path, method, source) == 1


def test_killed_producer(tmp_path: Path, method: str) -> None:
    """A child killed in put() of 64 MiB leaves all of it or nothing. [stdlib: get(timeout=1) hangs]"""
    source = """
import queue
def child(q):
    while True:
        q.put(b"x" * (64 << 20))

def probe(q):
    p = context.Process(target=child, args=(q,))
    p.start()
    until(lambda: not q.empty())
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    sizes = set()
    try:
        while True:
            sizes.add(len(q.get(timeout=0.5)))
    except queue.Empty:
        return [sorted(sizes), q.qsize(), q.empty()]
"""
    assert result_of(tmp_path, method, source) == [[64 << 20], 0, True]


def test_join_before_drain(tmp_path: Path, method: str) -> None:
    """A child that has put 64 MiB can be joined before anybody gets it. [stdlib: join() hangs]"""
    source = """
def child(q):
    q.put(b"x" * (64 << 20))

def probe(q):
    p = context.Process(target=child, args=(q,))
    p.start()
    p.join()
    return [p.exitcode, len(q.get(timeout=10))]
"""
    assert result_of(tmp_path, method, source) == [0, 64 << 20]


def test_jq_pickle_error(tmp_path: Path, method: str) -> None:
    """An item that cannot be pickled raises, and is not counted. [stdlib: join() hangs]"""
    source = """
def probe(q):
    try:
        q.put(lambda: None)
    except Exception as error:
        said = type(error).__name__
    q.join()
    return [said, q.qsize()]
"""
    name, size = result_of(tmp_path, method, source, "JoinableQueue")
    assert name in ("PicklingError", "AttributeError")
    assert size == 0


def test_mutate(tmp_path: Path, method: str) -> None:
    """An object changed after put() arrives as it was. [stdlib: changed, in 300 of 300 puts]"""
    source = """
def probe(q):
    seen = 0
    for _ in range(300):
        item = [0]
        q.put(item)
        item[0] = 1
        seen += q.get()[0]
    return seen
"""
    assert result_of(tmp_path, method, source) == 0


def test_inline_exit(tmp_path: Path, method: str) -> None:
    """What was put before os._exit arrives. [stdlib: 0 to 19 of 1,000]"""
    source = """
def child(q):
    for i in range(1000):
        q.put(i)
    os._exit(0)

def probe(q):
    p = context.Process(target=child, args=(q,))
    p.start()
    p.join()
    return [q.qsize(), [q.get(timeout=10) for _ in range(1000)] == list(range(1000))]
"""
    assert result_of(tmp_path, method, source) == [1000, True]


def test_q_in_q(tmp_path: Path, method: str) -> None:
    """A queue goes through a queue. [stdlib: it is lost, and get() raises Empty]"""
    source = """
def child(q):
    answers = q.get()
    answers.put("here")

def probe(q):
    p = context.Process(target=child, args=(q,))
    p.start()
    answers = queues.Queue()
    q.put(answers)
    found = answers.get(timeout=10)
    p.join()
    return found
"""
    assert result_of(tmp_path, method, source) == "here"


def test_conn_in_q(tmp_path: Path, method: str) -> None:
    """An end of a Pipe goes through a queue. [stdlib: works]"""
    source = """
def child(q):
    q.get().send("through")

def probe(q):
    p = context.Process(target=child, args=(q,))
    p.start()
    mine, theirs = context.Pipe()
    q.put(theirs)
    found = mine.poll(10) and mine.recv()
    p.join()
    return found
"""
    assert result_of(tmp_path, method, source) == "through"


def test_fork_closed(tmp_path: Path, method: str) -> None:
    """A queue that its creator has closed is open in a child. [stdlib: works]"""
    source = """
def child(q):
    q.put("open")

def probe(q):
    p = context.Process(target=child, args=(q,))
    q.close()
    p.start()
    p.join()
    try:
        q.get()
    except ValueError:
        pass
    else:
        return "not closed here"
    q._closed = False
    return q.get(timeout=10)
"""
    assert result_of(tmp_path, method, source) == "open"
