"""The report: docs/benchmarks.md, written from the results; only the notes between the marks are a person's."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from tools.bench.targets import REFERENCE, verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from tools.bench.workloads import Figure, Workload

BEGIN, END = "<!-- notes:begin -->", "<!-- notes:end -->"
_EMPTY_NOTES = "\n_No analysis written yet._\n"

_METHOD = """
- Each measurement runs in a process group of its own, under a watchdog; what hangs is killed and listed as such.
- Producer and consumer are separate processes, pinned to one core each; servers, where a peer has one, run on both
  cores, a fresh one for each measurement. Messages, and what else goes with them, are prepared before the clock starts;
  those above 1 KiB begin on a cache line, for everybody (copying from between two lines is 40 % slower).
- In every round each row is measured once, in turn; a figure is the **median over the rounds**, with the lowest and
  the highest in brackets. × is the median over the rounds of this row against multiprocessing.Queue in the *same* round
  (for times: how many times shorter). Absolute figures of virtual machines drift; ratios within a run drift less.
- A host moves the two cores of a virtual machine about: now they share a core, now they are in different sockets, and
  a cache line takes up to four times as long there and back. That time is taken before and after each measurement, and
  one during which the cores were not near each other is repeated; it is a median of its own, _cores far apart_
  (first figure; in brackets lowest and highest). Where they did not come near again in time, the row says for how many rounds.
- No peer pays for a wrapper: the harness compiles each peer's own statement into the timed loop. Each is used the
  fastest documented way for bytes, blocking where it can block. Peers that overwrite unread messages are held
  back so that nothing is lost.
- Every message is checked; one lost, doubled, out of order or damaged fails the measurement.
"""


def notes_of(path: Path | None) -> str:
    """Return the hand-written part of an earlier report."""
    if path is not None and path.exists():
        text = path.read_text()
        if BEGIN in text and END in text:
            return text.split(BEGIN, 1)[1].split(END, 1)[0]
    return _EMPTY_NOTES


def _number(value: float, figure: Figure) -> str:
    return f"{value * figure.scale:,.{figure.digits}f}"


def _cell(rounds: list[dict[str, float]], figure: Figure) -> str:
    values = [r[figure.key] for r in rounds if figure.key in r]
    if not values:  # merged from a run of before this figure was taken
        return "–"
    middle = _number(median(values), figure)
    if len(values) == 1:
        return middle
    return f"{middle} ({_number(min(values), figure)}–{_number(max(values), figure)})"


def _ratio(
    rounds: list[dict[str, float]], reference: list[dict[str, float]], figure: Figure
) -> str:
    pairs = [(a[figure.key], b[figure.key]) for a, b in zip(rounds, reference, strict=False)]
    if not pairs or any(a <= 0 or b <= 0 for a, b in pairs):
        return "–"
    factor = median(a / b if figure.higher_is_better else b / a for a, b in pairs)
    return f"{factor:.1f}" if factor >= 0.95 else f"{factor:.2f}"  # noqa: PLR2004


def _table(workload: Workload, table: dict[str, Any]) -> list[str]:
    rows = table["rows"]
    wanted = REFERENCE if workload.peers else rows[0]["label"]
    reference: list[dict[str, float]] = next(
        (r["rounds"] for r in rows if r["label"] == wanted), []
    )
    first = workload.figures[0]
    with_ratio = workload.ratio and bool(reference)
    heads = ["", *(f"{f.title}, {f.unit}" for f in workload.figures)]
    if with_ratio:
        heads.append("×" if workload.peers else f"× of {wanted}")
    with_apart = any(row.get("apart") for row in rows)
    if with_apart:
        heads.append("cores far apart")
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    sign = -1 if first.higher_is_better else 1

    def order(row: dict[str, Any]) -> float:
        return sign * median(r[first.key] for r in row["rounds"]) if row["rounds"] else float("inf")

    for row in sorted(rows, key=order) if workload.peers else rows:
        label = f"**{row['label']}**" if row["label"].startswith("shmq") else row["label"]
        if not row["rounds"]:
            lines.append(f"| {label} | {row['problem']} |" + " |" * (len(heads) - 2))
            continue
        cells = [_cell(row["rounds"], figure) for figure in workload.figures]
        if with_ratio:
            cells.append(_ratio(row["rounds"], reference, first))
        if with_apart:
            cells.append(_cell(row.get("apart", []), first))
        if row.get("far"):
            cells[0] += f", {row['far']} of {len(row['rounds'])} not near"
        if row["failures"] and not row["problem"]:
            cells[0] += f" — one round failed: {row['failures'][0]}"
        if row["problem"]:
            cells[0] += f" — {row['problem']}"
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _mark(reached: bool | None) -> str:  # noqa: FBT001
    return {True: "yes", False: "**no**", None: "–"}[reached]


def render(document: dict[str, Any], workloads: dict[str, Workload], notes: str) -> str:
    """Return the report as markdown."""
    meta = document["meta"]
    machine = meta["machine"]
    lines = ["# Benchmarks", ""]
    lines += [
        "Generated by `python -m tools.bench --out docs/benchmarks.md`; edit only the notes.",
        "",
    ]
    lines += ["| | |", "|---|---|"]
    lines += [
        f"| date | {meta['date']} |",
        f"| processor | {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB |",
        f"| system | {machine['kernel']}, {machine['python']}, frequency governor {machine['governor']} |",
        f"| commit | {machine['commit'] or 'unknown'} |",
        f"| rounds | {meta['rounds']}, about {meta['seconds']} s each |",
        f"| load average before, after | {meta['load'][0]:.2f}, {meta['load'][1]:.2f} |",
        "| versions | " + "; ".join(f"{k} {v}" for k, v in meta["versions"].items()) + " |",
        "",
    ]
    lines += ["## Targets", "", "| target | found | must | goal |", "|---|---|---|---|"]
    for verdict in verdicts(document["results"]):
        goal = _mark(verdict.goal) if verdict.goal is not None else ""
        lines.append(f"| {verdict.text} | {verdict.found} | {_mark(verdict.must)} | {goal} |")
    lines += ["", "## Notes", "", BEGIN + notes + END, ""]
    lines += ["## Method", _METHOD]
    peers = [f"- {name}: {note}." for name, note in meta["notes"].items() if note]
    lines += [*peers, ""] if peers else []
    for key, workload in workloads.items():
        table = document["results"].get(key)
        if table is None or not table["rows"]:
            continue
        lines += [f"## {workload.title}", "", workload.text, "", *_table(workload, table), ""]
        before, after = table["load"]
        lines += [
            f"_{table['date']}, {table['rounds']} rounds; load average {before:.1f} before, {after:.1f} after._",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"
