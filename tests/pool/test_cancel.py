"""Cancelling: whatever no worker has begun can be withdrawn, and only that; nothing is lost over it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import random
import signal
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import jobs
import pytest
from owner import program
from waiting import WATCHDOG_S, wait_until

import shmq

LONG = 40


def after_short_calls(executor: shmq.Executor, folder: Path) -> list[futures.Future[str]]:
    """Submit long calls right after thousands of short ones, when the queue takes in many; two begin."""
    for future in [executor.submit(pow, i, 2) for i in range(4000)]:
        future.result(60)
    found = [executor.submit(jobs.begin_and_wait, str(folder), str(i)) for i in range(LONG)]
    wait_until(lambda: len(list(folder.glob("begun-*"))) == 2, "two calls that have begun")
    return found


def begun(folder: Path) -> set[int]:
    return {int(path.name.partition("-")[2]) for path in folder.glob("begun-*")}


def test_after_short_calls_all_long_ones_that_wait_can_be_cancelled(
    method: str, tmp_path: Path
) -> None:
    with shmq.Executor(2, method) as executor:
        found = after_short_calls(executor, tmp_path)
        wait_until(lambda: sum(future.running() for future in found) == 2)
        running = {i for i, future in enumerate(found) if future.running()}
        assert running == begun(tmp_path)
        cancelled = {i for i, future in enumerate(found) if future.cancel()}
        assert cancelled == set(range(LONG)) - running
        assert {i for i, future in enumerate(found) if future.cancelled()} == cancelled
        assert executor.submit(jobs.square, 3).cancel()
        last = executor.submit(jobs.square, 4)
        (tmp_path / "go").touch()
        assert last.result(60) == 16
        assert [found[i].result(60) for i in sorted(running)] == [str(i) for i in sorted(running)]
    assert begun(tmp_path) == running
    assert not any(future.cancel() for i, future in enumerate(found) if i in running)


def test_what_waits_keeps_its_order_when_some_of_it_is_cancelled(tmp_path: Path) -> None:
    with shmq.Executor(1) as executor:
        for future in [executor.submit(pow, i, 2) for i in range(3000)]:
            future.result(60)
        first = executor.submit(jobs.begin_and_wait, str(tmp_path), "0")
        wait_until((tmp_path / "begun-0").exists)
        line = str(tmp_path / "line")
        found = [executor.submit(jobs.append, line, i) for i in range(200)]
        assert all(future.cancel() for future in found[::3])
        (tmp_path / "go").touch()
        futures.wait(found, 60)
        assert first.result(60) == "0"
    assert [int(word) for word in Path(line).read_text().split()] == [
        i for i in range(200) if i % 3
    ]


def test_shutdown_withdraws_all_that_waits_after_short_calls(tmp_path: Path) -> None:
    executor = shmq.Executor(2)
    found = after_short_calls(executor, tmp_path)
    executor.shutdown(wait=False, cancel_futures=True)
    assert sum(future.cancelled() for future in found) == LONG - 2
    done, rest = futures.wait([future for future in found if future.cancelled()], 0)
    assert (len(done), len(rest)) == (LONG - 2, 0)
    (tmp_path / "go").touch()
    executor.shutdown()
    assert len(begun(tmp_path)) == 2


def test_ctrl_c_withdraws_all_that_waits_after_short_calls(tmp_path: Path) -> None:
    source = """
    import os, sys, pathlib, jobs, shmq, test_cancel
    if __name__ == "__main__":
        folder = pathlib.Path(sys.argv[1])
        try:
            with shmq.Executor(2) as executor:
                found = test_cancel.after_short_calls(executor, folder)
                for future in found:
                    future.add_done_callback(lambda f: f.cancelled() and os.write(1, b"cancelled\\n"))
                print("ready", flush=True)
                for future in found:
                    future.result()
        except KeyboardInterrupt:
            print("interrupted", sum(future.cancelled() for future in found), flush=True)
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    with program(tmp_path, source, str(folder)) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n", owner.communicate()
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.stdout.readline() == "cancelled\n"
        (folder / "go").touch()
        out, err = owner.communicate(timeout=WATCHDOG_S)
    assert (owner.returncode, err) == (0, "")
    assert out.endswith(f"interrupted {LONG - 2}\n")  # the lines before may be in readline's buffer
    assert len(begun(folder)) == 2


def test_a_map_that_is_given_up_makes_no_more_calls(tmp_path: Path) -> None:
    with shmq.Executor(2) as executor:
        assert list(executor.map(jobs.square, range(4000))) == [i * i for i in range(4000)]
        folder = str(tmp_path)
        results = executor.map(jobs.begin_and_wait, [folder] * LONG, map(str, range(LONG)))
        wait_until(lambda: len(begun(tmp_path)) == 2)
        nothing = executor.map(jobs.square, [1], timeout=0)
        with pytest.raises(futures.TimeoutError):
            next(nothing)
        next_one = executor.submit(jobs.square, 5)
        (tmp_path / "go").touch()
        next(results)
        before = begun(tmp_path)
        results.close()  # type: ignore[attr-defined]
        assert next_one.result(60) == 25
        assert len(before) <= len(begun(tmp_path)) <= LONG


def test_a_map_that_times_out_makes_no_more_calls(tmp_path: Path) -> None:
    with shmq.Executor(2) as executor:
        assert list(executor.map(jobs.square, range(4000))) == [i * i for i in range(4000)]
        folder = str(tmp_path)
        results = executor.map(
            jobs.begin_and_wait, [folder] * LONG, map(str, range(LONG)), timeout=0.5
        )
        wait_until(lambda: len(begun(tmp_path)) == 2)
        with pytest.raises(futures.TimeoutError):
            next(results)
        (tmp_path / "go").touch()
        assert executor.submit(jobs.square, 5).result(60) == 25
    assert len(begun(tmp_path)) == 2


def test_a_call_that_was_withdrawn_and_sent_again_keeps_its_attempts(tmp_path: Path) -> None:
    """One worker waits, the other dies of a call again and again; meanwhile others are cancelled."""
    with shmq.Executor(2, retries=5) as executor:
        blocker = executor.submit(jobs.begin_and_wait, str(tmp_path), "0")
        wait_until((tmp_path / "begun-0").exists)
        deaths = str(tmp_path / "deaths")
        killer = executor.submit(jobs.die_noting, deaths)
        cancelled = 0
        while not killer.done():
            more = [executor.submit(jobs.square, i) for i in range(3)]
            cancelled += sum(future.cancel() for future in more)
        error = killer.exception(60)
        assert isinstance(error, shmq.WorkerDied)
        assert "in attempt 6" in str(error)
        assert not killer.cancelled()
        assert Path(deaths).read_text() == "x" * 6
        (tmp_path / "go").touch()
        assert blocker.result(60) == "0"
        assert cancelled


@pytest.mark.parametrize("kills", [0, 30])
def test_cancelled_is_exactly_what_never_ran(kills: int, tmp_path: Path) -> None:
    """Threads submit and cancel at random, workers are killed: each call ran, or was cancelled."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    over = threading.Event()
    outcomes: dict[int, futures.Future[int]] = {}
    said: dict[int, bool] = {}
    with shmq.Executor(2, retries=4000) as executor:
        executor.submit(jobs.square, 0).result(60)

        def play(k: int) -> None:
            mine = random.Random(seed + k)
            n = 0
            while not over.is_set() and n < 3000:
                burst = {}
                for _ in range(mine.randrange(1, 200)):
                    i = k * 1_000_000 + n
                    seconds = mine.choice((0.0, 0.0, 0.0, 0.002))
                    burst[i] = executor.submit(jobs.note_and_sleep, str(tmp_path), i, seconds)
                    n += 1
                time.sleep(mine.random() * 0.01)
                for i in mine.sample(sorted(burst), len(burst) // 2):
                    said[i] = burst[i].cancel()
                outcomes.update(burst)
                futures.wait(burst.values(), 60)

        threads = [threading.Thread(target=play, args=(k,)) for k in range(3)]
        for thread in threads:
            thread.start()
        killed = 0
        deadline = time.monotonic() + (30 if kills else 6)
        while time.monotonic() < deadline and any(thread.is_alive() for thread in threads):
            pids = executor.pids
            if killed < kills and pids:
                # One that is dead already may be unknown to all but the executor: a fork server reaps it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(pids), signal.SIGKILL)
                    killed += 1
            time.sleep(0.05)
        over.set()
        for thread in threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in threads), f"seed {seed}: hangs"
        ran = {int(path.name) for path in tmp_path.iterdir()}
        cancelled = {i for i, future in outcomes.items() if future.cancelled()}
        assert cancelled == {i for i, word in said.items() if word}, f"seed {seed}"
        assert cancelled, f"seed {seed}"
        assert ran | cancelled == set(outcomes), f"seed {seed}"
        assert not ran & cancelled, f"seed {seed}"
        assert all(outcomes[i].result(0) == i for i in ran), f"seed {seed}"
        if not kills:
            twice = [i for i in ran if (tmp_path / str(i)).stat().st_size != 1]
            assert twice == [], f"seed {seed}"


def test_ctrl_c_at_any_moment_of_submit_and_cancel_leaves_an_executor_that_ends(
    tmp_path: Path,
) -> None:
    source = """
    import random, signal, threading, time
    import jobs, shmq

    armed = False

    def on_int(*_):
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, on_int)
        interrupted = 0
        with shmq.Executor(2) as executor:
            executor.submit(pow, 2, 2).result()
            over = threading.Event()

            def interrupt():
                while not over.is_set():
                    time.sleep(random.random() * 0.004)
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

            thread = threading.Thread(target=interrupt, daemon=True)
            thread.start()
            kept = []
            while interrupted < 300:
                try:
                    armed = True
                    future = executor.submit(jobs.square, 3)
                    kept.append(future)
                    if interrupted % 2:
                        kept[-random.randrange(1, 50) % len(kept)].cancel()
                    armed = False
                except KeyboardInterrupt:
                    interrupted += 1
            armed = False
            over.set()
            thread.join()
            for future in kept:
                assert future.cancelled() or future.result(30) == 9
            print(sum(f.cancelled() for f in kept) > 0, executor.submit(pow, 2, 3).result(30))
    """
    with program(tmp_path, source) as owner:
        try:
            out, err = owner.communicate(timeout=WATCHDOG_S)
        finally:
            owner.kill()
    assert (owner.returncode, out, err) == (0, "True 8\n", "")


def test_ctrl_c_amid_recalls_leaves_every_call_somewhere(tmp_path: Path) -> None:
    source = """
    import os, signal, sys, jobs, shmq
    from waiting import wait_until

    armed = False

    def on_alarm(*_):
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    if __name__ == "__main__":
        signal.signal(signal.SIGALRM, on_alarm)
        folder, interrupted, futures = sys.argv[1], 0, []
        with shmq.Executor(1) as executor:
            first = executor.submit(jobs.begin_and_wait, folder, "0")
            wait_until(lambda: os.path.exists(f"{folder}/begun-0"))
            ledger = executor._engine._ledger
            for i in range(1000):
                if interrupted == 60:
                    break
                ledger._window = 1 << 20  # as after thousands of short calls: all goes into the queue
                some = [executor.submit(jobs.square, 3) for _ in range(100)]
                futures += some
                armed = True
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00005 + i % 50 * 1e-5)
                    some[-1].cancel()
                    some[0].cancel()
                except KeyboardInterrupt:
                    interrupted += 1
                armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert all(future.cancel() for future in some)  # the worker has only its first one
            open(f"{folder}/go", "w").close()
            for future in futures:
                assert future.cancelled() or future.result(20) == 9
            print(interrupted > 0)
    """
    with program(tmp_path, source, str(tmp_path)) as owner:
        try:
            out, err = owner.communicate(timeout=2 * WATCHDOG_S)
        finally:
            owner.kill()
    assert (owner.returncode, out, err) == (0, "True\n", "")


def test_asyncio_and_the_modules_functions_see_what_is_cancelled(tmp_path: Path) -> None:
    async def run(executor: shmq.Executor) -> None:
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(executor, jobs.begin_and_wait, str(tmp_path), "0")
        wait_until((tmp_path / "begun-0").exists)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(executor, Path.touch, tmp_path / "no"), 0.1)
        (tmp_path / "go").touch()
        assert await first == "0"

    with shmq.Executor(1) as executor:
        asyncio.run(run(executor))
        (tmp_path / "go").unlink()
        (tmp_path / "begun-0").unlink()
        first = executor.submit(jobs.begin_and_wait, str(tmp_path), "0")
        wait_until((tmp_path / "begun-0").exists)
        told: list[bool] = []
        more = [executor.submit(jobs.square, i) for i in range(5)]
        more[2].add_done_callback(lambda future: told.append(future.cancelled()))
        assert more[2].cancel()
        assert more[2].cancel()
        assert told == [True]
        assert futures.wait(more, 0).done == {more[2]}
        with pytest.raises(futures.CancelledError):
            more[2].result(0)
        (tmp_path / "go").touch()
        every: list[futures.Future[Any]] = [first, *more]
        assert set(futures.as_completed(every, 60)) == {first, *more}
    assert not (tmp_path / "no").exists()


def test_an_executor_dropped_amid_cancelling_callbacks_ends() -> None:
    before = set(threading.enumerate())
    executor = shmq.Executor(1)
    more: list[futures.Future[int]] = []
    first = executor.submit(jobs.square, 1)
    first.add_done_callback(lambda _: [future.cancel() for future in list(more)])
    more.extend(executor.submit(jobs.square, i) for i in range(3000))
    del executor
    futures.wait(more, 60)
    wait_until(lambda: set(threading.enumerate()) == before, "the collector's end")
    assert pickle.dumps([future.cancelled() or future.result() for future in more])
