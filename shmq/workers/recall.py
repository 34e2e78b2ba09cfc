"""Recall: an Executor's owner as one more taker of its own queue of calls.

It takes what is ready, and claims what workers have only read ahead, until there is nothing of either:
then all that it has not got is begun. Each call is taken by the core's own protocol, so exactly one
taker gets it, however many recall and work at once.

Everything is read ahead, never started: taking it back costs a call no attempt. An exception of a signal
handler at any moment (Ctrl-C in the thread that cancels) leaves nothing taken and not accounted for. A
call is in the ledger as one that waits before its lease ends here, and the answers of the core are in a
list of ours before any other code can run: `list.extend` over `map` calls it without Python in between.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

from shmq._client import client_of, record_of
from shmq._native import ffi, lib
from shmq.queue import Queue
from shmq.workers import wire
from shmq.workers.ledger import Ledger

__all__ = ["Recall"]

GRIP = 256
# Others may have had what was there, each time; a damaged ring says for ever that it has something.
IN_VAIN = 10_000


class Recall:
    """Takes calls back from ``queue`` into ``ledger``. Not for two threads at once."""

    def __init__(self, queue: Queue, ledger: Ledger) -> None:
        self._queue = queue
        self._ledger = ledger

    def all(self) -> None:
        """Let all that no worker has begun wait again, in their order, before all others."""
        home: list[int] = []
        try:
            self._all_into(home)
        finally:
            self._ledger.all_home(home)

    def _all_into(self, home: list[int]) -> None:
        queue = self._queue
        ctx, qref = client_of(queue).ctx, record_of(queue)
        in_vain = 0
        while in_vain < IN_VAIN:
            n = self._handful(ctx, qref, home)
            in_vain = 0 if n > 0 else in_vain + 1
            # With a deadline that is over it does not sleep, but claims one call that was read ahead.
            if n <= 0 and (
                n != lib.SHMQ_EMPTY or lib.shmq_wait_items(ctx, qref, 1, 0) != lib.SHMQ_OK
            ):
                return

    def _handful(self, ctx: Any, qref: int, home: list[int]) -> int:
        grip = ffi.new("shmq_delivery[]", GRIP)
        numbers: list[int] = []
        answers: list[int] = []
        try:
            n: int = lib.shmq_take(ctx, qref, GRIP, lib.SHMQ_TAKE_AHEAD, grip)
            self._note(grip, max(0, n), numbers)
            grips = [grip + i for i in range(len(numbers))]
            answers.extend(map(lib.shmq_ack, repeat(ctx), grips, repeat(1)))
            self._strike(numbers, answers, home)
        except BaseException:
            answers += [-1] * (len(numbers) - len(answers))
            self._strike(numbers, answers, home)
            _let_go(ctx, grip)
            raise
        return n

    def _note(self, grip: Any, n: int, numbers: list[int]) -> None:
        for i in range(n):
            d = grip[i]
            payload = bytes(ffi.buffer(d.data, d.size))
            number = wire.number_of(payload)
            attempts = wire.before(payload) + d.attempt - 1
            numbers.append(number)
            self._ledger.come_home(
                number, wire.again(payload, attempts) if attempts else payload, attempts
            )

    def _strike(self, numbers: list[int], answers: list[int], home: list[int]) -> None:
        """Take those off the ledger again that have not come home: claimed by an idle worker meanwhile."""
        for number, answer in zip(numbers, answers, strict=True):
            if answer < 0:
                self._ledger.not_home(number)
            else:
                home.append(number)


def _let_go(ctx: Any, grip: Any) -> None:
    for i in range(GRIP):
        if grip[i].ctl:  # else never filled
            lib.shmq_release(ctx, grip + i)
