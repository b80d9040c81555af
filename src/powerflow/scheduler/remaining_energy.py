"""Compute the energy that active jobs still need, for the cluster and for each project with a budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from powerflow.energy.remaining_energy import remaining_energy
from powerflow.energy.terms import EnergyTerms
from powerflow.scheduler.rules.power_limit import members
from powerflow.scheduler.scheduler import Scheduler


def remaining_energy_j(
    scheduler: Scheduler, prices: Sequence[float], scopes: Iterable[str], now_s: float
) -> dict[str, list[float]]:
    """Return the joules that the active jobs of the cluster or of projects still need, at several energy prices.

    Args:
        scheduler: A scheduler that knows the progress of all jobs up to now.
        prices: Energy prices λ_E, seconds per joule.
        scopes: Names of projects; "" is the cluster. For the cluster, the result has the joules above idle draw. For a
            project, it includes the idle draw of the GPUs that its jobs hold.
        now_s: The time.

    Returns:
        By name in ``scopes``, the joules at each of ``prices``.
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
                total[scope] += remaining_energy(
                    prices,
                    its.jobs["remaining"],
                    its.jobs["weight"],
                    its.jobs["gpus_min"],
                    its.jobs["gpus_max"],
                    its.jobs["cost"],
                    view.gpu_counts,
                    view.step_time_s,
                    view.power_w,
                    0.0 if scope else view.idle_w,
                )
    return {scope: [float(joules) for joules in sums] for scope, sums in total.items()}
