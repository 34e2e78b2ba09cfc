"""Loan: a message written where it will be read, in shared memory.

The accelerator has its own for the plain case (native/accel/loan.c); what that one does not finish comes here, through
`Queue._loan_slow`, `Queue._loan_wait` and `Queue._loan_refused`.
"""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from shmq._client import Client, client_of, record_of
from shmq._native import ffi, lib, message_struct
from shmq._sender import bind_again, encode_for, wait_for_room
from shmq.errors import explain
from shmq.message import deadline_of, message_of

if TYPE_CHECKING:
    from shmq.queue import Queue

__all__ = ["Loan", "publish_lent", "refuse_referred"]


class Loan:
    """Memory of a message to be; see `Queue.loan`."""

    __slots__ = ("_buffer", "_deadline", "_fields", "_loan", "_nbytes", "_queue", "_view", "id")

    def __init__(self, queue: Queue, nbytes: int, fields: dict[str, Any]) -> None:
        timeout = fields.pop("timeout", None)
        self._queue = queue
        self._nbytes = nbytes
        if fields:
            self._fields = encode_for(queue, message_of(b"", fields))[1:]
        else:  # as for a plain Message, without making one
            self._fields = (None, lib.SHMQ_DELAY_DEFAULT, 0, 0, None, None)
        self._deadline = deadline_of(timeout)
        self._loan: Any = None
        self._buffer: Any = None
        self._view: memoryview | None = None

    def __enter__(self) -> memoryview:
        if self._loan is not None:
            raise RuntimeError(
                explain("loan", "it was entered before", "a new one", "call queue.loan() again")
            )
        queue = self._queue
        loan = ffi.new("shmq_delivery *")
        meta = self._fields[0]
        size = len(meta) if meta is not None else 0
        try:
            return self._lend(loan, size)
        except BaseException:
            # A signal handler may raise right after the call that took the block.
            _abort(client_of(queue), client_of(queue).ctx, loan)
            raise

    def _lend(self, loan: Any, size: int) -> memoryview:
        queue, client = self._queue, client_of(self._queue)
        rc = lib.shmq_loan(client.ctx, record_of(queue), self._nbytes, size, loan)
        if rc == lib.SHMQ_E_FORKED:
            bind_again(queue)
            rc = lib.shmq_loan(client.ctx, record_of(queue), self._nbytes, size, loan)
        client.check(rc, f"queue {queue.name!r}", size=self._nbytes)
        self._loan = loan
        ctx = client.ctx
        # Whatever becomes of this object, the block goes back when nothing can write to it any more.
        pointer = ffi.gc(ffi.cast("char *", loan.data), lambda _: _abort(client, ctx, loan))
        buffer = ffi.buffer(pointer, self._nbytes)
        self._buffer = weakref.ref(buffer)
        self._view = memoryview(buffer)
        # Somebody may keep this frame: a debugger, or an exception raised in a finalizer that ran below it.
        del buffer, pointer
        return self._view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        view, self._view = self._view, None
        if view is None:
            return
        if error is None:
            self._publish_unless_referred(view)
        else:
            _release(view)

    def _publish_unless_referred(self, view: memoryview) -> None:
        loan, queue = self._loan, self._queue
        m, _keep = message_struct(None, *self._fields)
        m.size = self._nbytes
        own = ffi.new("shmq_delivery *", loan[0])
        loan.ctl = 0  # from here on the finalizer leaves the block to us
        try:
            if not _release(view) or self._buffer() is not None:
                loan[0] = own[0]
                refuse_referred(queue.name)
            publish_lent(queue, own, m, self._deadline)
        except BaseException:
            if not loan.ctl:
                _abort(client_of(queue), client_of(queue).ctx, own)
            raise
        self.id: int = m.id


def publish_lent(queue: Queue, own: Any, m: Any, deadline: int) -> None:
    """Publish the block that ``own`` names, wait for room until ``deadline``; the block goes back if that fails."""
    client = client_of(queue)
    try:
        _publish_in_time(queue, client, own, m, deadline)
    except BaseException:
        lib.shmq_loan_abort(client.ctx, own)
        raise


def _publish_in_time(queue: Queue, client: Client, own: Any, m: Any, deadline: int) -> None:
    # Not in the `try`: in Python 3.12 an interrupt at the loop's end would pass by its handler.
    last = False
    while (rc := lib.shmq_loan_publish(client.ctx, record_of(queue), own, m)) < 0:
        last = wait_for_room(queue, rc, deadline, last)


def refuse_referred(name: str) -> NoReturn:
    """Raise what a loan of queue ``name`` raises whose buffer is still referred to."""
    raise BufferError(
        explain(
            f"loan of queue {name!r}",
            "slices or arrays that still refer to the buffer",
            "none at the end of the block",
            "del them before; nothing was published",
        )
    )


def _release(view: memoryview) -> bool:
    try:
        view.release()
    except BufferError:
        return False
    return True


def _abort(client: Client, ctx: Any, loan: Any) -> None:
    try:
        if loan.ctl and not client.closed:
            lib.shmq_loan_abort(ctx, loan)
    except BaseException:  # noqa: BLE001 - a finalizer has nobody to tell
        pass
