"""What shmq costs and how it recovers: depth, memory, idle processes, start, and a killed consumer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tools.bench.messages import CYCLE_64B, number_of, numbered
from tools.bench.processes import CONSUMER_CORE, PRODUCER_CORE, Child
from tools.bench.workloads import Figure, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILL = 1000
_LAPS = 5
_HELD = 1000


def _fill(queue: Any, count: int, size: int = 64) -> None:
    for first in range(0, count, _FILL):
        queue.publish_many(
            [numbered(size, seq) for seq in range(first, min(first + _FILL, count))], timeout=60
        )


def _used(broker: Any) -> int:
    """Return the bytes of shared memory in use, whatever the field is called."""
    stats = broker.stats()
    for name in ("shm_used", "shared_memory_used", "memory_used", "used_bytes", "shm_used_bytes"):
        if hasattr(stats, name):
            return int(getattr(stats, name))
    names = [name for name in dir(stats) if "used" in name]
    if not names:
        text = f"BrokerStats has no field for shared memory used: {dir(stats)}"
        raise AttributeError(text)
    return int(getattr(stats, names[0]))


def _broker(params: dict[str, Any], tag: str = "") -> Any:
    import shmq

    broker = shmq.Broker(tag or params["tag"])
    stats = broker.stats()
    params["note_pids"]([pid for pid in (stats.supervisor_pid, stats.sidecar_pid) if pid])
    return broker


def run_depth(params: dict[str, Any]) -> dict[str, float]:
    """Publish and take one message at a time in one process, with `depth` messages in the queue."""
    os.sched_setaffinity(0, {PRODUCER_CORE})
    before = params["depth"] - 1
    numbers = [numbered(64, seq) for seq in range(CYCLE_64B)]
    start = before % CYCLE_64B
    puts = (numbers[start:] + numbers[:start]) * _LAPS
    wants = numbers * _LAPS
    with _broker(params) as broker:
        queue = broker.create_queue("deep", max_depth=before + 1024)
        for first in range(0, before, CYCLE_64B):
            queue.publish_many(numbers[: before - first], timeout=60)
        blocks = []
        with queue.subscribe(ack="none") as consumer:
            publish, get = queue.publish, consumer.get
            for _ in range(9):
                begin = perf_counter_ns()
                for message, want in zip(puts, wants, strict=False):
                    publish(message)
                    item = get().payload
                    if item != want:
                        text = f"found {number_of(item)}, expected {number_of(want)}"
                        raise ValueError(text)
                blocks.append((perf_counter_ns() - begin) / len(puts))
        broker.delete_queue("deep")
        return {"pair": sorted(blocks)[len(blocks) // 2]}


def run_memory(params: dict[str, Any]) -> dict[str, float]:
    """Return the shared memory in use per message queued."""
    with _broker(params) as broker:
        queue = broker.create_queue("full", max_depth=params["count"])
        before = _used(broker)
        _fill(queue, params["count"])
        after = _used(broker)
    return {"per_message": (after - before) / params["count"], "empty": before}


def _delay(broker: Any, count: int) -> Any:
    """Queue messages that are due one by one over an hour which begins after the measurement."""
    import shmq

    queue = broker.create_queue("delayed", max_depth=count)
    for first in range(0, count, _FILL):
        queue.publish_many(
            [
                shmq.Message(numbered(64, seq), delay=300 + 3600 * seq / count)
                for seq in range(first, min(first + _FILL, count))
            ],
            timeout=60,
        )
    return queue


def _processor_time(process: Any) -> float:
    # schedstat counts ns; cpu_times() only ticks of 10 ms.
    total = 0
    for task in process.threads():
        with open(f"/proc/{process.pid}/task/{task.id}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def _until_calm(process: Any) -> None:
    """Wait until the process has done what there was to do; at most 30 s, then it counts as idle all the same."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        begin = _processor_time(process)
        time.sleep(0.5)
        if _processor_time(process) - begin < 0.5 * 0.05:
            return


def run_idle(params: dict[str, Any]) -> dict[str, float]:
    """Return memory and processor time of supervisor and sidecar when nothing is due."""
    import psutil

    count = params["delays"]
    with _broker(params) as broker:
        queue = _delay(broker, count) if count else None
        stats = broker.stats()
        supervisor, sidecar = map(psutil.Process, (stats.supervisor_pid, stats.sidecar_pid))
        _until_calm(sidecar)
        time.sleep(1)
        begin_supervisor, begin_sidecar = map(_processor_time, (supervisor, sidecar))
        begin = time.monotonic()
        time.sleep(params["seconds"])
        end_supervisor, end_sidecar = map(_processor_time, (supervisor, sidecar))
        elapsed = time.monotonic() - begin
        rss = sum(process.memory_info().rss for process in (supervisor, sidecar))
        own = sum(process.memory_full_info().uss for process in (supervisor, sidecar))
        if queue is not None and queue.stats().delayed != count:
            text = f"{queue.stats().delayed} messages are delayed, expected {count}"
            raise ValueError(text)
    by_sidecar = end_sidecar - begin_sidecar
    both = end_supervisor - begin_supervisor + by_sidecar
    return {"rss": rss, "uss": own, "cpu": both / elapsed, "sidecar": by_sidecar / elapsed}


def run_start(params: dict[str, Any]) -> dict[str, float]:
    """Time Broker(), to the first message through it, and shutdown."""
    import shmq

    ready, first, gone = [], [], []
    for i in range(5):
        begin = perf_counter_ns()
        broker = shmq.Broker(f"{params['tag']}-{i}")
        ready.append(perf_counter_ns() - begin)
        queue = broker.create_queue("q")
        queue.publish(b"first")
        with queue.subscribe(ack="none") as consumer:
            consumer.get(timeout=5)
        first.append(perf_counter_ns() - begin)
        begin = perf_counter_ns()
        broker.shutdown(timeout=5)
        gone.append(perf_counter_ns() - begin)
    middle = len(ready) // 2
    return {
        "ready": sorted(ready)[middle],
        "first": sorted(first)[middle],
        "gone": sorted(gone)[middle],
    }


_FIRST_QUEUE = """
import sys, time
begin = time.perf_counter_ns()
import shmq.mp
first = shmq.mp.Queue()
ready = time.perf_counter_ns()
more = [shmq.mp.Queue() for _ in range(50)]
print(ready - begin, (time.perf_counter_ns() - ready) // 50)
"""


def run_first_queue(params: dict[str, Any]) -> dict[str, float]:
    """Time a program's first shmq.mp.Queue, imports included, and its further ones."""
    environment = {key: value for key, value in os.environ.items() if key != "SHMQ_HOME"}
    pairs = []
    for _ in range(5):
        said = subprocess.run(
            [sys.executable, "-c", _FIRST_QUEUE],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        pairs.append([int(word) for word in said.stdout.split()])
    first, following = (sorted(column) for column in zip(*pairs, strict=True))
    return {"first": first[len(first) // 2], "next": following[len(following) // 2]}


def _victim(tag: str) -> Iterator[Any]:
    import shmq

    queue = shmq.connect(tag).get_queue("work")
    consumer = queue.subscribe("victim", ack="manual")
    held: list[Any] = []
    while len(held) < _HELD:
        held += consumer.get_many(_HELD - len(held), timeout=30)
    yield os.getpid()


def run_recovery(params: dict[str, Any]) -> dict[str, float]:
    """Kill a consumer that holds 1,000 deliveries; time until the last of them is delivered to another."""
    times = []
    with _broker(params) as broker:
        arena = broker.create_queue("arena", max_depth=params["arena"])
        _fill(arena, params["arena"])
        work = broker.create_queue("work", max_depth=4 * _HELD, max_retries=1000)
        survivor = work.subscribe("survivor", ack="manual")
        os.sched_setaffinity(0, {PRODUCER_CORE})
        for _ in range(params["trials"]):
            _fill(work, _HELD)
            victim = Child(_victim, params["tag"], core=CONSUMER_CORE)
            pid = victim.wait()
            seen: set[int] = set()
            begin = perf_counter_ns()
            os.kill(pid, signal.SIGKILL)
            while len(seen) < _HELD:
                delivery = survivor.get(timeout=30)
                seen.add(number_of(delivery.payload))
                delivery.ack()
            times.append(perf_counter_ns() - begin)
            victim.process.join()
        survivor.close()
    ordered = sorted(times)
    return {
        "median": ordered[len(ordered) // 2],
        "best": ordered[0],
        "worst": ordered[-1],
        "n": len(ordered),
    }


def _ms(key: str, title: str) -> Figure:
    return Figure(key, title, "ms", 1e-6, 1, higher_is_better=False)


WORKLOADS = (
    Workload(
        "depth",
        "Depth",
        "The queue is filled to the depth; then messages are published and taken one at a time in one process "
        'pinned to one core, `ack="none"`: median of blocks of 20,000 pairs.',
        (Figure("pair", "publish + get", "ns", 1, 0, higher_is_better=False),),
        run_depth,
        params=tuple(
            {"depth": depth, "label": f"depth {depth:,}"} for depth in (1, 1000, 100_000, 1_000_000)
        ),
        calibrate=False,
        near=False,
    ),
    Workload(
        "memory",
        "Shared memory per queued 64 B message",
        "`broker.stats()` before and after queueing.",
        (
            Figure("per_message", "per message", "B", 1, 1, higher_is_better=False),
            Figure("empty", "empty broker", "KiB", 1 / 1024, 0, higher_is_better=False),
        ),
        run_memory,
        params=tuple({"count": n, "label": f"{n:,} messages"} for n in (100_000, 1_000_000)),
        calibrate=False,
        near=False,
        ratio=False,
    ),
    Workload(
        "idle",
        "Supervisor and sidecar, idle",
        "Sum of both processes: resident memory, memory of their own (USS), and processor time from schedstat; beside it that of "
        "the sidecar alone. With delays: so many messages wait in a queue, due one by one in an hour that begins after the "
        "measurement; it starts when the sidecar has taken note of them.",
        (
            Figure("rss", "RSS", "MB", 1e-6, 1, higher_is_better=False),
            Figure("uss", "USS", "MB", 1e-6, 1, higher_is_better=False),
            Figure("cpu", "of a core", "%", 100, 3, higher_is_better=False),
            Figure("sidecar", "sidecar, of a core", "%", 100, 3, higher_is_better=False),
        ),
        run_idle,
        params=(
            {"seconds": 10, "delays": 0, "label": "supervisor + sidecar"},
            {"seconds": 10, "delays": 100_000, "label": "with 100,000 pending delays"},
        ),
        calibrate=False,
        near=False,
        ratio=False,
    ),
    Workload(
        "first-queue",
        "A program's first shmq.mp.Queue",
        "From before `import shmq.mp` until `Queue()` returns, in a fresh interpreter; then 50 further ones.",
        (
            Figure("first", "first", "ms", 1e-6, 1, higher_is_better=False),
            Figure("next", "each further one", "ms", 1e-6, 2, higher_is_better=False),
        ),
        run_first_queue,
        params=({"label": "queues"},),
        calibrate=False,
        near=False,
        ratio=False,
    ),
    Workload(
        "start",
        "Start and stop",
        "`Broker(name)` until it returns; until a first message has gone through a first queue; `shutdown()`.",
        (
            _ms("ready", "Broker()"),
            _ms("first", "first message"),
            _ms("gone", "shutdown()"),
        ),
        run_start,
        params=({"label": "broker"},),
        calibrate=False,
        near=False,
        ratio=False,
    ),
    Workload(
        "recovery",
        "A consumer killed while it holds 1,000 deliveries",
        "From SIGKILL to the moment another, waiting consumer has received and acknowledged the last of the 1,000, with "
        "1,000,000 messages lying in another queue of the same broker.",
        (
            _ms("median", "median"),
            _ms("best", "best"),
            _ms("worst", "worst"),
        ),
        run_recovery,
        params=({"arena": 1_000_000, "trials": 20, "label": "arena of 1,000,000"},),
        calibrate=False,
        near=False,
        ratio=False,
    ),
)
