"""A descriptor that is readable while a queue has items: for select, epoll, `connection.wait`.

The core's futexes cannot be waited on by select. Who asks for a descriptor gets a pipe and a
thread that waits on its behalf; who does not, has neither. The thread belongs to the process that
asked. Each take of this process looks whether to quiet the bell; when other processes take all
items, it falls silent within `PATIENCE_S`.

A pipe, because its ends can be told from anything else: a program that closes descriptors by number
may have files of its own there. And takes may come in signal handlers and finalizers, in the middle of
one another: what they share with the thread is a bare lock that stands for "somebody has looked", which
is taken by the thread and given by whoever looks, each in one step. (Not a SimpleQueue: on CPython 3.10
its `get` with a timeout that is over may wait for ever.)
"""

from __future__ import annotations

import contextlib
import os
import threading

from shmq._client import Client
from shmq._descriptors import Kept, pipe, scarce
from shmq._native import lib

PATIENCE_S = 0.1


class Bell:
    """A descriptor that says whether a queue has items."""

    def __init__(self, client: Client, qref: int) -> None:
        self._pid = os.getpid()
        with scarce("descriptor of a queue"):
            self._share = _Share(client, qref)
            try:
                threading.Thread(target=self._share.serve, name="shmq-bell", daemon=True).start()
            except BaseException:
                self._share.close()
                raise

    @property
    def fd(self) -> int:
        """What is readable while the queue has items."""
        return self._share.reader.fd

    def lost(self) -> bool:
        """Return whether somebody else has closed the descriptor."""
        return not self._share.reader.ours()

    def ring(self) -> None:
        """Look at the queue after a take: nothing there, nothing to read."""
        share = self._share
        if lib.shmq_depth(share.client.ctx, share.qref) == 0:
            share.quiet()
            share.look()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            if self._pid != os.getpid():
                self._share.close()  # inherited; it rings in the parent
            else:
                self._share.stop()


class _Share:
    """What the thread knows: nothing that would keep the queue alive."""

    def __init__(self, client: Client, qref: int) -> None:
        self.client, self.qref = client, qref
        reader, writer = pipe()
        self.reader, self._writer = Kept(reader), Kept(writer)
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._looks = threading.Lock()
        self._looks.acquire()
        self._stopped = False

    def quiet(self) -> None:
        with contextlib.suppress(OSError):  # it was quiet
            self._drain()

    def _drain(self) -> None:
        while self.reader.ours() and os.read(self.reader.fd, 64):
            pass

    def look(self) -> None:
        """Tell the thread that somebody has looked."""
        with contextlib.suppress(RuntimeError):  # it has not heard of the last one yet
            self._looks.release()

    def _await_look(self, timeout: float = -1) -> bool:
        return self._looks.acquire(timeout=timeout)

    def close(self) -> None:
        self.reader.close()
        self._writer.close()

    def stop(self) -> None:
        self._stopped = True
        self.look()
        if not self.client.closed:
            lib.shmq_wake_queue(self.client.ctx, self.qref)

    def serve(self) -> None:
        ctx = self.client.ctx
        try:
            while not self._stopped:
                rc = lib.shmq_wait_items(ctx, self.qref, 0, 0)
                depth = lib.shmq_depth(ctx, self.qref)
                if (depth == 0 and rc >= 0) or rc == lib.SHMQ_INTR:
                    continue
                self._await_look(0)  # of the time before
                if not self._writer.ours():
                    return
                with contextlib.suppress(BlockingIOError):  # it rings already
                    os.write(self._writer.fd, b"!")
                if depth <= 0:
                    return  # shut down, or gone: the next get says so, for good
                while not self._await_look(PATIENCE_S) and not self._stopped:
                    if lib.shmq_depth(ctx, self.qref) == 0:
                        self.quiet()
                        break
        finally:
            while not self._stopped:
                self._await_look()
            self.close()
