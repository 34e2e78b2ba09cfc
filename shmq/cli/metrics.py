"""``shmq metrics``: a broker's figures for Prometheus, printed once or served."""

from __future__ import annotations

import argparse
import signal
import sys

from shmq._locks import Latch
from shmq._names import check_broker_name
from shmq.cli.out import say
from shmq.errors import BrokerNotRunning, InvalidOption, explain
from shmq.metrics import Reader, serve, text


def address(value: str) -> tuple[str, int]:
    """Return (host, port) of "127.0.0.1:9464", "[::1]:9464" or ":9464" (all addresses)."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise InvalidOption(
            explain("--listen", repr(value), "HOST:PORT, such as 127.0.0.1:9464", "correct it")
        )
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104


def metrics(options: argparse.Namespace) -> int:
    """Print the metrics, or serve them until SIGINT or SIGTERM."""
    name = check_broker_name(options.name)
    if options.listen is None:
        found = Reader(name).read()
        if found[0].samples[0][2] == 0:
            raise BrokerNotRunning(
                explain(f"broker {name!r}", "none of that name", "a running one", "shmq ls")
            )
        sys.stdout.write(text(found))
        return 0
    host, port = address(options.listen)
    over = Latch()  # an Event that a handler sets amid its wait waits for ever
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    try:
        server, port = serve(name, host, port)
    except OSError as error:
        raise InvalidOption(
            explain(
                "--listen", f"{options.listen!r}: {error.strerror}", "a free address", "another"
            )
        ) from None
    say(f"metrics of broker {name!r} on http://{host}:{port}/metrics")
    sys.stdout.flush()
    over.wait()
    server.shutdown()
    return 0
