"""The sidecar's loop: sleep on the timer word, do what `decide` says is due, sleep again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from shmq._client import Client
from shmq._native import ffi, lib
from shmq._segment import Segment
from shmq.sidecar.decide import (
    NEVER,
    REAP_ALONE,
    RESYNC,
    SECOND,
    SWEEP_AHEAD,
    TRIM_LOOK,
    Every,
    ExpirySweep,
    Timers,
    TrimRule,
    earliest,
    lease_period,
    must_end,
)

BATCH = 1024  # blocks per crossing into C
HOUSEKEEPING = SECOND


def run(segment: Segment) -> None:
    """Serve ``segment`` until its broker ends. Called in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sidecar = Sidecar(segment)
    signal.signal(signal.SIGTERM, sidecar.stop)
    sidecar.serve()
    lib.shmq_detach(sidecar.ctx)


class Duty(NamedTuple):
    """Something that the sidecar does now and then."""

    run: Callable[[int], bool]
    """does what is due at that time, if anything is; returns whether more is"""
    when: Callable[[], int] | None = None
    """when it is due next, NEVER: not at all; None: it is done in passing, and wakes nobody"""


class Sidecar:
    """One broker's sidecar."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.client = Client(segment, lib.SHMQ_SIDECAR)
        self.ctx: Any = self.client.ctx
        self._stopped = False
        self._over = False  # the broker is closing, or nobody is left
        self._timers = Timers()
        self._scan_from: int | None = 0  # a new sidecar knows nothing: look at all blocks
        self._expiry = ExpirySweep()
        self._sweep_from: int | None = None  # in the middle of a sweep for expired messages
        self._sweep_begun = 0
        self._leases = Every(NEVER)
        self._housekeeping = Every(HOUSEKEEPING)
        self._reap = Every(NEVER)
        self._trim_look = Every(TRIM_LOOK)
        self._trim = TrimRule()
        self._resync = Every(RESYNC)
        self._duties = [
            Duty(self._fire, self._timers.next_due),
            Duty(self._expire, lambda: self._expiry.next(self._next_expiry)),
            Duty(self._end_leases, self._leases.next),
            Duty(self._look_around, self._housekeeping.next),
            Duty(self._take_from_the_dead, self._reap.next),
            Duty(self._consider_trim),
            Duty(self._count_bytes_anew),
        ]
        self._bounded: list[int] = []  # qrefs of queues with max_bytes
        self._alone_since = NEVER
        self._seen = lib.shmq_read_word(self.ctx, lib.SHMQ_WORD_TIMER)  # as of the last step
        self._next_expiry = lib.shmq_next_expiry(self.ctx)
        self._idx = ffi.new("uint32_t[]", BATCH)
        self._due = ffi.new("uint64_t[]", BATCH)
        self._u32 = ffi.new("uint32_t *")
        self._u64 = ffi.new("uint64_t *")
        self._earliest = ffi.new("uint64_t *")
        self._info = ffi.new("shmq_segment_info *")
        self._owner = ffi.new("shmq_owner_info *")
        self._queue = ffi.new("shmq_queue_info *")

    def stop(self, number: int, frame: object) -> None:
        """Handle SIGTERM: end after the current step."""
        self._stopped = True

    def serve(self) -> None:
        """Run until the broker is closing, or nobody is left."""
        while not self._stopped:
            seen = lib.shmq_read_word(self.ctx, lib.SHMQ_WORD_TIMER)
            until = self.step(seen)
            if until == NEVER or self._stopped:
                return
            lib.shmq_wait_word(self.ctx, lib.SHMQ_WORD_TIMER, seen, until)

    def step(self, seen: int) -> int:
        """Do what is due. Returns when to come again, past: at once; NEVER: not any more.

        ``seen`` is the timer word from before: what changes it meanwhile ends the sleep.
        """
        known = len(self._timers)
        more = self._collect()
        now = lib.shmq_now()
        expiry = lib.shmq_next_expiry(self.ctx)
        if seen != self._seen and len(self._timers) == known and expiry == self._next_expiry:
            # Woken, but for no message: a queue with an ack_timeout has been made.
            self._housekeeping.no_later_than(now)
        self._seen = seen
        for duty in self._duties:
            more = duty.run(now) or more
            if self._over:
                return NEVER
        if more:
            return now
        self._next_expiry = lib.shmq_next_expiry(self.ctx)
        return earliest(*(duty.when() for duty in self._duties if duty.when is not None))

    def _end_leases(self, now: int) -> bool:
        if self._leases.due(now):
            lib.shmq_leases_expire(self.ctx, now, self._u64)
            self._leases.no_later_than(int(self._u64[0]))
        return False

    def _take_from_the_dead(self, now: int) -> bool:
        if self._reap.due(now):
            lib.shmq_reap(self.ctx, 1)
        return False

    def _count_bytes_anew(self, now: int) -> bool:
        if self._resync.due(now):
            for qref in self._bounded:
                lib.shmq_bytes_resync(self.ctx, qref)
        return False

    # ---- delayed blocks --------------------------------------------------------------------

    def _collect(self) -> bool:
        n = lib.shmq_timers_collect(self.ctx, self._idx, self._due, BATCH, self._u32)
        self._take_in(n)
        if self._u32[0] & 1:
            self._scan_from = 0
        if self._scan_from is not None:
            self._u32[0] = self._scan_from
            n = lib.shmq_timers_scan(self.ctx, self._u32, self._idx, self._due, BATCH)
            self._take_in(n)
            reached = int(self._u32[0])
            self._scan_from = None if n < 0 or reached >= lib.SHMQ_BLOCKS else reached
            return self._scan_from is not None
        return n == BATCH

    def _take_in(self, n: int) -> None:
        for i in range(max(0, n)):
            self._timers.put(int(self._idx[i]), int(self._due[i]))

    def _fire(self, now: int) -> bool:
        due = self._timers.pop_due(now, BATCH)
        for block in due:
            self._u64[0] = now + SECOND
            rc = lib.shmq_timer_fire(self.ctx, block, now, self._u64)
            if rc not in (lib.SHMQ_OK, lib.SHMQ_STALE):  # not yet, or no room: later
                self._timers.put(block, max(int(self._u64[0]), now + 1_000_000))
        return len(due) == BATCH

    # ---- messages past their time to live -------------------------------------------------

    def _expire(self, now: int) -> bool:
        hint = lib.shmq_next_expiry(self.ctx)
        over = self._expiry.pop_due(now, BATCH)
        for i, block in enumerate(over):
            self._idx[i] = block
        if over:
            lib.shmq_expire(self.ctx, self._idx, len(over), now)
        if self._sweep_from is None:
            if not self._expiry.due(now, hint):
                return len(over) == BATCH
            self._sweep_from = 0
            self._sweep_begun = now
        # One slice at a time: timers are looked at in between.
        self._u32[0] = self._sweep_from
        soon = self._sweep_begun + SWEEP_AHEAD
        n = lib.shmq_expire_scan(
            self.ctx, self._u32, now, soon, self._idx, self._due, BATCH, self._earliest
        )
        for i in range(max(0, n)):
            self._expiry.put(int(self._idx[i]), int(self._due[i]))
        if n >= 0 and self._u32[0] < lib.SHMQ_BLOCKS:
            self._sweep_from = int(self._u32[0])
            return True
        self._sweep_from = None
        self._expiry.swept(self._sweep_begun, lib.shmq_now())
        return False

    # ---- housekeeping ----------------------------------------------------------------------

    def _look_around(self, now: int) -> bool:
        """Look at queues and processes, and whether there is anything left to live for."""
        if not self._housekeeping.due(now):
            return False
        lib.shmq_segment_snapshot(self.ctx, self._info)
        self._look_at_queues(now)
        lib.shmq_parked_sweep(self.ctx)
        supervisor, clients = self._look_at_owners()
        if supervisor:
            self._alone_since = NEVER
            self._reap.change(NEVER, now)
        else:
            self._alone_since = self._alone_since or now
            self._reap.change(REAP_ALONE, now)
        self._over = must_end(
            closing=bool(self._info.closing),
            linked=self.segment.current(),
            anonymous=bool(self._info.anonymous),
            supervisor=supervisor,
            clients=clients,
            alone_for=now - self._alone_since if self._alone_since else 0,
        )
        if self._over and self._info.anonymous and not self._info.closing:
            self.segment.unlink()  # nobody else is left to do it
        return False

    def _look_at_queues(self, now: int) -> None:
        timeouts = []
        self._bounded = []
        for index in range(self._info.queues):
            if lib.shmq_queue_snapshot(self.ctx, index, self._queue) != lib.SHMQ_OK:
                continue
            if self._queue.state not in (lib.SHMQ_Q_LIVE, lib.SHMQ_Q_CLOSED):
                continue
            timeouts.append(int(self._queue.options.ack_timeout_ns))
            if self._queue.options.max_bytes:
                qref = lib.shmq_queue_adopt(self.ctx, index)
                if qref >= 0:
                    self._bounded.append(qref)
        self._leases.change(lease_period(timeouts), now)

    def _look_at_owners(self) -> tuple[bool, int]:
        supervisor = False
        clients = 0
        for index in range(self._info.owners):
            lib.shmq_owner_snapshot(self.ctx, index, self._owner)
            if self._owner.state != lib.SHMQ_OWNER_ALIVE:
                continue
            if self._owner.role == lib.SHMQ_SUPERVISOR:
                dead = lib.shmq_owner_prove(self.ctx, index, 0) == lib.SHMQ_OK
                supervisor = supervisor or not dead
            elif self._owner.role == lib.SHMQ_CLIENT:
                clients += 1
        return supervisor, clients

    def _consider_trim(self, now: int) -> bool:
        if not self._trim_look.due(now):
            return False
        lib.shmq_segment_snapshot(self.ctx, self._info)
        keep = self._trim.decide(
            self.segment.memory_used(),
            int(self._info.blocks),
            int(self._info.free_blocks),
            self.segment.room(),
        )
        if keep is not None:
            lib.shmq_trim(self.ctx, keep)
            self._trim.trimmed(self.segment.memory_used())
        return False
