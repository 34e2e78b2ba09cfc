"""ItemsBase over cffi: the reference for native/accel/items.c, which behaves alike.

Small objects are pickled here where the accelerator has a shorter form for them; both read both.
"""

from __future__ import annotations

from typing import Any, NoReturn

from shmq._native._shmq import ffi, lib
from shmq._native.structs import deadline_of, message_struct

ALIGN = lib.SHMQ_ITEM_ALIGN


class ItemsBase:
    """The part of shmq.mp.Queue that is called for every item."""

    _client: Any
    _ctx_pointer: Any
    _qref: int
    _bell: Any
    _closed: bool
    _used: bool

    def __init__(self, plain: bool = True) -> None:
        self._plain = plain
        self._client = None
        self._ctx_pointer = ffi.NULL
        self._qref = 0
        self._bell = None
        self._closed = self._used = False

    def _bind(self, client: object, address: int, qref: int) -> None:
        self._client = client
        self._ctx_pointer = ffi.cast("shmq_ctx *", address)
        self._qref = qref

    @property
    def _ctx(self) -> int:
        return int(ffi.cast("uintptr_t", self._ctx_pointer))

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; return when it is in shared memory.

        Waits for room unless ``block`` is False; ``timeout`` seconds at most (None: for ever).
        Raises: queue.Full when the time is over; ValueError after close(), ShutDown after shutdown().
        """
        if not self._ctx_pointer or self._closed or type(obj) is not bytes:
            self._put_slow(obj, block, timeout)
            return
        deadline = None
        last = False
        while True:
            rc = self._send_bytes(obj)
            if rc >= 0:
                self._used = True
                return
            if rc != lib.SHMQ_FULL:
                self._put_slow(obj, block, timeout)
                return
            if deadline is None:
                deadline = deadline_of(block, timeout)
            if last or deadline == 1:
                self._full()
            rc = lib.shmq_wait_space(self._ctx_pointer, self._qref, deadline, (1 << 64) - 1)
            last = rc == lib.SHMQ_TIMEOUT

    def _send_bytes(self, data: bytes) -> int:
        m, _keep = message_struct(data, None, lib.SHMQ_DELAY_DEFAULT, 0, 0, None, None)
        return lib.shmq_publish(self._ctx_pointer, self._qref, m)

    def _put_some(self, items: list[Any] | tuple[Any, ...], start: int) -> tuple[int, int]:
        """Put what needs no pickle from ``start`` on: how many went, and the result that ended it."""
        sent = 0
        while start + sent < len(items) and self._ctx_pointer and not self._closed:
            item = items[start + sent]
            if type(item) is not bytes:
                break
            rc = self._send_bytes(item)
            if rc < 0:
                return sent, rc
            self._used = True
            sent += 1
        return sent, 0

    def get(self, block: bool = True, timeout: float | None = None, *, copy: bool = True) -> Any:
        """Take the next item, which is then nobody else's.

        Waits for one unless ``block`` is False; ``timeout`` seconds at most (None: for ever). With ``copy``
        False large buffers in it (arrays) are read-only views into shared memory, which stays until they are gone.
        Raises: queue.Empty when the time is over; ValueError after close(); ShutDown after shutdown(), when
            nothing is left.
        """
        if not self._ctx_pointer or self._closed or not self._plain or not copy:
            return self._get_slow(block, timeout, copy)
        deadline = None
        last = False
        while True:
            rc, obj = self._take()
            if rc > 0:
                if self._bell is not None:
                    self._bell.ring()
                return obj
            if rc != lib.SHMQ_EMPTY:
                return self._get_slow(block, timeout)
            if deadline is None:
                deadline = deadline_of(block, timeout)
            if last or deadline == 1:
                if self._bell is not None:
                    self._bell.ring()
                return self._none()
            rc = lib.shmq_wait_items(self._ctx_pointer, self._qref, deadline, (1 << 64) - 1)
            last = rc == lib.SHMQ_TIMEOUT

    def _take(self) -> tuple[int, Any]:
        d = ffi.new("shmq_delivery *")
        settled = True
        try:
            rc = lib.shmq_take(self._ctx_pointer, self._qref, 1, lib.SHMQ_TAKE_FREE, d)
            if rc <= 0:
                return rc, None
            settled = False
            try:
                obj = self._decode(d)
            except MemoryError:
                raise
            except Exception:
                settled = lib.shmq_ack(self._ctx_pointer, d, 1) is not None
                raise
            lib.shmq_ack(self._ctx_pointer, d, 1)
            settled = True
            return 1, obj
        finally:
            if not settled and d.ctl:
                lib.shmq_release(self._ctx_pointer, d)

    def _decode(self, d: Any) -> Any:
        if not d.meta_size:
            return ffi.buffer(d.data, d.size)[:]
        meta = ffi.buffer(d.meta, d.meta_size)[:]
        return self._load(meta, memoryview(ffi.buffer(d.data, d.size)).toreadonly())

    def _get_some(self, found: list[Any], n: int) -> int:
        """Append up to ``n`` items without waiting: how many, or why none."""
        got = 0
        rc = lib.SHMQ_EMPTY
        while got < n:
            rc, obj = self._take()
            if rc <= 0:
                break
            found.append(obj)
            got += 1
        if self._bell is not None:
            self._bell.ring()
        return got or rc

    def _send_parts(self, meta: bytes, parts: tuple[Any, ...], size: int) -> int:
        """Publish ``parts``, each at a multiple of 64 bytes; ``size`` includes the gaps."""
        loan = ffi.new("shmq_delivery *")
        rc = lib.shmq_loan(self._ctx_pointer, self._qref, size, len(meta), loan)
        if rc != lib.SHMQ_OK:
            return rc
        try:
            at = 0
            for part in parts:
                at += -at % ALIGN
                data = ffi.from_buffer(part)
                ffi.memmove(loan.data + at, data, len(data))
                at += len(data)
            m, _keep = message_struct(None, meta, lib.SHMQ_DELAY_DEFAULT, 0, 0, None, None)
            rc = lib.shmq_loan_publish(self._ctx_pointer, self._qref, loan, m)
        finally:
            if loan.ctl:
                lib.shmq_loan_abort(self._ctx_pointer, loan)
        return rc

    def _put_slow(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        raise NotImplementedError

    def _get_slow(self, block: bool = True, timeout: float | None = None, copy: bool = True) -> Any:
        raise NotImplementedError

    def _load(self, meta: bytes, view: memoryview) -> Any:
        raise NotImplementedError

    def _full(self) -> NoReturn:
        raise NotImplementedError

    def _none(self) -> NoReturn:
        raise NotImplementedError
