"""Say what a change by an operator would stop, or why it cannot be kept, before it is made.

A copy of the scheduler decides with the change (`powerflow.scheduler.dry_run`), in the controller's loop. So what is
said here is what the next decision would do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from zoneinfo import ZoneInfo

from powerflow.api.governance import BudgetOrder, CapOrder
from powerflow.api.records import NotSure
from powerflow.api.stages import StageOrder
from powerflow.live.context import LoopContext
from powerflow.live.controller import Controller
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.dry_run import DryRun, dry_run
from powerflow.scheduler.events import Event, ManagedProjects, NodeDrained, PowerCapSet
from powerflow.units import kwh, power

#: Jobs that are named; of more, the number is given.
NAMED = 5
UNKNOWN = "the controller's loop does not answer, so it is not known which jobs this would stop"


def sure_of(sure: bool, consequences: Callable[[], Sequence[str]]) -> None:
    """Refuse a change that has consequences, unless its user is sure.

    Args:
        sure: True if the user knows that the change may stop jobs, or cannot be kept.
        consequences: Returns the consequences, one line each.

    Raises:
        NotSure: The user is not sure, and the change has consequences.
    """
    if not sure and (found := consequences()):
        raise NotSure("; ".join(found))


class Consequences:
    """Say what changes by operators would stop, or why they cannot be kept. Thread-safe; nothing is changed.

    Each method returns one line for each consequence, and raises an error if the change itself is wrong.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller, self._governance = controller, controller.governance

    def of_budget(self, order: BudgetOrder) -> Sequence[str]:
        """Return the consequences of a budget: it is too small, or jobs would pause for it."""
        now_s = self._controller.clock()
        record, event = self._governance.budgets.trial(order, now_s)
        idle_w = 0.0 if record.project else self._governance.budgets.idle_w
        idle_j, idle_left_j = idle_w * (record.end_s - record.start_s), idle_w * (record.end_s - now_s)
        found = []
        if idle_j > record.amount_j:
            found.append(f"idle GPUs alone draw {kwh(idle_j)} a {record.period}, so it cannot be kept")
        elif record.spent_j + idle_left_j > record.amount_j:
            end = datetime.fromtimestamp(record.end_s, ZoneInfo(record.zone)).strftime("%Y-%m-%d %H:%M")
            idle = f", and idle GPUs draw {kwh(idle_left_j)} more" if idle_left_j else ""
            found.append(f"{kwh(record.spent_j)} are used{idle} until {end}, so it cannot be kept before then")
        return [*found, *self._ask(partial(_stopped, event))]

    def of_cap(self, order: CapOrder) -> Sequence[str]:
        """Return the consequences of a power cap: it cannot be kept, or jobs would pause for it."""
        return self._ask(partial(_of_cap, self._governance.caps.trial(order, self._controller.clock())))

    def of_stage(self, order: StageOrder) -> Sequence[str]:
        """Return the consequences of a stage: caps and budgets would not be kept, or jobs would pause or restart."""
        before, after = self._governance.stages.acting(), self._governance.stages.trial(order)
        now_s = self._controller.clock()
        found = []
        if before.anybody and not after.anybody:
            found += [
                f"the power cap of {power(cap.watts)} on {cap.scope} would not be kept"
                for cap in self._governance.caps.ahead(now_s)
            ]
        for budget in self._governance.budgets.show(now_s):
            scope = budget.project
            was, is_kept = (at.manages(scope) if scope else at.anybody for at in (before, after))
            if was and not is_kept:
                whose = f"project {scope}" if scope else "the cluster"
                found.append(f"the budget of {whose} ({kwh(budget.amount_j)} a {budget.period}) would not be kept")
        return [*found, *self._ask(partial(_of_stage, after))]

    def of_drain(self, node: str) -> Sequence[str]:
        """Return the consequences of draining a node: jobs that would pause, restart or begin anew."""
        return self._ask(partial(_stopped, NodeDrained(node)))

    def _ask(self, question: Callable[[LoopContext, float], Sequence[str]]) -> Sequence[str]:
        found = self._controller.inquire(question)
        return [UNKNOWN] if found is None else found


def _of_cap(cap: PowerCap, context: LoopContext, now_s: float) -> Sequence[str]:
    """Return the consequences of a power cap that must be met now. Only the controller's loop may call this."""
    trial = dry_run(context.scheduler, (PowerCapSet(cap),), context.scheduler_time.scheduler(now_s))
    idle_w, drawn_w = trial.after.caps.idle_w(cap.scope), trial.after.caps.drawn_w(cap.scope)
    found = []
    if idle_w > cap.watts:
        found.append(f"idle GPUs and nodes of {cap.scope.name} alone draw {power(idle_w)}, so it cannot be kept")
    elif drawn_w > cap.watts * (1 + 1e-9):
        draw = f"jobs that PowerFlow cannot stop keep {cap.scope.name} at {power(drawn_w)}"
        found.append(f"{draw}, so it cannot be kept")
    return [*found, *_of_jobs(trial, context)]


def _of_stage(after: ManagedProjects, context: LoopContext, now_s: float) -> Sequence[str]:
    """Return which running jobs would not be managed any more, and which would be stopped. Only the loop may call this.

    Jobs that are not managed run at their GPUs' own clocks, so they may draw more.
    """
    left, more_w = 0, 0.0
    for pool in context.scheduler.pools.values():
        rows, watts = context.scheduler.ledger.rows, pool.costs.arrays()[1]
        for slot in pool.active:
            row = rows[slot]
            if row["gpus"] and not row["unmanaged"] and not after.manages(context.scheduler.ledger.job(slot).project):
                left += 1
                of_job = watts[row["cost"], pool.count_index[row["gpus"]]]
                more_w += float(of_job[-1] - of_job[row["clock"]])
    if not left:
        return _stopped(after, context, now_s)
    who = "1 running job" if left == 1 else f"{left} running jobs"
    cost = f", and would draw {power(more_w)} more" if more_w >= 1.0 else ""
    return [f"{who} would not be managed any more{cost}", *_stopped(after, context, now_s)]


def _stopped(event: Event, context: LoopContext, now_s: float) -> Sequence[str]:
    """Return which jobs an event would stop. Only the controller's loop may call this."""
    return _of_jobs(dry_run(context.scheduler, (event,), context.scheduler_time.scheduler(now_s)), context)


def _of_jobs(trial: DryRun, context: LoopContext) -> Sequence[str]:
    """Return which jobs a change would pause, restart, or let begin anew, one line each."""
    jobs = context.table.jobs
    anew = [job_id for job_id in (*trial.paused, *trial.moved) if jobs[job_id].spec.rescale == "none"]
    paused = [job_id for job_id in trial.paused if job_id not in anew]
    restarted = [job_id for job_id in trial.moved if jobs[job_id].spec.rescale == "restart"]
    found = []
    if paused:
        found.append(f"{named(paused)} would be paused")
    if restarted:
        found.append(f"{named(restarted)} would be restarted")
    if anew:
        found.append(f"{named(anew)} cannot resume and would begin anew")
    return found


def named(job_ids: Sequence[str]) -> str:
    """Return jobs in words: ``job 12``, ``jobs 12 and 14``, ``jobs 12, 14, 15, 16, 17 and 3 more``."""
    if len(job_ids) == 1:
        return f"job {job_ids[0]}"
    if len(job_ids) > NAMED:
        return f"jobs {', '.join(job_ids[:NAMED])} and {len(job_ids) - NAMED} more"
    return f"jobs {', '.join(job_ids[:-1])} and {job_ids[-1]}"
