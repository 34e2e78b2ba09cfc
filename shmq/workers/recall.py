"""Recall: an Executor's owner as one more taker of its own queue of calls.

It takes what is ready, and claims what workers have only read ahead, until there is nothing of either:
then all that it has not got is begun. Each call is taken by the core's own protocol, so exactly one
taker gets it, however many recall and work at once.

Everything is read ahead, never started: taking it back costs a call no attempt. An exception at any
moment (Ctrl-C in the thread that cancels) leaves nothing taken and not accounted for: what is in the
grip is either in ``home`` and acked, or goes back.
"""

from __future__ import annotations

from typing import Any

from shmq._native import ffi, lib
from shmq.queue import Queue
from shmq.workers import wire

__all__ = ["Recall"]

GRIP = 256


class Recall:
    """Takes calls back from ``queue``. Not for two threads at once."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def all_into(self, home: dict[int, tuple[bytes, int]]) -> None:
        """Take all that no worker has begun: {number: (payload, attempts that are over)}."""
        queue = self._queue
        ctx, qref = queue._client.ctx, queue._qref
        grip = ffi.new("shmq_delivery[]", GRIP)
        while True:
            try:
                n = lib.shmq_take(ctx, qref, GRIP, lib.SHMQ_TAKE_AHEAD, grip)
                for i in range(n):
                    _one(ctx, grip + i, home)
            except BaseException:
                _let_go(ctx, grip, home)
                raise
            if n > 0:
                continue
            # With a deadline that is over it does not sleep, but claims one call that was read ahead.
            if n != lib.SHMQ_EMPTY or lib.shmq_wait_items(ctx, qref, 1, 0) != lib.SHMQ_OK:
                return


def _one(ctx: Any, d: Any, home: dict[int, tuple[bytes, int]]) -> None:
    payload = bytes(ffi.buffer(d.data, d.size))
    number = wire.number_of(payload)
    attempts = wire.before(payload) + d.attempt - 1
    home[number] = (wire.again(payload, attempts) if attempts else payload), attempts
    if lib.shmq_ack(ctx, d, 1) < 0:  # claimed by an idle worker meanwhile
        del home[number]


def _let_go(ctx: Any, grip: Any, home: dict[int, tuple[bytes, int]]) -> None:
    for i in range(GRIP):
        d = grip + i
        if d.ctl:  # else never filled, or settled
            number = wire.number_of(ffi.buffer(d.data, d.size))
            if lib.shmq_release(ctx, d) >= 0:
                home.pop(number, None)
