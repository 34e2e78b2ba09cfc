"""All features at once, everybody killed at random: features.py; and that its accounts notice what is wrong.

SHMQ_FEATURES_SECONDS=300 pytest -m crash tests/crash/test_features.py -n0: as long as you like.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ledger import Ledger
from roles import Log

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
    # what waits for room
    "lost: s-0 of slot": "p 1 slot s-0\nP 2 slot s-0 7\ng 3 slot s-0 7 3 1 0",
    "lost: b-0 of back": "p 1 back b-0\nB 2 back b-0",
    "nowhere: b-1 of back": "g 3 back b-1 7 2 1 0\na 4 back 7",
    "twice: b-2 in back": "p 1 back b-2\ng 3 back b-2 7 2 1 0\ng 3 back b-2 8 2 1 0",
    "order: k.0-1 of lane": "p 1 lane k.0-1\np 1 lane k.0-2\ng 3 lane k.0-2 8 2 1 0\ng 4 lane k.0-1 7 2 2 1",
    "order: 7 of slot": "p 1 slot s-0 0.01\nP 2 slot s-0 7\np 3 slot s-1 0.02\nP 4 slot s-1 8\n"
    "g 50000000 slot s-1 8 3 1 0\ng 50000001 slot s-0 7 3 1 0",
    "order: 7 of block.dead": "r 1 over.block 7\nR 2 over.block 7\nr 3 over.block 8\nR 4 over.block 8\n"
    "g 5 block.dead o-8 8 4 1 0\ng 6 block.dead o-7 7 4 1 0",
    "nowhere: j-0 of spill": "g 3 spill j-0 7 2 1 0",
    "uncounted: 1 of spill": "p 1 spill j-0 0.1\nP 2 spill j-0 7\nc 9 spill 0 0",
    # bounds of dead-letter queues
    "above: 99 in reject.dead": "m 1 reject.dead 7 0 0\nm 2 reject.dead 99 0 0",
    "above: 24001 bytes in bytes.dead": "m 1 bytes.dead 30 24001 0",
    "uncounted: 1 in drop.dead": "r 1 over.drop 7\nR 2 over.drop 7\nc 9 drop.dead 0 0\nc 9 over.drop 0 1",
    "uncounted: 1 in block.dead": "r 1 over.block 7\nR 2 over.block 7\nc 9 block.dead 1 0\nc 9 over.block 0 1",
    "uncounted: 1 of reject.dead dropped": "r 1 over.reject 7\nR 2 over.reject 7\n"
    "g 3 reject.dead o-7 7 2 1 0\nc 9 reject.dead 1 0\nc 9 over.reject 0 1",
    "uncounted: 2 died in over.bytes": "r 1 over.bytes 7\nR 2 over.bytes 7\n"
    "g 3 bytes.dead o-7 7 2 1 0\nc 9 bytes.dead 0 0\nc 9 over.bytes 0 2",
    "nowhere: 7 in drop.dead": "g 3 drop.dead o-7 7 2 1 0",
    "after: 7 of over.drop acked": "a 1 over.drop 7\nA 2 over.drop 7\nr 1 over.drop 7\ng 3 drop.dead o-7 7 2 1 0",
    # the oldest goes
    "order: h.0-2 of hold.key": "p 1 hold.key h.0-2\np 1 hold.key h.0-4\ng 3 hold.key h.0-4 8 2 1 0\ng 4 hold.key h.0-2 7 2 1 0",
    "order: h-1 of hold.strict": "p 1 hold.strict h-1\np 1 hold.strict h-3\n"
    "g 2 hold.strict h-1 7 1 1 0\ng 3 hold.strict h-3 8 2 1 0\ng 4 hold.strict h-1 7 2 2 1",
    "order: h.0-0 of /held/latest": "p 1 held h.0-0\nP 1 held h.0-0 7\np 1 held h.0-6\n"
    "g 3 /held/latest h.0-6 8 2 1 0\ng 4 /held/latest h.0-0 7 2 1 0",
    "lost: h.0-2 of hold.key": "p 1 hold.key h.0-2\nP 2 hold.key h.0-2 7",
    "lost: 7 of hold.strict, one of the newest": "p 1 hold.strict h-1\nP 2 hold.strict h-1 7",
    "uncounted: 1 of hold.strict": "p 1 hold.strict h-1\nP 2 hold.strict h-1 7\nc 9 hold.strict 0 0",
    "lost: 7 of /held/latest, one of the newest": "p 1 held h.0-0\nP 2 held h.0-0 7\ng 3 /held/all h.0-0 7 2 1 0",
    "lost: h.0-0 is not in /held/all": "p 1 held h.0-0\nP 2 held h.0-0 7\ng 3 /held/latest h.0-0 7 2 1 0",
    "torn: h.0-0 is not in /held/all": "p 1 held h.0-0\ng 3 /held/latest h.0-0 7 2 1 0",
    "nowhere: h.0-0 of held": "g 3 /held/all h.0-0 7 2 1 0",
    # a dead-letter queue that is deleted and made anew
    "lost: letter 7 of phoenix": "Y 1 phoenix.dead\nr 2 phoenix 7\nR 3 phoenix 7\nE 6 phoenix.dead 5\nX 7 phoenix.dead\nY 8 phoenix.dead",
    "lost: letter 8 of phoenix": "Y 1 phoenix.dead\nE 3 phoenix.dead 2\nX 4 phoenix.dead\nY 5 phoenix.dead\nr 6 phoenix 8\nR 7 phoenix 8",
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_accounts_notice(fault: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(WRONG[fault] + "\n")
    ledger = Ledger(tmp_path)
    ledger.check()
    assert any(bad.startswith(fault) for bad in ledger.bad), ledger.bad


RIGHT = {
    "a letter that came while its queue was being emptied ends with it": "Y 1 phoenix.dead\nE 4 phoenix.dead 2\nX 5 phoenix.dead\n"
    "Y 6 phoenix.dead\nr 3 phoenix 7\nR 3 phoenix 7",
    "one that a dead process was dropping comes back": "p 1 hold.strict h-1\np 1 hold.strict h-3\n"
    "g 3 hold.strict h-3 8 2 1 0\na 4 hold.strict 8\ng 4 hold.strict h-1 7 2 1 1\na 5 hold.strict 7",
    "of letters at one time either may be first": "r 1 over.block 7\nR 4 over.block 7\nr 3 over.block 8\nR 5 over.block 8\n"
    "g 6 block.dead o-8 8 4 1 0\ng 7 block.dead o-7 7 4 1 0\nc 9 over.block 0 2",
    "a dead sidecar had one in its hands": "k 3 sidecar\np 1 slot s-0 0.01\nP 2 slot s-0 7\np 3 slot s-1 0.02\nP 4 slot s-1 8\n"
    "g 50000000 slot s-1 8 3 1 0\ng 50000001 slot s-0 7 3 1 0\na 50000002 slot 7\na 50000003 slot 8",
}


@pytest.mark.parametrize("story", RIGHT)
def test_the_accounts_accept(story: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(RIGHT[story] + "\n")
    ledger = Ledger(tmp_path)
    ledger.check()
    assert ledger.bad == []


def test_a_line_that_its_writer_did_not_end_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "who").write_text("p 1 work w-0\nP 2 work w-0 7\na 3 work 7\na 4 work 77")
    assert Ledger(tmp_path).acking["work"] == {7}
    Log(tmp_path, "who").put("a", "work", 8)
    assert Ledger(tmp_path).acking["work"] == {7, 8}


def test_a_run_in_which_nothing_had_to_wait_is_no_test(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("m 1 slot 6 0 0\n")
    for seconds, wrong in ((5, False), (12, True), (60, True), (300, True)):
        ledger = Ledger(tmp_path)
        ledger.everything_was_tried(seconds)
        assert any(bad.startswith("untried: nothing waited") for bad in ledger.bad) == wrong


def test_what_a_dead_publisher_did_not_know_of_may_come_late_to_a_subscription(
    tmp_path: Path,
) -> None:
    (tmp_path / "log").write_text(
        WRONG["order: p.0-6 of /events.a/keyed"].replace("P 2 events.a p.0-6 7\n", "")
    )
    ledger = Ledger(tmp_path)
    ledger.check()
    assert not [bad for bad in ledger.bad if bad.startswith("order")]
