"""Describe results, good or bad, in sentences that are computed from the numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from powerflow import units
from powerflow.look.key_figure import KeyFigure
from powerflow.report.words import mean, named, subject_of
from powerflow.simulate.comparison import REFERENCE, Comparison, EqualEnergyRow
from powerflow.simulate.result import SimulationResult

# --- a comparison ---


@dataclass(frozen=True, slots=True)
class _Case:
    """What the headline is about: one policy at one energy level, and FIFO at full energy."""

    subject: EqualEnergyRow
    jct_s: float
    reference_s: float | None


def _case(comparison: Comparison) -> _Case | None:
    """Choose the energy level for the headline.

    It is the lowest level at which the policy that the page is about is as fast as FIFO at full energy. If there is no
    such level, it is the highest level that the policy reaches. The result is None if the policy reaches no level.
    """
    subject = subject_of(comparison)
    mine = [row for row in comparison.rows if row.policy == subject and mean(row, "jct_mean_s") is not None]
    if not mine:
        return None
    full = [row for row in comparison.rows if row.policy == REFERENCE and row.level == 1.0]
    reference = full[0] if full and subject != REFERENCE else None
    reference_s = mean(reference, "jct_mean_s")
    as_good = [row for row in mine if reference_s is not None and (mean(row, "jct_mean_s") or 0.0) <= reference_s]
    chosen = min(as_good, key=lambda row: row.level) if as_good else max(mine, key=lambda row: row.level)
    return _Case(chosen, mean(chosen, "jct_mean_s") or 0.0, reference_s)


def headline(comparison: Comparison) -> str:
    """Return the main result of a comparison in one sentence, whether the policy of the page is faster or slower."""
    case = _case(comparison)
    if case is None:
        return "No policy reached any of the energy levels, so there is nothing to compare."
    name, level = named(case.subject.policy), units.percent(case.subject.level)
    if case.reference_s is None:
        return f"At {level} of FIFO's energy, {name} finishes jobs on average in {units.duration(case.jct_s)}."
    takes, needs = units.durations(case.jct_s, case.reference_s)
    return f"At {level} of FIFO's energy, {name} finishes jobs on average in {takes}; FIFO needs {needs} at 100\u202f%."


def standfirst(comparison: Comparison) -> str:
    """Return the sentences below the headline: how the best policy of the others does, and how near the bound is."""
    case = _case(comparison)
    if case is None:
        return ""
    sentences = []
    rivals = [
        (jct, row.policy)
        for row in comparison.rows
        if row.level == case.subject.level and row.policy != case.subject.policy
        for jct in [mean(row, "jct_mean_s")]
        if jct is not None
    ]
    if rivals and case.jct_s:
        jct, policy = min(rivals)
        takes = f"{units.duration(jct)} at the same energy, {units.prose(jct / case.jct_s)} times as long"
        if jct >= case.jct_s:
            sentences.append(f"The next best policy, {named(policy)}, takes {takes}.")
        else:
            sentences.append(f"Another policy is faster at this energy: {named(policy)} takes {takes}.")
    bound = case.subject.vs_bound
    if bound is not None and math.isfinite(bound.mean):
        above = units.percent(bound.mean - 1)
        name = named(case.subject.policy)
        sentences.append(f"With that energy {name} is within {above} of a proven bound that no schedule can beat.")
    return " ".join(sentences)


def key_figures(comparison: Comparison) -> list[KeyFigure]:
    """Return the large numbers below the headline of a comparison. Numbers without data are left out."""
    case = _case(comparison)
    if case is None:
        return []
    figures = []
    if case.reference_s and case.jct_s:
        ratio = case.reference_s / case.jct_s
        figures.append(
            KeyFigure(
                f"{units.significant(ratio)}×" if ratio >= 1 else f"{units.significant(1 / ratio)}×",
                f"{'shorter' if ratio >= 1 else 'longer'} mean completion time than FIFO at full energy",
            )
        )
    saved_j = comparison.reference_j - case.subject.budget_j
    if saved_j > 0.001 * comparison.reference_j:
        span = units.duration(comparison.horizon_s)
        figures.append(KeyFigure(units.energy(saved_j), f"less than FIFO at maximum clock, over {span}"))
    bound = case.subject.vs_bound
    if bound is not None and math.isfinite(bound.mean):
        above = units.percent(bound.mean - 1)
        figures.append(KeyFigure(above, "above the proven bound, which no schedule can beat"))
    slowdown = mean(case.subject, "slowdown_mean")
    if slowdown is not None:
        figures.append(
            KeyFigure(f"{units.significant(slowdown)}×", "mean slowdown, against each job alone as it was submitted")
        )
    return figures


def how_compared(comparison: Comparison) -> dict[str, str]:
    """Return facts about how the comparison was made, for the end of the page: label → words."""
    seeds = sorted({seed for line in comparison.frontiers for seed in line.hull})
    several = f"means over {len(seeds)} seeds; intervals are 95 % (Student's t)"
    return {
        "Energy": f"whole cluster, over the same {units.duration(comparison.horizon_s)} for every policy",
        "100 % means": f"{units.energy(comparison.reference_j)}: FIFO with every GPU at its maximum clock",
        "Seeds": several if len(seeds) > 1 else "one seed; no interval can be given",
        "No number": "the policy used more energy with every setting that was tried",
    }


# --- one simulation ---------------------------------------------------------------------------------------------


def simulation_headline(result: SimulationResult) -> str:
    """Return the main result of one simulation in one sentence."""
    jct_s = result.jobs.jct_s[np.isfinite(result.jobs.jct_s)]
    if not len(jct_s):
        return "No job was done in this simulation."
    count = f"{len(jct_s):,}".replace(",", "\u202f")
    jobs, finished = ("1 job", "was done in") if len(jct_s) == 1 else (f"{count} jobs", "were done in")
    took, used = units.duration(float(jct_s.mean())), units.energy(result.metered_j)
    average = "" if len(jct_s) == 1 else " on average"
    return f"{jobs} {finished} {took}{average}, for {used} in all."


def simulation_standfirst(result: SimulationResult) -> str:
    """Return sentences about a simulation: when the last job ended, and how much energy the jobs used."""
    if not result.jobs.ids or result.metered_j <= 0:
        return ""
    busy = units.percent(1 - result.idle_j / result.metered_j)
    failed = int(result.jobs.failed.sum())
    ends = f" {failed} of them failed for good." if failed else ""
    return (
        f"The last job ended after {units.duration(result.end_s)}. {busy} of the energy belongs to jobs; "
        f"the rest was drawn by unused GPUs and nodes.{ends}"
    )


def simulation_figures(result: SimulationResult) -> list[KeyFigure]:
    """Return the large numbers below the headline of one simulation."""
    jobs = result.jobs
    jct_s = jobs.jct_s[np.isfinite(jobs.jct_s)]
    if not len(jct_s):
        return []
    wait_s = (jobs.start_s - jobs.submit_s)[np.isfinite(jobs.start_s)]
    figures = [KeyFigure(units.duration(float(np.median(jct_s))), "median completion time")]
    figures.append(KeyFigure(units.duration(float(np.quantile(jct_s, 0.99))), "99 of 100 jobs were done within this"))
    if len(wait_s):
        figures.append(KeyFigure(units.duration(float(wait_s.mean())), "mean wait for the first GPU"))
    figures.append(KeyFigure(units.energy(float(jobs.energy_j.sum()) / len(jobs.ids)), "energy of the average job"))
    return figures


def how_simulated(result: SimulationResult) -> dict[str, str]:
    """Return facts about how the simulation was made, for the end of the page: label → words."""
    price = result.energy_price
    return {
        "Policy": result.policy,
        "Price of energy λ": f"{units.prose(price, 4)} seconds of mean completion time per joule"
        if price
        else "0: only speed counts",
        "Seed": str(result.seed),
        "Decisions": f"the policy was asked {result.decisions:,} times".replace(",", "\u202f"),
        "Energy": f"whole cluster, from the first moment until the last job ended, {units.duration(result.end_s)}",
    }
