"""The peers: one module each, all behind the same small interface."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import ClassVar

from tools.bench.endpoint import Caps, Endpoint, Spec

MODULES = {
    "shmq": "shmq_",
    "shmq-mp": "shmq_mp",
    "mp": "mp_queue",
    "faster-fifo": "fasterfifo",
    "pyzmq": "pyzmq",
    "kickmsg": "kickmsg_",
    "zeroq": "zeroq_",
    "cloudtoid": "cloudtoid",
    "iceoryx2": "iceoryx",
    "posix_ipc": "posix_mq",
    "redis": "redis_streams",
    "redis-pubsub": "redis_pubsub",
    "jetstream": "jetstream",
    "rabbitmq": "rabbitmq",
}


class Peer:
    """One way between processes under measurement; an instance lives for one measurement."""

    title: ClassVar[str]
    """The name in the tables."""
    dist: ClassVar[str] = ""
    """Distribution whose version is reported; empty for the standard library."""
    caps: ClassVar[Caps] = Caps()
    variants: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Workload → the variants measured there (default: one, unnamed)."""
    start_s: ClassVar[float] = 0.0
    """Seconds that its server may take to start, beyond what the watchdog allows everybody."""

    def __init__(self, spec: Spec) -> None:
        """Keep the demands; opens nothing."""
        self.spec = spec

    @classmethod
    def missing(cls) -> str:
        """Return why this peer cannot be measured here, or an empty string."""
        if not cls.dist:
            return ""
        try:
            metadata.version(cls.dist)
        except metadata.PackageNotFoundError:
            return f"{cls.dist} is not installed"
        return ""

    @classmethod
    def version(cls) -> str:
        """Return the version measured."""
        return metadata.version(cls.dist)

    def name(self, channel: int = 0, index: int = 0) -> str:
        """Return a name for a channel's shared object, unique to this measurement."""
        return f"{self.spec.tag}-{channel}-{index}"

    def setup(self) -> None:
        """Create what must exist before the processes are forked (runs in their parent)."""

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Open the receiving end in this process. Consumers are opened before producers."""
        raise NotImplementedError

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Open the sending end in this process."""
        raise NotImplementedError

    def setup_fan_out(self) -> None:
        """Create what one publisher and `Spec.channels` subscribers need: here a channel for each of these."""
        self.setup()

    def publisher(self) -> Endpoint:
        """Open the end whose put reaches every subscriber, once all of them are there."""
        ends = [self.producer(channel) for channel in range(self.spec.channels)]
        return Endpoint(
            env={"_puts": [end.env["_put"] for end in ends], "_ends": ends},
            put="for _put in _puts:\n    _put(data)",
            close=lambda: [end.close() for end in ends],
        )

    def subscriber(self, index: int) -> Endpoint:
        """Open a subscriber's end. All are opened before the publisher."""
        return self.consumer(index)

    def teardown(self) -> None:
        """Remove what is left; also called, in a fresh process, after a measurement was killed."""

    def server_pids(self) -> list[int]:
        """Return processes started by `setup` that would outlive a kill of this one."""
        return []


def load(key: str) -> type[Peer]:
    """Return the peer class; raises ImportError when its package is not installed."""
    module = importlib.import_module(f"{__name__}.{MODULES[key]}")
    found: type[Peer] = module.PEER
    return found
