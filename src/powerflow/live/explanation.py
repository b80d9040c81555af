"""Explain why a job has its GPUs and clock, what else it could have, and when it is expected to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from powerflow.api.decisions import Explanation, JobOption
from powerflow.live.context import LoopContext
from powerflow.live.controller import Controller
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.options import JobPrices, measured, option, options
from powerflow.scheduler.plan import Why
from powerflow.scheduler.rules.fair_share import FairShare
from powerflow.scheduler.rules.wrapper import find_wrapper
from powerflow.scheduler.what_if import LIMITS, NEXT, Insight, what_if
from powerflow.store.models import StoredJob

#: Reasons of jobs that wait, and what a job waits for, by the limit that binds; for GPUs, unless it is listed here.
WAITS = frozenset({Why.WAITS_GPUS, Why.WAITS_BUDGET, Why.WAITS_CAP})
WAITED_FOR = {"budget": "budget", "cap": "the power cap to end", NEXT: "the next decision"}
#: What is added to the reason of a job whose processes are ending.
ENDING = "; its processes are ending, and keep their GPUs until then"
#: An end this close to the time limit is the end by the limit, in seconds: sums of times are rounded.
LIMIT_NEAR_S = 0.01


def explain(controller: Controller, stored: StoredJob, *, completing: bool = False) -> Explanation:
    """Explain why a job has its GPUs and clock.

    Any thread may call this function. It waits until the controller's loop has asked the scheduler.

    Args:
        controller: The controller.
        stored: The job.
        completing: True if the job's processes are ending.
    """
    scheduler = controller.scheduler
    price = scheduler.energy_price
    job = controller.snapshot.get(stored.id)
    if job is None or not job.known:
        sentence = stored.exit or (job.reason if job else stored.reason) or stored.state.value
        sentence += ENDING if completing else ""
        return Explanation(stored.id, sentence, stored.state.value, None, 0.0, price, None, ())
    pool = scheduler.pools[job.gpu_type or next(iter(scheduler.pools))]
    table = controller.learning.table(job.kind.name, pool.gpu_type)
    price += scheduler.energy.by_project.get(job.spec.project, 0.0)
    prices = JobPrices(job.job(1.0).weight, price, job.gpu_price, pool.gpu_idle_w)
    now = option(table, pool.axes, job.gpus, job.clock_mhz, prices) if job.placement else None
    best = options(table, pool.axes, prices, runs_on=job.spec.gpus.runs_on)
    others = [each for each in best if now is None or (each.gpus, each.clock_mhz) != (now.gpus, now.clock_mhz)]
    sentence = job.reason
    if job.explore_mhz:
        sentence += f" (tries clocks: {', '.join(f'{mhz:.0f}' for mhz in dict.fromkeys(job.explore_mhz))} MHz)"
    said = Explanation(job.id, sentence, job.why, job.decided_s, job.gpu_price, price, now, others)
    if not job.spec.external:  # its steps are counted work, which means nothing to its owner
        said = replace(said, measured=measured(job, prices))
    if fair := find_wrapper(scheduler.policies[pool.gpu_type], FairShare):
        due_gpus = fair.due_gpus.get(job.spec.project)
        said = replace(said, fair_share=controller.governance.shares.of(job.spec.project), due_gpus=due_gpus)
    insight = controller.inquire(partial(_insight, job.id, job.why))
    if insight is not None:
        start_s, due_s = insight.start_s, controller.next_decision_s
        if start_s is not None and math.isfinite(due_s):
            start_s = _decided_at(start_s, due_s, scheduler.interval_s)
        said = replace(said, binds=insight.binds, otherwise=insight.otherwise, start_s=start_s, limits_known=True)
        if insight.binds and job.why in WAITS and LIMITS[job.why] != insight.binds:  # much may have changed since then
            said = replace(said, sentence=f"waits for {WAITED_FOR.get(insight.binds, 'GPUs')}")
    said = replace(said, sentence=said.sentence + ENDING) if completing else said
    return _with_forecast(said, controller, job, pool.gpu_type, best)


def _decided_at(free_s: float, due_s: float, interval_s: float) -> float:
    """Return when a job starts for which there is room from ``free_s`` on: at the first decision then.

    The next decision is at ``due_s``, further ones ``interval_s`` apart. GPUs that fall free between two decisions are
    given to waiting jobs at the second.
    """
    if free_s <= due_s or interval_s <= 0.0:
        return max(free_s, due_s)
    return due_s + math.ceil((free_s - due_s) / interval_s) * interval_s


def _insight(job_id: str, why: str, context: LoopContext, now_s: float) -> Insight | None:
    """Ask the scheduler what holds a job back; return None if it does not know the job. Only the loop may call this."""
    if job_id not in context.scheduler.ledger.slot_of:
        return None
    found = what_if(context.scheduler, job_id, context.scheduler_time.scheduler(now_s), why)
    return replace(found, start_s=None if found.start_s is None else context.scheduler_time.wall(found.start_s))


def _with_forecast(
    said: Explanation, controller: Controller, job: ActiveJob, gpu_type: str, best: Sequence[JobOption]
) -> Explanation:
    """Add to an explanation when the job is expected to end, and the energy that it will have used."""
    log = controller.governance.decision_log
    if job.placement:
        from_s = controller.turned_s
        expected = log.forecast_as_is(job, from_s)
    elif said.start_s is not None and best:
        from_s = said.start_s
        expected = log.forecast(job, gpu_type, best[0].gpus, best[0].clock_mhz, from_s)
    else:
        return said

    def at(jct_s: float | None) -> float | None:
        return None if jct_s is None else job.submitted_s + jct_s

    end_s, limit = at(expected.jct_s), job.spec.time_limit
    limit_s = math.inf if limit is None else from_s + max(0.0, limit - job.run_s)
    return replace(
        said,
        end_s=end_s,
        end_low_s=at(expected.jct_low_s),
        end_high_s=at(expected.jct_high_s),
        ends_by_limit=end_s is not None and end_s > limit_s - LIMIT_NEAR_S,
        energy_j=expected.energy_j,
        energy_low_j=expected.energy_low_j,
        energy_high_j=expected.energy_high_j,
    )
