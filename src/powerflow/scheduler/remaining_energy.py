"""What the jobs that are there still need, by whose budget pays for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from powerflow.energy.remaining_energy import owed
from powerflow.energy.terms import EnergyTerms
from powerflow.policy.protocol import View
from powerflow.scheduler.rules.power_limit import members
from powerflow.scheduler.scheduler import Scheduler


def owed_j(
    scheduler: Scheduler, prices: Sequence[float], scopes: Iterable[str], now_s: float
) -> dict[str, list[float]]:
    """By scope of a budget, joules at each price of energy to finish the jobs that it pays for (`energy.owed`).

    Args:
        scheduler: Told of all progress up to now.
        prices: λ_E, seconds per joule.
        scopes: "" is the cluster: joules above idle; else a project: with the idle draw of the GPUs that it holds.
        now_s: The present.
    """
    total = {scope: np.zeros(len(prices)) for scope in scopes}
    for pool in scheduler.pools.values():
        slots = np.array(pool.active, np.int64)
        if not len(slots):
            continue
        view = pool.view(scheduler.ledger, slots, now_s, EnergyTerms(), True)
        for scope in total:
            its = replace(view, jobs=view.jobs[members(view, scope)]) if scope else view
            if len(its.jobs):
                total[scope] += _owed(its, prices, 0.0 if scope else view.idle_w)
    return {scope: [float(joules) for joules in sums] for scope, sums in total.items()}


def _owed(view: View, prices: Sequence[float], baseline_w: float) -> list[float]:
    jobs = view.jobs
    return owed(
        prices,
        jobs["remaining"],
        jobs["weight"],
        jobs["gpus_min"],
        jobs["gpus_max"],
        jobs["cost"],
        view.gpu_counts,
        view.step_time_s,
        view.power_w,
        baseline_w,
    )
