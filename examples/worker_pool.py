"""A pool of workers weighs parcels. Some cannot be weighed, one breaks its scale; none is lost."""

import os
import signal

import shmq

PARCELS = 1000
EMPTY = {100, 200}  # their handler raises
BOMB = 666  # this one kills its worker, each time


def weigh(delivery: shmq.Delivery) -> None:
    parcel = delivery.object()
    if parcel["id"] == BOMB:
        os.kill(os.getpid(), signal.SIGKILL)
    if not parcel["items"]:
        raise ValueError(f"parcel {parcel['id']} is empty")
    weights.publish({"id": parcel["id"], "grams": sum(parcel["items"])}, serializer="json")


def attach(queue: shmq.Queue) -> None:
    """Runs in each worker before its first parcel."""
    global weights
    weights = queue


if __name__ == "__main__":
    with shmq.Broker() as broker:
        parcels = broker.create_queue("parcels", max_retries=1, retry_backoff=0, dead_letter="odd")
        done = broker.create_queue("weights")
        for i in range(PARCELS):
            parcels.publish({"id": i, "items": [] if i in EMPTY else [i, 17]}, serializer="json")
        parcels.shutdown()  # nothing more comes: the pool ends when all is done

        pool = shmq.WorkerPool(parcels, weigh, workers=4, initializer=attach, initargs=(done,))
        pool.run()  # logs deaths; Ctrl-C: finish what is in hand; once more: now

        found = {weight.object()["id"] for weight in done.subscribe().get_many(2 * PARCELS)}
        print(f"{len(found)} parcels weighed")
        for letter in sorted(broker.get_queue("odd").subscribe().get_many(10), key=lambda d: d.id):
            error = str(letter.headers["x-error"]).splitlines()[-1]
            print(
                f"parcel {letter.object()['id']}, {letter.headers['x-attempts']} attempts: {error}"
            )
