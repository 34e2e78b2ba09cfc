"""Describes the cffi binding of the C core to setuptools (``cffi_modules`` in setup.py).

The ABI is written once, in native/include/shmq.h. The parts of it that Python may call stand
between the lines ``/* cffi: begin */`` and ``/* cffi: end */``; this script feeds exactly those to
cffi. Inside the fence: comments, integer ``#define``s, enums, structs and prototypes. Outside it:
whatever cffi's C parser does not read (static asserts, inline functions, ``#if``, ``_Atomic``).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from cffi import FFI

BEGIN = "/* cffi: begin */"
END = "/* cffi: end */"

# In C these two are _Atomic; Python only ever sees their size, never a live value.
PRELUDE = "typedef uint64_t shmq_au64;\ntypedef uint32_t shmq_au32;\n"

CFLAGS = ["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra"]

# setuptools executes this file from the project's root, tests import it from anywhere.
ROOT = Path(__file__).resolve().parent.parent


def fenced(header: str) -> str:
    """Return the text between the fences of ``header``.

    Lines outside the fences come back empty, so that a parse error names the header's own line.
    Raises ``ValueError`` when a fence is opened twice, closed twice, left open or absent.
    """
    kept: list[str] = []
    inside = False
    seen = False
    for number, line in enumerate(header.splitlines(), 1):
        mark = line.strip()
        if mark in (BEGIN, END):
            if (mark == BEGIN) == inside:
                raise ValueError(f"shmq.h line {number}: {mark} does not match the fence before it")
            inside = not inside
            seen = True
            kept.append("")
        else:
            kept.append(line if inside else "")
    if inside:
        raise ValueError(f"shmq.h: the last {BEGIN} has no {END}")
    if not seen:
        raise ValueError(f"shmq.h: no {BEGIN} found")
    return "\n".join(kept) + "\n"


def cdef_text() -> str:
    """Return what cffi is told about the C core."""
    header = ROOT / "native" / "include" / "shmq.h"
    return PRELUDE + fenced(header.read_text(encoding="utf-8"))


def build_settings(*more: str) -> dict[str, Any]:
    """Return compiler settings: of the core, and of folders with `more` sources; paths are relative to the root."""

    def listed(pattern: str) -> list[str]:
        return sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob(pattern))

    return {
        "sources": [file for folder in (*more, "native/src") for file in listed(f"{folder}/*.c")],
        "depends": [
            file
            for folder in (*more, "native/src", "native/include")
            for file in listed(f"{folder}/*.h")
        ],
        "include_dirs": ["native/include", "native/src"],
        "extra_compile_args": [*CFLAGS, *shlex.split(os.environ.get("SHMQ_CFLAGS", ""))],
        "extra_link_args": ["-pthread", *shlex.split(os.environ.get("SHMQ_LDFLAGS", ""))],
    }


def make_ffibuilder() -> FFI:
    builder = FFI()
    builder.cdef(cdef_text())
    builder.set_source("shmq._native._shmq", '#include "shmq.h"\n', **build_settings())
    return builder


ffibuilder = make_ffibuilder()

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
