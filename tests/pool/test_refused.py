"""Where pidfds are refused everything works all the same, only slower."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from owner import program
from waiting import WATCHDOG_S, alive, wait_until

HEAD = """
import os, signal, sys, time
import jobs, refuse, shmq
from waiting import wait_until

if __name__ == "__main__":
    method, number, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    refuse.pidfds(number)
"""

EXECUTOR = (
    HEAD
    + """
    with shmq.Executor(2, method, retries=1) as executor:
        assert executor.submit(jobs.kill_me_once, folder + "/once", 17).result(60) == 17
        error = executor.submit(jobs.kill_me).exception(60)
        print(type(error).__name__, "killed by SIGKILL, in attempt 2" in str(error).replace(" while it ran", ""))
        print(list(executor.map(jobs.square, range(50))) == [i * i for i in range(50)])
        executor.submit(jobs.begin_and_wait, folder, "a")
        waiting = [executor.submit(jobs.begin_and_wait, folder, "a") for _ in range(9)]
        wait_until(lambda: os.path.exists(folder + "/begun-a"))
        print(sum(future.cancel() for future in waiting) >= 8)
        executor.shutdown(wait=False, cancel_futures=True)
        open(folder + "/go", "w").close()
    print("over", flush=True)
"""
)

POOL = (
    HEAD
    + """
    with shmq.Broker() as broker:
        queue = broker.create_queue("q", max_retries=1, retry_backoff=0.0, dead_letter="dead")
        out = broker.create_queue("out")
        queue.publish_many([b"do", b"kill", b"do", b"fail x"])
        pool = shmq.WorkerPool(queue, jobs.handle, 2, mp_context=method, **jobs.to(out))
        pool.start()
        dead = broker.get_queue("dead").subscribe()
        print(sorted(dead.get(60).payload for _ in range(2)))
        wait_until(lambda: len(pool.deaths) == 2 and len(pool.pids) == 2)
        queue.publish(f"wait {folder} a".encode())
        wait_until(lambda: os.path.exists(folder + "/begun-a"))
        before = time.monotonic()
        print(pool.stop(timeout=0.2), out.depth())
        assert time.monotonic() < before + 20
    print("over", flush=True)
"""
)

OWNER = (
    HEAD
    + """
    executor = shmq.Executor(2, method)
    for i in range(2):
        executor.submit(jobs.begin_and_wait, folder, str(i))
    wait_until(lambda: len(os.listdir(folder)) == 2)
    print(*executor.pids, flush=True)
    sys.stdin.readline()
"""
)

BROKER = (
    HEAD
    + """
    name = f"refused-{os.getpid()}"
    broker = shmq.Broker(name)
    held = {o.role: o.pid for o in broker.stats().attached if o.role != "client"}
    assert sorted(held) == ["sidecar", "supervisor"], held
    os.kill(held["sidecar"], signal.SIGKILL)
    wait_until(lambda: held["sidecar"] not in [o.pid for o in broker.stats().attached])
    wait_until(lambda: "sidecar" in [o.role for o in broker.stats().attached])
    pids = [o.pid for o in broker.stats().attached if o.role != "client"]
    before = time.monotonic()
    broker.shutdown()
    wait_until(lambda: not os.path.exists(f"/dev/shm/shmq.{os.getuid()}.{name}"))
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    print("over", flush=True)
"""
)


def run(tmp_path: Path, source: str, method: str, number: int) -> str:
    folder = tmp_path / "folder"
    folder.mkdir()
    with program(tmp_path, source, method, str(number), str(folder)) as running:
        try:
            out, err = running.communicate(timeout=WATCHDOG_S)
        finally:
            running.kill()
    if running.returncode == 77:
        pytest.skip("no seccomp filters here")
    assert "Traceback" not in err
    assert running.returncode == 0, err
    return out


@pytest.mark.parametrize("number", [1, 38])
def test_an_executor_works_without_pidfds(method: str, number: int, tmp_path: Path) -> None:
    out = run(tmp_path, EXECUTOR, method, number)
    assert out == "WorkerDied True\nTrue\nTrue\nover\n"


@pytest.mark.parametrize("number", [1, 38])
def test_a_pool_works_without_pidfds(method: str, number: int, tmp_path: Path) -> None:
    out = run(tmp_path, POOL, method, number)
    assert out == f"{[b'fail x', b'kill']}\nFalse 2\nover\n"


def test_a_broker_and_its_helpers_end_without_pidfds(tmp_path: Path) -> None:
    assert run(tmp_path, BROKER, "fork", 1) == "over\n"


def test_workers_end_when_their_owner_is_killed_without_pidfds(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with program(tmp_path, OWNER, method, "1", str(folder)) as owner:
        assert owner.stdout is not None
        pids = owner.stdout.readline().split()
        if not pids and owner.wait() == 77:
            pytest.skip("no seccomp filters here")
        assert len(pids) == 2, owner.communicate()
        os.kill(owner.pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(int(pid)) for pid in pids), "the end of the workers")
