"""Which clocks a job tries out where it runs: few, for a few steps each, and never beyond what it may be slowed."""

from __future__ import annotations

from powerflow.cost.table import Axes
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.cost_learning import CostLearning

#: Longest that one clock is tried: steps may be long, or be told of rarely.
EXPLORE_S = 300.0


def clocks_to_try(entry: ActiveJob, learning: CostLearning, axes: Axes) -> tuple[float, ...]:
    """Clocks at which the job's class was never measured on so many GPUs, as far as the job may be slowed.

    A step at clock f takes at most f_max / f of what it takes at full clock (design §4: φ(f) ≤ f_max/f, as κ ≤ 1).
    That holds whatever the job is, so no belief, which may be wrong, is trusted with a bound.
    """
    clocks = learning.unmeasured_clocks(entry.kind.name, entry.gpu_type, entry.gpus)
    most = entry.spec.most_slowdown
    if most is None:
        return tuple(clocks)
    top = float(axes.clocks_mhz[-1])
    return tuple(clock for clock in clocks if top <= (1.0 + most) * clock * (1.0 + 1e-9))
