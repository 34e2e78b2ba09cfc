#!/usr/bin/env python3
"""Check the Promela models of the shared-memory protocol exhaustively with Spin.

python tests/model/run.py                 the models as they should be: 0 errors
python tests/model/run.py --mutants       each guard removed: a counter-example for every one
python tests/model/run.py --only wait     jobs whose name contains a word
python tests/model/run.py --mutants --only NO_R2 --trail      the counter-example, step by step
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))


class Job(NamedTuple):
    name: str
    model: str
    defines: tuple[str, ...] = ()
    mutant: str = ""


class Result(NamedTuple):
    job: Job
    passed: bool
    states: int
    depth: int
    seconds: float
    text: str


# Exhaustive: no bitstate hashing. 3 GB at most for one search; the largest needs half of it.
GCC = ("-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=512", "-DMEMLIM=3000")
INCOMPLETE = ("max search depth too small", "out of memory", "DMEMLIM", "Search not completed")

RING_2C = ("P2=0", "NM=2", "MAXC=2", "IMMORTAL=5")
RING_2P = ("P2=1", "NM=3", "MAXC=2", "IMMORTAL=5")
REUSE = ("NM=2", "MAXC=2", "RESTARTS=1", "IMMORTAL=5")
ORDER = ("NM=3", "NACKS=1", "MAXC=0", "NA=1", "NC=2")
DEDUP_2 = ("K1=1", "STEP=2")
DEDUP_1 = ("K1=1", "NE=1")
DEDUP_LATE = ("NE=1", "LASTG=5", "STEP=2", "MAXC=1", "NPUB=2")
ERA = ("OPS=1",)
ERA_FAN = ("KIND0=FANS", "KIND1=ON_B", "OPS=1", "MAXG=3")
ERA_ALONE = ("KIND0=FANS", "NU=1", "MAXG=4")
PARK_1 = ("NM=2", "NC=1", "MAXC=1")
PARK_HANDS = ("NM=2", "NC=1", "MAXC=2", "DIED")
PARK_AGAIN = ("NM=4", "NB=2", "MAXC=0", "WAITING")
MANY = ("MAXC=1", "CANCELS=1")
MANY_LINE = ("PLAIN=0", "PUBS0=2", "WANT0=2", "PUBS1=0", "WANT1=0", "MAXC=1", "CANCELS=1")
MANY_LEAVES = ("WANT1=2", "MAXC=0", "CANCELS=1")
MANY_CANCELS = ("PUBS0=2", "WANT0=2", "PUBS1=0", "WANT1=0", "MAXC=0", "CANCELS=2")
WAIT = ("NC=2", "NPUB=2", "MAXC=1", "LEAVES=1")

MODELS = [
    Job("ring: 1 producer, 2 consumers", "ring", RING_2C),
    Job("ring: 2 producers, 1 consumer", "ring", RING_2P),
    Job("ring: nack", "ring", ("P2=0", "NM=1", "MAXC=2", "NACKS=1", "IMMORTAL=5")),
    Job("recovery: 2 recoverers, owner slot re-used", "recovery", REUSE),
    Job("wait: 2 consumers, 2 publishers, 1 crash", "wait", WAIT),
    Job(
        "wait: 2 consumers, 1 publisher, 2 crashes",
        "wait",
        ("NC=2", "NPUB=1", "MAXC=2", "LEAVES=1"),
    ),
    Job(
        "wait: 3 consumers, a batch of 2",
        "wait",
        ("NC=3", "NPUB=1", "BATCH=2", "MAXC=1", "LEAVES=1"),
    ),
    Job("many: a task at each of 2 queues, a plain waiter, 1 crash", "many", MANY),
    Job("many: 2 tasks at one queue, 1 crash", "many", MANY_LINE),
    Job("many: 2 messages for a task and a plain waiter, 2 cancelled", "many", MANY_CANCELS),
    Job("many: one leaves the set while another one is watched again", "many", MANY_LEAVES),
    Job("hints: 2 blocks", "hints", ("NB=2", "MAXC=2")),
    Job("hints: 3 blocks", "hints", ("NB=3", "MAXC=2")),
    Job("hints: 2 blocks, 3 rounds, 1 crash", "hints", ("NB=2", "ROUNDS=3", "MAXC=1")),
    Job(
        "order: 2 messages, a nack, 1 crash", "order", ("NM=2", "NACKS=1", "MAXC=1", "NA=2", "NC=2")
    ),
    Job("order: 3 messages, 1 crash", "order", ("NM=3", "NACKS=0", "MAXC=1", "NA=1", "NC=2")),
    Job(
        "order: a consumer leaves",
        "order",
        ("NM=2", "NACKS=0", "MAXC=0", "NA=1", "NC=2", "LEAVES=1"),
    ),
    Job(
        "order: a publisher stopped in NEW",
        "order",
        ("NM=2", "NACKS=0", "MAXC=0", "NA=1", "NC=2", "STOPS=1"),
    ),
    Job("lease: 2 deadlines", "lease", ("MAXC=0", "TICKS=2", "TOUCHES=0")),
    Job("lease: a touch", "lease", ("MAXC=0", "TICKS=1", "TOUCHES=1")),
    Job("lease: a nack with a living view", "lease", ("MAXC=0", "TICKS=1", "TOUCHES=0", "KEEPS=1")),
    Job("lease: 1 crash", "lease", ("MAXC=1", "TICKS=1", "TOUCHES=0")),
    Job("expiry: 2 publishers, 2 crashes", "expiry", ("NP=2", "MAXC=2")),
    Job("dedup: 3 publishers, 3 generations", "dedup"),
    Job("dedup: 3 publishers, generations 1 and 3", "dedup", ("STEP=2",)),
    Job("dedup: 2 publishers, 1 crash", "dedup", ("MAXC=1", "NPUB=2")),
    Job("dedup: entries of 2 ids, used again", "dedup", DEDUP_2),
    Job("dedup: 2 ids, one entry", "dedup", DEDUP_1),
    Job("dedup: 2 ids, 3 generations", "dedup", ("K1=1",)),
    Job("dedup: recovered two generations late, 1 crash", "dedup", DEDUP_LATE),
    Job("forward: 2 recoverers, 2 crashes", "forward", ("MAXC=2",)),
    Job("fan: 1 message, 3 crashes", "fan", ("ROUNDS=1", "MAXC=3")),
    Job("fan: 2 messages, 1 crash", "fan", ("ROUNDS=2", "MAXC=1")),
    Job("share: 2 messages with one id, 3 crashes", "share", ("MAXC=3",)),
    Job("park: 2 messages, 2 consumers", "park", ("NM=2", "MAXC=0")),
    Job("park: 2 messages, 1 consumer, the source dies", "park", PARK_1),
    Job("park: 1 message, 2 consumers, 1 crash", "park", ("NM=1", "MAXC=1")),
    Job("park: the first in dead hands, a recoverer dies", "park", PARK_HANDS),
    Job("park: 4 messages, 2 blocks that are used again", "park", PARK_AGAIN),
    Job("era: a publisher that goes on to another queue, a recoverer", "era", ERA),
    Job("era: a topic's publisher, a queue's", "era", (*ERA_FAN, "MAXC=0")),
    Job("era: a topic's publisher alone, 4 lives", "era", ERA_ALONE),
    Job("era: a publisher alone, 3 lives", "era", ("NU=1", "MAXG=3")),
    Job("era: a recoverer alone, 3 lives", "era", ("KIND0=RECOVERS", "NU=1", "MAXG=3")),
]

MUTANTS = [
    ("NO_R1", "ring", RING_2C),
    ("NO_R2", "ring", RING_2C),
    ("STORE_READY", "ring", RING_2C),
    ("NEW_NOT_TAKEN", "ring", RING_2C),
    ("MOVE_NOT_TAKEN", "ring", RING_2C),
    ("POS_AFTER", "ring", RING_2C),
    ("NO_CLEAR", "ring", RING_2C),
    ("SHORT_WALK", "ring", ("P2=1", "NM=4", "MAXC=0", "LAG=3")),
    ("CLEAR_NO_RECHECK", "recovery", REUSE),
    ("NO_EPOCH", "recovery", REUSE),
    ("DECLARE", "recovery", REUSE),
    ("SAME_GENERATION", "recovery", REUSE),
    ("RECOVERY_CLEARS_HELD", "recovery", REUSE),
    ("NO_RECHECK", "wait", WAIT),
    ("REGISTER_AFTER_LOOK", "wait", WAIT),
    ("NO_BATON", "wait", WAIT),
    ("NO_ANNOUNCE", "wait", WAIT),
    ("FILTERED_ANNOUNCE", "wait", WAIT),
    ("NO_SECOND_WAKE", "wait", WAIT),
    ("ARMS_BLINDLY", "many", MANY),
    ("NO_PASS", "many", MANY_CANCELS),
    ("LEAVES_SILENTLY", "many", MANY_LEAVES),
    ("NO_REARM", "many", MANY_LINE),
    ("NO_ANNOUNCE", "many", MANY),
    ("NO_CHAIN", "wait", ("NC=2", "NPUB=1", "BATCH=2", "MAXC=0", "LEAVES=0")),
    ("STORE_CLAIM", "hints", ()),
    ("NO_SCAN", "hints", ()),
    ("NO_L1_RECHECK", "hints", ("ROUNDS=3", "MAXC=0")),
    ("NO_HINT_REPAIR", "hints", ()),
    ("L0_REPAIR_ONLY", "hints", ()),
    ("HELD_AFTER", "lease", ("MAXC=0", "TICKS=2")),
    ("NO_LIMBO", "lease", ("MAXC=0", "TICKS=2")),
    ("LIMBO_NOT_CHECKED", "lease", ("MAXC=0", "TICKS=2")),
    ("EXPIRE_NOT_FLAGGED", "lease", ("MAXC=0", "TICKS=2")),
    ("EXPIRE_NO_CLEAR", "lease", ("MAXC=0", "TICKS=2")),
    ("CLEAR_NO_RECHECK", "lease", ("MAXC=1", "TICKS=2", "TOUCHES=0")),
    ("TOUCH_DEADLINE_ONLY", "lease", ("MAXC=0", "TICKS=2")),
    ("TOUCH_DROPS_VIEW", "lease", ("MAXC=0", "TICKS=2")),
    ("KEEP_THE_NEW_ENTRY", "lease", ("MAXC=0", "TICKS=2", "TOUCHES=0", "KEEPS=1")),
    ("ENTRY_KEPT", "lease", ("MAXC=0", "TICKS=2")),
    ("NO_RECHECK_AFTER_STALE", "lease", ("MAXC=0", "TICKS=2")),
    ("NO_RECHECK_AFTER_FAILED_TAKE", "lease", ("MAXC=0", "TICKS=2")),
    ("VIEW_ENTRY_CLEARED", "lease", ("MAXC=0", "TICKS=2")),
    ("VIEW_NOT_FLAGGED", "lease", ("MAXC=0", "TICKS=2")),
    ("BUSY_IGNORED", "order", ORDER),
    ("DELAYED_IS_OVER", "order", ORDER),
    ("ID_IGNORED", "order", ORDER),
    ("CLAIM_AFTER", "order", ORDER),
    ("CLAIM_STORED", "order", ORDER),
    ("FORGETS_PASSED", "order", ORDER),
    ("NO_WAKE", "order", ("NM=2", "NACKS=0", "MAXC=0", "NA=1", "NC=2", "LEAVES=1")),
    ("NEW_IS_BUSY", "order", ("NM=2", "NACKS=0", "MAXC=0", "NA=1", "NC=2", "STOPS=1")),
    ("VIEW_END_NO_CHECK", "lease", ("MAXC=0", "TICKS=2")),
    ("LOOK_BEFORE", "expiry", ("MAXC=0",)),
    ("RESET_AFTER", "expiry", ("MAXC=0",)),
    ("DEATH_KEEPS", "expiry", ()),
    ("SUCCESSOR_TRUSTS", "expiry", ()),
    ("NO_BIT", "dedup", ("LASTG=1",)),
    ("FILTER_FORGETS", "dedup", ("LASTG=2",)),
    ("STORE_HEAD", "dedup", ("LASTG=1",)),
    ("OWN_UNKNOWN", "dedup", ("MAXC=1", "LASTG=1")),
    ("NO_R2", "dedup", ("STEP=2",)),
    ("PLAIN_ENTRY", "dedup", DEDUP_2),
    ("PLAIN_FIRST", "dedup", DEDUP_2),
    ("FIRST_UNMIXED", "dedup", DEDUP_LATE),
    ("NOT_TIED", "forward", ()),
    ("NOT_SENT", "forward", ()),
    ("COMMIT_IGNORED", "forward", ()),
    ("COMMIT_FIRST", "forward", ()),
    ("FREE_FIRST", "forward", ()),
    ("NO_LEAVING", "forward", ()),
    ("NO_REF_GEN", "forward", ()),
    ("TORN_LOOK", "forward", ()),
    ("LAUNCH_EARLY", "fan", ("ROUNDS=1",)),
    ("FREE_COMMITTED", "fan", ("ROUNDS=1",)),
    ("SEND_UNCOMMITTED", "fan", ("ROUNDS=1",)),
    ("NO_LIFE", "fan", ("ROUNDS=2",)),
    ("NO_LOOK", "fan", ("ROUNDS=1",)),
    ("NO_RECOUNT", "fan", ("ROUNDS=1",)),
    ("COUNT_BEFORE_FREE", "fan", ("ROUNDS=1",)),
    ("CLAIM_BEFORE_COMMIT", "share", ()),
    ("BIT_BEFORE_CLAIM", "share", ()),
    ("SEND_UNASKED", "share", ()),
    ("OWN_UNKNOWN", "share", ()),
    ("DUPLICATE_NOT_COUNTED", "share", ("MAXC=0",)),
    ("NO_BARRIER", "era", ERA),
    ("LOOK_FIRST", "era", ERA),
    ("NOT_SAID", "era", ERA),
    ("ENDED_STAYS", "era", ERA),
    ("FAN_IS_NARROW", "era", ERA_FAN),
    ("LIST_OF_LATER", "era", ERA_FAN),
    ("LIST_KEPT", "era", ERA_ALONE),
    ("TOPOLOGY_UNSAID", "era", ERA_ALONE),
    ("TAKES_LATER_ONES", "park", ("NM=3", "MAXC=0")),
    ("USED_AGAIN", "park", PARK_AGAIN),
    ("NOTES_OF_OTHERS", "park", ("NM=5", *PARK_AGAIN[1:])),
    ("CLEARS_BLINDLY", "park", ("NM=2", "MAXC=0")),
    ("NO_LOOK_AFTER", "park", ("NM=2", "MAXC=0")),
    ("OVERTAKES", "park", ("NM=2", "MAXC=0")),
    ("NO_LOOK_AFTER_PARKING", "park", ("NM=2", "MAXC=0")),
    ("TAKES_FROM_THE_DEAD", "park", PARK_1),
    ("TAKES_FROM_HANDS", "park", PARK_HANDS),
    ("DEATH_KEEPS", "park", PARK_1),
    ("RECOVERY_DOES_NOT_SEND", "park", PARK_1),
]


def jobs(mutants: bool) -> list[Job]:
    if not mutants:
        return MODELS
    return [
        Job(f"{model}: {name}", model, defines, "MUT_" + name) for name, model, defines in MUTANTS
    ]


def command(args: list[str], cwd: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        args, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def check(job: Job, trail: bool = False) -> Result:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shmq-model-") as work:
        for name in os.listdir(HERE):
            if name.endswith((".pml", ".inc")):
                shutil.copy(os.path.join(HERE, name), work)
        defines = ["-D" + d for d in job.defines] + (["-D" + job.mutant] if job.mutant else [])
        made = command(["spin", *defines, "-a", job.model + ".pml"], work)
        if (
            made.returncode
            or "Error" in made.stdout
            or not os.path.exists(os.path.join(work, "pan.c"))
        ):
            return Result(job, False, 0, 0, 0, "spin: " + made.stdout[-2000:])
        speed = (
            "-O0" if job.mutant else "-O2"
        )  # a counter-example is found sooner than -O2 compiles
        built = command(["gcc", speed, *GCC, "-o", "pan", "pan.c"], work)
        if built.returncode:
            return Result(job, False, 0, 0, 0, "gcc: " + built.stdout[-2000:])
        out = command(["./pan", "-m20000", "-w24"], work).stdout
        out = re.sub(r"(?m)^(Depth=|pan: resizing).*\n", "", out)
        text = out
        if trail and os.path.exists(os.path.join(work, job.model + ".pml.trail")):
            text += command(["spin", *defines, "-t", "-p", "-g", job.model + ".pml"], work).stdout
    found = re.search(r"depth reached (\d+), errors: (\d+)", out)
    stored = re.search(r"(\d+) states, stored", out)
    cut = any(word in out for word in INCOMPLETE)
    seconds = time.monotonic() - start
    if not found or not stored:
        return Result(job, False, 0, 0, seconds, text)
    errors = int(found[2])
    passed = errors > 0 if job.mutant else errors == 0 and not cut
    return Result(job, passed, int(stored[1]), int(found[1]), seconds, text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--mutants",
        action="store_true",
        help="remove one guard at a time; each must give a counter-example",
    )
    parser.add_argument(
        "--only", default="", metavar="WORD", help="only jobs whose name contains WORD"
    )
    parser.add_argument(
        "--trail", action="store_true", help="print the counter-example, step by step"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    options = parser.parse_args()
    for tool, why in (
        ("spin", "the model checker (Debian: apt install spin)"),
        ("gcc", "a C compiler"),
    ):
        if shutil.which(tool) is None:
            print(
                f"run.py: {tool} is not installed: {why} is needed to check the models",
                file=sys.stderr,
            )
            return 2
    todo = [job for job in jobs(options.mutants) if options.only in job.name]
    if not todo:
        print(f"run.py: no job's name contains {options.only!r}", file=sys.stderr)
        return 2
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=options.jobs) as pool:
        waiting = [pool.submit(check, job, options.trail) for job in todo]
        for future in concurrent.futures.as_completed(waiting):
            r = future.result()
            failed += not r.passed
            verdict = (
                ("caught" if r.passed else "NOT CAUGHT")
                if r.job.mutant
                else ("ok" if r.passed else "FAILED")
            )
            line = f"{verdict:10} {r.job.name:42} {r.states:>9} states, depth {r.depth:>3}"
            print(f"{line}, {r.seconds:6.1f} s", flush=True)
            if options.trail or (not r.passed and not r.job.mutant) or r.states == 0:
                print(r.text)
    print(f"{len(todo) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
