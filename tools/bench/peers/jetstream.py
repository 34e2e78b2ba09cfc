"""NATS JetStream, if nats-server is there: a stream in memory over TCP on this machine, at least once.

nats-py is an asyncio library; the statements run its coroutines once per batch in a loop of their own. Two ways of using
it are measured: the calls that its documentation shows for many messages (`publish_async`, `fetch`), and a faster one,
in which the publisher counts the server's answers itself instead of keeping a future for each, and the server
pushes into a callback. In both a batch is acknowledged with one call (AckPolicy.ALL).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import nats
from nats.js import api

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers import Peer

_DOCUMENTED = "publish_async and fetch"
_COUNTED = "answers counted, push"
_BATCH = 100
_AHEAD = 10 * _BATCH
"""Messages that the server may push before any of them is acknowledged."""


class _Answers:
    """The server's confirmations of one publisher."""

    def __init__(self, client: Any, subject: str) -> None:
        self.publish, self.subject = client.publish, subject
        self.inbox = client.new_inbox()
        self.missing = 0
        self.wrong: list[bytes] = []
        self.all_came = asyncio.Event()

    async def came(self, message: Any) -> None:
        if not message.data.startswith(b'{"stream"') or b'"error"' in message.data:
            self.wrong.append(message.data)
        self.missing -= 1
        if not self.missing:
            self.all_came.set()

    async def put_many(self, batch: list[bytes]) -> None:
        self.missing = len(batch)
        self.all_came.clear()
        for data in batch:
            await self.publish(self.subject, data, reply=self.inbox)
        await self.all_came.wait()
        if self.wrong:
            text = f"refused: {self.wrong[0]!r}"
            raise RuntimeError(text)


class _Pushed:
    """What the server pushed and nobody has taken yet."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.some = asyncio.Event()

    async def came(self, message: Any) -> None:
        self.waiting.append(message)
        self.some.set()

    async def get_many(self) -> list[Any]:
        while not self.waiting:
            self.some.clear()
            await self.some.wait()
        items, self.waiting = self.waiting, []
        return items


class JetStream(Peer):
    """A stream per channel, limits retention: what was acknowledged stays, which costs nothing here."""

    title = "NATS JetStream"
    dist = "nats-py"
    caps = Caps(
        batch=True,
        spin=False,
        notes="client/server over TCP, stream in memory, each publish confirmed, one ack per batch",
    )
    variants = {"batch": (_COUNTED, _DOCUMENTED)}

    @classmethod
    def missing(cls) -> str:
        """Return why not: client or server missing."""
        if not shutil.which("nats-server"):
            return "nats-server is not installed"
        return super().missing()

    @classmethod
    def version(cls) -> str:
        """Return the versions of server and client."""
        text = subprocess.run(["nats-server", "--version"], capture_output=True, text=True).stdout
        return f"server {text.split()[-1].lstrip('v')}, client {super().version()}"

    def _folder(self) -> Path:
        return Path(tempfile.gettempdir()) / f"{self.spec.tag}.nats"

    def setup(self) -> None:
        """Start a server of our own on a port that it chooses, and create the streams."""
        folder = self._folder()
        folder.mkdir()
        command = ["nats-server", "--addr", "127.0.0.1", "--port", "-1", "--jetstream"]
        command += ["--store_dir", str(folder / "store"), "--ports_file_dir", str(folder)]
        command += ["--log", str(folder / "log")]
        self.server = subprocess.Popen(command)
        deadline = time.monotonic() + 10
        while not hasattr(self, "url"):
            try:
                found = next(folder.glob("*.ports"))
                self.url = json.loads(found.read_text())["nats"][0]
            except (StopIteration, ValueError):  # not there yet, or half written
                if time.monotonic() > deadline or self.server.poll() is not None:
                    raise
                time.sleep(0.02)
        asyncio.run(self._create())

    async def _create(self) -> None:
        client = await nats.connect(self.url)
        for channel in range(self.spec.channels):
            name = self.name(channel)
            await client.jetstream().add_stream(
                name=name, subjects=[name], storage=api.StorageType.MEMORY
            )
        await client.close()

    def server_pids(self) -> list[int]:
        """Return the server."""
        return [self.server.pid]

    def _open(self) -> tuple[asyncio.AbstractEventLoop, Any]:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop, loop.run_until_complete(nats.connect(self.url))

    def producer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return publishing a batch and waiting until all of it is confirmed."""
        loop, client = self._open()
        run, name = loop.run_until_complete, self.name(channel)
        js = client.jetstream(publish_async_max_pending=_BATCH)
        answers = _Answers(client, name)
        run(client.subscribe(answers.inbox, cb=answers.came))

        async def publish(batch: list[bytes]) -> None:
            for confirmation in [await js.publish_async(name, data) for data in batch]:
                await confirmation

        put_many = publish if self.spec.variant == _DOCUMENTED else answers.put_many
        return Endpoint(
            env={"_run": run, "_put": put_many},
            put_many="_run(_put(batch))",
            close=lambda: run(client.close()),
        )

    def consumer(self, channel: int = 0, index: int = 0) -> Endpoint:
        """Return taking a batch, and the one ack for it."""
        loop, client = self._open()
        run, name = loop.run_until_complete, self.name(channel)
        js = client.jetstream()
        config = api.ConsumerConfig(ack_policy=api.AckPolicy.ALL, max_ack_pending=_AHEAD)
        if self.spec.variant == _DOCUMENTED:
            pulled = run(js.pull_subscribe(name, "pull", config=config))
            get: Any = lambda: pulled.fetch(_BATCH, timeout=30)  # noqa: E731
        else:
            pushed = _Pushed()
            run(js.subscribe(name, durable="push", cb=pushed.came, config=config, manual_ack=True))
            get = pushed.get_many
        return Endpoint(
            env={"_run": run, "_get": get},
            get_many="items = _run(_get())",
            each="x.data",
            many_done="_run(items[-1].ack())",
            close=lambda: run(client.close()),
        )

    def teardown(self) -> None:
        """Stop the server and remove its folder."""
        server = getattr(self, "server", None)
        if server is not None:
            server.kill()
            server.wait()
        shutil.rmtree(self._folder(), ignore_errors=True)


PEER = JetStream
