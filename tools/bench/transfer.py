"""A producer and a consumer, in a process and on a core each, timed together."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tools.bench.processes import CONSUMER_CORE, PRODUCER_CORE, Child, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tools.bench.peers import Peer


def transfers(
    peers: Sequence[Peer],
    note_pids: Callable[[list[int]], None],
    producer: Callable[..., Iterator[Any]],
    consumer: Callable[..., Iterator[Any]],
    *arguments: object,
    turns: int,
) -> list[int]:
    """Return the nanoseconds of each turn, from its first put to its last message checked.

    The roles are called with ``arguments``. Both yield when they are open, and in each turn when
    they are ready; then the producer yields when it began, the consumer when it ended.
    """
    times = []
    with ExitStack() as stack:
        for peer in peers:
            peer.setup()
            stack.callback(peer.teardown)
        note_pids([pid for peer in peers for pid in peer.server_pids()])
        taker = Child(consumer, *arguments, core=CONSUMER_CORE)
        taker.wait()
        giver = Child(producer, *arguments, core=PRODUCER_CORE)
        giver.wait()
        for _ in range(turns):
            together(taker, giver)
            end, begin = together(taker, giver)
            times.append(int(end - begin))
        giver.finish()
        taker.finish()
    return times


def transfer(
    peer: Peer,
    params: dict[str, Any],
    producer: Callable[..., Iterator[Any]],
    consumer: Callable[..., Iterator[Any]],
    *arguments: object,
) -> int:
    """Return the nanoseconds of one turn; the roles are called with ``peer``, ``params`` and ``arguments``."""
    roles = (producer, consumer)
    return transfers((peer,), params["note_pids"], *roles, peer, params, *arguments, turns=1)[0]
