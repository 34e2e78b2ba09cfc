"""Queue records as Python sees them: what is there, with which options, and the broker's defaults.

A record is a queue, a topic ("/topic"), a subscription ("/topic/name"), a pattern subscription
("/orders.*/name") or a member of a group ("//source/group/member"). Users' names have no "/".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shmq._client import Client
from shmq._native import ffi, lib, names_of
from shmq._values import from_ns
from shmq.errors import ShmqError, explain
from shmq.options import QueueOptions
from shmq.settings import unpack_defaults

__all__ = [
    "KINDS", "OF_A_GROUP", "dead_letter_place", "find_or_make", "index_of", "info_of", "is_alive", "make_queue", "make_record",
    "name_of", "name_then", "options_of", "place_of", "queue_defaults", "records",
]  # fmt: skip

KINDS = names_of("shmq_kind", "SHMQ_KIND_")
TRIES = 100  # against others who make and delete the same at the same time
OF_A_GROUP = 4  # in the flags of a subscription that was made for a group


def records(client: Client) -> list[tuple[str, int, Any]]:
    """Return (name, reference, shmq_queue_info) of every record that lives, whatever it is."""
    segment = ffi.new("shmq_segment_info *")
    client.check(client.call(lib.shmq_segment_snapshot, segment), f"broker {client.name!r}")
    found = []
    for index in range(segment.queues):
        info = ffi.new("shmq_queue_info *")
        if client.call(lib.shmq_queue_snapshot, index, info) != lib.SHMQ_OK:
            continue
        if info.state in (lib.SHMQ_Q_LIVE, lib.SHMQ_Q_CLOSED):
            found.append((name_of(info), int(info.ref), info))
    return found


def name_of(info: Any) -> str:
    """Return the name in a `shmq_queue_info`."""
    return str(ffi.string(info.name).decode(errors="replace"))


def place_of(info: Any) -> tuple[str, str | None, str | None]:
    """Return (kind, topic or pattern, subscription) of a record; None for what it does not have."""
    kind = KINDS[info.options.kind] if info.options.kind < len(KINDS) else "unknown"
    if kind not in KINDS[1:4]:
        return kind, None, None
    topic, _, subscription = name_of(info)[1:].partition("/")
    return kind, topic, subscription or None


def is_alive(ctx: Any, info: Any) -> bool:
    """Return whether a record goes on: it ends with no process, or with one that is attached."""
    if not info.ephemeral:
        return True
    owner = ffi.new("shmq_owner_info *")
    rc = lib.shmq_owner_snapshot(ctx, info.owner, owner)
    return bool(rc == lib.SHMQ_OK and owner.word == info.ephemeral)


def name_then(client: Client, index: int, then_ns: int) -> str:
    """Return the name that record ``index`` had at a time; "queue N" when that one is gone.

    Numbers are used again: a record made later is another's.
    """
    info = ffi.new("shmq_queue_info *")
    rc = lib.shmq_queue_snapshot(client.ctx, index, info)
    name = name_of(info) if rc >= 0 and info.created_ns <= then_ns else ""
    return name or f"queue {index}"


def index_of(reference: int) -> int:
    """Return the number of the record that a reference of the core names."""
    return reference & int(lib.SHMQ_INDEX_MASK)


def info_of(client: Client, index: int) -> Any:
    """Return the `shmq_queue_info` of record ``index``."""
    info = ffi.new("shmq_queue_info *")
    client.check(client.call(lib.shmq_queue_snapshot, index, info), f"queue {index}")
    return info


def options_of(info: Any) -> QueueOptions:
    """Return the options in a `shmq_queue_info`, the dead-letter queue by its name."""
    name = ffi.string(info.dead_name).decode(errors="replace")
    return QueueOptions.from_core(info.options, name or None)


def queue_defaults(client: Client) -> dict[str, Any]:
    """Return the options that the broker's settings decide."""
    info = ffi.new("shmq_segment_info *")
    client.check(client.call(lib.shmq_segment_snapshot, info), f"broker {client.name!r}")
    packed = unpack_defaults(info.user_word)
    defaults: dict[str, Any] = {"ttl": from_ns(info.default_ttl_ns)}
    if packed is not None:
        defaults["max_depth"], defaults["max_retries"] = packed
    return defaults


def dead_letter_place(client: Client, name: str | None) -> tuple[int, int]:
    """Return (number, word) of the dead-letter queue ``name``, made if it does not exist."""
    if name is None:
        return int(lib.SHMQ_NO_QUEUE), 0
    rc = client.call(lib.shmq_queue_open, name.encode())
    if rc in (lib.SHMQ_E_NOTFOUND, lib.SHMQ_GONE):
        options = QueueOptions.make(queue_defaults(client), {"ttl": None})
        core = ffi.new("shmq_queue_options *", options.to_core(lib.SHMQ_NO_QUEUE))
        rc = client.call(lib.shmq_queue_create, name.encode(), core)
        if rc == lib.SHMQ_E_EXISTS:  # somebody else was quicker
            rc = client.call(lib.shmq_queue_open, name.encode())
    client.check(rc, f"dead-letter queue {name!r}")
    index = index_of(rc)
    return index, int(info_of(client, index).word)


def make_queue(client: Client, name: str, options: QueueOptions) -> int:
    """Make a queue; return its reference or a negative result."""

    def make(core: Any) -> int:
        return client.call(lib.shmq_queue_create, name.encode(), core)

    rc = _with_dead_letters(client, options, make)
    if rc == lib.SHMQ_GONE:
        raise _no_peace(f"dead-letter queue {options.dead_letter!r} of queue {name!r}")
    return rc


def make_record(
    client: Client,
    name: str,
    options: QueueOptions,
    kind: tuple[int, int],
    *,
    filter: bytes = b"",
    ephemeral: bool = False,
    flags: int = 0,
) -> int:
    """Make a topic, a subscription or a member; return its reference or a negative result.

    ``kind`` is a `shmq_kind` and the reference of what the record belongs to (0: nothing).
    """
    blob = ffi.from_buffer(filter)

    def make(core: Any) -> int:
        core.kind, core.topic = kind
        core.flags = flags
        return client.call(
            lib.shmq_topic_subscribe, name.encode(), core, blob, len(filter), int(ephemeral)
        )

    return _with_dead_letters(client, options, make)


def _with_dead_letters(client: Client, options: QueueOptions, make: Callable[[Any], int]) -> int:
    """Call ``make`` with ``options`` as the core wants them, anew while others delete the dead-letter queue."""
    for _ in range(TRIES):
        dead = dead_letter_place(client, options.dead_letter)
        rc = make(ffi.new("shmq_queue_options *", options.to_core(*dead)))
        if rc != lib.SHMQ_GONE or options.dead_letter is None:
            break
    return rc


def find_or_make(
    client: Client,
    name: str,
    what: str,
    make: Callable[[], int],
    fits: Callable[[int], bool],
) -> int:
    """Return the reference of record ``name``, made if it does not exist.

    ``fits`` is asked about one that was found: it raises for one that is not what was asked for, and returns False for
    one that has ended meanwhile. Others may make and delete it all the time; who always comes too late hears that.
    """
    for _ in range(TRIES):
        rc = make()
        if rc >= 0:
            return rc
        if rc != lib.SHMQ_E_EXISTS:
            client.check(rc, f"creating {what}")
        rc = client.call(lib.shmq_queue_open, name.encode())
        if rc in (lib.SHMQ_E_NOTFOUND, lib.SHMQ_GONE):
            continue
        if fits(client.check(rc, what)):
            return rc
    raise _no_peace(what)


def _no_peace(what: str) -> ShmqError:
    return ShmqError(
        explain(
            what,
            "others that delete it again and again",
            "a moment of peace",
            "agree on who makes and who deletes it",
        )
    )
