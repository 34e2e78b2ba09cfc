"""Executor: calls, results, maps and their limits, as concurrent.futures has them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import pickle
import threading
import weakref
from concurrent import futures
from pathlib import Path
from typing import Any

import jobs
import numpy
import pytest
from waiting import wait_until

import shmq
from shmq.workers.wire import RemoteError, RemoteTraceback


def test_calls_are_made_in_other_processes(method: str) -> None:
    with shmq.Executor(2, method) as executor:
        assert executor.submit(jobs.add, 1, 2, x=3).result(60) == 6
        assert list(executor.map(jobs.square, range(100))) == [i * i for i in range(100)]
        pids = set(executor.map(jobs.pid_of, range(200)))
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2


def test_nothing_is_started_before_the_first_call() -> None:
    threads = threading.active_count()
    executor = shmq.Executor(2)
    assert threading.active_count() == threads
    assert executor.pids == []
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(jobs.square, 1)


def test_after_shutdown_there_is_no_thread_and_no_worker() -> None:
    before = set(threading.enumerate())
    with shmq.Executor(2) as executor:
        executor.submit(jobs.square, 2).result(60)
        pids = executor.pids
        assert 1 <= len(pids) <= 2  # forked ones at once, others when there are calls for them
        extra = set(threading.enumerate()) - before
        assert [thread.name for thread in extra] == ["shmq-executor"]
    assert set(threading.enumerate()) == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(RuntimeError, match="found one that was shut down"):
        executor.submit(jobs.square, 1)


def test_an_executor_that_is_dropped_ends_when_its_calls_are_done() -> None:
    before = set(threading.enumerate())
    executor = shmq.Executor(1)
    future = executor.submit(jobs.square, 3)
    del executor
    assert future.result(60) == 9
    wait_until(lambda: set(threading.enumerate()) == before, "the collector's end")


# ---- exceptions -----------------------------------------------------------------------------------


def test_exceptions_come_with_the_traceback_of_the_worker(method: str) -> None:
    with shmq.Executor(1, method) as executor:
        future = executor.submit(jobs.fail, "seven")
        error = future.exception(60)
        assert isinstance(error, KeyError)
        assert error.args == ("seven",)
        assert isinstance(error.__cause__, RemoteTraceback)
        text = str(error.__cause__)
        assert "in fail" in text
        assert "raise KeyError(text)" in text
        assert "work.py" not in text  # the frames of the library are nobody's business
        assert executor.submit(jobs.square, 2).result(60) == 4


def test_what_cannot_be_pickled_is_the_calls_exception_and_nothing_else() -> None:
    with shmq.Executor(1) as executor:
        for future in (
            executor.submit(lambda: 1),
            executor.submit(jobs.square, lambda: 1),  # type: ignore[arg-type]
            executor.submit(jobs.lambda_of, 1),
        ):
            assert isinstance(future.exception(60), (pickle.PicklingError, AttributeError))
        found = executor.submit(jobs.be_picky).exception(60)
        assert isinstance(found, RemoteError)
        assert "Picky: 1 and 2, which cannot be pickled" in str(found)
        assert "in be_picky" in str(found.__cause__)
        mapped = executor.map(jobs.square, [1, object(), threading.Lock(), 4])
        assert next(mapped) == 1
        with pytest.raises(TypeError):
            next(mapped)
        assert executor.submit(jobs.square, 5).result(60) == 25


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (jobs.coroutine, "a coroutine, none of which has run"),
        (jobs.generator, "a generator, none of which has run"),
        (jobs.async_generator, "a generator, none of which has run"),
        (functools.partial(jobs.coroutine), "a coroutine, none of which has run"),
    ],
)
def test_what_would_have_to_be_awaited_or_iterated_is_no_result(function: Any, found: str) -> None:
    with shmq.Executor(1) as executor:
        with pytest.raises(TypeError, match=found):
            executor.submit(function).result(60)
        with pytest.raises(TypeError, match=found):
            list(executor.map(function, [1]))
        assert executor.submit(jobs.square, 2).result(60) == 4


def test_system_exit_in_a_call_is_its_exception() -> None:
    with shmq.Executor(1) as executor:
        pid = executor.submit(jobs.pid_of).result(60)
        assert isinstance(executor.submit(exit, 3).exception(60), SystemExit)
        assert executor.submit(jobs.pid_of).result(60) == pid


# ---- what is sent ---------------------------------------------------------------------------------


def test_large_arrays_go_both_ways_and_belong_to_whom_they_reach(method: str) -> None:
    big = numpy.arange(4_000_000.0)
    with shmq.Executor(1, method) as executor:
        future = executor.submit(jobs.doubled, big)
        big[:] = -1  # what was submitted is what it was then
        found = future.result(60)
        assert (found == numpy.arange(4_000_000.0) * 2).all()
        found[0] = 7
        (mapped,) = executor.map(jobs.doubled, [numpy.ones(1_000_000)])
        mapped += 1
        assert (mapped == 3).all()


def test_what_waits_is_a_snapshot_as_well(tmp_path: Path) -> None:
    array = numpy.zeros(100_000)
    with shmq.Executor(1) as executor:
        blockers = [executor.submit(jobs.until_exists, str(tmp_path / "go")) for _ in range(5)]
        waiting = executor.submit(jobs.doubled, array)
        array += 1
        (tmp_path / "go").touch()
        assert not waiting.result(60).any()
        futures.wait(blockers, 60)


def test_a_result_too_large_is_the_calls_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    from shmq.workers import engine

    def small() -> Any:
        broker = shmq.Broker(max_message_size="1MiB")
        return broker, lambda: broker.shutdown(timeout=0)

    monkeypatch.setattr(engine, "open_broker", small)
    with shmq.Executor(1) as executor:
        assert isinstance(executor.submit(jobs.ones, 2 << 20).exception(60), shmq.MessageTooLarge)
        too_large = executor.submit(jobs.size_of, bytes(2 << 20))
        assert isinstance(too_large.exception(60), shmq.MessageTooLarge)
        large = numpy.zeros(2 << 20, "u1")
        assert isinstance(executor.submit(jobs.size_of, large).exception(60), shmq.MessageTooLarge)
        assert executor.submit(jobs.size_of, bytes(1 << 19)).result(60) == 1 << 19


def test_arguments_that_do_not_fit_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from shmq.workers import engine

    def tight() -> Any:
        broker = shmq.Broker(max_message_size="8MiB", memory_limit="24MiB")
        return broker, lambda: broker.shutdown(timeout=0)

    monkeypatch.setattr(engine, "open_broker", tight)
    with shmq.Executor(2) as executor:
        found = executor.map(jobs.size_of, (bytes(7 << 20) for _ in range(20)))
        assert list(found) == [7 << 20] * 20


def test_methods_are_sent_with_their_object_each_time_anew() -> None:
    counter = jobs.Counter()
    with shmq.Executor(1) as executor:
        assert executor.submit(counter.count).result(60) == 1
        assert executor.submit(counter.count).result(60) == 1
        assert list(executor.map(counter.count, range(3))) == [1, 1, 1]
    assert counter.n == 0


# ---- map ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_map_keeps_the_order(chunksize: int) -> None:
    with shmq.Executor(2) as executor:
        found = executor.map(jobs.add, range(500), itertools.repeat(1), chunksize=chunksize)
        assert list(found) == list(range(1, 501))
        assert list(executor.map(jobs.add, [], chunksize=chunksize)) == []


@pytest.mark.parametrize("chunksize", [1, 5])
def test_map_reads_no_further_ahead_than_it_was_told(chunksize: int) -> None:
    read = taken = most = 0

    def endless() -> Any:
        nonlocal read, most
        for i in itertools.count():
            read += 1
            most = max(most, read - taken)
            yield i

    with shmq.Executor(2) as executor:
        results = executor.map(jobs.square, endless(), buffersize=20, chunksize=chunksize)
        for i in range(300):
            assert next(results) == i * i
            taken += 1
        results.close()  # type: ignore[attr-defined]
    assert 10 <= most <= 21 + chunksize


def test_map_is_bounded_by_the_bytes_of_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    from shmq.workers import mapping

    monkeypatch.setattr(mapping, "LARGE", 1 << 20)
    read = 0

    def blocks() -> Any:
        nonlocal read
        for _ in range(100):
            read += 1
            yield bytes(300_000)

    with shmq.Executor(2) as executor:
        results = executor.map(jobs.size_of, blocks())
        assert read < 10
        assert list(results) == [300_000] * 100


def test_map_without_a_bound_of_ones_own_is_done_after_the_shutdown_too() -> None:
    with shmq.Executor(2) as executor:
        results = executor.map(jobs.square, range(5000))
    assert list(results) == [i * i for i in range(5000)]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_keeps_no_result_that_was_taken(chunksize: int) -> None:
    with shmq.Executor(2) as executor:
        for counter in executor.map(jobs.new_counter, range(6), chunksize=chunksize):
            gone = weakref.ref(counter)
            del counter
            assert gone() is None


def test_map_gives_an_exception_in_its_turn_and_drops_the_rest() -> None:
    with shmq.Executor(2) as executor:
        results = executor.map(divmod, [6, 5, 4, 3], [1, 1, 0, 1])
        assert [next(results), next(results)] == [(6, 0), (5, 0)]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == []


def test_map_gives_an_exception_of_its_iterable_behind_what_came_before() -> None:
    def broken() -> Any:
        yield 1
        yield 2
        raise OSError("disk on fire")

    with shmq.Executor(2) as executor:
        results = executor.map(jobs.square, broken())
        assert [next(results), next(results)] == [1, 4]
        with pytest.raises(OSError, match="disk on fire"):
            next(results)


def test_map_that_takes_too_long_is_a_timeout(tmp_path: Path) -> None:
    with shmq.Executor(1) as executor:
        go = str(tmp_path / "go")
        executor.submit(jobs.square, 1).result(
            60
        )  # the time is for results, not for a worker's start
        results = executor.map(jobs.until_exists, [__file__, go], [1, 2], timeout=0.3)
        try:
            assert next(results) == 1
            with pytest.raises(futures.TimeoutError):
                next(results)
        finally:
            Path(go).touch()


@pytest.mark.parametrize("wrong", [{"chunksize": 0}, {"buffersize": 0}, {"chunksize": 1.5}])
def test_impossible_sizes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(shmq.InvalidOption):
        shmq.Executor(1).map(jobs.square, [1], **wrong)


# ---- cancelling -----------------------------------------------------------------------------------


def test_what_waits_can_be_cancelled_and_is_never_called(tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    with shmq.Executor(1) as executor:
        running = executor.submit(jobs.begin_and_wait, str(tmp_path), "first")
        more = [executor.submit(jobs.begin_and_wait, str(tmp_path), f"{i}") for i in range(10)]
        wait_until((tmp_path / "begun-first").exists)
        assert running.running()
        assert not running.cancel()
        assert more[-1].cancel()
        assert more[-2].cancel()
        Path(go).touch()
        done, _ = futures.wait([running, *more], 60)
        assert len(done) == 11
        assert running.result() == "first"
        assert [future.result() for future in more[:-2]] == [f"{i}" for i in range(8)]
    assert not (tmp_path / "begun-9").exists()
    assert not (tmp_path / "begun-8").exists()


def test_shutdown_cancels_what_waits_if_told_so(tmp_path: Path) -> None:
    executor = shmq.Executor(1)
    found = [executor.submit(jobs.begin_and_wait, str(tmp_path), f"{i}") for i in range(20)]
    wait_until((tmp_path / "begun-0").exists)
    executor.shutdown(wait=False, cancel_futures=True)
    assert found[-1].cancelled()
    (tmp_path / "go").touch()
    executor.shutdown()
    cancelled = [future for future in found if future.cancelled()]
    assert len(cancelled) >= 15
    assert [future.result() for future in found if future not in cancelled] == [
        f"{i}" for i in range(20 - len(cancelled))
    ]


def test_shutdown_without_waiting_lets_calls_be_done() -> None:
    executor = shmq.Executor(2)
    found = [executor.submit(jobs.square, i) for i in range(100)]
    executor.shutdown(wait=False)
    assert [future.result(60) for future in found] == [i * i for i in range(100)]
    executor.shutdown()


def test_a_map_that_is_given_up_holds_nobody_up(tmp_path: Path) -> None:
    with shmq.Executor(1) as executor:
        results = executor.map(jobs.square, itertools.count(), buffersize=1000)
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        assert executor.submit(jobs.square, 9).result(60) == 81


# ---- workers --------------------------------------------------------------------------------------


def test_a_worker_is_replaced_after_so_many_calls(method: str) -> None:
    with shmq.Executor(1, method, max_tasks_per_child=3) as executor:
        pids = list(executor.map(jobs.pid_of, range(9)))
    assert len(set(pids)) == 3
    assert all(pids.count(pid) == 3 for pid in pids)


def test_the_initializer_runs_in_each_worker_first(method: str) -> None:
    with shmq.Executor(2, method, jobs.set_up, ("key", 17)) as executor:
        assert set(executor.map(jobs.look_up, ["key"] * 50)) == {17}


def test_an_initializer_that_raises_fails_every_call(method: str) -> None:
    with shmq.Executor(2, method, jobs.refuse) as executor:
        futures_ = []
        with pytest.raises(futures.BrokenExecutor) as caught:
            for i in range(1000):
                futures_.append(executor.submit(jobs.square, i))
                futures_[-1].result(60)
        assert isinstance(caught.value, shmq.WorkersFailed)
        assert "no such database" in str(caught.value)
        with pytest.raises(shmq.WorkersFailed):
            executor.submit(jobs.square, 1)


def test_workers_that_die_at_their_start_fail_every_call() -> None:
    with shmq.Executor(1, "fork", jobs.leave, (3,)) as executor:
        future = executor.submit(jobs.square, 1)
        error = future.exception(60)
        assert isinstance(error, shmq.WorkersFailed)
        assert "exited with code 3" in str(error)


# ---- together with others -------------------------------------------------------------------------


def test_futures_work_with_the_functions_of_the_module() -> None:
    with shmq.Executor(2) as executor:
        found = [executor.submit(jobs.square, i) for i in range(50)]
        assert {future.result() for future in futures.as_completed(found, 60)} == {
            i * i for i in range(50)
        }


def test_a_callback_may_submit_and_shut_down() -> None:
    executor = shmq.Executor(1)
    results: list[int] = []
    over = threading.Event()

    def then(future: futures.Future[int]) -> None:
        results.append(future.result())
        if len(results) < 5:
            executor.submit(jobs.add, future.result(), 1).add_done_callback(then)
        else:
            executor.shutdown()
            over.set()

    executor.submit(jobs.add, 0, 1).add_done_callback(then)
    assert over.wait(60)
    executor.shutdown()
    assert results == [1, 2, 3, 4, 5]


def test_threads_may_share_one() -> None:
    found: dict[int, list[int]] = {}
    with shmq.Executor(2) as executor:

        def use(k: int) -> None:
            mapped = executor.map(jobs.add, range(200), [k] * 200)
            sent = [executor.submit(jobs.add, i, k) for i in range(200)]
            found[k] = [*mapped, *(future.result(60) for future in sent)]

        threads = [threading.Thread(target=use, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {k: [i + k for i in range(200)] * 2 for k in range(4)}


def test_asyncio_uses_it() -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        with shmq.Executor(2) as executor:
            return await asyncio.gather(
                *(loop.run_in_executor(executor, jobs.square, i) for i in range(50))
            )

    assert asyncio.run(run()) == [i * i for i in range(50)]


def test_a_forked_child_is_told_to_make_its_own() -> None:
    with shmq.Executor(1) as executor:
        executor.submit(jobs.square, 1).result(60)
        pid = os.fork()
        if pid == 0:
            try:
                executor.submit(jobs.square, 1)
            except RuntimeError as error:
                os._exit(0 if "in the process that uses it" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert executor.submit(jobs.square, 2).result(60) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_workers": 0},
        {"max_workers": "two"},
        {"max_tasks_per_child": 0},
        {"retries": -1},
        {"retries": 5000},
        {"initializer": 7},
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((shmq.InvalidOption, TypeError), match="expected"):
        shmq.Executor(**wrong)
