"""What is public and what is not can be seen from names, and a module keeps to its own.

Three rules. A module in `shmq/` that users do not import has a name with an underscore. No module uses a name with an
underscore of another module: neither imports it, nor reads it as an attribute of an object whose class is elsewhere.
And the list of public modules in docs/architecture.md is the one that is here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import shmq

ROOT = Path(__file__).resolve().parent.parent

# Modules that users import, beside the homes of the names that `shmq` itself gives.
IMPORTED = {"home", "keywords", "metrics", "mp", "otel", "serializers"}
# Programs: they are started, not imported.
PROGRAMS = {"cli", "sidecar", "supervisor"}

# Names of the standard library that begin with an underscore, and what they are for.
FOREIGN = {
    "_exit",  # os: documented
    "_asdict",  # of named tuples: documented
    "_replace",  # of named tuples: documented
    "_current_frames",  # sys: documented
    "_base_executable",  # sys: the interpreter that a virtual environment was made from
    "_inheriting",  # multiprocessing: whether a child still gets its arguments
    "_python_exe",  # multiprocessing: what set_executable() was told
    "_extra_reducers",  # multiprocessing: how objects are pickled that it knows
    *("_resource_tracker", "_forkserver", "_fd", "_forkserver_alive_fd"),  # multiprocessing: its descriptors
    *("_wrapper", "_state", "_args"),  # multiprocessing: what its finalizers will close
    *("_RLock", "_at_fork_reinit", "_recursion_count"),  # threading: what a lock that survives a fork is made of
    "_register_atexit",  # threading: before threads are joined
}  # fmt: skip


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.AST) -> set[str]:
    """Return the names that a module defines, and the members that its own classes use of themselves."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and (
            isinstance(node.ctx, ast.Store)
            or (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        ):
            found.add(node.attr)
    return found


def trespasses(source: str, modules: set[str], own: Iterable[str] = ()) -> Iterator[str]:
    """Yield what a module takes of others that is not for it. ``modules``: names of modules, which may be imported."""
    tree = ast.parse(source)
    own = {*own, *own_names(tree)}
    for node in ast.walk(tree):
        taken: list[str]
        if isinstance(node, ast.Attribute):
            taken = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            taken = [alias.name for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "hasattr")
            and isinstance(node.args[1], ast.Constant)
        ):
            taken = [str(node.args[1].value)]
        else:
            continue
        for name in taken:
            if private(name) and not {name} & (own | modules | FOREIGN):
                yield f"line {node.lineno}: {name}"


MODULES = {path.stem if path.is_file() else path.name for path in (ROOT / "shmq").rglob("*")}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "shmq").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_module_uses_a_name_with_an_underscore_of_another(path: Path) -> None:
    extensions = {"_accel"} if path.parent.name == "_native" else set()
    own: set[str] = set()
    if path.parent.name == "pure":  # one binding in several files, as the accelerator is in C
        own.update(*(own_names(ast.parse(each.read_text())) for each in path.parent.glob("*.py")))
    assert list(trespasses(path.read_text(encoding="utf-8"), MODULES | extensions, own)) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def f(queue): return queue._client", "_client"),
        ("def f(queue): queue.consumers[0]._close()", "_close"),
        ("from shmq.mp.items import _seconds", "_seconds"),
        ("def f(queue): return getattr(queue, '_client', None)", "_client"),
    ],
)
def test_a_trespass_is_reported(source: str, name: str) -> None:
    assert list(trespasses(source, {"_native"})) == [f"line 1: {name}"]


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def f(self, other): return self._x + other._x",
        "from shmq import _native\nfrom shmq._native import lib",
        "import os\nos._exit(1)",
        "def _f(): pass\n_f.__name__",
    ],
)
def test_what_is_a_module_s_own_is_fine(source: str) -> None:
    assert list(trespasses(source, {"_native"})) == []


def listed() -> set[str]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Public and private")[2].partition("\n## ")[0]
    return set(re.findall(r"`shmq\.(\w+)`", section))


def test_a_module_without_an_underscore_is_public_and_listed() -> None:
    homes = {home.split(".")[1] for home in shmq._HOMES.values()}
    there = {
        path.stem
        for path in (ROOT / "shmq").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {name for name in there if not name.startswith("_")} == homes | IMPORTED | PROGRAMS
    assert listed() == homes | IMPORTED | PROGRAMS
