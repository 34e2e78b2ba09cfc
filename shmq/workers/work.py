"""What a worker process of an Executor does: takes a call, makes it, sends the result, acks.

In this order: a worker killed before its ack leaves the call in the queue, and another one makes it
again; a second result for the same call finds nobody who waits for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from shmq.delivery import EAGER
from shmq.errors import QueueClosed, ShmqError, StaleDelivery
from shmq.queue import Queue
from shmq.serializers import Encoded
from shmq.workers import wire
from shmq.workers.post import CALL, Orphaned, Post

__all__ = ["work"]

AHEAD = 32  # calls read ahead in one crossing; a worker that waits idle claims them


def work(
    post: Post,
    calls: Queue,
    results: Queue,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    limit: int | None,
    attempts: int,
) -> None:
    """Work until the queue of calls is shut down, ``limit`` calls are done, or the owner is dead.

    A call is made in no more than ``attempts`` attempts.
    """
    if initializer is not None:
        try:
            initializer(*initargs)
        except Orphaned:
            raise
        except BaseException as error:  # noqa: BLE001 - the owner decides
            results.publish(wire.error(0, error, wire.NOT_READY))
            return
    ahead = AHEAD if limit is None else min(AHEAD, limit)
    with calls.subscribe(f"worker-{post.place}", prefetch=ahead) as consumer:
        post.ready(consumer)
        unpack = wire.TRAILER.unpack_from
        take, done, slot, call = post.take, post.done, post.slot, CALL
        while (delivery := take()) is not None:
            data = delivery.payload if delivery.size <= EAGER else delivery.view
            number, _, _, _, before = unpack(data, len(data) - wire.SIZE)
            if before and before + delivery.attempt > attempts:  # each of them the end of a worker
                del data
                with contextlib.suppress(StaleDelivery):
                    delivery.reject()
                continue
            slot[call] = number
            answer: bytes | Encoded
            try:
                function, args, kwargs = wire.call_in(data)
                answer = wire.result(number, function(*args, **kwargs))
            except Orphaned:
                raise
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                answer = wire.error(number, error)
            data = function = args = kwargs = None  # type: ignore[assignment]
            try:
                _send(results, number, answer)
            except QueueClosed:  # the owner is gone
                return
            del answer
            with contextlib.suppress(StaleDelivery):
                delivery.ack()
            del delivery
            if done() == limit:
                return


def _send(results: Queue, number: int, answer: bytes | Encoded) -> None:
    try:
        if isinstance(answer, Encoded):
            with results.loan(answer.size) as buffer:
                answer.write(buffer)
        else:
            results.publish(answer)
    except QueueClosed:
        raise
    except ShmqError as error:  # too large, no memory: the caller gets this instead
        results.publish(wire.error(number, error))
