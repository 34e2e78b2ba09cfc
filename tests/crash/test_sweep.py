"""Every operation of the core, killed and stopped after every instruction: native/tests/sweep.c.

By hand: `build/crash/tests/sweep --list`, then `--only NAME`; `--full` sweeps all pairs of deaths.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest

SHARDS = 12

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 registers"),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_instruction_is_a_bad_one_to_die_after(run: Callable[..., str], shard: int) -> None:
    text = run("sweep", "--shard", f"{shard}/{SHARDS}", limit=290)
    assert " 0 violations" in text


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_pair_of_instructions_either(run: Callable[..., str], shard: int) -> None:
    run("sweep", "--full", "--shard", f"{shard}/{SHARDS}", limit=7100)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(7200)
def test_states_with_equal_bytes_are_equal(run: Callable[..., str]) -> None:
    """Killed after each instruction, whether or not it changed a byte that others see."""
    run("sweep", "--every", "--no-pair", "--no-real", limit=7100)
