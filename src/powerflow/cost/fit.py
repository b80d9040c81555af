"""From measured points to a model: what a job costs, how far off that is, and what the points could not tell.

Times are fitted by robust least squares on log time, all positive parameters as logarithms; power, once the times
stand, by non-negative least squares. Both are regularised towards a prior: a family's model where one is given,
else broad guesses that take scaling nobody has seen to be perfect, so that a scheduler will try it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from powerflow.cost.catalogue import GpuType, gpu_type
from powerflow.cost.fit_power import fit_power
from powerflow.cost.fit_time import PARAMETERS, fit_throughput
from powerflow.cost.model import JobModel, gpu_power, step_time
from powerflow.cost.observation import Observation
from powerflow.cost.points import Points, points_of
from powerflow.cost.table import FloatArray
from powerflow.errors import InputError

#: Residual spread believed before any residual is seen, as a log standard deviation, and what it weighs in points.
PRIOR_SD = 0.05
PRIOR_SD_POINTS = 3.0


class Errors(NamedTuple):
    """Absolute relative errors |predicted ÷ measured − 1| over some points."""

    mean: float
    median: float
    points: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted model and how far it can be trusted.

    Attributes:
        model: The model.
        time_sd: Residual spread of step times, standard deviation of log(measured ÷ predicted).
        power_sd: The same for power.
        time: Errors of step times on the points it was fitted to.
        power: The same for power; None where no power was measured.
        held_out_time: Errors on points left out of the fit, each in its turn; None where there were too few.
        held_out_power: The same for power.
        frozen: Parameters that the points could not tell, left at the prior.
        observations: The points.
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


def fit(
    observations: Sequence[Observation],
    prior: JobModel | None = None,
    *,
    start: JobModel | None = None,
    folds: int = 5,
) -> Fit:
    """Fit one job's model to its measured points.

    Args:
        observations: Points of one model on one GPU type; repeats are welcome.
        prior: What to believe where the points are silent; None for broad guesses and perfect unseen scaling.
        start: Where to start from, such as the last fit of a growing set of points: faster.
        folds: Into how many parts the configurations are split to measure the error on points left out; each costs
            a fit, and 0 measures none. Repeats of one configuration stay together.

    Raises:
        InputError: If there is no observation, or they are of more than one model or GPU type.
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
    )


def _the_one(observations: Sequence[Observation]) -> Observation:
    """An observation that stands for all in model and GPU type."""
    if not observations:
        raise InputError("no observations to fit", fix="give at least one measured point")
    first = observations[0]
    for seen in observations:
        if (seen.model, seen.gpu_type) != (first.model, first.gpu_type):
            names = f"{first.model} on {first.gpu_type} and {seen.model} on {seen.gpu_type}"
            raise InputError(f"points of {names} together", fix="fit each model on each GPU type by itself")
    return first


def _fit_model(
    points: Points, kind: Observation, card: GpuType, prior: JobModel | None, start: JobModel | None
) -> tuple[JobModel, tuple[str, ...]]:
    warm = None if start is None else start.throughput
    known = None if prior is None else prior.throughput
    throughput, frozen_time = fit_throughput(points, card.clock_max_mhz, known, warm)
    power, frozen_power = fit_power(points, throughput, card, None if prior is None else prior.power)
    fits = int(points.local_batch.max())
    model = JobModel(
        name=kind.model,
        gpu_type=card.name,
        throughput=throughput,
        power=power,
        local_batch_max=fits if prior is None else max(fits, prior.local_batch_max),
        origin="measured",
    )
    return model, frozen_time + frozen_power


def _log_residuals(model: JobModel, points: Points) -> tuple[FloatArray, FloatArray]:
    """log(measured ÷ predicted): of the step times, and of the powers that were measured."""
    time = np.log(points.time_s / step_time(model.throughput, *points.where))
    known = np.isfinite(points.power_w)
    watts = points.gpus * gpu_power(model.throughput, model.power, *points.where)
    return time, np.log(points.power_w[known] / watts[known])


def _held_out(
    points: Points, kind: Observation, card: GpuType, prior: JobModel | None, start: JobModel, folds: int
) -> tuple[FloatArray, FloatArray] | tuple[None, None]:
    """Log residuals of points left out, fold by fold of whole configurations; None where fewer than three exist."""
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
    """Standard deviation of log residuals, drawn towards `PRIOR_SD` where points are few."""
    degrees = max(len(log_residuals) - free, 0) + PRIOR_SD_POINTS
    squares = float(np.sum(log_residuals**2)) + PRIOR_SD_POINTS * PRIOR_SD**2
    return float(np.sqrt(squares / degrees))


def _errors(log_residuals: FloatArray) -> Errors:
    off = np.abs(np.expm1(-log_residuals))
    return Errors(float(off.mean()), float(np.median(off)), len(off))
