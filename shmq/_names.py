"""Which names queues, topics, subscriptions, groups and brokers may have."""

from __future__ import annotations

from shmq.errors import InvalidOption, InvalidOptionType, explain

MAX_NAME_BYTES = 255  # of a queue
MAX_BROKER_NAME_BYTES = 200  # becomes part of a file name, which has 255


def check_name(name: object, what: str, limit: int) -> str:
    """Return ``name`` if ``what`` may have it: 1 to ``limit`` bytes of UTF-8 without "/" and NUL."""
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
    return check_name(name, "queue name", MAX_NAME_BYTES)


def check_topic_name(name: object) -> str:
    """Return ``name`` if a topic may have it: like a queue's, and without the wildcards * and #."""
    found = check_name(name, "topic name", MAX_NAME_BYTES - 1)
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
    found = check_name(pattern, "topic pattern", MAX_NAME_BYTES - 1)
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
    return check_name(name, what, MAX_NAME_BYTES - 1)


def check_broker_name(name: object) -> str:
    """Return ``name`` if a broker may have it: 1 to 200 bytes of UTF-8 without "/" and NUL."""
    return check_name(name, "broker name", MAX_BROKER_NAME_BYTES)
