"""WorkerPool: handlers in processes of their own, whatever happens to them."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from jobs import handle, to
from owner import QUICK, clients, drained, program
from waiting import WATCHDOG_S, alive, wait_until

import shmq
from shmq.workers.death import Death


def test_every_message_is_handled_and_acked(broker: shmq.Broker, method: str) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    sent = [b"do %03d" % i for i in range(300)]
    queue.publish_many(sent)
    with shmq.WorkerPool(queue, handle, 2, mp_context=method, **to(out)) as pool:
        queue.shutdown()
        assert pool.wait(60)
        assert pool.pids == []
    assert drained(out) == sent
    assert queue.stats().acked == 300
    assert {message.headers["pid"] for message in out.peek(300)}.isdisjoint({os.getpid()})
    assert pool.deaths == []


def test_a_handler_that_raises_nacks_with_the_traceback(broker: shmq.Broker, method: str) -> None:
    queue = broker.create_queue("q", max_retries=2, **QUICK)
    out = broker.create_queue("out")
    queue.publish(b"fail the oven is cold")
    queue.publish(b"do it")
    with shmq.WorkerPool(queue, handle, 1, mp_context=method, **to(out)):
        dead = broker.get_queue("dead").subscribe().get(60)
        assert out.subscribe().get(60).payload == b"do it"
    assert dead.headers["x-attempts"] == 3
    assert dead.headers["x-death-reason"] == "retries"
    error = str(dead.headers["x-error"])
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith("ValueError: the oven is cold\n")


def test_a_handler_may_settle_by_itself(broker: shmq.Broker) -> None:
    queue, out = broker.create_queue("q", **QUICK), broker.create_queue("out")
    queue.publish(b"reject this")
    queue.publish(b"ack this")
    with shmq.WorkerPool(queue, handle, 1, **to(out)) as pool:
        queue.shutdown()
        assert pool.wait(60)
    assert drained(out) == [b"ack this"]
    (dead,) = broker.get_queue("dead").peek(2)
    assert dead.headers["x-error"] == "not mine"
    assert pool.deaths == []


@pytest.mark.parametrize(
    ("payload", "exitcode", "how"),
    [(b"kill", -9, "was killed by SIGKILL"), (b"leave 3", 3, "exited with code 3")],
)
def test_a_dead_worker_is_reported_and_replaced(
    broker: shmq.Broker, method: str, payload: bytes, exitcode: int, how: str
) -> None:
    queue = broker.create_queue("q", max_retries=1, **QUICK)
    out = broker.create_queue("out")
    told: list[Death] = []
    with shmq.WorkerPool(
        queue, handle, 2, mp_context=method, on_death=told.append, **to(out)
    ) as pool:
        message_id = queue.publish(payload)
        assert broker.get_queue("dead").subscribe().get(60).payload == payload
        wait_until(lambda: len(pool.deaths) == 2, "two reports")
        queue.publish_many([b"do"] * 20)
        wait_until(lambda: out.depth() == 20)
        wait_until(lambda: len(pool.pids) == 2)
    assert [(death.exitcode, death.message_id) for death in pool.deaths] == [
        (exitcode, message_id)
    ] * 2
    assert told == pool.deaths
    assert str(told[0]) == f"worker {told[0].pid} {how} with message {message_id} in hand"


def test_what_a_worker_has_in_hand_can_be_seen(broker: shmq.Broker, tmp_path: Path) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    message_id = queue.publish(f"wait {tmp_path} a".encode())
    with shmq.WorkerPool(queue, handle, 2, **to(out)) as pool:
        wait_until((tmp_path / "begun-a").exists)
        assert sorted(pool.in_hand.values(), key=bool) == [None, message_id]
        assert sorted(pool.in_hand) == sorted(pool.pids)
        (tmp_path / "go").touch()


def test_stop_finishes_what_is_in_hand_and_leaves_the_rest(
    broker: shmq.Broker, method: str, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q", max_retries=0, **QUICK), broker.create_queue("out")
    for i in range(10):
        queue.publish(f"wait {tmp_path} {i}".encode())
    pool = shmq.WorkerPool(queue, handle, 2, mp_context=method, prefetch=3, **to(out))
    pool.start()
    wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    pids = pool.pids
    (tmp_path / "go").touch()
    assert pool.stop()
    assert out.depth() + queue.depth() == 10
    assert out.depth() >= 2
    assert [message.headers for message in broker.get_queue("dead").peek(5)] == []
    assert not any(alive(pid) for pid in pids)
    assert pool.stop()


def test_stop_with_a_timeout_gives_back_what_takes_longer(
    broker: shmq.Broker, method: str, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    queue.publish(f"wait {tmp_path} a".encode())
    pool = shmq.WorkerPool(queue, handle, 1, mp_context=method, **to(out))
    pool.start()
    wait_until((tmp_path / "begun-a").exists)
    assert not pool.stop(timeout=0.05)
    assert out.depth() == 0
    again = queue.subscribe().get(60)
    assert again.attempt == 2
    assert pool.deaths == []


def test_the_pool_may_be_stopped_by_who_hears_of_a_death(broker: shmq.Broker) -> None:
    queue = broker.create_queue("q", max_retries=0, **QUICK)
    out = broker.create_queue("out")
    queue.publish(b"kill")
    pool = shmq.WorkerPool(queue, handle, 1, on_death=lambda _: pool.stop(), **to(out))
    assert pool.run()
    assert len(pool.deaths) == 1


def test_a_handler_that_cannot_be_sent_is_an_error_at_the_start(broker: shmq.Broker) -> None:
    pool = shmq.WorkerPool(broker.create_queue("q"), lambda _: None, 1, mp_context="spawn")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pool.start()
    assert pool.wait(0)


def test_run_ends_when_the_queue_is_drained(broker: shmq.Broker) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    queue.publish_many([b"do"] * 10)
    queue.shutdown()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert shmq.WorkerPool(queue, handle, 2, **to(out)).run()
    assert out.depth() == 10
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_pool_is_started_once(broker: shmq.Broker) -> None:
    queue = broker.create_queue("q")
    with (
        shmq.WorkerPool(queue, handle, 1) as pool,
        pytest.raises(RuntimeError, match="make another WorkerPool"),
    ):
        pool.run()
    never = shmq.WorkerPool(queue, handle, 1)
    assert never.stop()
    with pytest.raises(RuntimeError):
        never.start()


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"workers": 1.5}, {"prefetch": 0}, {"initializer": 7}]
)
def test_impossible_options_are_refused(broker: shmq.Broker, wrong: dict[str, Any]) -> None:
    with pytest.raises((shmq.InvalidOption, TypeError), match="expected"):
        shmq.WorkerPool(broker.create_queue("q"), handle, **wrong)


def test_a_storm_of_deaths_is_slowed_down(broker: shmq.Broker) -> None:
    """Workers that die before they have done anything are started ever more slowly."""
    queue = broker.create_queue("q", max_retries=None, retry_backoff=0.0)
    out = broker.create_queue("out")
    queue.publish(b"kill")
    with shmq.WorkerPool(queue, handle, 1, **to(out)) as pool:
        crew = pool._crew
        assert crew is not None
        wait_until(lambda: crew.pause() > 0.3, "a growing pause")
        assert len(pool.deaths) < 20
        queue.purge()
        queue.publish(b"do it")
        wait_until(lambda: queue.purge() or out.depth() or not queue.publish(b"do it"))


def test_no_message_is_lost_whoever_is_killed_when(broker: shmq.Broker, method: str) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    queue = broker.create_queue("q", max_retries=None, retry_backoff=0.0)
    out = broker.create_queue("out")
    rounds = (
        200 if method == "fork" else 12
    )  # the others take a tenth of a second to start a worker
    sent = [b"do %05d" % i for i in range(100 * rounds)]
    killed = 0
    with shmq.WorkerPool(queue, handle, 3, mp_context=method, prefetch=8, **to(out)) as pool:
        for start in range(0, len(sent), 100):
            # Some work between any two kills: workers killed at their start only are slowed down.
            before = queue.stats().acked
            queue.publish_many(sent[start : start + 100])
            wait_until(lambda n=before: queue.stats().acked > n, "work")  # type: ignore[misc]
            for pid in dice.sample(pool.pids, min(1, len(pool.pids))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            time.sleep(dice.random() * 0.01)
        queue.shutdown()
        assert pool.wait(60), f"seed {seed}: hangs"
    assert killed > rounds / 2
    found = drained(out)
    assert sorted(set(found)) == sent, f"seed {seed}"
    # Only what was in hand between its effect and its ack is done twice.
    assert len(found) <= len(sent) + killed


# ---- signals --------------------------------------------------------------------------------------

RUN = """
import signal, sys, jobs, shmq

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # run() has its own; those that come late are nothing
        signal.signal(number, signal.SIG_IGN)
    name, method = sys.argv[1:3]
    broker = shmq.connect(name)
    pool = shmq.WorkerPool(
        broker.get_queue("q"), jobs.handle, 2, mp_context=method,
        **jobs.to(broker.get_queue("out")),
    )
    print("finished", pool.run(), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_and_the_second_gives_back(
    broker: shmq.Broker, method: str, number: signal.Signals, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    for twice in (False, True):
        folder = tmp_path / f"{twice}"
        folder.mkdir()
        for i in range(5):
            queue.publish(f"wait {folder} {i}".encode())
        with program(tmp_path, RUN, broker.name, method) as owner:
            wait_until(lambda f=folder: len(list(f.glob("begun-*"))) == 2)  # type: ignore[misc]
            started = time.monotonic()
            # Ctrl-C reaches the whole group, kill only the owner.
            send = os.killpg if number == signal.SIGINT else os.kill
            send(owner.pid, number)
            if twice:
                while owner.poll() is None:  # one more as soon as the first one has been taken
                    send(owner.pid, number)
                    try:
                        owner.wait(0.1)
                    except subprocess.TimeoutExpired:
                        assert time.monotonic() < started + WATCHDOG_S
            else:
                (folder / "go").touch()
            output, err = owner.communicate(timeout=WATCHDOG_S)
        assert (output, owner.returncode) == (f"finished {not twice}\n", 0), err
        assert "Traceback" not in err
        assert out.depth() + queue.depth() == 5
        assert out.depth() == (0 if twice else len(list(folder.glob("begun-*"))))
        assert queue.stats().unsettled == 0
        queue.purge()
        out.purge()


def test_workers_whose_owner_is_killed_finish_what_they_have(
    broker: shmq.Broker, method: str, tmp_path: Path
) -> None:
    queue, out = broker.create_queue("q"), broker.create_queue("out")
    for i in range(5):
        queue.publish(f"wait {tmp_path} {i}".encode())
    with program(tmp_path, RUN, broker.name, method) as owner:
        wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        owner.kill()
        owner.wait()
        (tmp_path / "go").touch()  # the workers keep its pipes open
    wait_until(lambda: out.depth() == 2)
    wait_until(lambda: clients(broker) == {os.getpid()}, "the end of the workers")
    assert (out.depth(), queue.depth()) == (2, 3)


def test_a_pool_whose_wait_was_interrupted_at_any_moment_stops(
    broker: shmq.Broker, tmp_path: Path
) -> None:
    broker.create_queue("q")
    source = """
    import signal, sys, jobs, shmq

    armed = False

    def on_alarm(*_):
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def wait(pool):
        while True:
            pool.wait(0)
            pool.wait(1e-5)

    if __name__ == "__main__":
        signal.signal(signal.SIGALRM, on_alarm)
        pool = shmq.WorkerPool(shmq.connect(sys.argv[1]).get_queue("q"), jobs.handle, 1)
        pool.start()
        for i in range(300):
            armed = True
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + i * 2e-6)
                wait(pool)
            except KeyboardInterrupt:
                pass
        print(pool.stop(), pool.wait())
    """
    with program(tmp_path, source, broker.name) as owner:
        try:
            out, err = owner.communicate(timeout=WATCHDOG_S)
        finally:
            owner.kill()
    assert (owner.returncode, out, err) == (0, "True True\n", "")
