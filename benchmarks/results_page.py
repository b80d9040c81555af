"""Make docs/results.md and its data files from the results of the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results_data import COLUMNS, OURS, PAGE_LEVEL, Row, belief_table, completion_table, gains_table

Result = Mapping[str, Any]

#: What the study is to show: ratios of mean completion times, and how large they may be.
BOUND_LIMIT = 1.10
BELIEF_LIMITS = {("fitted", "known"): 1.05, ("online", "known"): 1.10, ("oracle", "unknown"): 1.10}
BELIEF_WORDS = {
    ("fitted", "known"): "fitted costs",
    ("online", "known"): "costs learned online",
    ("oracle", "unknown"): "unknown sizes",
}
#: How many cases that fail a claim are named on the page; the data files have all.
WORST = 5
_FILES = """\
| file | one line for each | columns |
|---|---|---|
| [workloads.csv](FOLDER/workloads.csv) | workload, load | `fifo_kwh`: metered energy of FIFO at maximum clock, the 100 % of levels; `days`: span of it (means over seeds) |
| [completion.csv](FOLDER/completion.csv) | workload, load, level, policy | `jct_h`: mean completion time in hours, mean over seeds; `over_prices`: its ratio to `prices` at the same energy; `…_low`, `…_high`: 95 % intervals (Student's t) over seeds; empty: the policy does not come down to that energy on every seed |
| [bound.csv](FOLDER/bound.csv) | workload, load, level | `prices_over_bound`: `prices` over the proven lower bound, first seed |
| [beliefs.csv](FOLDER/beliefs.csv) | workload, load, level | mean completion time over that of `prices` with true costs and sizes: with `fitted_costs`, with `costs_learned_online`, with `unknown_sizes` |"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Check:
    """A ratio that is to stay below a limit, where it was found, and beside whom."""

    where: str
    level: float
    other: str
    ratio: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether it stays below."""
        return self.ratio <= self.limit


def render(results: Sequence[Result], command: str, notes: str, folder: str) -> tuple[str, dict[str, list[Row]]]:
    """Make the page and its data.

    Args:
        results: Cases as `benchmarks.results` keeps them.
        command: What was typed.
        notes: What a person says of it, markdown; may be empty.
        folder: Where the data files are, beside the page.

    Returns:
        The page, and the rows of its data files (`benchmarks.results_data`).
    """
    mains = [result for result in results if _belief(result) == ("oracle", "known")]
    others = list(against_others(mains))
    bounds = list(against_bound(mains))
    beliefs = {belief: list(against_oracle(results, mains, belief)) for belief in BELIEF_LIMITS}
    rows = rows_of(results)
    parts = [
        "# Results",
        "Look up how much sooner jobs finish under one policy than under another, at equal metered energy, on jobs of "
        "real logs. Everything is **simulated**: arrivals, durations and GPU counts are from the logs; costs are "
        "modelled (catalogue models, each class varied by seed), and so is the cluster. Nothing was measured on a GPU.",
        _known(beliefs),
        f"```\n{command}\n```",
        "That command writes this page and its [data files](#data-files). Numbers depend on the code and the seeds, "
        "not on the machine. The logs are not part of this repository.",
        "## What was to hold, and whether it does",
        _verdicts(others, bounds, beliefs),
        "## What does not hold",
        _failures(others, bounds, beliefs),
        *([notes.strip()] if notes.strip() else []),
        "## How it was computed",
        _how(mains),
        "## Mean completion time at equal energy",
        f"At {PAGE_LEVEL} % of the energy of FIFO at maximum clock: hours for `prices`, means over seeds, and for the "
        "others the ratio of their mean completion time to it. A dash: the policy has no setting that comes down to "
        "that energy on every seed. The last column is `prices` over the proven lower bound (first seed). All levels, "
        "hours of every policy and 95 % intervals (Student's t) are in [the data files](#data-files).",
        completion_table(rows),
        "## What `prices` gains, by kind of policy",
        "Mean completion time over that of `prices` at the same energy, at every level that both reach: policies that "
        "choose how many GPUs each job gets, then policies that give what was requested. `python -m "
        "benchmarks.results_data` prints this table from the data files.",
        gains_table(rows),
        "## What `prices` loses by not knowing",
        "Mean completion time over that of `prices` with the true costs and sizes, same jobs, same energy: from the "
        "best to the worst of the levels.",
        belief_table(rows),
        "## Data files",
        _FILES.replace("FOLDER", folder),
    ]
    return "\n\n".join(parts) + "\n", rows


# --- checks -------------------------------------------------------------------------------------------------------


def against_others(mains: Sequence[Result]) -> Iterator[Check]:
    """`prices` over every other policy, wherever both reach the level; at most 1 is wanted."""
    for result in mains:
        for row in result["rows"]:
            if row["policy"] != OURS and row["vs_prices"] is not None:
                yield Check(_where(result), row["level"], row["policy"], 1.0 / row["vs_prices"]["mean"], 1.0)


def against_bound(mains: Sequence[Result]) -> Iterator[Check]:
    """`prices` over the lower bound."""
    for result in mains:
        for row in result["rows"]:
            if row["policy"] == OURS and row["vs_bound"] is not None:
                yield Check(_where(result), row["level"], "the bound", row["vs_bound"]["mean"], BOUND_LIMIT)


def against_oracle(results: Sequence[Result], mains: Sequence[Result], belief: tuple[str, str]) -> Iterator[Check]:
    """`prices` under a belief over `prices` that knows, where both reach the level."""
    knows = {(_where(result), row["level"]): _jct_h(row) for result in mains for row in _ours(result)}
    for result in results:
        if _belief(result) == belief:
            for row in _ours(result):
                best, mine = knows.get((_where(result), row["level"])), _jct_h(row)
                if best is not None and mine is not None:
                    limit = BELIEF_LIMITS[belief]
                    yield Check(_where(result), row["level"], "knowing", mine / best, limit)


def _known(beliefs: Mapping[tuple[str, str], list[Check]]) -> str:
    """What the policies of the page know, and what not knowing costs."""
    said = "**Every policy here knows the true costs and sizes of all jobs**, unless a line says otherwise."
    losses = []
    for belief, checks in beliefs.items():
        if checks:
            ratios = sorted(check.ratio for check in checks)
            typical, worst = ratios[len(ratios) // 2], ratios[-1]
            losses.append(f"with {BELIEF_WORDS[belief]} {typical:.3f} times (median) to {worst:.3f} times (worst)")
    if not losses:
        return said
    return (
        f"{said} Not knowing costs `prices` mean completion time, at equal energy: it is {'; '.join(losses)} that of "
        "`prices` with all known ([by workload](#what-prices-loses-by-not-knowing))."
    )


def _verdicts(others: list[Check], bounds: list[Check], beliefs: Mapping[tuple[str, str], list[Check]]) -> str:
    lines = ["| claim | holds in | median | worst |", "|---|---|---|---|"]
    lines.append(_verdict("`prices` is at or below every other policy (ratio ≤ 1)", others))
    lines.append(_verdict(f"`prices` is within {BOUND_LIMIT:.2f} × the bound", bounds))
    for belief, checks in beliefs.items():
        claim = f"`prices` with {BELIEF_WORDS[belief]} is within {BELIEF_LIMITS[belief]:.2f} × knowing"
        lines.append(_verdict(claim, checks))
    return "\n".join(lines)


def _verdict(claim: str, checks: list[Check]) -> str:
    if not checks:
        return f"| {claim} | nothing to compare | – | – |"
    ratios = sorted(check.ratio for check in checks)
    worst = max(checks, key=lambda check: check.ratio / check.limit)
    held = sum(check.holds for check in checks)
    where = f"{worst.ratio:.3f} ({worst.where}, {worst.level:.0%}, {worst.other})"
    return f"| {claim} | {held} of {len(checks)} | {ratios[len(ratios) // 2]:.3f} | {where} |"


def _failures(others: list[Check], bounds: list[Check], beliefs: Mapping[tuple[str, str], list[Check]]) -> str:
    lines = []
    for what, checks in (
        ("`prices` against another policy", others),
        ("`prices` against the bound", bounds),
        *((f"`prices` with {BELIEF_WORDS[belief]} against knowing", checks) for belief, checks in beliefs.items()),
    ):
        failed = sorted((check for check in checks if not check.holds), key=lambda check: -check.ratio)
        if failed:
            said = "; ".join(f"{c.where}, {c.level:.0%}: {c.ratio:.3f}" for c in failed[:WORST])
            more = f"; and {len(failed) - WORST} more" if len(failed) > WORST else ""
            lines.append(f"- {what}: {said}{more}")
    return "\n".join(lines) or "Nothing: every claim holds in every case."


# --- numbers ------------------------------------------------------------------------------------------------------


def rows_of(results: Sequence[Result]) -> dict[str, list[Row]]:
    """The lines of the data files, by file."""
    mains = [result for result in results if _belief(result) == ("oracle", "known")]
    found = {
        (check.where, check.level, belief): f"{check.ratio:.3f}"
        for belief in BELIEF_LIMITS
        for check in against_oracle(results, mains, belief)
    }
    rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    for result in mains:
        case = {"workload": result["case"]["source"]["name"], "load": f"{result['case']['load']:g}"}
        kwh, days = result["reference_j"] / 3.6e6, result["horizon_s"] / 86400
        rows["workloads"].append(case | {"fifo_kwh": f"{kwh:.0f}", "days": f"{days:.1f}"})
        at = {(row["policy"], row["level"]): row for row in result["rows"]}
        policies = sorted({policy for policy, _ in at}, key=lambda name: _order(at, name, result["levels"]))
        for level in result["levels"]:
            head = case | {"level": f"{100 * level:.0f}"}
            rows["completion"] += [head | {"policy": policy} | _numbers(at[policy, level]) for policy in policies]
            bound = at[OURS, level]["vs_bound"]
            rows["bound"].append(head | {"prices_over_bound": "" if bound is None else f"{bound['mean']:.3f}"})
            rows["beliefs"].append(
                head
                | {
                    words.replace(" ", "_"): found.get((_where(result), level, belief), "")
                    for belief, words in BELIEF_WORDS.items()
                }
            )
    return rows


def _order(rows: Mapping[tuple[str, float], Any], policy: str, levels: Sequence[float]) -> tuple[float, ...]:
    return tuple(_jct_h(rows[policy, level]) or float("inf") for level in levels)


def _numbers(row: Mapping[str, Any]) -> dict[str, str]:
    own = None if row["metrics"] is None else row["metrics"]["jct_mean_s"]
    ratio = None if row["policy"] == OURS else row["vs_prices"]
    return _interval("jct{}_h", own, 3600.0) | _interval("over_prices{}", ratio, 1.0)


def _interval(column: str, spread: Mapping[str, float | None] | None, unit: float) -> dict[str, str]:
    parts = {"": "mean", "_low": "low", "_high": "high"}
    values = {column.format(part): None if spread is None else spread[key] for part, key in parts.items()}
    return {name: "" if value is None else f"{value / unit:.2f}" for name, value in values.items()}


def _how(mains: Sequence[Result]) -> str:
    first = mains[0]["facts"]
    lines = [f"- {label}: {first[label]}" for label in ("World", "Energy", "Frontiers", "At a level") if label in first]
    lines[1:2] = [
        "- Energy: metered for the whole cluster; idle draw for as long as FIFO takes at maximum clock, in every run "
        "alike; what jobs add to it, to the end of the last job"
    ]
    lines.append(
        f"- Seeds: {', '.join(str(seed) for seed in mains[0]['case']['seeds'])}; each draws models and costs anew"
    )
    for source in {result["case"]["source"]["name"]: result["case"]["source"] for result in mains}.values():
        taken = "all jobs" if source["window"] is None else f"{source['window']:,} consecutive jobs from a seeded place"
        files = ", ".join(source["files"])
        lines.append(f"- {source['name']} ({files}): {taken} on {source['cluster']}; submissions scaled to the load")
    lines.append("- Requests above 64 GPUs are cut to 64")
    return "\n".join(lines)


def _where(result: Result) -> str:
    return f"{result['case']['source']['name']}, load {result['case']['load']:g}"


def _belief(result: Result) -> tuple[str, str]:
    return result["case"]["costs"], result["case"]["sizes"]


def _ours(result: Result) -> list[Mapping[str, Any]]:
    return [row for row in result["rows"] if row["policy"] == OURS]


def _jct_h(row: Mapping[str, Any]) -> float | None:
    return None if row["metrics"] is None else row["metrics"]["jct_mean_s"]["mean"] / 3600.0
