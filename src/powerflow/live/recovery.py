"""Continue where the last controller ended: with its learned costs, its decisions, and the ranks that still run."""

from __future__ import annotations

from powerflow.api.pages import JobFilter
from powerflow.api.records import JobState
from powerflow.gangs.report_bounds import MOST_BATCH, MOST_S, within
from powerflow.gangs.types import backoff_s
from powerflow.live.context import LoopContext
from powerflow.live.gang_events import PAUSES
from powerflow.live.gpus.wanted import type_held
from powerflow.live.jobs.active_job import ActiveJob, scheduler_job
from powerflow.live.jobs.cost_learning import class_of, restore
from powerflow.live.step_learning import BATCHES
from powerflow.scheduler.events import CompletedEarlier
from powerflow.store.mappers import UNREADABLE
from powerflow.store.models import Intent, StoredJob

#: Ended jobs whose logs are kept.
LOGS_KEPT = 500


def recall(context: LoopContext) -> None:
    """Restore what was learned from jobs that have ended, and find which of these jobs still have logs."""
    store, learning, table = context.store, context.learning, context.table
    batches = within(store.get(BATCHES), MOST_BATCH)
    learning.batches.update({name: int(batch) for name, batch in batches.items() if batch >= 1})
    learning.pauses_s.update(within(store.get(PAUSES), MOST_S))
    latest = store.jobs(JobFilter(states=[state for state in JobState if state.ended]), limit=LOGS_KEPT).items[::-1]
    table.ended(job.id for job in latest if not job.completing)
    completed = [(job, class_of(job.spec, job.user)) for job in latest if job.state is JobState.COMPLETED]
    learned = restore(
        learning,
        ((seen.cost_class, seen.observation) for seen in store.observations.all()),
        ((kind, job.steps) for job, kind in completed),
    )
    table.emit(*learned)
    jobs = (scheduler_job(job.id, job.spec, kind, job.submitted_s, job.steps) for job, kind in completed)
    table.emit(*(CompletedEarlier(job) for job in jobs))


def adopt(context: LoopContext, now_s: float) -> None:
    """Take over all jobs that have not ended.

    The ranks of a job continue if the store, the job's gang and the cluster agree about the job.

    1. Each job gets the stored decision (intent) of the last controller, if its GPUs are still in the cluster.
    2. If a gang has a later epoch than the store, the store was restored from a backup. Then the ranks of the gang end.
    3. The scheduler gets an event for each running job, with its GPUs. It hears of other jobs when they may start.
    4. Decisions that differ from the stored ones are stored. Then the gangs take over their ranks, and end all others.

    Jobs whose processes were still ending stay completing until these have ended.
    """
    store, table, gangs = context.store, context.table, context.gangs
    intents = {intent.job_id: intent for intent in store.intents.active()}
    active, desired = store.active(), []
    ran_gpus = store.decisions.last_gpus([stored.id for stored in active])
    for stored in active:
        if stored.spec is UNREADABLE:
            store.move(stored.id, JobState.FAILED, now_s, exit="this version of PowerFlow cannot read the job's record")
            continue
        job, intent = table.enter(stored), intents.get(stored.id)
        if intent is not None:
            _resume(context, job, stored, intent, now_s)
        if not job.placement and job.started_s is not None:
            job.stopped(ran_gpus.get(job.id, 0))
        if (later := gangs.epoch_of(job.id)) > job.epoch:
            table.supersede(job, later, "starts again: its running ranks do not match the store")
        if intent is not None or job.id in table.pending:
            desired.append(job.desired(context.runs_as(job.user)))
        if stored.state is JobState.HELD:
            table.held(job)
        elif job.placement:
            table.readopt(job)
    store.intents.add([table.jobs[job_id].intent() for job_id in table.pending], now_s)
    table.carried_out()
    gangs.adopt(desired)
    completing = store.completing()
    gpus = store.decisions.last_gpus([stored.id for stored in completing])
    for stored in completing:
        table.adopt_completing(stored, gpus.get(stored.id, 0))


def _resume(context: LoopContext, job: ActiveJob, stored: StoredJob, intent: Intent, now_s: float) -> None:
    """Restore what the last controller decided for a job, if it was stored and the cluster still has the GPUs."""
    table, pools = context.table, context.scheduler.pools
    placement = intent.placement if stored.state is JobState.RUNNING else ()
    found = type_held(placement, pools) if placement else intent.gpu_type
    gpu_type = found if found and found in pools else ""
    job.recovered(intent, placement, gpu_type)
    if placement and not gpu_type:
        table.vacate(job, "its GPUs are no longer part of the cluster")
    elif placement and gpu_type != intent.gpu_type:
        context.store.intents.rename_type(job.id, gpu_type)
    elif intent.placement and not placement:  # the job was held, or ended and came back: its old decision is void
        table.supersede(job, intent.epoch, job.reason)
    if stored.failures and not job.placement:
        job.failed(stored.failures, min(stored.state_since_s, now_s) + backoff_s(stored.failures))
