"""A descriptor that is readable while a queue has items: for select, epoll, `connection.wait`.

The core's futexes cannot be waited on by select. Who asks for a descriptor gets an eventfd and a
thread that waits on its behalf; who does not, has neither. The thread belongs to the process that
asked. Each take of this process looks whether to quiet the bell; when other processes take all
items, it falls silent within `PATIENCE_S`.
"""

from __future__ import annotations

import contextlib
import os
import threading

from shmq._native import lib
from shmq.client import Client

PATIENCE_S = 0.1


class Bell:
    """An eventfd that says whether a queue has items."""

    def __init__(self, client: Client, qref: int) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pid = os.getpid()
        self._share = _Share(client, qref, self.fd)
        threading.Thread(target=self._share.serve, name="shmq-bell", daemon=True).start()

    def ring(self) -> None:
        """Look at the queue after a take: nothing there, nothing to read."""
        share = self._share
        if lib.shmq_depth(share.client.ctx, share.qref) == 0:
            share.quiet()
            share.looked.set()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            if self._pid != os.getpid():
                os.close(self.fd)  # inherited; it rings in the parent
            else:
                self._share.stop()


class _Share:
    """What the thread knows: nothing that would keep the queue alive."""

    def __init__(self, client: Client, qref: int, fd: int) -> None:
        self.client, self.qref, self.fd = client, qref, fd
        self.looked = threading.Event()
        self._stopped = False

    def quiet(self) -> None:
        with contextlib.suppress(OSError):  # it was quiet
            os.eventfd_read(self.fd)

    def stop(self) -> None:
        self._stopped = True
        self.looked.set()
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
                self.looked.clear()
                os.eventfd_write(self.fd, 1)
                if depth <= 0:
                    return  # shut down, or gone: the next get says so, for good
                while not self.looked.wait(PATIENCE_S) and not self._stopped:
                    if lib.shmq_depth(ctx, self.qref) == 0:
                        self.quiet()
                        break
        finally:
            while not self._stopped:
                self.looked.wait()
                self.looked.clear()
            os.close(self.fd)
