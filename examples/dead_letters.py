"""What becomes of messages that cannot be handled: retries with backoff, then the dead-letter queue."""

import shmq


def handle(payload: bytes, attempt: int) -> None:
    """Handle one order; some always fail, some only at first."""
    if payload == b"poison":
        raise ValueError("cannot be parsed")
    if payload == b"flaky" and attempt == 1:
        raise ConnectionError("database is away")


def main() -> None:
    with shmq.Broker() as broker:
        orders = broker.create_queue(
            "orders", dead_letter="orders-dlq", max_retries=2, retry_backoff="50ms"
        )
        for payload in (b"good", b"flaky", b"poison", b"forbidden"):
            orders.publish(payload)

        settled = 0
        with orders.subscribe() as consumer:
            while settled < 4:
                delivery = consumer.get(timeout=10)
                name = delivery.payload.decode()
                if delivery.payload == b"forbidden":
                    delivery.reject("not allowed")  # no retry would help
                    settled += 1
                    continue
                try:
                    handle(delivery.payload, delivery.attempt)
                except Exception as error:
                    print(f"{name}: attempt {delivery.attempt}: {error}")
                    delivery.nack()  # again after 50 ms, 100 ms; the third time it is dead
                    settled += delivery.attempt == 3
                else:
                    print(f"{name}: done at attempt {delivery.attempt}")
                    delivery.ack()
                    settled += 1

        with broker.get_queue("orders-dlq").subscribe("dlq-processor") as consumer:
            for _ in range(2):
                dead = consumer.get(timeout=10)
                headers = dead.headers
                print(
                    f"dead: {dead.payload.decode()} from {headers['x-death-queue']}, "
                    f"{headers['x-death-reason']} after {headers['x-attempts']}: "
                    f"{headers['x-error']}"
                )
                dead.ack()


if __name__ == "__main__":
    main()
