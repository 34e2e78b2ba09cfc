"""What a worker process of a WorkerPool does: takes a message, has it handled, settles it.

A handler that is awaited (a coroutine function, or one that returns something to await) runs in an event
loop of the worker, up to ``concurrency`` of them at a time. Each delivery is settled when its own is
done. A worker whose handler turns out to be one only by what it returns goes over to the loop then.

    stopping    take nothing more, let what has begun finish: the get that waits is cancelled, which
                takes nothing, and so is nothing else
    ending      SystemExit by a second SIGTERM: what has begun is cancelled, its deliveries go back
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from shmq.consumer import Consumer
from shmq.delivery import Delivery, is_settled
from shmq.errors import StaleDelivery, explain
from shmq.queue import Queue
from shmq.workers.post import Post

__all__ = ["check_function", "check_handler", "serve"]

log = logging.getLogger("shmq.workers")


def _is(test: Callable[[Any], bool], function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return test(function) or test(getattr(type(function), "__call__", None))  # noqa: B004


def check_handler(handler: Any) -> None:
    """Raise TypeError for what cannot handle a message by being called."""
    _check_callable("handler", handler)
    for test in (inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        if _is(test, handler):
            raise TypeError(_no_generator(handler))


def check_function(what: str, function: Any) -> None:
    """Raise TypeError for what does nothing by being called."""
    _check_callable(what, function)
    for test in (
        inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction,
    ):  # fmt: skip
        if _is(test, function):
            raise TypeError(
                explain(
                    what,
                    f"{function!r}, of which a call runs nothing",
                    "a plain function",
                    "leave out async and yield; asyncio.run() in it runs a coroutine",
                )
            )


def _check_callable(what: str, function: Any) -> None:
    if not callable(function):
        raise TypeError(explain(what, f"{function!r}", "a function", "give one"))


def _no_generator(found: Any) -> str:
    return explain(
        "handler",
        f"{found!r}, a generator, of which a call runs nothing",
        "a function or an async def without yield",
        "publish what it yields to another queue, or iterate over it in a function",
    )


def serve(
    post: Post,
    queue: Queue,
    handler: Callable[[Delivery], object],
    prefetch: int,
    concurrency: int,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Work in a worker process."""
    if initializer is not None:
        initializer(*initargs)
    with queue.subscribe(f"pool-{post.place}", prefetch=prefetch) as consumer:
        post.ready(consumer)
        if concurrency > 1 or _is(inspect.iscoroutinefunction, handler):
            _Loop(post, consumer, handler, concurrency).run(None)
            return
        while (delivery := post.take()) is not None:
            error: str | None = None
            try:
                result = handler(delivery)
                if result is not None and inspect.isawaitable(result):
                    first = delivery, result
                    del delivery, result
                    _Loop(post, consumer, handler, concurrency).run(first)
                    return
                _check_result(result)
                del result
            except Exception:  # noqa: BLE001 - any failure of the handler is the message's
                error = traceback.format_exc()
            _settle(delivery, error)
            post.done()
            del delivery


def _check_result(result: object) -> None:
    if result is not None and (inspect.isgenerator(result) or inspect.isasyncgen(result)):
        raise TypeError(_no_generator(result))


def _settle(delivery: Delivery, error: str | None) -> None:
    try:
        if not is_settled(delivery):
            if error is None:
                delivery.ack()
            else:
                delivery.nack(reason=error)
    except StaleDelivery as stale:  # it took longer than ack_timeout: another has it now
        log.warning("%s", stale)


class _Loop:
    """A worker's event loop."""

    def __init__(
        self,
        post: Post,
        consumer: Consumer,
        handler: Callable[[Delivery], object],
        concurrency: int,
    ) -> None:
        self._post, self._consumer, self._handler = post, consumer, handler
        self._concurrency = concurrency
        self._tasks: set[asyncio.Task[None]] = set()
        self._me: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._ending = False

    def run(self, first: tuple[Delivery, Awaitable[object]] | None) -> None:
        """Work until it is time to go; ``first`` has begun already."""
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._main(first))
        finally:
            self._ending = True
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()

    async def _main(self, first: tuple[Delivery, Awaitable[object]] | None) -> None:
        self._me = asyncio.current_task()
        free = asyncio.Semaphore(self._concurrency)
        if first is not None:
            await free.acquire()
            self._post.hold(first[0])
            self._begin(free, *first)
            del first
        while True:
            if not await self._unless_stopping(free.acquire()):
                break
            delivery = await self._unless_stopping(self._post.atake())
            if delivery is None:
                break
            self._begin(free, delivery)
            del delivery
        while self._tasks:
            try:
                await asyncio.wait(self._tasks)
            except asyncio.CancelledError:
                if self._ending:
                    raise  # else it was meant for a wait that was over
        if self._failure is not None:
            raise self._failure

    async def _unless_stopping(self, waiting: Any) -> Any:
        """Return what is waited for, or None when the worker is asked to stop."""
        assert self._me is not None
        loop, stop = asyncio.get_running_loop(), self._me.cancel
        self._post.wake = lambda: loop.call_soon_threadsafe(stop)
        try:
            if self._post.stopping or self._failure is not None:
                waiting.close()
                return None
            return await waiting
        except asyncio.CancelledError:
            if self._ending:
                raise
            return None
        finally:
            self._post.wake = None

    def _begin(
        self, free: asyncio.Semaphore, delivery: Delivery, result: Awaitable[object] | None = None
    ) -> None:
        task = asyncio.get_running_loop().create_task(self._handle(delivery, result))
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            free.release()
            if not task.cancelled() and task.exception() is not None:  # it could not be settled
                self._failure = task.exception()
                if self._me is not None:
                    self._me.cancel()

        task.add_done_callback(over)

    async def _handle(self, delivery: Delivery, result: Any) -> None:
        error: str | None = None
        try:
            if result is None:
                result = self._handler(delivery)
            if result is not None and inspect.isawaitable(result):
                await result
            else:
                _check_result(result)
        except Exception:  # noqa: BLE001 - any failure of the handler is the message's
            error = traceback.format_exc()
        except asyncio.CancelledError:
            if self._ending:  # not settled: it goes back
                raise
            error = traceback.format_exc()  # it has cancelled itself
        _settle(delivery, error)
        self._post.done(delivery.id)
