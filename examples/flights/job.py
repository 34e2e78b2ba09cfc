"""The parent's part: queues, processes, restarts, the end of each stream, and the comparison."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType

import shmq

from . import stage
from .chaos import Chaos
from .progress import Progress
from .record import row_of
from .table import Tables
from .truth import Truth

TICK = 0.02  # seconds between two looks at the counters; a death is seen at once
MAX_DEPTH = 10_000  # messages in `raw` and in `clean`; then their publishers wait

# Each death of a worker counts as an attempt of every flight that it was holding. That is what
# dead-letters a flight that kills its workers; here the kills come from outside, and no flight may
# be dead-lettered for having been in the wrong hands a few times.
MAX_RETRIES = 1000


class StageError(Exception):
    """A process ended in a way that no restart would mend."""


@dataclass(frozen=True)
class Result:
    tables: Tables
    dead: dict[int, str]  # row -> reason, of all messages in the dead-letter queue
    dead_letters: int  # how many there are
    leftovers: int  # messages in `raw` and `clean` at the end

    def faults(self, truth: Truth) -> list[str]:
        """Why this is not exact, one sentence each; empty when it is."""
        found = self.tables.differences(truth.tables)
        dead_rows = frozenset(self.dead)
        for what, rows in (
            ("dead-lettered and not cancelled", dead_rows - truth.cancelled),
            ("cancelled and not dead-lettered", truth.cancelled - dead_rows),
        ):
            if rows:
                example = min(rows)
                found.append(
                    f"{len(rows)} flights {what}, e.g. row {example}: {self.dead.get(example)}"
                )
        if self.dead_letters != len(truth.cancelled):
            found.append(f"found {self.dead_letters} dead letters, expected {len(truth.cancelled)}")
        reasons = {reason for reason in self.dead.values() if not reason.startswith("cancelled: ")}
        if reasons:
            found.append(f"found dead letters with the reasons {sorted(reasons)[:3]}")
        if self.leftovers:
            found.append(f"found {self.leftovers} messages left in raw and clean, expected none")
        return found


class Job:
    """One run. As a context manager it leaves no process behind, whatever happens inside."""

    def __init__(self, broker: shmq.Broker, rows: int, workers: int, kills: int, seed: int) -> None:
        self.broker = broker
        self.rows = rows
        self.restarts = 0
        self.dead = broker.create_queue("raw-dead")
        self.raw = broker.create_queue(
            "raw", dead_letter="raw-dead", max_retries=MAX_RETRIES, max_depth=MAX_DEPTH
        )
        self.clean = broker.create_queue("clean", max_retries=MAX_RETRIES, max_depth=MAX_DEPTH)
        self.pace = broker.create_queue("pace")
        self.report = broker.create_queue("report")
        self.chaos = Chaos(
            kills,
            rows,
            seed,
            victims={
                "worker": lambda: [p.pid for p in self._workers if p.pid and p.exitcode is None],
                "sidecar": lambda: _known(broker.stats().sidecar_pid),
                "supervisor": lambda: _known(broker.stats().supervisor_pid),
            },
        )
        self._reader = self._process("reader", stage.read, self.raw, self.pace, rows)
        self._aggregator = self._process("aggregator", stage.aggregate, self.clean, self.report)
        self._workers = [self._worker(number) for number in range(workers)]

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        processes = [self._reader, self._aggregator, *self._workers]
        for process in processes:
            if process.pid and process.exitcode is None:
                process.kill()  # nothing to save: what it holds is in shared memory
        for process in processes:
            if process.pid:
                process.join()

    def run(self, progress: Progress) -> Result:
        for process in (self._reader, self._aggregator, *self._workers):
            stage.start(process)
        self._permit()
        self._until_read(progress)
        self.raw.shutdown()
        self._until_worked(progress)
        self.clean.shutdown()
        self._until_aggregated(progress)
        with self.report.subscribe(ack="auto") as consumer:
            found = Tables.from_json(consumer.get(timeout=10).payload)
        dead_letters = self.dead.depth()
        return Result(
            tables=found,
            dead={
                row_of(message.payload): str(message.headers.get("x-error"))
                for message in self.dead.peek(dead_letters)
            },
            dead_letters=dead_letters,
            leftovers=_unsettled(self.raw.stats()) + _unsettled(self.clean.stats()),
        )

    def _until_read(self, progress: Progress) -> None:
        """Until every row is published. All kills happen here: the last rows wait for the last kill."""
        while self._reader.exitcode is None or not self.chaos.finished:
            settled = self._look(progress)
            if self.chaos.step(settled):
                self._permit()

    def _until_worked(self, progress: Progress) -> None:
        """Until `raw` is drained, redeliveries included, and every worker has gone home."""
        while any(worker.exitcode != 0 for worker in self._workers) or _unsettled(self.raw.stats()):
            self._look(progress)

    def _until_aggregated(self, progress: Progress) -> None:
        while self._aggregator.exitcode is None:
            self._look(progress)
        self._look(progress)

    def _look(self, progress: Progress) -> int:
        """One tick: draw, restart the dead, wait a little. Returns the flights settled so far."""
        self.broker.start()  # does nothing while its supervisor lives; a new one adopts all queues
        raw = self.raw.stats()
        settled = raw.acked + raw.rejected
        progress.show(
            settled,
            f"raw {raw.ready}+{raw.unsettled}, clean {self.clean.depth()}, "
            f"dead {self.dead.depth()}, kills {len(self.chaos.done)}",  # fits 80 columns
        )
        for process in (self._reader, self._aggregator):
            if process.exitcode:
                raise StageError(f"the {process.name} ended with exit code {process.exitcode}")
        for number, worker in enumerate(self._workers):
            if worker.exitcode is None or (worker.exitcode == 0 and not _unsettled(raw)):
                continue
            if worker.exitcode > 0:
                raise StageError(f"{worker.name} ended with exit code {worker.exitcode}")
            worker.join()
            self._workers[number] = self._worker(number)
            stage.start(self._workers[number])
            self.restarts += 1
        processes = (self._reader, self._aggregator, *self._workers)
        wait([p.sentinel for p in processes if p.exitcode is None], TICK)
        return settled

    def _permit(self) -> None:
        self.pace.publish(str(self.chaos.permit).encode())

    def _worker(self, number: int) -> BaseProcess:
        return self._process(f"worker {number + 1}", stage.work, self.raw, self.clean)

    @staticmethod
    def _process(name: str, target: Callable[..., None], *arguments: object) -> BaseProcess:
        return multiprocessing.Process(name=name, target=target, args=arguments)


def _unsettled(stats: shmq.QueueStats) -> int:
    """Messages that somebody still has to do something about."""
    return stats.ready + stats.unsettled + stats.delayed


def _known(pid: int | None) -> list[int]:
    return [pid] if pid else []
