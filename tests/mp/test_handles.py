"""A queue lives as long as any process has a handle on it, counted or on its way; and no longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tree import METHODS, run

by_method = pytest.mark.parametrize("method", METHODS)

GONE = """
def gone(name):
    until(lambda: name not in home().list_queues())
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_on_its_way_keeps_a_queue_that_its_parent_has_dropped(
    tmp_path: Path, method: str
) -> None:
    """The child is still getting its arguments, and is no reference yet."""
    said = run(
        tmp_path,
        method,
        GONE
        + """
class Gate:
    '''Holds up whoever unpickles it.'''
    def __init__(self, path):
        self.path = path
    def __setstate__(self, state):
        until(lambda: os.path.exists(state["path"]))

def child(gate, q, result):
    result.send([q.get(timeout=20), q.get(timeout=20)])

if __name__ == "__main__":
    folder = os.path.dirname(os.path.abspath(__file__))
    gate = os.path.join(folder, "gate")
    mine, theirs = context.Pipe()
    q = queues.Queue()
    name = q._name
    q.put_many(["kept", {"too"}])
    say(home=home().name, pids=helpers())
    p = context.Process(target=child, args=(Gate(gate), q, theirs))
    p.start()
    del q
    time.sleep(0.4)  # the supervisor would long have given it up
    kept = name in home().list_queues()
    open(gate, "w").close()
    found = mine.recv()
    p.join()
    gone(name)
    say(kept=kept, found=[found[0], list(found[1])])
""",
    )
    assert said[1] == {"kept": True, "found": ["kept", ["too"]]}


@by_method
def test_items_of_the_dead_stay_while_somebody_has_a_handle(tmp_path: Path, method: str) -> None:
    said = run(
        tmp_path,
        method,
        GONE
        + """
def child(q):
    q.put_many(range(1000))
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    q = queues.Queue()
    say(home=home().name, pids=helpers())
    p = context.Process(target=child, args=(q,))
    p.start()
    p.join()
    name = q._name
    right = [q.get() for _ in range(1000)] == list(range(1000))
    q.put("left behind")
    del q
    gone(name)
    say(right=right)
""",
    )
    assert said[1] == {"right": True}


@by_method
def test_a_killed_process_with_the_last_handle_takes_the_queue_with_it(
    tmp_path: Path, method: str
) -> None:
    run(
        tmp_path,
        method,
        GONE
        + """
def child(pipe):
    q = queues.Queue()
    q.put(b"x" * 1000)
    pipe.send(q._name)
    time.sleep(60)

if __name__ == "__main__":
    keep = queues.Queue()
    say(home=home().name, pids=helpers())
    mine, theirs = context.Pipe()
    p = context.Process(target=child, args=(theirs,))
    p.start()
    name = mine.recv()
    assert name in home().list_queues()
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    gone(name)
    assert home().list_queues() == [keep._name]
""",
    )


def test_a_forked_child_without_a_word_keeps_its_handles(tmp_path: Path) -> None:
    """os.fork, not multiprocessing; the parent drops its handle and is killed."""
    said = run(
        tmp_path,
        "fork",
        """
if __name__ == "__main__":
    read, write = os.pipe()
    if os.fork() == 0:
        q = queues.Queue()
        q.put("for the child")
        say(home=home().name, pids=helpers())
        parent = os.getpid()
        if os.fork() == 0:
            until(lambda: os.getppid() != parent)
            say(found=q.get(timeout=20))
            os.write(write, b"x")
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    os.read(read, 1)
""",
    )
    assert said[1] == {"found": "for the child"}


def test_a_program_may_be_told_to_use_a_broker_of_that_name(
    tmp_path: Path, broker_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import subprocess
    import sys

    import shmq

    source = """
import shmq.mp
q = shmq.mp.Queue()
q.put("here")
from shmq.home import home
print(home().name, q._name in home().list_queues(), q.get())
"""
    with shmq.Broker(broker_name):
        done = subprocess.run(
            [sys.executable, "-c", source],
            env={**os.environ, "SHMQ_HOME": broker_name},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == ([broker_name, "True", "here"], "")


def test_a_forked_child_whose_queue_has_a_damaged_record_comes_out_of_fork(tmp_path: Path) -> None:
    """The record says that the queue is there, and of a generation that no handle has."""
    said = run(
        tmp_path,
        "fork",
        """
from shmq._native import ffi, lib
from shmq._records import index_of

if __name__ == "__main__":
    q = queues.Queue()
    say(home=home().name, pids=helpers())
    client = q._client
    geometry = ffi.new("shmq_geometry *")
    lib.shmq_geometry_of(client.ctx, geometry)
    record = geometry.queues + index_of(q._qref) * ffi.sizeof("shmq_queue")
    was = client.segment.read(record, 8)
    client.segment.write(record, (0xD12E746A00000101).to_bytes(8, "little"))
    child = os.fork()
    if child == 0:
        try:
            q.put("nowhere")
        except Exception as error:
            say(error=type(error).__name__)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    client.segment.write(record, was)
    q.put("still")
    say(status=status, got=q.get(timeout=20))
""",
    )
    assert said[1:] == [{"error": "CorruptSegment"}, {"status": 0, "got": "still"}]
