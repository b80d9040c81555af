"""Fit a job's cost model to measured points, and report its errors and the parameters that stay unknown.

1. Step times are fitted by robust least squares on log time, with positive parameters as logarithms.
2. Power is then fitted by non-negative least squares, with the step times fixed.

Both steps are pulled towards a prior: the model of a family, or broad guesses. The guesses assume perfect scaling where
nothing was measured, so that a scheduler tries larger GPU counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.catalogue import GpuType, gpu_type
from powerflow.cost.fit_power import fit_power
from powerflow.cost.fit_time import PARAMETERS, fit_throughput
from powerflow.cost.limit import NEAR, at_limit, held_clock, limit_shown, limited_costs
from powerflow.cost.model import JobModel, PowerModel, ThroughputModel
from powerflow.cost.observation import Observation
from powerflow.cost.points import Points, points_of
from powerflow.errors import InputError

#: Prior residual spread (log standard deviation), and its weight as a number of points.
PRIOR_SD = 0.05
PRIOR_SD_POINTS = 3.0


class Errors(NamedTuple):
    """Absolute relative errors |predicted ÷ measured − 1| over a number of points."""

    mean: float
    median: float
    points: int


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted cost model with its accuracy.

    Attributes:
        model: The fitted model.
        time_sd: Residual spread of the step times: standard deviation of log(measured ÷ predicted).
        power_sd: Residual spread of power, in the same form.
        time: Errors of the step times on the points used for the fit.
        power: Errors of power on the points used for the fit; None if no power was measured.
        held_out_time: Errors of the step times in cross-validation, on points left out of the fit; None if there were
            too few points.
        held_out_power: Errors of power in cross-validation; None if there were too few points.
        frozen: Names of parameters that the points do not determine; they keep the prior's values.
        observations: The points.
        notes: Remarks on the points for the user, one line each.
    """

    model: JobModel
    time_sd: float
    power_sd: float
    time: Errors
    power: Errors | None
    held_out_time: Errors | None
    held_out_power: Errors | None
    frozen: tuple[str, ...]
    observations: tuple[Observation, ...]
    notes: tuple[str, ...] = ()


def fit(
    observations: Sequence[Observation],
    prior: JobModel | None = None,
    *,
    start: JobModel | None = None,
    folds: int = 5,
) -> Fit:
    """Fit the cost model of one job to its measured points.

    Args:
        observations: Points of one model on one GPU type; a configuration may occur several times.
        prior: Model to use for parameters that the points do not determine; None uses broad guesses and assumes perfect
            scaling where nothing was measured.
        start: Model from which the search starts, such as the last fit of a growing set of points. This saves time.
        folds: Number of parts for cross-validation. Each part costs one more fit; 0 skips cross-validation. Points of
            one configuration stay in the same part.

    Raises:
        InputError: There is no observation, or the observations are of more than one model or GPU type.
    """
    kind = _the_one(observations)
    card = gpu_type(kind.gpu_type)
    points = points_of(observations, card.clock_max_mhz)
    model, frozen = _fit_model(points, kind, card, prior, start)
    log_time, log_power = _log_residuals(model, points)
    held_time, held_power = _held_out(points, kind, card, prior, model, folds)
    free = sum(parameter.name not in frozen for parameter in PARAMETERS)
    return Fit(
        model=model,
        time_sd=_spread(log_time if held_time is None else held_time, free if held_time is None else 0),
        power_sd=_spread(log_power if held_power is None else held_power, 0),
        time=_errors(log_time),
        power=_errors(log_power) if len(log_power) else None,
        held_out_time=None if held_time is None else _errors(held_time),
        held_out_power=None if held_power is None or not len(held_power) else _errors(held_power),
        frozen=frozen,
        observations=tuple(observations),
        notes=_notes(points, card, model),
    )


def _the_one(observations: Sequence[Observation]) -> Observation:
    """Check that all observations have the same model and GPU type, and return the first observation."""
    if not observations:
        raise InputError("no observations to fit", fix="give at least one measured point")
    first = observations[0]
    for seen in observations:
        if (seen.model, seen.gpu_type) != (first.model, first.gpu_type):
            names = f"{first.model} on {first.gpu_type} and {seen.model} on {seen.gpu_type}"
            raise InputError(f"points of different jobs: {names}", fix="fit each model on each GPU type by itself")
    return first


def _fit_model(
    points: Points, kind: Observation, card: GpuType, prior: JobModel | None, start: JobModel | None
) -> tuple[JobModel, tuple[str, ...]]:
    limit_w = _limit_of(points, card)
    held = at_limit(points, limit_w)
    free = points.take(~held)
    clocked = len(free.gpus) > 1 and free.clock_mhz.max() > 1.02 * free.clock_mhz.min()
    throughput, power, frozen = _parts(free if held.any() and clocked else points, card, prior, start, bool(held.any()))
    if held.any():  # a card at its limit runs below the requested clock; the first fit tells at which one
        limits = np.where(np.isnan(points.limit_w), np.nan if limit_w is None else limit_w, points.limit_w)
        ran_mhz = np.where(held, held_clock(throughput, power, limits, *points.where), points.clock_mhz)
        throughput, power, frozen = _parts(replace(points, clock_mhz=ran_mhz), card, prior, start, True)
    fits = int(points.local_batch.max())
    return JobModel(
        name=kind.model,
        gpu_type=card.name,
        throughput=throughput,
        power=power,
        local_batch_max=fits if prior is None else max(fits, prior.local_batch_max),
        origin="measured",
        limit_w=limit_w,
    ), frozen


def _parts(
    points: Points, card: GpuType, prior: JobModel | None, start: JobModel | None, limited: bool
) -> tuple[ThroughputModel, PowerModel, tuple[str, ...]]:
    """Fit the step times, then the watts.

    Returns:
        Both models, and the names of the parameters that keep the prior's values.
    """
    known, warm = None if prior is None else prior.throughput, None if start is None else start.throughput
    throughput, frozen_time = fit_throughput(points, card.clock_max_mhz, known, warm)
    power, frozen_power = fit_power(points, throughput, card, None if prior is None else prior.power, limited=limited)
    return throughput, power, frozen_time + frozen_power


def _limit_of(points: Points, card: GpuType) -> float | None:
    """Return the power limit of points that name none: the limit visible in the points, else that of the GPU type.

    It is None if the points draw more than the type's limit, or if this limit is only the highest measured watts.
    """
    shown = limit_shown(points)
    if shown is not None:
        return shown
    each_w = (points.power_w / points.gpus)[np.isfinite(points.power_w)]
    above = len(each_w) and each_w.max() > (1.0 + NEAR) * card.limit_w
    # a type known only from its points has no limit until the highest watts are seen at several clocks
    return None if above or card.limit_w in each_w else card.limit_w


def _notes(points: Points, card: GpuType, model: JobModel) -> tuple[str, ...]:
    each_w = (points.power_w / points.gpus)[np.isfinite(points.power_w)]
    notes = []
    if model.limit_w is None and card.limit_w in each_w:
        notes.append(f"the power limit of {card.name} is not known: none is modelled; give it as power_limit_w")
    elif model.limit_w is None:
        what = f"points draw up to {each_w.max():.0f} W a GPU, above the {card.limit_w:.0f} W of {card.name}"
        notes.append(f"{what}: no power limit is modelled")
    elif model.limit_w != card.limit_w:
        notes.append(f"watts stop at {model.limit_w:.0f} W a GPU: this is used as the power limit")
    if len(each_w) and each_w.min() < card.idle_w:
        what = f"points draw down to {each_w.min():.0f} W a GPU, below the {card.idle_w:.0f} W of an idle {card.name}"
        notes.append(f"{what}: {model.power.idle_w:.0f} W is used as its idle draw")
    return tuple(notes)


def _log_residuals(model: JobModel, points: Points) -> tuple[FloatArray, FloatArray]:
    """Return log(measured ÷ predicted) of all step times, and of all measured powers."""
    times_s, each_w = limited_costs(model, *points.where, points.limit_w)
    time = np.log(points.time_s / times_s)
    known = np.isfinite(points.power_w)
    watts = points.gpus * each_w
    return time, np.log(points.power_w[known] / watts[known])


def _held_out(
    points: Points, kind: Observation, card: GpuType, prior: JobModel | None, start: JobModel, folds: int
) -> tuple[FloatArray, FloatArray] | tuple[None, None]:
    """Return log(measured ÷ predicted) of points left out of the fit in cross-validation, for step times and for power.

    Both are None if there are fewer than three configurations.
    """
    groups = points.configuration()
    count = int(groups.max()) + 1
    if folds < 2 or count < 3:
        return None, None
    part = np.random.default_rng(0).permutation(count) % min(folds, count)
    time, power = [], []
    for fold in range(min(folds, count)):
        out = part[groups] == fold
        model, _ = _fit_model(points.take(~out), kind, card, prior, start)
        model = replace(model, local_batch_max=start.local_batch_max)
        seconds, watts = _log_residuals(model, points.take(out))
        time.append(seconds)
        power.append(watts)
    return np.concatenate(time), np.concatenate(power)


def _spread(log_residuals: FloatArray, free: int) -> float:
    """Return the standard deviation of log residuals, pulled towards `PRIOR_SD` if there are few points."""
    degrees = max(len(log_residuals) - free, 0) + PRIOR_SD_POINTS
    squares = float(np.sum(log_residuals**2)) + PRIOR_SD_POINTS * PRIOR_SD**2
    return float(np.sqrt(squares / degrees))


def _errors(log_residuals: FloatArray) -> Errors:
    off = np.abs(np.expm1(-log_residuals))
    return Errors(float(off.mean()), float(np.median(off)), len(off))
