"""A message exactly once, though every stage of the pipeline is killed again and again.

    python examples/exactly_once.py

    source -> [orders] -> worker -> [invoices] -> this process

The source gives each order an id and, whenever it was killed, starts again from the first one:
`dedup_window` makes one message of all publishes with the same id. The worker settles an order and
publishes its invoice by `forward`: both or neither, at whatever instruction it is killed.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from multiprocessing.process import BaseProcess

import shmq

ORDERS = 3000
KILLS = 20
PATIENCE = 60.0  # seconds for all of it


def source(orders: shmq.Queue) -> None:
    for number in range(ORDERS):
        orders.publish(str(number).encode(), dedup_id=f"order {number}")
        time.sleep(0.0001)


def worker(orders: shmq.Queue, invoices: shmq.Queue) -> None:
    with orders.subscribe() as consumer:
        for order in consumer:
            order.forward(invoices, b"invoice of order " + order.payload)


def main() -> int:
    with shmq.Broker() as broker:
        orders = broker.create_queue("orders", dedup_window="1h", max_retries=None)
        invoices = broker.create_queue("invoices")

        def start(name: str) -> BaseProcess:
            target, queues = {
                "source": (source, (orders,)),
                "worker": (worker, (orders, invoices)),
            }[name]
            process = multiprocessing.Process(name=name, target=target, args=queues)
            process.start()
            return process

        def done(name: str) -> int:
            stats = orders.stats()
            return stats.published + stats.deduped if name == "source" else stats.forwarded

        running = {name: start(name) for name in ("source", "worker")}
        before = dict.fromkeys(running, 0)
        for kill in range(KILLS):  # each is started anew, and finds what its predecessor left
            name = ("source", "worker")[kill % 2]
            # Killed at work, not at its start, however long that takes; or when there is no work left.
            deadline = time.monotonic() + PATIENCE
            while done(name) == before[name] and invoices.depth() < ORDERS:
                if time.monotonic() > deadline:
                    print(f"found no work of the {name} in {PATIENCE:.0f} s", file=sys.stderr)
                    return 1
                time.sleep(0.001)
            time.sleep(random.uniform(0.0, 0.05))
            running[name].kill()
            running[name].join()
            before[name] = done(name)
            running[name] = start(name)
        running["source"].join()  # this time to its end
        orders.shutdown()
        running["worker"].join(PATIENCE)
        if running["worker"].exitcode != 0:
            print(f"found a worker that has not ended after {PATIENCE:.0f} s", file=sys.stderr)
            running["worker"].kill()
            return 1
        with invoices.subscribe(ack="auto") as consumer:
            found = [consumer.get(timeout=1).payload for _ in range(invoices.depth())]
        recognised = orders.stats().deduped
    expected = [b"invoice of order %d" % number for number in range(ORDERS)]
    missing = len(set(expected) - set(found))
    doubled = len(found) - len(set(found))
    print(f"{KILLS} kills, {recognised} publishes recognised as duplicates")
    print(f"{len(found)} invoices of {ORDERS} orders: {missing} missing, {doubled} doubled")
    return 0 if sorted(found) == sorted(expected) else 1


if __name__ == "__main__":
    sys.exit(main())
