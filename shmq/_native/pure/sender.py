"""SenderBase and QueueBase: publishing, and loans."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from shmq._native._shmq import ffi, lib
from shmq._native.structs import message_struct

CHUNK = lib.SHMQ_CHUNK


class SenderBase:
    """The part of Sender that is called for every message."""

    __slots__ = ("_client", "_ctx_pointer", "_one", "_qref", "_some")

    def __init__(
        self,
        client: object,
        address: int,
        qref: int,
        waits: bool,
        fans: bool = False,
        levels: int = 10,
    ) -> None:
        self._client: Any = client
        self._one: Any = lib.shmq_topic_publish if fans else lib.shmq_publish
        self._some: Any = lib.shmq_topic_publish_many if fans else lib.shmq_publish_many
        self._bind(address, qref)

    def _bind(self, address: int, qref: int) -> None:
        self._ctx_pointer = ffi.cast("shmq_ctx *", address)
        self._qref = qref

    @property
    def _ctx(self) -> int:
        return int(ffi.cast("uintptr_t", self._ctx_pointer))

    def publish(
        self,
        message: Any,
        *,
        timeout: Any = None,
        serializer: Any = None,
        **fields: Any,
    ) -> int:
        """Publish a message; return its id, a number unique in this broker.

        ``message`` is a bytes-like object or a Message; ``fields`` are those of Message and override
        the message's own. The payload is copied once, into shared memory. When this returns, every
        process sees the message, and it survives the death of this one.

        In a queue with a `dedup_window`, of all publishes with one `dedup_id` within the window one
        becomes a message; the others return that one's id. The window counts from the call.

        With ``serializer``, a name such as "json" or an object (see `shmq.serializers`), ``message``
        is any object that it takes; the header `content-type` says how to read it.

        Blocks only while the queue, or a topic's subscription, is full and its overflow policy is "block"
        (or "drop-oldest", and there is nothing to drop); ``timeout`` seconds at most (None: for ever, 0:
        not at all).

        Raises: QueueFull when the time is over, or at once with overflow="reject"; QueueClosed after
            shutdown(); MessageTooLarge; MessageExpired when its ttl, or the queue's, ends before it is
            due; OutOfSharedMemory, also for more ids than `dedup_capacity`; TypeError and ValueError
            for bad fields.
        """
        plain = timeout is None and serializer is None and not fields
        if plain and type(message) is bytes:
            sent = self._send(message, None, lib.SHMQ_DELAY_DEFAULT, 0, 0, None, None)
            if sent >= 0:
                return sent
        return self._publish_slow(message, timeout=timeout, serializer=serializer, **fields)

    def publish_many(self, messages: Iterable[Any], *, timeout: Any = None) -> int:
        """Publish many messages in order, in few crossings into C; return how many.

        Not a transaction: others see each one as soon as it is in. Blocks like `publish`;
        ``timeout`` is for all together, and QueueFull's text says how many went.
        """
        return self._publish_many_slow(messages, timeout=timeout)

    def _publish_slow(
        self, message: Any, *, timeout: Any = None, serializer: Any = None, **fields: Any
    ) -> int:
        raise NotImplementedError

    def _publish_many_slow(
        self, messages: Iterable[Any], _done: int = 0, *, timeout: Any = None
    ) -> int:
        raise NotImplementedError

    def _send(
        self,
        payload: Any,
        meta: bytes | None,
        ttl: int,
        delay: int,
        priority: int,
        key: bytes | None,
        dedup: bytes | None,
    ) -> int:
        """Publish without waiting; return the id, or a negative result."""
        m, keep = message_struct(payload, meta, ttl, delay, priority, key, dedup)
        rc = self._one(self._ctx_pointer, self._qref, m)
        del keep
        return rc if rc < 0 else int(m.id)

    def _send_many(self, items: list[bytes], start: int) -> int:
        """Publish items[start:] as far as it goes without waiting; how many, or why not the first."""
        sent = 0
        while start + sent < len(items):
            part = items[start + sent : start + sent + CHUNK]
            messages = ffi.new("shmq_message[]", len(part))
            keep = [ffi.from_buffer(item) for item in part]
            for m, data in zip(messages, keep, strict=True):
                m.data, m.size, m.ttl_ns = data, len(data), lib.SHMQ_DELAY_DEFAULT
            rc = self._some(self._ctx_pointer, self._qref, messages, len(part))
            if rc < 0:
                return sent or rc
            sent += rc
        return sent


class QueueBase(SenderBase):
    """The part of Queue that is called for every message."""

    __slots__ = ()

    def loan(
        self, nbytes: int, *, timeout: Any = None, **fields: Any
    ) -> AbstractContextManager[memoryview]:
        """Return a context manager whose value is a writable memoryview in shared memory.

        Leaving the block publishes what was written there, without a copy; an exception in it
        publishes nothing. Its contents are undefined at first. ``fields`` are those of Message.
        The memoryview is invalid afterwards, and no slice or array made of it may be left.

            with queue.loan(1_000_000) as buffer:
                numpy.frombuffer(buffer)[:] = samples

        Raises (at the end): like `publish`; BufferError when something still refers to the buffer.
        """
        return self._loan_slow(nbytes, timeout=timeout, **fields)

    def _loan_slow(self, nbytes: int, **fields: Any) -> AbstractContextManager[memoryview]:
        raise NotImplementedError
