"""A broker with life in it, whose segment is damaged and restored. See damage.py."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from typing import Any

from damage_calls import live
from damage_words import Image, offset

import shmq
import shmq.home
import shmq.mp


class World:
    """A broker with life in it, its helpers, and a copy of its segment."""

    def __init__(self, name: str, with_mp: bool) -> None:
        self.with_mp = with_mp
        self.mine: list[Any] | None = None
        self.debug = tempfile.mktemp(prefix="shmq-damage-")  # noqa: S306
        os.environ["SHMQ_DEBUG"] = self.debug
        reader, writer = os.pipe()
        if with_mp:
            os.environ.pop("SHMQ_HOME", None)
            self.mine = [
                shmq.mp.Queue(),
                shmq.mp.Queue(5),
                shmq.mp.JoinableQueue(),
                shmq.mp.SimpleQueue(),
            ]
            name = shmq.home.home().name
            for queue in self.mine:
                for item in (
                    1,
                    "text",
                    b"bytes" * 1000,
                    {"a": [1, 2.5, None, (b"x", "y")]},
                    [{"k": k} for k in range(300)],
                ):
                    queue.put(item)
        self.name = name
        self.resident = 0
        if not with_mp:
            self.resident = os.fork()
            if self.resident == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                code = 1
                try:
                    os.close(reader)
                    broker = shmq.Broker(name, memory_limit="64MB")
                    kept = live(broker)
                    dying = os.fork()
                    if dying == 0:  # somebody who died with things in hand
                        queue = broker.get_queue("plain")
                        kept.append(queue.subscribe().get(timeout=0))
                        os.kill(os.getpid(), signal.SIGKILL)
                    os.waitpid(dying, 0)
                    time.sleep(0.3)
                    os.write(writer, b"!")
                    while True:
                        signal.pause()
                except BaseException:  # noqa: BLE001
                    traceback.print_exc()
                finally:
                    os._exit(code)
            assert select.select([reader], [], [], 60)[0], "no broker within a minute"
            assert os.read(reader, 1) == b"!", "no broker"
        os.close(reader)
        os.close(writer)
        self.image = Image(self.name)
        with shmq_observed(self.name) as stats:
            self.helpers = {"supervisor": stats.supervisor_pid, "sidecar": stats.sidecar_pid}
        for _ in range(200):  # at a moment when nobody changes records
            if not self.image.word(offset("shmq_header", "admin")):
                break
            time.sleep(0.01)
        self.image.save()

    def end(self) -> None:
        for pid in (self.resident, *self.helpers.values()):
            if pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        if self.resident:
            os.waitpid(self.resident, 0)
        self.image.segment.unlink()
        self.image.segment.close()
        if self.mine is not None:
            shmq.home._home._client.detach()  # type: ignore[union-attr]
            shmq.home._home = None
            os.environ.pop("SHMQ_HOME", None)
        with contextlib.suppress(OSError):
            os.unlink(self.debug)

    def helper_text(self) -> str:
        """Return what helpers noted, but for errors of ours, which a damaged header is to end in."""
        with contextlib.suppress(OSError), open(self.debug) as file:
            text = file.read()
            return "" if "\nshmq.errors." in text else text
        return ""

    def gone(self) -> str | None:
        """Return which helper is dead; a sidecar comes back by itself."""
        for role, pid in self.helpers.items():
            if not running(pid):
                return role
        return None

    def find_sidecar(self) -> bool:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(shmq.ShmqError), shmq_observed(self.name) as stats:
                if stats.sidecar_pid and running(stats.sidecar_pid):
                    self.helpers["sidecar"] = stats.sidecar_pid
                    return True
            time.sleep(0.02)
        return False


@contextlib.contextmanager
def shmq_observed(name: str) -> Iterator[shmq.BrokerStats]:
    from shmq._segment import observe
    from shmq.stats.broker import read_stats

    with observe(name) as (segment, ctx):
        yield read_stats(segment, ctx)


def running(pid: int | None) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def cpu_ns(pid: int | None) -> int:
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError):
        return 0
