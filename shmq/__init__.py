"""shmq: a crash-safe message queue in shared memory.

Any process may be killed at any instruction: published messages stay, what a dead consumer held is
delivered again, and nobody waits for the dead. See `Broker`, `connect` and `Queue`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from shmq.broker import Broker as Broker
    from shmq.broker import connect as connect
    from shmq.consumer import Consumer as Consumer
    from shmq.delivery import Delivery as Delivery
    from shmq.errors import BrokerExists as BrokerExists
    from shmq.errors import BrokerNotRunning as BrokerNotRunning
    from shmq.errors import CorruptSegment as CorruptSegment
    from shmq.errors import Detached as Detached
    from shmq.errors import ForeignSegment as ForeignSegment
    from shmq.errors import InvalidOption as InvalidOption
    from shmq.errors import InvalidOptionType as InvalidOptionType
    from shmq.errors import LayoutMismatch as LayoutMismatch
    from shmq.errors import LimitReached as LimitReached
    from shmq.errors import MessageExpired as MessageExpired
    from shmq.errors import MessageTooLarge as MessageTooLarge
    from shmq.errors import MissingPackage as MissingPackage
    from shmq.errors import OptionsMismatch as OptionsMismatch
    from shmq.errors import OutOfSharedMemory as OutOfSharedMemory
    from shmq.errors import QueueClosed as QueueClosed
    from shmq.errors import QueueEmpty as QueueEmpty
    from shmq.errors import QueueFull as QueueFull
    from shmq.errors import QueueNotFound as QueueNotFound
    from shmq.errors import ShmqError as ShmqError
    from shmq.errors import StaleDelivery as StaleDelivery
    from shmq.errors import StorageError as StorageError
    from shmq.errors import TopicNotFound as TopicNotFound
    from shmq.group import ConsumerGroup as ConsumerGroup
    from shmq.message import Message as Message
    from shmq.options import QueueOptions as QueueOptions
    from shmq.queue import Queue as Queue
    from shmq.settings import Settings as Settings
    from shmq.stats.broker import BrokerStats as BrokerStats
    from shmq.stats.broker import ClientStats as ClientStats
    from shmq.stats.broker import GroupStats as GroupStats
    from shmq.stats.broker import MemberStats as MemberStats
    from shmq.stats.queue import Latency as Latency
    from shmq.stats.queue import QueueStats as QueueStats
    from shmq.topic import Topic as Topic
    from shmq.topic import TopicStats as TopicStats
    from shmq.workers.death import WorkerDied as WorkerDied
    from shmq.workers.death import WorkersFailed as WorkersFailed
    from shmq.workers.executor import Executor as Executor
    from shmq.workers.pool import WorkerPool as WorkerPool

# Public name -> module. Loaded on first use: the supervisor and the sidecar import parts of this
# package and must stay small, and `import shmq` costs a program nothing until it uses it.
_HOMES = {
    **dict.fromkeys(("Broker", "connect"), "shmq.broker"),
    "Consumer": "shmq.consumer",
    "ConsumerGroup": "shmq.group",
    "Delivery": "shmq.delivery",
    "Message": "shmq.message",
    "Queue": "shmq.queue",
    "QueueOptions": "shmq.options",
    "Settings": "shmq.settings",
    **dict.fromkeys(
        ("BrokerStats", "ClientStats", "GroupStats", "Latency", "MemberStats", "QueueStats"),
        "shmq.stats",
    ),
    **dict.fromkeys(("Topic", "TopicStats"), "shmq.topic"),
    "Executor": "shmq.workers.executor",
    "WorkerPool": "shmq.workers.pool",
    **dict.fromkeys(("WorkerDied", "WorkersFailed"), "shmq.workers.death"),
    **dict.fromkeys(
        (
            "BrokerExists",
            "BrokerNotRunning",
            "CorruptSegment",
            "Detached",
            "ForeignSegment",
            "InvalidOption",
            "InvalidOptionType",
            "LayoutMismatch",
            "LimitReached",
            "MessageExpired",
            "MessageTooLarge",
            "MissingPackage",
            "OptionsMismatch",
            "OutOfSharedMemory",
            "QueueClosed",
            "QueueEmpty",
            "QueueFull",
            "QueueNotFound",
            "ShmqError",
            "StaleDelivery",
            "StorageError",
            "TopicNotFound",
        ),
        "shmq.errors",
    ),
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
