"""A broker: one named set of queues on this host, and the handle that a program has on it."""

from __future__ import annotations

import os
import secrets
import select
import signal
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from shmq._native import ffi, lib
from shmq.client import Client
from shmq.errors import (
    BrokerExists,
    Detached,
    InvalidOption,
    InvalidOptionType,
    OptionsMismatch,
    ShmqError,
    explain,
)
from shmq.options import (
    NO_QUEUE,
    QueueOptions,
    check_broker_name,
    check_queue_name,
    from_ns,
    to_ns,
)
from shmq.queue import Queue, QueueStats, stats_of
from shmq.segment import ANONYMOUS_PREFIX, Owner, Segment, owners_alive
from shmq.settings import Settings, pack_defaults, unpack_defaults
from shmq.supervisor.spawn import start_supervisor

__all__ = ["Broker", "BrokerStats", "QueueSummary", "connect", "read_stats"]

SCHEME = "shm"
SHUTDOWN_S = 10.0
CALM_S = 0.2  # nothing moved for so long: what is left waits for consumers that do not come
END_S = 10.0
SIDECAR_S = 5.0
PF_EXITING = 0x4  # in the flags of /proc/PID/stat, from linux/sched.h


@dataclass(frozen=True)
class QueueSummary:
    """One queue at a glance; `Queue.stats` knows more."""

    name: str
    state: str
    ready: int
    published: int
    acked: int


@dataclass(frozen=True)
class BrokerStats:
    """A broker at one moment. Sizes in bytes, times in seconds."""

    name: str
    url: str
    supervisor_pid: int | None
    """None while there is none: `Broker.start` or `shmq up` starts one"""
    sidecar_pid: int | None
    uptime: float
    memory_used: int
    """shared memory that really has pages behind it"""
    memory_reserved: int
    """address space of the segment; costs nothing"""
    memory_limit: int
    """payload bytes that the broker may ever hold"""
    blocks: int
    free_blocks: int
    corrupt: int
    """impossible values that were found and put right; 0 in a healthy broker"""
    anonymous: bool
    closing: bool
    attached: tuple[Owner, ...]
    """processes that use it, supervisor and sidecar included"""
    queues: tuple[QueueStats, ...]


class Broker:
    """Start a broker, with its supervisor and its sidecar, and attach to it.

    ``name`` is what others connect to. Without a name the broker is anonymous: its handles can be
    passed to other processes, and it ends with its last user, however that one ends. A named one
    lives until `shutdown` or ``shmq down``, also without any user. ``settings`` are the keywords of
    `shmq.Settings`; ``config`` is a TOML file with more of them.

    As a context manager, the broker is shut down on exit (by the process that started it; in a
    forked child, only the child's own attachment is closed).

    A segment of that name whose supervisor was killed is adopted, with its messages and with the
    settings it was made with.

    Raises:
        BrokerExists: a living broker has that name.
        OutOfSharedMemory, LayoutMismatch, CorruptSegment, ForeignSegment: no segment to be had.

    Example:
        >>> import shmq
        >>> with shmq.Broker() as broker:
        ...     queue = broker.create_queue("orders")
        ...     _ = queue.publish(b"one espresso")
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        config: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        self._settings: Settings | None = Settings.load(settings, config=config)
        self._anonymous = name is None
        self.name = (
            f"{ANONYMOUS_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
            if name is None
            else check_broker_name(name)
        )
        self._starter = os.getpid()
        with start_supervisor(self.name, self._supervisor_options()):
            self._client = Client.connect(self.name)
        self._open = True

    @classmethod
    def _attach(cls, name: str) -> Broker:
        broker = cls.__new__(cls)
        broker._settings = None
        broker._anonymous = False
        broker.name = name
        broker._starter = 0
        broker._open = True
        broker._client = Client.connect(name)
        return broker

    def _supervisor_options(self) -> dict[str, object]:
        settings = self._settings or Settings.load()
        return {
            "shm": settings.shm,
            "memory_limit": settings.memory_limit,
            "max_message": settings.max_message_size,
            "ttl_ns": to_ns(settings.default_ttl),
            "user_word": pack_defaults(
                settings.max_queue_depth,
                settings.max_retries,
                settings.metrics,
                settings.metrics_interval,
            ),
            "anonymous": int(self._anonymous),
        }

    @property
    def url(self) -> str:
        """What `connect` takes in any other process."""
        return f"{SCHEME}://{self.name}"

    def __repr__(self) -> str:
        return f"<shmq.Broker {self.url}{'' if self._open else ' closed'}>"

    def __reduce__(self) -> Any:
        return connect, (self.url,)

    # ---- queues ----------------------------------------------------------------------------

    def create_queue(self, name: str, **options: Any) -> Queue:
        """Return the queue ``name``, made with ``options`` (`QueueOptions`) if it does not exist.

        Options that are not given come from the broker's settings. A ``dead_letter`` queue that does
        not exist is made as well; its messages never expire.

        Raises:
            OptionsMismatch: it exists with other options.
            InvalidOption: an option is unknown or has an impossible value.
        """
        check_queue_name(name)
        wanted = QueueOptions.make(self._queue_defaults(), options)
        _refuse_later_features(wanted)
        if wanted.dead_letter == name:
            raise InvalidOption(
                explain(
                    f"dead_letter of queue {name!r}",
                    "the queue itself",
                    "another queue",
                    "choose another name for dead messages",
                )
            )
        for _ in range(100):  # against others who delete it at the same time
            dead = self._dead_letter_place(wanted.dead_letter)
            core = ffi.new("shmq_queue_options *", wanted.to_core(*dead))
            rc = self._call(lib.shmq_queue_create, name.encode(), core)
            if rc >= 0:
                return Queue(self._client, name, rc)
            if rc != lib.SHMQ_E_EXISTS:
                self._client.check(rc, f"creating queue {name!r}")
            rc = self._call(lib.shmq_queue_open, name.encode())
            if rc in (lib.SHMQ_E_NOTFOUND, lib.SHMQ_GONE):
                continue
            self._client.check(rc, f"queue {name!r}")
            found = self._options_of(rc & 0xFFFF)
            self._compare(name, found, QueueOptions.from_core(core, wanted.dead_letter))
            return Queue(self._client, name, rc)
        raise ShmqError(
            explain(
                f"queue {name!r}",
                "others that delete it again and again",
                "a moment of peace",
                "agree on who creates and deletes it",
            )
        )

    def _dead_letter_place(self, name: str | None) -> tuple[int, int]:
        if name is None:
            return NO_QUEUE, 0
        rc = self._call(lib.shmq_queue_open, name.encode())
        if rc in (lib.SHMQ_E_NOTFOUND, lib.SHMQ_GONE):
            core = ffi.new(
                "shmq_queue_options *",
                QueueOptions.make(self._queue_defaults(), {"ttl": None}).to_core(),
            )
            rc = self._call(lib.shmq_queue_create, name.encode(), core)
            if rc == lib.SHMQ_E_EXISTS:  # somebody else was quicker
                rc = self._call(lib.shmq_queue_open, name.encode())
        self._client.check(rc, f"dead-letter queue {name!r}")
        index = rc & 0xFFFF
        return index, int(self._queue_info(index).word)

    def _compare(self, name: str, found: QueueOptions, wanted: QueueOptions) -> None:
        differences = found.differences(wanted)
        if not differences:
            return
        raise OptionsMismatch(
            explain(
                f"queue {name!r}",
                ", ".join(f"{option}={here!r}" for option, here, _ in differences),
                ", ".join(f"{option}={there!r}" for option, _, there in differences),
                "use get_queue(), ask for the same options, or delete_queue() first",
            )
        )

    def _options_of(self, index: int) -> QueueOptions:
        info = self._queue_info(index)
        dead = info.options.dead_letter
        name = None if dead == NO_QUEUE else _name_of(self._queue_info(dead))
        return QueueOptions.from_core(info.options, name)

    def get_queue(self, name: str) -> Queue:
        """Return the queue ``name``. Raises QueueNotFound when there is none."""
        check_queue_name(name)
        rc = self._call(lib.shmq_queue_open, name.encode())
        return Queue(self._client, name, self._client.check(rc, f"queue {name!r}"))

    def delete_queue(self, name: str) -> None:
        """Delete the queue ``name`` with everything in it; who waits on it gets QueueNotFound."""
        check_queue_name(name)
        rc = self._client.check(self._call(lib.shmq_queue_open, name.encode()), f"queue {name!r}")
        self._client.check(self._call(lib.shmq_queue_delete, rc), f"deleting queue {name!r}")

    def list_queues(self) -> list[str]:
        """Return the names of all queues, sorted."""
        self._call(lib.shmq_segment_snapshot, ffi.new("shmq_segment_info *"))
        return sorted(summary.name for summary in _summaries(self._client.ctx))

    def _queue_defaults(self) -> dict[str, Any]:
        info = self._segment_info()
        packed = unpack_defaults(info.user_word)
        defaults: dict[str, Any] = {"ttl": from_ns(info.default_ttl_ns)}
        if packed is not None:
            defaults["max_depth"], defaults["max_retries"] = packed
        return defaults

    def _queue_info(self, index: int) -> Any:
        info = ffi.new("shmq_queue_info *")
        self._client.check(self._call(lib.shmq_queue_snapshot, index, info), f"queue {index}")
        return info

    # ---- the broker itself -----------------------------------------------------------------

    def stats(self) -> BrokerStats:
        """Return how the broker is: its processes, its memory, its queues with all their figures.

        Walks once over all blocks: for people and monitors, not for loops.
        """
        self._call(lib.shmq_segment_snapshot, ffi.new("shmq_segment_info *"))
        return read_stats(self._client.segment, self._client.ctx)

    def start(self) -> None:
        """Start what is missing: the supervisor, and by it the sidecar. Does nothing if both live."""
        if not self._open:
            if self._settings is None:
                raise Detached(self._closed_text())
            with start_supervisor(self.name, self._supervisor_options()):
                self._client = Client.connect(self.name)
            self._starter = os.getpid()
            self._open = True
            return
        supervisor = self._find("supervisor")
        if supervisor is None or _dies(supervisor.pid):
            try:
                start_supervisor(self.name, {**self._supervisor_options(), "adopt": 1}).attached()
            except BrokerExists:
                pass  # somebody else was quicker
        self._await_sidecar()

    def _await_sidecar(self) -> None:
        # The supervisor brings it back by itself; this only waits to see it.
        client = self._live_client()
        deadline = lib.shmq_now() + to_ns(SIDECAR_S)
        while lib.shmq_now() < deadline:
            seen = lib.shmq_read_word(client.ctx, lib.SHMQ_WORD_ATTACH)
            if self._find("sidecar") is not None:
                return
            slice_end = min(deadline, lib.shmq_now() + to_ns(0.1))
            lib.shmq_wait_word(client.ctx, lib.SHMQ_WORD_ATTACH, seen, slice_end)

    def _find(self, role: str) -> Owner | None:
        self._call(lib.shmq_segment_snapshot, ffi.new("shmq_segment_info *"))
        return next((o for o in owners_alive(self._client.ctx) if o.role == role), None)

    def shutdown(self, timeout: float | None = SHUTDOWN_S) -> None:
        """End the broker: stop intake, wait for work in hand, take the shared memory away.

        Publishing raises QueueClosed from now on; consumers get what is queued and then end. Waits
        until no other process holds an unsettled delivery and consumers make no more progress, at
        most ``timeout`` seconds (None = no limit, 0 = at once). Messages still queued are lost.
        """
        if not self._open:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        client = self._live_client()
        self._close_queues()
        if timeout != 0:
            self._await_calm(deadline)
        self._call(lib.shmq_set_flag, 1, 1)
        self._end_processes()
        client.segment.unlink()
        self._open = False
        client.detach()

    def _close_queues(self) -> None:
        for index in range(self._segment_info().queues):
            info = ffi.new("shmq_queue_info *")
            if self._call(lib.shmq_queue_snapshot, index, info) != lib.SHMQ_OK:
                continue
            if info.state == lib.SHMQ_Q_LIVE:
                qref = self._call(lib.shmq_queue_adopt, index)
                if qref >= 0:
                    self._call(lib.shmq_queue_close, qref)

    def _await_calm(self, deadline: float | None) -> None:
        me = os.getpid()
        progress: object = None
        since = time.monotonic()
        while deadline is None or time.monotonic() < deadline:
            ctx = self._client.ctx
            clients = [owner for owner in owners_alive(ctx) if owner.role == "client"]
            summaries = _summaries(ctx)
            held = sum(owner.held for owner in clients)
            alone = all(owner.pid == me for owner in clients)
            if held == 0 and (alone or not any(summary.ready for summary in summaries)):
                return
            now_progress = (held, [(summary.ready, summary.acked) for summary in summaries])
            if now_progress != progress:
                progress, since = now_progress, time.monotonic()
            # What this process holds may be in the hands of the very thread that waits here.
            in_other_hands = any(owner.held for owner in clients if owner.pid != me)
            if not in_other_hands and time.monotonic() - since > CALM_S:
                return
            time.sleep(0.002)

    def _end_processes(self) -> None:
        for role in ("supervisor", "sidecar"):
            owner = self._find(role)
            if owner is None:
                continue
            try:
                fd = os.pidfd_open(owner.pid)
            except OSError:
                continue
            try:
                # Between the look and the open the pid may have changed hands.
                again = self._find(role)
                if again != owner and (again is None or again.pid != owner.pid):
                    continue
                signal.pidfd_send_signal(fd, signal.SIGTERM)
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll(END_S * 1000)
            except OSError:
                pass
            finally:
                os.close(fd)

    def close(self) -> None:
        """Detach this process; the broker goes on. Unsettled deliveries go back to their queues.

        Handles that were connected separately keep the process attached. A broker object that is
        dropped without `close` detaches when its queues, consumers and deliveries are dropped too.
        """
        if self._open:
            self._open = False
            self._client.close()

    def __enter__(self) -> Broker:
        self._live_client()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._starter == os.getpid():
            self.shutdown(timeout=SHUTDOWN_S if kind is None else 0)
        else:
            self.close()

    # ---- calls into the core ---------------------------------------------------------------

    def _live_client(self) -> Client:
        if not self._open:
            raise Detached(self._closed_text())
        return self._client

    def _closed_text(self) -> str:
        return explain(
            f"broker {self.name!r}", "a closed handle", "an open one", "shmq.connect() opens one"
        )

    def _call(self, function: Any, *arguments: Any) -> int:
        return self._live_client().call(function, *arguments)

    def _segment_info(self) -> Any:
        info = ffi.new("shmq_segment_info *")
        self._client.check(self._call(lib.shmq_segment_snapshot, info), f"broker {self.name!r}")
        return info


def connect(url_or_name: str) -> Broker:
    """Attach this process to a running broker: ``connect("shop")`` or ``connect("shm://shop")``.

    Raises:
        BrokerNotRunning: there is no broker of that name for this user on this host.
        InvalidOption: the url has an unknown scheme, or the name is impossible.
    """
    if not isinstance(url_or_name, str):
        raise InvalidOptionType(
            explain("connect", f"{url_or_name!r}", "a name or url", "give connect('shop')")
        )
    scheme, separator, rest = url_or_name.partition("://")
    if separator and scheme != SCHEME:
        raise InvalidOption(
            explain(
                f"url {url_or_name!r}",
                f"scheme {scheme!r}",
                f"{SCHEME!r}",
                f"connect('{SCHEME}://NAME') reaches the brokers of this host",
            )
        )
    return Broker._attach(check_broker_name(rest if separator else url_or_name))


def _dies(pid: int) -> bool:
    """Return whether a process is about to be gone (killed, but not yet taken apart); waits for it.

    Who kills the supervisor and calls `Broker.start` in the next line finds it in this state.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if poll.poll(0):
            return True
        with open(f"/proc/{pid}/stat") as file:
            state, *numbers = file.read().rpartition(")")[2].split()
        with open(f"/proc/{pid}/status") as file:
            pending = [
                int(line.split()[1], 16) for line in file if line.startswith(("SigPnd", "ShdPnd"))
            ]
        exiting = state in "ZX" or int(numbers[5]) & PF_EXITING
        killed = any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)
        return bool((exiting or killed) and poll.poll(END_S * 1000))
    except (OSError, ValueError):
        return not os.path.exists(f"/proc/{pid}")
    finally:
        os.close(fd)


def _refuse_later_features(options: QueueOptions) -> None:
    for name, plain in (("durability", "none"),):
        found = getattr(options, name)
        if found != plain:
            raise InvalidOption(
                explain(
                    name, f"{found!r}", f"{plain!r}", "this version of shmq has nothing else yet"
                )
            )


# ---- reading, for handles and for observers -------------------------------------------------------

_STATES = ("free", "live", "closed", "deleting")
_PUBLISHED, _ACKED = 0, 4  # in the order of shmq_counters


def _name_of(info: Any) -> str:
    return str(ffi.string(info.name).decode(errors="replace"))


def _summaries(ctx: Any) -> list[QueueSummary]:
    segment = ffi.new("shmq_segment_info *")
    if lib.shmq_segment_snapshot(ctx, segment) != lib.SHMQ_OK:
        return []
    info = ffi.new("shmq_queue_info *")
    found = []
    for index in range(segment.queues):
        if lib.shmq_queue_snapshot(ctx, index, info) != lib.SHMQ_OK:
            continue
        if info.state in (lib.SHMQ_Q_LIVE, lib.SHMQ_Q_CLOSED):
            found.append(
                QueueSummary(
                    _name_of(info),
                    _STATES[info.state],
                    info.ready,
                    info.counters[_PUBLISHED],
                    info.counters[_ACKED],
                )
            )
    return sorted(found, key=lambda summary: summary.name)


def read_stats(segment: Segment, ctx: Any) -> BrokerStats:
    """Return the state of the broker that is mapped into ``ctx``; attached or not."""
    info = ffi.new("shmq_segment_info *")
    lib.shmq_segment_snapshot(ctx, info)
    owners = owners_alive(ctx)
    by_role = {owner.role: owner.pid for owner in owners}
    return BrokerStats(
        name=segment.name,
        url=f"{SCHEME}://{segment.name}",
        supervisor_pid=by_role.get("supervisor"),
        sidecar_pid=by_role.get("sidecar"),
        uptime=(lib.shmq_now() - info.created_ns) / 1e9,
        memory_used=segment.memory_used(),
        memory_reserved=info.total,
        memory_limit=info.memory_limit,
        blocks=info.blocks,
        free_blocks=info.free_blocks,
        corrupt=info.corrupt,
        anonymous=bool(info.anonymous),
        closing=bool(info.closing),
        attached=tuple(owners),
        queues=tuple(_all_stats(ctx, info.queues)),
    )


def _all_stats(ctx: Any, queues: int) -> list[QueueStats]:
    census = ffi.new("shmq_census[]", queues)
    lib.shmq_census_all(ctx, census, queues)
    info = ffi.new("shmq_queue_info *")
    found = []
    for index in range(queues):
        if lib.shmq_queue_snapshot(ctx, index, info) != lib.SHMQ_OK:
            continue
        if info.state in (lib.SHMQ_Q_LIVE, lib.SHMQ_Q_CLOSED):
            found.append(stats_of(info, census[index]))
    return sorted(found, key=lambda stats: stats.name)
