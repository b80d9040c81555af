"""Fits a power model to measured watts, given the step times: bounded linear least squares in all but one parameter.

With z = (P_act − P_idle)·(1 − h_1 − h_3, h_1, h_3, s), the watts of `gpu_power` are linear in z:

    P_gpu − P_idle = busy^r · [u·(z_0 + z_1·x + z_3·x³) + (1 − u)·z_s]          x = f/f_max

so for each exponent r the best z ≥ 0 is found exactly, and only r is searched.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.catalogue import GpuType
from powerflow.cost.model import PowerModel, ThroughputModel, busy_share, compute_time, step_time
from powerflow.cost.points import Points

#: Spread that a power reading is taken to have around the model, as a share of it.
NOISE = 0.03

#: How far the shape z ÷ Σ(z_0..z_3), the amplitude and the exponent r may be from the prior.
_SHAPE_SPREAD, _AMPLITUDE_SPREAD, _EXPONENT_SPREAD = 0.3, 0.5, 0.5
_FROZEN = 1e-3

#: Broad guesses where no family is known: the middle workload of the V100 clock profile, above idle; the middle
#: network of Zeus' V100 profile, as a share of the range from idle to limit.
_LINEAR, _CUBIC, _SYNC, _EXPONENT, _LOAD = 0.15, 0.55, 0.3, 0.8, 0.75


def fit_power(
    points: Points,
    throughput: ThroughputModel,
    card: GpuType,
    prior: PowerModel | None,
    *,
    limited: bool = False,
) -> tuple[PowerModel, tuple[str, ...]]:
    """Fit watts.

    Args:
        points: Measured points; those without power are passed over.
        throughput: The times model, for the shares of busy, computing and synchronising time.
        card: The GPU type: its idle draw is taken as known unless a point draws less, its limit bounds what a busy
            GPU draws.
        prior: What to believe where the points are silent, or None for a broad guess.
        limited: A power limit holds some points back, so that P_act, at the maximum clock, may be above any limit.

    Returns:
        The model, and the names of the parameters that stayed at the prior because no point can tell them.
    """
    base = _guess(card) if prior is None else prior
    points = points.take(np.isfinite(points.power_w))
    if not len(points.gpus):
        return base, ("active_w", "busy_exponent", "h_linear", "h_cubic", "sync_share")
    lowest_w = float((points.power_w / points.gpus).min())
    if lowest_w < base.idle_w:
        base = replace(base, idle_w=lowest_w)
    computing = points.accumulation * compute_time(throughput, points.gpus, points.local_batch, points.clock_mhz)
    share = computing / step_time(throughput, *points.where)
    busy = busy_share(throughput, points.local_batch)
    x = points.clock_mhz / throughput.clock_max_mhz
    told = {
        "active_w": True,
        "busy_exponent": len(np.unique(points.local_batch)) > 2 and busy.max() > 1.2 * busy.min(),
        "h_linear": x.max() > 1.02 * x.min(),
        "h_cubic": x.max() > 1.02 * x.min(),
        "sync_share": bool(share.min() < 0.95),
    }
    columns = np.stack([share, share * x, share * x**3, 1.0 - share], axis=1)
    per_gpu = points.power_w / points.gpus
    most_w = max(card.limit_w, float(per_gpu.max()))
    loose = np.array([told["h_cubic"]] * 3 + [told["sync_share"]])
    spreads = np.where(loose, _SHAPE_SPREAD, _FROZEN)

    def solve(exponent: float) -> tuple[float, FloatArray]:
        return _solve(columns * busy[:, None] ** exponent, per_gpu, base, spreads, weak_amplitude=prior is None)

    if told["busy_exponent"]:
        from scipy.optimize import minimize_scalar

        def cost(exponent: float) -> float:
            return solve(exponent)[0] + ((exponent - base.busy_exponent) / _EXPONENT_SPREAD) ** 2

        exponent = float(minimize_scalar(cost, bounds=(0.0, 1.5), method="bounded", options={"xatol": 1e-3}).x)
    else:
        exponent = base.busy_exponent
    z = solve(exponent)[1]
    amplitude = max(float(z[:3].sum()), 1e-9)
    shape = z / amplitude
    model = PowerModel(
        idle_w=base.idle_w,
        active_w=base.idle_w + amplitude if limited else min(base.idle_w + amplitude, most_w),
        busy_exponent=exponent,
        h_linear=float(shape[1]),
        h_cubic=float(shape[2]),
        sync_share=float(min(shape[3], 1.0)),
    )
    return model, tuple(name for name, known in told.items() if not known)


def _solve(
    columns: FloatArray, per_gpu_w: FloatArray, base: PowerModel, spreads: FloatArray, *, weak_amplitude: bool
) -> tuple[float, FloatArray]:
    """Best z ≥ 0 in the sense of relative error and prior; returns (cost, z)."""
    from scipy.optimize import nnls

    scale = max(base.active_w - base.idle_w, 1.0)
    shape = np.array([1.0 - base.h_linear - base.h_cubic, base.h_linear, base.h_cubic, base.sync_share])
    total = np.array([1.0, 1.0, 1.0, 0.0])
    toward_shape = (np.eye(4) - np.outer(shape, total)) / (spreads[:, None] * scale)
    spread = _AMPLITUDE_SPREAD * (20.0 if weak_amplitude else 1.0)
    toward_amplitude = total[None, :] / (spread * scale)
    rows = np.concatenate([columns / (NOISE * per_gpu_w[:, None]), toward_shape, toward_amplitude])
    wanted = np.concatenate([(per_gpu_w - base.idle_w) / (NOISE * per_gpu_w), np.zeros(4), [1.0 / spread]])
    z, misfit = nnls(rows, wanted)
    return float(misfit) ** 2, z


def _guess(card: GpuType) -> PowerModel:
    active_w = card.idle_w + _LOAD * (card.limit_w - card.idle_w)
    return PowerModel(card.idle_w, active_w, _EXPONENT, _LINEAR, _CUBIC, _SYNC)
