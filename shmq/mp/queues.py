"""In place of multiprocessing.queues."""

from queue import Empty, Full

from shmq.mp.joinable import JoinableQueue
from shmq.mp.queue import Queue
from shmq.mp.simple import SimpleQueue

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue"]
