"""Feeder: calls into their queue, as many at a time as fit."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shmq._client import client_of
from shmq._native import lib
from shmq._sender import send_some, wait_for_room
from shmq.errors import OutOfSharedMemory
from shmq.queue import Queue
from shmq.serializers import Encoded
from shmq.workers.crew import Crew
from shmq.workers.ledger import Ledger

__all__ = ["Feeder"]

PAUSE_S = 0.002  # between two looks whether memory has come back

Failed = Sequence[tuple[int, BaseException]]


class Feeder:
    """Publishes calls to ``queue``, for the workers of ``crew``. Not for two threads at once."""

    def __init__(self, queue: Queue, ledger: Ledger, crew: Crew) -> None:
        self._queue = queue
        self._ledger = ledger
        self._crew = crew

    def send(self, entries: Sequence[tuple[int, bytes | Encoded | bytearray]]) -> Failed:
        """Publish calls; return those that fail. Some may have to wait for memory."""
        at = 0
        last = False
        failed: list[tuple[int, BaseException]] = []
        while at < len(entries):
            small = []
            for _, payload in entries[at:]:
                if type(payload) is not bytes:
                    break
                small.append(payload)
            try:
                if small:
                    at += self._small(small)
                else:
                    self._large(entries[at][1])
                    at += 1
                last = False
            except OutOfSharedMemory as error:
                if self._wait_for_memory(entries[at:], len(failed)):
                    return failed
                if not last:
                    last = not self._in_hand()
                    continue
                failed.append((entries[at][0], error))
                at, last = at + 1, False
            except Exception as error:  # noqa: BLE001 - too large, not readable any more: the call's failure
                failed.append((entries[at][0], error))
                at, last = at + 1, False
        return failed

    def _wait_for_memory(
        self, rest: Sequence[tuple[int, bytes | Encoded | bytearray]], failed: int
    ) -> bool:
        """Let the rest wait if others will be done, and give memory back; return whether they will."""
        with self._ledger.lock:
            if self._ledger.out - failed <= len(rest):
                return False
            self._ledger.put_back(rest)
            return True

    def _in_hand(self) -> bool:
        """Return whether a call that is done still has its memory: its worker answers, then settles, then frees.

        In the middle of that nothing is unsettled any more: the worker says itself when it is over. And what another
        worker had read ahead, and lost to an idle one, is free when that worker has gone on.
        """
        ctx = client_of(self._queue).ctx
        if not (
            self._queue.stats().unsettled or self._crew.at_work() or lib.shmq_leases_late(ctx) > 0
        ):
            return False
        time.sleep(PAUSE_S)
        return True

    def _small(self, payloads: list[bytes]) -> int:
        queue = self._queue
        while (rc := send_some(queue, payloads)) <= 0:
            if rc == lib.SHMQ_FULL:
                wait_for_room(queue, rc, 0, False)
            else:
                client_of(queue).check(rc, f"queue {queue.name!r}")
        return rc

    def _large(self, payload: bytes | Encoded | bytearray) -> None:
        if isinstance(payload, Encoded):
            with self._queue.loan(payload.size) as buffer:
                payload.write(buffer)
        else:
            self._queue.publish(payload)
