"""The floors: a module imports from floors below it, never from one above; a C file calls what is below.

The table is the architecture. A new module has to be put into it before this test passes, which
is the moment to think about where it belongs.
"""

from __future__ import annotations

import ast
import concurrent.futures
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Module or package (with everything in it) -> floor. The longest name that fits counts.
# Listing a module that does not exist yet is fine.
FLOORS = {
    # 0: words and pure rules: no native code, no clock, no I/O
    "shmq._version": 0,
    "shmq.errors": 0,
    "shmq._values": 0,
    "shmq._names": 0,
    "shmq.options": 0,
    "shmq.keywords": 0,
    "shmq.stats": 0,
    "shmq.stats.counters": 0,
    "shmq.model": 0,
    # 1: the binding of the C core
    "shmq._native": 1,
    "shmq._descriptors": 1,
    "shmq._locks": 1,
    # 2: memory, and this process's place in it
    "shmq._segment": 2,
    "shmq.settings": 2,
    "shmq._client": 2,
    "shmq._hub": 2,
    "shmq._aio": 2,
    "shmq.serializers": 2,
    # 3: the nouns of a queue
    "shmq.message": 3,
    "shmq._sender": 3,
    "shmq.delivery": 3,
    "shmq.stats.queue": 3,
    "shmq._loan": 3,
    "shmq.queue": 3,
    "shmq.consumer": 3,
    "shmq.topic": 3,
    "shmq._records": 3,
    "shmq._drain": 3,
    "shmq.group": 3,
    "shmq.store": 3,
    # 4: the processes that serve a broker
    "shmq.supervisor": 4,
    "shmq.sidecar": 4,
    # 5: the broker
    "shmq.stats.broker": 5,
    "shmq.broker": 5,
    # 6: what is built on a broker
    "shmq.home": 6,
    "shmq.testing": 6,
    "shmq.metrics": 6,
    "shmq.otel": 6,
    "shmq.mp": 6,
    "shmq.workers": 6,
    "shmq.server": 6,
    "shmq.top": 6,
    # 7: the faces
    "shmq.cli": 7,
    "shmq.__main__": 7,
    "shmq": 7,
}


def floor_of(module: str) -> int | None:
    """Return the floor of ``module``; None if the table has no place for it."""
    name = module
    while name != "shmq":
        if name in FLOORS:
            return FLOORS[name]
        name = name.rpartition(".")[0]
    return FLOORS["shmq"] if module == "shmq" else None


def modules_of(package: Path) -> dict[str, Path]:
    """Return {dotted name: file} of a package, itself included."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(
    module: str, source: str, is_package: bool, known: set[str]
) -> set[tuple[str, bool]]:
    """Return the shmq modules that ``module`` names, each with whether it is for types only.

    Imports inside functions count like any other: a late import is how an upward one hides.
    """
    found: set[tuple[str, bool]] = set()
    for node, typing_only in _walk(ast.parse(source), typing_only=False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")
                up = up[: len(up) - node.level + (1 if is_package else 0)]
                base = ".".join([*up, *([base] if base else [])])
            # `from shmq import errors` names a module, `from shmq.errors import X` a member.
            targets = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
                for alias in node.names
            ]
        else:
            continue
        found |= {(t, typing_only) for t in targets if t == "shmq" or t.startswith("shmq.")}
    return {(target, typing_only) for target, typing_only in found if target != module}


def _walk(node: ast.AST, typing_only: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, typing_only
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for statement in node.body:
            yield from _walk(statement, True)
        for statement in node.orelse:
            yield from _walk(statement, typing_only)
        return
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, typing_only)


def violations(modules: dict[str, Path]) -> list[str]:
    """Return one sentence for each breach of the table."""
    wrong = []
    sideways: dict[str, set[str]] = {}
    for module, path in modules.items():
        floor = floor_of(module)
        if floor is None:
            wrong.append(f"{module} has no floor: put it into FLOORS")
            continue
        source = path.read_text(encoding="utf-8")
        for target, typing_only in sorted(
            imports_of(module, source, path.name == "__init__.py", set(modules))
        ):
            below = floor_of(target)
            if below is None:
                wrong.append(f"{module} imports {target}, which has no floor: put it into FLOORS")
            elif below > floor:
                wrong.append(f"{module} (floor {floor}) imports upwards: {target} (floor {below})")
            elif below == floor and not typing_only:
                sideways.setdefault(module, set()).add(target)
    wrong += [f"imports in a circle: {' -> '.join(circle)}" for circle in circles(sideways)]
    return wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the circles of ``graph`` that a depth-first walk closes, each once."""
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(node: str, trail: list[str]) -> None:
        if node in trail:
            found.append([*trail[trail.index(node) :], node])
            return
        if node in done:
            return
        for target in sorted(graph.get(node, ())):
            visit(target, [*trail, node])
        done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def test_no_module_imports_upwards_or_in_a_circle() -> None:
    modules = modules_of(ROOT / "shmq")
    assert "shmq" in modules
    assert not violations(modules)


# ---- the check is checked -----------------------------------------------------------------------


def lay_out(root: Path, files: dict[str, str]) -> dict[str, Path]:
    for name, text in {"__init__.py": "", **files}.items():
        path = root / "shmq" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return modules_of(root / "shmq")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"errors.py": "from shmq import broker", "broker.py": ""}, "upwards: shmq.broker"),
        ({"errors.py": "from .broker import X", "broker.py": ""}, "upwards: shmq.broker"),
        ({"errors.py": "import shmq.broker", "broker.py": ""}, "upwards: shmq.broker"),
        ({"errors.py": "import shmq"}, "upwards: shmq (floor 7)"),
        ({"model/retry.py": "from .. import broker", "broker.py": ""}, "upwards: shmq.broker"),
        ({"errors.py": "def f():\n    from shmq.broker import X"}, "upwards: shmq.broker"),
        ({"queue.py": "from . import consumer", "consumer.py": "from .queue import Q"}, "circle"),
        ({"blob.py": ""}, "shmq.blob has no floor"),
        ({"broker.py": "from shmq.blob import X"}, "imports shmq.blob, which has no floor"),
        (
            {
                "errors.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                "    from shmq.broker import Broker"
            },
            "upwards: shmq.broker",
        ),
    ],
)
def test_a_breach_is_reported(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    wrong = violations(lay_out(tmp_path, files))
    assert len(wrong) == 1
    assert complaint in wrong[0]


@pytest.mark.parametrize(
    "files",
    [
        {
            "broker.py": "from shmq import errors\nfrom .queue import Q",
            "queue.py": "",
            "errors.py": "",
        },
        {"consumer.py": "from .queue import Q", "queue.py": ""},
        {"model/__init__.py": "from .retry import delay", "model/retry.py": "import queue"},
        {"__init__.py": "from .broker import Broker", "broker.py": ""},
        {
            "queue.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from .consumer import Consumer",
            "consumer.py": "from .queue import Q",
        },
    ],
)
def test_imports_downwards_and_sideways_are_fine(tmp_path: Path, files: dict[str, str]) -> None:
    assert violations(lay_out(tmp_path, files)) == []


# ---- the C core ---------------------------------------------------------------------------------
# A file calls what is on its own floor or below, never above, and nothing in a circle. The arrows come from the object files: a
# symbol that one needs and another one defines. So a call that no `#include` shows, of a function of the public header, counts too.

NATIVE = ROOT / "native"
INCLUDES = [f"-I{NATIVE / 'include'}", f"-I{NATIVE / 'src'}"]

# A new file has to be put here before this test passes, and into docs/architecture.md on the same floor.
C_FLOORS = {
    # 0: words, atomics, the context
    0: "atomic words ctx crash",
    # 1: what knows no block
    1: "hash sort clock waiter figures barrier segment hints",
    # 2: the objects in shared memory, each by itself
    2: "arena fan free ring ids owner admin park sysv",
    # 3: a queue, as a whole
    3: "queue order level room dedup census span close collect life",
    # 4: where a message goes
    4: "route",
    # 5: what users and helpers call
    5: "publish take settle unpark topic timers expire lease refs",
    # 6: several of these at once
    6: "forward recover",
    # 7: a process, as a whole
    7: "attach wait many audit",
}
C_FLOOR = {name: floor for floor, names in C_FLOORS.items() for name in names.split()}

RAW = re.compile(r"__atomic_|__sync_|\batomic_\w+\(|\bmemory_order_")


def symbols_of(source: Path, out: Path) -> tuple[str, set[str], set[str]]:
    """Return (file, what it defines for others, what it needs), as compiled with crash points."""
    built = out / f"{source.stem}.o"
    compiler = os.environ.get("CC", "cc")
    words = [compiler, "-std=gnu11", "-O0", "-w", "-pthread", "-DSHMQ_CRASHPOINTS", *INCLUDES]
    subprocess.run([*words, "-c", str(source), "-o", str(built)], check=True, timeout=120)
    listed = subprocess.run(["nm", built], check=True, capture_output=True, text=True, timeout=60)
    rows = [line.split()[-2:] for line in listed.stdout.splitlines()]
    defines = {name for kind, name in rows if kind in "TDBRC"}
    return source.stem, defines, {name for kind, name in rows if kind == "U"}


def arrows_between(sources: list[Path], out: Path) -> dict[str, dict[str, set[str]]]:
    """Return {file: {file that it needs: symbols}}."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        known = list(pool.map(lambda source: symbols_of(source, out), sources))
    home = {symbol: name for name, defines, _ in known for symbol in defines}
    found: dict[str, dict[str, set[str]]] = {}
    for name, _, needs in known:
        for symbol in needs:
            if home.get(symbol, name) != name:
                found.setdefault(name, {}).setdefault(home[symbol], set()).add(symbol)
    return found


def included(sources: list[Path]) -> dict[str, dict[str, set[str]]]:
    """The same by `#include`, headers and all; the pair x.c and x.h is one."""
    found: dict[str, dict[str, set[str]]] = {}
    for source in sources:
        for line in re.findall(r'(?m)^#include "(\w+)\.h"', source.read_text()):
            if line not in (source.stem, "shmq"):
                found.setdefault(source.stem, {}).setdefault(line, set()).add(f"{line}.h")
    return found


def c_violations(arrows: dict[str, dict[str, set[str]]], floor: dict[str, int]) -> list[str]:
    """Return one sentence for each breach of the table."""
    met = {*arrows, *(to for each in arrows.values() for to in each)}
    wrong = [f"{name} has no floor: put it into C_FLOORS" for name in sorted(met - set(floor))]
    sideways: dict[str, set[str]] = {}
    for name, targets in sorted(arrows.items()):
        for to, by in sorted(targets.items()):
            if name not in floor or to not in floor:
                continue
            if floor[to] > floor[name]:
                why = f"{name} (floor {floor[name]}) needs {', '.join(sorted(by))}"
                wrong.append(f"{why} of {to}, above it (floor {floor[to]})")
            elif floor[to] == floor[name]:
                sideways.setdefault(name, set()).add(to)
    return wrong + [f"in a circle: {' -> '.join(circle)}" for circle in circles(sideways)]


def test_no_c_file_calls_upwards_or_in_a_circle(tmp_path: Path) -> None:
    sources = sorted((NATIVE / "src").glob("*.c"))
    arrows = arrows_between(sources, tmp_path)
    assert "free" in arrows["settle"]  # it sees something
    assert {source.stem for source in sources} <= set(C_FLOOR)
    assert c_violations(arrows, C_FLOOR) == []


def test_no_c_file_includes_upwards_or_in_a_circle() -> None:
    assert c_violations(included(sorted((NATIVE / "src").glob("*.[ch]"))), C_FLOOR) == []


def test_the_c_floors_are_those_of_the_architecture() -> None:
    told: dict[str, int] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if row := re.match(r"\| C (\d) \| (.*?) \|", line):
            told |= dict.fromkeys(re.findall(r"\[src/(\w+)\.[ch]\]", row[2]), int(row[1]))
    assert told == C_FLOOR


def test_only_atomic_h_has_atomics() -> None:
    raw = {path.name for path in (NATIVE / "src").glob("*.[ch]") if RAW.search(path.read_text())}
    assert raw == {"atomic.h"}


@pytest.mark.parametrize(
    ("one", "two", "complaint"),
    [
        ("int a(void) { return 1; }", "int a(void); int b(void) { return a(); }", ""),
        ("int b(void); int a(void) { return b(); }", "int b(void) { return 1; }", "above it"),
        (
            "int b(void); int a(void) { return b(); }",
            "int a(void); int b(void) { return a(); }",
            "above it",
        ),
    ],
)
def test_a_breach_in_c_is_reported(tmp_path: Path, one: str, two: str, complaint: str) -> None:
    (tmp_path / "one.c").write_text(one)
    (tmp_path / "two.c").write_text(two)
    arrows = arrows_between([tmp_path / "one.c", tmp_path / "two.c"], tmp_path)
    wrong = c_violations(arrows, {"one": 1, "two": 2})
    assert [complaint in each for each in wrong] == ([True] if complaint else [])


def test_a_circle_on_one_floor_in_c_is_reported() -> None:
    arrows = {"one": {"two": {"b"}}, "two": {"one": {"a"}}}
    assert c_violations(arrows, {"one": 1, "two": 1}) == ["in a circle: one -> two -> one"]
    assert c_violations({"one": {"two": {"b"}}}, {"one": 1}) == [
        "two has no floor: put it into C_FLOORS"
    ]
