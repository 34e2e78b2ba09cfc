"""How long one call takes: publishing, and a round trip."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tools.bench import loops
from tools.bench.endpoint import Spec
from tools.bench.messages import cycle, number_of
from tools.bench.peers import Peer, load
from tools.bench.peers.shmq_features import feature_of
from tools.bench.processes import CONSUMER_CORE, PRODUCER_CORE, Child, together
from tools.bench.workloads import Figure, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACE_NS = 5_000
_PAUSE_NS = 200_000


def _clock_cost() -> int:
    """Return what two readings of the clock differ by when nothing is between them (median)."""
    times = []
    for _ in range(20_001):
        begin = perf_counter_ns()
        end = perf_counter_ns()
        times.append(end - begin)
    return sorted(times)[len(times) // 2]


def quantiles(times: list[int], cost: int = 0) -> dict[str, float]:
    """Return p50, p99 and p99.9 in ns, less the clock's own cost."""
    ordered = sorted(times)

    def at(q: float) -> float:
        return max(0, ordered[min(len(ordered) - 1, int(q * len(ordered)))] - cost)

    return {"n": len(times), "p50": at(0.5), "p99": at(0.99), "p999": at(0.999)}


def _publisher(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    endpoint = peer.producer()
    extra = feature_of(peer.spec.variant).extra
    chunks = [
        [(data, extra(number_of(data))) for data in chunk] for chunk in cycle(64, peer.spec.room)
    ]
    loop = loops.compile_loop(loops.with_extra(loops.PRODUCE_TIMED), endpoint)
    yield "open"
    loop(chunks[:1], 1, _PACE_NS)
    yield "warm"
    pace = _PACE_NS if params["watched"] else 0
    times = loop(chunks, params["repeat"], pace)
    yield quantiles(times, _clock_cost())
    endpoint.close()


def _watcher(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    endpoint = peer.consumer()
    chunks = cycle(64, peer.spec.room)
    template = loops.CONSUME_SPINNING if peer.caps.spin else loops.CONSUME
    loop = loops.compile_loop(template, endpoint)
    yield "open"
    loop(chunks[:1], 1)
    yield "warm"
    if not params["watched"]:
        yield "idle"
    loop(chunks, params["repeat"])
    yield "all came"
    endpoint.close()


def run_publish(params: dict[str, Any]) -> dict[str, float]:
    """Time each put: a consumer polls on the other core, or nobody takes anything until all is put."""
    params["repeat"] = max(1, round(params["n"] / 4000))
    spec = Spec(params["tag"], 64, params["room"], variant=params["variant"])
    peer = load(params["peer"])(spec)
    peer.setup()
    params["note_pids"](peer.server_pids())
    try:
        consumer = Child(_watcher, peer, params, core=CONSUMER_CORE)
        consumer.wait()
        producer = Child(_publisher, peer, params, core=PRODUCER_CORE)
        producer.wait()
        together(consumer, producer)
        result: dict[str, float]
        _, result = together(consumer, producer)
        if not params["watched"]:
            together(consumer)
        producer.finish()
        consumer.finish()
    finally:
        peer.teardown()
    return result


def _client(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    consumer = peer.consumer(1)
    yield "receiving"
    producer = peer.producer(0)
    chunks = cycle(64, peer.spec.room)
    receive = consumer.get if peer.spec.blocking else consumer.spin
    loop = loops.compile_loop(loops.PING, producer, consumer, receive=receive)
    pause = _PAUSE_NS if peer.spec.blocking else 0
    yield "open"
    loop(chunks[:1], 1, 0)
    yield "warm"
    count = params["chunks"]
    times = loop(chunks[:count], params["repeat"], pause)
    yield quantiles(times, _clock_cost())
    producer.close()
    consumer.close()


def _server(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    consumer = peer.consumer(0)
    yield "receiving"
    producer = peer.producer(1)
    chunks = cycle(64, peer.spec.room)
    receive = consumer.get if peer.spec.blocking else consumer.spin
    loop = loops.compile_loop(loops.PONG, producer, consumer, receive=receive)
    yield "open"
    loop(chunks[:1], 1, 0)
    yield "warm"
    count = params["chunks"]
    loop(chunks[:count], params["repeat"], 0)
    yield "answered"
    producer.close()
    consumer.close()


def run_round_trip(params: dict[str, Any]) -> dict[str, float]:
    """Send a message and wait for it to come back through a second queue."""
    whole = cycle(64, params["room"])
    chunk = len(whole[0])
    params["chunks"] = min(len(whole), max(1, round(params["n"] / chunk)))
    params["repeat"] = max(1, round(params["n"] / chunk / params["chunks"]))
    spec = Spec(
        params["tag"],
        64,
        params["room"],
        channels=2,
        blocking=params["blocking"],
        variant=params["variant"],
    )
    peer = load(params["peer"])(spec)
    peer.setup()
    params["note_pids"](peer.server_pids())
    try:
        server = Child(_server, peer, params, core=CONSUMER_CORE)
        server.wait()
        client = Child(_client, peer, params, core=PRODUCER_CORE)
        client.wait()
        together(server, client)
        together(server, client)
        result: dict[str, float]
        _, result = together(server, client)
        client.finish()
        server.finish()
    finally:
        peer.teardown()
    return result


_FIGURES = (
    Figure("p50", "p50", "µs", 1e-3, 2, higher_is_better=False),
    Figure("p99", "p99", "µs", 1e-3, 2, higher_is_better=False),
    Figure("p999", "p99.9", "µs", 1e-3, 1, higher_is_better=False),
)
_ALL = (
    "mp",
    "shmq",
    "faster-fifo",
    "pyzmq",
    "kickmsg",
    "zeroq",
    "cloudtoid",
    "iceoryx2",
    "posix_ipc",
)

WORKLOADS = (
    Workload(
        "publish-watched",
        "One put of 64 B, a consumer polling",
        "Each call is timed by itself (perf_counter_ns, the clock's own median cost subtracted), one every "
        f"{_PACE_NS // 1000} µs, while a consumer on the other core polls the queue without sleeping and checks every message. "
        "multiprocessing.Queue's put only hands the message to its feeder thread. _headers + priority + ttl_: the call also says "
        "three small headers, other ones for each message and prepared as it is, a priority and a ttl.",
        _FIGURES,
        run_publish,
        _ALL,
        ({"room": 4096, "watched": True, "max_n": 60_000},),
    ),
    Workload(
        "publish-deep",
        "One put of 64 B, nobody taking, the queue growing",
        "As above, back to back, into an empty queue with room for all; afterwards everything is taken and checked. The "
        "first use of each page of memory is inside these figures.",
        _FIGURES,
        run_publish,
        ("mp", "shmq", "faster-fifo", "pyzmq", "zeroq", "cloudtoid"),
        ({"room": 65536, "watched": False, "max_n": 40_000},),
    ),
    Workload(
        "round-trip-spinning",
        "Round trip of 64 B, both sides polling",
        "There and back through two queues, each trip timed; both sides poll without sleeping; every message compared.",
        _FIGURES,
        run_round_trip,
        (
            "mp",
            "shmq",
            "faster-fifo",
            "pyzmq",
            "kickmsg",
            "zeroq",
            "cloudtoid",
            "iceoryx2",
            "posix_ipc",
        ),
        ({"room": 1024, "blocking": False, "first_n": 4_000, "max_n": 200_000},),
    ),
    Workload(
        "round-trip-blocking",
        "Round trip of 64 B, both sides blocking",
        "As above with each peer's blocking call on both sides, and after each trip a pause of "
        f"{_PAUSE_NS // 1000} µs (the client keeps its core busy) in which the server falls asleep: each trip wakes both sides.",
        _FIGURES,
        run_round_trip,
        (*_ALL, "redis"),
        ({"room": 1024, "blocking": True, "first_n": 500, "max_n": 3_000},),
    ),
)
