"""Queue, SimpleQueue and JoinableQueue in one process: interface, edge cases, objects."""

from __future__ import annotations

import math
import os
import pickle
import queue as stdlib
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from multiprocessing.connection import wait as connection_wait
from pathlib import Path
from typing import Any, get_origin

import pytest
from waiting import wait_until

import shmq.mp
from shmq.errors import MessageTooLarge, QueueClosed, ShmqError
from shmq.home import home
from shmq.mp import JoinableQueue, Queue, ShutDown, SimpleQueue, pickling


class Point(tuple[int, ...]):  # noqa: SLOT001 - a plain subclass is what is meant
    """A tuple of its own type."""


class Unwilling:
    def __reduce__(self) -> Any:
        raise AttributeError("no")


class Interrupting:
    """Raises KeyboardInterrupt when it is unpickled for the first time."""

    left = 1

    def __reduce__(self) -> Any:
        return _interrupt, ()


def _interrupt() -> str:
    if Interrupting.left:
        Interrupting.left -= 1
        raise KeyboardInterrupt
    return "second time"


# ---- objects ------------------------------------------------------------------------------------

OBJECTS: list[Any] = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, 10**40, 0.0, -0.0, 1.5, math.inf, 1e-320,
    "", "ascii", "ümläut", "\U0001f600" * 50, "a" * 254, "a" * 255, "a" * 5000, "\ud800",
    b"", b"x", b"y" * 4096, b"z" * 300_000,
    (), (1,), (1, ("a", (None,))), [], [1, [2, [3]]], {}, {"a": 1, 2: [3], (4, 5): {"b": None}},
    {1, 2}, frozenset("ab"), bytearray(b"abc"), range(5), 1j, OrderedDict(a=1), Point((1, 2)),
    tuple(range(300)), {i: str(i) for i in range(400)}, [[[[[[[[[[[[[[1]]]]]]]]]]]]]],
    ValueError("text"), type, len,
]  # fmt: skip


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: f"{type(obj).__name__}-{str(obj)[:12]!a}")
def test_what_goes_in_comes_out(obj: Any) -> None:
    q = Queue()
    for put in (q.put, lambda obj: q.put_many([obj])):
        put(obj)
        found = q.get(timeout=5)
        assert type(found) is type(obj)
        if isinstance(obj, ValueError):
            assert found.args == obj.args
        elif isinstance(obj, float):
            assert math.copysign(1, found) == math.copysign(1, obj)
            assert found == obj
        else:
            assert found == obj


def test_nan_and_dict_order() -> None:
    q = Queue()
    q.put(math.nan)
    assert math.isnan(q.get())
    q.put({"b": 1, "a": 2})
    assert list(q.get()) == ["b", "a"]


def test_a_container_that_is_there_twice_is_there_twice() -> None:
    q = Queue()
    inner: list[int] = []
    outer: list[Any] = [inner, inner]
    q.put(outer)
    a, b = q.get()
    assert a is b
    pair = (inner,)
    q.put([pair, pair])
    a, b = q.get()
    assert a[0] is b[0]
    outer.append(outer)
    q.put(outer)
    found = q.get()
    assert found[2] is found


def test_the_item_is_what_it_was_at_put() -> None:
    q = Queue()
    item = bytearray(b"x" * 10_000)
    q.put(item)
    item[:] = b"y" * 10_000
    assert q.get() == b"x" * 10_000


def test_both_bindings_read_what_either_writes() -> None:
    """The accelerator's short form is read by shmq/mp/compact.py."""
    source = """
import sys, pickle
import shmq.mp
q, back = pickle.loads(bytes.fromhex(sys.argv[1]))
while True:
    item = q.get(timeout=20)
    back.put(item)
    if item == "the end": break
"""
    q, back = Queue(), Queue()
    environment = {**os.environ, "SHMQ_NO_ACCEL": "1"}
    objects = [obj for obj in OBJECTS if not isinstance(obj, (Point, ValueError))]
    q.put_many(objects)
    q.put("the end")
    handles = pickle.dumps((q, back)).hex()
    subprocess.run([sys.executable, "-c", source, handles], env=environment, check=True, timeout=60)
    assert [back.get(timeout=5) for _ in objects] == objects


@pytest.mark.skipif(os.environ.get("SHMQ_NO_ACCEL") == "1", reason="this is that run")
def test_the_same_over_cffi() -> None:
    environment = {**os.environ, "SHMQ_NO_ACCEL": "1"}
    environment.pop("SHMQ_HOME", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", __file__],
        env=environment, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


# ---- errors of items ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Queue, JoinableQueue, SimpleQueue])
def test_an_item_that_cannot_be_pickled_raises_and_is_nowhere(kind: Any) -> None:
    q = kind()
    with pytest.raises(AttributeError, match="no"):
        q.put(Unwilling())
    assert q.qsize() == 0


def test_the_hook_decides_about_an_unpicklable_item(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    class Lenient(Queue):
        def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:
            seen.append((type(e), type(obj)))

    q = Lenient()
    q.put(Unwilling())
    q.put(1)
    assert (q.get(), seen) == (1, [(AttributeError, Unwilling)])
    # As multiprocessing makes them: with a context, it reports and goes on.
    reporting = Queue(ctx=shmq.mp.get_context())
    reporting.put(Unwilling())
    assert "AttributeError: no" in capsys.readouterr().err
    assert reporting.qsize() == 0


def test_put_many_puts_what_comes_before_the_bad_one() -> None:
    q = Queue()
    with pytest.raises(AttributeError):
        q.put_many([1, 2, Unwilling(), 3])
    assert q.get_many(10) == [1, 2]


def test_an_interrupted_get_loses_nothing() -> None:
    q = Queue()
    Interrupting.left = 1
    q.put(Interrupting())
    q.put("after")
    with pytest.raises(KeyboardInterrupt):
        q.get()
    assert q.qsize() == 2
    assert [q.get(timeout=5), q.get(timeout=5)] == ["second time", "after"]


def test_an_item_that_cannot_be_unpickled_raises_once() -> None:
    q = Queue()
    q.put("x")
    item = pickling.Item(pickling._PICKLE, (b"no pickle",), 9)
    assert q._send_parts(*item) == 0
    q.put("y")
    assert q.get() == "x"
    with pytest.raises(pickle.UnpicklingError):
        q.get()
    assert q.get() == "y"


# ---- the interface of multiprocessing.Queue -----------------------------------------------------


def test_maxsize() -> None:
    for unlimited in (0, -1, -5.5):
        assert not Queue(unlimited).full()  # type: ignore[arg-type]
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError):
            Queue(wrong)  # type: ignore[arg-type]
    q = Queue(2)
    q.put(1)
    assert not q.full()
    q.put(2)
    assert q.full()
    assert q.qsize() == 2
    with pytest.raises(stdlib.Full, match="maxsize"):
        q.put_nowait(3)


@pytest.mark.parametrize(
    "arguments", [(False,), (False, None), (True, 0), (True, -1), (True, 0.01)]
)
def test_no_room_and_no_item_in_time(arguments: tuple[Any, ...]) -> None:
    q = Queue(1)
    with pytest.raises(stdlib.Empty):
        q.get(*arguments)
    q.put("x", True, None)
    for obj in ("y", b"bytes", {1, 2}):
        with pytest.raises(stdlib.Full):
            q.put(obj, *arguments)
    assert q.get(True, None) == "x"


def test_timeouts_are_total_and_by_keyword_too() -> None:
    q = Queue(1)
    start = time.monotonic()
    with pytest.raises(stdlib.Empty):
        q.get(timeout=0.1)
    with pytest.raises(stdlib.Empty):
        q.get(block=True, timeout=0.1)
    assert 0.2 <= time.monotonic() - start < 5
    with pytest.raises(TypeError):
        q.get(timeout="1")  # type: ignore[arg-type]
    q.put(1, timeout=0.1)
    with pytest.raises(TypeError):
        q.get(wrong=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        q.put(1, True, None, None)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        q.put()  # type: ignore[call-arg]
    assert q.get(timeout=5) == 1


def test_a_waiting_get_and_put_are_woken() -> None:
    q = Queue(1)
    found: list[Any] = []
    getter = threading.Thread(target=lambda: found.append(q.get(timeout=10)))
    getter.start()
    q.put("x")
    getter.join(10)
    assert found == ["x"]
    q.put(1)
    putter = threading.Thread(target=lambda: q.put(2, timeout=10))
    putter.start()
    assert q.get() == 1
    putter.join(10)
    assert q.get(timeout=5) == 2


def test_closing() -> None:
    q = Queue()
    with pytest.raises(AssertionError):
        q.join_thread()
    q.cancel_join_thread()
    q.put(1)
    q.close()
    q.close()
    q.join_thread()
    for call in (lambda: q.put(2), q.get, q.get_nowait, lambda: q.put_nowait(b"x"),
                 lambda: q.put_many([1]), lambda: q.get_many(1)):  # fmt: skip
        with pytest.raises(ValueError, match="is closed"):
            call()
    with pytest.raises(OSError, match="is closed"):
        q.empty()
    assert q.qsize() == 1
    assert not q.full()
    unused = Queue()
    unused.close()
    assert unused.empty()


def test_simple_queue() -> None:
    q = SimpleQueue()
    assert q.empty()
    q.put({"a": b"x"})
    assert not q.empty()
    assert q.get() == {"a": b"x"}
    assert (q._reader.closed, q._writer.closed) == (False, False)
    q.close()
    q.close()
    assert (q._reader.closed, q._writer.closed) == (True, True)
    with pytest.raises(OSError, match="is closed"):
        q.empty()
    with pytest.raises(OSError, match="is closed"):
        q.put(1)


def test_what_a_simple_queues_reader_has_seen_under_its_lock_is_his() -> None:
    """Pool, terminated while its workers take tasks, does that; it would wait for ever."""
    q = SimpleQueue()
    q.put("a")
    q.put("b")
    other = pickle.loads(pickle.dumps(q))
    with q._rlock:
        assert q._reader.poll()
        assert q._reader.poll()
        assert other.get() == "b"
        assert q._reader.recv() == "a"
        assert not q._reader.poll()
    q.put("c")
    with q._rlock:
        assert q._reader.poll()
        assert other.empty()
    assert other.get() == "c"  # seen, not received


def test_what_it_is_and_is_not() -> None:
    q = Queue()
    assert bool(q)
    assert not isinstance(q, stdlib.Queue)
    assert not hasattr(q, "__len__")
    assert not hasattr(q, "__iter__")
    assert get_origin(Queue[int]) is Queue
    assert get_origin(JoinableQueue[str]) is JoinableQueue
    assert issubclass(JoinableQueue, Queue)
    q.put_many([1, 2, None])
    assert list(iter(q.get, None)) == [1, 2]


def test_as_multiprocessing() -> None:
    import shmq.mp as multiprocessing

    assert multiprocessing.Process is not None
    assert multiprocessing.cpu_count() > 0
    for method in (None, "fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        assert isinstance(context.Queue(3), Queue)
        assert isinstance(context.JoinableQueue(), JoinableQueue)
        assert isinstance(context.SimpleQueue(), SimpleQueue)
        assert context.Event() is not None
    with pytest.raises(AttributeError):
        multiprocessing.nothing  # noqa: B018
    from shmq.mp.queues import Empty, Full

    assert (Empty, Full) == (stdlib.Empty, stdlib.Full)


# ---- extras -------------------------------------------------------------------------------------


def test_many() -> None:
    q = Queue()
    objects = [i if i % 7 else {i} for i in range(2000)]
    assert q.put_many(iter(objects)) == 2000
    assert q.qsize() == 2000
    found = q.get_many(10)
    assert found == objects[:10]
    found += q.get_many(5000, timeout=1)
    assert found == objects
    assert q.put_many([]) == 0
    with pytest.raises(stdlib.Empty):
        q.get_many(1, timeout=0)
    with pytest.raises(ValueError, match="max_n"):
        q.get_many(0)
    small = Queue(5)
    with pytest.raises(stdlib.Full, match="after 5 items"):
        small.put_many(range(10), timeout=0.05)
    assert small.get_many(10) == list(range(5))


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
def test_shutdown(kind: Any) -> None:
    q = kind()
    q.put(1)
    q.put(2)
    q.shutdown()
    with pytest.raises(ShutDown):
        q.put(3)
    with pytest.raises(ShutDown):
        q.put({1})
    with pytest.raises(ShutDown):
        q.put_many([3])
    assert [q.get(), q.get()] == [1, 2]
    with pytest.raises(ShutDown):
        q.get()
    with pytest.raises(ShutDown):
        q.get_nowait()
    with pytest.raises(ShutDown):
        q.get_many(3)
    assert issubclass(ShutDown, QueueClosed)
    if hasattr(stdlib, "ShutDown"):
        assert issubclass(ShutDown, stdlib.ShutDown)


def test_shutdown_at_once_and_of_those_who_wait() -> None:
    q = Queue()
    q.put_many(range(10))
    q.shutdown(immediate=True)
    with pytest.raises(ShutDown):
        q.get()
    waiting = Queue()
    ended: list[type] = []

    def wait() -> None:
        try:
            waiting.get()
        except ShutDown as end:
            ended.append(type(end))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.shutdown()
    thread.join(10)
    assert ended == [ShutDown]


def test_a_descriptor_for_select() -> None:
    q = Queue()
    threads = threading.active_count()
    assert q.fileno() == q.fileno()
    assert threading.active_count() == threads + 1
    assert not select.select([q], [], [], 0)[0]
    q.put_many([1, 2])
    ready: list[object] = list(connection_wait([q], timeout=10))  # type: ignore[list-item]
    assert ready == [q]
    assert q.get() == 1
    assert select.select([q], [], [], 0)[0]  # there is one more
    assert q.get() == 2
    assert not select.select([q], [], [], 0)[0]
    threading.Timer(0.05, lambda: q.put(3)).start()
    assert select.select([q], [], [], 10)[0] == [q]
    assert q.get_nowait() == 3
    # Taken elsewhere: it falls silent by itself.
    other = pickle.loads(pickle.dumps(q))
    other.put(4)
    assert select.select([q], [], [], 10)[0] == [q]
    assert other.get() == 4
    wait_until(lambda: not select.select([q], [], [], 0)[0], "silence")


def test_a_descriptor_ends_with_its_queue() -> None:
    q = Queue()
    fd = q.fileno()
    del q
    wait_until(lambda: not os.path.exists(f"/proc/self/fd/{fd}"), "the end of the descriptor")


def test_a_descriptor_says_that_the_queue_was_shut_down() -> None:
    q = Queue()
    fd = q.fileno()
    q.shutdown()
    assert select.select([fd], [], [], 10)[0]
    with pytest.raises(ShutDown):
        q.get()


def test_descriptors_and_threads_do_not_grow_with_messages() -> None:
    q = Queue()
    q.put(b"x")
    q.get()
    threads, fds = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for i in range(3000):
        q.put({"i": i, "s": {i}})
        q.get()
    more = [Queue() for _ in range(50)]
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == fds
    del more


# ---- handles ------------------------------------------------------------------------------------


def queues_now() -> set[str]:
    return set(home().list_queues())


def test_a_dropped_queue_gives_its_memory_back() -> None:
    q = Queue()
    name = q._name
    q.put_many(b"x" * 1000 for _ in range(100))
    assert name in queues_now()
    twin = pickle.loads(pickle.dumps(q))
    del q
    assert twin.get() == b"x" * 1000
    assert name in queues_now()
    twin.get_many(1000)  # its handle has been in a pickle: only an empty one may go
    del twin
    wait_until(lambda: name not in queues_now(), "the end of the queue")
    plain = Queue()
    name = plain._name
    plain.put(b"y" * 1000)
    del plain
    wait_until(lambda: name not in queues_now(), "the end of the queue")


def test_a_handle_in_a_message_keeps_what_is_in_the_queue() -> None:
    carrier, inner = Queue(), Queue(7)
    name = inner._name
    inner.put("inside")
    carrier.put(inner)
    del inner
    empty = Queue(3)
    empty_name = empty._name
    carrier.put(empty)
    del empty
    wait_until(lambda: empty_name not in queues_now(), "the end of the empty one")
    assert name in queues_now()
    found = carrier.get()
    assert (found.get(timeout=5), found._maxsize) == ("inside", 7)
    again = carrier.get()  # made anew, as it was
    again.put_many([1, 2, 3])
    assert again.full()


def test_more_queues_than_a_broker_has_records_for_one_after_the_other() -> None:
    for i in range(1500):
        q = Queue()
        q.put(i)
        assert q.get() == i


def test_an_unbounded_queue_takes_what_memory_allows() -> None:
    q = Queue()
    # More than the 4,096 that the ring has memory for at first. Each takes 25 us over cffi, where it is the same ring.
    n = 30_000 if os.environ.get("SHMQ_NO_ACCEL") == "1" else 300_000
    q.put_many(range(n))
    assert q.qsize() == n
    found: list[int] = []
    while len(found) < n:
        found += q.get_many(10_000)
    assert found == list(range(n))
    q.put_many(bytes(10_000) for _ in range(10_000))
    used = home().stats().memory_used
    assert used > 100 << 20
    while len(found) < n + 10_000:
        found += q.get_many(10_000)
    # Of each size up to 16 MiB stay: of the sizes that the tests before used, too.
    wait_until(lambda: home().stats().memory_used < used - (64 << 20), "memory given back")


def test_too_large_an_item_says_how_large_it_may_be() -> None:
    numpy = pytest.importorskip("numpy")
    q = Queue()
    sparse = numpy.zeros((1 << 30) + (1 << 20), dtype="u1")
    with pytest.raises(MessageTooLarge, match="above the limit"):
        q.put(sparse)
    assert q.empty()


def test_every_error_is_of_the_family() -> None:
    q = Queue(1)
    q.put(1)
    with pytest.raises(ShmqError):
        q.put(2, False)
    q.get()
    with pytest.raises(ShmqError):
        q.get(False)


def test_nothing_of_the_package_is_heavy() -> None:
    source = "import sys, shmq.mp; print(*sorted(m for m in ('numpy', 'asyncio', 'trio', 'psutil') if m in sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout
    assert "numpy" not in out
    assert "trio" not in out
    assert Path(shmq.mp.__file__).exists()
