"""One topic, three subscribers in three processes: each gets every order, or those that it asks for."""

import multiprocessing

import shmq

ORDERS = [("espresso", "counter"), ("latte", "terrace"), ("tea", "counter"), ("cake", "terrace")]


def listen(topic: shmq.Topic, who: str, wanted: dict[str, str] | None) -> None:
    with topic.subscribe(who, filter=wanted) as orders:
        for delivery in orders:  # ends when the topic is shut down and this subscription is drained
            print(f"{who}: {delivery.payload.decode()}\n", end="", flush=True)
            delivery.ack()  # the payload goes when everybody has acked


if __name__ == "__main__":
    with shmq.Broker() as broker:
        topic = broker.create_topic("orders")
        subscribers = {"kitchen": None, "till": None, "waiter": {"place": "terrace"}}
        workers = []
        for who, wanted in subscribers.items():
            topic.subscribe(who, filter=wanted).close()  # durable: it collects from now on
            workers.append(multiprocessing.Process(target=listen, args=(topic, who, wanted)))
            workers[-1].start()
        for order, place in ORDERS:
            topic.publish(order.encode(), headers={"place": place})  # to all of them, or to none
        topic.shutdown()
        for worker in workers:
            worker.join()
        print(f"published {topic.stats().published}, one copy each in shared memory")
