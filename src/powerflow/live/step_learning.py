"""Learn what the steps of running jobs cost, from what their ranks report or what their GPUs count."""

from __future__ import annotations

import math
from functools import partial

from powerflow.cost.observation import Observation
from powerflow.gangs.types import Progressed
from powerflow.live.context import LoopContext
from powerflow.live.governance.step import GovernanceStep
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.step_timing import SECONDS, STEPS, clocks_to_try, timed
from powerflow.store.models import Seen

#: Setting in the store: the batch of each class, as its ranks reported it.
BATCHES = "batches"
#: Steps of counted work (`powerflow.live.jobs.work_count`), and seconds, that make a measurement.
WORK_STEPS, WORK_S = 200, 40.0
#: A job does something else if its speed has changed by more than this (logarithm of the factor).
OTHER_WORK = 0.05


class StepLearning:
    """Learn the costs of the steps of one cluster's jobs. Only the controller's loop may use it.

    Args:
        explore_steps: Steps at each clock that is tried; 0 to try no clocks.
    """

    def __init__(self, context: LoopContext, governance: GovernanceStep, explore_steps: int) -> None:
        self._table, self._store, self._power = context.table, context.store, context.power
        self._learning, self._scheduler, self._governance = context.learning, context.scheduler, governance
        self._explore_steps = explore_steps
        self._misstated: set[str] = set()  # jobs whose owners were told that their batch is another

    def stepped(self, report: Progressed, job: ActiveJob, now_s: float) -> None:
        """Learn from the steps that the ranks of a job have reported."""
        self._learn_batch(report, job, now_s)
        steps = self._explore_steps if job.explore_mhz else STEPS
        if seen := self._measured(report, job, now_s, steps, SECONDS):
            self._table.measured(Seen(job.kind.name, seen, job.id, now_s, float(steps)))
            self._learn(seen, job, now_s, self._explore_steps)

    def worked(self, report: Progressed, job: ActiveJob, now_s: float) -> None:
        """Learn from the work that the GPUs of a job have done which reports no steps itself.

        If the job is not as fast as it was, it does something else now: then nothing that was measured counts any more.
        """
        job.progressed(float(report.step))
        self._table.changed(job)
        seen = self._measured(report, job, now_s, WORK_STEPS, WORK_S)
        if seen is None:
            return
        if self._is_other_work(seen, job):
            self._table.emit(*self._learning.anew(job.kind))
            job.explore(())
            self._store.append("work changed", "does other work now: its clocks are measured anew", now_s, job.id)
            self.try_clocks(job, again=False)
        self._learn(seen, job, now_s, WORK_STEPS)

    def _note_slowdown(self, job: ActiveJob, top_mhz: float) -> None:
        """Note how much slower a job's decided clock makes it, if it was measured there and at the highest clock."""
        at = partial(self._learning.measured_time_s, job.kind.name, job.gpu_type, job.gpus)
        now_s, top_s = at(job.clock_mhz), at(top_mhz)
        job.slowed(now_s / top_s - 1.0 if now_s and top_s else math.nan)

    def _is_other_work(self, seen: Observation, job: ActiveJob) -> bool:
        """Return True if a job cannot be so fast, or so slow, by what was measured of it before.

        At a clock f that was not measured before, a step takes between T and T·f_max/f, where T is its time at the
        highest clock f_max (`powerflow.cost.clock_choice`).
        """
        top_mhz = float(self._scheduler.pools[job.gpu_type].axes.clocks_mhz[-1])
        mhz = top_mhz if seen.clock_mhz is None else seen.clock_mhz
        at = partial(self._learning.measured_time_s, job.kind.name, job.gpu_type, job.gpus)
        least_s = most_s = at(mhz)
        if least_s is None and (top_s := at(top_mhz)) is not None:
            least_s, most_s = top_s, top_s * top_mhz / mhz
        if least_s is None or most_s is None:
            return False
        return (
            not math.log(seen.step_time_s / least_s) > -OTHER_WORK or math.log(seen.step_time_s / most_s) > OTHER_WORK
        )

    def try_clocks(self, job: ActiveJob, *, again: bool) -> None:
        """Let a job of another scheduler try clocks, if clocks may be tried.

        Args:
            job: The job, whose work is counted.
            again: True to measure the highest clock once more; otherwise the clocks that should be measured next.
        """
        tries = self._explore_steps and self._power.settable and not self._scheduler.caps
        if not tries or job.explore_mhz or not self._governance.acts(job):
            return
        axes = self._scheduler.pools[job.gpu_type].axes
        job.explore((float(axes.clocks_mhz[-1]),) if again else clocks_to_try(job, self._learning, axes, WORK_STEPS))

    def _measured(
        self, report: Progressed, job: ActiveJob, now_s: float, steps: int, seconds: float
    ) -> Observation | None:
        """Return the measured step time of a job, if it has done so many steps, for so long, in one configuration."""
        if not job.gpu_type or not job.placement:
            return None
        axes, table = self._scheduler.pools[job.gpu_type].axes, self._learning.table(job.kind.name, job.gpu_type)
        clock_mhz = job.clock_now_mhz if self._power.settable and self._governance.acts(job) else None
        return timed(job, report, table, axes, clock_mhz, now_s, steps, seconds)

    def _learn(self, seen: Observation, job: ActiveJob, now_s: float, trial_steps: int) -> None:
        """Learn from a measured step time of a job, and go on to the next clock that is to be tried."""
        axes = self._scheduler.pools[job.gpu_type].axes
        self._table.emit(*self._learning.observe(job.kind.name, [seen]))
        self._note_slowdown(job, float(axes.clocks_mhz[-1]))
        explored = bool(job.explore_mhz)
        for other in self._table.jobs.values():  # other jobs of the class need not try this clock
            if other.explore_mhz and other.kind.name == job.kind.name and other.gpus == job.gpus:
                self._tried(other, job, seen.clock_mhz, now_s)
        if explored and not job.explore_mhz:
            job.explore(clocks_to_try(job, self._learning, axes, trial_steps))

    @staticmethod
    def _tried(other: ActiveJob, job: ActiveJob, clock_mhz: float | None, now_s: float) -> None:
        """Remove a clock that ``job`` has tried from the clocks of another job of its class.

        A job with a limit first saves time at the maximum clock for a trial at a lower one. It drops the trial as a
        whole, and only when the lower clock was measured.
        """
        earns = other is not job and other.spec.most_slowdown is not None and len(other.explore_mhz) > 1
        if not earns:
            other.tried(clock_mhz, now_s)
        elif clock_mhz == other.explore_mhz[-1]:
            other.explore(())

    def _learn_batch(self, report: Progressed, job: ActiveJob, now_s: float) -> None:
        """Learn the batch of a class whose jobs state none.

        If a job states a batch and its ranks report another one, tell the job's owner.
        """
        batch, stated = report.global_batch, job.spec.batch.global_batch if job.spec.batch else None
        if stated and batch not in (0, stated) and job.id not in self._misstated:
            self._misstated.add(job.id)
            text = f"a step has {batch} samples, but batch.global is {stated}: correct it, or predictions are wrong"
            self._store.append("batch misstated", text, now_s, job.id, global_batch=batch)
        if stated is None and batch:
            if self._learning.batches.get(job.kind.name) != batch:
                self._store.put(BATCHES, self._learning.batches | {job.kind.name: batch})
            news = self._learning.batch_is(job.kind.name, batch)
            self._table.emit(*news)
            if news:
                self._explore_anew(job.kind.name)

    def _explore_anew(self, cost_class: str) -> None:
        """Let the running jobs of a class try clocks: what was measured at another batch tells nothing of this one."""
        if not self._explore_steps or not self._power.settable or self._scheduler.caps:
            return
        for job in self._table.jobs.values():
            if job.kind.name == cost_class and job.placement and self._governance.acts(job):
                axes = self._scheduler.pools[job.gpu_type].axes
                job.explore(clocks_to_try(job, self._learning, axes, self._explore_steps))
