"""json: what `json.dumps` takes, as UTF-8 without spaces."""

from __future__ import annotations

import json
from typing import Any


class Json:
    """NaN and infinities are refused: they are no JSON, and other readers stumble over them."""

    name = "json"
    content_type = "application/json"

    def encode(self, obj: Any) -> bytes:
        """Return ``obj`` as UTF-8; TypeError or ValueError for what JSON does not have."""
        text = json.dumps(obj, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")

    def decode(self, data: memoryview, *, copy: bool) -> Any:
        """Return the object; nothing of it refers to ``data``."""
        return json.loads(str(data, "utf-8", "surrogatepass"))


def make(name: str) -> Json:
    """Return the serializer."""
    return Json()
