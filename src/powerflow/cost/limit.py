"""Compute watts and step times of a GPU that lowers its own clock to stay within a power limit.

Watts stop at the limit, and the step time is that of the clock at which the GPU then runs:

    f_held = max { f ≤ f_asked : P(f) ≤ limit }         P as in `cost.model.gpu_power`

f_asked is the requested clock. P rises with the clock, so f_held is found by bisection, down to a tenth of the maximum
clock. If even this lowest clock draws more than the limit, it is used unchanged.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from powerflow.arrays import BoolArray, FloatArray
from powerflow.cost.model import JobModel, PowerModel, ThroughputModel, gpu_power, step_time
from powerflow.cost.observation import Observation
from powerflow.cost.points import Points

#: Watts within this share of the limit count as being at the limit (driver margin and noise).
NEAR = 0.025
#: A limit is visible (`limit_shown`) if clocks with equal watts differ by at least the first ratio, while lower clocks
#: draw less than the second share of these watts and take longer by the third ratio.
_SPAN, _FALLS, _RISES = 1.02, 0.93, 1.01
#: From this share of a limit on, mean watts may have been lowered by it: it cuts the peaks of a job. In Zeus' windows
#: ResNet-18 draws 190 W on a V100 limited to 250 W, and 171 W on one limited to 225 W.
_BINDS = 0.7
#: Watts within this share of a limit that a point states count as being at the limit: the limit cuts the peaks of a job
#: whose mean is lower. With `NEAR` instead, the mean error of watts in Zeus' profiles is 1.3 and 2.4 points higher.
_STATED_NEAR = 0.12
_LOWEST, _HALVINGS = 0.1, 40


def held_clock(
    throughput: ThroughputModel,
    power: PowerModel,
    limit_w: ArrayLike,
    gpus: ArrayLike,
    local_batch: ArrayLike,
    accumulation: ArrayLike,
    clock_mhz: ArrayLike,
    crosses: ArrayLike,
) -> FloatArray:
    """Return the clocks in MHz at which GPUs run when ``clock_mhz`` is requested under a power limit.

    All arguments broadcast.

    Args:
        throughput, power: The job's model.
        limit_w: Watts that one GPU may draw; nan for no limit.
        gpus, local_batch, accumulation, clock_mhz, crosses: As in `gpu_power`.
    """
    where = np.broadcast_arrays(limit_w, gpus, local_batch, accumulation, clock_mhz, crosses)
    limit, n, b, s, asked, across = where
    high = np.array(asked, float)
    over = gpu_power(throughput, power, n, b, s, high, across) > limit
    if not over.any():
        return high
    n, b, s, across, most_w = n[over], b[over], s[over], across[over], np.asarray(limit, float)[over]
    top, low = high[over], np.minimum(high[over], _LOWEST * throughput.clock_max_mhz)
    for _ in range(_HALVINGS):
        middle = (low + top) / 2
        fits = gpu_power(throughput, power, n, b, s, middle, across) <= most_w
        low, top = np.where(fits, middle, low), np.where(fits, top, middle)
    high[over] = low
    return high


def limited_costs(
    model: JobModel,
    gpus: ArrayLike,
    local_batch: ArrayLike,
    accumulation: ArrayLike,
    clock_mhz: ArrayLike,
    crosses: ArrayLike,
    limit_w: ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return seconds per iteration and watts of one GPU under a power limit.

    Args:
        model: The job's model.
        gpus, local_batch, accumulation, clock_mhz, crosses: As in `gpu_power`.
        limit_w: Limit of one GPU that replaces the model's limit; nan where the model's limit applies.
    """
    own = math.nan if model.limit_w is None else model.limit_w
    limit = own if limit_w is None else np.where(np.isnan(limit_w), own, limit_w)
    clock = held_clock(model.throughput, model.power, limit, gpus, local_batch, accumulation, clock_mhz, crosses)
    where = (gpus, local_batch, accumulation, clock, crosses)
    return step_time(model.throughput, *where), gpu_power(model.throughput, model.power, *where)


def limit_shown(points: Points) -> float | None:
    """Return the power limit of one GPU that is visible in measured points, or None if none is visible.

    A limit is visible if the highest watts stay equal over several clocks without more speed, and lower clocks draw
    less and take longer. The second condition excludes jobs that hardly use the GPU and draw the same at every clock.
    """
    known = np.isfinite(points.power_w) & np.isnan(points.limit_w)
    if not known.any():
        return None
    each_w = points.power_w / points.gpus
    top_w = float(each_w[known].max())
    rows = np.stack([np.asarray(c, float) for c in (points.gpus, points.local_batch, points.accumulation)], axis=1)
    for row in np.unique(rows[known], axis=0):
        own = known & (rows == row).all(axis=1)
        flat = own & (each_w >= (1.0 - NEAR) * top_w)
        below = own & (each_w < _FALLS * top_w)
        if not flat.any() or not below.any():
            continue
        spans = points.clock_mhz[flat].max() > _SPAN * points.clock_mhz[flat].min()
        as_fast = points.time_s[flat].max() < _RISES * points.time_s[flat].min()
        slower = points.time_s[below].min() > _RISES * points.time_s[flat].max()
        if spans and as_fast and slower:
            return float(np.median(each_w[flat]))
    return None


def at_limit(points: Points, limit_w: float | None) -> BoolArray:
    """Return a mask of the points that were measured at a power limit.

    The limit is the one that a point names, or ``limit_w`` if the point names none.
    """
    unstated = np.isnan(points.limit_w)
    limit = np.where(unstated, math.nan if limit_w is None else limit_w, points.limit_w)
    with np.errstate(invalid="ignore"):
        near: BoolArray = points.power_w / points.gpus >= (1.0 - np.where(unstated, NEAR, _STATED_NEAR)) * limit
    return near


def is_limited(seen: Observation, limit_w: float | None) -> bool:
    """Return True if a power limit lower than usual may have lowered the clock of a measured point.

    This is so if the point states a limit below ``limit_w``, and its watts come near the stated limit or are unknown.

    Args:
        seen: The point.
        limit_w: Usual power limit of one GPU; None if there is none.
    """
    own_w = seen.power_limit_w
    if own_w is None or (limit_w is not None and own_w >= (1.0 - NEAR) * limit_w):
        return False
    return seen.power_w is None or seen.power_w / seen.gpus >= _BINDS * own_w
