"""One publisher, ten subscribers in ten processes, each of which gets every message."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tools.bench import loops
from tools.bench.endpoint import Spec
from tools.bench.messages import CYCLE_64B, cycle
from tools.bench.peers import Peer, load
from tools.bench.processes import CONSUMER_CORE, PRODUCER_CORE, Child, together
from tools.bench.workloads import Figure, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIZE = 64
_SUBSCRIBERS = 10


def _publisher(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    endpoint = peer.publisher()
    chunks = cycle(_SIZE, peer.spec.room)
    template = loops.PRODUCE if endpoint.put else loops.PRODUCE_BATCHES
    loop = loops.compile_loop(template, endpoint)
    yield "open"
    loop(chunks, 1)
    yield "warm"
    begin = perf_counter_ns()
    loop(chunks, params["repeat"])
    yield begin
    endpoint.close()


def _subscriber(peer: Peer, params: dict[str, Any], index: int) -> Iterator[Any]:
    endpoint = peer.subscriber(index)
    chunks = cycle(_SIZE, peer.spec.room)
    loop = loops.compile_loop(loops.CONSUME, endpoint)
    yield "open"
    loop(chunks, 1)
    yield "warm"
    loop(chunks, params["repeat"])
    yield perf_counter_ns()
    endpoint.close()


def run(params: dict[str, Any]) -> dict[str, float]:
    """Publish `n` messages (rounded to whole cycles), until the last subscriber has checked the last of them."""
    params["repeat"] = max(1, round(params["n"] / CYCLE_64B))
    spec = Spec(
        params["tag"], _SIZE, params["room"], channels=_SUBSCRIBERS, variant=params["variant"]
    )
    peer = load(params["peer"])(spec)
    peer.setup_fan_out()
    params["note_pids"](peer.server_pids())
    try:
        subscribers = [
            Child(_subscriber, peer, params, index, core=CONSUMER_CORE)
            for index in range(_SUBSCRIBERS)
        ]
        for child in subscribers:
            child.wait()
        publisher = Child(_publisher, peer, params, core=PRODUCER_CORE)
        publisher.wait()
        together(*subscribers, publisher)
        *ends, begin = together(*subscribers, publisher)
        for child in (publisher, *subscribers):
            child.finish()
    finally:
        peer.teardown()
    n = params["repeat"] * CYCLE_64B
    rate = n / (max(ends) - begin) * 1e9
    return {"n": n, "rate": rate, "taken": rate * _SUBSCRIBERS}


WORKLOADS = (
    Workload(
        "fan-out",
        "64 B, one publisher, ten subscribers in ten processes",
        "Every subscriber gets every message and compares it in full with the one expected, in order; from the first put until the "
        "last subscriber has checked its last message. The publisher has one core, the ten share the other. Room for 4,096 "
        "messages per subscriber; who is full holds the publisher back, so nothing is lost. shmq: a topic with ten durable "
        "subscriptions. multiprocessing.Queue and zeroq have no such thing: ten queues, and a put into each. pyzmq: XPUB and "
        "SUB with XPUB_NODROP, or ten PUSH sockets. kickmsg: held back by the slowest of the ten, each of which blocks, or polls "
        "and naps for 50 µs when there is nothing, as iceoryx2's do. Redis pub/sub: by 250 in a pipeline, its output buffers unlimited.",
        (
            Figure("rate", "published", "k/s", 1e-3, 1),
            Figure("taken", "taken by all together", "k/s", 1e-3),
        ),
        run,
        ("mp", "shmq", "pyzmq", "kickmsg", "zeroq", "iceoryx2", "redis-pubsub"),
        ({"room": 4096, "first_n": 4_000},),
    ),
)
