"""From what ranks say of their steps to observations of cost: only whole stretches of one configuration count."""

from __future__ import annotations

import math

import numpy as np

from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable
from powerflow.gangs.report_bounds import LEAST_STEP_S, MOST_S
from powerflow.gangs.types import Progressed
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.cost_learning import StepWindow

#: Steps of a stretch before it counts as a measurement, and the least seconds it must have lasted.
STEPS = 20
SECONDS = 1.0
#: Every repeat of a stretch is twice as long as the one before, up to so many times: what is known well needs few rows.
DOUBLINGS = 12


def timed(
    entry: ActiveJob,
    fact: Progressed,
    table: CostTable,
    axes: Axes,
    clock_mhz: float | None,
    steps: int = STEPS,
) -> Observation | None:
    """Take note of progress; an observation where enough steps ran in one configuration.

    ``clock_mhz`` is what its GPUs are locked to; None where nobody could lock them.

    The first report in a configuration only starts the stretch: the step in flight may have begun in the one before.
    """
    key = (fact.generation, fact.gpus, fact.nodes, clock_mhz, fact.local_batch, fact.accumulation)
    window = entry.window
    if window is None or window.key != key:
        entry.window = StepWindow(key, fact.timed_steps, fact.timed_s)
        return None
    count, seconds = fact.timed_steps - window.steps, fact.timed_s - window.seconds
    if count < 1 or seconds <= 0.0:
        return None
    if not LEAST_STEP_S <= seconds / count <= MOST_S:  # a log that counts something else than steps
        entry.window = None
        return None
    entry.step_time_s = seconds / count
    if count < steps << min(window.repeats, DOUBLINGS) or seconds < SECONDS:
        return None
    row = int(np.searchsorted(axes.gpu_counts, fact.gpus))
    if row >= len(axes.gpu_counts) or axes.gpu_counts[row] != fact.gpus:
        return None
    seen = Observation(
        model=entry.kind.name,
        gpu_type=entry.gpu_type,
        gpus=fact.gpus,
        local_batch=fact.local_batch or int(table.local_batch[row]),
        step_time_s=seconds / count,
        nodes=fact.nodes,
        accumulation=fact.accumulation if fact.local_batch else int(table.accumulation[row]),
        clock_mhz=clock_mhz,
        power_w=window.power_w(),
    )
    entry.model_error = _error(seen, table, axes, row)
    entry.window = StepWindow(key, fact.timed_steps, fact.timed_s, repeats=window.repeats + 1)
    return seen


def _error(seen: Observation, table: CostTable, axes: Axes, row: int) -> float:
    """|predicted ÷ measured − 1| of the step time, by what was believed before this was seen."""
    spread = seen.nodes > -(-seen.gpus // axes.gpus_per_node)
    times = (table.spread_step_time_s if spread else table.step_time_s)[row]
    clock = float(axes.clocks_mhz[-1]) if seen.clock_mhz is None else seen.clock_mhz
    predicted = float(times[int(np.abs(axes.clocks_mhz - clock).argmin())])
    return abs(predicted / seen.step_time_s - 1.0) if math.isfinite(predicted) else math.nan
