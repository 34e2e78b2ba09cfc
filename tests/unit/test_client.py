"""One attachment per process and broker: cached, counted, renewed after a fork."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import weakref
from collections.abc import Iterator

import pytest
from rig import in_child

from shmq._client import Client
from shmq._native import ffi, lib
from shmq._segment import create_segment, owners_alive
from shmq.errors import Detached, OutOfSharedMemory, QueueFull, ShmqError, StaleDelivery


@pytest.fixture
def name(broker_name: str) -> Iterator[str]:
    config = ffi.new("shmq_config *")
    config.memory_limit = 64 << 20
    config.max_message = 1 << 20
    segment, _ = create_segment(broker_name, "posix", config)
    yield broker_name
    segment.unlink()
    segment.close()


def attached(client: Client) -> list[int]:
    return [owner.pid for owner in owners_alive(client.ctx)]


def test_one_client_serves_all_who_connect(name: str) -> None:
    one, two = Client.connect(name), Client.connect(name)
    assert one is two
    assert attached(one) == [os.getpid()]
    one.close()
    assert (two.closed, attached(two)) == (False, [os.getpid()])
    two.close()
    assert (two.closed, attached(two)) == (True, [])


def test_after_the_last_close_a_new_client_attaches(name: str) -> None:
    one = Client.connect(name)
    one.close()
    two = Client.connect(name)
    assert two is not one
    two.close()


def test_a_client_that_nobody_refers_to_detaches(name: str) -> None:
    watcher = Client.connect(name)
    watcher.close()
    client = weakref.ref(Client.connect(name))
    gc.collect()
    assert client() is None
    assert attached(watcher) == []


def test_threads_get_the_same_client(name: str) -> None:
    found: list[Client] = []
    threads = [
        threading.Thread(target=lambda: found.append(Client.connect(name))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert attached(found[0]) == [os.getpid()]
    for client in found:
        client.close()


def test_calls_in_a_forked_child_attach_anew(name: str) -> None:
    client = Client.connect(name)
    before = (client.generation, client.address)

    def child() -> None:
        assert lib.shmq_attached(client.ctx) == lib.SHMQ_E_FORKED
        info = ffi.new("shmq_segment_info *")
        assert client.call(lib.shmq_segment_snapshot, info) == lib.SHMQ_OK
        assert client.generation == before[0] + 1
        assert client.address != before[1]
        assert os.getpid() in attached(client)
        generation = client.generation
        client.reattach()  # again: nothing to do
        assert client.generation == generation
        assert Client.connect(name) is client

    assert in_child(child) == 0
    assert (client.generation, client.address) == before
    assert attached(client) == [os.getpid()]
    client.close()


def test_connecting_in_a_forked_child_renews_the_inherited_client(name: str) -> None:
    client = Client.connect(name)

    def child() -> None:
        assert Client.connect(name) is client
        assert os.getpid() in attached(client)

    assert in_child(child) == 0
    client.close()


def test_the_end_of_a_child_does_not_detach_the_parent(name: str) -> None:
    client = Client.connect(name)

    def child() -> None:
        client.detach()

    assert in_child(child) == 0
    assert attached(client) == [os.getpid()]
    client.close()


def test_a_closed_client_says_so(name: str) -> None:
    client = Client.connect(name)
    client.close()
    with pytest.raises(Detached, match="connect again"):
        client.reattach()
    with pytest.raises(Detached):
        client.check(client.call(lib.shmq_reap, 0), "a call")


def test_clients_pickle_as_the_name(name: str) -> None:
    client = Client.connect(name)
    assert pickle.loads(pickle.dumps(client)) is client
    client.close()
    client.close()


def test_results_become_exceptions_with_facts(name: str) -> None:
    client = Client.connect(name)
    assert client.check(5, "anything") == 5
    assert client.check(0, "anything") == 0
    for rc, kind in (
        (lib.SHMQ_FULL, QueueFull),
        (lib.SHMQ_STALE, StaleDelivery),
        (lib.SHMQ_E_NOMEM, OutOfSharedMemory),
        (-99, ShmqError),
    ):
        with pytest.raises(kind, match=r"queue 'a': found .*\(depth 7\), expected .*; "):
            client.check(rc, "queue 'a'", depth=7)
    client.close()


def test_a_role_is_visible_in_the_owner_table(name: str) -> None:
    client = Client.connect(name, lib.SHMQ_OBSERVER)
    assert [owner.role for owner in owners_alive(client.ctx)] == ["observer"]
    client.close()
