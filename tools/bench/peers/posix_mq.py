"""POSIX message queue through posix_ipc: the kernel's own, 10 messages of 8,192 bytes at most by default."""

from __future__ import annotations

from contextlib import suppress

import posix_ipc

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer

_MSG_MAX = 10


class PosixMq(Peer):
    """send() and receive() block in the kernel."""

    title = "posix_ipc.MessageQueue"
    dist = "posix_ipc"
    caps = Caps(deep=False, max_size=8192, notes="room for 10 messages (kernel default)")

    def setup(self) -> None:
        """Create the queues."""
        for channel in range(self.spec.channels):
            posix_ipc.MessageQueue(
                "/" + self.name(channel),
                posix_ipc.O_CREX,
                max_messages=min(_MSG_MAX, self.spec.room),
                max_message_size=self.spec.size,
            ).close()

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return send()."""
        queue = posix_ipc.MessageQueue("/" + self.name(channel))
        return Endpoint(env={"_send": queue.send}, put="_send(data)", close=queue.close)

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return receive(), which gives the message and its priority."""
        queue = posix_ipc.MessageQueue("/" + self.name(channel))
        spin = """
while True:
    try:
        item = _receive(0)[0]
        break
    except _Busy:
        pass
"""
        return Endpoint(
            env={"_receive": queue.receive, "_Busy": posix_ipc.BusyError},
            get="item = _receive()[0]",
            spin=spin,
            close=queue.close,
        )

    def teardown(self) -> None:
        """Unlink the queues."""
        for channel in range(self.spec.channels):
            with suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_message_queue("/" + self.name(channel))


PEER = PosixMq
