"""RabbitMQ, if rabbitmq-server is there: transient messages in a transient queue, at least once.

The publisher is pika's asynchronous connection, run until the server has confirmed the batch; the consumer its blocking
one with `consume()`, whose server pushes ahead. A batch is acknowledged with one call (`multiple`).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pika
import pika.exceptions

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer

_BATCH = 100
_AHEAD = 10 * _BATCH
_TRIES_S = 60.0
# Not what is on the PATH: that starts the server as another user, in that user's folders.
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class _Publisher:
    """An asynchronous connection that runs only as long as confirmations of a batch are missing."""

    def __init__(self, parameters: pika.ConnectionParameters, queue: str) -> None:
        self.queue = queue
        self.sent = self.confirmed = 0
        self.problem = ""
        self.connection = pika.SelectConnection(
            parameters,
            on_open_callback=self._connected,
            on_open_error_callback=lambda _, error: self._failed(error),
            on_close_callback=lambda _, error: self._failed(error),
        )
        self._run()

    def _connected(self, connection: Any) -> None:
        self.channel = connection.channel(on_open_callback=self._opened)

    def _opened(self, channel: Any) -> None:
        channel.confirm_delivery(self._came, callback=lambda _: self.connection.ioloop.stop())

    def _came(self, frame: Any) -> None:
        if frame.method.NAME != "Basic.Ack":
            self.problem = f"refused: {frame.method.NAME}"
        self.confirmed = max(self.confirmed, frame.method.delivery_tag)
        if self.confirmed == self.sent or self.problem:
            self.connection.ioloop.stop()

    def _failed(self, error: Any) -> None:
        self.problem = repr(error)
        self.connection.ioloop.stop()

    def _run(self) -> None:
        self.connection.ioloop.start()
        if self.problem:
            raise RuntimeError(self.problem)

    def put_many(self, batch: list[bytes]) -> None:
        publish, queue = self.channel.basic_publish, self.queue
        for data in batch:
            publish("", queue, data)
        self.sent += len(batch)
        self._run()

    def close(self) -> None:
        self.connection.close()
        with suppress(RuntimeError):
            self._run()


class RabbitMq(Peer):
    """A node of our own: ports, name server, database and log are this measurement's."""

    title = "RabbitMQ"
    dist = "pika"
    caps = Caps(
        batch=True,
        spin=False,
        notes="client/server over TCP, transient, publisher confirms, prefetch 1,000, one ack per batch",
    )
    start_s = _TRIES_S

    @classmethod
    def missing(cls) -> str:
        """Return why not: client or server missing."""
        if not _SERVER.exists() or not shutil.which("epmd"):
            return "rabbitmq-server is not installed"
        return super().missing()

    @classmethod
    def version(cls) -> str:
        """Return the versions of server and client."""
        home = next(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        return f"server {home.name.partition('-')[2]}, client {super().version()}"

    def _folder(self) -> Path:
        return Path(tempfile.gettempdir()) / f"{self.spec.tag}.rabbitmq"

    def setup(self) -> None:
        """Start a name server and a server of our own, and create the queues."""
        folder = self._folder()
        folder.mkdir()
        self.port, names, peers = _free_ports(3)
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"{self.spec.tag}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(peers),
            "RABBITMQ_MNESIA_BASE": str(folder),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "none"),
        }
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
        names_command = ["epmd", "-port", str(names), "-address", "127.0.0.1"]
        self.servers = [subprocess.Popen(names_command, **quiet)]
        self.servers.append(subprocess.Popen([str(_SERVER)], stdin=subprocess.DEVNULL, **quiet))
        deadline = time.monotonic() + _TRIES_S
        while True:
            try:
                connection = pika.BlockingConnection(self._parameters())
                break
            except pika.exceptions.AMQPError:
                if time.monotonic() > deadline or self.servers[1].poll() is not None:
                    raise
                time.sleep(0.1)
        channel = connection.channel()
        for number in range(self.spec.channels):
            channel.queue_declare(self.name(number))
        connection.close()

    def _parameters(self) -> pika.ConnectionParameters:
        return pika.ConnectionParameters("127.0.0.1", self.port, heartbeat=0)

    def server_pids(self) -> list[int]:
        """Return name server, start script and server."""
        return [server.pid for server in self.servers] + self._server_itself()

    def _server_itself(self) -> list[int]:
        with suppress(FileNotFoundError, ValueError):
            return [int((self._folder() / "pid").read_text())]
        return []

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return publishing a batch and waiting until all of it is confirmed."""
        publisher = _Publisher(self._parameters(), self.name(channel))
        return Endpoint(
            env={"_put": publisher.put_many}, put_many="_put(batch)", close=publisher.close
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return taking 100, and the one ack for them."""
        connection = pika.BlockingConnection(self._parameters())
        opened = connection.channel()
        opened.basic_qos(prefetch_count=_AHEAD)
        deliveries = opened.consume(self.name(channel))
        return Endpoint(
            env={"_next": next, "_deliveries": deliveries, "_ack": opened.basic_ack},
            get_many=f"items = [_next(_deliveries) for _ in range({_BATCH})]",
            each="x[2]",
            many_done="_ack(items[-1][0].delivery_tag, multiple=True)",
            close=connection.close,
        )

    def teardown(self) -> None:
        """Kill the servers: nothing of theirs is to be kept."""
        servers = getattr(self, "servers", [])
        for pid in self._server_itself() if servers else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):
                    servers[-1].wait(5)  # the start script ends after the server is gone
        for server in servers:
            server.kill()
            server.wait()
        shutil.rmtree(self._folder(), ignore_errors=True)


PEER = RabbitMq
