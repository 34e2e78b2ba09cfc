"""Handles that a former version has pickled: into messages, files, arguments of a job that waits."""

from __future__ import annotations

import pickle

from kit import pickled_text

import shmq


def called(module: str, name: str, *args: str) -> bytes:
    """Return the pickle of what ``module.name(*args)`` makes, from the first version on."""
    stop = {1: b"\x85", 2: b"\x86"}[len(args)]
    return (
        f"\x80\x02c{module}\n{name}\n".encode("latin-1")
        + b"".join(map(pickled_text, args))
        + stop
        + b"R."
    )


def test_a_broker_a_queue_and_a_topic_open(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue, topic = broker.create_queue("jobs"), broker.create_topic("news")
        billing = topic.subscribe("billing")
        there = pickle.loads(called("shmq.broker", "connect", f"shm://{broker_name}"))
        assert there.list_queues() == ["jobs"]
        there.close()
        queue.publish(b"one")
        again = pickle.loads(called("shmq.queue", "_reopen", broker_name, "jobs"))
        assert again.subscribe().get(timeout=10).payload == b"one"
        same = pickle.loads(called("shmq.topic", "_reopen", broker_name, "news"))
        same.publish(b"two")
        assert billing.get(timeout=10).payload == b"two"
