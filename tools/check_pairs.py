#!/usr/bin/env python3
"""Every memory-order tag of native/src/atomic.h stands at both of its ends.

atomic.h lists the orders that matter, each by a tag with its partner: "PUBLISH ... pairs with TAKE: ...".
An order needs two sides; whoever moves or rewrites one of them must see the tag and think of the
other. This check fails when a side has lost its tag: a tag paired with another needs one site, a
tag paired with itself two. A site is a comment in the code that begins with the tag or has it in parentheses; the comment
at a file's head is none.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "native" / "src"
ROW = re.compile(r"^ \*   ([A-Z][A-Z0-9]+) +\S.*pairs with +([A-Z][A-Z0-9]+):", re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def sites(tag: str) -> list[str]:
    found = []
    for path in sorted(SRC.glob("*.[ch]")):
        text = path.read_text(encoding="utf-8")
        for n, comment in enumerate(COMMENT.finditer(text)):
            tagged = (
                re.match(rf"/\*\s*{tag}\s*(:|\*/)", comment.group())
                or f"({tag})" in comment.group()
            )
            if n > 0 and path.name != "atomic.h" and tagged:
                found.append(f"{path.name}:{text.count(chr(10), 0, comment.start()) + 1}")
    return found


def main() -> int:
    rows = ROW.findall((SRC / "atomic.h").read_text(encoding="utf-8"))
    bad = [] if rows else ["atomic.h: its table of pairs was not found"]
    for here, there in rows:
        for tag in dict.fromkeys((here, there)):
            need, have = 1 + (here == there), sites(tag)
            if len(have) < need:
                at = ", ".join(have) or "nowhere"
                bad.append(
                    f"{tag}: {need} tagged sites needed, found {at} ({here} pairs with {there})"
                )
    print("\n".join(bad) if bad else f"{len(rows)} pairs of memory orders, all tagged")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
