"""iceoryx2: publish/subscribe with loaned samples; safe overflow off and back-pressure on, so nothing is lost.

Receiving polls, which is its documented way; where the consumer must sleep (`Spec.blocking`), a listener of an
event service is waited on and the producer notifies it after each send.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import iceoryx2 as iox2

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer

_MAX_LENT = 4


class Iceoryx2(Peer):
    """Each message is loaned, filled by memmove and sent; the consumer copies it out and releases it."""

    title = "iceoryx2"
    dist = "iceoryx2"
    caps = Caps(
        many=False,
        deep=False,
        notes="receiving polls, except in the blocking round trip (listener/notifier); ten subscribers on one core nap for "
        "50 µs when there is nothing",
    )
    subscribers = 1

    def _root(self) -> Path:
        return Path(tempfile.gettempdir()) / f"{self.spec.tag}.iceoryx2"

    def _prefix(self) -> str:
        return f"{self.spec.tag}_"

    def _node(self) -> Any:
        iox2.set_log_level(iox2.LogLevel.Error)
        # Places of this measurement's own: the management segment outlives every node.
        config = iox2.config.default()
        config.global_cfg.root_path = iox2.Path.new(f"{self._root()}/")
        config.global_cfg.prefix = iox2.FileName.new(self._prefix())
        return iox2.NodeBuilder.new().config(config).create(iox2.ServiceType.Ipc)

    def _service(self, node: Any, channel: int) -> Any:
        return (
            node.service_builder(iox2.ServiceName.new(self.name(channel)))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_publishers(1)
            .max_subscribers(self.subscribers)
            .enable_safe_overflow(False)
            .history_size(0)
            .subscriber_max_buffer_size(self.spec.room)
            .subscriber_max_borrowed_samples(_MAX_LENT)
            .open_or_create()
        )

    def _events(self, node: Any, channel: int) -> Any:
        name = iox2.ServiceName.new(self.name(channel) + "-event")
        return node.service_builder(name).event().open_or_create()

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return loan, memmove, send."""
        node = self._node()
        service = self._service(node, channel)
        publisher = (
            service.publisher_builder()
            .initial_max_slice_len(self.spec.size)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        env = {
            "_loan": publisher.loan_slice_uninit,
            "_move_in": ctypes.memmove,
            "_size": self.spec.size,
            "_keep_p": (node, service, publisher),
        }
        put = """
while True:
    _s = _loan(_size)
    _move_in(_s.payload_ptr, data, _size)
    if _s.assume_init().send():
        break
"""
        if self.spec.blocking:
            env["_notify"] = self._events(node, channel).notifier_builder().create().notify
            put += "_notify()"
        return Endpoint(env=env, put=put)

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return receive() polled, or after a listener's wait."""
        node = self._node()
        service = self._service(node, channel)
        subscriber = service.subscriber_builder().buffer_size(self.spec.room).create()
        size = self.spec.size
        env = {
            "_receive": subscriber.receive,
            "_string_at": ctypes.string_at,
            "_rsize": size,
            "_keep_c": (node, service, subscriber),
        }
        if size <= 1024:  # noqa: PLR2004
            take = "item = _string_at(_r.payload_ptr, _rsize)\n_r.delete()"
        else:
            out = bytearray(size)
            env |= {
                "_out": out,
                "_move_out": ctypes.memmove,
                "_address": ctypes.addressof(ctypes.c_char.from_buffer(out)),
            }
            take = "_move_out(_address, _r.payload_ptr, _rsize)\n_r.delete()\nitem = _out"
        spin = "while (_r := _receive()) is None:\n    pass\n" + take
        get = spin
        if self.spec.blocking:
            listener = self._events(node, channel).listener_builder().create()
            env["_listen"] = listener.blocking_wait
            get = "while (_r := _receive()) is None:\n    _listen()\n" + take
        return Endpoint(env=env, get=get, spin=spin)

    def setup_fan_out(self) -> None:
        """Nothing exists before the processes do; one service has all subscribers."""
        self.subscribers = self.spec.channels

    def publisher(self) -> Endpoint:
        """Return loan, memmove, send, which waits while a subscriber is full."""
        return self.producer()

    def subscriber(self, index: int) -> Endpoint:
        """Return receive(), polled with naps: ten that only poll would keep each other from the core."""
        end = self.consumer()
        end.env["_sleep"] = time.sleep
        end.get = end.get.replace("pass", "_sleep(5e-5)")
        return end

    def teardown(self) -> None:
        """Remove what processes that are gone have left, and what iceoryx2 keeps for the next node."""
        self._node().try_cleanup_dead_nodes()
        for path in Path("/dev/shm").glob(f"{self._prefix()}*"):  # noqa: S108
            path.unlink()
        shutil.rmtree(self._root(), ignore_errors=True)


PEER = Iceoryx2
