"""Chaos over all features at once: every process of a broker and its users is killed and stopped at random, and at
the end every message is accounted for.

    python tests/crash/features.py --seconds 300 --seed 7

The processes are those of `roles` and of `overflow`; `ledger` goes through what they wrote when all is over. Beside what it finds:

    hung      a process that did nothing for a long time, or did not end when told to
    left      messages that nobody could take; what the audit finds
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import random
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import overflow
import roles
from ledger import Ledger
from roles import Log, Role

import shmq
from shmq._native import ffi, lib
from shmq._segment import owners_alive

ROLES = roles.ROLES | overflow.ROLES
MAKERS = ("source", "-in", "publisher", "passer-by", "timer", "purger", "renewer")
"""parts of the names of those who end first"""
LOOK_S = 0.3
HUNG_S = 20.0
DRAIN_S = 60.0


class Chaos:
    def __init__(self, folder: Path, seed: int, rate: float) -> None:
        self.folder, self.rate = folder, rate
        self.dice = random.Random(seed)
        self.name = f"features-{os.getpid()}-{secrets.token_hex(3)}"
        self.pids: dict[str, int] = {}
        self.stopped: dict[int, float] = {}
        self.since: dict[int, float] = {}
        self.seen: dict[str, tuple[int, float]] = {}
        self.figures: Counter[str] = Counter()
        self.bad: list[str] = []
        self.fresh: shmq.Broker | None = None
        self.log = Log(folder, "chaos")
        self.looked = self.next_look = 0.0

    def run(self, seconds: float) -> None:
        self.broker = shmq.Broker(self.name, memory_limit="256MB")
        try:
            roles.make(self.broker)
            overflow.make(self.broker)
            for role, (n, _) in ROLES.items():
                for i in range(n):
                    self.start(f"{role}.{i}")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                self.strike()
                self.tend()
                if time.monotonic() - self.looked > LOOK_S:
                    self.looked = time.monotonic()
                    self.look()
                time.sleep(self.dice.random() * 2 / self.rate)
            self.finish()
        finally:
            for pid in self.pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            self.broker.start()
            self.broker.shutdown(timeout=0)

    def start(self, who: str) -> None:
        seed = self.dice.randrange(1 << 30)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.nice(5)  # who kills must not wait for those whom it is to kill
                faulthandler.register(signal.SIGUSR1)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                me = Role(self.name, self.folder, who, seed)
                ROLES[who.rpartition(".")[0]][1](me)
                me.broker.close()
                code = 0
            except BaseException:
                sys.stderr.write(f"{who}:\n{traceback.format_exc()}")
                sys.stderr.flush()
            finally:
                os._exit(code)
        self.pids[who] = pid
        self.seen[who] = (0, time.monotonic())

    def strike(self) -> None:
        chance = self.dice.random()
        if chance < 0.06:
            helper = self.helper("sidecar" if chance < 0.04 else "supervisor")
            if helper is not None and self.strike_helper(helper, kill=chance < 0.05):
                self.figures["sidecar" if chance < 0.04 else "supervisor"] += 1
                if chance >= 0.05:
                    self.stop(helper, self.dice.random())
                else:
                    self.log.put("k", "sidecar" if chance < 0.04 else "supervisor")
            return
        who = self.dice.choice(list(self.pids))
        pid = self.pids[who]
        if chance < 0.25 and pid not in self.stopped:
            os.kill(pid, signal.SIGSTOP)
            self.stop(pid, self.dice.random() * 0.5)
            self.figures["stops"] += 1
        elif chance >= 0.25:
            os.kill(pid, signal.SIGKILL)
            self.log.put("k", who.rpartition(".")[0])
            self.figures["kills"] += 1

    def stop(self, pid: int, seconds: float) -> None:
        now = time.monotonic()
        self.stopped[pid] = now + seconds
        self.since[pid] = now

    def look(self) -> None:
        for name in {*overflow.BOUNDS, *overflow.BYTES, *overflow.PARKING}:
            q = self.broker.get_queue(name).stats()  # of all at once: much more work
            self.log.put("m", q.name, q.ready, q.bytes, q.parked)

    def helper(self, role: str) -> int | None:
        owners = owners_alive(self.broker._client.ctx)  # stats() looks at much more
        return {owner.role: owner.pid for owner in owners}.get(role)

    def strike_helper(self, pid: int, *, kill: bool) -> bool:
        """Not our child: it may be gone, and its pid another process's by now."""
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"shmq.supervisor" not in words or self.name.encode() not in words:
                return False
            signal.pidfd_send_signal(fd, signal.SIGKILL if kill else signal.SIGSTOP)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def tend(self) -> None:
        now = time.monotonic()
        for pid, until in list(self.stopped.items()):
            if until < now:
                del self.stopped[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                self.log.put("s", pid, time.monotonic() - self.since[pid])
        look = now > self.next_look
        if look:
            self.next_look = now + 1
        for who, pid in list(self.pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.stopped.pop(pid, None)
                if status != signal.SIGKILL:
                    self.bad.append(f"{who} ended with {status:#x}")
                self.start(who)
            elif look:
                self.is_alive(who, pid, now)
        if self.dice.random() < 0.1 and self.helper("supervisor") is None:
            self.broker.start()

    def is_alive(self, who: str, pid: int, now: float) -> None:
        size = (self.folder / who).stat().st_size if (self.folder / who).exists() else 0
        before, since = self.seen[who]
        if size != before or pid in self.stopped:
            self.seen[who] = (size, now)
        elif now - since > HUNG_S:
            self.bad.append(f"hung: {who}")
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.2)
            os.kill(pid, signal.SIGKILL)
            self.seen[who] = (size, now)

    def finish(self) -> None:
        """No more is published; all is taken; then all end."""
        for pid in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.broker.start()
        (self.folder / "no-more").touch()
        self.tend_to_the_end("no-more", MAKERS)
        deadline = time.monotonic() + DRAIN_S
        left, empty = ["?"], 0
        while (
            empty < 2 and time.monotonic() < deadline
        ):  # twice: one look may miss what moves on meanwhile
            time.sleep(0.1)
            left = [
                f"{q.name}: {q.ready} ready, {q.unsettled} unsettled, {q.delayed} delayed, {q.parked} parked"
                for q in self.broker.stats().streams()
                if q.ready + q.unsettled + q.delayed + q.parked
            ]
            empty = 0 if left else empty + 1
            for who, pid in list(self.pids.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    if status != signal.SIGKILL:
                        self.bad.append(f"{who} ended with {status:#x} before the end")
                    self.start(who)
        self.bad += [f"left: {text}" for text in left]
        for q in self.broker.stats().streams():
            self.log.put("c", q.name, q.dropped, q.dead_lettered)
        (self.folder / "the-end").touch()
        self.tend_to_the_end("the-end", ("",))
        client = self.broker._client
        lib.shmq_reap(client.ctx, 0)
        lib.shmq_queue_collect(client.ctx)
        report = ffi.new("shmq_audit_report *")
        client.check(lib.shmq_audit(client.ctx, report), "audit")
        names = ("orphans", "unlinked", "dangling", "limbo", "attached", "fans", "held", "bad")
        self.bad += [f"audit: {n} {getattr(report, n)}" for n in names if getattr(report, n)]
        held = sum(report.states[i] for i in range(16) if i not in (lib.SHMQ_VOID, lib.SHMQ_FREE))
        if held and not left:
            self.bad.append(f"leaked: {held} blocks, states {list(report.states)}")
        if self.broker.stats().corrupt:
            self.bad.append(f"corrupt: {self.broker.stats().corrupt}")

    def tend_to_the_end(self, flag: str, parts: tuple[str, ...]) -> None:
        deadline = time.monotonic() + HUNG_S
        waiting = {w: p for w, p in self.pids.items() if any(x in w for x in parts)}
        while waiting and time.monotonic() < deadline:
            for who, pid in list(self.pids.items()):  # those who are waited for may need the others
                done, status = os.waitpid(pid, os.WNOHANG)
                if not done:
                    continue
                if status not in (0, signal.SIGKILL):
                    self.bad.append(f"{who} ended with {status:#x}")
                if who in waiting:
                    del waiting[who], self.pids[who]
                else:
                    self.start(who)
            time.sleep(0.02)
        for who, pid in waiting.items():
            self.bad.append(f"hung: {who} after {flag}")
            os.kill(pid, signal.SIGUSR1)


def main() -> int:
    parser = argparse.ArgumentParser(description="chaos over all features at once")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 30))
    parser.add_argument("--rate", type=float, default=40, help="deaths and stops per second")
    parser.add_argument("--keep", type=Path, help="where the logs stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        chaos = Chaos(folder, given.seed, given.rate)
        chaos.run(given.seconds)
        for flag in ("no-more", "the-end"):
            (folder / flag).unlink(missing_ok=True)
        ledger = Ledger(folder)
        ledger.check()
        ledger.everything_was_tried(given.seconds)
    bad = chaos.bad + ledger.bad
    print(*sorted(bad)[:60], sep="\n")
    counts = ", ".join(f"{n} {what}" for what, n in (chaos.figures + ledger.messages()).items())
    print(
        f"seed {given.seed}, {given.seconds:g} s: {counts}; {ledger.parked()}; {len(bad)} violations"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
