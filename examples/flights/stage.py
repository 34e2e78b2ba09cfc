"""The three kinds of processes: reader, worker, aggregator. Each is one function over queues.

Queue handles travel to the processes as arguments: they pickle as a name and attach again on arrival.
No stage gets a sentinel. A consumer's stream ends when its queue is shut down and drained, and
drained includes the deliveries that other, perhaps dying, consumers have not settled yet.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from itertools import islice
from multiprocessing.process import BaseProcess

import shmq

from . import dataset
from .record import Unusable, enriched, raw_payload
from .table import Tables

CHUNK = 512  # flights per publish_many of the reader
BATCH = 64  # deliveries a worker holds at a time: what is worked on twice when it is killed

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)  # a terminal or a service manager sends them to all


def start(process: BaseProcess) -> None:
    """Start a process of a stage with INTERRUPTS blocked: until the stage ignores them, they wait.

    Without it, one that comes while the process begins prints a traceback, wherever it has got to.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def read(raw: shmq.Queue, pace: shmq.Queue, rows: int) -> None:
    """Publish the first `rows` lines of flights.csv, one flight = one message.

    Each message of `pace` says how far this process may go; the last one says `rows`.
    """
    _leave_ctrl_c_to_the_parent()
    numbered = enumerate(dataset.lines(rows))
    published = 0
    with pace.subscribe("reader") as permits:
        while published < rows:
            permit = permits.get()
            until = int(permit.payload)
            while published < until:
                chunk = list(islice(numbered, min(CHUNK, until - published)))
                raw.publish_many([raw_payload(row, line) for row, line in chunk])
                published += len(chunk)
            permit.ack()


def work(raw: shmq.Queue, clean: shmq.Queue) -> None:
    """Turn raw flights into records.

    `forward` publishes the record and settles the flight, both or neither: a kill at any instruction
    neither loses a record nor repeats one.
    """
    _leave_ctrl_c_to_the_parent()
    lookups = dataset.Lookups.load()
    with raw.subscribe() as consumer:
        for batch in _batches(consumer, BATCH):
            for delivery in batch:
                try:
                    delivery.forward(clean, enriched(delivery.payload, lookups))
                except Unusable as unusable:
                    delivery.reject(str(unusable))


def aggregate(clean: shmq.Queue, report: shmq.Queue) -> None:
    """Add what comes to the tables; when `clean` has ended, publish them to `report`."""
    _leave_ctrl_c_to_the_parent()
    tables = Tables()
    with clean.subscribe("aggregator") as consumer:
        for batch in _batches(consumer, CHUNK):
            for delivery in batch:
                tables.add(json.loads(delivery.payload))
            consumer.ack_many(batch)
    report.publish(tables.to_json())


def _batches(consumer: shmq.Consumer, size: int) -> Iterator[list[shmq.Delivery]]:
    """Like `for delivery in consumer`, up to `size` at a time."""
    while True:
        try:
            batch = consumer.get_many(size)
        except shmq.QueueClosed:  # shut down and drained
            return
        yield batch


def _leave_ctrl_c_to_the_parent() -> None:
    """The terminal sends SIGINT to all of us; the parent alone decides and ends the others."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # drops what came since the start, too
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
