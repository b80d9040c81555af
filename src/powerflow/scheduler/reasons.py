"""Why each job has what it has, worked out from what the policy saw and said."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np

from powerflow.cost.table import IntArray
from powerflow.policy.protocol import Policy, View
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.plan import Reason, Why
from powerflow.scheduler.pool import Decision


def beneficiaries(gives: IntArray, takes: IntArray) -> list[int]:
    """Whom each giving job's GPUs went to.

    GPUs given up go, in the order of submission, to the jobs that took most first; ties to the earlier job.

    Args:
        gives: ``[J]`` GPUs each job gave up.
        takes: ``[J]`` GPUs each job got.

    Returns:
        For each giving job, in order, the position of the first job that its GPUs went to; -1 if to none.
    """
    takers = np.argsort(-takes, kind="stable")
    queue = [(int(j), int(takes[j])) for j in takers if takes[j] > 0]
    result = []
    for j in np.flatnonzero(gives).tolist():
        result.append(queue[0][0] if queue else -1)
        left = int(gives[j])
        while queue and left > 0:
            taker, wants = queue[0]
            used = min(left, wants)
            left -= used
            if used == wants:
                queue.pop(0)
            else:
                queue[0] = (taker, wants - used)
    return result


def change_reasons(decision: Decision, ledger: Ledger) -> list[Reason]:
    """A reason for each changed job, in the order of ``decision.changed``."""
    rows, answer = decision.view.jobs, decision.answer
    clocks = decision.view.clocks_mhz
    before, after = rows["gpus"].astype(np.int64), answer.gpus
    gives = np.maximum(before - after, 0)
    names: dict[int, str] = {}
    if gives.any():
        given = beneficiaries(gives, np.maximum(after - before, 0))
        for j, taker in zip(np.flatnonzero(gives).tolist(), given, strict=True):
            names[j] = ledger.job(int(decision.slots[taker])).id if taker >= 0 else ""
    reasons = []
    for j in decision.changed.tolist():
        had, has = int(before[j]), int(after[j])
        if has == 0:
            why = Why.PREEMPTED
        elif had == 0:
            why = Why.RESUMED if ledger.started[int(decision.slots[j])] else Why.STARTED
        elif has > had:
            why = Why.GROWN
        elif has < had:
            why = Why.SHRUNK
        else:
            why = Why.RECLOCKED if answer.clock[j] != rows["clock"][j] else Why.MOVED
        reasons.append(
            Reason(
                why,
                had,
                has,
                float(clocks[rows["clock"][j]]) if had else 0.0,
                float(clocks[answer.clock[j]]) if has else 0.0,
                names.get(j, ""),
                answer.gpu_price,
            )
        )
    return reasons


def all_reasons(
    policy: Policy, decision: Decision, ledger: Ledger, changed: Mapping[str, Reason], ids: list[str]
) -> Mapping[str, Reason]:
    """A reason for every job the policy saw.

    What keeps an unchanged job as it is shows in what the same policy would say of a world in which that one
    thing were otherwise: rescaling free, or energy free.
    """
    view, answer = decision.view, decision.answer
    rows = view.jobs
    if_free_rescale = _answer(policy, _with_free_rescale(view))
    if_free_energy = (
        _answer(policy, dataclasses.replace(view, energy_price=0.0)) if view.energy_price > 0 else answer.gpus
    )
    free = view.capacity - int(answer.gpus.sum())
    smallest = _smallest_counts(view)
    reasons: dict[str, Reason] = {}
    for j, job_id in enumerate(ids):
        if job_id in changed:
            reasons[job_id] = changed[job_id]
            continue
        gpus = int(answer.gpus[j])
        clock = float(view.clocks_mhz[answer.clock[j]]) if gpus else 0.0
        short_of = 0
        if gpus:
            why = Why.KEPT if if_free_rescale[j] == gpus else Why.KEPT_COST
        elif smallest[j] == 0:
            why = Why.NEVER_FITS
        elif if_free_energy[j] > 0 and smallest[j] <= free:
            why = Why.WAITS_BUDGET
        else:
            why = Why.WAITS_GPUS
            short_of = max(int(smallest[j]) - free, 0)
        reasons[job_id] = Reason(why, int(rows["gpus"][j]), gpus, clock, clock, "", answer.gpu_price, short_of)
    return reasons


def _answer(policy: Policy, view: View) -> IntArray:
    """GPUs the policy would give, asked without leaving a trace in its memory."""
    return copy.deepcopy(policy).decide(view).gpus


def _with_free_rescale(view: View) -> View:
    rows = view.jobs.copy()
    rows["pause_s"] = 0.0
    rows.flags.writeable = False
    return dataclasses.replace(view, jobs=rows)


def _smallest_counts(view: View) -> IntArray:
    """``[J]`` the fewest GPUs each job can run on; 0 if it can run on no count at all."""
    rows = view.jobs
    runs = np.isfinite(view.step_time_s[rows["cost"], :, -1])
    counts = view.gpu_counts[None, :]
    runs &= (counts >= rows["gpus_min"][:, None]) & (counts <= rows["gpus_max"][:, None])
    first = np.argmax(runs, axis=1)
    return np.where(runs.any(axis=1), view.gpu_counts[first], 0)
