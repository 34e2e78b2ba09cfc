"""The supervisor's life.

    start   claim the segment: make it, or adopt one whose supervisor is dead
    serve   on a death: declare, recover, restart the sidecar if it was the sidecar
            once a second: processes that have exec'ed, records of deleted queues
    end     on SIGTERM (queues are closed, deliveries in hand get a moment), on the closing flag
            (whoever set it has done that), or when the last client of an anonymous broker is gone

Killed at any point, it leaves a broker that works; the next supervisor adopts it.

Neither it nor the sidecar prints anything. SHMQ_DEBUG=FILE in the environment makes both append
what should never happen, a traceback, to that file.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import time
from typing import Any

from shmq._client import Client
from shmq._descriptors import scarce
from shmq._drain import Calm, close_queues
from shmq._native import ffi, lib
from shmq._segment import (
    ANONYMOUS_PREFIX,
    Process,
    Segment,
    clean,
    create_segment,
    open_segment,
)
from shmq.errors import BrokerNotRunning, ShmqError, printable
from shmq.sidecar.loop import run as run_sidecar
from shmq.supervisor.handles import Handles
from shmq.supervisor.liveness import Liveness
from shmq.supervisor.registry import Registry

SWEEP_S = 1.0
LOOK_S = 0.25  # between two looks at processes of which no descriptor is to be had
SWEEP_SHARE = 500  # a sweep may cost at most this fraction of the time: its pause grows with it
YOUNG_S = 1.0  # a sidecar that dies younger than this is restarted after a growing pause
SIDECAR_START_NS = 5_000_000_000
GRACE_S = 5.0  # for deliveries in hand and consumers at work, after SIGTERM
SIDECAR_END_S = 0.2  # from asking to SIGKILL; nothing it holds can be lost


def run(arguments: list[str]) -> int:
    """Serve one broker until its end. Returns the exit code."""
    name, options = parse(arguments)
    foreground = "foreground" in options
    ready_fd = int(options.get("ready_fd", -1))
    try:
        _stand_in()
        with scarce(f"supervisor of broker {name!r}"):
            supervisor = Supervisor(name, options)
            supervisor.start()
    except (ShmqError, OSError, MemoryError) as error:
        kind = type(error).__name__ if isinstance(error, ShmqError) else "ShmqError"
        text = str(error)
        if ready_fd >= 0:
            _say(ready_fd, f"error {kind} {text}".replace("\n", "\\n"))
        else:
            print(f"shmq: {printable(text)}", file=sys.stderr)
        return 1
    if ready_fd >= 0:
        _say(ready_fd, "ok")
        supervisor.close_ready()
    if not foreground:
        _leave_terminal()
    else:
        with contextlib.suppress(OSError):  # whoever started it reads no more
            print(
                f"broker {name!r} is up: supervisor {os.getpid()}, sidecar {supervisor.sidecar_pid}",
                flush=True,
            )
    try:
        supervisor.serve()
    except BaseException:
        _note_crash()
        os._exit(1)
    # Past the interpreter's own end: the helper thread may still sit in the core.
    if sys.stdout is not None:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
    os._exit(0)


def parse(arguments: list[str]) -> tuple[str, dict[str, str]]:
    """Return (name, options) of a command line that `spawn.command` wrote."""
    name = arguments[0]
    options = {}
    for word in arguments[1:]:
        key, _, value = word.removeprefix("--").partition("=")
        options[key.replace("-", "_")] = value
    return name, options


def _say(fd: int, line: str) -> None:
    try:
        os.write(fd, line.encode(errors="replace")[:60000] + b"\n")
    except OSError:
        pass  # whoever wanted to know is gone


def _stand_in() -> None:
    """Open what is closed of 0, 1 and 2: in the foreground, descriptors of ours would get these numbers."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _leave_terminal() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    os.chdir("/")


def _note_crash() -> None:
    """Append the current exception to the file that SHMQ_DEBUG names, if it names one."""
    path = os.environ.get("SHMQ_DEBUG")
    if path:
        import traceback

        with contextlib.suppress(OSError), open(path, "a") as file:
            traceback.print_exc(file=file)


class Supervisor:
    """One broker's supervisor."""

    def __init__(self, name: str, options: dict[str, str]) -> None:
        self.name = name
        self.foreground = "foreground" in options
        self.provider = options.get("shm", "posix")
        self.user_word = int(options.get("user_word", 0))
        self.must_exist = "adopt" in options
        self.config = ffi.new("shmq_config *")
        self.config.memory_limit = int(options.get("memory_limit", 1 << 30))
        self.config.max_message = int(options.get("max_message", 1 << 20))
        self.config.default_ttl_ns = int(options.get("ttl_ns", 0))
        self.config.provider = lib.SHMQ_SYSV if self.provider == "sysv" else lib.SHMQ_POSIX
        self.config.anonymous = int(options.get("anonymous", 0))
        self.config.max_queues = int(options.get("max_queues", 0))
        self.config.max_processes = int(options.get("max_processes", 0))
        self.liveness = Liveness()
        self.segment: Segment
        self.client: Client
        self.registry: Registry
        self.handles: Handles
        self.ctx: Any = ffi.NULL
        self.anonymous = False
        self.adopted = False
        self._abandoned = False
        self.sidecar_pid = 0
        self._sidecar_child = 0
        self._starting = True
        self._sidecar_started = 0.0
        self._sidecar_not_before = 0.0
        self._early_deaths = 0
        self._hello_fd = int(options.get("hello_fd", -1))
        self._ready_fd = int(options.get("ready_fd", -1))
        self._lease_fd = int(options.get("lease_fd", -1))
        self._terminate = 0
        self._drain_until: float | None = None
        self._grace = float(options.get("grace", GRACE_S))
        self._calm = Calm()
        self._sweep_at = 0.0
        self._look_at = 0.0
        self._first_sweep = True
        self._info = ffi.new("shmq_segment_info *")

    def close_ready(self) -> None:
        """Close the pipe to the starter: everything is said."""
        os.close(self._ready_fd)
        self._ready_fd = -1

    # ---- start -----------------------------------------------------------------------------

    def start(self) -> None:
        """Make or adopt the segment and start the sidecar."""
        self._install_signals()
        _raise_descriptor_limit()
        if self.must_exist:
            # Called to restart what is missing, not to bring an empty broker into being.
            open_segment(self.name).close()
        self.segment, self.adopted = create_segment(
            self.name, self.provider, self.config, self.user_word
        )
        try:
            self.client = Client(self.segment, lib.SHMQ_SUPERVISOR)
        except BaseException:
            if not self.adopted:
                self.segment.unlink()
            raise
        try:
            self._take_up()
        except BaseException:
            if not self.adopted:  # nobody has had anything of it
                self._end()
            else:  # the sidecar serves on, as that of a supervisor that was killed
                lib.shmq_detach(self.client.ctx)
            raise

    def _take_up(self) -> None:
        self.ctx = self.client.ctx
        self._snapshot()
        if self._info.closing and self.must_exist:
            self._end()
            raise BrokerNotRunning(
                f"broker {self.name!r}: found one that was shutting down, expected a running one; "
                "start it anew"
            )
        if self.adopted:
            lib.shmq_set_flag(self.ctx, lib.SHMQ_CLOSING, 0)
        self.anonymous = bool(self._info.anonymous)
        self.registry = Registry(self.ctx, self.liveness.epoll)
        self.handles = Handles(self.ctx)
        lib.shmq_reap(self.ctx, 1)
        self.registry.sync()
        gc.collect()
        gc.freeze()
        self._ensure_sidecar()
        self._await_sidecar()
        self._starting = False
        self.liveness.watch_table(self.ctx)
        if self._hello_fd >= 0:
            self.liveness.epoll.register(self._hello_fd)
        if self._lease_fd >= 0:
            self.liveness.epoll.register(self._lease_fd, 0)  # hang-ups are reported without asking

    def _install_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal if self.foreground else signal.SIG_IGN)
        signal.signal(signal.SIGHUP, self._on_signal if self.foreground else signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda number, frame: self.liveness.poke())

    def _on_signal(self, number: int, frame: object) -> None:
        self._terminate += 1
        self.liveness.poke()

    # ---- serve -----------------------------------------------------------------------------

    def serve(self) -> None:
        """Watch until the broker's end, then take it down."""
        self.registry.sync()
        while not self._over():
            fds, poked = self.liveness.wait(self._pause())
            for fd in fds:
                if fd == self._hello_fd:
                    self._drop_hello()
                elif fd == self._lease_fd:
                    self._drop_lease()
                else:
                    self.registry.died(fd)
            if poked or fds:
                self.registry.sync()
                self.handles.look()
            elif self.registry.blind and time.monotonic() >= self._look_at:
                self.registry.look()
                self._look_at = time.monotonic() + LOOK_S
            self.handles.collect(self._lease_fd)
            if time.monotonic() >= self._sweep_at:
                self._sweep()
            self._ensure_sidecar()
        self._end()

    def _pause(self) -> float:
        pause = self._sweep_at - time.monotonic()
        if self.registry.blind:
            pause = min(pause, self._look_at - time.monotonic())
        if self._drain_until is not None:
            pause = min(pause, 0.02)
        look_at = self.handles.due()
        if look_at is not None:
            pause = min(pause, look_at - time.monotonic())
        if not self.sidecar_pid:
            pause = min(pause, self._sidecar_not_before - time.monotonic())
        return max(0.0, pause)

    def _over(self) -> bool:
        self._snapshot()
        if self._info.closing and not self._terminate:
            return True
        if self._terminate:
            if self._info.closing or self._terminate > 1:
                return True
            if self._drain_until is None:
                self._drain_until = time.monotonic() + self._grace
                close_queues(self.ctx)
            return time.monotonic() >= self._drain_until or self._all_calm()
        if (self.anonymous or self._abandoned) and self.registry.count(lib.SHMQ_CLIENT) == 0:
            # Its starter may be on the way: ready was said, it has not attached yet. And whoever has
            # the other end of the lease may have inherited handles that it has not used yet.
            return self._hello_fd < 0 and self._lease_fd < 0
        self._abandoned = False
        return False

    def _all_calm(self) -> bool:
        """Return whether nobody is at work any more: nothing in hand, and nothing moves."""
        held = self.registry.held(lib.SHMQ_CLIENT)
        alone = self.registry.count(lib.SHMQ_CLIENT) == 0
        return self._calm.is_there(self.ctx, held, elsewhere=held > 0, alone=alone)

    def _drop_hello(self) -> None:
        # A byte: the starter has attached. None: it died or gave up between "ready" and then.
        self._abandoned = not os.read(self._hello_fd, 1) and not self.adopted
        self.liveness.epoll.unregister(self._hello_fd)
        os.close(self._hello_fd)
        self._hello_fd = -1

    def _drop_lease(self) -> None:
        # No process has the writing end any more; those that use the broker are attached.
        self.liveness.epoll.unregister(self._lease_fd)
        os.close(self._lease_fd)
        self._lease_fd = -1

    def _sweep(self) -> None:
        before = time.monotonic()
        lib.shmq_reap(self.ctx, 1)
        lib.shmq_queue_collect(self.ctx)
        self.handles.look()
        if self._first_sweep:
            self._first_sweep = False
            try:
                clean(
                    prefix=ANONYMOUS_PREFIX
                )  # of brokers that were killed with all their processes
            except Exception:  # what strangers put there must not end this broker
                _note_crash()
        if not self.segment.current():
            # Somebody took the name away (`rm`, tmpfs clean-up): nobody can come any more. Serve
            # those who are here; the last one ends it, as with an anonymous broker.
            self.anonymous = True
        self.registry.sync()
        now = time.monotonic()
        self._sweep_at = now + max(SWEEP_S, (now - before) * SWEEP_SHARE)

    def _snapshot(self) -> None:
        lib.shmq_segment_snapshot(self.ctx, self._info)

    # ---- the sidecar -----------------------------------------------------------------------

    def _ensure_sidecar(self) -> None:
        now = time.monotonic()
        if self._sidecar_child:
            try:
                pid, _ = os.waitpid(self._sidecar_child, os.WNOHANG)
            except ChildProcessError:
                pid = self._sidecar_child
            if pid == 0:
                return
            # One that dies young again and again must not turn into a storm of forks.
            young = now - self._sidecar_started < YOUNG_S
            self._early_deaths = self._early_deaths + 1 if young else 0
            pause = min(1.0, 0.005 * 2**self._early_deaths) if self._early_deaths > 1 else 0.0
            self._sidecar_not_before = now + pause
            self._sidecar_child = self.sidecar_pid = 0
        other = self.registry.find(lib.SHMQ_SIDECAR)
        if other is not None:  # of an earlier supervisor, or our own before its burial
            self.sidecar_pid = other.pid
            return
        self.sidecar_pid = 0
        if not self._terminate and now >= self._sidecar_not_before:
            self._sidecar_started = now
            self._fork_sidecar()

    def _await_sidecar(self) -> None:
        deadline = lib.shmq_now() + SIDECAR_START_NS
        while lib.shmq_now() < deadline:
            seen = lib.shmq_read_word(self.ctx, lib.SHMQ_WORD_ATTACH)
            self.registry.sync()
            if self.registry.find(lib.SHMQ_SIDECAR) is not None:
                return
            if self._sidecar_child and os.waitpid(self._sidecar_child, os.WNOHANG)[0]:
                self._sidecar_child = 0  # serve() tries again; a broker works without it
                return
            lib.shmq_wait_word(self.ctx, lib.SHMQ_WORD_ATTACH, seen, lib.shmq_now() + 100_000_000)

    def _fork_sidecar(self) -> None:
        try:
            pid = os.fork()
        except OSError:
            if self._starting and not self.adopted:
                raise  # whoever starts the broker hears of it
            return  # no process to be had; tried again with the next sweep
        if pid:
            self._sidecar_child = self.sidecar_pid = pid
            return
        code = 1
        try:
            self.segment.drop_claim()
            if self._ready_fd >= 0:
                os.close(self._ready_fd)
            _leave_terminal()
            self.registry.close_in_child()
            self.liveness.close_in_child()
            for fd in (self._hello_fd, self._lease_fd):
                if fd >= 0:
                    os.close(fd)
            os.setsid()
            run_sidecar(self.segment)
            code = 0
        except BaseException:
            _note_crash()
        finally:
            os._exit(code)

    # ---- end -------------------------------------------------------------------------------

    def _end(self) -> None:
        self.liveness.stop()
        lib.shmq_set_flag(self.ctx, lib.SHMQ_CLOSING, 1)
        close_queues(self.ctx)
        self._end_sidecar()
        self.segment.unlink()
        lib.shmq_detach(self.ctx)

    def _end_sidecar(self) -> None:
        pid = self.sidecar_pid
        if not pid:
            return
        with contextlib.suppress(OSError), Process(pid) as sidecar:
            _see_off(sidecar)


def _see_off(sidecar: Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not sidecar.send(number) or sidecar.wait(SIDECAR_END_S):
            break


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
