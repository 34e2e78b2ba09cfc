"""pyzmq: PUSH to PULL over a Unix socket (`ipc://`); large messages without the extra copies (`copy=False`) where that is faster."""

from __future__ import annotations

import os
import tempfile
from itertools import cycle
from pathlib import Path

import zmq

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer

_NO_COPY_IN_FROM = 256 * 1024
_NO_COPY_OUT_FROM = 64 * 1024
_XPUB, _PUSHES = "XPUB", "ten PUSH"


class PyZmq(Peer):
    """Each consumer binds an inbox of its own; with several, each producer goes round them."""

    title = "pyzmq"
    dist = "pyzmq"
    caps = Caps(inbox=True)
    variants = {"fan-out": (_XPUB, _PUSHES)}

    def _path(self, channel: int, index: int) -> Path:
        return Path(tempfile.gettempdir()) / f"{self.name(channel, index)}.zmq"

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return send(), blocking at the high-water mark."""
        spec = self.spec
        context = zmq.Context()
        sockets = []
        for inbox in range(spec.consumers):
            socket = context.socket(zmq.PUSH)
            socket.set_hwm(max(1, spec.room // spec.consumers))
            socket.connect(f"ipc://{self._path(channel, inbox)}")
            sockets.append(socket)
        args = ", copy=False" if spec.size >= _NO_COPY_IN_FROM else ""
        if spec.consumers > 1:
            turns = cycle([socket.send for socket in sockets])
            put = f"_next(_turns)(data{args})"
            return Endpoint(env={"_next": next, "_turns": turns}, put=put, close=context.destroy)
        if spec.objects:
            return Endpoint(
                env={"_send": sockets[0].send_pyobj}, put="_send(data)", close=context.destroy
            )
        return Endpoint(
            env={"_put": sockets[0].send}, put=f"_put(data{args})", close=context.destroy
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return recv()."""
        spec = self.spec
        context = zmq.Context()
        socket = context.socket(zmq.PULL)
        socket.set_hwm(max(1, spec.room // spec.consumers))
        socket.bind(f"ipc://{self._path(channel, index)}")
        spin = """
while True:
    try:
        item = _recv(_NOBLOCK)
        break
    except _Again:
        pass
"""
        get = "item = _recv()"
        receive = socket.recv_pyobj if spec.objects else socket.recv
        env = {"_recv": receive, "_NOBLOCK": zmq.NOBLOCK, "_Again": zmq.Again}
        if spec.size >= _NO_COPY_OUT_FROM:
            env["_out"] = bytearray(spec.size)
            env["_into"] = memoryview(env["_out"])
            get = "_into[:] = _recv(copy=False).buffer\nitem = _out"
        return Endpoint(env=env, get=get, spin=spin, close=context.destroy)

    def publisher(self) -> Endpoint:
        """Return send() of an XPUB socket that waits while a subscriber is full, or into ten PUSH sockets."""
        if self.spec.variant == _PUSHES:
            return super().publisher()
        context = zmq.Context()
        socket = context.socket(zmq.XPUB)
        socket.set_hwm(self.spec.room)
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.setsockopt(
            zmq.XPUB_VERBOSE, 1
        )  # show each subscription, not only the first of its kind
        socket.bind(f"ipc://{self._path(0, 0)}")
        for _ in range(self.spec.channels):
            socket.recv()  # a subscription
        return Endpoint(env={"_put": socket.send}, put="_put(data)", close=context.destroy)

    def subscriber(self, index: int) -> Endpoint:
        """Return recv()."""
        if self.spec.variant == _PUSHES:
            return super().subscriber(index)
        context = zmq.Context()
        socket = context.socket(zmq.SUB)
        socket.set_hwm(self.spec.room)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.subscribe(b"")
        socket.connect(f"ipc://{self._path(0, 0)}")
        return Endpoint(env={"_recv": socket.recv}, get="item = _recv()", close=context.destroy)

    def teardown(self) -> None:
        """Remove the socket files."""
        for channel in range(self.spec.channels):
            for index in range(self.spec.consumers):
                path = self._path(channel, index)
                if path.exists():
                    os.unlink(path)


PEER = PyZmq
