"""What is counted and measured: the table of counters, and what `stats()` of a queue and of a broker returns.

The parts stand on different floors: `counters` is a table, `queue` reads one queue's figures,
`broker` adds those of clients, groups and memory. The supervisor reads counters only: the rest is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    **dict.fromkeys(("Latency", "QueueStats"), "queue"),
    **dict.fromkeys(("BrokerStats", "ClientStats", "GroupStats", "MemberStats"), "broker"),
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
