"""Message: validation, and headers that come back as they went in."""

from __future__ import annotations

import contextlib
import math
import pickle
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.errors import CorruptSegment, MessageTooLarge
from shmq.message import (
    QUEUE_DEFAULT,
    Decoded,
    Message,
    decode_headers,
    encode_headers,
    message_of,
)

texts = st.text(st.characters(), max_size=40)
values = (
    texts
    | st.binary(max_size=60)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
)
keys = st.none() | texts | st.binary(max_size=40)


@given(st.dictionaries(texts, values, max_size=12), keys, keys)
def test_headers_come_back_as_they_went_in(
    headers: dict[str, Any], key: str | bytes | None, dedup_id: str | bytes | None
) -> None:
    back = decode_headers(encode_headers(headers, key, dedup_id))
    assert back == Decoded(headers, key, dedup_id)
    assert [type(value) for value in back.headers.values()] == [
        type(value) for value in headers.values()
    ]
    assert list(back.headers) == list(headers)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_decode_or_are_told_to_be_corrupt(blob: bytes) -> None:
    with contextlib.suppress(CorruptSegment):
        decode_headers(blob)


def test_a_length_without_an_end_is_refused_at_once() -> None:
    with pytest.raises(CorruptSegment, match="a length without an end"):
        decode_headers(b"\x05" + b"\xff" * 60_000)


def test_nan_and_minus_zero_survive() -> None:
    back = decode_headers(encode_headers({"nan": math.nan, "zero": -0.0})).headers
    assert math.isnan(back["nan"])  # type: ignore[arg-type]
    assert math.copysign(1, back["zero"]) == -1  # type: ignore[arg-type]


def test_headers_above_64_kib_are_refused() -> None:
    assert encode_headers({"h": "x" * 65_000})
    with pytest.raises(MessageTooLarge, match=r"found 66,00. bytes"):
        encode_headers({"h": "x" * 66_000})
    with pytest.raises(ValueError, match="put the large ones into the payload"):
        encode_headers({"h": "x" * 66_000})


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"payload": "text"}, TypeError, "payload: found str"),
        ({"payload": 5}, TypeError, "payload: found int"),
        ({"headers": [("a", 1)]}, TypeError, "headers: found list"),
        ({"headers": {1: "a"}}, TypeError, "header name: found 1"),
        ({"headers": {"a": []}}, TypeError, "header 'a': found list"),
        ({"priority": "5"}, TypeError, "priority: found '5'"),
        ({"priority": True}, TypeError, "priority: found True"),
        ({"priority": 1.0}, TypeError, "priority: found 1.0"),
        ({"priority": -1}, ValueError, "priority: found -1"),
        ({"priority": 10}, ValueError, "priority: found 10"),
        ({"ttl": -1}, ValueError, "ttl: found -1"),
        ({"ttl": math.nan}, ValueError, "ttl: found nan"),
        ({"ttl": 0}, ValueError, "ttl: found 0, expected more than 0"),
        ({"ttl": "soon"}, ValueError, "ttl: found 'soon'"),
        ({"ttl": [1]}, TypeError, r"ttl: found \[1\]"),
        ({"delay": -0.5}, ValueError, "delay: found -0.5"),
        ({"delay": math.nan}, ValueError, "delay: found nan"),
        ({"delay": math.inf}, ValueError, "delay: found infinity"),
        ({"delay": "never"}, ValueError, "delay: found 'never'"),
        ({"key": 5}, TypeError, "key: found 5"),
        ({"dedup_id": 5.0}, TypeError, "dedup_id: found 5.0"),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        Message(**fields)


def test_times_are_seconds_or_texts() -> None:
    message = Message(b"x", ttl="250ms", delay="2m")
    assert (message.ttl, message.delay) == (0.25, 120.0)
    assert (message.ttl_ns, message.delay_ns) == (250_000_000, 120_000_000_000)
    assert Message(b"x").ttl_ns == QUEUE_DEFAULT
    assert Message(b"x", ttl=math.inf).ttl_ns == 0


@pytest.mark.parametrize("payload", [b"x", bytearray(b"x"), memoryview(b"x"), array("I", [1, 2])])
def test_any_bytes_like_object_is_a_payload(payload: Any) -> None:
    assert Message(payload).payload is payload


def test_a_message_pickles_and_is_immutable() -> None:
    message = Message(b"x", headers={"a": 1}, priority=3, ttl=2.0, key=b"k", dedup_id="d")
    assert pickle.loads(pickle.dumps(message)) == message
    with pytest.raises(AttributeError):
        message.priority = 4  # type: ignore[misc]


def test_fields_of_publish_override_those_of_the_message() -> None:
    message = Message(b"x", headers={"a": 1}, priority=3)
    assert message_of(message, {}) is message
    assert message_of(message, {"priority": 4}) == Message(b"x", headers={"a": 1}, priority=4)
    assert message_of(b"x", {"ttl": 1}) == Message(b"x", ttl=1.0)
    with pytest.raises(TypeError, match="'prio': found an unknown name"):
        message_of(b"x", {"prio": 4})
