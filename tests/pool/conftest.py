"""Every start method."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def method(request: pytest.FixtureRequest) -> str:
    """A start method of multiprocessing."""
    return str(request.param)
