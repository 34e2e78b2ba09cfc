"""Messages that come later: after a delay, at a point in time, and not at all once they are too old."""

import datetime
import time

import shmq


def main() -> None:
    with shmq.Broker() as broker:
        reminders = broker.create_queue("reminders", dead_letter="missed")
        missed = broker.get_queue("missed")
        start = time.monotonic()

        at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(milliseconds=600)
        reminders.publish(b"at a point in time", deliver_at=at)
        reminders.publish(b"after a delay", delay="300ms")
        reminders.publish(b"too late for anybody", ttl="200ms")
        reminders.publish(b"at once")

        with reminders.subscribe() as consumer:
            left = 3
            while left:
                delivery = consumer.get(timeout=10)
                if delivery.payload.startswith(b"too late"):
                    delivery.nack(delay="1h")  # not now; in an hour it will be over
                    continue
                left -= 1
                due = round(time.monotonic() - start, 1)
                print(f"{due:.1f} s: {delivery.payload.decode()}")
                delivery.ack()
        with missed.subscribe() as consumer:
            delivery = consumer.get(timeout=10)
            print(f"{delivery.headers['x-death-reason']}: {delivery.payload.decode()}")
            delivery.ack()


if __name__ == "__main__":
    main()
