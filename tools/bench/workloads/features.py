"""What headers, priority, ttl, dedup and key order cost, one call per message."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tools.bench import loops
from tools.bench.endpoint import Spec
from tools.bench.messages import CYCLE_64B, chunks_of, numbered
from tools.bench.peers import Peer, load
from tools.bench.peers.shmq_features import KEYS, feature_of
from tools.bench.transfer import transfer
from tools.bench.workloads import Figure, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 64
_CHUNK = 250
PRODUCE = loops.with_extra(loops.PRODUCE)
CONSUME = loops.with_extra(loops.CONSUME)
_Chunks = list[list[tuple[bytes, Any]]]


def laps_of(variant: str, first: int, laps: int) -> tuple[_Chunks, int]:
    """Return the messages of `laps` cycles with their extras, and how often to send them."""
    feature = feature_of(variant)
    distinct, first = (laps, first) if feature.ever_new else (1, 0)
    messages = [numbered(SIZE, seq) for seq in range(CYCLE_64B)]
    pairs = [
        (message, feature.extra(first + lap * CYCLE_64B + seq))
        for lap in range(distinct)
        for seq, message in enumerate(messages)
    ]
    return chunks_of(pairs, _CHUNK), laps // distinct


def _producer(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    endpoint = peer.producer()
    loop = loops.compile_loop(PRODUCE, endpoint)
    warm = laps_of(params["variant"], 0, 1)
    timed = laps_of(params["variant"], CYCLE_64B, params["repeat"])
    yield "open"
    loop(*warm)
    yield "warm"
    begin = perf_counter_ns()
    loop(*timed)
    yield begin
    endpoint.close()


def _consumer(peer: Peer, params: dict[str, Any]) -> Iterator[Any]:
    endpoint = peer.consumer()
    loop = loops.compile_loop(CONSUME, endpoint)
    # What an ever new extra was is not looked at; the others are the same in each cycle.
    chunks, _ = laps_of(params["variant"], 0, 1)
    yield "open"
    loop(chunks, 1)
    yield "warm"
    loop(chunks, params["repeat"])
    yield perf_counter_ns()
    endpoint.close()


def run(params: dict[str, Any]) -> dict[str, float]:
    """Send `n` messages (rounded to whole cycles), from the first put to the last message checked."""
    most = feature_of(params["variant"]).most or params["n"]
    params["repeat"] = max(1, round(min(params["n"], most) / CYCLE_64B))
    peer = load(params["peer"])(Spec(params["tag"], SIZE, 4096, variant=params["variant"]))
    elapsed = transfer(peer, params, _producer, _consumer)
    n = params["repeat"] * CYCLE_64B
    return {"n": n, "rate": n / elapsed * 1e9}


WORKLOADS = (
    Workload(
        "features",
        "64 B, with headers, priority and ttl, with dedup_id, with keys",
        "One producer, one consumer, one call per message, manual ack after each was compared in full with the one expected; all "
        "rows run the same loop. What a message carries is prepared before the clock starts. _plain_: nothing. "
        "_headers + priority + ttl_: three small headers (a text, its own number, a bool; other ones for each of the 4,000 "
        "messages), priority 5, ttl 60 s; the consumer reads `headers` of each delivery and checks the number. "
        "_dedup_id_: an id of 16 characters, a number that counts up at its end, that never comes again, in a queue with a "
        "`dedup_window` of 60 s, which is longer than the run: its table, of the default size unless the row says otherwise, only grows. "
        f'_order="key"_: one of {KEYS} keys of 12 characters, in such a queue; with one '
        "consumer that settles each delivery before the next the order is that of publish, and it is checked. "
        "_metrics off_: as plain, of a broker with `metrics=False`. multiprocessing.Queue carries the bytes only.",
        (Figure("rate", "messages", "k/s", 1e-3),),
        run,
        ("mp", "shmq"),
        ({"max_n": 3_000_000},),
    ),
)
