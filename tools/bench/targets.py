"""The musts and goals, and whether a run reached them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

NONE, MANUAL = 'shmq, ack="none"', "shmq, manual ack"
LOAN = "shmq, loan + view"
REFERENCE = "multiprocessing.Queue"


@dataclass(frozen=True)
class Verdict:
    """One line of the table of targets."""

    text: str
    found: str
    must: bool | None
    """Whether the must was reached; None: not measured or no must."""
    goal: bool | None = None


class Figures:
    """Medians of a run by workload, row and figure."""

    def __init__(self, results: dict[str, Any]) -> None:
        """Keep the results as the JSON file has them."""
        self.rows = {
            (key, row["label"]): row["rounds"]
            for key, table in results.items()
            for row in table["rows"]
        }
        self.results = results

    def value(self, workload: str, label: str, figure: str) -> float | None:
        """Return the median over the rounds, or None when there are none."""
        rounds = self.rows.get((workload, label))
        return median(r[figure] for r in rounds) if rounds else None

    def ratio(self, workload: str, label: str, figure: str) -> float | None:
        """Return the median ratio to multiprocessing.Queue, round by round."""
        mine, theirs = self.rows.get((workload, label)), self.rows.get((workload, REFERENCE))
        if not mine or not theirs:
            return None
        return float(median(a[figure] / b[figure] for a, b in zip(mine, theirs, strict=False)))

    def best_peer(
        self, workload: str, figure: str, *, highest: bool, only: str = ""
    ) -> tuple[str, float] | None:
        """Return the best row that is not shmq's."""
        found = []
        for key, label in self.rows:
            if key == workload and not label.startswith("shmq") and only in label:
                value = self.value(key, label, figure)
                if value is not None:
                    found.append((label, value))
        if not found:
            return None
        return (max if highest else min)(found, key=lambda pair: pair[1])

    def best_own(self, workload: str, figure: str, *, highest: bool) -> tuple[str, float] | None:
        """Return shmq's best row."""
        found = []
        for key, label in self.rows:
            if key == workload and label.startswith("shmq"):
                value = self.value(key, label, figure)
                if value is not None:
                    found.append((label, value))
        if not found:
            return None
        return (max if highest else min)(found, key=lambda pair: pair[1])


def _ratio(f: Figures, text: str, workload: str, label: str, least: float) -> Verdict:
    ratio = f.ratio(workload, label, "rate")
    if ratio is None:
        return Verdict(text, "not measured", None)
    return Verdict(text, f"{ratio:.1f} ×", ratio >= least)


def _one_by_one(f: Figures) -> Verdict:
    text = (
        '64 B one by one, `ack="none"`: must ≥ 10 × multiprocessing.Queue; goal: the fastest peer'
    )
    ratio, rate = f.ratio("one-by-one", NONE, "rate"), f.value("one-by-one", NONE, "rate")
    best = f.best_peer("one-by-one", "rate", highest=True)
    if ratio is None or rate is None or best is None:
        return Verdict(text, "not measured", None)
    found = f"{ratio:.1f} ×; {rate / best[1]:.2f} × {best[0]}"
    return Verdict(text, found, ratio >= 10, rate >= best[1])  # noqa: PLR2004


def _redis(f: Figures) -> Verdict:
    text = "64 B one by one, manual ack: must ≥ 8 × Redis Streams in batches of 100; goal ≥ 15 ×"
    own, best = (
        f.value("one-by-one", MANUAL, "rate"),
        f.best_peer("batch", "rate", highest=True, only="Redis"),
    )
    if own is None or best is None:
        return Verdict(text, "not measured", None)
    ratio = own / best[1]
    return Verdict(text, f"{ratio:.1f} ×", ratio >= 8, ratio >= 15)  # noqa: PLR2004


def _publish(f: Figures) -> Verdict:
    text = "one publish() with nobody asleep: must p50 ≤ 0.3 µs and p99 ≤ 1 µs"
    p50 = f.value("publish-watched", NONE, "p50")
    p99 = f.value("publish-watched", NONE, "p99")
    if p50 is None or p99 is None:
        return Verdict(text, "not measured", None)
    return Verdict(
        text,
        f"{p50 / 1000:.2f} µs, {p99 / 1000:.2f} µs",
        p50 <= 300 and p99 <= 1000,  # noqa: PLR2004
    )


def _spinning(f: Figures) -> Verdict:
    text = "round trip, polling: must p50 ≤ 1 µs; goal ≤ 0.4 µs"
    own = f.best_own("round-trip-spinning", "p50", highest=False)
    if own is None:
        return Verdict(text, "not measured", None)
    return Verdict(text, f"{own[1] / 1000:.2f} µs ({own[0]})", own[1] <= 1000, own[1] <= 400)  # noqa: PLR2004


def _blocking(f: Figures) -> Verdict:
    text = "round trip, blocking: must p50 within 10 % of the best blocking peer"
    own = f.best_own("round-trip-blocking", "p50", highest=False)
    best = f.best_peer("round-trip-blocking", "p50", highest=False)
    if own is None or best is None:
        return Verdict(text, "not measured", None)
    found = f"{own[1] / 1000:.1f} µs; {best[0]} {best[1] / 1000:.1f} µs"
    return Verdict(text, found, own[1] <= 1.1 * best[1])


def _payload(f: Figures, workload: str, label: str, size: str, rival: str) -> Verdict:
    text = f"{size}: must ≥ {rival}"
    own = f.value(workload, label, "bytes")
    best = f.best_peer(workload, "bytes", highest=True, only=rival)
    if own is None or best is None:
        return Verdict(text, "not measured", None)
    found = f"{own / 1e6:,.0f} MB/s ({label}); {best[1] / 1e6:,.0f} MB/s"
    return Verdict(text, found, own >= best[1])


def _at_most(
    f: Figures, text: str, limits: tuple[tuple[str, str, str, float, str, float], ...]
) -> Verdict:
    """Check (workload, row, figure, limit, unit, scale) one by one."""
    found, good = [], True
    for workload, label, figure, limit, unit, scale in limits:
        value = f.value(workload, label, figure)
        if value is None:
            return Verdict(text, "not measured", None)
        found.append(f"{value * scale:.3g} {unit}")
        good = good and value * scale <= limit
    return Verdict(text, ", ".join(found), good)


def _depth(f: Figures) -> Verdict:
    text = "time per message at depth 1 … 1,000,000: must be flat within ± 20 %"
    values = [
        value
        for key, label in f.rows
        if key == "depth" and (value := f.value(key, label, "pair")) is not None
    ]
    if len(values) < 2:  # noqa: PLR2004
        return Verdict(text, "not measured", None)
    middle = (max(values) + min(values)) / 2
    spread = (max(values) - min(values)) / 2 / middle
    return Verdict(
        text,
        f"{min(values):.0f} … {max(values):.0f} ns (± {spread * 100:.0f} %)",
        spread <= 0.2,  # noqa: PLR2004
    )


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Return every target with what was found."""
    f = Figures(results)
    idle = "supervisor + sidecar"
    return [
        _one_by_one(f),
        _ratio(f, "64 B one by one, manual ack: must ≥ 7 ×", "one-by-one", MANUAL, 7),
        _redis(f),
        _ratio(f, "publish_many / get_many: must ≥ 20 ×", "batch", NONE, 20),
        _publish(f),
        _spinning(f),
        _blocking(f),
        _payload(f, "payload-1m", LOAN, "1 MiB by loan and view", "iceoryx2"),
        _payload(f, "payload-64k", NONE, "64 KiB copied", "cloudtoid"),
        _ratio(f, "four to four: must ≥ 10 ×", "four-to-four", NONE, 10),
        _at_most(
            f,
            "shared memory per queued 64 B message: must ≤ 256 B",
            (
                ("memory", "100,000 messages", "per_message", 256, "B", 1),
                ("memory", "1,000,000 messages", "per_message", 256, "B", 1),
            ),
        ),
        _at_most(
            f,
            "supervisor + sidecar: must ≤ 50 MB RSS, < 0.5 % of a core when idle",
            (
                ("idle", idle, "rss", 50, "MB", 1e-6),
                ("idle", idle, "cpu", 0.5, "%", 100),
            ),
        ),
        _at_most(f, "Broker(): must ≤ 200 ms", (("start", "broker", "ready", 200, "ms", 1e-6),)),
        _depth(f),
        _at_most(
            f,
            "redelivery of 1,000 after a kill: must ≤ 20 ms",
            (("recovery", "arena of 1,000,000", "median", 20, "ms", 1e-6),),
        ),
    ]
