"""What the sidecar has to do and when: rules without clock, memory or processes.

All times are nanoseconds of one monotonic clock, 0 = never. Each rule is asked what is due; the loop
does it, and tells the rule what came of it.
"""

from __future__ import annotations

import heapq

MS = 1_000_000
SECOND = 1_000 * MS
NEVER = 0

LEASE_LEAST = 10 * MS
LEASE_MOST = SECOND
REAP_ALONE = 250 * MS  # between two looks for dead processes while there is no supervisor
RESYNC = 5 * SECOND
TRIM_LOOK = 2 * SECOND
TRIM_KEEP = 16 << 20  # free memory of a size class that is not worth giving back, bytes,
TRIM_KEEP_SHARE = 128  # and at most this part of the file system
TRIM_SHORT = 8  # less than this part of the file system is free: others need it more
SWEEP_REST = 9  # a sweep for expired messages rests so many times as long as it took
SWEEP_LEAD = 10 * MS  # a sweep begins so long before the expiry for which it is made
SWEEP_AHEAD = 100 * MS  # what expires within so long of a sweep is remembered by it
SWEEP_BLIND = 10 * SECOND  # between sweeps that nothing asks for
ANONYMOUS_PATIENCE = SECOND // 2  # with neither supervisor nor client
ALONE_PATIENCE = 30 * SECOND  # with neither supervisor nor client


class Timers:
    """Blocks that wait for their time: a heap, with the latest word on each block winning."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._due: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def put(self, block: int, due: int) -> None:
        """Note that ``block`` is due at ``due``; replaces what was noted before."""
        if self._due.get(block) == due:
            return
        self._due[block] = due
        heapq.heappush(self._heap, (due, block))
        if len(self._heap) > 64 + 4 * len(self._due):
            self._heap = [(due, block) for block, due in self._due.items()]
            heapq.heapify(self._heap)

    def pop_due(self, now: int, most: int) -> list[int]:
        """Take out and return at most ``most`` blocks that are due, the earliest first."""
        found: list[int] = []
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            due, block = heapq.heappop(self._heap)
            if self._due.get(block) == due:  # else outdated by a later put
                del self._due[block]
                found.append(block)
        return found

    def next_due(self) -> int:
        """Return when the next block is due; NEVER when there is none."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else NEVER


class ExpirySweep:
    """When to look at every block for expired messages, and those that will be soon.

    A sweep costs a look at every block there is: it may begin SWEEP_LEAD before the next expiry that
    the segment knows of, but rests after each for SWEEP_REST times as long as it took. What expires
    within SWEEP_AHEAD of a sweep is remembered by it and ends at its time without another. Without any reason there is one
    every SWEEP_BLIND: what the segment knows is a hint.
    """

    def __init__(self) -> None:
        self._soon: list[tuple[int, int]] = []  # (when, block), a heap
        self._rest_until = 1
        self._blind_at = 1  # a new sidecar knows nothing: at once

    def due(self, now: int, hint: int) -> bool:
        """Return whether to sweep now. ``hint``: when the next message expires, as far as known."""
        return now >= self._rest_until and (now >= self._blind_at or hint <= now + SWEEP_LEAD)

    def swept(self, begun: int, ended: int) -> None:
        """Note how long a sweep took."""
        self._rest_until = ended + SWEEP_REST * (ended - begun)
        self._blind_at = max(begun + SWEEP_BLIND, self._rest_until)

    def put(self, block: int, at: int) -> None:
        """Remember that the message in ``block`` expires at ``at``."""
        heapq.heappush(self._soon, (at, block))

    def pop_due(self, now: int, most: int) -> list[int]:
        """Take out and return at most ``most`` blocks whose message has expired."""
        found: list[int] = []
        while self._soon and self._soon[0][0] <= now and len(found) < most:
            found.append(heapq.heappop(self._soon)[1])
        return found

    def next(self, hint: int) -> int:
        """Return when there is something to do."""
        sweep = max(self._rest_until, min(self._blind_at, max(1, hint - SWEEP_LEAD)))
        return min(sweep, self._soon[0][0]) if self._soon else sweep


class TrimRule:
    """Free memory goes back to the system when a burst is over, not while it may come back.

    It is over when the blocks in use have not risen for one look and most of the memory is free.
    Where the file system is short of memory all that is free goes back at once: another process, or
    another broker, may be refused what it needs.
    """

    def __init__(self, keep: int = TRIM_KEEP) -> None:
        self.keep = keep
        self._used_blocks = 0
        self._trimmed_at = (-1, -1)

    def decide(
        self, memory_used: int, blocks: int, free_blocks: int, room: tuple[int, int] | None = None
    ) -> int | None:
        """Return how many free bytes of a size class to keep in a trim now; None for no trim.

        ``room``: size of the file system and how much of it is free; None when nothing bounds it.
        """
        used_blocks = blocks - free_blocks
        calm = used_blocks <= self._used_blocks
        self._used_blocks = used_blocks
        if free_blocks == 0 or (memory_used, used_blocks) == self._trimmed_at:
            return None  # nothing to give, or as when it was last tried
        keep = self.keep
        if room is not None:
            size, free = room
            if free * TRIM_SHORT < size:
                return 0
            keep = min(keep, size // TRIM_KEEP_SHARE)
        if not calm or memory_used <= keep or free_blocks * 2 < blocks:
            return None
        return keep

    def trimmed(self, memory_used: int) -> None:
        """Note what is in use after a trim."""
        self._trimmed_at = (memory_used, self._used_blocks)


def lease_period(ack_timeouts: list[int]) -> int:
    """Return how often to look for leases: once per shortest ack_timeout. NEVER without any.

    A lease that starts right after a look ends no sooner than the next one, which then knows its
    exact end (only one shortened by `touch` may be seen late).
    """
    timed = [timeout for timeout in ack_timeouts if timeout]
    if not timed:
        return NEVER
    return min(LEASE_MOST, max(LEASE_LEAST, min(timed)))


def earliest(*times: int) -> int:
    """Return the earliest of some times; NEVER is none of them."""
    return min((time for time in times if time != NEVER), default=NEVER)


class Every:
    """Something that is due every ``period`` ns (NEVER = not at all), the first time at once."""

    def __init__(self, period: int) -> None:
        self.period = period
        self._at = 1

    def due(self, now: int) -> bool:
        """Return whether it is time; if so, the next time is one period after ``now``."""
        if self.period == NEVER or now < self._at:
            return False
        self._at = now + self.period
        return True

    def next(self) -> int:
        """Return when it is due; NEVER if not at all."""
        return NEVER if self.period == NEVER else self._at

    def change(self, period: int, now: int) -> None:
        """Change the period; a shorter one counts from ``now``."""
        if period != self.period:
            self.period = period
            self._at = min(self._at, now + period) if period != NEVER else self._at

    def no_later_than(self, at: int) -> None:
        """Be due at ``at`` if not before."""
        if at != NEVER:
            self._at = min(self._at, at)


def must_end(
    *, closing: bool, linked: bool, anonymous: bool, supervisor: bool, clients: int, alone_for: int
) -> bool:
    """Return whether the sidecar has nothing more to live for.

    ``linked``: the broker's name still leads to this segment. ``alone_for``: ns without supervisor.
    """
    if closing:
        return True
    if supervisor or clients:
        return False
    # A segment without name, or with a name that nobody knows, can never be adopted; one with a
    # name waits for `shmq up` with all its messages, and needs no sidecar until then.
    if anonymous or not linked:
        return alone_for >= ANONYMOUS_PATIENCE
    return alone_for >= ALONE_PATIENCE
