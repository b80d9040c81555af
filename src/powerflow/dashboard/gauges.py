"""Show how much is used of what is allowed: power against the cap, energy against budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from powerflow import units
from powerflow.api.governance import BudgetRecord
from powerflow.api.records import Top
from powerflow.dashboard.shown import MARK, joules, moment, watts


@dataclass(frozen=True, slots=True)
class Gauge:
    """An amount, what is allowed of it, and what is expected.

    Attributes:
        name, value: What it is, and how much it is now.
        of: What is allowed, in words.
        notes: More sentences about it.
        share: The amount as a share of what is allowed; None if nothing limits it.
        expected: The expected amount as such a share; None if nothing is expected.
        over: True if the amount, or the expected amount, is more than allowed.
    """

    name: str
    value: str
    of: str
    notes: Sequence[str]
    share: float | None
    expected: float | None
    over: bool


def power_gauge(top: Top, words: Mapping[str, str]) -> Gauge:
    """Return the power of the cluster against its power cap."""
    split = words["power_split"].format(
        jobs=watts(top.jobs_power_w, top.emulated), idle=watts(top.power_w - top.jobs_power_w, top.emulated)
    )
    value = watts(top.power_w, top.emulated)
    if top.cap_w is None:
        return Gauge(words["power"], value, words["no_cap"], [split], None, None, False)
    cap, over_w = units.power(top.cap_w), top.power_w - top.cap_w
    said = words["power_over"].format(cap=cap, watts=units.power(over_w)) if over_w > 0 else None
    return Gauge(
        words["power"],
        value,
        said or words["power_of"].format(cap=cap),
        [split],
        top.power_w / top.cap_w if top.cap_w > 0 else 1.0,
        None,
        over_w > 0,
    )


def budget_gauges(top: Top, budgets: Sequence[BudgetRecord], words: Mapping[str, str]) -> list[Gauge]:
    """Return the energy used of each budget, with the forecast to its period's end; all energy if there is none."""
    return [_budget(budget, words) for budget in budgets] or [_all_energy(top, words)]


def _budget(budget: BudgetRecord, words: Mapping[str, str]) -> Gauge:
    name = words["budget_project"].format(project=budget.project) if budget.project else words["budget_cluster"]
    expected = budget.forecast_j / budget.amount_j
    used, amount, forecast = units.energies(budget.spent_j, budget.amount_j, budget.forecast_j)
    notes = [
        words["budget_forecast"].format(
            expected=forecast,
            end=moment(budget.end_s, ZoneInfo(budget.zone), budget.zone),
            share=units.percent(expected),
        )
    ]
    if budget.limited:
        notes.append(words["budget_limits"].format(watts=units.power(budget.limit_w)))
    return Gauge(
        name,
        used + (MARK if budget.emulated else ""),
        words["budget_of"].format(amount=amount, window=budget.window),
        notes,
        budget.share,
        expected,
        max(budget.share, expected) > 1.0,
    )


def _all_energy(top: Top, words: Mapping[str, str]) -> Gauge:
    since = words["energy_since"].format(
        jobs=joules(top.jobs_energy_j, top.emulated), idle=joules(top.idle_energy_j, top.emulated)
    )
    return Gauge(words["energy"], joules(top.energy_j, top.emulated), words["no_budget"], [since], None, None, False)
