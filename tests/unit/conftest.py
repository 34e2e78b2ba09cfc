"""A segment for each test, whose invariants hold at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig import Rig, memory


@pytest.fixture
def rig() -> Iterator[Rig]:
    with memory() as made:
        yield made
        assert made.audit() == {}
