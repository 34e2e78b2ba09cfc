"""When is nobody at work any more? Asked with a clock of the test's own."""

from __future__ import annotations

import pytest
from rig import Rig

from shmq import _drain


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_drain, "time", made)
    return made


@pytest.mark.parametrize("what", ["ack", "reject", "forward", "nack"])
def test_whoever_settles_in_any_way_is_at_work(rig: Rig, clock: Clock, what: str) -> None:
    # What goes to another queue, or comes back, changes no sum over all queues: of what is ready, or was acked.
    dead = rig.queue("dead")
    queue = rig.queue("q", dead_letter=dead, retry_backoff=0)
    queue.publish_many([b"x"] * 10)
    calm = _drain.Calm()

    def is_calm() -> bool:
        clock.now += 0.9 * _drain.CALM_S
        return calm.is_there(rig.client.ctx, 0, elsewhere=False, alone=False)

    with queue.subscribe() as consumer:
        for _ in range(5):
            assert not is_calm()
            delivery = consumer.get(timeout=0)
            if what == "forward":
                delivery.forward(dead)
            else:
                getattr(delivery, what)()
            assert not is_calm()
    assert is_calm() or is_calm()


def test_a_broker_with_nothing_ready_or_nobody_there_is_calm_at_once(rig: Rig) -> None:
    queue = rig.queue()
    calm = _drain.Calm()
    assert calm.is_there(rig.client.ctx, 0, elsewhere=False, alone=False)
    queue.publish(b"x")
    assert not calm.is_there(rig.client.ctx, 0, elsewhere=False, alone=False)
    assert not calm.is_there(rig.client.ctx, 1, elsewhere=False, alone=True)
    assert calm.is_there(rig.client.ctx, 0, elsewhere=False, alone=True)


def test_what_is_in_other_hands_is_waited_for(rig: Rig, clock: Clock) -> None:
    calm = _drain.Calm()
    rig.queue().publish(b"x")
    for _ in range(10):
        assert not calm.is_there(rig.client.ctx, 1, elsewhere=True, alone=False)
        clock.now += _drain.CALM_S
