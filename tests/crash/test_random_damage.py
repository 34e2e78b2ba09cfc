"""Random words of a living broker's segment are changed, then everything is called: damage.py.

SHMQ_DAMAGE_RUNS=10000 pytest -m crash tests/crash/test_random_damage.py -n0: as many as you like.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.crash

RUNS = int(os.environ.get("SHMQ_DAMAGE_RUNS", "120"))


@pytest.mark.timeout(200 + RUNS)
def test_no_word_of_the_segment_costs_more_than_an_exception_of_ours(broker_name: str) -> None:
    program = Path(__file__).with_name("damage.py")
    done = subprocess.run(
        [sys.executable, str(program), "--runs", str(RUNS), "--prefix", f"{broker_name}-"],
        capture_output=True,
        text=True,
        timeout=180 + RUNS,
        check=False,
    )
    print(done.stdout[-200:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
