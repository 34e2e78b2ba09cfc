"""CPython's own tests of queues, with shmq.mp in their place. See cpython_suite.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tree import METHODS, homes
from waiting import wait_until

SUITE = Path(__file__).with_name("cpython_suite.py")
TIMEOUT_S = 90.0

# What does not pass, and why; docs/multiprocessing.md says the same.
DEVIATIONS = {
    "TestStartMethod.test_mixed_startmethod": "expects that a queue of one context is refused by another",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def suite(folder: Path, method: str, level: str, *arguments: str) -> tuple[int, str]:
    """Run the program in ``folder``, in a session of its own, which is killed whole afterwards."""
    environment = {k: v for k, v in os.environ.items() if k != "SHMQ_HOME"}
    process = subprocess.Popen(
        [sys.executable, str(SUITE), *arguments],
        env={**environment, "SUITE": f"{method} {level}"},
        cwd=folder,  # some of the tests make folders there, and several of these run at a time
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, text=True, errors="replace",
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return -1, f"no end within {TIMEOUT_S:g} s"
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return process.returncode, out


@pytest.mark.parametrize("level", ["factory", "class"])
@pytest.mark.parametrize("method", METHODS)
def test_cpythons_own_tests_pass(tmp_path: Path, method: str, level: str) -> None:
    before = homes()
    code, names = suite(tmp_path, method, level)
    if code != 0 and "No module named 'test" in names:
        pytest.skip("this interpreter was installed without its tests")
    assert code == 0, names
    assert len(names.split()) > 10
    failed = {}
    for name in names.split():
        code, said = suite(tmp_path, method, level, name)
        if code not in (0, 2):
            failed[name] = said
    unexpected = {name: said for name, said in failed.items() if name not in DEVIATIONS}
    assert not unexpected, "\n\n".join(f"{name}:\n{said}" for name, said in unexpected.items())
    wait_until(lambda: not homes() - before - others(), "the end of all brokers")


def others() -> set[str]:
    """Homes of processes that are alive: of tests that run at the same time."""
    found = set()
    for name in homes():
        pid = name.split("-")[1]
        if os.path.exists(f"/proc/{pid}"):
            found.add(name)
    return found
