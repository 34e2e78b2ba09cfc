"""multiprocessing.Queue, the reference: as documented, unbounded, a feeder thread in the producer."""

from __future__ import annotations

import multiprocessing as mp
import platform
from queue import Empty
from typing import Any

from tools.bench.endpoint import SPIN, Caps, Endpoint
from tools.bench.peers import Peer

_LISTS = "lists of 100"


class MpQueue(Peer):
    """Unbounded, since the bounded one is slower still and its pipe holds 64 KiB anyway."""

    title = "multiprocessing.Queue"
    caps = Caps(batch=True)
    variants = {"batch": ("", _LISTS), "dicts-batch": ("", _LISTS)}

    @classmethod
    def version(cls) -> str:
        """Return the interpreter's version."""
        return f"Python {platform.python_version()}"

    def setup(self) -> None:
        """Create the queues, which reach the processes by inheritance."""
        context = mp.get_context("fork")
        self.queues = [context.Queue() for _ in range(self.spec.channels)]

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return put()."""
        queue: Any = self.queues[channel]

        def flush() -> None:
            queue.close()
            queue.join_thread()

        return Endpoint(
            env={"_put": queue.put},
            put="_put(data)",
            put_many="_put(batch)" if self.spec.variant else "for data in batch:\n    _put(data)",
            flush=flush,
            close=queue.close,
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return get()."""
        queue: Any = self.queues[channel]
        return Endpoint(
            env={"_get": queue.get, "_get_nowait": queue.get_nowait, "_Empty": Empty},
            get="item = _get()",
            spin=SPIN,
            get_many="items = _get()" if self.spec.variant else "items = (_get(),)",
        )


PEER = MpQueue
