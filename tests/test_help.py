"""`help()` of what users call: each public callable shows a signature and says what it does."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Iterator
from typing import Any

import pytest

import shmq
import shmq.mp


def public() -> Iterator[tuple[str, Any]]:
    for module in (shmq, shmq.mp):
        for name in module.__all__:
            one = getattr(module, name)
            if callable(one):
                yield f"{module.__name__}.{name}", one
            if inspect.isclass(one):
                yield from members(f"{module.__name__}.{name}", one)


def members(name: str, cls: type) -> Iterator[tuple[str, Any]]:
    for key in dir(cls):
        owner = next((c for c in cls.__mro__ if key in vars(c)), object)
        if key.startswith("_") or not owner.__module__.startswith("shmq"):
            continue
        yield f"{name}.{key}", getattr(cls, key)


def slot_doc(name: str) -> str | None:
    """Return the text of an attribute in `__slots__`, where `help()` looks for it."""
    home, _, key = name.rpartition(".")
    for each in getattr(EVERYTHING.get(home), "__mro__", ()):
        slots = vars(each).get("__slots__")
        if isinstance(slots, dict) and slots.get(key):
            return str(slots[key])
    return None


EVERYTHING = dict(public())


def test_the_hottest_calls_are_among_them() -> None:
    hot = [
        "shmq.Queue.publish",
        "shmq.Topic.publish_many",
        "shmq.Consumer.get",
        "shmq.Delivery.ack",
    ]
    assert set(hot) <= set(EVERYTHING)
    assert "shmq.mp.Queue.put" in EVERYTHING
    assert "shmq.Topic.loan" not in EVERYTHING  # a loan is of one queue


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_public_says_what_it_does(name: str) -> None:
    one = EVERYTHING[name]
    if not (callable(one) or inspect.isdatadescriptor(one)):
        return  # a default of a dataclass: described by its class
    text = inspect.getdoc(one) or slot_doc(name)
    assert text
    assert len(text.split()) > 1
    if callable(one) and not (inspect.isclass(one) and issubclass(one, BaseException)):
        assert inspect.signature(one) is not None
        assert "(" in pydoc.plain(pydoc.render_doc(one))


@pytest.mark.parametrize("name", ["shmq.Queue.publish", "shmq.Topic.publish"])
def test_the_signature_of_publish_is_the_one_of_its_types(name: str) -> None:
    shown = str(inspect.signature(EVERYTHING[name]))
    for part in ("message", "*", "timeout=None", "serializer=None", "**fields"):
        assert part in shown.replace(": 'Any'", "").replace(" = ", "="), shown
