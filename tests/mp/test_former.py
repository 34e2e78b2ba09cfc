"""Queues of objects that a former version has pickled."""

from __future__ import annotations

import os
import pickle

import pytest
from kit import pickled_text

import shmq.mp
from shmq._client import client_of


@pytest.mark.parametrize(
    ("module", "kind", "rest"),
    [
        ("shmq.mp.queue", "Queue", b"K\x05\x89"),
        ("shmq.mp.joinable", "JoinableQueue", b"J\xff\xff\xff\x7f\x89"),
        ("shmq.mp.simple", "SimpleQueue", b"J\xff\xff\xff\x7f"),
    ],
)
def test_a_queue_of_objects_opens(module: str, kind: str, rest: bytes) -> None:
    queue = getattr(shmq.mp, kind)()
    queue.put(("a", os.getpid()))
    pickled = (
        f"\x80\x02c{module}\n{kind}\n)\x81(cshmq.home\nParcel\n".encode("latin-1")
        + pickled_text(client_of(queue).name)
        + b"N\x86\x81"
        + pickled_text(repr(queue).split("'")[1])
        + rest
        + b"tb."
    )
    other = pickle.loads(pickled)
    assert type(other) is type(queue)
    assert other.get() == ("a", os.getpid())
    if kind == "JoinableQueue":
        other.task_done()
        queue.join()
