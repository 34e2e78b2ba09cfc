"""Two groups on one topic: each group gets every order, and shares them among its members.

One member of the first group is killed while it works; its order goes to a colleague at once.
"""

import multiprocessing
import os
import signal

import shmq

ORDERS = 12


def work(broker: str, group_name: str, member: str, accident: bool) -> None:
    with shmq.connect(broker) as connected:
        group = connected.create_consumer_group(group_name, "orders")
        with group.add_consumer(member) as orders:
            # The loop ends when the topic is shut down and the group has settled all.
            for delivery in orders:
                if accident:
                    os.kill(os.getpid(), signal.SIGKILL)  # in the middle of this order
                again = " again" if delivery.redelivered else ""
                line = f"{group_name}: order {delivery.payload.decode()}{again}\n"
                print(line, end="", flush=True)
                delivery.ack()


if __name__ == "__main__":
    with shmq.Broker() as broker:
        topic = broker.create_topic("orders")
        baking = broker.create_consumer_group("baking", topic)
        billing = broker.create_consumer_group("billing", topic)
        topic.publish_many([b"%d" % n for n in range(ORDERS)])
        unlucky = multiprocessing.Process(target=work, args=(broker.url, "baking", "b-0", True))
        unlucky.start()
        unlucky.join()
        staff = [("baking", "b-1"), ("baking", "b-2"), ("billing", "c-1")]
        workers = [
            multiprocessing.Process(target=work, args=(broker.url, group, member, False))
            for group, member in staff
        ]
        for worker in workers:
            worker.start()
        topic.shutdown()
        for worker in workers:
            worker.join()
        print(
            f"lag: baking {baking.lag()}, billing {billing.lag()}; members left {baking.members()}"
        )
