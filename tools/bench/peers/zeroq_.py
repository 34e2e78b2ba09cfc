"""zeroq: a ring of fixed-size elements; blocking calls poll, sleeping between polls."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import zeroq

from tools.bench.endpoint import SPIN, Caps, Endpoint
from tools.bench.peers import Peer


class ZeroQ(Peer):
    """Fixed-size elements of exactly the message size."""

    title = "zeroq"
    dist = "zeroq"
    caps = Caps(notes="sleeps between polls instead of blocking")

    def setup(self) -> None:
        """Create the queues; the creator keeps them alive."""
        spec = self.spec
        capacity = 1 << (spec.room - 1).bit_length()
        self.queues = [
            zeroq.Queue(self.name(channel), spec.size, capacity, create=True)
            for channel in range(spec.channels)
        ]

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return put()."""
        queue = zeroq.Queue(self.name(channel), create=False)
        return Endpoint(env={"_put": queue.put, "_queue_p": queue}, put="_put(data)")

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return get()."""
        queue = zeroq.Queue(self.name(channel), create=False)
        return Endpoint(
            env={
                "_get": queue.get,
                "_get_nowait": queue.get_nowait,
                "_Empty": zeroq.Empty,
                "_queue_c": queue,
            },
            get="item = _get()",
            spin=SPIN,
        )

    def teardown(self) -> None:
        """Close the creator's handles and remove what a killed run left."""
        for queue in getattr(self, "queues", []):
            queue.close()
        for channel in range(self.spec.channels):
            with suppress(FileNotFoundError):
                (Path("/dev/shm") / self.name(channel)).unlink()


PEER = ZeroQ
