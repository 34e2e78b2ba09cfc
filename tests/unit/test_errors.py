"""The exceptions: one root, readable texts, and they survive pickling."""

from __future__ import annotations

import pickle
import queue

import pytest

from shmq import errors
from shmq._native import ffi
from shmq.errors import RESULTS, ShmqError, explain

EXCEPTIONS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, ShmqError) and value.__name__[0] != "_"
]


@pytest.mark.parametrize("exception", EXCEPTIONS, ids=lambda e: e.__name__)
def test_exceptions_keep_text_and_type_across_pickling(exception: type[ShmqError]) -> None:
    error = exception(explain("queue 'a'", "this", "that", "do something"))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is exception
    assert str(again) == str(error) == "queue 'a': found this, expected that; do something"


@pytest.mark.parametrize(
    ("exception", "base"),
    [
        (errors.QueueFull, queue.Full),
        (errors.QueueEmpty, queue.Empty),
        (errors.QueueNotFound, KeyError),
        (errors.TopicNotFound, KeyError),
        (errors.MessageTooLarge, ValueError),
        (errors.OutOfSharedMemory, MemoryError),
        (errors.InvalidOption, ValueError),
        (errors.InvalidOptionType, TypeError),
        (errors.InvalidOptionType, ValueError),
        (errors.ForeignSegment, PermissionError),
    ],
)
def test_exceptions_are_also_what_the_standard_library_calls_them(
    exception: type[ShmqError], base: type[Exception]
) -> None:
    with pytest.raises(base):
        raise exception("x")


def test_every_exception_is_exported() -> None:
    import shmq

    for exception in EXCEPTIONS:
        assert exception.__name__ in errors.__all__
        assert getattr(shmq, exception.__name__) is exception


def test_every_result_of_the_core_has_an_exception() -> None:
    names = set(ffi.typeof("enum shmq_rc").relements) - {"SHMQ_OK"}
    assert set(RESULTS) == names


def test_every_text_says_what_to_do() -> None:
    for kind, found, expected, advice in RESULTS.values():
        assert issubclass(kind, ShmqError)
        assert all((found, expected, advice))
