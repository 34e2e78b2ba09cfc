"""The layout of a segment: written down once, the same for the C compiler and for cffi.

Processes of different builds may meet in one segment, so the layout may change only together with
``SHMQ_LAYOUT_VERSION``. ``native/abi/v<version>.txt`` holds every field of every struct in shared
memory. After a deliberate change: raise the version, then ``python tests/test_abi.py --write``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shmq._native import ffi, lib
from shmq.figures import COUNTERS

ROOT = Path(__file__).resolve().parent.parent
SHARED = [
    "shmq_geometry",
    "shmq_header",
    "shmq_owner",
    "shmq_held",
    "shmq_block",
    "shmq_queue_options",
    "shmq_ring_place",
    "shmq_ring_ends",
    "shmq_queue",
    "shmq_counters",
]
PRIVATE = [
    "shmq_detail",
    "shmq_config",
    "shmq_message",
    "shmq_delivery",
    "shmq_segment_info",
    "shmq_sysv_info",
    "shmq_owner_info",
    "shmq_queue_info",
    "shmq_census",
    "shmq_audit_report",
]
# Public numbers that lie in shared memory or are exchanged between processes.
ENUMS = [
    "shmq_state",
    "shmq_owner_state",
    "shmq_queue_state",
    "shmq_reason",
    "shmq_provider",
    "shmq_overflow",
    "shmq_role",
]
GOLDEN = ROOT / "native" / "abi" / f"v{lib.SHMQ_LAYOUT_VERSION}.txt"


def fields(struct: str) -> list[tuple[str, int, int]]:
    """Return (name, offset, size) of every field, by cffi."""
    listed = ffi.typeof(struct).fields
    assert listed is not None
    return [(name, f.offset, ffi.sizeof(f.type)) for name, f in listed]


def layout() -> str:
    lines = []
    for struct in SHARED:
        lines.append(f"{struct} {ffi.sizeof(struct)}")
        lines += [f"{struct}.{name} {offset} {size}" for name, offset, size in fields(struct)]
    for enum in ENUMS:
        for value, name in sorted(ffi.typeof(f"enum {enum}").elements.items()):
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"


def test_layout_changes_only_with_its_version() -> None:
    assert GOLDEN.exists(), f"new layout version: python {Path(__file__).name} --write"
    assert GOLDEN.read_text(encoding="utf-8") == layout(), (
        "the layout of shared memory has changed: raise SHMQ_LAYOUT_VERSION, then "
        "python tests/test_abi.py --write"
    )


def test_every_older_layout_is_kept_on_record() -> None:
    for version in range(1, lib.SHMQ_LAYOUT_VERSION + 1):
        assert (ROOT / "native" / "abi" / f"v{version}.txt").exists()


def test_cffi_and_the_compiler_agree_on_every_field(tmp_path: Path) -> None:
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("no C compiler")
    expected, body = [], []
    for struct in SHARED + PRIVATE:
        expected.append(f"{struct} {ffi.sizeof(struct)} {ffi.alignof(struct)}")
        body.append(f'printf("{struct} %zu %zu\\n", sizeof({struct}), _Alignof({struct}));')
        for name, offset, size in fields(struct):
            expected.append(f"{struct}.{name} {offset} {size}")
            body.append(
                f'printf("{struct}.{name} %zu %zu\\n", offsetof({struct}, {name}), '
                f"sizeof((({struct} *)0)->{name}));"
            )
    source = tmp_path / "abi.c"
    source.write_text(
        '#include "shmq.h"\n#include <stdio.h>\nint main(void) {\n' + "\n".join(body) + "\n}\n",
        encoding="utf-8",
    )
    program = tmp_path / "abi"
    include = ROOT / "native" / "include"
    subprocess.run([cc, "-std=gnu11", f"-I{include}", "-o", program, source], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert printed.splitlines() == expected


def test_every_struct_of_the_header_is_covered() -> None:
    header = (ROOT / "native" / "include" / "shmq.h").read_text(encoding="utf-8")
    declared = {
        line.split("}")[-1].split(";")[0].strip()
        for line in header.splitlines()
        if line.startswith("} shmq_") or (line.startswith("typedef struct {") and "}" in line)
    }
    assert declared == set(SHARED + PRIVATE)


def test_the_order_of_counters_is_that_of_the_struct() -> None:
    assert ffi.sizeof("shmq_counters") == 64 * 8
    names = [name for name, _, _ in fields("shmq_counters")]
    assert tuple(names[: len(COUNTERS)]) == COUNTERS
    counts = {name: size for name, _, size in fields("shmq_counters")}
    assert counts.pop("waited") == counts.pop("held") == 20 * 8
    assert set(counts.values()) == {8}


if __name__ == "__main__" and "--write" in sys.argv:
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(layout(), encoding="utf-8")
    print(f"written: {GOLDEN.relative_to(ROOT)}")
