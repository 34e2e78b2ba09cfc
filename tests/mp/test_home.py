"""The process tree's own broker: one for all relatives, and nothing left after the last of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tree import METHODS, run

by_method = pytest.mark.parametrize("method", METHODS)

HANDLE = """
from shmq.home import parcel, unpack

class Handle:
    '''As queues are: it finds the broker of the process that sent it.'''
    def __init__(self):
        self.client = home()._client
    def __getstate__(self):
        return parcel(self.client)
    def __setstate__(self, state):
        self.client = unpack(state)
    @property
    def name(self):
        return self.client.name
"""


@by_method
def test_children_find_the_home_of_their_parent(tmp_path: Path, method: str) -> None:
    said = run(
        tmp_path,
        method,
        HANDLE
        + """
def child(handle):
    say(home=home().name, given=handle.name)

if __name__ == "__main__":
    if method == "forkserver":  # started before there is a broker: it cannot know the name
        context.Process(target=os.getpid).start()
    handle = Handle()
    say(home=handle.name, pids=helpers())
    worker = context.Process(target=child, args=(handle,))
    worker.start()
    worker.join()
""",
    )
    assert said[1] == {"home": said[0]["home"], "given": said[0]["home"]}


@by_method
def test_a_child_that_has_used_nothing_yet_keeps_the_broker(tmp_path: Path, method: str) -> None:
    """Its parent is killed between giving it a handle and its first use of it."""
    said = run(
        tmp_path,
        method,
        HANDLE
        + """
def child(handle, pipe):
    name = pipe.recv()
    until(lambda: all(owner.pid == os.getpid() for owner in living(name) if owner.role == "client"))
    say(home=handle.name, queues=home().list_queues())
    pipe.send(None)

if __name__ == "__main__":
    mine, theirs = context.Pipe()
    if os.fork() == 0:
        handle = Handle()
        home().create_queue("kept")
        say(home=handle.name, pids=helpers())
        context.Process(target=child, args=(handle, theirs)).start()
        mine.send(home().name)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    mine.recv()
""",
    )
    assert said[1] == {"home": said[0]["home"], "queues": ["kept"]}


def test_a_killed_supervisor_is_replaced_and_still_ends_with_the_last(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        "fork",
        """
if __name__ == "__main__":
    broker = home()
    first = helpers()
    os.kill(first[0], signal.SIGKILL)
    broker.start()
    say(home=broker.name, pids=first + helpers())
    child = os.fork()
    if child == 0:
        until(lambda: all(o.pid == os.getpid() for o in living(broker.name) if o.role == "client"))
        say(queues=broker.list_queues())
        os._exit(0)
    broker._client.detach()
    os.waitpid(child, 0)
""",
    )
    assert said[1] == {"queues": []}


def test_everybody_killed_leaves_nothing(tmp_path: Path) -> None:
    run(
        tmp_path,
        "fork",
        """
if __name__ == "__main__":
    say(home=home().name, pids=helpers())
    children = [context.Process(target=time.sleep, args=(60,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
""",
    )
