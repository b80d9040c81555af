"""Compute watts and step times under a power limit: at the limit the card lowers its own clock until it draws no more.

So watts stop at the limit, and a step takes as long as at the clock that the card then runs at:

    f_held = max { f ≤ f_asked : P(f) ≤ limit }         P as in `cost.model.gpu_power`

P rises with the clock, so f_held is found by halving. Below the lowest clock the model is taken at (a tenth of the
maximum) nothing is lowered any more: there the limit is below what the job draws at any clock.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray
from powerflow.cost.model import JobModel, PowerModel, ThroughputModel, Values, gpu_power, step_time
from powerflow.cost.points import Points

#: Watts within this share of the limit are at it: what a driver keeps below it, and noise.
NEAR = 0.015
#: A plateau spans clocks at least this ratio apart; below it the draw falls to this share, and time rises by this one.
_SPAN, _FALLS, _RISES = 1.02, 0.93, 1.01
_LOWEST, _HALVINGS = 0.1, 40


def held_clock(
    throughput: ThroughputModel,
    power: PowerModel,
    limit_w: Values,
    gpus: Values,
    local_batch: Values,
    accumulation: Values,
    clock_mhz: Values,
    crosses: Values,
) -> FloatArray:
    """Find the clocks in MHz that cards run at when asked for ``clock_mhz`` under a limit; all arguments broadcast.

    Args:
        throughput, power: The job's.
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
    gpus: Values,
    local_batch: Values,
    accumulation: Values,
    clock_mhz: Values,
    crosses: Values,
    limit_w: Values | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Seconds per iteration and watts of one GPU, under the model's power limit.

    Args:
        model: The job's.
        gpus, local_batch, accumulation, clock_mhz, crosses: As in `gpu_power`.
        limit_w: Another limit than the model's, of one GPU; nan where the model's holds.
    """
    own = math.nan if model.limit_w is None else model.limit_w
    limit = own if limit_w is None else np.where(np.isnan(limit_w), own, limit_w)
    clock = held_clock(model.throughput, model.power, limit, gpus, local_batch, accumulation, clock_mhz, crosses)
    where = (gpus, local_batch, accumulation, clock, crosses)
    return step_time(model.throughput, *where), gpu_power(model.throughput, model.power, *where)


def limit_shown(points: Points) -> float | None:
    """Find the power limit that points show: the highest watts of one GPU, if more clock brings neither more nor speed.

    A plateau is taken for a limit only where lower clocks draw less and take longer: a job that hardly uses the GPU
    draws the same at every clock, and no limit holds it.
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


def at_limit(points: Points, limit_w: float | None) -> npt.NDArray[np.bool_]:
    """Say which points were drawn at a limit: their own, or ``limit_w`` where they name none."""
    limit = np.where(np.isnan(points.limit_w), math.nan if limit_w is None else limit_w, points.limit_w)
    with np.errstate(invalid="ignore"):
        near: npt.NDArray[np.bool_] = points.power_w / points.gpus >= (1.0 - NEAR) * limit
    return near
