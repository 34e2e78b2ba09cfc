"""The layout of a segment: written down once, the same for the C compiler and for cffi.

Processes of different builds may meet in one segment, so the layout may change only together with
``SHMQ_LAYOUT_VERSION``. ``native/abi/v<version>.txt`` holds every field of every struct in shared
memory. After a deliberate change: raise the version, then ``python tests/test_abi.py --write``.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shmq import _names, _values, errors, message, options, settings
from shmq._native import ffi, lib
from shmq._records import KINDS, OF_A_GROUP
from shmq._segment.owners import ROLES
from shmq.consumer import ACK_MODES
from shmq.delivery import DEATHS
from shmq.mp import compact, pickling
from shmq.settings import pack_defaults
from shmq.stats.counters import NAMES
from shmq.stats.queue import BOUNDS

ROOT = Path(__file__).resolve().parent.parent


def defined(path: str, name: str) -> float:
    """Return the number behind a #define."""
    found = re.search(rf"#define {name} +(\S+)", (ROOT / path).read_text(encoding="utf-8"))
    assert found
    return float(found[1])


def meta_compact() -> tuple[int, ...]:
    """Return how the headers of a compact item begin: the kind of the value, the length of its name."""
    text = (ROOT / "native" / "accel" / "items.c").read_text(encoding="utf-8")
    head = text.partition("META_COMPACT[6] = {")[2].partition("}")[0]
    return tuple(int(word) for word in head.split(",")[:2])


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
    "shmq_wait_one",
    "shmq_wait_set",
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
    "shmq_order",
    "shmq_kind",
    "shmq_expired",
    "shmq_durability",
    "shmq_mark",
    "shmq_item",
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
        align = ffi.alignof(struct)  # type: ignore[attr-defined]
        expected.append(f"{struct} {ffi.sizeof(struct)} {align}")
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
    assert tuple(names[: len(NAMES)]) == NAMES
    counts = {name: size for name, _, size in fields("shmq_counters")}
    assert counts.pop("waited") == counts.pop("held") == 20 * 8
    assert set(counts.values()) == {8}


# ---- numbers that both languages know -------------------------------------------------------------
# They are read from the header (lib.X) wherever Python may import it. shmq.errors and shmq.options
# may not, and shmq.settings need not: what stands there is compared here.


def enum(name: str) -> dict[str, int]:
    return {text: number for number, text in ffi.typeof(f"enum {name}").elements.items()}


TWINS = {
    "names.MAX_NAME_BYTES": (_names.MAX_NAME_BYTES, lib.SHMQ_NAME_MAX),
    "options.MAX_DEPTH": (options.MAX_DEPTH, lib.SHMQ_BLOCKS // 2),
    "options.MAX_DEDUP_IDS": (options.MAX_DEDUP_IDS, lib.SHMQ_DEDUP_MOST),
    "options.dedup_capacity": (options.QueueOptions.dedup_capacity, lib.SHMQ_DEDUP_DEFAULT),
    "options.MAX_RETRIES": (options.MAX_RETRIES, lib.SHMQ_ATTEMPTS_MAX - 1),
    "options.UNLIMITED_RETRIES": (options.UNLIMITED_RETRIES, lib.SHMQ_RETRIES_UNLIMITED),
    "options.priorities": (options.QueueOptions.priorities, lib.SHMQ_LEVELS),
    "settings.metrics": (pack_defaults(1, 1, False) ^ pack_defaults(1, 1), 1 << lib.SHMQ_NO_LATENCIES),
    "records.OF_A_GROUP": (OF_A_GROUP & (lib.SHMQ_COUNTED | lib.SHMQ_JOINED), 0),
    "figures.BOUNDS": (len(BOUNDS) + 1, lib.SHMQ_BUCKETS),
    "message.QUEUE_DEFAULT": (message.QUEUE_DEFAULT, lib.SHMQ_DELAY_DEFAULT),
    "compact.DEPTH": (compact.DEPTH, defined("native/accel/compact.c", "COMPACT_DEPTH")),
    "message.MAX_SECONDS": (defined("native/accel/fields.c", "SECONDS_MOST") < _values.MAX_SECONDS, True),
    "pickling._HEAD": (tuple(pickling._HEAD)[:2], meta_compact()),
    "overflow": (
        {f"SHMQ_{name.upper().replace('-', '_')}": i for i, name in enumerate(options.OVERFLOWS)},
        enum("shmq_overflow"),
    ),
    "order": (
        {"fifo": "SHMQ_FIFO", "key": "SHMQ_BY_KEY", "strict": "SHMQ_STRICT"},
        {options.ORDERS[number]: name for name, number in enum("shmq_order").items()},
    ),
    "expired": (
        {"dead-letter": "SHMQ_EXPIRED_DIES", "drop": "SHMQ_EXPIRED_DROPS"},
        {options.EXPIRED[number]: name for name, number in enum("shmq_expired").items()},
    ),
    "durability": (
        {f"SHMQ_DURABILITY_{name.upper()}": i for i, name in enumerate(options.DURABILITIES)},
        enum("shmq_durability"),
    ),
    "provider": (
        {f"SHMQ_{name.upper()}": i for i, name in enumerate(settings.PROVIDERS)},
        enum("shmq_provider"),
    ),
    "ack": (
        {f"SHMQ_ACK_{name.upper()}": i for i, name in enumerate(ACK_MODES)},
        enum("shmq_ack_mode"),
    ),
    "delivery.DEATHS": (DEATHS, ("", "retries", "rejected", "expired", "overflow")),
    "records.KINDS": (KINDS, ("queue", "topic", "subscription", "pattern", "member")),
    "owners.ROLES": (ROLES, ("client", "supervisor", "sidecar", "observer")),
}  # fmt: skip


@pytest.mark.parametrize("what", TWINS)
def test_a_number_is_the_same_in_both_languages(what: str) -> None:
    here, there = TWINS[what]
    assert here == there


def test_every_result_has_an_exception_and_every_exception_a_result() -> None:
    assert set(errors.RESULTS) == set(enum("shmq_rc")) - {"SHMQ_OK"}


# Names of numbers in C that Python has for something else.
OTHERS = {"BIG", "CHUNK", "FIELDS", "NAMES", "NEW", "OK", "POOL", "READY"}
MASKS = re.compile(
    r"& 0x[Ff]{4}\b|>> ?(8|16)\b|\) << ?16\b|counters\[\d|set_flag\([^,]+, \d|_mode [!=]= \d"
)
PACKED = {"settings.py", "names.py", "sysv.py"}  # words of their own: the user word, System V keys


def names_in_c() -> set[str]:
    """Every #define with a number and every enum constant of the C sources, without SHMQ_."""
    found = set()
    for path in [
        *ROOT.glob("native/accel/*.[ch]"),
        *ROOT.glob("native/src/*.h"),
        *ROOT.glob("native/include/*.h"),
    ]:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"#define (\w+) +[(\d]", text))
        for body in re.findall(r"enum \w* ?\{([^}]*)\}", text):
            found |= set(re.findall(r"\b([A-Z]\w+)", body))
    return {name.removeprefix("SHMQ_") for name in found} - OTHERS


def test_no_number_is_written_in_both_languages_unseen() -> None:
    there = names_in_c()
    assert {"EAGER", "OWNERS", "DEDUP_MOST", "COMPACT_DEPTH", "ACK"} <= there
    compared = {what.rpartition(".")[2] for what in TWINS}
    twins = []
    for path in sorted(ROOT.glob("shmq/**/*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name not in PACKED:
            twins += [f"{path.name}: {match[0]}" for match in MASKS.finditer(text)]
        for node in ast.parse(text).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            value: ast.expr | None = getattr(node, "value", None)
            parts = [] if value is None else list(ast.walk(value))
            literal = not any(
                isinstance(part, (ast.Name, ast.Attribute, ast.Call)) for part in parts
            )
            number = literal and any(
                isinstance(part, ast.Constant) and type(part.value) is int for part in parts
            )
            names = {
                part.id
                for target in targets
                for part in ast.walk(target)
                if isinstance(part, ast.Name)
            }
            twins += [f"{path.name}: {name}" for name in names & there - compared if number]
    assert twins == [], (
        "put them into the fence of shmq.h and read them as lib.X, or compare them in TWINS"
    )


if __name__ == "__main__" and "--write" in sys.argv:
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(layout(), encoding="utf-8")
    print(f"written: {GOLDEN.relative_to(ROOT)}")
