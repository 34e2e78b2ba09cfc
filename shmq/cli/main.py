"""Commands of ``shmq`` and their exit codes: 0 fine, 1 negative, 2 usage, 3 not found."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import shmq
from shmq.cli import brokers, metrics, stats
from shmq.cli.out import any_character, complain
from shmq.errors import BrokerNotRunning, InvalidOption, ShmqError
from shmq.settings import PROVIDERS

OK, NEGATIVE, USAGE, NOT_FOUND = 0, 1, 2, 3
INTERRUPTED = 130

EPILOG = """\
exit codes: 0 fine, 1 negative (exists already, not healthy, failed), 2 usage, 3 not found
settings:   keyword > environment SHMQ_* > TOML file (--config, SHMQ_CONFIG, ./shmq.toml) > default
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="shmq",
        description="Message queues in shared memory: brokers of this user on this host.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"shmq {shmq.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, details: str = ""
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}. {details}"
        )
        sub.set_defaults(run=run)
        return sub

    up = command(
        "up", brokers.up, "start a broker",
        "In the foreground until Ctrl-C or SIGTERM; with --detach in the background until "
        "`shmq down`. A broker whose supervisor was killed is taken over with all its messages.",
    )  # fmt: skip
    up.add_argument("name", metavar="NAME", help="what programs connect to")
    up.add_argument("-d", "--detach", action="store_true", help="return as soon as it is ready")
    up.add_argument(
        "--shutdown-timeout",
        metavar="TIME",
        default="5s",
        help="longest wait for work in hand after a signal (default: 5s)",
    )
    up.add_argument("--config", metavar="FILE", help="TOML file with settings")
    up.add_argument("--shm", choices=PROVIDERS, help="provider of shared memory (default: posix)")
    add = up.add_argument_group("limits and queue defaults").add_argument
    add(
        "--memory-limit",
        metavar="SIZE",
        help="memory for payloads, all size classes together (default: size of RAM)",
    )
    add("--max-message-size", metavar="SIZE", help="largest message (default: 1MB)")
    add("--max-queues", metavar="N", help="queues and topics at a time (default: 1024)")
    add("--max-processes", metavar="N", help="processes attached at a time (default: 1024)")
    add("--max-queue-depth", metavar="N", help="messages per queue (default: 100000)")
    add("--max-retries", metavar="N", help="redeliveries before the dead-letter queue (default: 3)")
    add("--default-ttl", metavar="TIME", help='life of a message, "24h", "90s", "never"')

    down = command(
        "down", brokers.down, "end a broker",
        "Intake stops at once, deliveries in hand are waited for, then the memory is taken away.",
    )  # fmt: skip
    down.add_argument("name", metavar="NAME")
    down.add_argument(
        "--timeout",
        metavar="TIME",
        default="10s",
        help="longest wait for work in hand (default: 10s)",
    )

    status = command(
        "status", brokers.status, "show a broker, or all",
        "Exit code 1 when a broker is there but not whole (a process of it is missing).",
    )  # fmt: skip
    status.add_argument("name", metavar="NAME", nargs="?")
    status.add_argument("--json", action="store_true", help="machine-readable")

    ls = command("ls", brokers.ls, "list brokers, one per line")
    ls.add_argument("--json", action="store_true", help="machine-readable")

    looks = command(
        "stats", stats.stats, "show every figure of a broker's queues, topics and groups",
        "Counts are since each one was made; with --interval, what happened per second in it, also "
        "by process.",
    )  # fmt: skip
    looks.add_argument("name", metavar="NAME")
    looks.add_argument("--interval", metavar="TIME", help="watch for so long, such as 1s")
    looks.add_argument("--json", action="store_true", help="machine-readable")

    figures = command(
        "metrics", metrics.metrics, "show a broker's figures for Prometheus",
        "Printed once in the text format; with --listen served until Ctrl-C or SIGTERM, which needs "
        "the extra `metrics` (prometheus-client).",
    )  # fmt: skip
    figures.add_argument("name", metavar="NAME")
    figures.add_argument("--listen", metavar="HOST:PORT", help="serve them there, as /metrics")

    clean = command(
        "clean", brokers.clean, "remove segments in which nobody lives",
        "Only this user's, and only those without a living process (pid and start time).",
    )  # fmt: skip
    clean.add_argument("name", metavar="NAME", nargs="*", help="only these (default: all)")
    clean.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in ("stdout", "stderr"):  # closed by whoever started us
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 - for good
    any_character()
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokerNotRunning as error:
        return _complain(error, NOT_FOUND)
    except InvalidOption as error:
        return _complain(error, USAGE)
    except ShmqError as error:
        return _complain(error, NEGATIVE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `shmq ls | head`: whoever read has seen enough. Keep the interpreter from flushing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _complain(error: Exception, code: int) -> int:
    complain(str(error))
    return code


def entry() -> NoReturn:
    """Run `main` and leave with its exit code."""
    sys.exit(main())
