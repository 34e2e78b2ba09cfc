"""The musts and goals, and whether a run reached them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from tools.bench.peers import shmq_features as features
from tools.bench.workloads.calls import SHMQ, STDLIB
from tools.bench.workloads.feature_costs import METRICS

NONE, MANUAL = 'shmq, ack="none"', "shmq, manual ack"
LOAN = "shmq, loan + view"
REFERENCE = "multiprocessing.Queue"
FIELDS = f"shmq, {features.FIELDS}"
DROP_IN, DROP_IN_VIEW = "shmq.mp.Queue", "shmq.mp.Queue, copy=False"


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

    def ratio(self, workload: str, label: str, figure: str, to: str = REFERENCE) -> float | None:
        """Return the median ratio to another row, round by round."""
        mine, theirs = self.rows.get((workload, label)), self.rows.get((workload, to))
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


def _ratio(
    f: Figures,
    text: str,
    workload: str,
    label: str,
    least: float,
    goal: float | None = None,
    to: str = REFERENCE,
) -> Verdict:
    ratio = f.ratio(workload, label, "rate", to)
    if ratio is None:
        return Verdict(text, "not measured", None)
    return Verdict(text, f"{ratio:.1f} ×", ratio >= least, None if goal is None else ratio >= goal)


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


def _cost(f: Figures, text: str, label: str, most: float) -> Verdict:
    """Check by how much the time per message grows."""
    cost = f.value("feature-costs", label, "cost")
    if cost is None:
        return Verdict(text, "not measured", None)
    return Verdict(text, f"{cost * 100:+.1f} % time", cost <= most)


def _publish_fields(f: Figures) -> Verdict:
    text = "one publish() with headers, priority and ttl, nobody asleep: must p99 ≤ 2 × that of a plain one"
    label = f"{NONE}, {features.FIELDS}"
    ratio = f.ratio("publish-watched", label, "p99", to=NONE)
    p99 = f.value("publish-watched", label, "p99")
    if ratio is None or p99 is None:
        return Verdict(text, "not measured", None)
    return Verdict(text, f"{ratio:.1f} ×; {p99 / 1000:.2f} µs", ratio <= 2)  # noqa: PLR2004


def _fan_out(f: Figures, label: str, way: str) -> Verdict:
    text = (
        f"to ten subscribers, {way}: must ≥ 12 × ten multiprocessing.Queues and ≥ pyzmq; "
        "goal ≥ kickmsg held back"
    )
    ratio, rate = f.ratio("fan-out", label, "rate"), f.value("fan-out", label, "rate")
    pyzmq = f.best_peer("fan-out", "rate", highest=True, only="pyzmq")
    kickmsg = f.best_peer("fan-out", "rate", highest=True, only="kickmsg")
    if ratio is None or rate is None or pyzmq is None:
        return Verdict(text, "not measured", None)
    found = f"{ratio:.1f} ×; {rate / pyzmq[1]:.2f} × {pyzmq[0]}"
    if kickmsg is not None:
        found += f"; {rate / kickmsg[1]:.2f} × {kickmsg[0]}"
    return Verdict(
        text,
        found,
        ratio >= 12 and rate >= pyzmq[1],  # noqa: PLR2004
        None if kickmsg is None else rate >= kickmsg[1],
    )


def _at_least_once(f: Figures, rival: str, least: float) -> Verdict:
    text = f"64 B one by one, manual ack: must ≥ {least:g} × {rival} in batches, acknowledged; goal ≥ {2 * least:g} ×"
    own = f.value("one-by-one", MANUAL, "rate")
    best = f.best_peer("batch", "rate", highest=True, only=rival)
    if own is None or best is None:
        return Verdict(text, "not measured", None)
    ratio = own / best[1]
    return Verdict(text, f"{ratio:.1f} × {best[0]}", ratio >= least, ratio >= 2 * least)


def _redis(f: Figures) -> Verdict:
    text = "64 B one by one, manual ack: must ≥ 8 × Redis Streams in batches of 100; goal ≥ 15 ×"
    own, best = (
        f.value("one-by-one", MANUAL, "rate"),
        f.best_peer("batch", "rate", highest=True, only="Redis Streams"),
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


def _drop_in(
    f: Figures,
    text: str,
    workload: str,
    least: float,
    goal: float,
    *,
    of_peers: float | None = None,
    goal_of_peers: bool = True,
    label: str = DROP_IN,
) -> Verdict:
    """Check shmq.mp against multiprocessing.Queue; the goal is a ratio to that or to the best peer."""
    ratio, own = f.ratio(workload, label, "rate"), f.value(workload, label, "rate")
    if ratio is None or own is None:
        return Verdict(text, "not measured", None)
    best = f.best_peer(workload, "rate", highest=True)
    found = f"{ratio:.1f} ×"
    must, reached = ratio >= least, ratio >= goal
    if of_peers is not None and best is not None:
        found += f"; {own / best[1]:.2f} × {best[0]}"
        must = must and own >= of_peers * best[1]
        if goal_of_peers:
            reached = own >= goal * best[1]
    return Verdict(text, found, must, reached)


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Return every target with what was found."""
    f = Figures(results)
    idle = "supervisor + sidecar"
    return [
        _one_by_one(f),
        _ratio(f, "64 B one by one, manual ack: must ≥ 7 ×", "one-by-one", MANUAL, 7),
        _redis(f),
        _at_least_once(f, "Redis Streams, XACK", 6),
        _at_least_once(f, "NATS JetStream", 30),
        _at_least_once(f, "RabbitMQ", 30),
        _ratio(f, "publish_many / get_many: must ≥ 20 ×", "batch", NONE, 20),
        _ratio(
            f,
            "64 B one by one, headers, priority and ttl, manual ack: must ≥ 2.5 × multiprocessing.Queue; goal ≥ 6 ×",
            "features",
            FIELDS,
            2.5,
            6,
        ),
        _cost(f, "dedup: must cost ≤ 30 %", features.DEDUP, 0.3),
        _cost(f, "key order: must cost ≤ 30 %", features.KEY, 0.3),
        _cost(f, "metrics: must cost ≤ 3 %", METRICS, 0.03),
        _publish(f),
        _publish_fields(f),
        _spinning(f),
        _blocking(f),
        _drop_in(
            f,
            "shmq.mp, 64 B one by one: must ≥ 20 ×, and the fastest peer; goal ≥ 2.5 × that",
            "one-by-one",
            20,
            2.5,
            of_peers=1,
        ),
        _drop_in(
            f,
            "shmq.mp, small dicts one by one: must ≥ 4 ×, and every peer; goal ≥ 5 ×",
            "dicts",
            4,
            5,
            of_peers=1,
            goal_of_peers=False,
        ),
        _drop_in(f, "shmq.mp, dicts in batches: must ≥ 6 ×; goal ≥ 8 ×", "dicts-batch", 6, 8),
        _drop_in(f, "shmq.mp, 1 MiB array copied: must ≥ 8 ×", "array-1m", 8, 8),
        _drop_in(
            f,
            "shmq.mp, 1 MiB array viewed: must ≥ 15 ×; goal ≥ 30 ×",
            "array-1m",
            15,
            30,
            label=DROP_IN_VIEW,
        ),
        _drop_in(
            f,
            "shmq.mp, four to four: must ≥ 10 ×; goal ≥ 1.4 × the best peer",
            "four-to-four",
            10,
            1.4,
            of_peers=0,
        ),
        _at_most(
            f,
            "shmq.mp, first queue of a program: must ≤ 200 ms, a further one ≤ 2 ms",
            (
                ("first-queue", "queues", "first", 200, "ms", 1e-6),
                ("first-queue", "queues", "next", 2, "ms", 1e-6),
            ),
        ),
        _payload(f, "payload-1m", LOAN, "1 MiB by loan and view", "iceoryx2"),
        _payload(f, "payload-64k", NONE, "64 KiB copied", "cloudtoid"),
        _ratio(f, "four to four: must ≥ 10 ×", "four-to-four", NONE, 10),
        _fan_out(f, NONE, 'ack="none"'),
        _fan_out(f, MANUAL, "manual ack"),
        _ratio(
            f,
            "`Executor.map` of a no-op: must ≥ 4 × ProcessPoolExecutor",
            "calls",
            f"{SHMQ}, map",
            4,
            to=f"{STDLIB}, map",
        ),
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
        _at_most(
            f,
            "100,000 pending delays: must cost an idle sidecar < 1 % of a core",
            (("idle", "with 100,000 pending delays", "sidecar", 1, "%", 100),),
        ),
        _at_most(f, "Broker(): must ≤ 200 ms", (("start", "broker", "ready", 200, "ms", 1e-6),)),
        _depth(f),
        _at_most(
            f,
            "redelivery of 1,000 after a kill: must ≤ 20 ms",
            (("recovery", "arena of 1,000,000", "median", 20, "ms", 1e-6),),
        ),
    ]
