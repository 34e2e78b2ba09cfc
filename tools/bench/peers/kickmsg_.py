"""kickmsg: publish/subscribe over a pool of slots. It overwrites what was not read, so the producer is held back.

The consumer counts what it has read in a shared word, the producer looks at it once per chunk of messages and
sleeps 50 µs at a time while the ring has no room for the next chunk: nothing is lost, and the cost is one look per chunk.
"""

from __future__ import annotations

import mmap
import time
from datetime import timedelta
from typing import Any

import kickmsg

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer

_NAPS = "polling with naps"


class KickMsg(Peer):
    """`send` copies in, `receive` copies out; with views the slot is written and read in place."""

    title = "kickmsg"
    dist = "kickmsg"
    caps = Caps(
        many=False,
        deep=False,
        notes="overwrites unread messages; the harness holds the producer back",
    )
    variants = {
        "payload-64k": ("", "views"),
        "payload-1m": ("", "views"),
        "fan-out": ("", _NAPS),
    }

    def setup(self) -> None:
        """Create one region per channel and the words that count what was sent and read."""
        spec = self.spec
        self.regions: list[Any] = []
        self.credits = []
        # The ring's capacity must be a power of two.
        ring = 1 << (spec.room - 1).bit_length()
        for channel in range(spec.channels):
            self._create(channel, ring, 1)
            self.credits.append(memoryview(mmap.mmap(-1, 4096)).cast("Q"))

    def _create(self, channel: int, ring: int, subscribers: int) -> None:
        config = kickmsg.Config()
        config.max_subscribers = subscribers
        config.sub_ring_capacity = ring
        config.pool_size = ring + 8 * subscribers
        config.max_payload_size = self.spec.size
        self.regions.append(
            kickmsg.SharedRegion.create(
                "/" + self.name(channel), kickmsg.ChannelType.PubSub, config
            )
        )

    def setup_fan_out(self) -> None:
        """Create one region for all, and a word for each subscriber that counts what it read."""
        self.regions = []
        self._create(0, 1 << (self.spec.room - 1).bit_length(), self.spec.channels)
        self.credits = [
            memoryview(mmap.mmap(-1, 4096)).cast("Q") for _ in range(self.spec.channels)
        ]

    def publisher(self) -> Endpoint:
        """Return send(), held back by the slowest subscriber."""
        end = self.producer()
        end.env["_all_credits"] = self.credits
        end.before_chunk = """
_credits[16] += len(chunk)
while _credits[16] - min([_read[0] for _read in _all_credits]) > _room:
    _sleep(5e-5)
"""
        return end

    def subscriber(self, index: int) -> Endpoint:
        """Return receive(); or polling with naps of 50 µs, which spares the publisher ten wake-ups per message."""
        end = self.consumer()
        if self.spec.variant == _NAPS:
            end.env["_sleep"] = time.sleep
            end.get = "while (item := _try_receive()) is None:\n    _sleep(5e-5)"
        end.env["_read"] = self.credits[index]
        return end

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return send(), held back by the harness."""
        publisher = kickmsg.Publisher(kickmsg.SharedRegion.open("/" + self.name(channel)))
        env = {
            "_send": publisher.send,
            "_allocate": publisher.allocate,
            "_credits": self.credits[channel],
            "_room": self.spec.room,
            "_size": self.spec.size,
            "_publisher": publisher,
            "_sleep": time.sleep,
        }
        put = "_send(data)"
        if self.spec.variant == "views":
            put = "_slot = _allocate()\nmemoryview(_slot)[:] = data\n_slot.publish(_size)"
        # Words 0 and 16 (own cache lines): read, sent.
        hold = "_credits[16] += len(chunk)\nwhile _credits[16] - _credits[0] > _room:\n    _sleep(5e-5)"
        return Endpoint(env=env, put=put, before_chunk=hold)

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return receive(), blocking on a futex."""
        subscriber = kickmsg.Subscriber(kickmsg.SharedRegion.open("/" + self.name(channel)))
        env = {
            "_receive": subscriber.receive,
            "_try_receive": subscriber.try_receive,
            "_receive_view": subscriber.receive_view,
            "_forever": timedelta(seconds=3600),
            "_read": self.credits[channel],
            "_out": (out := bytearray(self.spec.size)),
            "_into": memoryview(out),
        }
        get = "item = _receive(_forever)"
        if self.spec.variant == "views":
            get = "_view = _receive_view(_forever)\n_into[:] = memoryview(_view)\n_view.release()\nitem = _out"
        return Endpoint(
            env=env,
            get=get,
            spin="while (item := _try_receive()) is None:\n    pass",
            after_chunk="_read[0] += len(chunk)",
        )

    def teardown(self) -> None:
        """Unlink the regions."""
        for channel in range(self.spec.channels):
            kickmsg.unlink_shm("/" + self.name(channel))


PEER = KickMsg
