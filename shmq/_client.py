"""This process's attachment to a broker: one `Client` per (process, broker), shared and counted.

    connect()      finds the cached client or attaches a new one; each connect() is one count
    close()        takes one count away; the last one detaches: unsettled deliveries go back
    reattach()     after a fork: the context reads as zeros in the child, every call on it says
                   SHMQ_E_FORKED, and the same Client object attaches anew (`generation` + 1)

Life of the mapping. Detaching gives back everything that other processes could miss, but the
memory stays mapped until the Client object itself is gone: whoever keeps an address into the
segment (a view, a loan, a thread inside a call) keeps the Client, and never reads unmapped memory.

At interpreter exit the process detaches, silently. A process that ends without that (os._exit,
SIGKILL) is found dead by the supervisor, and the same happens for it. So it is when threads of the
program still run at exit: daemon threads, which may sit in a get. They are not torn out of it, but
stay there, as in the standard library's queues, until the process is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from shmq._descriptors import SCARCE, limit_reached
from shmq._locks import Lock
from shmq._native import ffi, lib
from shmq._segment import Segment, open_segment, owners_alive
from shmq._segment.refusals import refusal
from shmq.errors import RESULTS, BrokerNotRunning, Detached, ShmqError, explain

__all__ = ["ADAPTIVE", "Client", "client_of", "context_of", "record_of"]

ADAPTIVE = (1 << 64) - 1  # spin before sleeping as long as spinning pays, 50 µs at most

# rc -> its name in the header; the exceptions are in errors.RESULTS by name.
RC_NAMES: dict[int, str] = {
    int(value): name for value, name in ffi.typeof("enum shmq_rc").elements.items()
}

# What a handle (queue, topic, consumer, mp.Queue) keeps for the package. Its users do not see it: it is asked for here.
client_of: Callable[[Any], Client] = attrgetter("_client")
record_of: Callable[[Any], int] = attrgetter("_qref")  # the reference of its record in the segment
context_of: Callable[[Any], int] = attrgetter("_ctx")  # the context in C, as an address

_lock = Lock()
_clients: weakref.WeakValueDictionary[str, Client] = weakref.WeakValueDictionary()


class Client:
    """One attachment. `ctx` is its context in C, `address` the same as an integer.

    Both change when `generation` does: whoever keeps a copy compares the generation first.
    """

    def __init__(self, segment: Segment, role: int | None = None) -> None:
        """Map ``segment`` and attach to it as ``role`` (default: a client)."""
        self.name: str = segment.name
        self.segment = segment
        self.role: int = int(lib.SHMQ_CLIENT) if role is None else role
        self.generation = 0
        self.pid = 0
        self.ctx: Any = ffi.NULL
        self.address = 0
        self._users = 0
        self._closed = False
        # Bound here: at interpreter exit module globals may be gone before the last Client.
        self._free = (lib.shmq_detach, lib.shmq_unmap, lib.shmq_ctx_delete)
        self._attach()

    @classmethod
    def connect(cls, name: str, role: int | None = None) -> Client:
        """Return this process's client of the broker ``name``, attached.

        Raises:
            BrokerNotRunning: there is no such broker (of this user, on this host).
            LayoutMismatch, CorruptSegment, ForeignSegment: there is something else of that name.
            LimitReached: as many processes are attached as a broker can have.
        """
        with _lock:
            client = _clients.get(name)
            if client is not None and not client._closed and client.segment.current():
                if client.pid != os.getpid():
                    client.reattach()
            else:
                client = cls(open_segment(name), role)
                _clients[name] = client
            client._users += 1
            return client

    def retain(self) -> Client:
        """Count one more user of this attachment."""
        with _lock:
            self._users += 1
        return self

    def close(self) -> None:
        """Take one user away; the last one detaches this process. Never raises."""
        with _lock:
            self._users -= 1
            if self._users <= 0:
                self.detach()

    def detach(self) -> None:
        """Detach now, whoever else uses this client: leases go back, memory is returned."""
        with _lock:
            if _clients.get(self.name) is self:
                del _clients[self.name]
            if self._closed:
                return
            self._closed = True
            if self.pid == os.getpid():
                lib.shmq_detach(self.ctx)
                self._last_one_out()

    def _last_one_out(self) -> None:
        # With supervisor and sidecar killed, nobody else takes an anonymous broker's segment away.
        info = ffi.new("shmq_segment_info *")
        if self.role != lib.SHMQ_CLIENT or lib.shmq_segment_snapshot(self.ctx, info) != 0:
            return
        others = [o for o in owners_alive(self.ctx) if o.record != lib.shmq_self(self.ctx)]
        if info.anonymous and not others and self.segment.claim():
            self.segment.unlink()

    @property
    def closed(self) -> bool:
        """True once this process has detached."""
        return self._closed

    def reattach(self) -> None:
        """Attach anew in a forked child; does nothing where the attachment is this process's own."""
        with _lock:
            if self._closed:
                raise Detached(
                    explain(
                        f"broker {self.name!r}",
                        "a closed connection",
                        "an open one",
                        "connect again: shmq.connect(name)",
                    )
                )
            if self.pid == os.getpid() and lib.shmq_attached(self.ctx) != lib.SHMQ_E_FORKED:
                return
            # The old context stays allocated: other handles may still hold its address, and must
            # read "forked" there rather than crash.
            self._attach()

    def _attach(self) -> None:
        ctx = lib.shmq_ctx_new()
        if not ctx:
            raise ShmqError(
                explain("context", "no memory for it", "4 MiB", "free memory, or raise `ulimit -v`")
            )
        try:
            self.segment.map(ctx)
            rc = lib.shmq_verify(ctx)
            if rc != lib.SHMQ_OK:
                detail = ffi.new("shmq_detail *")
                lib.shmq_ctx_detail(ctx, detail)
                raise refusal(self.name, self.segment.provider, rc, detail, self.segment.size)
            self._check(ctx, lib.shmq_attach(ctx, self.role), f"attaching to {self.name!r}")
        except BaseException:
            lib.shmq_unmap(ctx)
            lib.shmq_ctx_delete(ctx)
            raise
        self.ctx = ctx
        self.address = int(ffi.cast("uintptr_t", ctx))
        self.generation += 1
        self.pid = os.getpid()
        _register_multiprocessing_exit()

    # ---- results ---------------------------------------------------------------------------

    def call(self, function: Callable[..., int], *arguments: Any) -> int:
        """Return ``function(ctx, *arguments)``; after a fork, attach anew and call again."""
        rc = function(self.ctx, *arguments)
        if rc == lib.SHMQ_E_FORKED:
            self.reattach()
            rc = function(self.ctx, *arguments)
        return rc

    def check(self, rc: int, what: str, **facts: object) -> int:
        """Return ``rc`` if it is not negative, else raise what it stands for.

        ``what`` names the object of the call, ``facts`` say more about it in the text.
        """
        if rc >= 0:
            return rc
        return self._check(self.ctx, rc, what, facts)

    @staticmethod
    def _check(ctx: Any, rc: int, what: str, facts: dict[str, object] | None = None) -> int:
        if rc >= 0:
            return rc
        raise error_of(rc, what, ctx, facts or {})

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"generation {self.generation}"
        return f"<shmq client of broker {self.name!r}, {state}>"

    def __reduce__(self) -> Any:
        return _reconnect, (self.name,)

    def __del__(self) -> None:
        # Only the process that made the context frees it; a child's copy of the address points to
        # a page of zeros without a mapping behind it.
        if getattr(self, "pid", 0) != os.getpid() or not self.ctx:
            return
        detach, unmap, delete = self._free
        if not self._closed:
            self._closed = True
            detach(self.ctx)
            with contextlib.suppress(Exception):
                self._last_one_out()
        unmap(self.ctx)
        delete(self.ctx)
        self.segment.close()


def _reconnect(name: str) -> Client:
    return Client.connect(name)


def error_of(rc: int, what: str, ctx: Any, facts: dict[str, object]) -> ShmqError:
    """Return the exception for a negative result, its text completed by what the core noted."""
    code = RC_NAMES.get(rc, f"result {rc}")
    if code in ("SHMQ_CLOSED", "SHMQ_GONE") and ctx and _shut_down(ctx):
        return BrokerNotRunning(
            explain(
                what,
                "a broker that was shut down",
                "a running one",
                "start it again (Broker(name) or `shmq up`) and connect anew",
            )
        )
    kind, found, expected, advice = RESULTS.get(
        code, (ShmqError, f"the unknown result {rc}", "a known one", "report this as a bug")
    )
    if rc <= lib.SHMQ_E_NOMEM and ctx:
        detail = ffi.new("shmq_detail *")
        lib.shmq_ctx_detail(ctx, detail)
        found = _with_detail(code, found, detail)
        if code == "SHMQ_E_SYS" and detail.sys_errno in SCARCE:
            return limit_reached(what, found)
        if code == "SHMQ_E_NOMEM" and ffi.string(lib.shmq_what(detail.what)) == b"table of ids":
            found = f"dedup_capacity reached, {detail.expected:,} ids within the dedup_window"
            expected = "room for one more id"
            advice = "create the queue with a larger dedup_capacity or a shorter dedup_window"
    if facts:
        found += " (" + ", ".join(f"{key} {value}" for key, value in facts.items()) + ")"
    return kind(explain(what, found, expected, advice))


def _shut_down(ctx: Any) -> bool:
    info = ffi.new("shmq_segment_info *")
    return bool(lib.shmq_segment_snapshot(ctx, info) == lib.SHMQ_OK and info.closing)


def _with_detail(code: str, found: str, detail: Any) -> str:
    if code == "SHMQ_E_NOMEM" and ffi.string(lib.shmq_what(detail.what)) == b"memory limit":
        return f"memory_limit, {detail.expected:,} bytes, in use"
    if code == "SHMQ_E_HELD" and detail.expected:
        return f"{detail.expected:,} unsettled deliveries in this process"
    if code == "SHMQ_E_OWNERS" and detail.expected:
        return f"{found} ({detail.expected:,})"
    if code in ("SHMQ_E_SYS", "SHMQ_E_NOMEM") and detail.sys_errno:
        return f"{found} ({os.strerror(detail.sys_errno)}, errno {detail.sys_errno})"
    if code == "SHMQ_E_TOOBIG" and detail.found:
        return f"{detail.found} bytes, above the limit of {detail.expected}"
    if code in ("SHMQ_E_CORRUPT", "SHMQ_E_LAYOUT", "SHMQ_E_PIDNS") and detail.what:
        where = ffi.string(lib.shmq_what(detail.what)).decode()
        return f"{found} ({where} is {detail.found:#x}, not {detail.expected:#x})"
    return found


# ---- end of the process ---------------------------------------------------------------------------


def others_run() -> bool:
    """Return whether threads of the program run beside this one; shmq's own end by themselves."""
    ours = {thread.ident for thread in threading.enumerate() if thread.name.startswith("shmq-")}
    return bool(sys._current_frames().keys() - ours - {threading.get_ident()})


def _detach_all() -> None:
    with contextlib.suppress(Exception):
        if others_run():
            for client in list(_clients.values()):
                if client.pid == os.getpid() and not client._closed:
                    client._last_one_out()
            return
        for client in list(_clients.values()):
            if client.pid == os.getpid():
                client.detach()


atexit.register(_detach_all)

_finalized_pid = 0


def _register_multiprocessing_exit() -> None:
    # A child of multiprocessing ends by os._exit after its finalizers: atexit never runs there.
    global _finalized_pid
    util = sys.modules.get("multiprocessing.util")
    if util is not None and _finalized_pid != os.getpid():
        _finalized_pid = os.getpid()
        util.Finalize(None, _detach_all, exitpriority=-1000)
