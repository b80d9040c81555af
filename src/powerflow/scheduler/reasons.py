"""Find the reason why each job has its present GPUs and clock, from the policy's view and answer."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from powerflow.arrays import IntArray
from powerflow.policy.levels import requested_gpus
from powerflow.policy.protocol import Policy, View
from powerflow.scheduler.differences import MOVED, Decision
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.plan import Change, Reason, Why, Wish
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.rules.power_limit import PowerLimit
from powerflow.scheduler.rules.rollout import Rollout
from powerflow.scheduler.rules.wrapper import find_wrapper


def beneficiaries(freed: Sequence[int]) -> list[int]:
    """Find for each job that gave up GPUs the job that got these GPUs.

    GPUs that were given up go first to the job that took the most GPUs. Among equals, they go to the job that comes
    first in the list.

    Args:
        freed: GPUs that each job gave up (positive) or took (negative).

    Returns:
        For each job, the position in ``freed`` of the first job that got its GPUs; -1 if the job gave up no GPUs, or if
        no job got them.
    """
    if max(freed, default=0) <= 0 or min(freed) >= 0:  # no job gives, or no job takes: most decisions
        return [-1] * len(freed)
    takers = sorted((change, i) for i, change in enumerate(freed) if change < 0)
    taker, wanting = 0, -takers[0][0]
    result = []
    for given in freed:
        result.append(takers[taker][1] if given > 0 and taker < len(takers) else -1)
        left = given
        while left > 0 and taker < len(takers):
            used = min(left, wanting)
            left, wanting = left - used, wanting - used
            if wanting == 0:
                taker += 1
                wanting = -takers[taker][0] if taker < len(takers) else 0
    return result


def changes_of(policy: Policy, pool: Pool, decision: Decision, ledger: Ledger) -> list[Change]:
    """Return the changes that a decision makes to the jobs of a pool, each with a reason.

    The ledger is changed: it records which jobs have started and which were preempted.

    Args:
        policy: The policy that was asked for the decision; it must not have been asked again since.
        pool: The pool, with the jobs already placed on their new GPUs.
        decision: The decision.
        ledger: The active jobs.
    """
    price, now_s = decision.answer.gpu_price, decision.view.now_s
    less, limited = _reduced(decision), _limited(policy, decision)
    takers = beneficiaries([had - has for _, had, has, *_ in decision.changed])
    changes = []
    for (slot, had, has, had_clock, clock, how), taker in zip(decision.changed, takers, strict=True):
        capped, saved = slot in less, slot in limited
        ledger.preempted[slot] = has == 0
        drained = decision.drained.get(slot, ())
        if drained and not capped and not saved:
            why = Why.DRAINED
        elif has == 0:
            why = Why.CAP_PAUSED if capped else Why.BUDGET_PAUSED if saved else Why.PREEMPTED
        elif had == 0:
            why = Why.RESUMED if ledger.started[slot] else Why.STARTED
            ledger.started[slot] = True
        elif has != had:
            shrunk = Why.CAP_SHRUNK if capped and less[slot] >= had else Why.BUDGET_SHRUNK if saved else Why.SHRUNK
            why = Why.GROWN if has > had else shrunk
        elif how == MOVED:
            why = Why.CUT if slot in decision.cut else Why.MOVED
        elif ledger.rows["unmanaged"][slot]:
            why = Why.GIVEN_BACK
        else:
            slowed = Why.CAP_RECLOCKED if capped else Why.BUDGET_RECLOCKED if saved else Why.RECLOCKED
            why = slowed if clock < had_clock else Why.RECLOCKED
        had_mhz = pool.clocks_mhz[had_clock] if had else 0.0
        has_mhz = pool.clocks_mhz[clock] if has else 0.0
        # GPUs that a limit took were not taken for another job
        gave = taker >= 0 and why in (Why.SHRUNK, Why.PREEMPTED)
        name = ledger.job(decision.changed[taker][0]).id if gave else ""
        told = why in (Why.MOVED, Why.DRAINED)
        nodes = tuple(share.node for share in pool.occupancy.placement(slot)) if told else ()
        left = drained if why is Why.DRAINED else ()
        reason = Reason(why, had, has, had_mhz, has_mhz, name, price, 0, nodes, left)
        packed, wait_s = pool.is_packed(slot), pool.wait_s(slot, now_s)
        changes.append(
            Change(ledger.job(slot).id, slot, pool.gpu_type, has, clock, has_mhz, packed, how == MOVED, wait_s, reason)
        )
    return changes


def _reduced(decision: Decision) -> Mapping[int, int]:
    """Return the GPU counts that the policy gave to jobs which power caps then reduced, by slot (row of the ledger)."""
    wish, answer = decision.wish, decision.answer
    if wish is answer:
        return {}
    less = (answer.gpus < wish.gpus) | ((answer.clock < wish.clock) & (answer.gpus > 0))
    return dict(zip(decision.slots[less].tolist(), wish.gpus[less].tolist(), strict=True))


def _limited(policy: Policy, decision: Decision) -> set[int]:
    """Return the slots (rows of the ledger) of jobs that have less because an energy budget limits watts."""
    limit = find_wrapper(policy, PowerLimit) if decision.view.limit_w else None
    if limit is None or not limit.less:
        return set()
    return set(decision.slots[np.isin(decision.view.jobs["id"], list(limit.less))].tolist())


def all_reasons(
    policy: Policy, decision: Decision, ledger: Ledger, changed: Mapping[str, Reason], ids: list[str]
) -> Mapping[str, Reason]:
    """Return a reason for each job that the policy saw, by job id.

    To explain why a job stays as it is, copies of the policy are asked again with one thing different: first rescaling
    costs nothing, then energy costs nothing. If the answer for the job is then different, this thing is the reason.

    Args:
        policy: The policy that was asked for the decision.
        decision: The decision.
        ledger: The active jobs.
        changed: The reasons of the jobs that the decision changes, by job id.
        ids: Job ids, in the order of the decision's jobs.
    """
    view, answer, wish = decision.view, decision.answer, decision.wish
    rows = view.jobs
    less, limited = _reduced(decision), _limited(policy, decision)
    if_free_rescale: IntArray | None = None  # asked for when a reason first depends on it: an answer takes long
    if_free_energy: IntArray | None = None
    priced = view.energy_price > 0 or view.project_price is not None or view.limit_w
    free = view.capacity - int(answer.gpus.sum())
    smallest = np.where(rows["unmanaged"], requested_gpus(view), smallest_counts(view))
    reasons: dict[str, Reason] = {}
    for j, job_id in enumerate(ids):
        if job_id in changed:
            reasons[job_id] = changed[job_id]
            continue
        gpus = int(answer.gpus[j])
        clock = float(view.clocks_mhz[answer.clock[j]]) if gpus else 0.0
        short_of = 0
        if rows["unmanaged"][j] and gpus:
            why = Why.AS_ASKED
        elif int(decision.slots[j]) in less:
            why = Why.CAP_KEPT if gpus else Why.WAITS_CAP
        elif gpus and int(decision.slots[j]) in limited:
            why = Why.BUDGET_KEPT
        elif gpus:
            if if_free_rescale is None:
                if_free_rescale = _answer(policy, view.with_jobs(pause_s=0.0))
            why = Why.KEPT if if_free_rescale[j] == gpus else Why.KEPT_COST
        elif smallest[j] == 0:
            why = Why.NEVER_FITS
        elif smallest[j] > free:
            why = Why.WAITS_GPUS
            short_of = int(smallest[j]) - free
        else:
            if if_free_energy is None:
                if_free_energy = _answer(policy, with_free_energy(view)) if priced else wish.gpus
            why = Why.WAITS_BUDGET if if_free_energy[j] > 0 else Why.WAITS_GPUS
        reasons[job_id] = Reason(why, int(rows["gpus"][j]), gpus, clock, clock, "", answer.gpu_price, short_of)
    return reasons


def pinned_reasons(pool: Pool, ledger: Ledger) -> Mapping[str, Reason]:
    """Return the reasons of the jobs that no decision changes, because their nodes do not answer, by job id."""
    found = {}
    for slot in pool.outage.pinned:
        gpus, clock_mhz = int(ledger.rows["gpus"][slot]), pool.clocks_mhz[int(ledger.rows["clock"][slot])]
        found[ledger.job(slot).id] = Reason(Why.UNREACHABLE, gpus, gpus, clock_mhz, clock_mhz)
    return found


def wishes(policy: Policy, pool: Pool, decision: Decision) -> Mapping[int, Wish]:
    """Return the allocations of unmanaged projects' jobs if they were managed, by slot (row of the ledger)."""
    rollout, unmanaged = find_wrapper(policy, Rollout), decision.view.jobs["unmanaged"]
    if rollout is None or not unmanaged.any():
        return {}
    wish = rollout.wish(decision.view)
    found = {}
    for j in np.flatnonzero(unmanaged).tolist():
        gpus = int(wish.gpus[j])
        clock_mhz = pool.clocks_mhz[int(wish.clock[j])] if gpus else 0.0
        found[int(decision.slots[j])] = Wish(pool.gpu_type, gpus, clock_mhz)
    return found


def _answer(policy: Policy, view: View) -> IntArray:
    """Return the GPU counts that the policy would give; a copy is asked, so that the policy's memory stays the same."""
    return copy.deepcopy(policy).decide(view).gpus


def with_free_energy(view: View) -> View:
    """Return the view with energy prices of 0 and without limits in watts."""
    return dataclasses.replace(view, energy_price=0.0, project_price=None, limit_w={})


def smallest_counts(view: View) -> IntArray:
    """Return the smallest GPU count on which each of the J jobs can run, ``[J]``; 0 if a job cannot run."""
    rows = view.jobs
    runs = np.isfinite(view.step_time_s[rows["cost"], :, -1])
    counts = view.gpu_counts[None, :]
    runs &= (counts >= rows["gpus_min"][:, None]) & (counts <= rows["gpus_max"][:, None])
    first = np.argmax(runs, axis=1)
    return np.where(runs.any(axis=1), view.gpu_counts[first], 0)
