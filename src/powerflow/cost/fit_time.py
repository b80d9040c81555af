"""Fit a step-time model by robust, regularised least squares on log time."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.cost.model import ThroughputModel, step_time
from powerflow.cost.points import Points

#: Assumed spread of one step time around the model (log). Residuals above twice this value get less weight.
NOISE = 0.05
#: The same for the ratio of step times at two clocks of one configuration, in which other errors of the model cancel.
CLOCK_NOISE = 0.01


class _Parameter(NamedTuple):
    """How one parameter of the step-time model is fitted: linear or log scale, bounds, and spreads of the prior.

    The spreads are standard deviations in the fitted coordinate: `near` around a family's value, `far` around the broad
    guess used without a family. Parameters with the same `scale` are fitted as logarithms and also move together, by
    `SCALE_SPREAD`: a GPU that is twice as fast shortens α and β alike, and a slower network lengthens all
    synchronising.
    """

    name: str
    scale: str
    low: float
    high: float
    near: float
    far: float


PARAMETERS = (
    _Parameter("alpha_s", "compute", -23.0, 9.0, 0.3, 5.0),
    _Parameter("beta_s", "compute", -23.0, 9.0, 0.3, 5.0),
    _Parameter("corner", "", 1.0, 8.0, 0.5, 2.0),
    _Parameter("kappa", "", 0.0, 1.0, 0.2, 0.5),
    _Parameter("knee", "knee", 0.0, 3.5, 0.3, 0.3),
    _Parameter("node_alpha_s", "sync", -23.0, 9.0, 0.3, 5.0),
    _Parameter("node_beta_s", "sync", -23.0, 9.0, 0.3, 5.0),
    _Parameter("cross_alpha_s", "sync", -23.0, 9.0, 0.3, 5.0),
    _Parameter("cross_beta_s", "sync", -23.0, 9.0, 0.3, 5.0),
    _Parameter("gamma", "", 1.0, 10.0, 1.0, 3.0),
    _Parameter("crowding", "", 0.0, 1.0, 0.1, 0.2),
)
SCALE_SPREAD = 1.0

#: Values assumed without a family: a corner between sum and maximum; κ of the median workload of the V100 clock
#: profile; γ of the median application of Pollux' profiles. Without three clocks no knee is assumed.
_GUESS = {"corner": 1.7, "kappa": 0.4, "gamma": 2.0}
#: Where the search for the knee starts. At its lower bound, 1, the search would not move.
_KNEE_START = 2.0
_NO_SYNC_S = 1e-9


def fit_throughput(
    points: Points, clock_max_mhz: float, prior: ThroughputModel | None, start: ThroughputModel | None
) -> tuple[ThroughputModel, tuple[str, ...]]:
    """Fit the parameters of a step-time model.

    Args:
        points: Measured points, at least one.
        clock_max_mhz: Maximum clock of the GPU type.
        prior: Model to use for parameters that the points do not determine, or None.
        start: Model from which the search starts; None starts from the prior, or from a guess based on the points.

    Returns:
        The model, and the names of the parameters kept from the prior because no point determines them. Without a prior
        these parameters are optimistic: no synchronising time where none was measured, and no additional time for
        crossing nodes.
    """
    from scipy.optimize import least_squares

    free = _identifiable(points, prior is not None)
    names = [p.name for p in free]
    if prior is None:
        unseen = {p.name: 0.0 for p in PARAMETERS if p.scale == "sync" and p.name not in names}
        base = replace(_guess(points, clock_max_mhz), **unseen)
    else:
        base = replace(prior, clock_max_mhz=clock_max_mhz)
    low, high = np.array([p.low for p in free]), np.array([p.high for p in free])
    whiten = _prior_whitening(free, prior is not None)
    centre = np.clip(_coordinates(base, free), low, high)
    log_time = np.log(points.time_s)
    weights = _misfit_whitening(points)

    def residuals(x: FloatArray) -> FloatArray:
        model = replace(base, **_values(x, free))
        misfit = weights @ (np.log(step_time(model, *points.where)) - log_time)
        return np.concatenate([misfit, whiten @ (x - centre)])

    begin = centre if start is None else _coordinates(start, free)
    begin = np.where(np.array(names) == "knee", np.maximum(begin, np.log(_KNEE_START)), begin)
    begin = np.clip(begin, low + 1e-6, high - 1e-6)
    best = least_squares(
        residuals, begin, bounds=(low, high), loss="soft_l1", f_scale=2.0, xtol=1e-5, ftol=1e-6, gtol=1e-6
    )
    model = replace(base, **_values(best.x, free))
    if prior is None and "cross_alpha_s" not in names:
        model = replace(model, cross_alpha_s=model.node_alpha_s, cross_beta_s=model.node_beta_s)
    return model, tuple(p.name for p in PARAMETERS if p.name not in names)


def _misfit_whitening(points: Points) -> FloatArray:
    """Return the matrix that turns log errors of the M points into independent values of spread 1.

    Errors of different configurations are independent, with spread `NOISE`. Points that differ only in the clock share
    most of this error; their ratio has only the spread `CLOCK_NOISE`.
    """
    from scipy.linalg import helmert

    rows = np.stack([points.gpus, points.local_batch, points.accumulation, points.crosses], axis=1)
    group = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    matrix = np.eye(len(group)) / NOISE
    for number in range(int(group.max()) + 1):
        own = np.flatnonzero(group == number)
        if len(np.unique(points.clock_mhz[own])) < 2:
            continue
        # the first row is the mean, the others are contrasts between clocks: an outlier there does not move the mean
        spreads = np.full(len(own), CLOCK_NOISE)
        spreads[0] = np.sqrt(CLOCK_NOISE**2 + len(own) * (NOISE**2 - CLOCK_NOISE**2))
        matrix[np.ix_(own, own)] = helmert(len(own), full=True) / spreads[:, None]
    return matrix


def _prior_whitening(free: list[_Parameter], has_prior: bool) -> FloatArray:
    """Return the matrix that turns deviations from the prior into independent values of spread 1."""
    scales = np.array([p.scale for p in free])
    together = (scales[:, None] == scales[None, :]) & (scales != "")
    own = np.array([p.near if has_prior else p.far for p in free])
    return np.linalg.inv(np.linalg.cholesky(np.diag(own**2) + SCALE_SPREAD**2 * together))


def _identifiable(points: Points, has_prior: bool) -> list[_Parameter]:
    """Return the parameters of the step-time model that the measured points determine.

    With a family's prior fewer points are enough: a single point moves both a slope and its intercept, in proportion.
    """
    batches = len(np.unique(points.local_batch))
    clocks = points.clock_mhz.max() > 1.02 * points.clock_mhz.min()
    three_clocks = len(np.unique(points.clock_mhz)) > 2
    node, cross = (points.gpus > 1) & (points.crosses == 0), (points.gpus > 1) & (points.crosses > 0)
    several = batches > 1 and bool(np.any(points.gpus > 1))
    told = {
        "alpha_s": has_prior or batches > 1,
        "beta_s": True,
        "corner": batches > 2,
        "kappa": bool(clocks),
        "knee": bool(clocks) and three_clocks,
        "node_alpha_s": bool(node.any()),
        "node_beta_s": _tells_slope(points.gpus[node], has_prior),
        "cross_alpha_s": bool(cross.any()),
        "cross_beta_s": _tells_slope(points.gpus[cross], has_prior),
        "gamma": several,
        "crowding": several and bool(np.any(points.gpus == 1)),
    }
    return [p for p in PARAMETERS if told[p.name]]


def _tells_slope(gpus: IntArray, has_prior: bool) -> bool:
    """Return True if measurements at these GPU counts show the time that each further GPU adds to synchronising."""
    counts = np.unique(gpus)
    return len(counts) > 0 and counts[-1] > 2 and (has_prior or len(counts) > 1)


def _guess(points: Points, clock_max_mhz: float) -> ThroughputModel:
    """Return start values for the fit: the best seconds per sample, and a launch time below the shortest pass."""
    passes = points.time_s / points.accumulation
    per_sample = float(np.min(passes / points.local_batch))
    alone = points.gpus == 1
    if len(np.unique(points.local_batch)) > 1:
        shortest = int(np.argmin(passes))
        floor = max(passes[shortest] - per_sample * points.local_batch[shortest], 0.2 * passes[shortest])
    else:
        floor = 1e-3 * float(passes.min())
    synced = {True: 0.3 * float(np.median(passes)), False: _NO_SYNC_S}
    node, cross = (~alone & (points.crosses == 0)).any(), (~alone & (points.crosses > 0)).any()
    return ThroughputModel(
        alpha_s=float(floor),
        beta_s=per_sample,
        corner=_GUESS["corner"],
        kappa=_GUESS["kappa"],
        clock_max_mhz=clock_max_mhz,
        node_alpha_s=synced[bool(node)],
        node_beta_s=0.1 * synced[bool(node)],
        cross_alpha_s=synced[bool(cross)],
        cross_beta_s=0.1 * synced[bool(cross)],
        gamma=_GUESS["gamma"],
    )


def _coordinates(model: ThroughputModel, free: list[_Parameter]) -> FloatArray:
    plain = np.array([getattr(model, p.name) for p in free])
    logs = np.array([bool(p.scale) for p in free])
    return np.where(logs, np.log(np.maximum(plain, 1e-10)), plain)


def _values(x: FloatArray, free: list[_Parameter]) -> dict[str, float]:
    return {p.name: float(np.exp(v) if p.scale else v) for p, v in zip(free, x, strict=True)}
