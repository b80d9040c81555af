"""The numbers of the study as CSV files (docs/results/), and the tables that docs/results.md shows of them.

python -m benchmarks.results_data    # what `prices` gains over each kind of policy, from docs/results/
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from powerflow.cli.output import atomic_write

#: One line of a file: a text for each column, "" where there is no number.
Row = Mapping[str, str]

#: The columns of each file. ``level`` is a share of FIFO's energy at maximum clock, in percent.
COLUMNS = {
    "workloads": ("workload", "load", "fifo_kwh", "days"),
    "completion": (
        *("workload", "load", "level", "policy", "jct_h", "jct_low_h", "jct_high_h"),
        *("over_prices", "over_prices_low", "over_prices_high"),
    ),
    "bound": ("workload", "load", "level", "prices_over_bound"),
    "beliefs": ("workload", "load", "level", "fitted_costs", "costs_learned_online", "unknown_sizes"),
}
#: Policies that choose how many GPUs each job gets. All others give what was requested (Gandiva: more where idle).
ELASTIC = ("afs", "greedy", "optimus", "pollux")
OURS = "prices"
#: The level that the page shows; the files have all.
PAGE_LEVEL = "90"


def to_csv(name: str, rows: Sequence[Row]) -> str:
    """The text of the file ``name``.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS[name], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(rows: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """Write all files into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COLUMNS:
        with atomic_write(folder / f"{name}.csv") as file:
            file.write_text(to_csv(name, rows[name]), encoding="utf-8")


def read(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Read the files back."""
    return {name: list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text("utf-8")))) for name in COLUMNS}


def completion_table(rows: Mapping[str, Sequence[Row]]) -> str:
    """A line for each workload and load at `PAGE_LEVEL`: `prices` in hours, the others as ratios to it."""
    shown = [row for row in rows["completion"] if row["level"] == PAGE_LEVEL]
    policies = list(dict.fromkeys(row["policy"] for row in shown))
    ratios = {(row["workload"], row["load"], row["policy"]): row["over_prices"] for row in shown}
    hours = {(row["workload"], row["load"]): row["jct_h"] for row in shown if row["policy"] == "prices"}
    bounds = {(row["workload"], row["load"], row["level"]): row["prices_over_bound"] for row in rows["bound"]}
    others = sorted(
        (policy for policy in policies if policy != "prices"),
        key=lambda policy: median(float(row["over_prices"] or "inf") for row in shown if row["policy"] == policy),
    )
    heads = ["workload", "load", "100 %: kWh", "days", "`prices`, h", *others, "`prices` ÷ bound"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows["workloads"]:
        workload, load = row["workload"], row["load"]
        cells = [workload, load, row["fifo_kwh"], row["days"], f"**{hours.get((workload, load)) or '–'}**"]
        cells += [ratios.get((workload, load, policy)) or "–" for policy in others]
        lines.append("| " + " | ".join([*cells, bounds.get((workload, load, PAGE_LEVEL)) or "–"]) + " |")
    return "\n".join(lines)


def gains_table(rows: Mapping[str, Sequence[Row]]) -> str:
    """A line for each policy: its mean completion time over that of `prices` at the same energy, over all levels.

    Policies that choose GPU counts and the others stand apart, each with a line for the best of the group at each
    level. The last line is the paper's greedy over AFS.
    """
    cells: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows["completion"]:
        if row["over_prices"]:
            found = cells.setdefault((row["workload"], row["load"], row["level"]), {})
            found[row["policy"]] = float(row["over_prices"])
    lines = ["| mean completion time | levels | median | lowest | highest |", "|---|---|---|---|---|"]
    policies = {policy for found in cells.values() for policy in found}
    for name, group in (
        ("choose GPU counts", policies.intersection(ELASTIC)),
        ("give what was requested", policies.difference(ELASTIC)),
    ):
        spread = {policy: [found[policy] for found in cells.values() if policy in found] for policy in group}
        for policy in sorted(group, key=lambda policy: median(spread[policy])):
            lines.append(_spread_line(f"{policy} ÷ `{OURS}`", spread[policy]))
        best = [
            min(found[policy] for policy in group & found.keys()) for found in cells.values() if group & found.keys()
        ]
        if best:
            lines.append(_spread_line(f"**best of those that {name}** ÷ `{OURS}`", best))
    beside = [found["greedy"] / found["afs"] for found in cells.values() if {"greedy", "afs"} <= found.keys()]
    return "\n".join([*lines, _spread_line("greedy ÷ afs", beside)] if beside else lines)


def _spread_line(name: str, ratios: Sequence[float]) -> str:
    return f"| {name} | {len(ratios)} | {median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |"


def belief_table(rows: Mapping[str, Sequence[Row]]) -> str:
    """A line for each workload and load: what not knowing costs `prices`, from the best level to the worst."""
    beliefs = COLUMNS["beliefs"][3:]
    heads = ["workload", "load", *(belief.replace("_", " ") for belief in beliefs)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows["workloads"]:
        same = [at for at in rows["beliefs"] if (at["workload"], at["load"]) == (row["workload"], row["load"])]
        spans = [sorted(at[belief] for at in same if at[belief]) for belief in beliefs]
        cells = [f"{span[0]} to {span[-1]}" if span else "–" for span in spans]
        lines.append("| " + " | ".join([row["workload"], row["load"], *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(gains_table(read(Path(__file__).parents[1] / "docs" / "results")))
