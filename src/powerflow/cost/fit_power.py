"""Fit a power model to measured watts when the step times are known.

With z = (P_act − P_idle)·(1 − h_1 − h_3, h_1, h_3, s), the watts of `gpu_power` are linear in z:

    P_gpu − P_idle = busy^r · [u·(z_0 + z_1·x + z_3·x³) + (1 − u)·z_s]          x = f/f_max

Here busy is the busy share of a pass, u the share of the step time in which the GPU computes, f the clock, and all
other letters are parameters of `PowerModel`. So for each exponent r the best z ≥ 0 is found exactly by least squares,
and only r needs a search.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.catalogue import GpuType
from powerflow.cost.model import PowerModel, ThroughputModel, busy_share, compute_time, step_time
from powerflow.cost.points import Points

#: Assumed relative spread of a power reading around the model.
NOISE = 0.03

#: Prior spreads of the shape z ÷ Σ(z_0..z_3), of the amplitude, and of the exponent r.
_SHAPE_SPREAD, _AMPLITUDE_SPREAD, _EXPONENT_SPREAD = 0.3, 0.5, 0.5
_FROZEN = 1e-3

#: Values assumed when no family is known. Above idle: the median workload of the V100 clock profile. As a share of the
#: range from idle to limit: the median network of Zeus' V100 profile.
_LINEAR, _CUBIC, _SYNC, _EXPONENT, _LOAD = 0.15, 0.55, 0.3, 0.8, 0.75


def fit_power(
    points: Points,
    throughput: ThroughputModel,
    card: GpuType,
    prior: PowerModel | None,
    *,
    limited: bool = False,
) -> tuple[PowerModel, tuple[str, ...]]:
    """Fit the parameters of a power model.

    Args:
        points: Measured points; points without power are ignored.
        throughput: Fitted step-time model. It gives the shares of busy, computing and synchronising time.
        card: GPU type. Its idle draw is used unless a point draws less; its limit bounds the draw of a busy GPU.
        prior: Model to use for parameters that the points do not determine; None uses a broad guess.
        limited: True if a power limit slowed some points. P_act, at the maximum clock, may then exceed the limit.

    Returns:
        The model, and the names of the parameters kept from the prior because no point determines them.
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
    """Return the smallest cost and the best z ≥ 0, for relative errors of the watts and distance from the prior.

    z are the four linear parameters of the power model (see this module).
    """
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
