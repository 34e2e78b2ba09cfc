"""Writes build/accel/docs.h: the docstrings and signatures of the accelerator's public methods.

They are written once, in shmq/_native/pure, its reference: DOC_SenderBase_publish is the text of
`SenderBase.publish` there, in the form in which CPython keeps the signature of what is written in C.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "shmq/_native/pure"
OUT = "build/accel"


def signature_of(function: ast.FunctionDef) -> str:
    """Return the signature without types, as in ``publish($self, message, *, timeout=None, **fields)``."""
    given = function.args
    for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
        if one is not None:
            one.annotation = None
    first = given.posonlyargs or given.args
    first[0].arg = "$self"
    return f"{function.name}({ast.unparse(given)})"


def docs_of(source: str) -> dict[str, str]:
    """Return {class_method: text} of what is public and has a docstring."""
    found = {}
    for kind in ast.parse(source).body:
        if not isinstance(kind, ast.ClassDef) or not kind.name.endswith("Base"):
            continue
        for function in kind.body:
            if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
                continue
            text = ast.get_docstring(function)
            if not text:
                continue
            is_property = any(getattr(d, "id", "") == "property" for d in function.decorator_list)
            head = "" if is_property else f"{signature_of(function)}\n--\n\n"
            found[f"{kind.name}_{function.name}"] = head + text
    return found


def write() -> str:
    """Write the header if it would change; return its folder, relative to the root."""
    lines = ["/* Made by native/accel_docs.py. */"]
    for path in sorted((ROOT / SOURCE).glob("*.py")):
        for name, text in docs_of(path.read_text(encoding="utf-8")).items():
            lines.append(f"#define DOC_{name} {json.dumps(text, ensure_ascii=False)}")
    out = ROOT / OUT / "docs.h"
    wanted = "\n".join(lines) + "\n"
    if not out.exists() or out.read_text(encoding="utf-8") != wanted:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(wanted, encoding="utf-8")
    return OUT


if __name__ == "__main__":
    write()
