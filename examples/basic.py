"""A queue from end to end: options, headers, acknowledgement, figures, shutdown."""

import json
import multiprocessing

import shmq


def order_processor(orders: shmq.Queue) -> None:
    with orders.subscribe("order-processor") as consumer:
        for delivery in consumer:  # ends when the queue is shut down and drained
            order = json.loads(delivery.payload)
            print(f"received {order['order_id']} ({delivery.headers['content-type']})")
            delivery.ack()  # until here, a crash gives it to another consumer


def main() -> None:
    with shmq.Broker(default_ttl="1h", max_retries=3) as broker:
        orders = broker.create_queue("orders")
        worker = multiprocessing.Process(target=order_processor, args=(orders,))
        worker.start()
        for number in range(12345, 12348):
            payload = json.dumps({"order_id": str(number)}).encode()
            orders.publish(payload, headers={"content-type": "application/json"})
        orders.shutdown()
        worker.join()
        stats = orders.stats()
        print(f"{stats.published} published, {stats.acked} acked, {stats.ready} left")


if __name__ == "__main__":
    main()
