"""Serializers: what goes in comes out, straight through shared memory, and errors say what to do."""

from __future__ import annotations

import array
import asyncio
import gc
import json
import pickle
import sys
from typing import Any

import numpy
import pytest
from rig import Rig

import shmq
from shmq import serializers
from shmq._native import lib
from shmq.errors import InvalidOption, InvalidOptionType, MissingPackage, StaleDelivery
from shmq.queue import Queue
from shmq.serializers import Encoded
from shmq.serializers import pickle as pickled


def through(queue: Queue, obj: Any, serializer: Any) -> shmq.Delivery:
    """The delivery of ``obj``; keeps its consumer."""
    sent = queue.publish(obj, serializer=serializer)
    delivery = queue.subscribe().get(timeout=5)
    assert delivery.id == sent
    return delivery


def inside(delivery: shmq.Delivery, owner: Any) -> bool:
    """Whether an array's memory is the delivery's, in shared memory."""
    whole = numpy.frombuffer(delivery.view, "u1")
    start = owner.__array_interface__["data"][0]
    begin = whole.__array_interface__["data"][0]
    return bool(begin <= start < begin + whole.nbytes)


PLAIN = {"name": "café", "n": 17, "x": 1.5, "list": [1, None, True], "nested": {"a": "b"}}


@pytest.mark.parametrize("name", ["pickle", "json", "msgpack", "msgspec"])
def test_plain_objects_go_through(rig: Rig, name: str) -> None:
    if name.startswith("msg"):
        pytest.importorskip(name)
    delivery = through(rig.queue(), PLAIN, name)
    assert delivery.headers == {"content-type": serializers.find(name).content_type}
    assert delivery.object() == PLAIN
    assert delivery.object(name) == PLAIN
    delivery.ack()
    assert delivery.object() == PLAIN  # small ones are copied at delivery


@pytest.mark.parametrize("name", ["pickle", "json", "msgpack", "msgspec"])
def test_large_plain_objects_go_through_and_need_the_lease(rig: Rig, name: str) -> None:
    if name.startswith("msg"):
        pytest.importorskip(name)
    obj = [f"{i:0100}" for i in range(100)]
    delivery = through(rig.queue(), obj, name)
    assert delivery.object() == obj
    delivery.ack()
    with pytest.raises(StaleDelivery):
        delivery.object()


def test_raw_is_the_memory_itself(rig: Rig) -> None:
    data = bytes(range(256)) * 100
    delivery = through(rig.queue(), bytearray(data), "raw")
    view = delivery.object()
    assert isinstance(view, memoryview)
    assert view.readonly
    assert view == data
    copy = delivery.object(copy=True)
    assert type(copy) is bytes
    assert copy == data
    delivery.ack()
    assert view == data


def test_a_pickle_without_large_buffers_is_a_plain_pickle(rig: Rig) -> None:
    small = numpy.arange(10)
    delivery = through(rig.queue(), (small, "text"), "pickle")
    array_, text = pickle.loads(delivery.payload)
    assert (array_ == small).all()
    assert text == "text"


def test_arrays_lie_in_shared_memory_or_own_their_memory(rig: Rig) -> None:
    queue = rig.queue()
    first, second = numpy.arange(5000.0), numpy.ones((30, 70), "i4")
    delivery = through(queue, {"a": first, "b": [second, first[:3]]}, "pickle")
    seen = delivery.object()
    own = delivery.object(copy=True)
    for found in (seen, own):
        assert (found["a"] == first).all()
        assert (found["b"][0] == second).all()
        assert (found["b"][1] == first[:3]).all()
    assert inside(delivery, seen["a"])
    assert inside(delivery, seen["b"][0])
    assert not seen["a"].flags.writeable
    assert not inside(delivery, own["a"])
    assert own["a"].flags.writeable
    assert seen["a"].__array_interface__["data"][0] % 64 == 0


def test_arrays_outlive_the_settle_and_give_their_memory_back(rig: Rig) -> None:
    queue = rig.queue()
    delivery = through(queue, numpy.arange(100_000), "pickle")
    seen = delivery.object()
    delivery.ack()
    del delivery
    queue.publish_many([bytes(800_200)] * 5)  # would overwrite it if the block were free
    assert (seen == numpy.arange(100_000)).all()
    queue.purge()
    assert rig.states()[lib.SHMQ_LIMBO] == 1
    del seen
    gc.collect()
    assert rig.states()[lib.SHMQ_LIMBO] == 0


def test_a_read_only_array_stays_read_only_also_as_a_copy(rig: Rig) -> None:
    fixed = numpy.frombuffer(bytes(8000), "u1")
    assert not through(rig.queue(), fixed, "pickle").object(copy=True).flags.writeable


def test_what_is_not_contiguous_is_pickled_as_ever(rig: Rig) -> None:
    striped = numpy.arange(20_000)[::2]
    assert (through(rig.queue(), striped, "pickle").object() == striped).all()
    stdlib = array.array("d", range(2000))
    assert through(rig.queue("array"), stdlib, "pickle").object() == stdlib


@pytest.mark.parametrize("cut", [1, 8, 16, 100, 9000])
def test_a_truncated_pickle_is_an_error(cut: int) -> None:
    encoded = pickled.dump(numpy.arange(2000))
    assert isinstance(encoded, Encoded)
    whole = bytes(encoded.to_bytes())
    damaged = whole[:100] + whole[100 + cut :]
    with pytest.raises((pickle.UnpicklingError, ValueError, EOFError)):
        pickled.load(memoryview(damaged), copy=True)


def test_reducers_of_multiprocessing_are_used(rig: Rig) -> None:
    from multiprocessing.reduction import ForkingPickler

    class Odd:
        pass

    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickled.dump(Odd())
    ForkingPickler.register(Odd, lambda odd: (str, ("odd",)))
    try:
        assert through(rig.queue(), [Odd()], "pickle").object() == ["odd"]
    finally:
        del ForkingPickler._extra_reducers[Odd]  # type: ignore[attr-defined]


def test_json_refuses_what_is_no_json(rig: Rig) -> None:
    queue = rig.queue()
    for wrong in (float("nan"), b"bytes", object()):
        with pytest.raises((TypeError, ValueError)):
            queue.publish(wrong, serializer="json")
    assert queue.depth() == 0


def test_raw_refuses_what_has_no_bytes(rig: Rig) -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        rig.queue().publish("text", serializer="raw")


# ---- arrow ----------------------------------------------------------------------------------------


@pytest.fixture
def table() -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.table(
        {"n": pa.array(range(10_000), pa.int64()), "t": [f"row {i}" for i in range(10_000)]},
        metadata={"origin": "test"},
    )


def test_a_table_lies_in_shared_memory(rig: Rig, table: Any) -> None:
    delivery = through(rig.queue(), table, "arrow")
    found = delivery.object()
    assert found.equals(table, check_metadata=True)
    assert inside(delivery, found["n"].chunk(0).to_numpy())
    own = delivery.object(copy=True)
    assert own.equals(table)
    assert not inside(delivery, own["n"].chunk(0).to_numpy())
    delivery.ack()
    del delivery
    assert found.equals(table)


def test_a_record_batch_comes_back_as_one(rig: Rig, table: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    batch = table.to_batches()[0].slice(5, 100)
    found = through(rig.queue(), batch, "arrow").object()
    assert isinstance(found, pa.RecordBatch)
    assert found.equals(batch, check_metadata=True)
    empty = batch.slice(0, 0)
    assert through(rig.queue("e"), empty, "arrow").object().equals(empty)


def test_a_plain_stream_of_somebody_else_is_read(rig: Rig, table: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    queue = rig.queue()
    queue.publish(sink.getvalue())
    assert queue.subscribe().get(timeout=5).object("arrow").equals(table)


def test_data_frames_come_back_as_what_they_were(rig: Rig) -> None:
    pytest.importorskip("pyarrow")
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    columns = {"a": [1, 2, 3], "b": ["x", "y", None], "c": [0.5, 1.5, 2.5]}
    frame = pandas.DataFrame(columns, index=[10, 20, 30])
    found = through(rig.queue("pandas"), frame, "arrow").object()
    pandas.testing.assert_frame_equal(found, frame)
    quick = polars.DataFrame(columns)
    found = through(rig.queue("polars"), quick, "arrow").object()
    assert isinstance(found, polars.DataFrame)
    assert found.equals(quick)


def test_arrow_refuses_what_is_no_table(rig: Rig) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(TypeError, match="found list, expected a pyarrow Table"):
        rig.queue().publish([1, 2], serializer="arrow")


# ---- the registry ---------------------------------------------------------------------------------


class Upper:
    name = "upper"
    content_type = "text/x-upper"

    def encode(self, obj: str) -> bytes:
        return obj.upper().encode()

    def decode(self, data: memoryview, *, copy: bool) -> str:
        return bytes(data).decode()


def test_a_serializer_of_ones_own_needs_no_registration_to_be_given(rig: Rig) -> None:
    delivery = through(rig.queue(), "text", Upper())
    assert delivery.object(Upper()) == "TEXT"
    with pytest.raises(
        InvalidOption, match=r"content-type 'text/x-upper', expected one of.*register"
    ):
        delivery.object()


def test_a_registered_serializer_is_found_by_name_and_content_type(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serializers, "_found", dict(serializers._found))
    monkeypatch.setattr(serializers, "_registered_by_type", {})
    serializers.register(Upper())
    assert through(rig.queue(), "text", "upper").object() == "TEXT"


@pytest.mark.parametrize("wrong", [17, None, object(), Upper])
def test_what_is_no_serializer_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOptionType, match="encode and decode"):
        serializers.register(wrong)


def test_an_unknown_name_lists_the_known_ones(rig: Rig) -> None:
    with pytest.raises(InvalidOption, match="found 'yaml', expected one of arrow, json, msgpack"):
        rig.queue().publish({}, serializer="yaml")


def test_a_message_without_content_type_says_what_to_do(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish(b"{}")
    delivery = queue.subscribe().get(timeout=5)
    with pytest.raises(InvalidOption, match=r"no header 'content-type'.*say object"):
        delivery.object()
    assert delivery.object("json") == {}


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("arrow", "pyarrow", "arrow"),
        ("msgpack", "msgpack", "msgpack"),
        ("msgspec", "msgspec.msgpack", "msgspec"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(serializers, "_found", {})
    with pytest.raises(MissingPackage, match=rf"pip install 'shmq\[{extra}\]'") as caught:
        serializers.find(name)
    assert isinstance(caught.value, ImportError)


def test_either_package_reads_msgpack(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("msgspec")
    pytest.importorskip("msgpack")
    delivery = through(rig.queue(), PLAIN, "msgpack")
    monkeypatch.setattr(serializers, "_found", {})
    monkeypatch.setitem(sys.modules, "msgpack", None)
    assert delivery.object() == PLAIN


def test_fields_of_the_message_go_along(rig: Rig) -> None:
    queue = rig.queue()
    for obj in ({"small": 1}, numpy.zeros(5000)):
        queue.publish(
            obj, serializer="pickle", headers={"table": 7}, priority=3, key="k", timeout=1.0
        )
        delivery = queue.subscribe().get(timeout=5)
        assert delivery.headers == {"content-type": "application/x-python-pickle", "table": 7}
        assert (delivery.priority, delivery.key) == (3, "k")
        delivery.ack()


def test_a_content_type_of_ones_own_stays(rig: Rig) -> None:
    queue = rig.queue()
    queue.publish({}, serializer="json", headers={"content-type": "application/json; v=2"})
    delivery = queue.subscribe().get(timeout=5)
    assert delivery.headers["content-type"] == "application/json; v=2"
    assert delivery.object() == {}


def test_objects_are_published_under_asyncio(rig: Rig) -> None:
    queue = rig.queue()

    async def run() -> None:
        await queue.apublish({"a": 1}, serializer="json")
        await queue.apublish(numpy.arange(3000), serializer="pickle")
        async with queue.subscribe(ack="auto") as consumer:
            first = await consumer.aget(5)
            assert json.loads(first.payload) == {"a": 1}
            assert (await consumer.aget(5)).object()[2999] == 2999

    asyncio.run(run())


def test_topics_publish_objects_too(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        topic = broker.create_topic("t")
        consumers = [topic.subscribe("a"), topic.subscribe("b")]
        for obj in ({"a": 1}, numpy.arange(5000).tolist(), numpy.arange(5000)):
            sent = topic.publish(obj, serializer="pickle")
            for consumer in consumers:
                delivery = consumer.get(timeout=5)
                assert delivery.id == sent
                assert (numpy.array(delivery.object()) == numpy.array(obj)).all()


def test_a_repeated_object_is_recognised_by_its_dedup_id(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("q", dedup_window=60)
        for obj in ({"a": 1}, numpy.arange(5000)):
            first = queue.publish(obj, serializer="pickle", dedup_id=f"{type(obj)}")
            assert queue.publish(obj, serializer="pickle", dedup_id=f"{type(obj)}") == first
        assert queue.depth() == 2
