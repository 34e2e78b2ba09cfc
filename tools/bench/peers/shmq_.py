"""shmq itself, through its public API only."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

import shmq
from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer
from tools.bench.peers.shmq_features import FEATURES, FIELDS, feature_of

_NONE_AND_MANUAL = ('ack="none"', "manual ack")
_GET = 'ack="none", get() spinning'
"""A get() that waits spins by itself as long as that pays (up to 60 µs), then sleeps: here it never has to."""


class Shmq(Peer):
    """A broker per measurement, an attachment per process, one queue per channel."""

    title = "shmq"
    dist = "shmq"
    caps = Caps(batch=True)
    variants = {
        "one-by-one": _NONE_AND_MANUAL,
        "batch": _NONE_AND_MANUAL,
        "features": tuple(FEATURES),
        "publish-watched": ('ack="none"', f'ack="none", {FIELDS}'),
        "publish-deep": ('ack="none"',),
        "round-trip-spinning": (*_NONE_AND_MANUAL, _GET),
        "round-trip-blocking": _NONE_AND_MANUAL,
        "payload-1k": _NONE_AND_MANUAL,
        "payload-64k": (*_NONE_AND_MANUAL, "loan + view"),
        "payload-1m": (*_NONE_AND_MANUAL, "loan + view"),
        "four-to-four": _NONE_AND_MANUAL,
        "fan-out": _NONE_AND_MANUAL,
    }

    @classmethod
    def version(cls) -> str:
        """Return the version of the package imported (a checkout need not be installed)."""
        with suppress(Exception):
            return super().version()
        return str(getattr(shmq, "__version__", "checkout"))

    @classmethod
    def missing(cls) -> str:
        """Importable is enough."""
        return ""

    def setup(self) -> None:
        """Start the broker and create the queues."""
        feature = feature_of(self.spec.variant)
        self.broker = shmq.Broker(self.spec.tag, **feature.broker)
        for channel in range(self.spec.channels):
            self.broker.create_queue(self.name(channel), max_depth=self.spec.room, **feature.queue)

    def server_pids(self) -> list[int]:
        """Return supervisor and sidecar."""
        stats = self.broker.stats()
        return [pid for pid in (stats.supervisor_pid, stats.sidecar_pid) if pid]

    def _queue(self, channel: int) -> Any:
        self.attached = shmq.connect(self.spec.tag)
        return self.attached.get_queue(self.name(channel))

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return publish(), publish_many(), or loan()."""
        queue = self._queue(channel)
        put = f"_publish(data{feature_of(self.spec.variant).arguments})"
        if self.spec.variant == "loan + view":
            put = "with _loan(_size) as _buffer:\n    _buffer[:] = data"
        return Endpoint(
            env={
                "_publish": queue.publish,
                "_publish_many": queue.publish_many,
                "_loan": queue.loan,
                "_size": self.spec.size,
                "_keep_p": (self.attached, queue),
            },
            put=put,
            put_many="_publish_many(batch)",
            close=self.attached.close,
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return get() and get_many(), with or without ack()."""
        return self._taking(self._queue(channel).subscribe(ack=self._ack()))

    def setup_fan_out(self) -> None:
        """Start the broker, create the topic and its durable subscriptions."""
        self.broker = shmq.Broker(self.spec.tag)
        topic = self.broker.create_topic("all", max_depth=self.spec.room)
        for index in range(self.spec.channels):
            topic.subscribe(f"s{index}").close()

    def publisher(self) -> Endpoint:
        """Return publish() into the topic."""
        self.attached = shmq.connect(self.spec.tag)
        topic = self.attached.get_topic("all")
        return Endpoint(
            env={"_publish": topic.publish, "_keep_p": (self.attached, topic)},
            put="_publish(data)",
            close=self.attached.close,
        )

    def subscriber(self, index: int) -> Endpoint:
        """Return get() from the subscription, with or without ack()."""
        self.attached = shmq.connect(self.spec.tag)
        topic = self.attached.get_topic("all")
        return self._taking(topic.subscribe(f"s{index}", ack=self._ack()))

    def _ack(self) -> Literal["none", "manual"]:
        return "none" if self.spec.variant.startswith('ack="none"') else "manual"

    def _taking(self, consumer: Any) -> Endpoint:
        manual = self._ack() == "manual"
        take = "item = _d.payload"
        if self.spec.variant == "loan + view":
            # bytearray[:] = view would copy twice: CPython makes a bytearray of the view first
            take = "_into[:] = _d.view\nitem = _out"
        spin = """
while True:
    try:
        _d = _get(timeout=0)
        break
    except _QueueEmpty:
        pass
"""

        def close() -> None:
            consumer.close()
            self.attached.close()

        out = bytearray(self.spec.size)
        return Endpoint(
            env={
                "_get": consumer.get,
                "_get_many": consumer.get_many,
                "_QueueEmpty": shmq.QueueEmpty,
                "_out": out,
                "_into": memoryview(out),
                "_keep_c": (self.attached, consumer),
            },
            get="_d = _get()\n" + take,
            spin="_d = _get()\n" + take if self.spec.variant == _GET else spin + take,
            get_many="items = _get_many(100)",
            each="x.payload",
            check=feature_of(self.spec.variant).check,
            done="_d.ack()" if manual else "",
            each_done="x.ack()" if manual else "",
            close=close,
        )

    def teardown(self) -> None:
        """Shut the broker down."""
        broker = getattr(self, "broker", None)
        if broker is None:
            with suppress(shmq.BrokerNotRunning):
                broker = shmq.connect(self.spec.tag)
        if broker is not None:
            broker.shutdown(timeout=5)


PEER = Shmq
