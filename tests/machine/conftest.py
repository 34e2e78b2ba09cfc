"""The rig of the unit tests and the processes of the broker tests serve here as well."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("unit", "broker"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / folder))
