"""Measure the time of the steps that ranks report, and choose the clocks at which a new job is measured."""

from __future__ import annotations

import math

import numpy as np

from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable
from powerflow.gangs.report_bounds import LEAST_STEP_S, MOST_S
from powerflow.gangs.types import Progressed
from powerflow.live.jobs.active_job import ActiveJob, StepWindow
from powerflow.live.jobs.cost_learning import CostLearning

#: Steps in one configuration that make a measurement, and the least seconds that they must take.
STEPS = 20
SECONDS = 1.0
#: Seconds after which a repeated timing replaces the one before: steps of a log are read only twice a second.
STEADY_S = 10.0
#: Without trials, each repeated measurement needs twice as many steps as the one before, up to this many doublings.
DOUBLINGS = 12


def timed(
    job: ActiveJob,
    report: Progressed,
    table: CostTable,
    axes: Axes,
    clock_mhz: float | None,
    now_s: float,
    steps: int = STEPS,
    seconds_least: float = SECONDS,
) -> Observation | None:
    """Measure the time of steps from a report of a job's ranks.

    The first report in a configuration only starts the timing: its last step may have begun in an earlier
    configuration.

    Args:
        job: The job; its step time and the error of its model are set.
        report: What the job's ranks report.
        table: The believed costs of the job.
        axes: GPU counts and clocks of ``table``.
        clock_mhz: Clock that the job's GPUs are locked to; None if they are not locked.
        now_s: Time of the report.
        steps: Least number of steps for a measurement.
        seconds_least: Least seconds that these steps must take.

    Returns:
        A measurement, once enough steps ran in one configuration and their power was read (if the GPU reports power);
        until then None.
    """
    key = (report.generation, report.gpus, report.nodes, clock_mhz, report.local_batch, report.accumulation)
    window = job.window
    if window is None or window.key != key:
        job.window = StepWindow(key, report.timed_steps, report.timed_s, now_s)
        return None
    count, seconds = report.timed_steps - window.steps, report.timed_s - window.seconds
    if count < 1 or seconds <= 0.0:
        return None
    if not LEAST_STEP_S <= seconds / count <= MOST_S:  # a log that counts something else than steps
        job.window = None
        return None
    if window.repeats == 0 or count >= steps or seconds >= STEADY_S:  # else the last timing of this tells more
        job.step_time_s = seconds / count
    doubled = 0 if job.explore_mhz else min(window.repeats, DOUBLINGS)  # each repeated trial takes the same steps
    if count < steps << doubled or seconds < seconds_least:
        return None
    if job.power_w > 0 and not window.samples:  # the next reading tells what these steps draw
        return None
    row = int(np.searchsorted(axes.gpu_counts, report.gpus))
    if row >= len(axes.gpu_counts) or axes.gpu_counts[row] != report.gpus:
        return None
    seen = Observation(
        model=job.kind.name,
        gpu_type=job.gpu_type,
        gpus=report.gpus,
        local_batch=report.local_batch or int(table.local_batch[row]),
        step_time_s=seconds / count,
        nodes=report.nodes,
        accumulation=report.accumulation if report.local_batch else int(table.accumulation[row]),
        clock_mhz=clock_mhz,
        power_w=window.power_w(),
    )
    job.model_error = _error(seen, table, axes, row)
    job.window = StepWindow(key, report.timed_steps, report.timed_s, now_s, repeats=window.repeats + 1)
    return seen


def clocks_to_try(job: ActiveJob, learning: CostLearning, axes: Axes, trial_steps: int) -> tuple[float, ...]:
    """Return the clocks (MHz) at which a job should be measured next, for ``trial_steps`` steps each.

    A clock that should be measured several times is returned as often. The owner's limit is kept even if the beliefs
    about the job are wrong (see `powerflow.cost.clock_choice`). Jobs that run at the maximum clock without a limit have
    no energy to save: they try only what the fit needs.
    """
    most = job.spec.most_slowdown
    saves = most is not None or job.clock_mhz < float(axes.clocks_mhz[-1])
    total = job.steps_total or learning.believed_steps(job.spec, job.kind.name)
    remaining = max(
        total - job.steps, job.steps if job.spec.external else 0.0
    )  # nobody says how long that one will run
    return tuple(
        learning.learner.clocks_to_try(
            job.kind.name,
            job.gpu_type,
            job.gpus,
            trial_steps,
            packed=len(job.placement) <= -(-job.gpus // axes.gpus_per_node),
            most_slowdown=math.inf if most is None else most,
            remaining=remaining if saves else 0.0,
        )
    )


def _error(seen: Observation, table: CostTable, axes: Axes, row: int) -> float:
    """Return |predicted ÷ measured − 1| of the step time, predicted by the beliefs before this measurement."""
    spread = seen.nodes > -(-seen.gpus // axes.gpus_per_node)
    times = (table.spread_step_time_s if spread else table.step_time_s)[row]
    clock = float(axes.clocks_mhz[-1]) if seen.clock_mhz is None else seen.clock_mhz
    predicted = float(times[int(np.abs(axes.clocks_mhz - clock).argmin())])
    return abs(predicted / seen.step_time_s - 1.0) if math.isfinite(predicted) else math.nan
