"""Mistakes of users: each line with `# wrong` has to be found by every type checker, and no other one."""

from __future__ import annotations

import shmq
import shmq.mp


def brew(order: int) -> str:
    return str(order)


def mistakes(broker: shmq.Broker, queue: shmq.Queue) -> None:
    broker.create_queue("q", overflow="drop_oldest")  # wrong: drop-oldest
    broker.create_queue("q", max_dept=10)  # wrong: max_depth
    broker.create_queue("q", order="fifo", ttl=[1])  # wrong: seconds
    queue.publish("a text")  # wrong: bytes
    queue.publish(b"x", priority="high")  # wrong: a number
    queue.publish(b"x", header={"a": 1})  # wrong: headers
    queue.publish_many(b"one")  # wrong: a list of messages
    consumer = queue.subscribe(ack="never")  # wrong: manual, auto, none
    for delivery in consumer:
        delivery.done()  # wrong: ack
        text: str = delivery.payload  # wrong: bytes
        print(text)
        delivery.nack(1, 2)  # wrong: the reason is a text
    consumer.get(timeout=b"1")  # wrong: seconds
    consumer.get_many("many")  # wrong: a number
    numbers: shmq.mp.Queue[int] = shmq.mp.Queue()
    numbers.put("one")  # wrong: a number
    with shmq.Executor() as executor:
        executor.submit(brew, "one")  # wrong: an order is a number
        number: int = executor.submit(brew, 1).result()  # wrong: a text
        print(number)
