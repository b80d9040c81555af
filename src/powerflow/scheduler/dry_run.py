"""Find out what a change would do to running jobs, before it is made.

Two copies of the scheduler decide. One of them has been told of the change, the other has not. Only differences between
their two decisions are effects of the change, because the next decision may change jobs for other reasons, too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow.cluster.occupancy import Placement
from powerflow.scheduler.events import Event
from powerflow.scheduler.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a change would do to running jobs.

    Attributes:
        paused: Ids of jobs that would lose all their GPUs.
        moved: Ids of jobs that would get other GPUs, or another number of GPUs.
        after: The copy of the scheduler that was told of the change and has decided.
    """

    paused: Sequence[str]
    moved: Sequence[str]
    after: Scheduler


def dry_run(scheduler: Scheduler, events: Sequence[Event], now_s: float) -> DryRun:
    """Return what events would do to running jobs at the next decision. The scheduler is not changed.

    Args:
        scheduler: The scheduler; it must know the progress of all jobs.
        events: The change, as the scheduler would be told of it.
        now_s: The time, not before the last step.

    Raises:
        PolicyError: The policy's allocation cannot be carried out.
    """
    before = _placements(scheduler)
    without, after = _placements(on_trial(scheduler, (), now_s)), on_trial(scheduler, events, now_s)
    then = _placements(after)
    return DryRun(
        paused=[job_id for job_id in before if job_id in without and job_id not in then],
        moved=[job_id for job_id, at in before.items() if without.get(job_id) == at != then.get(job_id, at)],
        after=after,
    )


def on_trial(scheduler: Scheduler, events: Sequence[Event], now_s: float) -> Scheduler:
    """Return a copy of the scheduler that has taken the events and made the decision that is due after them, if any."""
    trial = copy.deepcopy(scheduler)
    plan = trial.step(now_s, events)
    # a later decision is not due because of the events, but because a power cap begins then
    if (not plan.decided or plan.early) and plan.wake_s <= now_s + trial.interval_s:
        trial.step(max(now_s, plan.wake_s), ())
    return trial


def _placements(scheduler: Scheduler) -> Mapping[str, Placement]:
    """Return the GPUs of each running job, by job id."""
    found = {}
    for pool in scheduler.pools.values():
        for slot in pool.active:
            if scheduler.ledger.rows["gpus"][slot]:
                found[scheduler.ledger.job(slot).id] = pool.occupancy.placement(slot)
    return found
