"""One producer, one consumer: Python objects, small ones and arrays."""

from __future__ import annotations

from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tools.bench import loops
from tools.bench.endpoint import Spec
from tools.bench.messages import chunks_of
from tools.bench.peers import Peer, load
from tools.bench.transfer import transfer
from tools.bench.workloads import Figure, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BATCH = 100
_CYCLE = 4000
_ARRAYS = 5
_ARRAY_BYTES = 1 << 20

_CONSUME_ARRAYS = """
def loop(chunks, repeat):
    for _ in range(repeat):
        for chunk in chunks:
            for want in chunk:
                <get>
                if item.shape != want.shape or item[0] != want[0] or item[-1] != want[-1]:
                    wrong(item, want)
                <done>
            <after_chunk>
"""


def _dicts() -> list[Any]:
    return [
        {"id": n, "name": f"item {n}", "price": n / 4, "tags": ["a", "b"], "ok": n % 2 == 0}
        for n in range(_CYCLE)
    ]


def _arrays() -> list[Any]:
    import numpy

    return [
        numpy.full(_ARRAY_BYTES // 8, n, dtype="f8") + numpy.arange(_ARRAY_BYTES // 8)
        for n in range(_ARRAYS)
    ]


def _producer(peer: Peer, params: dict[str, Any], make: Callable[[], list[Any]]) -> Iterator[Any]:
    endpoint = peer.producer()
    batch = params.get("batch", False)
    chunks = chunks_of(make(), _BATCH)
    loop = loops.compile_loop(loops.PRODUCE_BATCHES if batch else loops.PRODUCE, endpoint)
    yield "open"
    loop(chunks, 1)
    yield "warm"
    begin = perf_counter_ns()
    loop(chunks, params["repeat"])
    yield begin
    endpoint.close()


def _consumer(peer: Peer, params: dict[str, Any], make: Callable[[], list[Any]]) -> Iterator[Any]:
    endpoint = peer.consumer()
    chunks = chunks_of(make(), _BATCH)
    template = loops.CONSUME_BATCHES if params.get("batch") else loops.CONSUME
    if params.get("arrays"):
        template = _CONSUME_ARRAYS
    loop = loops.compile_loop(template, endpoint)
    yield "open"
    loop(chunks, 1)
    yield "warm"
    loop(chunks, params["repeat"])
    yield perf_counter_ns()
    endpoint.close()


def _run(params: dict[str, Any], make: Callable[[], list[Any]]) -> dict[str, float]:
    length = _ARRAYS if params.get("arrays") else _CYCLE
    params["repeat"] = max(1, round(params["n"] / length))
    size = _ARRAY_BYTES if params.get("arrays") else 200
    spec = Spec(params["tag"], size, params["room"], objects=True, variant=params["variant"])
    peer = load(params["peer"])(spec)
    elapsed = transfer(peer, params, _producer, _consumer, make)
    n = params["repeat"] * length
    rate = n / elapsed * 1e9
    return {"n": n, "rate": rate, "bytes": rate * _ARRAY_BYTES}


_DICT = (
    '4,000 dicts such as `{"id": 7, "name": "item 7", "price": 1.75, "tags": ["a", "b"], "ok": False}`; '
    "every one is compared with the one expected. Each peer by its own, usual way for objects. "
    "Room for 4,096 items."
)

WORKLOADS = (
    Workload(
        "dicts",
        "Small dicts, one producer, one consumer, one call per item",
        _DICT,
        (Figure("rate", "items", "k/s", 1e-3),),
        partial(_run, make=_dicts),
        ("mp", "shmq-mp", "faster-fifo", "pyzmq"),
        ({"room": 4096},),
    ),
    Workload(
        "dicts-batch",
        "Small dicts, batch calls",
        "As above, put by 100 in one call and taken by up to 100 in one call.",
        (Figure("rate", "items", "k/s", 1e-3),),
        partial(_run, make=_dicts),
        ("mp", "shmq-mp", "faster-fifo"),
        ({"room": 4096, "batch": True},),
    ),
    Workload(
        "array-1m",
        "numpy arrays of 1 MiB, one producer, one consumer",
        "The producer has 5 arrays of 131,072 floats and puts them in turn. The consumer gets arrays that own their "
        "memory, or, with `copy=False`, views; shape, first and last element are compared. Room for 8 items.",
        (Figure("bytes", "payload", "MB/s", 1e-6), Figure("rate", "items", "k/s", 1e-3, 1)),
        partial(_run, make=_arrays),
        ("mp", "shmq-mp"),
        ({"room": 8, "arrays": True, "first_n": 100, "min_n": 100},),
    ),
)
