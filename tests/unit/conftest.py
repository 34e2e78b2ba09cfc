"""A segment for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig import Rig, memory


@pytest.fixture
def rig() -> Iterator[Rig]:
    with memory() as made:
        yield made
