"""Any process of a broker may be killed; messages and the others do not notice."""

from __future__ import annotations

import contextlib
import os

import pytest
from kit import ended, exists, kill, processes_of, program
from waiting import alive, wait_until

import shmq

CONSUMER = """
    with shmq.connect(name).get_queue("orders").subscribe() as consumer:
        delivery = consumer.get(timeout=20)
        say(delivery.payload.decode())
        sys.stdin.readline()
"""


def round_trip(queue: shmq.Queue) -> None:
    queue.publish(b"round trip")
    with queue.subscribe() as consumer:
        delivery = consumer.get(timeout=10)
        assert delivery.payload == b"round trip"
        delivery.ack()


def test_a_killed_sidecar_is_replaced(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        for _ in range(3):
            supervisor, sidecar = processes_of(broker)
            kill(sidecar)
            round_trip(queue)
            wait_until(lambda old=sidecar: broker.stats().sidecar_pid not in (None, old))  # type: ignore[misc]
            assert broker.stats().supervisor_pid == supervisor


def test_a_killed_supervisor_stops_nobody_and_start_brings_it_back(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        supervisor, sidecar = processes_of(broker)
        kill(supervisor)
        assert broker.stats().supervisor_pid is None
        round_trip(queue)
        broker.start()
        assert processes_of(broker)[0] != supervisor
        assert processes_of(broker)[1] == sidecar
        broker.start()  # nothing is missing: nothing happens
        round_trip(queue)


def test_with_both_killed_the_data_path_goes_on(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish(b"before")
        old = processes_of(broker)
        for pid in old:
            kill(pid)
        with queue.subscribe() as consumer:
            delivery = consumer.get(timeout=10)
            assert delivery.payload == b"before"
            delivery.ack()
        round_trip(queue)
        broker.start()
        assert not set(processes_of(broker)) & set(old)
        round_trip(queue)


def test_a_sidecar_of_an_earlier_supervisor_is_watched_by_the_next_one(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        supervisor, sidecar = processes_of(broker)
        kill(supervisor)
        broker.start()
        kill(sidecar)
        wait_until(lambda: broker.stats().sidecar_pid not in (None, sidecar))


def test_after_everybody_was_killed_the_next_start_finds_the_messages(broker_name: str) -> None:
    source = """
        broker = shmq.Broker(name)
        queue = broker.create_queue("orders")
        for i in range(100):
            queue.publish(b"%d" % i)
        with queue.subscribe(max_unsettled=10) as consumer:
            held = [consumer.get(timeout=10) for _ in range(10)]
            stats = broker.stats()
            for pid in (stats.supervisor_pid, stats.sidecar_pid, os.getpid()):
                os.kill(pid, signal.SIGKILL)
    """
    with ended(broker_name):
        with program(source, broker_name) as everybody:
            assert everybody.process.wait(30) == -9
        assert exists(broker_name)
        with shmq.Broker(broker_name) as broker:
            queue = broker.get_queue("orders")
            found = set()
            with queue.subscribe() as consumer:
                for _ in range(100):
                    delivery = consumer.get(timeout=10)
                    found.add(int(delivery.payload))
                    delivery.ack()
            assert found == set(range(100))


def test_what_a_killed_consumer_held_is_delivered_again(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish(b"precious")
        with program(CONSUMER, broker_name) as consumer:
            assert consumer.line() == "precious"
            consumer.kill()
        with queue.subscribe() as here:
            delivery = here.get(timeout=20)
            assert delivery.payload == b"precious"
            assert delivery.redelivered
            assert delivery.attempt == 2
            delivery.ack()


def test_a_killed_consumer_at_most_once_gets_nothing_twice(broker_name: str) -> None:
    source = CONSUMER.replace("subscribe()", 'subscribe(ack="none")')
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish_many([b"gone with it", b"next"])
        with program(source, broker_name) as consumer:
            assert consumer.line() == "gone with it"
            assert queue.stats().unsettled == 0
            consumer.kill()
        wait_until(lambda: all(owner.pid != consumer.pid for owner in broker.stats().attached))
        with queue.subscribe(ack="none") as here:
            delivery = here.get(timeout=20)
            assert (delivery.payload, delivery.attempt) == (b"next", 1)
            with pytest.raises(shmq.QueueEmpty):
                here.get(timeout=0)


def test_without_a_supervisor_the_sidecar_finds_the_dead(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish(b"precious")
        with program(CONSUMER, broker_name) as consumer:
            assert consumer.line() == "precious"
            kill(processes_of(broker)[0])
            consumer.kill()
        with queue.subscribe() as here:
            delivery = here.get(timeout=20)
            assert delivery.payload == b"precious"
            delivery.ack()


@pytest.mark.parametrize("way", ["open", "closed", "polled"])
def test_with_both_killed_those_who_wait_find_the_dead(broker_name: str, way: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish(b"precious")
        with program(CONSUMER, broker_name) as consumer:
            assert consumer.line() == "precious"
            for pid in processes_of(broker):
                kill(pid)
            if way == "closed":
                queue.shutdown()
            consumer.kill()

        def poll() -> shmq.Delivery | None:
            with contextlib.suppress(shmq.QueueEmpty):
                return here.get(timeout=0.05)
            return None

        with queue.subscribe() as here:
            delivery = wait_until(poll) if way == "polled" else here.get(timeout=20)
            assert delivery.payload == b"precious"
            assert delivery.attempt == 2
            delivery.ack()


def test_what_a_process_held_before_exec_is_delivered_again(broker_name: str) -> None:
    source = """
        with shmq.connect(name).get_queue("orders").subscribe() as consumer:
            delivery = consumer.get(timeout=20)
            say(delivery.payload.decode())
            os.execvp("sleep", ["sleep", "300"])
    """
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish(b"precious")
        with program(source, broker_name) as consumer:
            assert consumer.line() == "precious"
            with queue.subscribe() as here:
                delivery = here.get(timeout=20)
                assert delivery.payload == b"precious"
                delivery.ack()
            assert alive(consumer.pid)


def test_a_retry_is_not_lost_with_the_sidecar(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders", retry_backoff="300ms", retry_jitter=0)
        queue.publish(b"again")
        with queue.subscribe() as consumer:
            consumer.get(timeout=10).nack()
            kill(processes_of(broker)[1])
            delivery = consumer.get(timeout=20)
            assert delivery.attempt == 2
            delivery.ack()


def test_the_supervisor_is_not_in_the_users_session(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        for pid in processes_of(broker):
            assert os.getsid(pid) != os.getsid(0)
            assert os.getpgid(pid) != os.getpgid(0)


@pytest.mark.parametrize("which", ["supervisor", "sidecar"])
def test_ctrl_c_does_not_end_them(broker_name: str, which: str) -> None:
    import signal

    with shmq.Broker(broker_name) as broker:
        pid = processes_of(broker)[0 if which == "supervisor" else 1]
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGHUP)
        broker.create_queue("orders")
        assert wait_until(lambda: pid in processes_of(broker))
        assert alive(pid)


def test_shutdown_works_with_both_killed(broker_name: str) -> None:
    broker = shmq.Broker(broker_name)
    for pid in processes_of(broker):
        kill(pid)
    broker.shutdown()
    assert not exists(broker_name)


def test_start_right_after_a_kill_does_not_believe_in_the_dying(broker_name: str) -> None:
    import signal

    with shmq.Broker(broker_name) as broker:
        for _ in range(5):
            supervisor, sidecar = processes_of(broker)
            os.kill(supervisor, signal.SIGKILL)
            os.kill(sidecar, signal.SIGKILL)
            broker.start()
            stats = broker.stats()
            assert stats.supervisor_pid not in (None, supervisor)
            assert stats.sidecar_pid not in (None, sidecar)


def test_many_who_restart_a_supervisor_at_once_get_one(broker_name: str) -> None:
    import threading

    with shmq.Broker(broker_name) as broker:
        kill(processes_of(broker)[0])
        errors: list[BaseException] = []

        def start() -> None:
            try:
                broker.start()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=start) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        roles = [owner.role for owner in broker.stats().attached]
        assert sorted(roles) == ["client", "sidecar", "supervisor"]


@pytest.mark.parametrize("what", ["new", "adopted"])
def test_a_supervisor_killed_at_any_moment_of_its_start_leaves_a_usable_name(
    broker_name: str, what: str
) -> None:
    import random
    import subprocess
    import time

    from shmq.supervisor.spawn import command, environment

    seed = random.randrange(1 << 32)
    print("seed", seed)
    choice = random.Random(seed)
    if what == "adopted":
        with program("shmq.Broker(name).create_queue('orders').publish(b'kept')", broker_name) as p:
            p.finish()
        kill(processes_of(shmq.connect(broker_name))[0])
    with ended(broker_name):
        for _ in range(15):
            process = subprocess.Popen(
                [*command(broker_name, {"memory_limit": 1 << 26}), "--foreground"],
                stdout=subprocess.DEVNULL,
                env=environment(),
            )
            time.sleep(choice.uniform(0.02, 0.12))
            process.kill()
            process.wait()
        with shmq.Broker(broker_name) as broker:
            if what == "adopted":
                assert broker.get_queue("orders").depth() == 1
            round_trip(broker.create_queue("another"))


def test_a_starter_killed_before_it_attached_leaves_no_broker(broker_name: str) -> None:
    source = """
        from shmq.supervisor.spawn import start_supervisor
        started = start_supervisor(name, {"memory_limit": 1 << 26})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with program(source, broker_name) as starter:
        assert starter.process.wait(30) == -9
    wait_until(lambda: not exists(broker_name), "the broker to go")


def test_the_helpers_hold_no_terminal_and_no_directory(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        first = processes_of(broker)
        kill(first[1])
        wait_until(lambda: broker.stats().sidecar_pid not in (None, first[1]))
        for pid in (*processes_of(broker), first[0]):
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)]
            assert links == ["/dev/null"] * 3
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            everything = []
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):  # open for the moment only
                    everything.append(os.readlink(entry.path))
            assert len([link for link in everything if "shmq" in link]) <= 2
            assert len(everything) < 16
