"""Keep the active jobs, and the changes that the scheduler and the store have not received yet."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from powerflow.api.job_change import WHILE_RUNNING
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Refused
from powerflow.cluster.occupancy import NodeShare
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.live.gpus.wanted import type_wanted
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.cost_learning import CostLearning, JobClass, class_of, external_class
from powerflow.scheduler import events as scheduler_events
from powerflow.scheduler.ledger import advance
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.models import Placement, Seen, StoredJob
from powerflow.store.store import Store


class JobTable:
    """Keep all active jobs of one cluster. Only the controller's loop may use it.

    Args:
        store: Keeps the data that must survive the end of the controller.
        power: Has the jobs' charges.
        learning: Has the believed costs of all jobs.
        pause_s: Assumed pause of a rescale until one was measured, seconds, for each ``rescale`` mode.

    Attributes:
        jobs: Active jobs by id; read-only.
        completing: Jobs by id that have their final state, and of which processes may still run; read-only.
        pending: Ids of jobs whose last decision is not stored yet. The value is True if the job's GPUs change, False if
            only its clock changes. Read-only.
    """

    def __init__(self, store: Store, power: ClusterGpus, learning: CostLearning, pause_s: Mapping[str, float]) -> None:
        self._store, self._power, self._learning, self._pause_s = store, power, learning, pause_s
        self._jobs: dict[str, ActiveJob] = {}
        self._pending: dict[str, bool] = {}
        self._events: list[scheduler_events.Event] = []
        self._dirty: set[str] = set()  # jobs of which the store has old values
        self._measurements: list[Seen] = []  # not stored yet
        self._ended: deque[str] = deque()  # ended jobs with logs, oldest first
        self._leaving: set[str] = set()  # the scheduler has been told; their processes still hold GPUs
        self._completing: dict[str, ActiveJob] = {}
        self.jobs: Mapping[str, ActiveJob] = MappingProxyType(self._jobs)
        self.completing: Mapping[str, ActiveJob] = MappingProxyType(self._completing)
        self.pending: Mapping[str, bool] = MappingProxyType(self._pending)

    # -- events for the scheduler -----------------------------------------------------------------------------------

    @property
    def has_events(self) -> bool:
        """True if events wait for the scheduler."""
        return bool(self._events)

    def emit(self, *events: scheduler_events.Event) -> None:
        """Add events. The scheduler gets them at the next decision."""
        self._events += events

    def take_events(self) -> list[scheduler_events.Event]:
        """Return the events that wait for the scheduler, and remove them from the table."""
        events, self._events = self._events, []
        return events

    def progress(self, scheduler: Scheduler) -> scheduler_events.Progress:
        """Return the event that tells the scheduler how many steps the running jobs have done."""
        known = [job for job in self._jobs.values() if job.known and job.placement]
        running = [job for job in known if job.id in scheduler.ledger.slot_of]
        slots = np.array([scheduler.slot(job.id) for job in running], np.int64)
        return scheduler_events.Progress(slots, np.array([job.steps for job in running]))

    def advance(self, scheduler: Scheduler) -> None:
        """Write into the scheduler's ledger how many steps the running jobs have done, without a decision."""
        now = self.progress(scheduler)
        if len(now.slots):
            advance(scheduler.ledger.rows["done"], now.slots, now.done)

    # -- jobs come and go -------------------------------------------------------------------------------------------

    def enter(self, stored: StoredJob) -> ActiveJob:
        """Add a job from the store to the table, and return it. The scheduler does not know it before `introduce`."""
        external = stored.spec.external
        kind = self._free_class(stored.spec.gpus.most) if external else class_of(stored.spec, stored.user)
        job = self._jobs[stored.id] = ActiveJob.from_store(stored, kind)
        # its ranks may report before the scheduler knows it
        self.emit(*(self._learning.anew(kind) if external else self._learning.expect(kind)))
        if stored.cost_class != job.kind.name:
            self.changed(job)
        return job

    def _free_class(self, gpus: int) -> JobClass:
        used = {job.kind.name for jobs in (self._jobs, self._completing) for job in jobs.values() if job.spec.external}
        free = (external_class(number, gpus) for number in itertools.count())
        return next(kind for kind in free if kind.name not in used)

    def introduce(self, job: ActiveJob) -> None:
        """Tell the scheduler about a job, and the steps that it has done."""
        if job.id in self._leaving:  # its old processes are ending
            self._gone(job.id)
        believed = job.steps_total or self._learning.believed_steps(job.spec, job.kind.name)
        pause_s = self._learning.pauses_s.get(job.kind.name, self._pause_s[job.spec.rescale])
        submitted = job.job(believed)
        if job.spec.external:
            submitted = replace(submitted, gpu_type=job.gpu_type)
        with suppress(Refused):  # its GPU type is not here any more: the scheduler says so
            submitted = replace(submitted, gpu_type=type_wanted(submitted.gpu_type, self._power.types))
        guessed = not (job.steps_total or job.spec.work)
        self.emit(scheduler_events.Submitted(submitted, believed, pause_s, guessed))
        if job.steps > 0:
            self.emit(scheduler_events.Failed(job.id, retry=True, done=job.steps))
        job.known = True
        if job.waiting or not job.reason:
            job.reason, job.waiting = "waits for the next decision", False

    def adopt(self, job: ActiveJob, gpu_type: str, placement: Placement, clock_mhz: float) -> None:
        """Take over a job that runs on these GPUs already, and tell the scheduler about it.

        Args:
            job: The job, which the scheduler does not know.
            gpu_type: Type of the GPUs.
            placement: The GPUs.
            clock_mhz: Highest clock of these GPUs.
        """
        job.placed(placement, gpu_type, clock_mhz)
        self.readopt(job)
        self.decided(job, gpus_change=True)

    def readopt(self, job: ActiveJob) -> None:
        """Tell the scheduler about a job that runs as an earlier decision says."""
        self.introduce(job)
        shares = tuple(NodeShare(node, gpus) for node, gpus in job.placement)
        self.emit(scheduler_events.Adopted(job.id, job.gpu_type, shares, job.clock_mhz))
        if job.spec.untouched:
            self.emit(scheduler_events.JobUntouched(job.id))

    def withdraw(self, job: ActiveJob) -> None:
        """Tell the scheduler to plan without a job. The job's GPUs stay taken while its processes are on them."""
        if job.known:
            self.emit(scheduler_events.Leaving(job.id))
            self._leaving.add(job.id)
        job.known = False

    def let_go(self, holding: Collection[str]) -> None:
        """Free the GPUs of withdrawn jobs that have no process any more.

        Args:
            holding: Ids of jobs that still have a process on a GPU.
        """
        for job_id in sorted(self._leaving.difference(holding)):
            self._gone(job_id)

    def _gone(self, job_id: str) -> None:
        self._leaving.discard(job_id)
        self.emit(scheduler_events.Cancelled(job_id))

    def hold(self, job: ActiveJob) -> None:
        """Take all GPUs from a job, and keep the job from running until `release`."""
        self.held(job)
        self.withdraw(job)
        self.vacate(job, "held")

    def held(self, job: ActiveJob) -> None:
        """Record that a job is held, without telling the scheduler."""
        job.held = True

    def release(self, job: ActiveJob) -> None:
        """Let a held job run again."""
        job.held = False

    def change(self, job: ActiveJob, spec: JobSpec) -> None:
        """Give a job another specification. It leaves its GPUs, if they depend on what has changed."""
        before = job.spec
        if spec.external:
            job.respecified(spec, job.kind)
            if job.known:  # the scheduler hears of it anew, where it is
                self.emit(scheduler_events.Cancelled(job.id))
                self.readopt(job)
            return
        job.respecified(spec, class_of(spec, job.user))
        if before.model_copy(update={key: getattr(spec, key) for key in WHILE_RUNNING}) == spec:
            return
        self.emit(*self._learning.expect(job.kind))
        self.withdraw(job)
        if job.placement:
            self.vacate(job, "was changed")
        self.changed(job)

    def wait(self, job: ActiveJob, reason: str) -> None:
        """Set what a job waits for before the scheduler may hear of it."""
        if job.reason != reason:
            job.reason, job.waiting = reason, True
            self.changed(job)

    def drop(self, job: ActiveJob) -> None:
        """Remove a job that has ended from the table; its log is kept for a while."""
        self.complete(job)
        self.completed(job)

    def complete(self, job: ActiveJob) -> None:
        """Record that a job has its final state, but processes of it may still run, until `completed`."""
        self._jobs.pop(job.id, None)
        self._pending.pop(job.id, None)
        self._completing[job.id] = job

    def completed(self, job: ActiveJob) -> None:
        """Remove a job from the table, because its last process has ended; its log is kept for a while."""
        del self._completing[job.id]
        self._ended.append(job.id)

    def adopt_completing(self, stored: StoredJob, gpus: int) -> None:
        """Add a job to the table that has its final state, and of which processes may still run, on ``gpus`` GPUs."""
        job = ActiveJob.from_store(stored, class_of(stored.spec, stored.user))
        job.last_gpus = gpus
        self.complete(job)

    def ended(self, job_ids: Iterable[str]) -> None:
        """Record jobs that ended under an earlier controller, for `forget_logs`. Give the oldest job first."""
        self._ended.extend(job_ids)

    def forget_logs(self, keep: int, forget: Callable[[str], None]) -> None:
        """Call ``forget`` with the ids of ended jobs, oldest first, but not for the last ``keep`` jobs."""
        while len(self._ended) > keep:
            forget(self._ended[0])
            self._ended.popleft()

    def clock_set(self, by_s: float) -> None:
        """Move the times at which jobs may run again by ``by_s`` seconds, because the machine's clock was set."""
        for job in self._jobs.values():
            job.eligible_s += by_s
            job.explore_since_s += by_s
            if job.window is not None:
                job.window.opened_s += by_s

    # -- decisions ----------------------------------------------------------------------------------------------------

    def decided(self, job: ActiveJob, *, gpus_change: bool) -> None:
        """Record that a decision about a job has to be stored and carried out."""
        self._pending[job.id] = self._pending.get(job.id, False) or gpus_change

    def vacate(self, job: ActiveJob, reason: str) -> None:
        """Take all GPUs from a job, whatever the scheduler has decided.

        A job of another scheduler is not planned any more, because PowerFlow cannot give it other GPUs.
        """
        if job.vacated(reason):
            self._pending[job.id] = True
        if job.spec.external:
            self.withdraw(job)
        self.changed(job)

    def supersede(self, job: ActiveJob, epoch: int, reason: str) -> None:
        """Cancel all decisions about a job up to an epoch (number of a placement); end its ranks, start it again."""
        job.epoch, job.placement, job.clock_mhz, job.reason = epoch + 1, (), 0.0, reason
        self._pending[job.id] = True

    def carried_out(self) -> None:
        """Record that all pending decisions were stored and carried out."""
        self._pending.clear()

    # -- records for the store ----------------------------------------------------------------------------------------

    def changed(self, job: ActiveJob) -> None:
        """Mark a job, so that the next `save` stores it."""
        self._dirty.add(job.id)

    def measured(self, seen: Seen) -> None:
        """Add a measurement, which the next `save` stores."""
        self._measurements.append(seen)

    def write_down(self, job: ActiveJob) -> None:
        """Store a job and all charges now."""
        self._store.update([job.update()])
        self._power.save(self._store)
        self._dirty.discard(job.id)

    def save(self) -> None:
        """Store all marked jobs, all new measurements, and all charges."""
        known = self._jobs | self._completing
        self._store.update([known[job_id].update() for job_id in sorted(self._dirty & known.keys())])
        self._dirty.clear()
        self._store.observations.add(self._measurements)
        self._measurements.clear()
        self._power.save(self._store)

    def copies(self) -> Mapping[str, ActiveJob]:
        """Return a copy of each active job by id, for readers in other threads."""
        return {job_id: job.copied() for job_id, job in self._jobs.items()}

    def completing_copies(self) -> Mapping[str, ActiveJob]:
        """Return a copy of each job in `completing` by id, for readers in other threads."""
        return {job_id: job.copied() for job_id, job in self._completing.items()}
