"""Start a supervisor and wait until it serves, or learn why it does not.

The new process writes one line into a pipe: ``ok``, or ``error <exception> <text>``. Its stderr is
that same pipe until then, so that what it could not say in order arrives as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import shmq.errors as errors
from shmq.errors import BrokerNotRunning, ShmqError, explain

START_TIMEOUT_S = 30.0


def command(name: str, options: Mapping[str, object]) -> list[str]:
    """Return the command line of a supervisor."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    return [sys.executable, "-W", "ignore", "-m", "shmq.supervisor", name, *words]


def environment() -> dict[str, str]:
    """Return an environment in which the very same shmq is found, and the user's cwd is not."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    debug = os.environ.get("SHMQ_DEBUG")
    extra = {"SHMQ_DEBUG": os.path.abspath(debug)} if debug else {}
    return {**os.environ, **extra, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1",
            "SHMQ_NO_ACCEL": "1"}  # fmt: skip


class Started:
    """A supervisor that is ready, and expects its starter to attach.

    As a context manager: attach inside the block. When the block fails, or this process dies in
    it, a broker that was made for it and that nobody else uses ends again.
    """

    def __init__(self, hello: int) -> None:
        self._hello = hello

    def attached(self) -> None:
        """Tell it that its starter has attached, or does not mean to."""
        with contextlib.suppress(OSError):
            os.write(self._hello, b"!")
        self.give_up()

    def give_up(self) -> None:
        """Tell it that its starter will not come; so does the starter's death."""
        if self._hello >= 0:
            os.close(self._hello)
            self._hello = -1

    def __enter__(self) -> Started:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.attached()
        else:
            self.give_up()


def start_supervisor(
    name: str, options: Mapping[str, object], inherit: tuple[int, ...] = ()
) -> Started:
    """Start a supervisor for ``name`` in the background and wait until it is ready.

    Until the result is told `attached`, the broker does not end for want of users. ``inherit`` are
    descriptors that ``options`` name, for the supervisor to have as well.

    Raises what it reports: BrokerExists, OutOfSharedMemory, LayoutMismatch, …
    """
    reader, writer = os.pipe()
    heard, hello = os.pipe()
    started = Started(hello)
    try:
        process = subprocess.Popen(
            command(name, {**options, "ready_fd": writer, "hello_fd": heard}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writer,
            pass_fds=(writer, heard, *inherit),
            start_new_session=True,
            env=environment(),
        )
        os.close(writer)
        writer = -1
        said = _read_line(reader, time.monotonic() + START_TIMEOUT_S)
        process.wait()
        _interpret(name, said)
    except BaseException:
        started.give_up()
        raise
    finally:
        os.close(reader)
        os.close(heard)
        if writer >= 0:
            os.close(writer)
    return started


def _read_line(fd: int, deadline: float) -> str:
    said = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while b"\n" not in said or not said.startswith((b"ok", b"error ")):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            break
        some = os.read(fd, 65536)
        if not some:
            break
        said += some
    return said.decode(errors="replace")


def _interpret(name: str, said: str) -> None:
    first = said.partition("\n")[0]
    if first == "ok":
        return
    if first.startswith("error "):
        _, kind, text = first.split(" ", 2)
        exception = getattr(errors, kind, ShmqError)
        if not (isinstance(exception, type) and issubclass(exception, ShmqError)):
            exception = ShmqError
        raise exception(text.replace("\\n", "\n"))
    raise BrokerNotRunning(
        explain(
            f"supervisor of broker {name!r}",
            said.strip() or f"nothing said within {START_TIMEOUT_S:g} s",
            "that it starts",
            f"try `shmq up {name}` by hand",
        )
    )


def stop_process(pid: int, pidfd: int, timeout: float) -> bool:
    """Ask a process to end and wait for it; True when it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout) * 1000))
