"""Ask the scheduler for plans, and carry them out.

1. `decide` writes each plan to the job table.
2. `act` stores the decisions, and only then starts, moves and stops ranks.
3. `tune` sets the clocks of the GPUs that jobs hold.
"""

from __future__ import annotations

import math
import time

from powerflow.kernel import is_compiled
from powerflow.live.context import LoopContext
from powerflow.live.governance.step import GovernanceStep
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.step_timing import clocks_to_try
from powerflow.live.wall_clock import moved
from powerflow.scheduler.events import Failed
from powerflow.scheduler.plan import Change, Plan
from powerflow.units import duration

#: A decision that takes longer is logged, seconds.
LONG_S = 1.0


def long_said(took_s: float, *, compiles: bool) -> str:
    """Return in words how long a decision took; "" if it was not long."""
    if took_s <= LONG_S:
        return ""
    return f"{duration(took_s)}" + (", most of it to compile: this happens once" if compiles else "")


class PlanExecutor:
    """Carry out the plans of one scheduler. Only the controller's loop may use it.

    Args:
        explore_steps: Steps at each clock that a job tries; 0 if jobs try no clocks.

    Attributes:
        wake_s: When the scheduler wants to decide next (Unix seconds); inf if no decision is needed.
        gpu_price: GPU price at the latest decision, the highest of all GPU types; 0 if the policy has no prices.
    """

    def __init__(self, context: LoopContext, governance: GovernanceStep, explore_steps: int) -> None:
        self._context, self._governance = context, governance
        self._explore_steps = explore_steps
        self._scheduler, self._table, self._time = context.scheduler, context.table, context.scheduler_time
        self.wake_s = -math.inf
        self.gpu_price = 0.0

    def clock_set(self, by_s: float) -> None:
        """Move the time of the next decision by ``by_s``, because the machine's clock was set by this many seconds."""
        self.wake_s = moved(self.wake_s, by_s)

    def decide(self, now_s: float) -> bool:
        """Send events to the scheduler, and write its plan to the job table.

        Return False if the plan decides nothing.
        """
        told = [self._table.progress(self._scheduler), *map(self._time.told, self._table.take_events())]
        begun_s, compiled = time.perf_counter(), is_compiled()
        plan = self._scheduler.step(self._time.scheduler(now_s), told)
        if words := long_said(time.perf_counter() - begun_s, compiles=is_compiled() and not compiled):
            self._context.log.info("a decision took long", what=words)
        self.wake_s = self._time.wall(plan.wake_s)
        for ignored in plan.ignored:
            self._context.log.info("the scheduler ignored events", what=ignored)
        if plan.decided:
            self._note(plan, now_s)
            self._governance.decided(plan, now_s)
        return plan.decided

    def act(self, now_s: float) -> bool:
        """Store the decisions, and carry them out. Return False if no decision was pending.

        Raises:
            StoreError: The decisions cannot be stored; none of them was carried out.
        """
        if not self._table.pending:
            return False
        jobs = [self._table.jobs[job_id] for job_id in self._table.pending]
        if any(job.placement for job in jobs):
            self._context.store.beat()
        # jobs that were cancelled or held a moment ago are left out; a command about them waits
        out = self._context.store.intents.add([job.intent() for job in jobs], now_s)
        self._context.store.update([job.update() for job in jobs])
        moved_jobs = [job for job in jobs if self._table.pending[job.id] and job.id not in out]
        self._context.gangs.apply([job.desired(self._context.runs_as(job.user)) for job in moved_jobs])
        self._table.carried_out()
        return True

    def tune(self, now_s: float) -> None:
        """Set each GPU to the clock of the managed job that is on it, and reset the clocks of all other GPUs."""
        wanted = {}
        for place, job_id in self._context.gangs.holding().items():
            job = self._table.jobs.get(job_id)
            if job and job.placement and job.clock_now_mhz > 0 and self._governance.acts(job):
                wanted[place] = job.clock_now_mhz
        self._context.power.tune(now_s, wanted)
        self._context.power.audit()  # last: clocks are set whether or not that can be stored now

    def _note(self, plan: Plan, now_s: float) -> None:
        """Take a plan into the job table: what each job must hold, and why."""
        jobs = {job.id: job for job in self._table.jobs.values() if job.known}  # the others are leaving
        price = self.gpu_price = max(plan.gpu_price.values(), default=0.0)
        for job_id, reason in plan.reasons().items():
            if job_id in jobs and jobs[job_id].explained(reason, price, now_s):
                self._table.changed(jobs[job_id])
        for change in plan.changes:
            if change.job_id in jobs:
                self._apply(change, jobs[change.job_id])
        for job in jobs.values():  # jobs that the scheduler could not adopt where they ran
            settled = job.placement and job.id not in self._table.pending
            if settled and not self._scheduler.ledger.rows["gpus"][self._scheduler.slot(job.id)]:
                self._table.vacate(job, job.reason)

    def _apply(self, change: Change, job: ActiveJob) -> None:
        what, gpus, clock_mhz = job.said(change.reason), change.gpus, change.clock_mhz
        self._context.log.info("decided", job=job.id, what=what, gpus=gpus, clock_mhz=clock_mhz)
        gpus_change = change.moved or gpus == 0
        if gpus_change and job.spec.external:  # its GPUs are the other scheduler's to give and to take
            self._table.vacate(job, f"its clocks are not set any more: {what}")
            return
        if gpus_change:
            pool = self._scheduler.pools[change.pool]
            shares = pool.occupancy.placement(change.slot)
            job.placed(tuple((share.node, share.gpus) for share in shares), change.pool, clock_mhz)
            if gpus and self._explore_steps and self._context.power.settable:
                job.explore(clocks_to_try(job, self._context.learning, pool.axes, self._explore_steps))
            if job.spec.rescale == "none" and len(job.placement) > 1:  # one process cannot use GPUs of several nodes
                self._table.vacate(job, f"waits for {job.gpus} GPUs on one node")
                self._table.emit(Failed(job.id, retry=True, done=job.steps))
                return
        else:
            job.clocked(clock_mhz)
        self._table.decided(job, gpus_change=gpus_change)
