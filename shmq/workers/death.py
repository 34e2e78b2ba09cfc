"""How a worker process ended, told to people and to programs."""

from __future__ import annotations

import signal
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any

from shmq.errors import ShmqError, explain

__all__ = ["Death", "WorkerDied", "WorkersFailed"]


@dataclass(frozen=True)
class Death:
    """The end of a worker that nobody had asked for.

    Attributes:
        pid: Of the process that ended.
        exitcode: As `multiprocessing.Process.exitcode`: negative is the number of a signal.
        message_id: Id of the message that it had in hand, which goes to another worker; None when it
            had none.
    """

    pid: int
    exitcode: int
    message_id: int | None

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that killed it; None when it ended by itself."""
        try:
            return signal.Signals(-self.exitcode) if self.exitcode < 0 else None
        except ValueError:  # a real-time signal without a name
            return None

    @property
    def how(self) -> str:
        """For a sentence: "killed by SIGKILL", "exited with code 3"."""
        if self.exitcode >= 0:
            return f"exited with code {self.exitcode}"
        known = self.signal
        return f"killed by {known.name if known else f'signal {-self.exitcode}'}"

    def __str__(self) -> str:
        held = "nothing" if self.message_id is None else f"message {self.message_id}"
        return f"worker {self.pid} was {self.how} with {held} in hand".replace(
            "was exited", "exited"
        )


class WorkerDied(ShmqError, BrokenExecutor):
    """The worker processes that ran a call died, as often as `retries` allows. Also a `BrokenExecutor`.

    Attributes:
        pid: Of the last worker that died of it; None if that is unknown.
        exitcode: Its exit code; negative is the number of a signal. None if that is unknown.
        task: The call, as text.
    """

    def __init__(
        self, text: str, pid: int | None = None, exitcode: int | None = None, task: str = ""
    ) -> None:
        super().__init__(text)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task

    @classmethod
    def of(cls, task: str, attempts: int, death: Death | None) -> WorkerDied:
        """Return the exception for a call that was given up."""
        found = "its worker died" if death is None else f"worker {death.pid} {death.how}"
        text = explain(
            f"call {task}",
            f"{found} while it ran, in attempt {attempts}",
            "a result",
            "SIGKILL is often the OOM killer (see dmesg): use fewer workers or smaller pieces; "
            "retries= allows more attempts",
        )
        pid, exitcode = (None, None) if death is None else (death.pid, death.exitcode)
        return cls(text, pid, exitcode, task)

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.pid, self.exitcode, self.task)


class WorkersFailed(ShmqError, BrokenExecutor):
    """No worker gets as far as its first call: the initializer raises, or each one dies at its start."""
