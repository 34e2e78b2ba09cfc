"""cloudtoid-interprocess: a byte ring; receive blocks on a semaphore, send reports a full queue and is tried again."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from cloudtoid_interprocess import Publisher, Subscriber

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer


class Cloudtoid(Peer):
    """Sending has no blocking form: a full queue is tried again after 50 µs."""

    title = "cloudtoid-interprocess"
    dist = "cloudtoid-interprocess"
    caps = Caps(batch=True, notes="batch: try_send_batch; receiving is one by one")

    def _capacity(self) -> int:
        # A message takes a header of its own and is padded to 8 bytes.
        needed = self.spec.room * (self.spec.size + 24)
        return 1 << (needed - 1).bit_length()

    def _folder(self) -> Path:
        return Path(tempfile.gettempdir()) / self.spec.tag

    def setup(self) -> None:
        """Create the queues and keep an end of each open, or they vanish with their last user."""
        self._folder().mkdir(exist_ok=True)
        self.keep = [
            Publisher(self.name(channel), self._capacity(), self._folder())
            for channel in range(self.spec.channels)
        ]

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return try_send() in a loop."""
        publisher = Publisher(self.name(channel), self._capacity(), self._folder())
        many = """
_sent = _send_batch(batch)
while _sent < len(batch):
    _sleep(5e-5)
    _sent += _send_batch(batch[_sent:])
"""
        return Endpoint(
            env={
                "_send": publisher.try_send,
                "_send_batch": publisher.try_send_batch,
                "_sleep": time.sleep,
            },
            put="while not _send(data):\n    _sleep(5e-5)",
            put_many=many,
            close=publisher.close,
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return receive()."""
        subscriber = Subscriber(self.name(channel), self._capacity(), self._folder())
        return Endpoint(
            env={"_receive": subscriber.receive, "_try_receive": subscriber.try_receive},
            get="item = _receive()",
            spin="while (item := _try_receive()) is None:\n    pass",
            get_many="items = (_receive(),)",
            close=subscriber.close,
        )

    def teardown(self) -> None:
        """Close the kept ends and remove the folder."""
        for publisher in getattr(self, "keep", []):
            publisher.close()
        shutil.rmtree(self._folder(), ignore_errors=True)


PEER = Cloudtoid
