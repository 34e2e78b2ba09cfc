"""What the tests have called in workers; importable by spawned ones."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from waiting import wait_until

import shmq


def square(x: int) -> int:
    return x * x


def add(*args: Any, **kwargs: Any) -> Any:
    return sum(args) + sum(kwargs.values())


def pid_of(_: object = None) -> int:
    return os.getpid()


def fail(text: str) -> None:
    raise KeyError(text)


def until_exists(path: str, value: Any = None) -> Any:
    """Return when there is a file of that name."""
    wait_until(lambda: os.path.exists(path), path)
    return value


def begin_and_wait(folder: str, name: str) -> str:
    """Say that this call has begun; return when the test says go."""
    Path(folder, f"begun-{name}").touch()
    until_exists(str(Path(folder, "go")))
    return name


def kill_me_once(path: str, value: Any) -> Any:
    """Kill this worker the first time."""
    if not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def append(path: str, value: Any) -> None:
    with open(path, "a") as file:
        file.write(f"{value} ")


def die_noting(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def kill_me(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_me_named(*_: object, three: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> None:
    os._exit(code)


def doubled(array: Any) -> Any:
    assert array.flags.owndata or array.flags.writeable
    array *= 2
    return array


def ones(n: int) -> Any:
    import numpy

    return numpy.ones(n, "u1")


async def coroutine(_: object = None) -> int:
    return 1


def generator(_: object = None) -> Any:
    yield 1


async def async_generator(_: object = None) -> Any:
    yield 1


def lambda_of(_: object) -> Any:
    return lambda: 0


def size_of(data: Any) -> int:
    return len(data)


class Picky(Exception):
    """Cannot be unpickled: __init__ wants what pickle does not give."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def be_picky() -> None:
    raise Picky(1, 2)


class Counter:
    """An object with state, to be sent with its method."""

    def __init__(self) -> None:
        self.n = 0

    def count(self, _: object = None) -> int:
        self.n += 1
        return self.n

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def new_counter(_: object) -> Counter:
    return Counter()


settings: dict[str, Any] = {}


def set_up(key: str, value: Any) -> None:
    settings[key] = value


def look_up(key: str) -> Any:
    return settings[key]


def refuse() -> None:
    raise RuntimeError("no such database")


def note_and_sleep(folder: str, i: int, seconds: float) -> int:
    """Work for a while; say that it was done."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    with open(Path(folder, f"{i}"), "a") as file:
        file.write("x")
    return i


# ---- handlers of pools ----------------------------------------------------------------------------


def to(queue: shmq.Queue) -> Any:
    """What handlers get as their second argument, by initargs: spawned ones share no globals."""
    return {"initializer": set_up, "initargs": ("out", queue)}


def handle(delivery: shmq.Delivery) -> None:
    """What the payload says."""
    out: shmq.Queue = settings["out"]
    word, _, rest = delivery.payload.decode().partition(" ")
    if word == "fail":
        raise ValueError(rest)
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "leave":
        os._exit(int(rest))
    if word == "ack":
        delivery.ack()
    if word == "reject":
        delivery.reject("not mine")
        return
    if word == "wait":
        begin_and_wait(*rest.split())
    out.publish(delivery.payload, headers={"pid": os.getpid()})


async def ahandle(delivery: shmq.Delivery) -> None:
    """The same, without holding up the others of its worker."""
    word, _, rest = delivery.payload.decode().partition(" ")
    if word == "wait":
        folder, name = rest.split()
        Path(folder, f"begun-{name}").touch()  # noqa: ASYNC240 - a moment
        try:
            while not Path(folder, "go").exists():  # noqa: ASYNC110, ASYNC240 - the test is elsewhere
                await asyncio.sleep(0.002)
        finally:
            Path(folder, f"over-{name}").touch()  # noqa: ASYNC240
        settings["out"].publish(delivery.payload)
        return
    await asyncio.sleep(0)
    if word == "cancel":
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(0)
    handle(delivery)


async def ahandle_for(out: shmq.Queue, delivery: shmq.Delivery) -> None:
    settings["out"] = out
    await ahandle(delivery)


class AsyncHandler:
    """An object that is called as a coroutine function is, and has a method that is one."""

    def __init__(self, out: shmq.Queue) -> None:
        self.out = out

    async def __call__(self, delivery: shmq.Delivery) -> None:
        await ahandle_for(self.out, delivery)

    async def method(self, delivery: shmq.Delivery) -> None:
        await ahandle_for(self.out, delivery)


def returns_coroutine(delivery: shmq.Delivery) -> Any:
    return ahandle(delivery)


def returns_generator(delivery: shmq.Delivery) -> Any:
    return generator(delivery)


async def ainitializer(*_: object) -> None:
    pass
