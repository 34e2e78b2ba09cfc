"""Sender: what a queue and a topic have in common: publishing into it.

The parts called for every message, `publish` of bytes and `publish_many` of lists of bytes, are in
`SenderBase` (native/accel/queue.c or shmq/_native/pure); what they do not finish at once, because there
is no room, the message has headers, or this process was forked, comes to the `_slow` methods.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

from shmq._aio import SPACE, Turn, breathe
from shmq._client import ADAPTIVE, Client
from shmq._native import SenderBase, ffi, lib
from shmq._values import NS
from shmq.errors import MessageExpired, QueueFull, explain
from shmq.message import Message, bytes_of, deadline_of, message_of
from shmq.serializers import CONTENT_TYPE, Encoded, Serializer, find

if TYPE_CHECKING:
    from typing import overload

    from typing_extensions import Buffer, Unpack

    from shmq.keywords import MessageKeywords, Seconds

__all__ = ["Sender", "bind_again", "encode_for", "levels_of", "send_some", "wait_for_room"]

CHUNK = 256


class Sender(SenderBase):
    """A place to publish into: the publishing half of `Queue` and of `Topic`."""

    __slots__ = {  # noqa: RUF023 - what users see comes first
        "name": "Its name.",
        "_overflow": None,
        "_priorities": None,
        "_ttl_ns": None,
        "__weakref__": None,
    }

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def publish(
            self,
            message: Buffer | Message,
            *,
            timeout: Seconds | None = None,
            **fields: Unpack[MessageKeywords],
        ) -> int: ...
        @overload
        def publish(
            self,
            message: Any,
            *,
            timeout: Seconds | None = None,
            serializer: str | Serializer,
            **fields: Unpack[MessageKeywords],
        ) -> int: ...
        def publish(self, message: Any, **fields: Any) -> int: ...  # noqa: D102

        def publish_many(  # noqa: D102
            self, messages: Iterable[Buffer | Message], *, timeout: Seconds | None = None
        ) -> int: ...

    def __init__(
        self,
        client: Client,
        name: str,
        qref: int,
        *,
        overflow: int = lib.SHMQ_BLOCK,
        priorities: int = lib.SHMQ_LEVELS,
        ttl_ns: int = 0,
        fans: bool = False,
    ) -> None:
        """``fans``: it goes to all subscriptions, each of which has a policy of its own."""
        self.name = name
        self._overflow = overflow
        self._priorities = priorities
        self._ttl_ns = ttl_ns
        waits = overflow == lib.SHMQ_BLOCK and not fans
        super().__init__(client, client.address, qref, waits, fans, self._priorities)

    def _publish_slow(
        self,
        message: Any,
        *,
        timeout: float | str | None = None,
        serializer: str | Serializer | None = None,
        **fields: Any,
    ) -> int:
        """What `publish` is, where the accelerator leaves it."""
        if serializer is not None:
            message = self._serialized(message, serializer, fields)
            if isinstance(message, Encoded):
                return self._publish_encoded(message, timeout, fields)
        deadline = deadline_of(timeout)
        m = message_of(message, fields)
        args = self._encoded(m)
        last = False
        while True:
            rc = self._send(*args)
            if rc >= 0:
                return rc
            last = self._wait_for_room(rc, deadline, last)

    def _publish_encoded(
        self, encoded: Encoded, timeout: float | str | None, fields: dict[str, Any]
    ) -> int:
        return self._publish_slow(encoded.to_bytes(), timeout=timeout, **fields)

    def _serialized(self, obj: Any, serializer: str | Serializer, fields: dict[str, Any]) -> Any:
        codec = find(serializer)
        encoded = codec.encode(obj)
        fields["headers"] = {CONTENT_TYPE: codec.content_type, **(fields.get("headers") or {})}
        return encoded

    def _encoded(
        self, m: Message
    ) -> tuple[Any, bytes | None, int, int, int, bytes | None, bytes | None]:
        if m.priority >= self._priorities:
            raise ValueError(
                explain(
                    "priority",
                    m.priority,
                    f"less than {self._priorities}, the levels of {self._what()}",
                    "create the queue with more priorities",
                )
            )
        delay_ns, ttl_ns = m.delay_ns, m.ttl_ns
        if delay_ns:
            self._refuse_stillborn(delay_ns, ttl_ns)
        payload = m.payload
        if type(payload) is not bytes and not memoryview(payload).c_contiguous:
            payload = bytes(payload)
        key, dedup = bytes_of(m.key), bytes_of(m.dedup_id)
        return payload, m.encoded_headers(), ttl_ns, delay_ns, m.priority, key, dedup

    def _refuse_stillborn(self, delay_ns: int, own_ttl_ns: int) -> None:
        default = own_ttl_ns == lib.SHMQ_DELAY_DEFAULT
        ttl_ns = self._ttl_ns if default else own_ttl_ns
        if not 0 < ttl_ns <= delay_ns:
            return
        raise MessageExpired(
            explain(
                f"message for {self._what()}",
                f"a ttl of {ttl_ns / NS:g} s{', the default here,' if default else ''} "
                f"that ends before it is due in {delay_ns / NS:g} s",
                "a ttl longer than the delay",
                "give it a ttl= (math.inf: for ever), or a shorter delay",
            )
        )

    def _what(self) -> str:
        raise NotImplementedError

    def _publish_many_slow(
        self,
        messages: Iterable[Any],
        _done: int = 0,
        *,
        timeout: float | str | None = None,
    ) -> int:
        """What `publish_many` is, where the accelerator leaves it."""
        deadline = deadline_of(timeout)
        sending, last, before = self._sending(messages, _done), False, -1
        try:
            while True:
                rc, done = next(sending)
                last = self._wait_for_room(rc, deadline, last and done == before, done)
                before = done
        except StopIteration as end:
            return int(end.value)

    def _sending(self, messages: Iterable[Any], done: int) -> Generator[tuple[int, int], None, int]:
        """Publish ``messages``, as far as there is room; yield why it does not go on, and how many went.

        Returns how many there were. If the iterable fails, or a message, what came before it goes all the same.
        """
        waiting: list[bytes] = []
        try:
            for message in messages:
                if type(message) is bytes:
                    waiting.append(message)
                    if len(waiting) >= CHUNK:
                        done = yield from self._send_all(waiting, done)
                    continue
                done = yield from self._send_all(waiting, done)
                args = self._encoded(message_of(message, {}))
                while (rc := self._send(*args)) < 0:
                    yield rc, done
                done += 1
        except Exception:
            yield from self._send_all(waiting, done)
            raise
        return (yield from self._send_all(waiting, done))

    def _send_all(self, items: list[bytes], done: int) -> Generator[tuple[int, int], None, int]:
        sent = 0
        while sent < len(items):
            rc = self._send_many(items, sent)
            if rc > 0:
                sent += rc
            else:
                yield rc, done + sent
        items.clear()
        return done + sent

    def _wait_for_room(self, rc: int, deadline: int, last: bool, done: int | None = None) -> bool:
        """Return for another attempt (whether it is the last one), or raise what ``rc`` stands for."""
        if rc == lib.SHMQ_E_FORKED:
            self._reattach()
            return last
        if rc != lib.SHMQ_FULL:
            self._client.check(rc, self._what())
            return last
        if last or deadline == 1 or self._overflow == lib.SHMQ_REJECT:
            went = "" if done is None else f" after {done} messages were published"
            raise QueueFull(self._full(went))
        full, until = self._full_one(deadline)
        if full > 0:
            lib.shmq_wait_space(ffi.cast("shmq_ctx *", self._ctx), full, until, ADAPTIVE)
        return bool(deadline) and lib.shmq_now() >= deadline

    def _full(self, went: str) -> str:
        """Return what QueueFull says; ``went``: how many were published before."""
        raise NotImplementedError

    async def apublish(
        self,
        message: Any,
        *,
        timeout: float | str | None = None,
        serializer: str | Serializer | None = None,
        **fields: Any,
    ) -> int:
        """Like `publish`, without blocking the event loop. Cancelling it publishes nothing."""
        if serializer is not None:
            message = self._serialized(message, serializer, fields)
            if isinstance(message, Encoded):  # a loan would have to wait for room by blocking
                message = message.to_bytes()
        deadline = deadline_of(timeout)
        args = self._encoded(message_of(message, fields))
        last = False
        with Turn() as turn:
            while (rc := self._send(*args)) < 0:
                last = await self._wait(turn, rc, deadline, last)
            return rc

    async def apublish_many(
        self, messages: Iterable[Any], *, timeout: float | str | None = None
    ) -> int:
        """Like `publish_many`, without blocking the event loop. Cancelled, it has published some, in their order."""
        deadline = deadline_of(timeout)
        sending, last, before = self._sending(messages, 0), False, -1
        with Turn() as turn:
            try:
                while True:
                    rc, done = next(sending)
                    last = await self._wait(turn, rc, deadline, last and done == before, done)
                    before = done
            except StopIteration as end:
                return int(end.value)

    async def _wait(
        self, turn: Turn, rc: int, deadline: int, last: bool, done: int | None = None
    ) -> bool:
        """`_wait_for_room`, in an event loop."""
        ends = last or deadline == 1 or self._overflow == lib.SHMQ_REJECT
        if rc != lib.SHMQ_FULL or ends:
            return self._wait_for_room(rc, deadline, last, done)
        full, until = self._full_one(deadline)
        if full > 0:
            await turn.wait(self._client, self._ctx, full, SPACE, until)
        else:
            await breathe()
        return bool(deadline) and lib.shmq_now() >= deadline

    def _full_one(self, deadline: int) -> tuple[int, int]:
        """Return the record that had no room (0 = none any more), and until when to wait for it at most."""
        return self._qref, deadline

    def _reattach(self) -> None:
        self._client.reattach()
        self._bind(self._client.address, self._qref)


# ---- for the rest of the package ----------------------------------------------------------------


def levels_of(target: Sender) -> int:
    """Return how many levels of priority ``target`` has."""
    return target._priorities


def encode_for(
    target: Sender, m: Message
) -> tuple[Any, bytes | None, int, int, int, bytes | None, bytes | None]:
    """Return payload, headers, ttl, delay, level, key and dedup id of ``m`` as the core wants them.

    Raises what `publish` raises for a message that ``target`` cannot take.
    """
    return target._encoded(m)


def send_some(target: Sender, payloads: list[bytes]) -> int:
    """Publish the first of ``payloads``; return how many there was room for, or a result below 0."""
    return target._send_many(payloads, 0)


def wait_for_room(target: Sender, rc: int, deadline: int, last: bool) -> bool:
    """Return for another attempt (whether it is the last one), or raise what ``rc`` stands for."""
    return target._wait_for_room(rc, deadline, last)


def bind_again(target: Sender) -> None:
    """Attach again, after a fork."""
    target._reattach()
