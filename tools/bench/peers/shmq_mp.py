"""shmq.mp.Queue: shmq in place of multiprocessing.Queue, objects included."""

from __future__ import annotations

from queue import Empty
from typing import Any

from tools.bench.endpoint import SPIN, Caps, Endpoint
from tools.bench.peers import Peer
from tools.bench.peers.shmq_ import Shmq

_VIEW = "copy=False"


class ShmqMp(Peer):
    """As a program would use it: the queues reach the processes by inheritance."""

    title = "shmq.mp.Queue"
    dist = "shmq"
    caps = Caps(batch=True)
    variants = {"array-1m": ("", _VIEW)}

    version = Shmq.version
    missing = Shmq.missing

    def setup(self) -> None:
        """Create the queues; the first one of a process tree starts what it needs."""
        import shmq.mp

        self.queues = [shmq.mp.Queue(self.spec.room) for _ in range(self.spec.channels)]

    def server_pids(self) -> list[int]:
        """Return supervisor and sidecar."""
        from shmq.home import home

        stats = home().stats()
        return [pid for pid in (stats.supervisor_pid, stats.sidecar_pid) if pid]

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return put() and put_many()."""
        queue: Any = self.queues[channel]
        return Endpoint(
            env={"_put": queue.put, "_put_many": queue.put_many},
            put="_put(data)",
            put_many="_put_many(batch)",
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return get() and get_many()."""
        queue: Any = self.queues[channel]
        return Endpoint(
            env={
                "_get": queue.get,
                "_get_nowait": queue.get_nowait,
                "_get_many": queue.get_many,
                "_Empty": Empty,
            },
            get="item = _get(copy=False)" if self.spec.variant == _VIEW else "item = _get()",
            spin=SPIN,
            get_many="items = _get_many(100)",
        )


PEER = ShmqMp
