"""A broker: one named set of queues on this host, and the handle that a program has on it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shmq._client import Client, record_of
from shmq._descriptors import scarce
from shmq._drain import Calm, close_queues
from shmq._names import check_broker_name, check_pattern, check_queue_name, check_topic_name
from shmq._native import ffi, lib
from shmq._records import (
    find_or_make,
    index_of,
    info_of,
    make_queue,
    make_record,
    options_of,
    queue_defaults,
    records,
)
from shmq._segment import ANONYMOUS_PREFIX, Owner, Process, owners_alive
from shmq._segment.process import look
from shmq._values import to_ns
from shmq.consumer import Consumer
from shmq.errors import (
    BrokerExists,
    Detached,
    InvalidOption,
    InvalidOptionType,
    OptionsMismatch,
    QueueNotFound,
    TopicNotFound,
    explain,
)
from shmq.group import ConsumerGroup
from shmq.options import QueueOptions
from shmq.queue import Queue
from shmq.settings import Settings
from shmq.stats.broker import BrokerStats, read_stats
from shmq.supervisor.spawn import Started, start_supervisor
from shmq.topic import Topic, refuse_reject, subscribe_pattern, unsubscribe

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from shmq.keywords import Dispatch, QueueKeywords

__all__ = ["Broker", "connect"]

SCHEME = "shm"
SHUTDOWN_S = 10.0
END_S = 10.0
SIDECAR_S = 5.0


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
        with scarce(f"broker {self.name!r}"), self._launch():
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
        with scarce(f"broker {name!r}"):
            broker._client = Client.connect(name)
        return broker

    def _launch(self, **more: object) -> Started:
        return start_supervisor(self.name, {**self._supervisor_options(), **more})

    def _supervisor_options(self) -> dict[str, object]:
        settings = self._settings or Settings.load()
        return {**settings.for_supervisor(), "anonymous": int(self._anonymous)}

    @property
    def url(self) -> str:
        """What `connect` takes in any other process."""
        return f"{SCHEME}://{self.name}"

    def __repr__(self) -> str:
        return f"<shmq.Broker {self.url}{'' if self._open else ' closed'}>"

    def __reduce__(self) -> Any:
        return connect, (self.url,)

    # ---- queues ----------------------------------------------------------------------------

    def create_queue(self, name: str, **options: Unpack[QueueKeywords]) -> Queue:
        """Return the queue ``name``, made with ``options`` (`QueueOptions`) if it does not exist.

        Options that are not given come from the broker's settings. A ``dead_letter`` queue that does
        not exist is made as well; its messages never expire.

        Raises:
            OptionsMismatch: it exists with other options.
            InvalidOption: an option is unknown or has an impossible value.
        """
        check_queue_name(name)
        wanted = QueueOptions.make(self._queue_defaults(), options)
        if wanted.overflow == "disconnect":
            raise InvalidOption(
                explain(
                    f"overflow of queue {name!r}",
                    "'disconnect'",
                    "'block', 'reject' or 'drop-oldest'",
                    "only a topic's subscription can be cut off",
                )
            )
        if wanted.dead_letter == name:
            raise InvalidOption(
                explain(
                    f"dead_letter of queue {name!r}",
                    "the queue itself",
                    "another queue",
                    "choose another name for dead messages",
                )
            )
        client = self._live_client()
        make = partial(make_queue, client, name, wanted)
        fits = partial(self._is_as_wanted, "queue", name, wanted)
        ref = find_or_make(client, name, f"queue {name!r}", make, fits)
        return Queue(client, name, ref)

    def _is_as_wanted(self, kind: str, name: str, wanted: QueueOptions, ref: int) -> bool:
        found = options_of(info_of(self._client, index_of(ref)))
        differences = found.differences(wanted.kept())
        if not differences:
            return True
        raise OptionsMismatch(
            explain(
                f"{kind} {name!r}",
                ", ".join(f"{option}={here!r}" for option, here, _ in differences),
                ", ".join(f"{option}={there!r}" for option, _, there in differences),
                f"use get_{kind}(), ask for the same options, or delete_{kind}() first",
            )
        )

    def get_queue(self, name: str) -> Queue:
        """Return the queue ``name``. Raises QueueNotFound when there is none."""
        return Queue(self._client, name, self._open_queue(name))

    def _open_queue(self, name: str) -> int:
        check_queue_name(name)
        rc = self._call(lib.shmq_queue_open, name.encode())
        if rc in (lib.SHMQ_E_NOTFOUND, lib.SHMQ_GONE) and self._has_topic(name):
            todo = "get_topic() and delete_topic() are for topics; create_queue() makes a queue"
            raise QueueNotFound(explain(f"queue {name!r}", "a topic of that name", "a queue", todo))
        return self._client.check(rc, f"queue {name!r}")

    def _has_topic(self, name: str) -> bool:
        return self._call(lib.shmq_queue_open, f"/{name}".encode()) >= 0

    def delete_queue(self, name: str) -> None:
        """Delete the queue ``name`` with everything in it; who waits on it gets QueueNotFound."""
        rc = self._open_queue(name)
        self._client.check(self._call(lib.shmq_queue_delete, rc), f"deleting queue {name!r}")

    def list_queues(self) -> list[str]:
        """Return the names of all queues, sorted; without topics and subscriptions."""
        return self._names(lib.SHMQ_KIND_QUEUE)

    def _names(self, kind: int) -> list[str]:
        found = records(self._live_client())
        return sorted(name.lstrip("/") for name, _, info in found if info.options.kind == kind)

    # ---- topics ----------------------------------------------------------------------------

    def create_topic(self, name: str, **options: Unpack[QueueKeywords]) -> Topic:
        """Return the topic ``name``, made with ``options`` if it does not exist.

        ``options`` are queue options: the defaults of the topic's subscriptions.

        Raises:
            OptionsMismatch: it exists with other options.
            InvalidOption: an option is unknown or has an impossible value.
        """
        check_topic_name(name)
        wanted = QueueOptions.make(self._queue_defaults(), options)
        refuse_reject(wanted, f"topic {name!r}")
        client = self._live_client()
        kind = (lib.SHMQ_KIND_TOPIC, 0)
        make = partial(make_record, client, f"/{name}", wanted, kind)
        fits = partial(self._is_as_wanted, "topic", name, wanted)
        ref = find_or_make(client, f"/{name}", f"topic {name!r}", make, fits)
        return Topic(client, name, ref)

    def get_topic(self, name: str) -> Topic:
        """Return the topic ``name``. Raises TopicNotFound when there is none."""
        check_topic_name(name)
        try:
            return Topic(self._live_client(), name)
        except TopicNotFound:
            if self._call(lib.shmq_queue_open, name.encode()) < 0:
                raise
        todo = "get_queue() is for queues; create_topic() makes a topic"
        raise TopicNotFound(explain(f"topic {name!r}", "a queue of that name", "a topic", todo))

    def delete_topic(self, name: str) -> None:
        """Delete the topic ``name`` and its subscriptions with everything in them."""
        self._call(lib.shmq_queue_delete, record_of(self.get_topic(name)))

    def list_topics(self) -> list[str]:
        """Return the names of all topics, sorted."""
        return self._names(lib.SHMQ_KIND_TOPIC)

    def subscribe(self, topic: str, name: str | None = None, **how: Any) -> Consumer:
        """Return a consumer of the messages of all topics whose names match ``topic``.

        Names are words separated by dots; ``*`` stands for one word, ``#`` for any number of them:
        "orders.*", "orders.#", "#.failed". Topics that are made later count as well. ``name`` and
        ``how`` are those of `Topic.subscribe`; without wildcards this is that. A pattern
        subscription is kept until `unsubscribe`, whatever becomes of the topics.
        """
        if "*" in check_pattern(topic) or "#" in topic:
            return subscribe_pattern(self._live_client(), topic, name, **how)
        return self.get_topic(topic).subscribe(name, **how)

    def unsubscribe(self, topic: str, name: str) -> None:
        """End the subscription ``name`` of a topic or pattern with everything in it."""
        unsubscribe(self._live_client(), check_pattern(topic), name)

    # ---- groups ----------------------------------------------------------------------------

    def create_consumer_group(
        self,
        group: str,
        source: Queue | Topic | str,
        *,
        dispatch: Dispatch = "ready",
        **options: Unpack[QueueKeywords],
    ) -> ConsumerGroup:
        """Return the group ``group`` of consumers that share the messages of ``source``.

        ``source`` is a queue or a topic, or the name of one; of a queue if there are both. On a
        queue, all its groups and consumers share its messages. On a topic, a group is one
        subscription named like it, made with ``options`` (see `Topic.subscribe`) if it does not
        exist: each group gets every message, and each message goes to one of its members.

        dispatch: "ready" (whoever asks first gets the next one) or "round-robin" (strict turns:
            nobody gets another one before every member had one).
        """
        client = self._live_client()
        what = f"source of group {group!r}"
        if isinstance(source, str):
            if self._call(lib.shmq_queue_open, check_queue_name(source).encode()) >= 0:
                source = self.get_queue(source)
            elif self._has_topic(source):
                source = self.get_topic(source)
            else:
                found = f"no queue and no topic {source!r}"
                todo = "create_queue() or create_topic() makes one"
                raise QueueNotFound(explain(what, found, "one that exists", todo))
        given: object = source
        if not isinstance(given, (Queue, Topic)):
            wanted = "a Queue, a Topic, or the name of one"
            todo = "see create_queue() and create_topic()"
            raise InvalidOptionType(explain(what, type(given).__name__, wanted, todo))
        if source._client.name != client.name:
            found, wanted = f"one of broker {source._client.name!r}", f"one of {client.name!r}"
            todo = "make the group with its own broker"
            raise InvalidOption(explain(what, found, wanted, todo))
        return ConsumerGroup.on(client, group, source, dispatch, options)

    def _queue_defaults(self) -> dict[str, Any]:
        return queue_defaults(self._live_client())

    # ---- the broker itself -----------------------------------------------------------------

    def stats(self) -> BrokerStats:
        """Return how the broker is: processes, memory, queues, topics, groups, with all their figures.

        Walks once over all blocks: for people and monitors, not for loops.
        """
        self._call(lib.shmq_segment_snapshot, ffi.new("shmq_segment_info *"))
        return read_stats(self._client.segment, self._client.ctx)

    def start(self) -> None:
        """Start what is missing: the supervisor, and by it the sidecar. Does nothing if both live."""
        if not self._open:
            if self._settings is None:
                raise Detached(self._closed_text())
            with self._launch():
                self._client = Client.connect(self.name)
            self._starter = os.getpid()
            self._open = True
            return
        supervisor = self._find("supervisor")
        if supervisor is None or _dies(supervisor.pid):
            try:
                self._launch(adopt=1).attached()
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
        self._segment_info()  # attaches anew in a forked child
        close_queues(client.ctx)
        if timeout != 0:
            self._await_calm(deadline)
        self._call(lib.shmq_set_flag, lib.SHMQ_CLOSING, 1)
        self._end_processes()
        client.segment.unlink()
        self._open = False
        client.detach()

    def _await_calm(self, deadline: float | None) -> None:
        me, calm = os.getpid(), Calm()
        while deadline is None or time.monotonic() < deadline:
            ctx = self._client.ctx
            clients = [owner for owner in owners_alive(ctx) if owner.role == "client"]
            # What this process holds may be in the hands of the very thread that waits here.
            elsewhere = any(owner.held for owner in clients if owner.pid != me)
            alone = all(owner.pid == me for owner in clients)
            held = sum(owner.held for owner in clients)
            if calm.is_there(ctx, held, elsewhere=elsewhere, alone=alone):
                return
            time.sleep(0.002)

    def _end_processes(self) -> None:
        for role in ("supervisor", "sidecar"):
            owner = self._find(role)
            if owner is None:
                continue
            with contextlib.suppress(OSError), Process(owner.pid) as process:
                # Between the look and the open the pid may have changed hands.
                again = self._find(role)
                if again != owner and (again is None or again.pid != owner.pid):
                    continue
                process.send(signal.SIGTERM)
                process.wait(END_S)

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
        process = Process(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        if process.wait(0):
            return True
        seen = look(pid)
        return seen is None or ((seen.exiting or _killed(pid)) and process.wait(END_S))
    except (OSError, ValueError):
        return not os.path.exists(f"/proc/{pid}")
    finally:
        process.close()


def _killed(pid: int) -> bool:
    """Return whether a SIGKILL is on its way to a process."""
    with open(f"/proc/{pid}/status") as file:
        lines = file.read().splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)
