"""Arrays through queues: copies that own their memory, views into shared memory, any size."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
from tree import METHODS, run
from waiting import wait_until

from shmq._native import ffi, lib
from shmq.home import home
from shmq.mp import JoinableQueue, Queue

numpy = pytest.importorskip("numpy")


def arrays() -> list[Any]:
    return [
        numpy.arange(10),
        numpy.arange(100_000),
        numpy.zeros((0, 3)),
        numpy.float64(1.5) * numpy.ones((300, 400)),
        numpy.asfortranarray(numpy.arange(120_000.0).reshape(300, 400)),
        numpy.arange(100_000)[::3],
        numpy.arange(120_000).reshape(300, 400)[:, 5:20],
        numpy.arange(100_000, dtype=">i4"),
        numpy.arange(100_000).astype("M8[s]"),
        numpy.array(["text", "é"] * 5000),
        numpy.zeros(5000, dtype=[("a", "i4"), ("b", "f8")]),
        numpy.array([{"a": 1}, None] * 500, dtype=object),
        numpy.array(7),
        numpy.ones(50_000, dtype=bool),
    ]


@pytest.mark.parametrize("index", range(len(arrays())))
def test_arrays_arrive_and_are_their_receivers_own(index: int) -> None:
    array = arrays()[index]
    q = Queue()
    q.put(array)
    found = q.get()
    assert type(found) is numpy.ndarray
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert (found == array).all()
    assert found.flags.writeable
    if array.dtype.kind not in "VO" and array.nbytes >= 4096:
        assert found.flags.owndata
        assert found.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc
    q.put({"a": [array, 1], "b": array})
    found = q.get()
    assert found["b"] is found["a"][0]
    assert (found["b"] == array).all()


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
def test_a_view_is_read_only_and_keeps_its_block_and_nothing_else(kind: Any) -> None:
    q = kind()
    array = numpy.arange(500_000)
    before = live()
    q.put(array)
    view = q.get(copy=False)
    assert not view.flags.writeable
    assert not view.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    if kind is JoinableQueue:
        q.task_done()
        q.join()
    part = view[1000:1010]
    del view
    gc.collect()
    for i in range(50):  # what would be written over it
        q.put(numpy.full(500_000, i))
        q.get()
        if kind is JoinableQueue:
            q.task_done()
    assert (part == range(1000, 1010)).all()
    assert live() > before
    del part
    wait_until(lambda: live() == before, "the end of the block")


def live() -> int:
    """Blocks of this home that are not free."""
    client = home()._client
    info = ffi.new("shmq_audit_report *")
    assert lib.shmq_audit(client.ctx, info) == 0
    return int(sum(info.states) - info.states[lib.SHMQ_FREE])


def test_what_is_no_array_is_no_view() -> None:
    q = Queue()
    for obj in (b"bytes" * 1000, {"a": 1}, "text", {1, 2}):
        q.put(obj)
        assert q.get(copy=False) == obj
    q.put([bytearray(b"x" * 10_000), b"y" * 10_000])
    buffers = q.get(copy=False)
    assert bytes(buffers[0]) == b"x" * 10_000
    q.put(bytearray(b"x" * 10_000))
    found = q.get()
    assert type(found) is bytearray
    found[0] = 0


def test_a_subclass_stays_one() -> None:
    q = Queue()
    matrix = numpy.ones((200, 200)).view(numpy.matrix)
    masked = numpy.ma.masked_array(numpy.arange(5000), mask=numpy.arange(5000) % 2)
    q.put([matrix, masked])
    found = q.get()
    assert type(found[0]) is numpy.matrix
    assert (found[1].mask == masked.mask).all()


def test_a_reducer_of_the_users_own_wins() -> None:
    from multiprocessing.reduction import ForkingPickler

    q = Queue()
    ForkingPickler.register(numpy.ndarray, lambda array: (str, ("registered",)))
    try:
        q.put(numpy.arange(10_000))
        assert q.get() == "registered"
    finally:
        del ForkingPickler._extra_reducers[numpy.ndarray]  # type: ignore[attr-defined]


def test_more_buffers_than_headers_have_room_for() -> None:
    q = Queue()
    array = numpy.arange(300)
    q.put([array + i for i in range(6000)])
    found = q.get()
    assert len(found) == 6000
    assert all(part[0] == i for i, part in enumerate(found))


def test_array_changed_after_put() -> None:
    q = Queue()
    array = numpy.zeros(100_000)
    q.put(array)
    array += 1
    assert q.get().sum() == 0


@pytest.mark.parametrize("method", METHODS)
def test_arrays_between_processes(tmp_path: Path, method: str) -> None:
    """Each side checks what it gets; a killed reader of a view keeps no block."""
    said = run(
        tmp_path,
        method,
        """
import numpy

def child(q, answers):
    for i in range(20):
        view = q.get(copy=False)
        answers.put(view * 2)
    held = q.get(copy=False)
    answers.put("holding")
    time.sleep(60)

if __name__ == "__main__":
    q, answers = queues.Queue(), queues.Queue()
    say(home=home().name, pids=helpers())
    p = context.Process(target=child, args=(q, answers), daemon=True)
    p.start()
    right = 0
    for i in range(20):
        q.put(numpy.full(200_000, i))
        right += bool((answers.get() == 2 * i).all())
    q.put(numpy.ones(4 << 20))
    assert answers.get() == "holding"
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    until(lambda: home().stats().blocks - home().stats().free_blocks < 200)
    until(lambda: home().stats().memory_used < 40 << 20)
    say(right=right)
""",
    )
    assert said[1] == {"right": 20}


@pytest.mark.slow
def test_a_gibibyte(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        "spawn",
        """
import numpy

def child(q, answers):
    array = q.get()
    answers.put((array.nbytes, int(array[-1]), bool(array.flags.owndata)))
    del array
    view = q.get(copy=False)
    answers.put((view.nbytes, int(view[-1])))
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    q, answers = queues.Queue(), queues.Queue()
    say(home=home().name, pids=helpers())
    p = context.Process(target=child, args=(q, answers))
    p.start()
    array = numpy.ones(1 << 30, dtype="u1")
    array[-1] = 7
    q.put(array)
    first = answers.get()
    q.put(array)
    second = answers.get()
    p.join()
    until(lambda: home().stats().memory_used < 40 << 20)
    say(first=first, second=second)
""",
    )
    assert said[1] == {"first": [1 << 30, 7, True], "second": [1 << 30, 7]}


def test_pickles_of_arrays_are_small_beside_their_buffers() -> None:
    from shmq.mp import pickling

    item = pickling.encode(numpy.zeros(1 << 20, dtype="u1"))
    assert len(item.parts) == 2
    assert len(item.parts[1]) < 200
    assert item.size < (1 << 20) + 300
    assert pickle.loads(item.parts[1], buffers=[item.parts[0]]).nbytes == 1 << 20
