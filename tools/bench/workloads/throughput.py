"""One producer, one consumer: small messages one by one and in batches, and large payloads."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tools.bench import loops
from tools.bench.endpoint import Spec
from tools.bench.messages import chunks_of, cycle
from tools.bench.peers import Peer, load
from tools.bench.transfer import transfer
from tools.bench.workloads import Figure, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCH = 100


def _producer(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    endpoint = peer.producer()
    batch = params.get("batch", False)
    chunks = cycle(peer.spec.size, peer.spec.room)
    if batch:
        chunks = chunks_of([m for chunk in chunks for m in chunk], _BATCH)
    loop = loops.compile_loop(
        loops.PRODUCE_BATCHES if batch else loops.PRODUCE, endpoint, size=peer.spec.size
    )
    yield "open"
    loop(chunks, 1)
    yield "warm"
    begin = perf_counter_ns()
    loop(chunks, params["repeat"])
    yield begin
    endpoint.close()


def _consumer(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    endpoint = peer.consumer()
    batch = params.get("batch", False)
    size = peer.spec.size
    chunks = cycle(size, peer.spec.room)
    template = loops.CONSUME_BATCHES if batch else loops.CONSUME
    warm = loops.compile_loop(template, endpoint, size=size)
    if params.get("words"):
        template = loops.CONSUME_WORDS
    loop = loops.compile_loop(template, endpoint, size=size)
    yield "open"
    warm(chunks, 1)
    yield "warm"
    loop(chunks, params["repeat"])
    yield perf_counter_ns()
    endpoint.close()


def run(params: dict[str, Any]) -> dict[str, float]:
    """Send `n` messages (rounded to whole cycles), from the first put to the last message checked."""
    size, room = params["size"], params["room"]
    length = sum(map(len, cycle(size, room)))
    params["repeat"] = max(1, round(params["n"] / length))
    spec = Spec(params["tag"], size, room, variant=params["variant"])
    peer = load(params["peer"])(spec)
    elapsed = transfer(peer, params, _producer, _consumer)
    n = params["repeat"] * length
    rate = n / elapsed * 1e9
    return {"n": n, "rate": rate, "bytes": rate * size}


_PEERS = (
    "mp", "shmq", "shmq-mp", "faster-fifo", "pyzmq", "kickmsg", "zeroq", "cloudtoid", "iceoryx2",
    "posix_ipc", "redis",
)  # fmt: skip
_RATE = (Figure("rate", "messages", "k/s", 1e-3),)
_BYTES = (Figure("bytes", "payload", "MB/s", 1e-6), Figure("rate", "messages", "k/s", 1e-3, 1))
_PAYLOAD = (
    "The producer has 5 prepared messages of this size and puts them in turn; each is copied in once by the peer's "
    "call (a loan is filled by one copy). The consumer's copy is made once: by the call that returns bytes, or, where "
    "the peer gives a view, by copying the view into a prepared buffer. Length, first and last eight bytes of each "
    "message are compared, in the warm-up all bytes. No peer touches the payload otherwise."
)


def _payload(key: str, size: int, room: int, first_n: int, title: str) -> Workload:
    return Workload(
        key,
        f"{title}, one producer, one consumer",
        f"{_PAYLOAD} Room for {room} messages.",
        _BYTES,
        run,
        _PEERS,
        ({"size": size, "room": room, "words": True, "first_n": first_n, "min_n": first_n},),
    )


WORKLOADS = (
    Workload(
        "one-by-one",
        "64 B, one producer, one consumer, one call per message",
        "4,000 distinct messages, prepared before the clock starts, are put again and again; every message is compared "
        "in full with the one expected. Room for 4,096 messages. From the first put to the last message checked.",
        _RATE,
        run,
        _PEERS,
        ({"size": 64, "room": 4096},),
    ),
    Workload(
        "batch",
        "64 B, batch calls",
        "As above, put by 100 in one call and taken by up to 100 (or what the peer's call gives) in one call; every message "
        "compared in full. Peers without batch calls are not listed, except "
        "multiprocessing.Queue, once with one call per message, once putting lists of 100 as one object. At least once, that "
        "is with every message acknowledged after it was checked: shmq with manual ack (one `ack()` per message), Redis Streams "
        "with XACK, JetStream (which also confirms each publish) and RabbitMQ (publisher confirms); these three run in a server "
        "that is free to use both cores, and acknowledge a whole batch with one call.",
        _RATE,
        run,
        ("mp", "shmq", "shmq-mp", "faster-fifo", "cloudtoid", "redis", "jetstream", "rabbitmq"),
        ({"size": 64, "room": 4096, "batch": True},),
    ),
    _payload("payload-1k", 1024, 1024, 16_000, "1 KiB"),
    _payload("payload-64k", 65536, 64, 1_600, "64 KiB"),
    _payload("payload-1m", 1 << 20, 8, 160, "1 MiB"),
)
