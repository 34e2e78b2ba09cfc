"""A broker, and every start method."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shmq


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def method(request: pytest.FixtureRequest) -> str:
    """A start method of multiprocessing."""
    return str(request.param)


@pytest.fixture
def broker(broker_name: str) -> Iterator[shmq.Broker]:
    with shmq.Broker(broker_name) as made:
        yield made
