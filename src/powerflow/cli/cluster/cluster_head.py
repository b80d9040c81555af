"""Say in a few lines how a cluster is: its GPUs and nodes, power, energy, budgets, jobs, and notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from powerflow.cli.cluster.job_table import bar, mark, side_by_side, watts
from powerflow.units import kwh, power, significant

if TYPE_CHECKING:
    from powerflow.api.governance import BudgetRecord
    from powerflow.api.records import NodeRecord, Top

#: Width of the bars, in characters.
_BAR = 16


def head_lines(
    found: Top, nodes: Sequence[NodeRecord] | None = None, budgets: Sequence[BudgetRecord] = ()
) -> list[Text]:
    """Return the lines that say how a cluster is now.

    Args:
        found: The cluster.
        nodes: Its nodes; None if they are not to be counted.
        budgets: Energy budgets to show beside what has been used of them.
    """
    busy = found.gpus_busy / found.gpus if found.gpus else 0.0
    idle_w = found.power_w - found.jobs_power_w
    of_jobs = found.jobs_energy_j / found.energy_j if found.energy_j else 0.0
    used = found.energy_j, found.jobs_energy_j, found.idle_energy_j
    all_j, jobs_j, idle_j = side_by_side(used, found.emulated)
    price = f" · λ_E {significant(found.energy_price, 2)} s/J" if found.energy_price else ""
    cap = "" if found.cap_w is None else f" · cap {power(found.cap_w)} ({found.power_w / max(found.cap_w, 1.0):.0%})"
    until_s = None if found.next_decision_s is None else max(0.0, found.next_decision_s - found.time_s)
    soon = f" · next decision in {until_s:.0f} s" if found.queued and until_s is not None else ""
    counted = "" if nodes is None else f" · {_nodes(nodes)}"
    return [
        _line("GPUs", bar(busy, _BAR), f"   {found.gpus_busy} of {found.gpus} busy{counted}"),
        _line(
            "power",
            f"{watts(found.power_w, found.emulated)} · jobs {watts(found.jobs_power_w, found.emulated)}, "
            f"idle {watts(idle_w, found.emulated)}{cap}",
        ),
        _line("energy", f"{all_j} · jobs {jobs_j} ({of_jobs:.0%}), idle {idle_j}"),
        *(_line("budget", _budget(budget)) for budget in budgets),
        _line("jobs", f"{_counts(found)}{soon}"),
        _line("policy", f"{found.policy}{price}" + ("" if budgets else f" · budget: {found.budget}")),
    ]


def notice_lines(found: Top) -> list[Text]:
    """Return what an operator should know, one line each."""
    return [Text(f"! {notice}", style="yellow") for notice in found.notices]


def _line(name: str, *parts: str | Text) -> Text:
    return Text.assemble((f"{name:<8}", "bold"), *parts)


def _nodes(nodes: Sequence[NodeRecord]) -> str:
    """Return in words how many nodes are in each state."""
    states = Counter(node.state for node in nodes)
    words = ", ".join(f"{count} {state}" for state, count in sorted(states.items(), key=lambda at: at[0] != "up"))
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}: {words}" if nodes else "no nodes"


def _budget(budget: BudgetRecord) -> str:
    used, whose = f"{kwh(budget.spent_j)}{mark(budget.emulated)}", f"project {budget.project}" if budget.project else ""
    said = f"{budget.share:.1%}: {used} of {kwh(budget.amount_j)} a {budget.period}, {kwh(budget.forecast_j)} expected"
    return f"{whose}, {said}" if whose else said


def _counts(found: Top) -> str:
    """Return in words how many jobs are in each state."""
    ending = f", {found.completing} completing" if found.completing else ""
    return f"{found.running} running{ending}, {found.queued} queued, {found.held} held"
