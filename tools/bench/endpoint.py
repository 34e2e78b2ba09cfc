"""What a peer gives to the benchmark: the statements that put and get, and what they need.

A wrapper function around another project's call costs about as much as the fastest of these calls. So a peer does
not wrap: it hands over the one statement that puts and the one that gets, and `loops` compiles them into the
timed loop. Every peer is then measured as a user would write it, inline.

Names a statement may use: `data` (the message to put, bytes), `batch` (a list of them), `extra` (what a workload sends or
expects beside the bytes), whatever is in `env`.
Names a statement sets: `get` and `spin` set `item`, `get_many` sets `items`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Spec:
    """One measurement's demands on a peer; the same for every peer of a workload."""

    tag: str
    """Unique name part for segments, files and queues."""
    size: int
    """Bytes per message."""
    room: int
    """Messages that fit before the producer is held back (a peer with its own limit takes less)."""
    producers: int = 1
    consumers: int = 1
    channels: int = 1
    blocking: bool = False
    """The consumer must sleep in the kernel while it waits, even where the peer's usual way is to poll."""
    objects: bool = False
    """Items are Python objects, not bytes: the peer pickles, or whatever it usually does."""
    variant: str = ""
    """A way of using the peer, see `Peer.variants`."""


SPIN = """
while True:
    try:
        item = _get_nowait()
        break
    except _Empty:
        pass
"""
"""`Endpoint.spin` of a queue with get_nowait() and an exception for an empty one, as `queue.Queue` has them."""


@dataclass
class Endpoint:
    """One process's end of one channel."""

    env: dict[str, Any] = field(default_factory=dict)
    put: str = ""
    put_many: str = ""
    get: str = ""
    spin: str = ""
    get_many: str = ""
    each: str = "x"
    """Payload of `x`, one element of `items`."""
    check: str = ""
    """Run after the bytes of each message were compared: compare with `extra`, else call `wrong(found, expected)`."""
    done: str = ""
    """Run after each message was checked: acknowledge, release."""
    each_done: str = ""
    """The same for `x` of a batch."""
    many_done: str = ""
    """Run after all of `items` were checked: acknowledge them with one call."""
    before_chunk: str = ""
    after_chunk: str = ""
    flush: Callable[[], object] = lambda: None
    """Return only when everything put can be taken by others (for a peer that puts in the background)."""
    close: Callable[[], object] = lambda: None
    """Release what the endpoint holds."""


@dataclass(frozen=True)
class Caps:
    """What a peer can do; a workload it cannot do is reported with the reason, not measured."""

    batch: bool = False
    spin: bool = True
    """There is a call that returns at once when nothing is there."""
    many: bool = True
    """Several consumers can share the messages of several producers."""
    inbox: bool = False
    """Sharing means one inbox per consumer: every producer ends every inbox itself."""
    deep: bool = True
    """Can hold `Spec.room` messages nobody reads."""
    max_size: int = 1 << 30
    notes: str = ""
