"""Four producers and four consumers on one queue."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tools.bench import loops
from tools.bench.endpoint import Spec
from tools.bench.messages import chunks_of, number_of, numbered, stop_of
from tools.bench.peers import Peer, load
from tools.bench.processes import CONSUMER_CORE, PRODUCER_CORE, CellError, Child, together
from tools.bench.workloads import Figure, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIZE = 64
_SIDES = 4


def _producer(peer: Peer, params: dict[str, Any], index: int) -> Iterator[Any]:
    endpoint = peer.producer(index=index)
    n = params["each"]
    messages = [numbered(_SIZE, index * n + i) for i in range(n)]
    loop = loops.compile_loop(loops.PRODUCE, endpoint)
    chunks = chunks_of(messages, 250)
    stops = [[stop_of(_SIZE)] * _SIDES]
    yield "open"
    begin = perf_counter_ns()
    loop(chunks, 1)
    if peer.caps.inbox:
        loop(stops, 1)
    endpoint.flush()
    yield begin
    endpoint.close()


def _stopper(peer: Peer) -> Iterator[Any]:
    endpoint = peer.producer(index=_SIDES)
    loop = loops.compile_loop(loops.PRODUCE, endpoint)
    yield "open"
    loop([[stop_of(_SIZE)] * _SIDES], 1)
    endpoint.flush()
    yield "stopped"
    endpoint.close()


def _consumer(peer: Peer, params: dict[str, Any], index: int) -> Iterator[Any]:
    endpoint = peer.consumer(index=index)
    loop = loops.compile_loop(loops.DRAIN, endpoint)
    yield "open"
    got = loop(stop_of(_SIZE), _SIDES if peer.caps.inbox else 1)
    end = perf_counter_ns()
    seen = bytearray(params["each"] * _SIDES)
    for item in got:
        if len(item) != _SIZE:
            raise loops.WrongMessageError(len(item))
        seen[number_of(item)] += 1
    yield end, len(got), bytes(seen)
    endpoint.close()


def run(params: dict[str, Any]) -> dict[str, float]:
    """Send `n` messages through one queue shared by all; each must come out exactly once."""
    params["each"] = max(1, params["n"] // _SIDES)
    spec = Spec(
        params["tag"],
        _SIZE,
        params["room"],
        producers=_SIDES,
        consumers=_SIDES,
        variant=params["variant"],
    )
    peer = load(params["peer"])(spec)
    peer.setup()
    params["note_pids"](peer.server_pids())
    try:
        consumers = [Child(_consumer, peer, params, i, core=CONSUMER_CORE) for i in range(_SIDES)]
        for child in consumers:
            child.wait()
        producers = [Child(_producer, peer, params, i, core=PRODUCER_CORE) for i in range(_SIDES)]
        for child in producers:
            child.wait()
        if not peer.caps.inbox:
            stopper = Child(_stopper, peer, core=PRODUCER_CORE)
            stopper.wait()
        for child in consumers:
            child.go()
        begin = min(together(*producers))
        if not peer.caps.inbox:
            together(stopper)
            stopper.finish()
        results = [child.wait() for child in consumers]
        for child in producers + consumers:
            child.finish()
    finally:
        peer.teardown()
    n = params["each"] * _SIDES
    counts = bytearray(n)
    for _, _, seen in results:
        counts = bytearray(map(int.__add__, counts, seen))
    if counts != b"\x01" * n:
        text = f"of {n} messages {counts.count(0)} were lost and {n - counts.count(0) - counts.count(1)} doubled"
        raise CellError(text)
    end = max(end for end, _, _ in results)
    return {
        "n": n,
        "rate": n / (end - begin) * 1e9,
        "share_min": min(count for _, count, _ in results) / n,
    }


WORKLOADS = (
    Workload(
        "four-to-four",
        "64 B, four producers, four consumers, one queue",
        "Producers on one core, consumers on the other; all messages distinct; afterwards every number must have come "
        "out exactly once. Room for 65,536 messages. pyzmq has no shared queue: each consumer has an inbox and "
        "each producer goes round them.",
        (Figure("rate", "messages", "k/s", 1e-3),),
        run,
        (
            "mp",
            "shmq",
            "shmq-mp",
            "faster-fifo",
            "pyzmq",
            "zeroq",
            "cloudtoid",
            "posix_ipc",
            "redis",
        ),
        ({"room": 65536, "max_n": 2_000_000},),
    ),
)
