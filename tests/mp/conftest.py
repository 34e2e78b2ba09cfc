"""The queues of these tests live in a broker of the test module's own."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import pytest

import shmq.home
from shmq.errors import ShmqError


@pytest.fixture(autouse=True, scope="module")
def own_home() -> Iterator[None]:
    """A home that begins and ends with the module: what it leaves is its own fault."""
    before = os.environ.pop(shmq.home.VARIABLE, None)
    yield
    found = shmq.home._home
    if found is not None and found._open:
        gc.collect()
        with contextlib.suppress(ShmqError):
            found.shutdown(timeout=0)
        found._drop_lease()
    shmq.home._home = None
    os.environ.pop(shmq.home.VARIABLE, None)
    if before is not None:
        os.environ[shmq.home.VARIABLE] = before
