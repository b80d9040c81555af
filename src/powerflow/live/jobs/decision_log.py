"""Log the decisions about each job with a forecast of its end, and learn how accurate the forecasts were.

A forecast is the model's prediction for the job's configuration, from now to the job's end, corrected by the median
error of earlier predictions. How wide the interval around the forecast must be is learned from completed jobs, too
(`powerflow.scheduler.calibration`). A job may run in several
configurations, one after the other. At its end, the sum of the predictions for them is compared with its real time and
energy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from powerflow.api.decisions import DecisionRecord, Forecast, JobOption
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.cost_learning import CostLearning
from powerflow.live.jobs.options import option
from powerflow.scheduler.calibration import Calibration
from powerflow.scheduler.plan import QUIET, Wish, gpus_said
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.store import Store
from powerflow.units import DAY_S

#: Setting in the store: how accurate forecasts were.
OUTCOMES = "outcomes"
#: Least time between two logged wishes for one job, seconds: they may flap.
BETWEEN_S = 30.0
#: How long decisions are kept after the end of their job, seconds.
KEPT_S = 90 * DAY_S


@dataclass(slots=True)
class _Story:
    """What was logged about a job, when its present configuration began, and what was predicted for a step in it."""

    told: tuple[object, ...] = ()
    wished: tuple[object, ...] = ()
    wished_s: float = -math.inf
    since_s: float = math.nan
    steps: float = 0.0
    energy_j: float = 0.0
    step: JobOption | None = None  # None while the job waits
    said_s: float = 0.0  # sum over earlier configurations
    said_j: float = 0.0
    took_s: float = 0.0
    took_j: float = 0.0


class DecisionLog:
    """Log the decisions about all jobs of one cluster.

    Any thread may call `forecast` and read `calibrations`; only the controller's loop may call the rest.
    """

    def __init__(self, store: Store, learning: CostLearning, scheduler: Scheduler) -> None:
        self._store, self._learning, self._scheduler = store, learning, scheduler
        self._stories: dict[str, _Story] = {}
        self._rows: list[DecisionRecord] = []
        self._unsaved = False
        self.calibrations: Mapping[str, Calibration] = {"time": Calibration(), "energy": Calibration()}

    def start(self, now_s: float) -> None:
        """Restore the errors of earlier forecasts from the store.

        Delete decisions about jobs that ended long ago.
        """
        self._store.decisions.forget(now_s - KEPT_S)
        kept = self._store.get(OUTCOMES, {})
        self.calibrations = {what: Calibration(kept.get(what, ())) for what in ("time", "energy")}

    def decided(self, job: ActiveJob, now_s: float) -> None:
        """Log a decision about a job, if it differs from the last one in the log."""
        story = self._stories.setdefault(job.id, _Story())
        clock_mhz = job.clock_mhz if job.placement else 0.0
        has, foreseen = (job.gpus, clock_mhz, job.gpu_type), self._foreseen(job, job.gpu_type)
        same = story.told[:3] == has
        if same and story.told[3] == foreseen and (job.why in QUIET or story.told[4] == job.why):
            return
        step = self._step(job, job.gpu_type, job.gpus, clock_mhz)
        if not same or story.step is None:  # or its costs have become known
            self._close(story, job, now_s)
            story.since_s, story.steps, story.energy_j, story.step = now_s, job.steps, job.energy_j, step
        story.told = (*has, foreseen, job.why)
        self._write(job, now_s, False, job.why, job.reason, job.gpus, clock_mhz, step)

    def wished(self, job: ActiveJob, wish: Wish, now_s: float) -> None:
        """Log the policy's decision for a job in stage shadow, if it differs from the last one in the log."""
        story = self._stories.setdefault(job.id, _Story())
        wanted = (*wish, self._foreseen(job, wish.pool))
        if story.wished == wanted or now_s < story.wished_s + BETWEEN_S:
            return
        story.wished, story.wished_s = wanted, now_s
        said = f"would run on {gpus_said(wish.gpus)} at {wish.clock_mhz:.0f} MHz" if wish.gpus else "would wait"
        step = self._step(job, wish.pool, wish.gpus, wish.clock_mhz)
        self._write(job, now_s, True, "would", said, wish.gpus, wish.clock_mhz, step)

    def ended(self, job: ActiveJob, now_s: float) -> Mapping[str, float]:
        """Compare a completed job with its forecasts; return log(actual / predicted) for ``time`` and ``energy``."""
        story = self._stories.pop(job.id, None)
        if story is None:
            return {}
        self._close(story, job, now_s)
        errors = {}
        for what, said, took in (("time", story.said_s, story.took_s), ("energy", story.said_j, story.took_j)):
            if 0 < said < math.inf and 0 < took < math.inf:
                errors[what] = math.log(took / said)
                self.calibrations[what].add(said, took)
                self._unsaved = True
        return errors

    def forget(self, job_id: str) -> None:
        """Forget the forecasts for a job that ended without completing."""
        self._stories.pop(job_id, None)

    def save(self) -> None:
        """Store new decisions, and the errors of forecasts.

        Raises:
            StoreError: The store cannot be written. The next call stores the rest.
        """
        if self._rows:
            self._store.decisions.add(self._rows)
            self._rows = []
        if self._unsaved:
            self._store.put(OUTCOMES, {what: [*known.residuals] for what, known in self.calibrations.items()})
            self._unsaved = False

    def forecast(self, job: ActiveJob, gpu_type: str, gpus: int, clock_mhz: float, now_s: float) -> Forecast:
        """Return the forecast of a job's end and energy if it runs in this configuration from now on.

        The end is unknown if nothing is known of the time of a step: neither the job nor its class was measured yet.
        """
        step = self._step(job, gpu_type, gpus, clock_mhz)
        if job.placement and gpus == job.gpus and job.step_time_s > 0:
            step = self._as_measured(job, gpu_type, gpus, clock_mhz)
        found, most_s = self._forecast(job, now_s, step), _most_s(job)
        if found.jct_s is None and math.isfinite(most_s):  # of unknown length: it ends at its time limit at the latest
            return Forecast(jct_s=now_s - job.submitted_s + most_s)
        return found

    def forecast_as_is(self, job: ActiveJob, now_s: float) -> Forecast:
        """Return the forecast for a job that has GPUs, if it keeps them and its clock."""
        return self.forecast(job, job.gpu_type, job.gpus, job.clock_mhz, now_s)

    @staticmethod
    def _close(story: _Story, job: ActiveJob, now_s: float) -> None:
        """End the time in one configuration: add up what was predicted for it, and what it took."""
        if story.step is None:  # it waited
            return
        steps = job.steps - story.steps
        story.said_s += steps * story.step.step_time_s
        story.said_j += steps * story.step.energy_per_step_j
        story.took_s += now_s - story.since_s
        story.took_j += job.energy_j - story.energy_j
        story.step = None

    def _foreseen(self, job: ActiveJob, gpu_type: str) -> bool:
        """Return True if it is known how many steps a job has, and what they cost; otherwise there is no forecast."""
        return self._sized(job) and self._learning.knows_costs(job.kind.name, gpu_type)

    def _sized(self, job: ActiveJob) -> bool:
        """Return True if it is known how many steps a job has."""
        return bool(job.steps_total) or self._learning.knows_length(job.spec, job.kind.name)

    def _as_measured(self, job: ActiveJob, gpu_type: str, gpus: int, clock_mhz: float) -> JobOption | None:
        """Return a step in a configuration with the measured time of this job, which is better than any belief.

        While clocks are tried, the time was measured at another clock: the belief says only how the times differ.
        """
        step = self._believed(job, gpu_type, gpus, clock_mhz)
        if step is None:
            return None
        time_s = job.step_time_s
        if job.explore_mhz and (tried := self._believed(job, gpu_type, gpus, job.clock_now_mhz)) is not None:
            time_s *= step.step_time_s / tried.step_time_s
        return replace(step, step_time_s=time_s, energy_per_step_j=step.power_w * time_s)

    def _step(self, job: ActiveJob, gpu_type: str, gpus: int, clock_mhz: float) -> JobOption | None:
        """Return the prediction for one step of a job in a configuration.

        None if the job waits, cannot run in it, or if its costs are not known.
        """
        known = self._learning.knows_costs(job.kind.name, gpu_type)
        return self._believed(job, gpu_type, gpus, clock_mhz) if known else None

    def _believed(self, job: ActiveJob, gpu_type: str, gpus: int, clock_mhz: float) -> JobOption | None:
        """Return a step of a job in a configuration as it is believed, be it a guess."""
        if not gpus or gpu_type not in self._scheduler.pools:
            return None
        table = self._learning.table(job.kind.name, gpu_type)
        return option(table, self._scheduler.pools[gpu_type].axes, gpus, clock_mhz)

    def _write(
        self,
        job: ActiveJob,
        now_s: float,
        would: bool,
        why: str,
        reason: str,
        gpus: int,
        clock_mhz: float,
        step: JobOption | None,
    ) -> None:
        expected = asdict(self._forecast(job, now_s, step))
        self._rows.append(DecisionRecord(0, now_s, job.id, would, why, reason, gpus, clock_mhz, **expected))

    def _forecast(self, job: ActiveJob, now_s: float, step: JobOption | None) -> Forecast:
        """Return the forecast for a job from now to its end, if each step is as ``step`` predicts.

        The job ends at its time limit at the latest.
        """
        if step is None or not self._sized(job):
            return Forecast()
        total = job.steps_total or self._learning.believed_steps(job.spec, job.kind.name)
        left_s = max(0.0, total - job.steps) * step.step_time_s
        past_s, most_s = now_s - job.submitted_s, _most_s(job)
        jct_s, low_s, high_s = self._spread("time", left_s, most_s, past_s)
        energy_j, low_j, high_j = self._spread("energy", left_s * step.power_w, most_s * step.power_w, job.energy_j)
        return Forecast(
            jct_s=jct_s,
            jct_low_s=low_s,
            jct_high_s=high_s,
            energy_j=energy_j,
            energy_low_j=low_j,
            energy_high_j=high_j,
        )

    def _spread(self, what: str, left: float, most: float, past: float) -> tuple[float, float | None, float | None]:
        """Return the expected total and its interval.

        Each is the part that is past, plus what is predicted of the rest, which is at most ``most``.
        """
        known = self.calibrations[what]
        found = known.interval(left) if left > 0 else None
        if found is None:
            return past + min(left, most), None, None
        low, high = found
        return past + min(known.expected(left), most), past + min(low, most), past + min(high, most)


def _most_s(job: ActiveJob) -> float:
    """Return the seconds for which a job may still run; inf if it has no time limit."""
    return math.inf if job.spec.time_limit is None else max(0.0, job.spec.time_limit - job.run_s)
