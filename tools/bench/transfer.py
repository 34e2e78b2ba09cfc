"""One producer and one consumer of a peer, in a process and on a core each, timed together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tools.bench.processes import CONSUMER_CORE, PRODUCER_CORE, Child, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tools.bench.peers import Peer


def transfer(
    peer: Peer,
    params: dict[str, Any],
    producer: Callable[..., Iterator[Any]],
    consumer: Callable[..., Iterator[Any]],
    *arguments: object,
) -> int:
    """Return the nanoseconds from the first put to the last message checked.

    The roles are called with ``peer``, ``params`` and ``arguments``. Both yield when they are open
    and when they are warm; then the producer yields when it began, the consumer when it ended.
    """
    peer.setup()
    params["note_pids"](peer.server_pids())
    try:
        taker = Child(consumer, peer, params, *arguments, core=CONSUMER_CORE)
        taker.wait()
        giver = Child(producer, peer, params, *arguments, core=PRODUCER_CORE)
        giver.wait()
        together(taker, giver)
        end, begin = together(taker, giver)
        giver.finish()
        taker.finish()
    finally:
        peer.teardown()
    return int(end - begin)
