"""What a queue is made with, and how sizes and durations are written.

`QueueOptions` is what the user sees (seconds, names); `to_core` and `from_core` translate it to
and from the struct of the C core (nanoseconds, numbers). Everything here is pure.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shmq.errors import CorruptSegment, InvalidOption, InvalidOptionType, explain

NS = 1_000_000_000
MAX_NAME_BYTES = 255  # of a queue
MAX_BROKER_NAME_BYTES = 200  # becomes part of a file name, which has 255
MAX_DEPTH = 1 << 23  # half of the blocks that a segment can have
MAX_DEDUP_IDS = (1 << 24) - 2
MAX_RETRIES = 4094  # attempts are counted in 12 bits
MAX_SECONDS = 100 * 365 * 86400.0
UNLIMITED_RETRIES = 0xFFFFFFFF

OVERFLOWS = ("block", "reject", "drop-oldest", "disconnect")  # the last: of subscriptions only
EXPIRED = ("dead-letter", "drop")
ORDERS = ("fifo", "key", "strict")
DURABILITIES = ("none", "snapshot", "interval", "sync")

_DURATION_UNITS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0,
    "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
_SIZE_UNITS = {
    "": 1, "b": 1,
    # "1MB" is 1 MiB, as in the system whose settings shmq keeps; "MiB" says the same exactly.
    "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10,
    "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
    "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30,
    "t": 1 << 40, "tb": 1 << 40, "tib": 1 << 40,
}  # fmt: skip
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zµ]*)\s*", re.IGNORECASE)


# ---- values -------------------------------------------------------------------------------------


def parse_duration(value: object, what: str = "duration") -> float | None:
    """Return seconds; None (never) stays None. Takes numbers and "24h", "90s", "250ms", "never"."""
    example = 'seconds or "24h", "90s", "250ms"'
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InvalidOptionType(explain(what, f"{value!r}", example, "None means never"))
    if isinstance(value, str):
        if value.strip().lower() in ("never", "none"):
            return None
        match = _NUMBER.fullmatch(value)
        if match is None or match[2].lower() not in _DURATION_UNITS:
            raise InvalidOption(
                explain(what, f"{value!r}", example, "units are ns, us, ms, s, m, h, d")
            )
        seconds = float(match[1]) * _DURATION_UNITS[match[2].lower()]
    else:
        seconds = float(value)
    if math.isnan(seconds) or seconds < 0:
        raise InvalidOption(explain(what, f"{value!r}", "0 or more seconds", "None means never"))
    if seconds > MAX_SECONDS:
        raise InvalidOption(
            explain(what, f"{value!r}", "at most 100 years", "use None for something without end")
        )
    return seconds


def parse_size(value: object, what: str = "size") -> int:
    """Return bytes. Takes whole numbers and "64KiB", "1MB", "2g" (K = 1024)."""
    example = 'bytes or "64KiB", "1MB"'
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidOptionType(explain(what, f"{value!r}", example, "give a whole number"))
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is None or match[2].lower() not in _SIZE_UNITS:
            raise InvalidOption(explain(what, f"{value!r}", example, "units are B, KB, MB, GB, TB"))
        size = int(float(match[1]) * _SIZE_UNITS[match[2].lower()])
    else:
        size = value
    if size < 0 or size >= 1 << 62:
        raise InvalidOption(explain(what, f"{value!r}", example, "give a size that can exist"))
    return size


def parse_count(value: object, what: str, least: int, most: int) -> int:
    """Return a whole number in least..most; takes decimal text as well (environment, TOML)."""
    wanted = f"a whole number from {least} to {most}"
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9_]+\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOptionType(explain(what, f"{value!r}", wanted, "correct it"))
    if not least <= value <= most:
        raise InvalidOption(explain(what, f"{value!r}", wanted, "choose one in this range"))
    return value


def parse_choice(value: object, what: str, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    wanted = "one of " + ", ".join(repr(choice) for choice in choices)
    if not isinstance(value, str):
        raise InvalidOptionType(explain(what, f"{value!r}", wanted, "give a text"))
    if value not in choices:
        raise InvalidOption(explain(what, f"{value!r}", wanted, _nearest(value, choices)))
    return value


def nearest(word: str, words: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the one of ``words`` that ``word`` is most like; None when it is like none of them."""
    import difflib

    close = difflib.get_close_matches(word, list(words), n=1, cutoff=cutoff)
    return close[0] if close else None


def _nearest(word: str, words: Iterable[str]) -> str:
    words = list(words)
    close = nearest(word, words)
    return f"did you mean {close!r}?" if close else f"known are {', '.join(words)}"


def reject_unknown(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise InvalidOptionType for the first of ``names`` that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise InvalidOptionType(
                explain(f"{kind} {name!r}", "an unknown name", "a known one", _nearest(name, known))
            )


# ---- names --------------------------------------------------------------------------------------


def _check_name(name: object, what: str, limit: int) -> str:
    if not isinstance(name, str):
        raise InvalidOptionType(explain(what, f"{name!r}", "a text", "give its name"))
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidOption(
            explain(what, f"{name!r}", "text that UTF-8 can encode", "choose another name")
        ) from None
    shown = repr(name) if size <= 60 else repr(name[:40] + "…")
    problem = (
        "an empty text"
        if not name
        else f"{size:,} bytes"
        if size > limit
        else f"{shown} with a NUL"
        if "\0" in name
        else f"{shown} with a '/'"
        if "/" in name
        else None
    )
    if problem:
        raise InvalidOption(
            explain(
                what,
                problem,
                f"1 to {limit} bytes of UTF-8 without '/' and NUL",
                "choose another name",
            )
        )
    return name


def check_queue_name(name: object) -> str:
    """Return ``name`` if a queue may have it: 1 to 255 bytes of UTF-8 without "/" and NUL."""
    return _check_name(name, "queue name", MAX_NAME_BYTES)


def check_topic_name(name: object) -> str:
    """Return ``name`` if a topic may have it: like a queue's, and without the wildcards * and #."""
    found = _check_name(name, "topic name", MAX_NAME_BYTES - 1)
    if "*" in found or "#" in found:
        raise InvalidOption(
            explain(
                "topic name",
                f"{found!r} with a wildcard",
                "words separated by dots, without '*' and '#'",
                "broker.subscribe(pattern) takes wildcards",
            )
        )
    return found


def check_pattern(pattern: object) -> str:
    """Return ``pattern``: words separated by dots, where * is any one word and # any number of them."""
    found = _check_name(pattern, "topic pattern", MAX_NAME_BYTES - 1)
    if any(len(word) > 1 and ("*" in word or "#" in word) for word in found.split(".")):
        raise InvalidOption(
            explain(
                "topic pattern",
                f"{found!r}",
                "'*' and '#' as whole words, as in 'orders.*' and 'orders.#'",
                "wildcards do not match parts of words",
            )
        )
    return found


def check_record_name(record: str, what: str, parts: str) -> str:
    """Return ``record``, a name put together from ``parts``, if all of it is short enough."""
    size = len(record.encode())
    if size > MAX_NAME_BYTES:
        spare = size - MAX_NAME_BYTES
        raise InvalidOption(
            explain(
                what,
                f"{size} bytes for {parts} together",
                f"at most {MAX_NAME_BYTES}",
                f"choose shorter names, by {spare} bytes",
            )
        )
    return record


def check_share_name(name: object, what: str) -> str:
    """Return ``name`` if a subscription, a group or a member may have it."""
    return _check_name(name, what, MAX_NAME_BYTES - 1)


def check_broker_name(name: object) -> str:
    """Return ``name`` if a broker may have it: 1 to 200 bytes of UTF-8 without "/" and NUL."""
    return _check_name(name, "broker name", MAX_BROKER_NAME_BYTES)


# ---- queue options ------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueOptions:
    """What a queue is made with. Times are seconds (numbers, or "90s", "250ms"), sizes bytes."""

    max_depth: int = 100_000
    """messages ready at a time"""
    max_bytes: int | None = None
    """payload bytes ready at a time; None = bounded by the broker's memory only"""
    overflow: str = "block"
    """what publish does when the queue is full: "block", "reject" (QueueFull), "drop-oldest" """
    ttl: float | None = 86400.0
    """seconds that a message without its own ttl lives; None = for ever"""
    max_retries: int | None = 3
    """redeliveries before a message is dead; None = without end"""
    retry_backoff: float = 1.0
    """seconds until the first redelivery; doubles each time; 0 = at once"""
    retry_backoff_max: float = 60.0
    """longest delay before a redelivery, seconds"""
    retry_jitter: float = 0.1
    """spread of the delay, as a part of it, 0..1"""
    ack_timeout: float | None = None
    """seconds until an unsettled delivery is taken back; None = only when its process is dead"""
    expired: str = "dead-letter"
    """what becomes of a message that outlives its ttl: "dead-letter" or "drop" """
    dead_letter: str | None = None
    """name of the queue for dead messages; None = they are dropped"""
    priorities: int = 10
    """levels, 0 = lowest"""
    aging: float | None = None
    """seconds after which a waiting message counts as one level higher, and so on; None = never"""
    dedup_window: float | None = None
    """seconds during which a second message with the same dedup_id is recognised; None = off"""
    dedup_capacity: int = 1_000_000
    """ids that a dedup_window can hold; memory is taken as they come, 17 bytes each"""
    order: str = "fifo"
    """"fifo"; "key": per key, "strict": altogether, one unsettled message at a time, in order"""
    durability: str = "none"
    """"none", "snapshot", "interval" or "sync" """

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for everybody else

        put("max_depth", parse_count(self.max_depth, "max_depth", 1, MAX_DEPTH))
        if self.max_bytes is not None:
            put("max_bytes", parse_size(self.max_bytes, "max_bytes"))
            if self.max_bytes == 0:
                raise InvalidOption(
                    explain("max_bytes", "0", "1 or more bytes", "use None for no bound")
                )
        parse_choice(self.overflow, "overflow", OVERFLOWS)
        parse_choice(self.expired, "expired", EXPIRED)
        put("ttl", self._positive("ttl"))
        if self.max_retries is not None:
            put("max_retries", parse_count(self.max_retries, "max_retries", 0, MAX_RETRIES))
        for name in ("retry_backoff", "retry_backoff_max"):
            seconds = parse_duration(getattr(self, name), name)
            if seconds is None:
                raise InvalidOptionType(explain(name, "None", "seconds", "use 0 for no delay"))
            put(name, seconds)
        if self.retry_backoff_max < self.retry_backoff:
            raise InvalidOption(
                explain(
                    "retry_backoff_max",
                    f"{self.retry_backoff_max:g} s",
                    f"at least retry_backoff, {self.retry_backoff:g} s",
                    "raise it or lower retry_backoff",
                )
            )
        jitter = self.retry_jitter
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)):
            raise InvalidOptionType(
                explain("retry_jitter", f"{jitter!r}", "a number from 0 to 1", "0 means none")
            )
        if not 0 <= jitter <= 1:  # false for NaN as well
            raise InvalidOption(
                explain("retry_jitter", f"{jitter!r}", "a number from 0 to 1", "0 means none")
            )
        put("retry_jitter", float(jitter))
        put("ack_timeout", self._positive("ack_timeout"))
        if self.dead_letter is not None:
            _check_name(self.dead_letter, "dead_letter", MAX_NAME_BYTES)
        put("priorities", parse_count(self.priorities, "priorities", 1, 10))
        put("aging", self._positive("aging"))
        put("dedup_window", self._positive("dedup_window"))
        put("dedup_capacity", parse_count(self.dedup_capacity, "dedup_capacity", 1, MAX_DEDUP_IDS))
        parse_choice(self.order, "order", ORDERS)
        parse_choice(self.durability, "durability", DURABILITIES)

    def _positive(self, name: str) -> float | None:
        seconds = parse_duration(getattr(self, name), name)
        if seconds is not None and seconds * NS < 1:
            raise InvalidOption(explain(name, "0", "more than 0 seconds", "None means never"))
        return seconds

    @classmethod
    def make(cls, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> QueueOptions:
        """Return ``options`` over the broker's ``defaults``; refuses what is unknown."""
        reject_unknown("queue option", options, (field.name for field in dataclasses.fields(cls)))
        backoff = parse_duration(options.get("retry_backoff"), "retry_backoff")
        merged = {**defaults, **options}
        if backoff is not None and "retry_backoff_max" not in options:
            merged["retry_backoff_max"] = max(backoff, cls.retry_backoff_max)
        made = cls(**merged)
        made._refuse_idle(options)
        return made

    def _refuse_idle(self, given: Mapping[str, Any]) -> None:
        """Raise InvalidOption for what was ``given`` and could have no effect beside the others."""
        if self.durability != "none":
            raise InvalidOption(
                explain(
                    "durability",
                    f"{self.durability!r}",
                    "'none'",
                    "messages are kept in memory: there is no storage on disk yet",
                )
            )
        if "aging" in given and self.aging is not None:
            if self.order != "fifo":
                found, wanted = f"order={self.order!r}, where no message overtakes", "order='fifo'"
                raise InvalidOption(explain("aging", found, wanted, "leave one of them out"))
            if self.priorities == 1:
                todo = "leave aging out, or raise priorities"
                raise InvalidOption(explain("aging", "priorities=1", "2 or more levels", todo))
        if "dedup_capacity" in given and self.dedup_window is None:
            todo = "give it one, in which equal ids count once"
            raise InvalidOption(explain("dedup_capacity", "no dedup_window", "one", todo))

    def differences(self, other: QueueOptions) -> list[tuple[str, Any, Any]]:
        """Return (name, value here, value there) where the two differ."""
        return [
            (field.name, getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]

    def to_core(self, dead_letter: int, dead_word: int = 0) -> dict[str, int]:
        """Return the members of `shmq_queue_options`; ``dead_letter`` is a number, or SHMQ_NO_QUEUE."""
        return {
            "max_depth": self.max_depth,
            "max_bytes": self.max_bytes or 0,
            "ttl_ns": to_ns(self.ttl),
            "backoff_ns": to_ns(self.retry_backoff),
            "backoff_max_ns": to_ns(self.retry_backoff_max),
            "ack_timeout_ns": to_ns(self.ack_timeout),
            "dedup_window_ns": to_ns(self.dedup_window),
            "dead_word": dead_word,
            "dead_letter": dead_letter,
            "overflow": OVERFLOWS.index(self.overflow),
            "max_retries": UNLIMITED_RETRIES if self.max_retries is None else self.max_retries,
            "jitter_ppm": round(self.retry_jitter * 1_000_000),
            "priorities": self.priorities,
            "order": ORDERS.index(self.order),
            "durability": DURABILITIES.index(self.durability),
            "flags": 0,
            "aging_ns": to_ns(self.aging),
            "topic": 0,
            "kind": 0,
            "expired": EXPIRED.index(self.expired),
            "dedup_capacity": self.dedup_capacity,
        }

    @classmethod
    def from_core(cls, core: Any, dead_letter: str | None = None) -> QueueOptions:
        """Return the options in ``core`` (a `shmq_queue_options`, or anything with its members).

        Raises: CorruptSegment for what no `to_core` has written.
        """
        try:
            return cls._from_core(core, dead_letter)
        except (IndexError, InvalidOption) as error:
            todo = "delete the queue; something has written into shared memory"
            raise CorruptSegment(
                explain("options of a queue", str(error), "those it was made with", todo)
            ) from None

    @classmethod
    def _from_core(cls, core: Any, dead_letter: str | None) -> QueueOptions:
        return cls(
            max_depth=core.max_depth,
            max_bytes=core.max_bytes or None,
            overflow=OVERFLOWS[core.overflow],
            ttl=from_ns(core.ttl_ns),
            max_retries=None if core.max_retries == UNLIMITED_RETRIES else core.max_retries,
            retry_backoff=core.backoff_ns / NS,
            retry_backoff_max=core.backoff_max_ns / NS,
            retry_jitter=core.jitter_ppm / 1_000_000,
            ack_timeout=from_ns(core.ack_timeout_ns),
            expired=EXPIRED[core.expired],
            dead_letter=dead_letter,
            priorities=core.priorities,
            aging=from_ns(core.aging_ns),
            dedup_window=from_ns(core.dedup_window_ns),
            dedup_capacity=core.dedup_capacity or cls.dedup_capacity,
            order=ORDERS[core.order],
            durability=DURABILITIES[core.durability],
        )


def to_ns(seconds: float | None) -> int:
    """Return nanoseconds; 0 for None (never)."""
    return 0 if seconds is None else round(seconds * NS)


def from_ns(ns: int) -> float | None:
    """Return seconds; None (never) for 0."""
    return ns / NS if ns else None
