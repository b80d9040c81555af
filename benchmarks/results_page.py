"""docs/results.md from the results of the study: what held, what did not, and the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]

#: What the study is to show: ratios of mean completion times, and how large they may be.
BOUND_LIMIT = 1.10
BELIEF_LIMITS = {("fitted", "known"): 1.05, ("online", "known"): 1.10, ("oracle", "unknown"): 1.10}
BELIEF_WORDS = {
    ("fitted", "known"): "fitted costs",
    ("online", "known"): "costs learned online",
    ("oracle", "unknown"): "unknown sizes",
}
OURS = "prices"


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


def render(results: Sequence[Result], command: str, notes: str) -> str:
    """The whole page.

    Args:
        results: Cases as `benchmarks.results` keeps them.
        command: What was typed.
        notes: What a person says of it, markdown; may be empty.
    """
    mains = [result for result in results if _belief(result) == ("oracle", "known")]
    others = list(against_others(mains))
    bounds = list(against_bound(mains))
    beliefs = {belief: list(against_oracle(results, mains, belief)) for belief in BELIEF_LIMITS}
    parts = [
        "# Results",
        "Every policy on the same jobs at equal metered energy. All of it is **simulated**: arrivals, durations and "
        "GPU counts are from the logs; costs are modelled (catalogue models, each class varied by seed), and so is "
        "the cluster. Nothing here was measured on a GPU.",
        f"```\n{command}\n```",
        "The page is written by that command; numbers depend on the code and the seeds, not on the machine. The logs "
        "are not part of this repository.",
        "## What was to hold, and whether it does",
        _verdicts(others, bounds, beliefs),
        "## What does not hold",
        _failures(others, bounds, beliefs),
        *([notes.strip()] if notes.strip() else []),
        "## How it was computed",
        _how(mains),
        "## Mean completion time at equal energy",
        "Hours, means over seeds; in brackets the ratio to `prices` at the same energy, with its 95 % interval "
        "(Student's t) where it is not `prices` itself. For `prices` the interval is that of the mean, in hours. "
        "Levels are shares of the energy of FIFO at maximum clock. A dash: the policy has no setting that comes down "
        "to that energy on every seed. The row *bound* gives `prices` over the proven lower bound (first "
        "seed).",
        *(_table(result) for result in mains),
        "## What `prices` loses by not knowing",
        "Mean completion time over that of `prices` with the true costs and sizes, same jobs, same energy.",
        _belief_table(mains, beliefs),
    ]
    return "\n\n".join(parts) + "\n"


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
            said = "; ".join(f"{c.where}, {c.level:.0%}, {c.other}: {c.ratio:.3f}" for c in failed)
            lines.append(f"- {what}: {said}")
    return "\n".join(lines) or "Nothing: every claim holds in every case."


# --- numbers ------------------------------------------------------------------------------------------------------


def _table(result: Result) -> str:
    levels = result["levels"]
    rows = {(row["policy"], row["level"]): row for row in result["rows"]}
    policies = list(dict.fromkeys(row["policy"] for row in result["rows"]))
    reference_kwh = result["reference_j"] / 3.6e6
    heads = " | ".join(f"{level:.0%}" for level in levels)
    lines = [
        f"### {_where(result)}",
        "",
        f"100 % is {reference_kwh:,.0f} kWh over {result['horizon_s'] / 86400:.1f} days (means over seeds).",
        "",
        f"| policy | {heads} |",
        "|---|" + "---|" * len(levels),
    ]
    for policy in sorted(policies, key=lambda policy: _order(rows, policy, levels)):
        lines.append(f"| {policy} | " + " | ".join(_cell(rows[policy, level]) for level in levels) + " |")
    bound = [rows[OURS, level]["vs_bound"] for level in levels]
    lines.append("| *bound* | " + " | ".join("–" if at is None else f"{at['mean']:.3f}" for at in bound) + " |")
    return "\n".join(lines)


def _order(rows: Mapping[tuple[str, float], Any], policy: str, levels: Sequence[float]) -> tuple[float, ...]:
    return tuple(_jct_h(rows[policy, level]) or float("inf") for level in levels)


def _cell(row: Mapping[str, Any]) -> str:
    hours = _jct_h(row)
    if hours is None:
        return "–"
    if row["policy"] == OURS:
        own = row["metrics"]["jct_mean_s"]
        spread = "" if own["low"] is None else f" ({own['low'] / 3600:.2f} to {own['high'] / 3600:.2f} h)"
        return f"**{hours:.2f}**{spread}"
    ratio = row["vs_prices"]
    if ratio is None:
        return f"{hours:.2f}"
    spread = "" if ratio["low"] is None else f", {ratio['low']:.2f} to {ratio['high']:.2f}"
    return f"{hours:.2f} ({ratio['mean']:.2f}{spread})"


def _belief_table(mains: Sequence[Result], beliefs: Mapping[tuple[str, str], list[Check]]) -> str:
    found = {(belief, check.where, check.level): check.ratio for belief, checks in beliefs.items() for check in checks}
    lines = ["| workload | level | " + " | ".join(BELIEF_WORDS[belief] for belief in beliefs) + " |"]
    lines.append("|---|---|" + "---|" * len(beliefs))
    for result in mains:
        for level in result["levels"]:
            ratios = [found.get((belief, _where(result), level)) for belief in beliefs]
            cells = " | ".join("–" if ratio is None else f"{ratio:.3f}" for ratio in ratios)
            lines.append(f"| {_where(result)} | {level:.0%} | {cells} |")
    return "\n".join(lines)


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
