"""What a user gets by installing shmq: versions that agree, types, a complete wheel."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import pytest

import shmq

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(found["project"])


@pytest.fixture(scope="module")
def build_ffi() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "native" / "build_ffi.py"))


def test_all_versions_agree(project: dict[str, Any]) -> None:
    assert shmq.__version__ == project["version"]
    assert importlib.metadata.version("shmq") == project["version"]


def test_the_pythons_are_the_same_wherever_they_are_named(project: dict[str, Any]) -> None:
    """Those said to be supported are those tried, and the one that runs this is among them."""
    said = re.findall(r":: Python :: (3\.\d+)", " ".join(project["classifiers"]))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (tried,) = re.findall(r"for v in (.*); do", makefile)
    (looked_up,) = re.findall(r"for p in python3 (.*) \\\n", makefile)
    first, last = said[0], said[-1]
    assert said == tried.split()
    assert said == [name.removeprefix("python") for name in reversed(looked_up.split())]
    assert f"every Python {first} to {last} found" in makefile
    assert f"Python {first} to {last}." in (ROOT / "README.md").read_text(encoding="utf-8")
    assert project["requires-python"] == f">={first}"
    assert "{}.{}".format(*sys.version_info) in said


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(shmq.__file__).parent / "py.typed").exists()


def test_the_changelog_has_unreleased_changes_and_a_layout_heading() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    assert "### Layout" in text


def test_rivals_of_the_benchmark_are_pinned(project: dict[str, Any]) -> None:
    for requirement in project["optional-dependencies"]["bench"]:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", requirement), requirement


def test_the_command_named_in_pyproject_exists(project: dict[str, Any]) -> None:
    module, _, function = project["scripts"]["shmq"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


# ---- the header, written once -------------------------------------------------------------------


def test_the_fenced_parts_of_the_header_parse(build_ffi: dict[str, Any]) -> None:
    ffi = cffi.FFI()
    ffi.cdef(build_ffi["cdef_text"]())
    assert any("shmq" in name for names in ffi.list_types() for name in names)


def test_text_outside_the_fences_is_left_out_and_line_numbers_stay(
    build_ffi: dict[str, Any],
) -> None:
    header = "a\n/* cffi: begin */\nb\n/* cffi: end */\nc\n/* cffi: begin */\nd\n/* cffi: end */\n"
    assert build_ffi["fenced"](header).split("\n") == ["", "", "b", "", "", "", "d", "", ""]


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("int x;\n", "found"),
        ("/* cffi: begin */\nint x;\n", "has no"),
        ("/* cffi: end */\n", "line 1"),
        ("/* cffi: begin */\n/* cffi: begin */\n/* cffi: end */\n", "line 2"),
    ],
)
def test_a_fence_that_does_not_close_is_an_error(
    build_ffi: dict[str, Any], header: str, complaint: str
) -> None:
    fenced: Callable[[str], str] = build_ffi["fenced"]
    with pytest.raises(ValueError, match=complaint):
        fenced(header)


def test_the_compiled_binding_is_of_this_header(build_ffi: dict[str, Any]) -> None:
    """A stale build would test yesterday's C: every function of the fence is in the extension."""
    native = importlib.import_module("shmq._native._shmq")
    declared = set(re.findall(r"\b(shmq_\w+)\s*\([^;{}]*\)\s*;", build_ffi["cdef_text"]()))
    assert declared
    assert sorted(declared - set(dir(native.lib))) == []


# ---- the wheel ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_has_the_binding_the_types_and_no_tests(tmp_path: Path) -> None:
    # From a source distribution, so that what the build needs is proved to be in that one too.
    source = tmp_path / "source"
    source.mkdir()
    script = "import sys; from setuptools import build_meta as b; print(b.build_sdist(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-c", script, str(source)], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    (sdist,) = source.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    made = subprocess.run(
        [*pip, "-w", str(tmp_path), str(sdist)], capture_output=True, text=True, cwd=tmp_path
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "shmq/py.typed" in names
    assert any(re.fullmatch(r"shmq/_native/_shmq\..*so", name) for name in names)
    assert not [name for name in names if name.startswith(("tests/", "native/", "tools/"))]


def test_another_system_is_refused_with_a_sentence() -> None:
    program = "import runpy, sys; sys.platform = 'darwin'; runpy.run_path('setup.py')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"shmq: found darwin, expected Linux; .*\n", done.stderr)


def test_a_number_that_is_no_mutant_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "tools/mutants.py", "3", "999"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "found 999, expected numbers of MUTANT() in native/src: 1-14" in done.stderr
