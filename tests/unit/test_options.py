"""Queue options: units, bounds, names, and the way into the core's struct and back."""

from __future__ import annotations

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq._names import check_broker_name, check_queue_name
from shmq._native import ffi, lib
from shmq._values import from_ns, parse_duration, parse_size, to_ns
from shmq.errors import InvalidOption, InvalidOptionType
from shmq.options import QueueOptions


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400.0), ("90s", 90.0), ("250ms", 0.25), ("1.5 m", 90.0), ("2d", 172800.0),
        ("5", 5.0), (3, 3.0), (0.5, 0.5), (0, 0.0), (None, None), ("never", None), ("500us", 0.0005),
    ],
)  # fmt: skip
def test_durations_are_read(text: object, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "abc", "5 parsecs", "-1s", "1h30", -1, float("nan"), 1e300])
def test_durations_that_cannot_be_are_refused(text: object) -> None:
    with pytest.raises(InvalidOption):
        parse_duration(text, "ttl")


@pytest.mark.parametrize("value", [True, [], b"5s", 1j])
def test_durations_of_the_wrong_type_are_type_errors(value: object) -> None:
    with pytest.raises(TypeError):
        parse_duration(value, "ttl")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1MB", 1 << 20),
        ("64KiB", 65536),
        ("2g", 2 << 30),
        ("7", 7),
        (7, 7),
        ("1.5k", 1536),
        ("8 b", 8),
    ],
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "1XB", -1, "-1", 1 << 62, 1.5, None, True])
def test_sizes_that_cannot_be_are_refused(text: object) -> None:
    with pytest.raises(InvalidOption):
        parse_size(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_depth": 0}, {"max_depth": -1}, {"max_depth": 1 << 40}, {"max_bytes": 0},
        {"overflow": "drop"}, {"ttl": 0}, {"ttl": -1}, {"ttl": float("nan")},
        {"ttl": float("inf")}, {"max_retries": -1}, {"max_retries": 70000},
        {"retry_backoff": -1}, {"retry_backoff": 10, "retry_backoff_max": 5},
        {"retry_jitter": 1.5}, {"retry_jitter": float("nan")}, {"ack_timeout": 0},
        {"dead_letter": ""}, {"dead_letter": "a/b"}, {"priorities": 0}, {"priorities": 11},
        {"dedup_window": 0}, {"aging": 0}, {"aging": -1}, {"order": "lifo"}, {"durability": "maybe"},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_options_are_value_errors_that_name_the_option(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError) as caught:
        QueueOptions(**wrong)  # type: ignore[arg-type]
    assert any(name in str(caught.value) for name in wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_depth": 1.5}, {"max_depth": True}, {"max_depth": None}, {"ttl": []},
        {"overflow": None}, {"retry_backoff": None}, {"retry_jitter": "much"},
        {"dead_letter": 5}, {"max_bytes": 1.5}, {"max_retries": "many"},
    ],
    ids=str,
)  # fmt: skip
def test_options_of_the_wrong_type_are_type_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        QueueOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("max_dept", "max_depth"), ("deadletter", "dead_letter"), ("retries", "max_retries")],
)
def test_unknown_options_suggest_the_nearest(typo: str, meant: str) -> None:
    with pytest.raises(InvalidOptionType, match=f"did you mean '{meant}'"):
        QueueOptions.make({}, {typo: 1})


def test_given_options_win_over_defaults() -> None:
    options = QueueOptions.make({"max_depth": 5, "ttl": 1.0}, {"ttl": "2s"})
    assert (options.max_depth, options.ttl) == (5, 2.0)


def test_a_long_first_backoff_raises_the_longest_one() -> None:
    assert QueueOptions.make({}, {"retry_backoff": "5m"}).retry_backoff_max == 300.0


maybe_seconds = st.none() | st.integers(1, 10**15).map(lambda ns: ns / 1e9)


@given(
    st.builds(
        QueueOptions,
        max_depth=st.integers(1, 1 << 23),
        max_bytes=st.none() | st.integers(1, 1 << 40),
        overflow=st.sampled_from(["block", "reject", "drop-oldest"]),
        ttl=maybe_seconds,
        max_retries=st.none() | st.integers(0, 4094),
        retry_backoff=st.just(0.25),
        retry_jitter=st.sampled_from([0, 0.1, 0.25, 1]),
        ack_timeout=maybe_seconds,
        priorities=st.integers(1, 10),
        aging=maybe_seconds,
        dedup_window=maybe_seconds,
        order=st.sampled_from(["fifo", "key", "strict"]),
        durability=st.sampled_from(["none", "snapshot", "interval", "sync"]),
    )
)
def test_options_survive_the_way_through_the_core(options: QueueOptions) -> None:
    core = options.to_core(lib.SHMQ_NO_QUEUE)
    assert core["dead_letter"] == lib.SHMQ_NO_QUEUE
    struct = ffi.new("shmq_queue_options *", core)
    assert QueueOptions.from_core(types.SimpleNamespace(**core)) == options
    assert not QueueOptions.from_core(struct).differences(options)


def test_differences_name_both_values() -> None:
    one, two = QueueOptions(max_depth=1), QueueOptions(max_depth=2)
    assert one.differences(two) == [("max_depth", 1, 2)]
    assert one.differences(one) == []


def test_never_is_zero_nanoseconds() -> None:
    assert to_ns(None) == 0
    assert from_ns(0) is None
    assert to_ns(1.5) == 1_500_000_000
    assert from_ns(1_500_000_000) == 1.5


@pytest.mark.parametrize(("check", "limit"), [(check_queue_name, 255), (check_broker_name, 200)])
def test_names_have_a_limit_in_bytes(check: object, limit: int) -> None:
    assert callable(check)
    assert check("n" * limit) == "n" * limit
    assert check("ü" * (limit // 2)) == "ü" * (limit // 2)
    for wrong in ("n" * (limit + 1), "ü" * (limit // 2 + 1), "", "a/b", "a\0b", "\ud800"):
        with pytest.raises(InvalidOption, match=r"name"):
            check(wrong)
    with pytest.raises(InvalidOptionType):
        check(b"bytes")
