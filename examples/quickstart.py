"""One message from this process to another one: the first code block of the README."""

import multiprocessing

import shmq


def barista(orders: shmq.Queue) -> None:
    with orders.subscribe() as consumer:
        for delivery in consumer:  # ends when the queue is shut down and drained
            print("made", delivery.payload.decode())
            delivery.ack()  # until here, a crash gives the order to another barista


if __name__ == "__main__":
    with shmq.Broker() as broker:
        orders = broker.create_queue("orders")
        worker = multiprocessing.Process(target=barista, args=(orders,))
        worker.start()
        orders.publish(b"one espresso")  # on return it is stored, whoever dies now
        orders.shutdown()
        worker.join()
