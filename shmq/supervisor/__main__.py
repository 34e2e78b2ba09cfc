"""``python -m shmq.supervisor``: daemonize first, so that nothing large is ever forked twice."""

import os
import sys


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        from shmq._descriptors import SCARCE, limit_reached
        from shmq.errors import ShmqError

        text = f"supervisor of broker {sys.argv[1]!r}"
        found = f"no process for it: {error.strerror} (errno {error.errno})"
        scarce = error.errno in SCARCE
        refusal = limit_reached(text, found) if scarce else ShmqError(f"{text}: {found}")
        print("error", type(refusal).__name__, refusal, file=sys.stderr, flush=True)
        os._exit(1)


def main() -> int:
    """Run a supervisor, in a session of its own; return its exit code."""
    arguments = sys.argv[1:]
    # The first process was started in a session of its own, by whoever wants the broker; its child
    # belongs to nobody: no zombie, no SIGCHLD, no terminal for the one who asked.
    if "--foreground" not in arguments and _fork():
        os._exit(0)
    from shmq.supervisor.process import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
