"""faster-fifo: a circular buffer under a process-shared mutex; bytes pass through its custom serializer hooks."""

from __future__ import annotations

from queue import Empty
from typing import Any

import faster_fifo

from tools.bench.endpoint import SPIN, Caps, Endpoint
from tools.bench.peers import Peer


def _same(data: Any) -> Any:
    return data


class FasterFifo(Peer):
    """`loads=bytes` copies the message out of the receive buffer, `dumps` hands the bytes over as they are."""

    title = "faster-fifo"
    dist = "faster-fifo"
    caps = Caps(batch=True)

    def setup(self) -> None:
        """Create the queues, which reach the processes by inheritance."""
        spec = self.spec
        size = max(1_000_000, spec.room * (spec.size + 16))
        self.queues = [
            faster_fifo.Queue(size, maxsize=spec.room)
            if spec.objects
            else faster_fifo.Queue(size, maxsize=spec.room, loads=bytes, dumps=_same)
            for _ in range(spec.channels)
        ]

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return put() and put_many(), blocking while the buffer is full."""
        queue = self.queues[channel]
        return Endpoint(
            env={"_put": queue.put, "_put_many": queue.put_many},
            put="_put(data)",
            put_many="_put_many(batch)",
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return get() and get_many(), blocking while it is empty."""
        queue = self.queues[channel]
        return Endpoint(
            env={
                "_get": queue.get,
                "_get_nowait": queue.get_nowait,
                "_get_many": queue.get_many,
                "_Empty": Empty,
            },
            get="item = _get()",
            spin=SPIN,
            get_many="items = _get_many()",
        )


PEER = FasterFifo
