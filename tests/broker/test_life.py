"""A broker's life: start, use by many, end."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable

import pytest
from kit import ended, exists, kill, processes_of, program, shm_path
from waiting import alive, wait_until

import shmq


def test_a_broker_has_a_living_supervisor_and_sidecar(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        supervisor, sidecar = processes_of(broker)
        assert alive(supervisor)
        assert alive(sidecar)
        assert len({supervisor, sidecar, os.getpid()}) == 3
        assert broker.name == broker_name
        assert broker.url == f"shm://{broker_name}"
        roles = sorted(owner.role for owner in broker.stats().attached)
        assert roles == ["client", "sidecar", "supervisor"]


def test_shutdown_takes_processes_and_memory_away(broker_name: str) -> None:
    broker = shmq.Broker(broker_name)
    pids = processes_of(broker)
    assert exists(broker_name)
    broker.shutdown()
    assert not exists(broker_name)
    wait_until(lambda: not any(map(alive, pids)), "the end of both processes")
    with pytest.raises(shmq.BrokerNotRunning, match=broker_name):
        shmq.connect(broker_name)
    broker.shutdown()  # again: nothing to do


def test_the_segment_is_of_this_user_alone(broker_name: str) -> None:
    mask = os.umask(0)
    try:
        with shmq.Broker(broker_name, shm="posix"):
            assert os.stat(shm_path(broker_name)).st_mode & 0o777 == 0o600
    finally:
        os.umask(mask)


def test_a_second_start_is_refused_and_disturbs_nothing(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish(b"kept")
        with pytest.raises(shmq.BrokerExists, match=f"shmq down {broker_name}"):
            shmq.Broker(broker_name)
        assert queue.depth() == 1
        assert processes_of(broker)


def test_of_many_starts_at_once_exactly_one_wins(broker_name: str) -> None:
    outcomes: list[object] = []

    def start() -> None:
        try:
            outcomes.append(shmq.Broker(broker_name))
        except shmq.BrokerExists as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, shmq.Broker)]
    assert len(outcomes) == 6
    assert len(winners) == 1
    winners[0].shutdown()


def test_a_name_can_be_used_again_right_after_shutdown(broker_name: str) -> None:
    for round_ in range(5):
        with shmq.Broker(broker_name) as broker:
            assert broker.list_queues() == []
            broker.create_queue(f"q{round_}")


def test_a_named_broker_lives_on_without_users(broker_name: str) -> None:
    with ended(broker_name):
        source = """
            broker = shmq.Broker(name)
            broker.create_queue("orders").publish(b"from the past")
        """
        with program(source, broker_name) as first:
            assert first.finish() == (0, "", "")
        broker = shmq.connect(broker_name)
        assert processes_of(broker)
        with broker.get_queue("orders").subscribe() as consumer:
            delivery = consumer.get(timeout=10)
            assert delivery.payload == b"from the past"
            delivery.ack()
        broker.shutdown()


def test_many_processes_use_one_broker(broker_name: str) -> None:
    source = """
        broker = shmq.connect(f"shm://{name}")
        broker.get_queue("orders").publish(b"x")
        broker.close()
    """
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        for _ in range(3):
            with program(source, broker_name) as other:
                assert other.finish() == (0, "", "")
        assert queue.depth() == 3
        wait_until(lambda: len(broker.stats().attached) == 3, "all but three have detached")


def test_closing_one_handle_leaves_the_others_of_this_process(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        broker.create_queue("orders")
        second = shmq.connect(broker_name)
        second.close()
        second.close()
        with pytest.raises(shmq.Detached, match="closed handle"):
            second.list_queues()
        assert broker.list_queues() == ["orders"]


# ---- shutdown is graceful -----------------------------------------------------------------------


def test_shutdown_ends_waiting_consumers_and_publishers(broker_name: str) -> None:
    source = """
        queue = shmq.connect(name).get_queue("orders")
        with queue.subscribe() as consumer:
            say("waiting")
            print(sum(1 for _ in consumer))
        try:
            queue.publish(b"too late")
        except (shmq.QueueClosed, shmq.BrokerNotRunning):  # how far the shutdown has come
            say("closed")
    """
    broker = shmq.Broker(broker_name)
    broker.create_queue("orders")
    with program(source, broker_name) as consumer:
        assert consumer.line() == "waiting"
        broker.shutdown()
        assert consumer.finish() == (0, "0\nclosed\n", "")


def test_shutdown_waits_for_deliveries_in_other_hands(broker_name: str) -> None:
    source = """
        queue = shmq.connect(name).get_queue("orders")
        with queue.subscribe() as consumer:
            delivery = consumer.get(timeout=20)
            say("got it")
            sys.stdin.readline()
            delivery.ack()
            say("acked")
    """
    broker = shmq.Broker(broker_name)
    queue = broker.create_queue("orders")
    queue.publish(b"work")
    with program(source, broker_name) as worker:
        assert worker.line() == "got it"
        ending = threading.Thread(target=broker.shutdown, kwargs={"timeout": None})
        ending.start()
        with pytest.raises(shmq.QueueClosed):
            while True:  # until intake has stopped
                queue.publish(b"more")
                wait_until(lambda: True)
        assert ending.is_alive()
        worker.tell()
        assert worker.line() == "acked"
        worker.finish()
        ending.join(30)
        assert not ending.is_alive()


def test_shutdown_with_timeout_zero_waits_for_nobody(broker_name: str) -> None:
    source = """
        with shmq.connect(name).get_queue("orders").subscribe() as consumer:
            delivery = consumer.get(timeout=20)
            say("got it")
            sys.stdin.readline()
    """
    broker = shmq.Broker(broker_name)
    broker.create_queue("orders").publish(b"work")
    with program(source, broker_name) as worker:
        assert worker.line() == "got it"
        broker.shutdown(timeout=0)
        assert not exists(broker_name)


def test_sigterm_to_the_supervisor_ends_the_broker(broker_name: str) -> None:
    broker = shmq.Broker(broker_name)
    pids = processes_of(broker)
    os.kill(pids[0], signal.SIGTERM)
    wait_until(lambda: not any(map(alive, pids)), "the end of both processes")
    assert not exists(broker_name)
    broker.shutdown()


def test_a_forked_child_that_leaves_the_block_ends_nothing(broker_name: str) -> None:
    source = """
        with shmq.Broker(name) as broker:
            queue = broker.create_queue("orders")
            pid = os.fork()
            if pid == 0:
                queue.publish(b"from the child")
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            with queue.subscribe() as consumer:
                print(consumer.get(timeout=10).payload)
    """
    with program(source, broker_name) as parent:
        assert parent.finish() == (0, "b'from the child'\n", "")


# ---- anonymous brokers --------------------------------------------------------------------------


def test_anonymous_brokers_have_names_of_their_own() -> None:
    with shmq.Broker() as one, shmq.Broker() as two:
        assert one.name != two.name
        assert shmq.connect(one.url).name == one.name
        assert one.stats().anonymous


USER = """
    broker = shmq.Broker() if name == "new" else shmq.connect(name)
    stats = broker.stats()
    say(broker.name)
    say(stats.supervisor_pid)
    say(stats.sidecar_pid)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_an_anonymous_broker_ends_with_its_last_user(how: str) -> None:
    with program(USER, "new") as first:
        name, pids = first.line(), (int(first.line()), int(first.line()))
        with program(USER, name) as second:
            assert second.line() == name
            first.kill() if how == "kill" else first.tell()
            wait_until(lambda: not alive(first.pid))
            with program(USER, name) as third:  # it is still there for who is still there
                assert third.line() == name
                third.tell()
                third.finish()
            assert all(map(alive, pids))
            second.kill() if how == "kill" else second.tell()
            wait_until(lambda: not exists(name), "the segment to be taken away")
            wait_until(lambda: not any(map(alive, pids)), "the end of both processes")


def test_an_anonymous_broker_without_processes_ends_with_its_last_user() -> None:
    with program(USER, "new") as user:
        name, supervisor, sidecar = user.line(), int(user.line()), int(user.line())
        kill(supervisor)
        kill(sidecar)
        user.tell()
        assert user.finish()[0] == 0
        assert not exists(name)


def test_an_orphaned_sidecar_takes_an_anonymous_broker_away() -> None:
    with program(USER, "new") as user:
        name, supervisor, sidecar = user.line(), int(user.line()), int(user.line())
        kill(supervisor)
        user.kill()
        wait_until(lambda: not exists(name), "the segment to be taken away")
        wait_until(lambda: not alive(sidecar))


def test_a_dropped_anonymous_broker_ends() -> None:
    broker = shmq.Broker()
    name, pids = broker.name, processes_of(broker)
    del broker
    wait_until(lambda: not exists(name), "the segment to be taken away")
    wait_until(lambda: not any(map(alive, pids)))


# ---- handles ------------------------------------------------------------------------------------


def test_handles_pickle_as_name_and_connect_again(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        broker.create_queue("orders")
        again = pickle.loads(pickle.dumps(shmq.connect(broker_name)))
        assert again.list_queues() == ["orders"]
        again.close()
        assert broker.list_queues() == ["orders"]


def test_a_handle_works_in_a_forked_child_and_stays_usable_in_the_parent(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                queue.publish(b"child")
                broker.create_queue("made by the child")
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        queue.publish(b"parent")
        assert queue.depth() == 2
        assert broker.list_queues() == ["made by the child", "orders"]


def test_a_new_broker_of_the_same_name_is_not_mistaken_for_the_old_one(broker_name: str) -> None:
    old = shmq.Broker(broker_name)
    old.create_queue("old")
    handle = shmq.connect(broker_name)
    old.shutdown()
    with shmq.Broker(broker_name) as new:
        assert new.list_queues() == []
        assert shmq.connect(broker_name).list_queues() == []
    handle.close()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("amqp://shop", "scheme 'amqp'"),
        ("shm://", "an empty text"),
        ("", "an empty text"),
        ("a/b", "'/'"),
        ("a\0b", "NUL"),
        ("n" * 300, "300 bytes"),
        ("ü" * 101, "202 bytes"),
    ],
)
def test_urls_that_cannot_be_are_refused_with_a_reason(url: str, text: str) -> None:
    with pytest.raises(shmq.InvalidOption, match=text):
        shmq.connect(url)


@pytest.mark.parametrize("name", ["a/b", "a\0b", "", "n" * 300, 7])
def test_broker_names_that_cannot_be_are_refused(name: object) -> None:
    with pytest.raises(shmq.InvalidOption, match="broker name"):
        shmq.Broker(name)  # type: ignore[arg-type]


def test_a_broker_name_may_be_any_text_of_200_bytes(broker_names: Callable[[], str]) -> None:
    start = broker_names() + " $(x) 'ü'\n"
    name = start + "n" * (200 - len(start.encode()))
    with shmq.Broker(name) as broker:
        assert shmq.connect(broker.url).name == name


def test_connecting_to_nothing_says_how_to_start_it(broker_name: str) -> None:
    with pytest.raises(shmq.BrokerNotRunning, match=f"shmq up {broker_name}"):
        shmq.connect(broker_name)
