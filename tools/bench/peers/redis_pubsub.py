"""Redis pub/sub, if redis-server is there: at most once; whoever is slow is waited for by nobody and keeps the server's memory."""

from __future__ import annotations

from tools.bench.endpoint import Caps, Endpoint
from tools.bench.peers.redis_streams import RedisStreams


class RedisPubSub(RedisStreams):
    """PUBLISH by the pipeline; each answer tells how many subscribers it reached."""

    title = "Redis pub/sub"
    caps = Caps(batch=True, spin=False, many=False, notes="client/server, nothing on disk")
    variants = {}
    # The default disconnects a subscriber that is 32 MB behind.
    more_arguments = ["--client-output-buffer-limit", "pubsub 0 0 0"]

    def publisher(self) -> Endpoint:
        """Return a pipeline of PUBLISH."""
        client = self._client()
        many = """
_pipe = _pipeline(transaction=False)
for data in batch:
    _pipe.publish("all", data)
_reached = _pipe.execute()
if min(_reached) < _subscribers:
    wrong(_reached, batch[0])
"""
        return Endpoint(
            env={"_pipeline": client.pipeline, "_subscribers": self.spec.channels},
            put_many=many,
            close=client.close,
        )

    def subscriber(self, index: int) -> Endpoint:
        """Return get_message() of a subscription."""
        client = self._client()
        listener = client.pubsub(ignore_subscribe_messages=True)
        listener.subscribe("all")
        listener.parse_response(block=True)  # that it is there
        return Endpoint(
            env={"_response": listener.parse_response, "_keep_c": (client, listener)},
            get="item = _response()[2]",
            close=listener.close,
        )


PEER = RedisPubSub
