"""In place of multiprocessing, for queues: `import shmq.mp as multiprocessing`.

Queue, JoinableQueue, SimpleQueue and get_context are shmq's; everything else is multiprocessing's
own. docs/multiprocessing.md says what changes.
"""

from __future__ import annotations

import multiprocessing as _multiprocessing
from typing import Any

from shmq.mp.context import Context, get_context
from shmq.mp.items import ShutDown
from shmq.mp.joinable import JoinableQueue
from shmq.mp.queue import Queue
from shmq.mp.simple import SimpleQueue

__all__ = ["Context", "JoinableQueue", "Queue", "ShutDown", "SimpleQueue", "get_context"]


def __getattr__(name: str) -> Any:
    return getattr(_multiprocessing, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_multiprocessing)})
