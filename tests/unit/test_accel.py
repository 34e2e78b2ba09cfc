"""The two bindings of the hot calls: both there, both passing the same tests."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rig import memory

from shmq import _native
from shmq._native import pure
from shmq.consumer import Consumer
from shmq.delivery import Delivery
from shmq.queue import Queue

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def test_the_chosen_binding_is_the_base_of_the_classes() -> None:
    assert issubclass(Queue, _native.QueueBase)
    assert issubclass(Consumer, _native.ConsumerBase)
    assert issubclass(Delivery, _native.DeliveryBase)
    assert (_native.QueueBase is pure.QueueBase) == (_native.ACCEL is None)


@pytest.mark.skipif(_native.ACCEL is None, reason="the accelerator is not built")
def test_deliveries_cost_the_garbage_collector_nothing() -> None:
    with memory() as rig:
        queue = rig.queue()
        queue.publish_many([b"x"] * 3)
        consumer = queue.subscribe()
        kept = consumer.get()
        again = id(consumer.get())
        third = consumer.get()
        assert not gc.is_tracked(kept)
        assert not gc.is_tracked(third)
        assert id(third) == again  # its memory came back at once
        assert (kept.id, third.id) == (1, 3)


@pytest.mark.skipif(_native.ACCEL is None, reason="the accelerator is not built")
def test_deliveries_of_a_subclass_with_attributes_are_whole() -> None:
    class Mine(Delivery):
        pass

    with memory() as rig:
        queue = rig.queue()
        queue.publish_many([b"%d" % i for i in range(300)])
        consumer = _native.ConsumerBase(
            rig.client, rig.client.address, queue._qref, 0, 1, 0, 0, Mine
        )
        deliveries = consumer.get_many(300)
        for i, delivery in enumerate(deliveries):
            delivery.note = i
        assert [d.payload for d in deliveries] == [b"%d" % d.note for d in deliveries]
        consumer.ack_many(deliveries)
        del deliveries, delivery
        gc.collect()
        queue.publish(b"x")
        assert not hasattr(consumer.get(), "note")


@pytest.mark.skipif(_native.ACCEL is None, reason="the accelerator is not built")
@pytest.mark.parametrize("base", ["QueueBase", "ConsumerBase", "DeliveryBase"])
def test_both_bindings_have_the_same_members(base: str) -> None:
    def members(cls: type) -> set[str]:
        names = {name for name in vars(cls) if not name.startswith("__")}
        hooks = {"_publish_slow", "_publish_many_slow", "_recover", "_deadline"}
        return names - hooks - {"_ack_failed", "_ack_many_failed"}

    fast, slow = members(getattr(_native.ACCEL, base)), members(getattr(pure, base))
    own = {
        "QueueBase": {"_ctx_pointer"},
        "ConsumerBase": {
            "_ahead", "_ctx_pointer", "_delivery", "_get_until", "_hand_out", "_lease_settle",
            "_leases", "_limit", "_prefetch", "_spin_ns", "_take_one", "_taken",
        },
        "DeliveryBase": {"_lease", "_of", "_payload"},
    }[base]  # fmt: skip
    assert fast == slow - own


def test_the_stub_declares_every_function_of_the_header() -> None:
    header = (ROOT / "native" / "include" / "shmq.h").read_text(encoding="utf-8")
    fence = header.split("/* cffi: begin */")[1].split("/* cffi: end */")[0]
    stub = (ROOT / "shmq" / "_native" / "_shmq.pyi").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\b(shmq_\w+)\([^;{}]*\);", fence)) == sorted(
        re.findall(r"def (shmq_\w+)", stub)
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["queue", "delivery", "consumer"])
def test_everything_also_passes_over_cffi(name: str) -> None:
    """One process has one binding: the tests of this folder run again in another one."""
    if _native.ACCEL is None:
        pytest.skip("this is the run over cffi")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n0", str(HERE / f"test_{name}.py")],
        env={**os.environ, "SHMQ_NO_ACCEL": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
