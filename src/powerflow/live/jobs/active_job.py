"""Represent one active job in the controller's loop.

The store keeps what must survive the end of the controller; see `powerflow.store.models`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from operator import attrgetter

from powerflow.api.dependency import Need, read_dependency
from powerflow.api.job_spec import WEIGHTS, JobSpec
from powerflow.device.meter import MeanPower
from powerflow.gangs.report_bounds import steps_or
from powerflow.gangs.types import DesiredState
from powerflow.job import Job
from powerflow.live.jobs.cost_learning import JobClass
from powerflow.scheduler.plan import QUIET, Reason, Why
from powerflow.store.models import Intent, JobUpdate, Placement, StoredJob

#: Longest time for which one clock is tried, seconds: steps may be long, or reported rarely.
EXPLORE_S = 300.0


@dataclass(slots=True)
class StepWindow:
    """Steps that are being timed in one configuration, from the first complete step on.

    Attributes:
        key: The configuration: generation, GPUs, nodes, clock, local batch, accumulation.
        steps, seconds: Step count and training seconds that the ranks reported when the timing began.
        opened_s: When the timing began.
        watts, samples: Sum and number of those power readings of the job's GPUs that began after ``opened_s``.
        repeats: How often the same configuration was measured before.
    """

    key: tuple[object, ...]
    steps: int
    seconds: float
    opened_s: float
    watts: float = 0.0
    samples: int = 0
    repeats: int = 0

    def power_w(self) -> float | None:
        """Return the mean power of the job's GPUs in watts; None if no power was read."""
        return self.watts / self.samples if self.samples and math.isfinite(self.watts) else None


@dataclass(slots=True)
class ActiveJob:
    """One job that has not ended.

    Any code may read the fields. Only code in `powerflow.live.jobs` writes them.

    Attributes:
        kind: The job's class: jobs that cost the same per step.
        held: True while the owner or an operator keeps the job from running.
        known: True while the scheduler plans for the job.
        array_id, needs: The job's array, and what other jobs must have done before it starts.
        waiting: True while ``reason`` says what the job waits for before the scheduler may hear of it.
        eligible_s: After a failure: the job must not run again before this time.
        epoch, gpu_type, placement, clock_mhz: The last decision: number of the placement, GPU type, GPUs, clock. The
            placement is empty while the job waits.
        reason, why, decided_s, gpu_price: Explanation of the last decision (`why` is its `Why`), its time, and the
            price of a GPU then.
        steps: Completed steps, without steps that were lost.
        step_time_s: Seconds per step, lately; nan while unknown.
        training: True if the job's ranks have trained since they were last changed.
        ran_gpus: Number of GPUs on which the job trains; 0 if it does not train.
        left_gpus: Number of GPUs on which it trained before it was stopped; 0 if it has trained since.
        trains_on: The GPUs of the placement in which it trained last; empty if it was stopped since, or if this is not
            known.
        explore_mhz: Clocks still to be tried in this configuration, from the job's first step on.
        explore_since_s: When the first clock of ``explore_mhz`` was set.
        window: Steps that are being timed.
        power_w: Watts of the job's GPUs at the last reading.
        energy_j, gpu_s: Joules and GPU-seconds charged so far.
        run_s: Seconds for which the job has run so far.
        start_steps, start_energy_j: ``steps`` and ``energy_j`` when the job was last started.
        last_gpus: Number of GPUs of the last placement that was not empty.
        local_batch, accumulation: Samples of one pass of a rank, and passes of a step, as its ranks report them; 0 and
            1 if they report none.
        model_error: |predicted ÷ measured − 1| of the last measured step time; nan while no step time was measured.
        slowdown: Share by which a step takes longer than at the highest clock, both measured; nan if they were not.
        work_by: What counts the steps of a job that reports none (`powerflow.live.jobs.work_count`); "" if not known.
    """

    id: str
    spec: JobSpec
    user: str
    kind: JobClass
    submitted_s: float
    held: bool = False
    known: bool = False
    array_id: str | None = None
    needs: tuple[Need, ...] = ()
    waiting: bool = False
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
    ran_gpus: int = 0
    left_gpus: int = 0
    trains_on: Placement = ()
    explore_mhz: tuple[float, ...] = ()
    explore_since_s: float = math.inf
    window: StepWindow | None = None
    power_w: float = 0.0
    energy_j: float = 0.0
    gpu_s: float = 0.0
    run_s: float = 0.0
    start_steps: float = 0.0
    start_energy_j: float = 0.0
    last_gpus: int = 0
    rescales: int = 0
    failures: int = 0
    local_batch: int = 0
    accumulation: int = 1
    model_error: float = math.nan
    slowdown: float = math.nan
    work_by: str = ""
    started_s: float | None = None

    @classmethod
    def from_store(cls, job: StoredJob, kind: JobClass) -> ActiveJob:
        """Return a new active job, made from the job's record in the store."""
        return cls(
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
            run_s=job.run_s,
            start_steps=job.start_steps or 0.0,
            start_energy_j=job.start_energy_j or 0.0,
            array_id=job.array_id,
            needs=read_dependency(job.spec.dependency) if job.spec.dependency else (),
            rescales=job.rescales,
            failures=job.failures,
            reason=job.reason,
            started_s=job.started_s,
        )

    @property
    def gpus(self) -> int:
        """Number of GPUs in the job's placement."""
        return sum(len(numbers) for _, numbers in self.placement)

    @property
    def clock_now_mhz(self) -> float:
        """Clock (MHz) to set on the job's GPUs: the clock that is being tried, otherwise the clock that was decided.

        No clock is tried before the job reports its first step; otherwise a job that never reports steps would try the
        first clock for ever.
        """
        return self.explore_mhz[0] if self.explore_mhz and self.window is not None else self.clock_mhz

    def copied(self) -> ActiveJob:
        """Return a copy; several times as fast as `copy.copy`, because every job is copied in every turn."""
        return ActiveJob(*_values(self))

    def intent(self) -> Intent:
        """Return the last decision about the job, as the store keeps it."""
        return Intent(self.id, self.epoch, self.gpu_type, self.placement, self.clock_mhz, self.reason)

    def desired(self, runs_as: str) -> DesiredState:
        """Return the last decision about the job, as gangs carry it out, for the login ``runs_as``."""
        return DesiredState(self.id, self.epoch, self.spec, self.placement, runs_as)

    def update(self) -> JobUpdate:
        """Return what the store keeps of the job, except its last decision and its charges."""
        return JobUpdate(
            self.id,
            steps=self.steps,
            steps_total=self.steps_total,
            step_time_s=None if math.isnan(self.step_time_s) else self.step_time_s,
            rescales=self.rescales,
            failures=self.failures,
            reason=self.reason,
            started_s=self.started_s,
            cost_class=self.kind.name,
            run_s=self.run_s,
            start_steps=self.start_steps,
            start_energy_j=self.start_energy_j,
        )

    def job(self, iterations: float) -> Job:
        """Return the job, as the scheduler needs it."""
        return scheduler_job(self.id, self.spec, self.kind, self.submitted_s, iterations)

    def explained(self, reason: Reason, gpu_price: float, now_s: float) -> bool:
        """Set the explanation of the last decision about the job. Return False if it was the same before."""
        self.gpu_price = gpu_price
        if self.why == reason.why and reason.why in QUIET:
            return False
        self.reason, self.why, self.decided_s = self.said(reason), reason.why.value, now_s
        return True

    def said(self, reason: Reason) -> str:
        """Return a reason as a sentence.

        If the job is a script, the sentence says "started again", not "resumed": only the script's next steps show if
        it continued from a checkpoint.
        """
        if self.spec.untouched:
            return "runs as its scheduler started it: nobody may set its clocks"
        if reason.why is Why.RESUMED and self.spec.rescale != "in-place":
            return reason.sentence().replace(Why.RESUMED, "started again", 1)
        return reason.sentence()

    def respecified(self, spec: JobSpec, kind: JobClass) -> None:
        """Set another specification, and the class of jobs that it belongs to."""
        if spec.work != self.spec.work:
            self.steps_total = spec.work.iterations if spec.work else None
        self.spec, self.kind = spec, kind
        self.needs = read_dependency(spec.dependency) if spec.dependency else ()

    def clocked(self, clock_mhz: float) -> None:
        """Set another clock for the GPUs that the job has."""
        self.clock_mhz = clock_mhz

    def placed(self, placement: Placement, gpu_type: str, clock_mhz: float) -> None:
        """Record the GPUs and clock that the job gets by a decision; an empty placement takes its GPUs away."""
        self.placement, self.gpu_type, self.clock_mhz = placement, gpu_type, clock_mhz
        self.last_gpus = self.gpus or self.last_gpus
        self.epoch += 1
        self.training, self.window, self.explore_mhz = False, None, ()
        self.local_batch, self.accumulation = 0, 1

    def vacated(self, reason: str) -> bool:
        """Take all GPUs from the job, whatever was decided. Return False if the job had no GPUs."""
        had = bool(self.placement)
        if had:
            self.epoch, self.placement, self.clock_mhz = self.epoch + 1, (), 0.0
        self.training, self.window, self.explore_mhz, self.reason, self.why = False, None, (), reason, ""
        return had

    def recovered(self, intent: Intent, placement: Placement, gpu_type: str) -> None:
        """Restore the last controller's decision about the job.

        Args:
            intent: The stored decision.
            placement: Its GPUs that are still in the cluster.
            gpu_type: The present type of these GPUs.
        """
        self.epoch, self.placement, self.gpu_type = intent.epoch, placement, gpu_type
        self.last_gpus = self.gpus
        self.clock_mhz = intent.clock_mhz if placement else 0.0
        self.ran_gpus = 0 if self.started_s is None else self.gpus
        self.trains_on = () if self.started_s is None else placement

    def began(self, started_s: float) -> None:
        """Record since when a job runs that another scheduler has started."""
        self.started_s = started_s

    def started(self, now_s: float) -> int:
        """Record that all ranks of the job train.

        If the job was stopped before and now has another number of GPUs, count one more rescale, and return the earlier
        number; otherwise return 0.
        """
        self.started_s = now_s if self.started_s is None else self.started_s
        self.training = True
        before, self.left_gpus, self.ran_gpus = self.left_gpus, 0, self.gpus
        launched = self.spec.rescale != "in-place" and self.trains_on != self.placement
        if launched or not self.trains_on:
            self.start_steps, self.start_energy_j = self.steps, self.energy_j
        self.trains_on = self.trains_on or self.placement
        if before in (0, self.gpus):
            return 0
        self.rescales += 1
        return before

    def stopped(self, gpus: int = 0) -> None:
        """Record that no process of the job runs any more; ``gpus``: on how many it trained, if the store knows it."""
        self.left_gpus, self.ran_gpus, self.trains_on = gpus or self.ran_gpus or self.left_gpus, 0, ()

    def progressed(self, steps: float, steps_total: float | None = None) -> None:
        """Set how many steps are completed; the number falls if the job went back to a checkpoint."""
        self.steps, self.steps_total = steps, steps_total or self.steps_total
        self.start_steps = min(self.start_steps, steps)

    def batched(self, local_batch: int, accumulation: int) -> None:
        """Set the samples of one pass of a rank, and the passes of a step; 0 and 1 if ranks report none."""
        self.local_batch, self.accumulation = local_batch, accumulation

    def began_again(self, reason: str) -> None:
        """Record that the job's script began at its first step again, and set the reason that says so."""
        self.reason, self.start_steps = reason, 0.0

    def rescaled(self, gpus_before: int, gpus: int) -> Placement:
        """Record that the job trains on ``gpus`` GPUs; count one more rescale if it had another number before.

        Return the GPUs on which it trained before.
        """
        before, self.trains_on = self.trains_on, self.placement
        if gpus != gpus_before:
            self.rescales += 1
            self.ran_gpus = gpus
        return before

    def slowed(self, share: float) -> None:
        """Set by which share a step takes longer than at the highest clock; nan if that is not known any more."""
        self.slowdown = share

    def counted_by(self, counter: str) -> None:
        """Set what counts the steps of a job that reports none."""
        self.work_by = counter

    def failed(self, failures: int, eligible_s: float = -math.inf) -> None:
        """Set how often the job has failed, and when it may start again."""
        self.failures, self.eligible_s = failures, eligible_s

    def charged(self, energy_j: float, gpu_s: float) -> None:
        """Add joules and GPU-seconds to the job's charges, and the time that these GPU-seconds lasted."""
        self.energy_j += energy_j
        self.gpu_s += gpu_s
        self.run_s += gpu_s / max(1, self.last_gpus)

    def metered(self, power: MeanPower, disturbed: bool, now_s: float) -> None:
        """Record a power reading of the job's GPUs. End a clock's trial that has lasted for `EXPLORE_S`.

        Args:
            power: Mean power of the job's GPUs. The present timing leaves it out if its period began earlier.
            disturbed: True if the GPUs do not show the job's own costs. Then the present steps are not timed, but the
                trial of the clock goes on.
            now_s: Time of the reading.
        """
        self.power_w = power.watts
        if disturbed:
            self.window = None
        window = self.window
        if window is not None and self.training and power.watts > 0 and now_s - power.seconds >= window.opened_s:
            window.watts += power.watts
            window.samples += 1
        if self.window is None and not (disturbed and math.isfinite(self.explore_since_s)):
            self.explore_since_s = now_s
        elif self.explore_mhz and now_s - self.explore_since_s > EXPLORE_S:
            slow_mhz, self.explore_since_s = self.explore_mhz[0], now_s
            self.explore_mhz = tuple(clock for clock in self.explore_mhz if clock != slow_mhz)

    def explore(self, clocks_mhz: tuple[float, ...]) -> None:
        """Set the clocks (MHz) to try one after the other; an empty tuple ends all trials.

        A clock may occur several times.
        """
        self.explore_mhz = clocks_mhz

    def unmanaged(self) -> None:
        """End all trials of clocks and time the steps anew, because PowerFlow does not manage the job any more."""
        self.explore_mhz, self.window = (), None

    def tried(self, clock_mhz: float | None, now_s: float) -> None:
        """Remove one trial of a clock (MHz) from the trials that are still to be made; None removes no trial."""
        if self.explore_mhz[0] == clock_mhz:
            self.explore_since_s = now_s
        if clock_mhz in self.explore_mhz:
            at = self.explore_mhz.index(clock_mhz)
            self.explore_mhz = self.explore_mhz[:at] + self.explore_mhz[at + 1 :]


_values = attrgetter(*(field.name for field in fields(ActiveJob)))


def scheduler_job(job_id: str, spec: JobSpec, kind: JobClass, submit_s: float, iterations: float) -> Job:
    """Return a job, live or simulated, as the scheduler needs it."""
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
        # counted work leaves out pauses and what was before: no promise of a time of completion can be kept by it
        protected=spec.priority == "protected" and not spec.external,
        max_slowdown=math.inf if most is None else most,
        keeps=spec.rescale in ("none", "external"),
        given=spec.external,
        gpus_allowed=gpus.counts,
        # the name that its owner gave to the job of another scheduler, without the number there: similar jobs share it
        name=spec.name.partition(" ")[2] if spec.external else spec.name,
    )


def asked(least: int, most: int, counts: tuple[int, ...] | None = None) -> int:
    """Return the one GPU count of a job that accepts ``least`` to ``most`` GPUs, for policies with fixed counts.

    This is the power of two, within these limits, nearest to their geometric mean. If the job lists its ``counts``, it
    is the listed count nearest to this mean.
    """
    if counts is not None:
        return min(counts, key=lambda count: (abs(math.log2(count * count / (least * most))), -count))
    middle = 1 << round(math.log2(least * most) / 2)
    return min(max(middle, least), most)
