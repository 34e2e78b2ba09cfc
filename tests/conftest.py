"""What every test gets: names of its own, and a check that it leaves nothing behind.

Tests run in several worker processes at a time, each worker one test after the other. Whatever is
visible machine-wide (files in /dev/shm, SysV segments) is therefore attributed to a test by the
worker's own prefix, which `broker_name` puts at the front of every name that it hands out.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import shmq

# A shell's background job ignores Ctrl-C, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEV_SHM = Path("/dev/shm")
SYSV_TABLE = Path("/proc/sysvipc/shm")

# How long a thing may take to go away after the test, in seconds. A deadline, not a sleep.
GRACE_S = 5.0
# Descriptors that the interpreter, a first import or a worker's channel may open for good.
FD_SLACK = 6
# Started once per process by multiprocessing, and meant to stay.
LASTING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def _worker_prefix() -> str:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return f"t{worker}x{os.getpid()}x{secrets.token_hex(2)}-"


PREFIX = _worker_prefix()


@pytest.fixture
def broker_names(request: pytest.FixtureRequest) -> Callable[[], str]:
    """A maker of broker names, each unique on this machine, for tests that need several."""
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:6]

    def make() -> str:
        return f"{PREFIX}{digest}-{secrets.token_hex(4)}"

    return make


@pytest.fixture
def broker_name(broker_names: Callable[[], str]) -> str:
    """A broker name that no other test, worker or run uses."""
    return broker_names()


@pytest.fixture
def broker(broker_name: str) -> Iterator[shmq.Broker]:
    """A broker with the settings that it has by itself."""
    with shmq.Broker(broker_name) as broker:
        yield broker


# ---- what is there ------------------------------------------------------------------------------


def shm_files() -> set[str]:
    """Names in /dev/shm that belong to a broker of this worker."""
    return {
        entry.name
        for entry in DEV_SHM.glob("shmq.*")
        if PREFIX in entry.name  # shmq.<uid>.<broker>
    }


def sysv_ids() -> set[int]:
    """SysV segments of this user that this worker made, or that nobody living can have made.

    They carry a key instead of a name, so they are attributed by their creator: a process of this
    worker's family, or a dead one whose segment no process has attached. The latter may be another
    worker's for the moment between two steps of a clean-up, which the grace time covers.
    """
    try:
        head, *rows = [line.split() for line in SYSV_TABLE.read_text().splitlines()]
    except (OSError, ValueError):
        return set()
    column = {name: i for i, name in enumerate(head)}
    mine = [row for row in rows if int(row[column["uid"]]) == os.getuid()]
    if not mine:
        return set()
    family = {os.getpid(), *(p.pid for p in _descendants())}
    ids: set[int] = set()
    for row in mine:
        creator = int(row[column["cpid"]])
        orphan = int(row[column["nattch"]]) == 0 and not psutil.pid_exists(creator)
        if creator in family or orphan:
            ids.add(int(row[column["shmid"]]))
    return ids


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def processes() -> set[tuple[int, float]]:
    """Living processes that this worker started, as (pid, start time): pids are used again.

    Descendants are easily seen. One whose parent is gone is nobody's descendant, so others of this
    user count if their command line has this worker's prefix or they map a segment named by it.
    """
    found: set[tuple[int, float]] = set()
    related = {p.pid for p in _descendants()}
    for pid in psutil.pids():
        if pid == os.getpid():
            continue
        command = _read(pid, "cmdline").replace("\0", " ")
        if pid in related:
            mine = not any(word in command for word in LASTING)
        else:
            mine = PREFIX in command or PREFIX in _read(pid, "maps")
        if mine:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.add((pid, process.create_time()))
    return found


def _read(pid: int, name: str) -> str:
    """Return a file of a process; nothing if it is another user's or gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def fd_count() -> int:
    return len(os.listdir("/proc/self/fd"))


@dataclass
class State:
    files: set[str] = field(default_factory=shm_files)
    sysv: set[int] = field(default_factory=sysv_ids)
    processes: set[tuple[int, float]] = field(default_factory=processes)
    fds: int = field(default_factory=fd_count)

    def leaks_since(self, before: State) -> list[str]:
        leaks = [f"/dev/shm/{name}" for name in sorted(self.files - before.files)]
        leaks += [f"SysV segment {shmid}" for shmid in sorted(self.sysv - before.sysv)]
        leaks += [_describe(pid) for pid, _ in sorted(self.processes - before.processes)]
        if self.fds > before.fds + FD_SLACK:
            leaks.append(f"{self.fds - before.fds} more open descriptors: {_open_files()}")
        return leaks


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"process {pid} ({process.status()}): {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"process {pid}"


def _open_files() -> list[str]:
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(targets)


def remove_leaks(before: State) -> None:
    """Take away what a test left, so that only the guilty one fails."""
    now = State()
    for pid, started in now.processes - before.processes:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.create_time() == started:
                process.kill()
                process.wait(GRACE_S)
    for name in now.files - before.files:
        (DEV_SHM / name).unlink(missing_ok=True)
    for shmid in now.sysv - before.sysv:
        import sysv_ipc

        with contextlib.suppress(sysv_ipc.Error):
            sysv_ipc.remove_shared_memory(shmid)


# ---- the check ----------------------------------------------------------------------------------

_outcome = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_outcome] = report.passed
    return report


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a passing test that leaves a segment, a process or descriptors behind.

    Autouse fixtures are set up first and torn down last within their scope, so a broker made by a
    fixture of this test is gone by now, and one of the whole module was there before.
    """
    before = State()
    yield
    deadline = time.monotonic() + GRACE_S
    leaks = State().leaks_since(before)
    pause = 0.005
    while leaks and time.monotonic() < deadline:
        gc.collect()
        time.sleep(pause)
        pause = min(2 * pause, 0.2)  # a look costs some milliseconds of CPU
        leaks = State().leaks_since(before)
    if not leaks:
        return
    remove_leaks(before)
    # A failed test has a better story to tell than what it could not clean up.
    if request.node.stash.get(_outcome, False):
        pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)
