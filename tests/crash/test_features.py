"""All features at once, everybody killed at random: features.py; and that its accounts notice what is wrong.

SHMQ_FEATURES_SECONDS=300 pytest -m crash tests/crash/test_features.py -n0: as long as you like.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from ledger import Ledger

pytestmark = pytest.mark.crash

SECONDS = int(os.environ.get("SHMQ_FEATURES_SECONDS", "12"))


@pytest.mark.timeout(SECONDS + 200)
def test_chaos_over_all_features_leaves_every_message_accounted_for(tmp_path: Path) -> None:
    program = Path(__file__).with_name("features.py")
    done = subprocess.run(
        [sys.executable, str(program), "--seconds", str(SECONDS), "--keep", str(tmp_path / "logs")],
        capture_output=True,
        text=True,
        timeout=SECONDS + 180,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "; 0 violations" in done.stdout.splitlines()[-1]


# kind, time, words: see roles.Log. Each of these is a story with one fault.
WRONG = {
    "lost: w-0 of work": "p 1 work w-0\nP 2 work w-0 7\ng 3 work w-0 7 3 1",
    "nowhere: w-1 of work": "g 3 work w-1 8 3 1\na 4 work 8",
    "refused: w-2 of work": "p 1 work w-2\nx 2 work w-2\ng 3 work w-2 9 3 1\na 4 work 9",
    "after: w-3 of work": "p 1 work w-3\nP 2 work w-3 7\ng 3 work w-3 7 3 1\na 4 work 7\nA 5 work 7\ng 7 work w-3 7 6 2",
    "order: k-1 of keyed": "p 1 keyed k-1\np 2 keyed k-2\ng 3 keyed k-2 2 3 1\ng 5 keyed k-1 4 3 1",
    "order: p.0-6 of /events.a/keyed": "p 1 events.a p.0-6\nP 2 events.a p.0-6 7\np 3 events.a p.0-12\nP 4 events.a p.0-12 8\n"
    "g 5 /events.a/keyed p.0-12 8 4 1\ng 7 /events.a/keyed p.0-6 7 6 1",
    "late: t-0": "p 1 timed t-0 0:0.5\nP 2 timed t-0 7\ng 600000001 timed t-0 7 600000000 1\na 600000002 timed 7",
    "early: t-1": "p 1 timed t-1 0.2:60\nP 2 timed t-1 7\ng 9 timed t-1 7 8 1\na 10 timed 7",
    "twice: job-1 in mid": "g 3 mid job-1 7 2 1\ng 3 mid job-1 8 2 1",
    "lost: job-2 did not come to /done/one": "p 1 in job-2\nP 2 in job-2 7\ng 3 in job-2 7 3 1",
    "torn: e-0 is not in /events.a/keyed": "p 1 events.a e-0\ng 3 /events.a/audit e-0 7 2 1",
    "lost: e-1 is not in /events.a/audit": "p 1 events.a e-1\nP 2 events.a e-1 7",
    "torn: e-3 is missing in /events.a/~": "".join(
        f"p 1 events.a e-{n}\ng 3 /events.a/audit e-{n} {n} 2 1\n" for n in (0, 3, 6)
    )
    + "g 3 /events.a/~ e-0 0 2 1\ng 3 /events.a/~ e-6 6 2 1",
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_accounts_notice(fault: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(WRONG[fault] + "\n")
    ledger = Ledger(tmp_path)
    ledger.check()
    assert any(bad.startswith(fault) for bad in ledger.bad), ledger.bad


def test_what_a_dead_publisher_did_not_know_of_may_come_late_to_a_subscription(
    tmp_path: Path,
) -> None:
    (tmp_path / "log").write_text(
        WRONG["order: p.0-6 of /events.a/keyed"].replace("P 2 events.a p.0-6 7\n", "")
    )
    ledger = Ledger(tmp_path)
    ledger.check()
    assert not [bad for bad in ledger.bad if bad.startswith("order")]
