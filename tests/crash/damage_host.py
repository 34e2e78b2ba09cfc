"""A host of brokers, and the runs in them, each in a process of its own. See damage.py."""

from __future__ import annotations

import atexit
import faulthandler
import json
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

from damage_calls import SECOND, TIMES, Calls, MpCalls, raised_by_the_object
from damage_words import WORD, Image, damages
from damage_world import World, cpu_ns

HANG_S = 60.0  # of a whole run; the core itself waits for an administrator for 10 s at most, several times
SPIN = 0.6  # of a core
PROBE_EVERY = 20


class Note(mmap.mmap):
    """What a run is doing, for whoever finds it dead."""

    def say(self, text: str) -> None:
        data = text.encode()[:500]
        self[: len(data) + 1] = data + b"\0"

    def said(self) -> str:
        return bytes(self[:501]).partition(b"\0")[0].decode()


def one_run(
    name: str, rnd: random.Random, image: Image, note: Note, out: int, mine: list[Any] | None
) -> None:
    hurt = damages(image, rnd)  # first, so that one number always means the same damage
    os.write(out, json.dumps(hurt).encode() + b"\n")
    calls = MpCalls(mine, name, rnd, note.say) if mine is not None else Calls(name, rnd, note.say)
    calls.attach()
    calls.warm()
    problems = [f"before any damage: {problem}" for problem in calls.problems]
    calls.problems.clear()
    for _, at, _, value in hurt:
        os.pwrite(image.fd, WORD.pack(value), at)
    calls.everything(0.2)
    if mine is None:
        if calls.broker is not None:
            calls.do("close", calls.broker.close)
        problems += calls.problems
        calls = Calls(name, rnd, note.say)  # what a process sees that comes afterwards
        calls.attach()
        calls.everything(0.1)
    problems += calls.problems
    if mine is not None:
        problems = [one for one in problems if not raised_by_the_object(one)]
    note.say("end")
    if TIMES is not None:
        print(
            "TIMES",
            sorted(((round(t, 3), what) for what, t in TIMES.items()), reverse=True)[:12],
            file=sys.stderr,
        )
    os.write(out, json.dumps(problems).encode() + b"\n")


PROBE = """
import sys, time, shmq
broker = shmq.connect(sys.argv[1])
queue = broker.create_queue("probe", max_depth=100, retry_backoff=0)
queue.purge()
queue.publish(b"late", delay=0.01)
assert queue.subscribe(ack="none").get(timeout=30).payload == b"late"
"""


class Host:
    """One worker of the fuzz: brokers, one after the other, and runs in each."""

    def __init__(self, prefix: str, seed: int, number: int, say: Callable[[str], None]) -> None:
        self.prefix, self.seed, self.number, self.say = prefix, seed, number, say
        self.worlds: dict[bool, World] = {}
        self.used = 0
        self.made = 0
        self.failures = 0
        self.note = Note(-1, 4096)
        self.ends = 0

    def world(self, with_mp: bool) -> World:
        if with_mp not in self.worlds:
            self.made += 1
            self.worlds[with_mp] = World(f"{self.prefix}{self.number}-{self.made}", with_mp)
        return self.worlds[with_mp]

    def drop(self, with_mp: bool) -> None:
        world = self.worlds.pop(with_mp, None)
        if world is not None:
            world.end()

    def fail(self, run: int, what: str, hurt: list[tuple[str, int, int, int]]) -> None:
        self.failures += 1
        words = "; ".join(f"{kind} at {at:#x}: {old:#x} -> {new:#x}" for kind, at, old, new in hurt)
        self.say(
            f"FAILED --seed {self.seed} --only {run}: {what}\n    {words}\n    in: {self.note.said()}"
        )

    def run(self, run: int) -> None:
        with_mp = run // 2 % 10 == 9
        world = self.world(with_mp)
        image = world.image
        image.restore()
        seed = f"{self.seed}/{run}"
        before = {role: cpu_ns(pid) for role, pid in world.helpers.items()}
        begun = time.monotonic()
        reader, writer = os.pipe()
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.close(reader)
                os.dup2(log.fileno(), 2)
                os.dup2(log.fileno(), 1)
                faulthandler.enable(log)
                faulthandler.dump_traceback_later(HANG_S - 10, file=log, exit=True)
                told = os.dup(writer)
                one_run(world.name, random.Random(seed), image, self.note, told, world.mine)
                if run % 3:
                    atexit._run_exitfuncs()
                os._exit(0)
            except BaseException:  # noqa: BLE001
                traceback.print_exc(file=log)
                log.flush()
                os._exit(7)
        os.close(writer)
        said = read_all(reader, begun + HANG_S)
        os.close(reader)
        status = ended(pid, begun + HANG_S)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        log.seek(0)
        printed = log.read()[-6000:]
        log.close()
        hurt = [(one[0], one[1], one[2], one[3]) for one in said[0]] if said else []
        image.undo(hurt)
        problems = said[1] if len(said) > 1 else []
        if status is None or "Timeout (" in printed:
            self.fail(run, f"hang\n{printed}", hurt)
        elif status != 0:
            how = (
                f"signal {os.WTERMSIG(status)}"
                if os.WIFSIGNALED(status)
                else f"exit {os.WEXITSTATUS(status)}"
            )
            self.fail(run, f"crash: {how}\n{printed}", hurt)
        elif TIMES is not None:
            self.say(printed)
        elif "Traceback" in printed or "Exception ignored" in printed:
            self.fail(run, f"printed:\n{printed}", hurt)
        for problem in problems:
            self.fail(run, f"exception: {problem}", hurt)
        self.look_at_helpers(run, world, before, begun, hurt)

    def look_at_helpers(
        self,
        run: int,
        world: World,
        before: dict[str, int],
        begun: float,
        hurt: list[tuple[str, int, int, int]],
    ) -> None:
        text = world.helper_text()
        gone = world.gone()
        may_end = any(
            kind == "header.closing"
            or kind == "header.anonymous"
            or kind in ("header", "header.admin")
            for kind, *_ in hurt
        )
        if text:
            self.fail(run, f"a helper printed:\n{text[-3000:]}", hurt)
        if gone == "sidecar" and not text and not may_end:
            world.image.restore()
            if world.find_sidecar():
                self.ends += 1
                gone = None
        if gone or text:
            if not may_end and not text:
                self.fail(run, f"the {gone} is dead", hurt)
            self.drop(world.with_mp)
            return
        if may_end:  # it may be about to: the next run would be blamed
            self.drop(world.with_mp)
            return
        wall = (time.monotonic() - begun) * SECOND
        if any(
            cpu_ns(pid) - before[role] > max(SPIN * wall, 20_000_000)
            for role, pid in world.helpers.items()
        ):
            for _ in range(8):  # busy with what was done, or for ever?
                now = {role: cpu_ns(pid) for role, pid in world.helpers.items()}
                time.sleep(0.4)
                busy = [
                    role
                    for role, pid in world.helpers.items()
                    if cpu_ns(pid) - now[role] > SPIN * 0.4 * SECOND
                ]
                if not busy:
                    break
            else:
                self.fail(run, f"the {busy[0]} spins", hurt)
                self.drop(world.with_mp)
                return
        if run // 2 % PROBE_EVERY == 0 and not world.with_mp:
            world.image.restore()
            done = subprocess.run(
                [sys.executable, "-c", PROBE, world.name],
                capture_output=True,
                timeout=60,
                check=False,
            )
            if done.returncode:
                self.fail(
                    run,
                    f"after the segment was restored, a helper does not do its work:\n{done.stderr.decode()}",
                    hurt,
                )
                self.drop(world.with_mp)

    def end(self) -> None:
        for with_mp in list(self.worlds):
            self.drop(with_mp)


def read_all(fd: int, deadline: float) -> list[Any]:
    """Return what a run has told: its damage, and its problems if it has come to its end."""
    data = b""
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        some = os.read(fd, 1 << 16)
        if not some:
            break
        data += some
    lines = data.decode().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def ended(pid: int, deadline: float) -> int | None:
    pause = 0.0002
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(pause)
        pause = min(pause * 2, 0.01)
    return None
