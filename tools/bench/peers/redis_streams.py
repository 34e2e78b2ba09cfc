"""Redis Streams, if redis-server is there: XADD and XREADGROUP over a Unix socket, nothing written to disk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import redis

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer

_ACKED = "XACK"


class RedisStreams(Peer):
    """One call per message; batches are a pipeline of XADD and XREADGROUP with COUNT 100.

    With NOACK, at most once; the variant acknowledges each batch with one XACK, at least once.
    """

    title = "Redis Streams"
    dist = "redis"
    caps = Caps(
        batch=True,
        spin=False,
        notes="client/server, nothing on disk; NOACK, but for the row that acknowledges each batch with one XACK",
    )
    variants = {"batch": ("", _ACKED)}
    more_arguments: ClassVar[list[str]] = []

    @classmethod
    def missing(cls) -> str:
        """Return why not: client or server missing."""
        if not shutil.which("redis-server"):
            return "redis-server is not installed"
        return super().missing()

    @classmethod
    def version(cls) -> str:
        """Return the versions of server and client."""
        text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout
        server = next((word[2:] for word in text.split() if word.startswith("v=")), "?")
        return f"server {server}, client {super().version()}"

    def _socket(self) -> Path:
        return Path(tempfile.gettempdir()) / f"{self.spec.tag}.redis"

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self._socket()))

    def setup(self) -> None:
        """Start a server of our own and create the groups."""
        command = ["redis-server", "--port", "0", "--unixsocket", str(self._socket())]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        command += self.more_arguments
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                client = self._client()
                client.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        for channel in range(self.spec.channels):
            client.xgroup_create(self.name(channel), "g", id="0", mkstream=True)
        client.close()

    def server_pids(self) -> list[int]:
        """Return the server."""
        return [self.server.pid]

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return XADD, and a pipeline of it."""
        client = self._client()
        many = """
_pipe = _pipeline(transaction=False)
for data in batch:
    _pipe.xadd(_stream, {"d": data})
_pipe.execute()
"""
        return Endpoint(
            env={
                "_xadd": client.xadd,
                "_pipeline": client.pipeline,
                "_stream": self.name(channel),
            },
            put='_xadd(_stream, {"d": data})',
            put_many=many,
            close=client.close,
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return XREADGROUP, blocking."""
        client = self._client()
        acked = self.spec.variant == _ACKED
        get = f"""
_r = _xread("g", _who, _from, count={{count}}, block=0, noack={not acked})
"""
        return Endpoint(
            env={
                "_xread": client.xreadgroup,
                "_xack": client.xack,
                "_stream_c": self.name(channel),
                "_who": f"c{index}",
                "_from": {self.name(channel): ">"},
            },
            get=get.format(count=1) + 'item = _r[0][1][0][1][b"d"]',
            get_many=get.format(count=100) + 'items = [entry[1][b"d"] for entry in _r[0][1]]',
            many_done='_xack(_stream_c, "g", *[entry[0] for entry in _r[0][1]])' if acked else "",
            close=client.close,
        )

    def teardown(self) -> None:
        """Stop the server."""
        server = getattr(self, "server", None)
        if server is not None:
            server.terminate()
            server.wait()
        with suppress(FileNotFoundError):
            self._socket().unlink()


PEER = RedisStreams
