"""A clinic: urgent patients go first, and with aging nobody waits for ever.

    python examples/priority_queue.py

An emergency (level 9) is there and ten people with a cold (level 0) are waiting when more
emergencies begin to come in, faster than the doctor works. Without aging the colds would wait until the emergencies end. Here a waiting
message gains a level each 20 ms, so the colds are seen among them. Each patient comes back once to
have a result read (nack): a returning one goes before new ones of the same level.
"""

import multiprocessing
import time

import shmq

COLDS, EMERGENCIES = 10, 120


def arrivals(patients: shmq.Queue) -> None:
    for i in range(1, EMERGENCIES):
        patients.publish(b"emergency %d" % i, priority=9)
        time.sleep(0.004)


def main() -> None:
    with shmq.Broker() as broker:
        patients = broker.create_queue("patients", aging=0.02, retry_backoff=0, max_retries=1)
        patients.publish(b"emergency 0", priority=9)
        for i in range(COLDS):
            patients.publish(b"cold %d" % i, priority=0)
        door = multiprocessing.Process(target=arrivals, args=(patients,))
        door.start()
        seen: list[bytes] = []
        with patients.subscribe() as doctor:
            while len(seen) < COLDS + EMERGENCIES:
                patient = doctor.get(timeout=10)
                time.sleep(0.003)  # two visits of 3 ms each, but one comes every 4 ms
                if patient.attempt == 1:
                    patient.nack()
                else:
                    seen.append(bytes(patient.payload))
                    patient.ack()
        door.join()
    first, last = (seen.index(b"cold 0"), seen.index(b"cold %d" % (COLDS - 1)))
    for kind in (b"cold", b"emergency"):
        numbers = [int(name.split()[1]) for name in seen if name.startswith(kind)]
        assert numbers == sorted(numbers), "within a level nobody overtakes"
    print(f"first cold: after {first} emergencies")
    print(f"last cold:  after {last - COLDS + 1} of {EMERGENCIES} emergencies")


if __name__ == "__main__":
    main()
