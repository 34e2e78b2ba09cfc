"""Start a supervisor and wait until it serves, or learn why it does not.

The new process writes one line into a pipe: ``ok``, or ``error <exception> <text>``. Its stderr is
that same pipe until then, so that what it could not say in order arrives as well.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Mapping

import shmq.errors as errors
from shmq._descriptors import SCARCE, pipe, scarce
from shmq.errors import BrokerNotRunning, ShmqError, explain

START_TIMEOUT_S = 30.0
REAP_S = 5.0


def command(name: str, options: Mapping[str, object]) -> list[str]:
    """Return the command line of a supervisor."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    start = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start.py")
    return [interpreter(), "-W", "ignore", start, "shmq.supervisor", name, *words]


def interpreter() -> str:
    """Return the Python that helpers run in: the one of this process, if there is one.

    In a program with Python inside, `sys.executable` is that program, or nothing. Where
    `multiprocessing.set_executable` has said what to run instead, that is what runs.

    Raises: BrokerNotRunning when no Python can be found.
    """
    spawn = sys.modules.get("multiprocessing.spawn")
    told = getattr(spawn, "_python_exe", None)
    if told and os.fsdecode(told) != sys.executable:
        return os.fsdecode(told)
    found = _python(sys.executable) or _python(getattr(sys, "_base_executable", None))
    for prefix in (sys.exec_prefix, sys.base_exec_prefix):
        for name in (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3", "python"):
            found = found or _python(os.path.join(prefix, "bin", name))
    if found:
        return found
    raise BrokerNotRunning(
        explain(
            "supervisor",
            f"no Python to run it with: sys.executable is {sys.executable!r}, "
            f"and {sys.exec_prefix!r} has none",
            f"a Python {sys.version_info[0]}.{sys.version_info[1]}",
            "say where it is: multiprocessing.set_executable(path); or start the broker by "
            "`shmq up NAME` and connect to it",
        )
    )


def _python(path: str | None) -> str | None:
    """Return ``path`` if it leads to a program that is called Python."""
    try:
        if not path or not stat.S_ISREG(os.stat(path).st_mode):
            return None
    except OSError:
        return None
    names = (os.path.basename(path), os.path.basename(os.path.realpath(path)))
    return path if any("python" in name or "pypy" in name for name in names) else None


def environment() -> dict[str, str]:
    """Return an environment in which nothing is imported from the user's cwd; see start.py.

    That begins before any program does, with sitecustomize: an empty entry of PYTHONPATH means the
    cwd as well.
    """
    paths = [
        path
        for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if path and os.path.realpath(path) != os.path.realpath("")
    ]
    # Another Python than this process's, or one that is not told of a virtual environment, would
    # not find what shmq itself imports.
    for needed in ("_cffi_backend", "posix_ipc", "sysv_ipc"):
        spec = importlib.util.find_spec(needed)
        folder = os.path.dirname(os.path.abspath(spec.origin)) if spec and spec.origin else ""
        if folder and folder not in paths and interpreter() != sys.executable:
            paths.append(folder)
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
    what = f"supervisor of broker {name!r}"
    fds: list[int] = []  # closed at the end of the start, whatever that is
    started = Started(-1)
    process: subprocess.Popen[bytes] | None = None
    try:
        with scarce(what):
            reader, writer = pipe()
            fds += reader, writer
            heard, hello = pipe()
            fds.append(heard)
            started = Started(hello)
            words = command(name, {**options, "ready_fd": writer, "hello_fd": heard})
            process = _run(what, words, writer, (writer, heard, *inherit))
        fds.remove(writer)
        os.close(writer)
        said = _read_line(reader, time.monotonic() + START_TIMEOUT_S)
        _reap(process)
        _interpret(name, said)
    except BaseException:
        started.give_up()
        if (
            process is not None
        ):  # interrupted: the supervisor hears that nobody comes, if there is one
            process.kill()
            process.wait()
        raise
    finally:
        for fd in fds:
            os.close(fd)
    return started


def _run(
    what: str, words: list[str], stderr: int, inherit: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=inherit,
            start_new_session=True,
            env=environment(),
        )
    except OSError as error:
        if error.errno in SCARCE:
            raise
        raise BrokerNotRunning(
            explain(
                what,
                f"{words[0]!r} cannot be run: {error.strerror}",
                f"a Python {sys.version_info[0]}.{sys.version_info[1]}",
                "say where it is: multiprocessing.set_executable(path)",
            )
        ) from error


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the first process, which ends when it has made the supervisor; it may be stuck."""
    try:
        process.wait(REAP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
