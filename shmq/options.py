"""What a queue is made with.

`QueueOptions` is what the user sees: seconds, names. Each of its fields is declared once, with what it is (`Kind`): how its
value is read and checked, which member of the core's struct it becomes, and how it comes back from there (nanoseconds, numbers).
Everything here is pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

from shmq._names import MAX_NAME_BYTES, check_name
from shmq._values import NS, parse_choice, parse_count, parse_duration, parse_size, reject_unknown
from shmq.errors import CorruptSegment, InvalidOption, InvalidOptionType, explain

__all__ = ["QueueOptions"]

MAX_DEPTH = 1 << 23  # half of the blocks that a segment can have
MAX_DEDUP_IDS = (1 << 24) - 2
DEDUP_IDS = 1_000_000  # what 0 is in the core
MAX_RETRIES = 4094  # attempts are counted in 12 bits
UNLIMITED_RETRIES = 0xFFFFFFFF
MAX_LEVELS = 10
PPM = 1_000_000

OVERFLOWS = ("block", "reject", "drop-oldest", "disconnect")  # the last: of subscriptions only
EXPIRED = ("dead-letter", "drop")
ORDERS = ("fifo", "key", "strict")
DURABILITIES = ("none", "snapshot", "interval", "sync")


# ---- kinds of options -----------------------------------------------------------------------------


class Kind(NamedTuple):
    """What an option is. ``parse`` gets what the user gave and the option's name, and returns its value or raises."""

    parse: Callable[[object, str], Any]
    to_core: Callable[[Any], int] = int
    from_core: Callable[[int], Any] = int


def whole(least: int, most: int) -> Kind:
    """A whole number."""
    return Kind(lambda value, name: parse_count(value, name, least, most))


def choice(words: tuple[str, ...]) -> Kind:
    """One of some words; the core has its place among them."""
    return Kind(
        lambda value, name: parse_choice(value, name, words), words.index, words.__getitem__
    )


def _parse_bytes(value: object, name: str) -> int:
    size = parse_size(value, name)
    if size == 0:
        raise InvalidOption(explain(name, "0", "1 or more bytes", "use None for no bound"))
    return size


def _parse_period(value: object, name: str) -> float | None:
    seconds = parse_duration(value, name)
    if seconds is not None and seconds * NS < 1:
        raise InvalidOption(explain(name, "0", "more than 0 seconds", "None means never"))
    return seconds


def _parse_delay(value: object, name: str) -> float:
    seconds = parse_duration(value, name)
    if seconds is None:
        raise InvalidOptionType(explain(name, "None", "seconds", "use 0 for no delay"))
    return seconds


def _parse_part(value: object, name: str) -> float:
    kind: type[InvalidOption] = InvalidOptionType
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 <= value <= 1:  # false for NaN
            return float(value)
        kind = InvalidOption
    raise kind(explain(name, f"{value!r}", "a number from 0 to 1", "0 means none"))


def _parse_queue(value: object, name: str) -> str:
    return check_name(value, name, MAX_NAME_BYTES)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * NS)


def _seconds(ns: int) -> float:
    return ns / NS


BYTES = Kind(_parse_bytes)
PERIOD = Kind(_parse_period, _nanoseconds, _seconds)
DELAY = Kind(_parse_delay, _nanoseconds, _seconds)
PART = Kind(_parse_part, lambda part: round(part * PPM), lambda ppm: ppm / PPM)
IDS = whole(1, MAX_DEDUP_IDS)._replace(from_core=lambda ids: ids or DEDUP_IDS)
QUEUE = Kind(_parse_queue)  # its name here; its number in the core, which the core's caller knows


def option(default: Any, kind: Kind, member: str | None, none: int | None = None) -> Any:
    """Declare an option that is ``member`` of `shmq_queue_options`; ``none``: what None is there, if it may be None."""
    return dataclasses.field(default=default, metadata={"is": Declared(kind, member, none)})


class Declared(NamedTuple):
    """What `option` was told."""

    kind: Kind
    member: str | None
    none: int | None

    def parse(self, value: object, name: str) -> Any:
        """Return the option's value; raise InvalidOption for one that it cannot have."""
        return None if value is None and self.none is not None else self.kind.parse(value, name)

    def to_core(self, value: Any) -> int:
        """Return what ``value`` is in the core's struct."""
        return self.none if value is None and self.none is not None else self.kind.to_core(value)

    def from_core(self, number: int) -> Any:
        """Return the value that ``number`` of the core's struct stands for."""
        return None if number == self.none else self.kind.from_core(number)


# ---- the options ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueOptions:
    """What a queue is made with. Times are seconds (numbers, or "90s", "250ms"), sizes bytes."""

    max_depth: int = option(100_000, whole(1, MAX_DEPTH), "max_depth")
    """messages ready at a time"""
    max_bytes: int | None = option(None, BYTES, "max_bytes", none=0)
    """payload bytes ready at a time; None = bounded by the broker's memory only"""
    overflow: str = option("block", choice(OVERFLOWS), "overflow")
    """what publish does when the queue is full: "block", "reject" (QueueFull), "drop-oldest" """
    ttl: float | None = option(86400.0, PERIOD, "ttl_ns", none=0)
    """seconds that a message without its own ttl lives; None = for ever"""
    max_retries: int | None = option(
        3, whole(0, MAX_RETRIES), "max_retries", none=UNLIMITED_RETRIES
    )
    """redeliveries before a message is dead; None = without end"""
    retry_backoff: float = option(1.0, DELAY, "backoff_ns")
    """seconds until the first redelivery; doubles each time; 0 = at once"""
    retry_backoff_max: float = option(60.0, DELAY, "backoff_max_ns")
    """longest delay before a redelivery, seconds"""
    retry_jitter: float = option(0.1, PART, "jitter_ppm")
    """spread of the delay, as a part of it, 0..1"""
    ack_timeout: float | None = option(None, PERIOD, "ack_timeout_ns", none=0)
    """seconds until an unsettled delivery is taken back; None = only when its process is dead"""
    expired: str = option("dead-letter", choice(EXPIRED), "expired")
    """what becomes of a message that outlives its ttl: "dead-letter" or "drop" """
    dead_letter: str | None = option(None, QUEUE, None, none=0)
    """name of the queue for dead messages; None = they are dropped"""
    priorities: int = option(MAX_LEVELS, whole(1, MAX_LEVELS), "priorities")
    """levels, 0 = lowest"""
    aging: float | None = option(None, PERIOD, "aging_ns", none=0)
    """seconds after which a waiting message counts as one level higher, and so on; None = never"""
    dedup_window: float | None = option(None, PERIOD, "dedup_window_ns", none=0)
    """seconds during which a second message with the same dedup_id is recognised; None = off"""
    dedup_capacity: int = option(DEDUP_IDS, IDS, "dedup_capacity")
    """ids that a dedup_window can hold; memory is taken as they come, 17 bytes each"""
    order: str = option("fifo", choice(ORDERS), "order")
    """"fifo"; "key": per key, "strict": altogether, one unsettled message at a time, in order"""
    durability: str = option("none", choice(DURABILITIES), "durability")
    """"none", "snapshot", "interval" or "sync" """

    def __post_init__(self) -> None:
        for name, declared in DECLARED.items():
            # Frozen for everybody else.
            object.__setattr__(self, name, declared.parse(getattr(self, name), name))
        if self.retry_backoff_max < self.retry_backoff:
            raise InvalidOption(
                explain(
                    "retry_backoff_max",
                    f"{self.retry_backoff_max:g} s",
                    f"at least retry_backoff, {self.retry_backoff:g} s",
                    "raise it or lower retry_backoff",
                )
            )

    @classmethod
    def make(cls, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> QueueOptions:
        """Return ``options`` over the broker's ``defaults``; refuses what is unknown."""
        reject_unknown("queue option", options, DECLARED)
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
            (name, getattr(self, name), getattr(other, name))
            for name in DECLARED
            if getattr(self, name) != getattr(other, name)
        ]

    def to_core(self, dead_letter: int, dead_word: int = 0) -> dict[str, int]:
        """Return the members of `shmq_queue_options`; ``dead_letter`` is a number, or SHMQ_NO_QUEUE."""
        core = {
            "dead_letter": dead_letter,
            "dead_word": dead_word,
            "flags": 0,
            "topic": 0,
            "kind": 0,
        }
        for name, declared in DECLARED.items():
            if declared.member is not None:
                core[declared.member] = declared.to_core(getattr(self, name))
        return core

    def kept(self) -> QueueOptions:
        """Return the options as a queue that is made with them has them: times in whole nanoseconds."""
        core = SimpleNamespace(**self.to_core(0))
        return QueueOptions.from_core(core, self.dead_letter)

    @classmethod
    def from_core(cls, core: Any, dead_letter: str | None = None) -> QueueOptions:
        """Return the options in ``core`` (a `shmq_queue_options`, or anything with its members).

        Raises: CorruptSegment for what no `to_core` has written.
        """
        try:
            found = {
                name: declared.from_core(getattr(core, declared.member))
                for name, declared in DECLARED.items()
                if declared.member is not None
            }
            return cls(**found, dead_letter=dead_letter)
        except (IndexError, InvalidOption) as error:
            todo = "delete the queue; something has written into shared memory"
            raise CorruptSegment(
                explain("options of a queue", str(error), "those it was made with", todo)
            ) from None


DECLARED: dict[str, Declared] = {
    field.name: field.metadata["is"] for field in dataclasses.fields(QueueOptions)
}
