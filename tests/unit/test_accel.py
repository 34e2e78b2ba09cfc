"""The two bindings of the hot calls: both there, both passing the same tests."""

from __future__ import annotations

import gc
import inspect
import keyword
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
@pytest.mark.parametrize("base", ["SenderBase", "QueueBase", "ConsumerBase", "DeliveryBase"])
def test_both_bindings_have_the_same_members(base: str) -> None:
    def members(cls: type) -> set[str]:
        names = {name for name in vars(cls) if not name.startswith("__")}
        hooks = {"_publish_slow", "_publish_many_slow", "_loan_slow", "_recover", "_deadline"}
        return names - hooks - {"_ack_failed", "_ack_many_failed", "_headers_slow"}

    fast, slow = members(getattr(_native.ACCEL, base)), members(getattr(pure, base))
    own = {
        "SenderBase": {"_ctx_pointer", "_one", "_some"},
        "QueueBase": set(),
        "ConsumerBase": {
            "_ahead", "_ctx_pointer", "_delivery", "_get_until", "_hand_out", "_lease_forward", "_lease_settle",
            "_leases", "_limit", "_over", "_prefetch", "_spin_ns", "_take_one", "_taken",
        },
        "DeliveryBase": {"_end_of_view", "_lease", "_of", "_payload", "_view_end"},
    }[base]  # fmt: skip
    assert fast == slow - own


BASES = ["SenderBase", "QueueBase", "ConsumerBase", "DeliveryBase", "ItemsBase"]


@pytest.mark.skipif(_native.ACCEL is None, reason="the accelerator is not built")
@pytest.mark.parametrize("base", BASES)
def test_both_bindings_say_the_same_of_themselves(base: str) -> None:
    slow = getattr(pure, base)
    for name, told in vars(slow).items():
        if name.startswith("_"):
            continue
        fast = vars(getattr(_native.ACCEL, base))[name]
        assert told.__doc__, name
        assert inspect.getdoc(fast) == inspect.getdoc(told), name
        if callable(told):
            _, *parameters = inspect.signature(told).parameters.values()
            plain = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
            assert [*inspect.signature(fast).parameters.values()][1:] == plain, name


STUB = ROOT / "shmq" / "_native" / "_shmq.pyi"
STUB_HEAD = '''"""Types of the cffi extension: every function and constant in the fence of native/include/shmq.h.

Generated: `python tests/unit/test_accel.py` writes it anew.

`CData` is where static typing ends: the members of a C struct are known to cffi only.
"""

from typing import Any, Final, TypeAlias

CData: TypeAlias = Any

class FFI:
    NULL: Final[CData]
    buffer: Any
    error: type[Exception]
    errno: int

    def new(self, cdecl: str, init: Any = ...) -> CData: ...
    def cast(self, cdecl: str, source: Any) -> CData: ...
    def from_buffer(self, source: Any, require_writable: bool = ...) -> CData: ...
    def gc(self, cdata: CData, destructor: Any, size: int = ...) -> CData: ...
    def addressof(self, cdata: CData, *fields: str | int) -> CData: ...
    def string(self, cdata: CData, maxlen: int = ...) -> Any: ...
    def unpack(self, cdata: CData, length: int) -> Any: ...
    def memmove(self, dest: Any, src: Any, n: int) -> None: ...
    def typeof(self, cdecl: str | CData) -> Any: ...
    def sizeof(self, cdecl: str | CData) -> int: ...
    def offsetof(self, cdecl: str | CData, *fields: str | int) -> int: ...

ffi: FFI

class Lib:
'''


def stub_text() -> str:
    """Return the stub for the header as it is."""
    header = (ROOT / "native" / "include" / "shmq.h").read_text(encoding="utf-8")
    fence = header.split("/* cffi: begin */")[1].split("/* cffi: end */")[0]
    fence = re.sub(r"/\*.*?\*/", "", fence, flags=re.DOTALL)
    constants = re.findall(r"#define (\w+) ", fence)
    for body in re.findall(r"enum \w+ \{(.*?)\}", fence, re.DOTALL):
        constants += re.findall(r"(SHMQ_\w+)", body)
    lines = [f"    {name}: Final[int]" for name in constants]
    for match in re.finditer(r"^([\w ]+[ *]+)(shmq_\w+)\(([^)]*)\);", fence, re.MULTILINE):
        result, name, arguments = match.groups()
        returns = "CData" if "*" in result else "None" if result.strip() == "void" else "int"
        parameters = []
        for argument in arguments.split(","):
            if argument.strip() != "void":
                kind, of = re.fullmatch(r"(.*?[ *])(\w+)", argument.strip()).groups()  # type: ignore[union-attr]
                text = "CData | bytes" if re.match(r"const (void|char)\b", kind) else "CData"
                parameters.append(f"{_python_name(of)}: {text if '*' in kind else 'int'}")
        listed = ", ".join([*parameters, *(["/"] if parameters else [])])
        prototype = " ".join(match[0].split())
        head = f"    def {name}({listed}) -> {returns}:"
        if len(head) > 100:  # as the formatter would
            head = f"    def {name}(\n        {listed}\n    ) -> {returns}:"
        if len(listed) > 92:
            each = "".join(f"        {one},\n" for one in listed.split(", "))
            head = f"    def {name}(\n{each}    ) -> {returns}:"
        lines += ["", "    @staticmethod", head, f'        """{prototype}"""']
    return STUB_HEAD + "\n".join(lines) + "\n\nlib: Lib\n"


def _python_name(name: str) -> str:
    return name + "_" if keyword.iskeyword(name) else name


def test_the_stub_is_of_this_header() -> None:
    assert STUB.read_text(encoding="utf-8") == stub_text(), "run python tests/unit/test_accel.py"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["queue", "delivery", "consumer", "topic"])
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


if __name__ == "__main__":
    STUB.write_text(stub_text(), encoding="utf-8")
