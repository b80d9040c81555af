"""One active job as the controller knows it between two turns. What must outlive the controller stands in the store."""

from __future__ import annotations

import math
from dataclasses import dataclass

from powerflow.api.job_spec import WEIGHTS, JobSpec
from powerflow.gangs.report_bounds import steps_or
from powerflow.gangs.types import DesiredState
from powerflow.job import Job
from powerflow.live.jobs.cost_learning import JobClass, StepWindow
from powerflow.scheduler.plan import Reason, Why
from powerflow.store.models import Intent, Placement, StoredJob


@dataclass(slots=True)
class ActiveJob:
    """One active job.

    Attributes:
        kind: Its class.
        held: Its owner, or an operator, keeps it from running.
        known: The scheduler knows of it.
        eligible_s: Not to be run before: it has failed and waits to be tried again.
        epoch, gpu_type, placement, clock_mhz: What was last decided; no placement: it waits.
        reason, why, decided_s, gpu_price: Of that decision.
        steps: Steps done that count.
        step_time_s: Seconds per step, lately; nan while unknown.
        training: Its ranks have trained since they were last changed.
        explore_mhz: Clocks still to be tried in this configuration; the first one is in force once steps are timed.
        explore_since_s: When the first one came into force.
        window: Steps being timed.
        power_w: Watts of its GPUs at the last reading.
        energy_j, gpu_s: What it was charged so far.
        model_error: |predicted ÷ measured − 1| of its last measurement; nan while there is none.
    """

    id: str
    spec: JobSpec
    user: str
    kind: JobClass
    submitted_s: float
    held: bool = False
    known: bool = False
    eligible_s: float = -math.inf
    epoch: int = 0
    gpu_type: str = ""
    placement: Placement = ()
    clock_mhz: float = 0.0
    reason: str = ""
    why: str = ""
    decided_s: float | None = None
    gpu_price: float = 0.0
    steps: float = 0.0
    steps_total: float | None = None
    step_time_s: float = math.nan
    training: bool = False
    explore_mhz: tuple[float, ...] = ()
    explore_since_s: float = math.inf
    window: StepWindow | None = None
    power_w: float = 0.0
    energy_j: float = 0.0
    gpu_s: float = 0.0
    rescales: int = 0
    attempts: int = 0
    model_error: float = math.nan
    started_s: float | None = None

    @property
    def gpus(self) -> int:
        """GPUs it is to hold."""
        return sum(len(numbers) for _, numbers in self.placement)

    @property
    def clock_now_mhz(self) -> float:
        """The clock to set: the one being tried, else the one decided.

        None is tried before a first step was told of: a job that says nothing of its steps would try it for ever.
        """
        return self.explore_mhz[0] if self.explore_mhz and self.window is not None else self.clock_mhz

    def said(self, reason: Reason) -> str:
        """Say why it was decided; that a script resumes is not said before it has told a step that shows it."""
        if reason.why is Why.RESUMED and self.spec.rescale != "in-place":
            return reason.sentence().replace(Why.RESUMED, "started again", 1)
        return reason.sentence()

    def intent(self) -> Intent:
        """What was decided, to be written down."""
        return Intent(self.id, self.epoch, self.gpu_type, self.placement, self.clock_mhz, self.reason)

    def order(self, runs_as: str) -> DesiredState:
        """What was decided, to be carried out."""
        return DesiredState(self.id, self.epoch, self.spec, self.placement, runs_as)

    def job(self, iterations: float) -> Job:
        """The job as the scheduler sees it."""
        return scheduler_job(self.id, self.spec, self.kind, self.submitted_s, iterations)


def scheduler_job(job_id: str, spec: JobSpec, kind: JobClass, submit_s: float, iterations: float) -> Job:
    """A job as the scheduler, live or simulated, sees it."""
    gpus, most = spec.gpus, spec.most_slowdown
    return Job(
        id=job_id,
        submit_s=submit_s,
        cost_class=kind.name,
        iterations=iterations,
        gpus=asked(gpus.least, gpus.most, gpus.counts),
        gpus_min=gpus.least,
        gpus_max=gpus.most,
        weight=WEIGHTS[spec.priority],
        project=spec.project,
        gpu_type=gpus.gpu_type,
        protected=spec.priority == "protected",
        max_slowdown=math.inf if most is None else most,
        keeps=spec.rescale == "none",
        gpus_allowed=gpus.counts,
    )


def asked(least: int, most: int, counts: tuple[int, ...] | None = None) -> int:
    """The count that stands for "from least to most" with a policy that gives fixed counts.

    The power of two nearest to their geometric mean, within the two; of listed ``counts`` the one nearest to that mean.
    """
    if counts is not None:
        return min(counts, key=lambda count: (abs(math.log2(count * count / (least * most))), -count))
    middle = 1 << round(math.log2(least * most) / 2)
    return min(max(middle, least), most)


def entry_of(job: StoredJob, kind: JobClass) -> ActiveJob:
    """A job that the store knows, as it stands there."""
    return ActiveJob(
        job.id,
        job.spec,
        job.user,
        kind,
        job.submitted_s,
        steps=steps_or(job.steps, 0.0) or 0.0,
        steps_total=steps_or(job.steps_total, None),
        step_time_s=math.nan if job.step_time_s is None else job.step_time_s,
        energy_j=job.energy_j,
        gpu_s=job.gpu_s,
        rescales=job.rescales,
        attempts=job.attempts,
        reason=job.reason,
        started_s=job.started_s,
    )
