"""Remove the guards of the core one at a time: each time a test has to notice.

The core is built with -DSHMQ_MUTANT=n (grep MUTANT( in native/src) and run through the C tests,
the quick ones first, until one fails. A mutant that no test notices fails this program.

    python tools/mutants.py            all of them
    python tools/mutants.py 2 7        these only
    python tools/mutants.py --all-tests    name every test that notices, not only the first
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
OUT = ROOT / "build" / "mutants"

WHAT = {
    1: "a taker does not clear its slot (R1)",
    2: "a taker does not look at the slot a second time (R2)",
    3: "the publisher stores READY instead of comparing",
    4: "takers refuse NEW",
    5: "a waiter does not set its bit",
    6: "pos is written after the slot",
    7: "recovery does not look at the owner word again",
    8: "no held entry",
    9: "a waiter does not look at the ring again before it sleeps",
    10: "LIMBO ignores who holds",
    11: "lease expiry does not set VIEWED",
    12: "no scan before 'no memory'",
    13: "recovery does not clear the slot",
    14: "a death wakes nobody",
    20: "an id is not put into the filter before its claim",
    21: "a match counts although its entries are another generation's by now",
    22: "recovery publishes a committed message without asking for its id",
    23: "a message takes its own claim for another one's",
    24: "a forwarded delivery is freed before its replacement is on its way",
    25: "recovery frees a replacement without asking what became of its delivery",
    26: "recovery takes the reference of a forward for a delay",
    27: "recovery does not see that a delivery was forwarded",
    29: "recovery frees the shares of a forwarded message whose parent is not sent yet",
    30: "a level that is used for the first time says so after its message",
    32: "a key has several unsettled messages at a time",
    33: "a walk takes a later message of a key that it has passed over",
    34: "a message in its backoff does not keep its key",
    35: "a dead letter keeps the key of the queue where it died",
    36: "settling wakes nobody who waits for a key",
    38: "a block keeps the key of the message that it had before",
    40: "recovery frees children that were published",
    41: "recovery publishes children that were not committed",
    42: "a child that ends by LIMBO is not counted",
    43: "recovery does not look at parents",
    44: "a parent is freed by the count alone",
    45: "publishers wait for dead subscribers",
    46: "a child is launched before the commit",
    47: "a share looks for the key of its id in its own block, not in its parent's",
    48: "a message that has claimed its id is asked for it again when it comes back",
    49: "recovery sends a share on without asking for its id",
    50: "a publisher does not lower the time of the next expiry",
    51: "a sweep for expired messages resets their time after it, not before",
    52: "a sweep does not clear the slot of what it takes",
    53: "a death does not start a sweep",
    54: "recovery puts a message on its first way before those that were there",
    55: "a message that was committed after it had found room is put off when others were quicker",
    56: "a queue's number is used again while a dead publisher's messages for it may still be sent on",
    57: "a message that dies forgets that it has expired before it says that it is dead",
    58: "the filter forgets the ids of the last generation",
    59: "the first id of a lot is not mixed with the generation",
    60: "readings of the two clocks that are not of one moment count",
    61: "a process of another time namespace is let in",
    62: "a claim is taken from a holder that lives",
    64: "what a process attached before its exec is taken for its own",
    65: "a descriptor is used without asking what its number stands for by now",
    66: "payloads take the last of a file system",
    67: "payloads may have more memory than memory_limit",
    68: "a wrong count of payload memory is never put right",
    69: "free blocks of other classes keep their memory while something is refused",
    70: "no record has memory before its process comes",
    71: "a message is refused when its level has no memory",
    73: "memory for leases is believed to be there because the record says so",
    74: "records are used again although some process has no fence and there is no barrier",
    75: "nobody is told that membarrier is refused",
    76: "a zombie is alive where pidfd_open is refused",
    77: "the dead-letter queue of a queue is looked for by its number only",
    78: "what was the first to wait for room goes to the end when its sender dies",
    79: "the turn is taken from one who is dead and not recovered",
    83: "a message enters its queue while others wait there for room",
    84: "who begins to wait does not look once more for room",
    85: "recovery does not tell a queue that some wait there",
    86: "recovery does not send on what waits for room",
    87: "a dead letter waits behind others at a full queue that refuses them",
    89: "who waits for room asks for less than its message needs",
    90: "who waits for room takes the places behind an unsettled message for it",
    91: "the turn is taken from a recovered one whose message another recoverer still has",
    92: "a redelivery that waits at an ordered queue full of its key's later messages stays there",
    94: "a tail is believed though a place below it was never filled",
    95: "what came back waits for room below max_depth",
    96: "a block of an old line is sent on though a later message waits in it by now",
    97: "a taker that took what it had sent on itself does not send on the next one",
    98: "what came back of a level is looked for only where that level's ring is used",
    99: "who waits is told that something is there though the time is over",
    100: "who is not reached by the fast barrier does not say so",
    101: "a record is used again though an operation may touch it",
    102: "a process that is stopped inside an operation holds back all records",
    103: "a record that is RETIRING does not wait for those who saw it DELETING",
    104: "who collects does not say that subscriptions have changed",
    105: "a publisher has subscriptions in its list that were made after its era",
    106: "an operation goes on to another record without saying so",
    107: "what came back is taken in the order of its coming back",
    108: "a purge goes on in a queue that was deleted between two of its operations",
    109: "a process that detaches does not wait for its thread that collects",
    110: "who waits for many does not look at the queues whose word has changed",
    111: "who was woken and does not want it wakes nobody else",
    112: "a topic's publisher does not look again whether a subscription was closed",
}


# The test that is about it comes before the sweep, which would be content, or long at it.
QUICK = {
    **dict.fromkeys((20, 21, 22, 23, 58, 59), "test_dedup"),
    **dict.fromkeys((24, 25, 26, 27), "test_forward"),
    **dict.fromkeys((94,), "test_ring"),
    **dict.fromkeys((30, 98, 107), "test_level"),
    **dict.fromkeys((99,), "test_waiter"),
    **dict.fromkeys((32, 33, 34, 35, 36, 38), "test_order"),
    **dict.fromkeys((29, 40, 41, 42, 43, 44, 45, 46), "test_topic"),
    **dict.fromkeys((47, 48, 49, 54, 55, 56), "test_together"),
    **dict.fromkeys((50, 51, 52, 53), "test_expire"),
    **dict.fromkeys((60,), "test_clock"),
    **dict.fromkeys((77,), "test_settle"),
    **dict.fromkeys((78, 79, 83, 84, 85, 86, 91, 92, 95, 96, 97), "test_park"),
    **dict.fromkeys((64, 65), "test_owner"),
    **dict.fromkeys((61,), "test_corrupt"),
    **dict.fromkeys((89, 90), "test_waiter"),
    **dict.fromkeys((62,), "test_sysv"),
    **dict.fromkeys((73,), "test_enospc"),
    **dict.fromkeys((74, 75, 76, 100), "test_refused"),
    **dict.fromkeys((101, 102, 103, 104, 105, 106), "test_era"),
    **dict.fromkeys((108, 109), "test_between"),
    **dict.fromkeys((110, 111), "test_many"),
    **dict.fromkeys((112,), "test_era"),
    **dict.fromkeys((66, 67, 68, 69, 70, 71), "test_memory"),
}


def mutants() -> list[int]:
    """The numbers that the sources know, so that a new guard without a mutant test is noticed."""
    found = {
        int(n)
        for path in (NATIVE / "src").glob("*.[ch]")
        for n in re.findall(r"MUTANT\((\d+)\)", path.read_text())
    }
    return sorted(found)


def build(out: Path, only: str, mutant: int) -> None:
    flag = f"SHMQ_CFLAGS=-DSHMQ_MUTANT={mutant}" if mutant else "SHMQ_CFLAGS="
    done = subprocess.run(
        ["make", "-s", "-j2", "-C", str(NATIVE), "tests", f"ONLY={only}", f"OUT={out}", flag],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"the mutant {mutant} does not build:\n{done.stdout}{done.stderr}")


def first_complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if "VIOLATION" in line or "FAIL" in line or "FATAL" in line:
            return line[:150]
    return lines[-1][:150] if lines else "(no output)"


def attempt(command: list[str], limit: int) -> str | None:
    """None when all went well, otherwise what was noticed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"hung for {limit} s"
    if done.returncode == 0:
        return None
    return first_complaint(done.stdout + done.stderr)


def hunt(mutant: int, every: bool) -> list[str]:
    out = OUT / str(mutant)
    noticed = []
    # The sweep comes first: it is deterministic. Each further program is built when it is needed.
    programs = [("sweep", "sweep", ["--fail-fast", "--no-pair", "--no-real"])]
    programs += [
        (path.stem, path.stem, [])
        for path in sorted((NATIVE / "tests").glob("test_*.c"))
        if path.stem != "test_stress"
    ]
    programs.append(("sweep with pairs", "sweep", ["--fail-fast"]))
    programs.append(("test_stress", "test_stress", []))
    programs.sort(key=lambda program: program[0] != QUICK.get(mutant))
    programs.append(("chaos", "chaos", ["--quiet", "--kills", "3000"]))
    for name, only, arguments in programs:
        if not (NATIVE / "tests" / f"{only}.c").exists():
            continue
        build(out, only, mutant)
        complaint = attempt(
            [str(out / "tests" / only), *arguments], 900 if "sweep" in name else 300
        )
        if complaint is not None:
            noticed.append(f"{name}: {complaint}")
            if not every:
                break
    return noticed


def listed(numbers: list[int]) -> str:
    """Return numbers as text, runs of them as first-last."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int)
    parser.add_argument("--all-tests", action="store_true")
    arguments = parser.parse_args()
    known = mutants()
    unknown = sorted(set(arguments.numbers) - set(known))
    if unknown:
        found = ", ".join(str(n) for n in unknown)
        parser.error(f"found {found}, expected numbers of MUTANT() in native/src: {listed(known)}")
    survivors = [n for n in WHAT if n not in known and not arguments.numbers]
    for n in survivors:
        print(f"mutant {n:2}: {WHAT[n]}: not in the sources any more")
    # Without a mutant all of them have to be content, or their complaints would prove nothing.
    noticed = [] if arguments.numbers else hunt(0, every=False)
    if noticed:
        sys.exit(f"the tests fail without any mutant: {noticed[0]}")
    for n in arguments.numbers or known:
        started = time.monotonic()
        noticed = hunt(n, arguments.all_tests)
        verdict = "; ".join(noticed) if noticed else "SURVIVES"
        what = WHAT.get(n, "a guard without a description here")
        print(f"mutant {n:2}: {what}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
        if not noticed:
            survivors.append(n)
    total = len(arguments.numbers or known)
    print(f"{total - len(survivors)} noticed, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
