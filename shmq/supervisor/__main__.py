"""``python -m shmq.supervisor``: daemonize first, so that nothing large is ever forked twice."""

import os
import sys


def main() -> int:
    arguments = sys.argv[1:]
    # The first process was started in a session of its own, by whoever wants the broker; its child
    # belongs to nobody: no zombie, no SIGCHLD, no terminal for the one who asked.
    if "--foreground" not in arguments and os.fork():
        os._exit(0)
    from shmq.supervisor.process import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
