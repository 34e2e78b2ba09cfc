"""Workers and owners that are killed: no call is lost, none hangs, nothing stays behind."""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
import time
from concurrent import futures
from pathlib import Path

import jobs
import pytest
from owner import program
from waiting import WATCHDOG_S, alive, wait_until

import shmq

# ---- retries --------------------------------------------------------------------------------------


def test_a_call_whose_worker_was_killed_is_made_again(method: str, tmp_path: Path) -> None:
    with shmq.Executor(2, method) as executor:
        future = executor.submit(jobs.kill_me_once, str(tmp_path / "once"), 17)
        others = [executor.submit(jobs.square, i) for i in range(100)]
        assert future.result(60) == 17
        assert [other.result(60) for other in others] == [i * i for i in range(100)]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_call_that_kills_its_workers_says_pid_signal_and_call(method: str, retries: int) -> None:
    with shmq.Executor(2, method, retries=retries) as executor:
        pids = {executor.submit(jobs.pid_of).result(60)}
        error = executor.submit(jobs.kill_me, 7, "seven").exception(60)
        assert isinstance(error, shmq.WorkerDied)
        assert isinstance(error, futures.BrokenExecutor)
        assert error.exitcode == -signal.SIGKILL
        assert error.pid is not None
        assert error.pid not in (os.getpid(), 0)
        assert error.task == "jobs.kill_me(7, 'seven')"
        text = str(error)
        for part in (f"worker {error.pid} killed by SIGKILL", f"attempt {retries + 1}", error.task):
            assert part in text
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.pid, again.exitcode) == (text, error.pid, error.exitcode)
        # The executor goes on.
        assert executor.submit(jobs.square, 3).result(60) == 9
        assert pids


def test_a_call_that_leaves_says_its_exit_code() -> None:
    with shmq.Executor(1, retries=1) as executor:
        error = executor.submit(jobs.leave, 3).exception(60)
        assert isinstance(error, shmq.WorkerDied)
        assert error.exitcode == 3
        assert "exited with code 3" in str(error)


def test_without_retries_only_the_killers_call_is_lost() -> None:
    with shmq.Executor(2, retries=0) as executor:
        before = [executor.submit(jobs.square, i) for i in range(100)]
        killer = executor.submit(jobs.kill_me)
        after = [executor.submit(jobs.square, i) for i in range(100)]
        assert isinstance(killer.exception(60), shmq.WorkerDied)
        assert [future.result(60) for future in before] == [i * i for i in range(100)]
        assert [future.result(60) for future in after] == [i * i for i in range(100)]


def test_a_worker_that_gets_sigterm_finishes_its_call_and_is_replaced(
    method: str, tmp_path: Path
) -> None:
    with shmq.Executor(1, method, retries=0) as executor:
        future = executor.submit(jobs.begin_and_wait, str(tmp_path), "a")
        wait_until((tmp_path / "begun-a").exists)
        (pid,) = executor.pids
        os.kill(pid, signal.SIGTERM)
        (tmp_path / "go").touch()
        assert future.result(60) == "a"
        assert executor.submit(jobs.pid_of).result(60) != pid


def test_map_gives_a_killer_in_its_turn(tmp_path: Path) -> None:
    with shmq.Executor(2, retries=0) as executor:
        results = executor.map(jobs.kill_me_once, [__file__, str(tmp_path / "x"), __file__], "abc")
        assert next(results) == "a"
        with pytest.raises(shmq.WorkerDied):
            next(results)


def test_large_arguments_survive_the_death_of_their_worker(tmp_path: Path) -> None:
    import numpy

    data = numpy.arange(2_000_000)
    with shmq.Executor(1) as executor:
        found = executor.submit(jobs.kill_me_once, str(tmp_path / "once"), data).result(60)
        assert (found == data).all()


# ---- at random ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "kills", "pause"),
    [
        ("fork", 300, 0.03),
        pytest.param("spawn", 20, 0.3, marks=pytest.mark.slow),
        pytest.param("forkserver", 30, 0.2, marks=pytest.mark.slow),
    ],
)
def test_no_call_is_lost_whoever_is_killed_when(
    start: str, kills: int, pause: float, tmp_path: Path
) -> None:
    """Workers are killed at random instants; each future resolves exactly once, with its result."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    done: list[int] = []
    killed = 0
    with shmq.Executor(3, start, retries=4000) as executor:
        executor.submit(jobs.square, 0).result(60)
        over = threading.Event()
        n = 0

        def feed() -> None:
            nonlocal n
            pending: set[futures.Future[int]] = set()
            while not over.is_set():
                while len(pending) < 30:
                    future = executor.submit(jobs.note_and_sleep, str(tmp_path), n, 0.0005)
                    future.add_done_callback(lambda future: done.append(future.result()))
                    pending.add(future)
                    n += 1
                _, pending = futures.wait(pending, 60, futures.FIRST_COMPLETED)
            futures.wait(pending, 60)

        mapped: list[int] = []

        def run_map() -> None:
            i = 0
            while not over.is_set():
                mapped.append(sum(executor.map(jobs.square, range(i, i + 50))))
                i += 1

        threads = [threading.Thread(target=feed), threading.Thread(target=run_map)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 90
        while killed < kills and time.monotonic() < deadline:
            pids = executor.pids
            if pids:
                try:
                    os.kill(dice.choice(pids), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
            time.sleep(dice.random() * pause)
        over.set()
        for thread in threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in threads), f"seed {seed}: hangs"
    assert killed > kills // 10, f"seed {seed}"  # as many as a busy machine got to
    assert sorted(done) == list(range(n)), f"seed {seed}"
    assert mapped == [sum(k * k for k in range(i, i + 50)) for i in range(len(mapped))]
    assert {int(path.name) for path in tmp_path.iterdir()} == set(range(n))


# ---- the owner ------------------------------------------------------------------------------------

OWNER = """
import os, sys, time
import jobs
import shmq
from waiting import wait_until
from shmq.workers import engine

if __name__ == "__main__":
    method, folder, busy = sys.argv[1:4]
    made = engine.open_broker
    def named():
        broker, close = made()
        print(broker.name, flush=True)
        return broker, close
    engine.open_broker = named
    executor = shmq.Executor(2, method)
    print(*{executor.submit(jobs.pid_of).result() for _ in range(50)}, flush=True)
    if busy == "busy":
        for i in range(2):
            executor.submit(jobs.begin_and_wait, folder, str(i))
        wait_until(lambda: len(os.listdir(folder)) == 2)
    print("ready", *executor.pids, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("busy", ["busy", "idle"])
def test_workers_end_when_their_owner_is_killed(method: str, busy: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with program(tmp_path, OWNER, method, str(folder), busy) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        owner.stdout.readline()
        word, *pids = owner.stdout.readline().split()
        assert word == "ready", owner.communicate()
        segment = Path(f"/dev/shm/shmq.{os.getuid()}.{name}")
        assert segment.exists()
        owner.kill()
        wait_until(lambda: not any(alive(int(pid)) for pid in pids), "the end of the workers")
        wait_until(lambda: not segment.exists(), "the end of the broker")


def test_a_program_that_fails_amid_its_results_tells_nothing_but_that(tmp_path: Path) -> None:
    source = """
        import jobs, shmq
        if __name__ == "__main__":
            with shmq.Executor(2) as executor:
                results = executor.map(jobs.square, range(1000))
                next(results)
                raise SystemExit("enough")  # the iterator is there until the interpreter ends
    """
    with program(tmp_path, source) as failing:
        out, err = failing.communicate(timeout=60)
    assert (failing.returncode, out, err) == (1, "", "enough\n")


def test_a_program_that_forgets_the_shutdown_ends_when_its_calls_are_done(tmp_path: Path) -> None:
    source = """
    import jobs, shmq
    if __name__ == "__main__":
        executor = shmq.Executor(2)
        futures = [executor.submit(jobs.square, i) for i in range(100)]
        futures[-1].add_done_callback(lambda future: print("done", future.result()))
    """
    with program(tmp_path, source) as owner:
        out, err = owner.communicate(timeout=WATCHDOG_S)
    assert (out, err, owner.returncode) == ("done 9801\n", "", 0)


def test_ctrl_c_lets_running_calls_finish_and_a_second_one_does_not(tmp_path: Path) -> None:
    source = """
    import sys, jobs, shmq
    if __name__ == "__main__":
        folder = sys.argv[1]
        try:
            with shmq.Executor(2) as executor:
                found = [executor.submit(jobs.begin_and_wait, folder, str(i)) for i in range(50)]
                found[0].add_done_callback(lambda f: print("first:", f.exception() or f.result()))
                found[-1].add_done_callback(lambda f: print("cancelled", f.cancelled(), flush=True))
                print("pids", *executor.pids, flush=True)
                for future in found:
                    future.result()
        except KeyboardInterrupt:
            print("interrupted", sum(future.cancelled() for future in found) > 30, flush=True)
    """
    for twice in (False, True):
        folder = tmp_path / f"{twice}"
        folder.mkdir()
        with program(tmp_path, source, str(folder)) as owner:
            assert owner.stdout is not None
            pids = [int(pid) for pid in owner.stdout.readline().split()[1:]]
            wait_until(lambda f=folder: len(list(f.glob("begun-*"))) == 2)  # type: ignore[misc]
            os.killpg(owner.pid, signal.SIGINT)
            assert owner.stdout.readline() == "cancelled True\n"
            if twice:
                os.killpg(owner.pid, signal.SIGINT)
            else:
                (folder / "go").touch()
            out, err = owner.communicate(timeout=WATCHDOG_S)
            assert (owner.returncode, err) == (0, "")
            assert ("first: 0" in out) is not twice
            assert "interrupted True" in out
            assert not any(alive(pid) for pid in pids)


# ---- arguments that end or block whoever reads them -----------------------------------------------

POISON = """
import os, signal, sys, time
import shmq

OWNER = os.getpid()

class Poison:
    def __init__(self, how): self.how = how
    def __getstate__(self): return self.how
    def __setstate__(self, how):
        if os.getpid() == OWNER:
            print("read by its owner", flush=True)
            time.sleep(300)
        if how == "leave": os._exit(7)
        if how == "crash": os.kill(os.getpid(), signal.SIGSEGV)
        raise SystemExit(5)

def f(*args, **kwargs): return 1

if __name__ == "__main__":
    how, road = sys.argv[1:3]
    with shmq.Executor(2, "fork", retries=1) as executor:
        others = [executor.submit(pow, 2, 10) for _ in range(5)]
        poison = Poison(how)
        try:
            if road == "map":
                next(executor.map(f, [poison]))
            elif road == "chunks":
                next(executor.map(f, [poison], chunksize=3))
            elif road == "name":
                executor.submit(f, 1, n=poison).result(60)
            else:
                executor.submit(f, poison).result(60)
        except BaseException as error:
            print(type(error).__name__, getattr(error, "task", ""))
        print([other.result(60) for other in others], executor.submit(pow, 2, 3).result(60))
"""


@pytest.mark.parametrize("road", ["argument", "name", "map", "chunks"])
@pytest.mark.parametrize("how", ["leave", "crash", "exit"])
def test_arguments_are_never_read_by_the_owner(how: str, road: str, tmp_path: Path) -> None:
    with program(tmp_path, POISON, how, road) as owner:
        try:
            out, err = owner.communicate(timeout=WATCHDOG_S)
        finally:
            owner.kill()
    first = "SystemExit " if how == "exit" else "WorkerDied __main__.f(…)"
    assert out == f"{first}\n{[1024] * 5} 8\n", err
    assert owner.returncode == 0


def test_a_dead_call_shows_plain_arguments_by_position_and_name() -> None:
    with shmq.Executor(1, retries=0) as executor:
        error = executor.submit(jobs.kill_me_named, [1, "two"], three={3.0: None}).exception(60)
        assert isinstance(error, shmq.WorkerDied)
        assert error.task == "jobs.kill_me_named([1, 'two'], three={3.0: None})"
        error = executor.submit(jobs.kill_me, object()).exception(60)
        assert isinstance(error, shmq.WorkerDied)
        assert error.task == "jobs.kill_me(…)"
        error = executor.submit(jobs.Counter().die).exception(60)
        assert isinstance(error, shmq.WorkerDied)
        assert error.task == "jobs.Counter.die(…)"
