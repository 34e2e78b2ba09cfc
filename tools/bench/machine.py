"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.bench.peers import MODULES, load


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _governor() -> str:
    with suppress(OSError):
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    return "not visible"


def _commit() -> str:
    with suppress(OSError):
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
        )
        return done.stdout.strip()
    return ""


def describe() -> dict[str, Any]:
    """Return processor, cores, kernel, interpreter and the like."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    virtual = (
        "hypervisor" in Path("/proc/cpuinfo").read_text()
        if Path("/proc/cpuinfo").exists()
        else False
    )
    return {
        "cpu": _cpu_model() + (" (virtual machine)" if virtual else ""),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "governor": _governor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": _commit(),
    }


def versions() -> dict[str, str]:
    """Return each peer's version, or why it is missing."""
    found = {}
    for key in MODULES:
        try:
            peer = load(key)
        except ImportError:
            found[key] = "not installed"
            continue
        found[peer.title] = peer.missing() or peer.version()
    return found
