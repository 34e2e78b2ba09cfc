"""How sizes, durations, counts and choices are written, and what is said of one that cannot be.

All pure: text and numbers come in, seconds and bytes go out, and what is wrong is named with what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from shmq.errors import InvalidOption, InvalidOptionType, explain

NS = 1_000_000_000
MAX_SECONDS = 100 * 365 * 86400.0

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


def to_ns(seconds: float | None) -> int:
    """Return nanoseconds; 0 for None (never)."""
    return 0 if seconds is None else round(seconds * NS)


def from_ns(ns: int) -> float | None:
    """Return seconds; None (never) for 0."""
    return ns / NS if ns else None
