"""Producers, consumers and janitors killed at random, thousands of times: native/tests/chaos.c.

SHMQ_CHAOS_KILLS=100000 pytest -m crash tests/crash/test_chaos.py -k random -n0: as long as you like.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("SHMQ_CHAOS_KILLS", "2000"))


@pytest.mark.timeout(60 + KILLS)
@pytest.mark.parametrize("rate", [100, 1000])
def test_random_deaths_lose_nothing(run: Callable[..., str], rate: int) -> None:
    kills = KILLS if rate == 1000 else max(KILLS // 4, 1)
    text = run("chaos", "--kills", str(kills), "--rate", str(rate), limit=50 + KILLS)
    assert (
        "lost 0, twice 0, from nowhere 0, torn 0, out of order 0, partial 0, leaked blocks 0"
        in text
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(2, 5))
def test_ten_thousand_deaths(run: Callable[..., str], seed: int) -> None:
    run("chaos", "--kills", "10000", "--rate", "800", "--seed", str(seed), limit=1100)
