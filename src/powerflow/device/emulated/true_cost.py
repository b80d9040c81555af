"""Define the true cost of an emulated job: a cost model that is similar to the believed model, but not equal to it.

The scheduler begins with the model of the job's family (a kind of training job). The emulated GPU follows the true
model, in which each parameter is multiplied by a random factor near 1 (lognormal). So the scheduler has something to
learn, as on real hardware. The scheduler must not read the true model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

import numpy as np

from powerflow.cost.model import JobModel, PowerModel, ThroughputModel, compute_time, step_time
from powerflow.cost.vary import FACTORS, VARIATION, varied
from powerflow.device.protocol import Activity
from powerflow.errors import InputError

_Part = TypeVar("_Part", ThroughputModel, PowerModel)


def truth_of(model: JobModel, seed: int, *, variation: float = VARIATION) -> JobModel:
    """Return the true cost model of a job whose believed cost model is ``model``.

    The same name and seed give the same result.

    Each parameter is multiplied by a random lognormal factor. ``variation`` is the standard deviation of the factor's
    logarithm; with 0, the result is the believed model.
    """
    rng = np.random.default_rng([seed, *model.name.encode()])
    return varied(model, np.exp(variation * rng.standard_normal(FACTORS)))


def true_activity(
    truth: JobModel,
    gpus: int,
    local_batch: int,
    accumulation: int,
    clock_mhz: float,
    crosses: int,
    *,
    speed: float,
) -> Activity:
    """Return what a job does on each of its emulated GPUs, such that a step has the same work at each clock.

    The part κ of the computing time that scales with the clock is taken as time in which the tensor cores compute, at
    the highest clock f_max, and the rest as time in which the memory is read or written at full bandwidth. With u, the
    share of a step that is computing at f_max, and v, the speed at clock f: tensor = κ·u·v·f_max/f, dram = (1 − κ)·u·v.
    So tensor·f/v and dram/v, the work per step, do not depend on f.

    Args:
        truth: True cost model of the job.
        gpus, local_batch, accumulation, clock_mhz, crosses: As of `cost.model.step_time`.
        speed: Steps per second at this clock, as a share of those at f_max, 0 to 1.
    """
    model = truth.throughput
    computing_s = accumulation * float(compute_time(model, gpus, local_batch, model.clock_max_mhz))
    step_s = float(step_time(model, gpus, local_batch, accumulation, model.clock_max_mhz, crosses))
    done = computing_s / step_s * speed
    tensor = model.kappa * done * model.clock_max_mhz / clock_mhz
    return Activity(math.nan, min(tensor, 1.0), min((1.0 - model.kappa) * done, 1.0))


def model_json(model: JobModel) -> dict[str, Any]:
    """Return a cost model as plain data for JSON, from which `model_from` makes an equal model."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(model), allow_nan=False))
    return plain


def model_from(plain: Any, where: str) -> JobModel:
    """Return the cost model that plain data from `model_json` describe.

    Args:
        plain: The plain data.
        where: Where the data come from, for the error message.

    Raises:
        InputError: A parameter is missing or unknown, or is not a finite number ≥ 0.
    """
    try:
        return JobModel(
            name=str(plain["name"]),
            gpu_type=str(plain["gpu_type"]),
            throughput=_numbers(ThroughputModel, plain["throughput"]),
            power=_numbers(PowerModel, plain["power"]),
            local_batch_max=int(plain["local_batch_max"]),
            origin=str(plain["origin"]),
            limit_w=plain.get("limit_w"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"does not describe a cost model ({error})", where=where) from error


def _numbers(kind: type[_Part], values: Mapping[str, Any]) -> _Part:
    for name in {field.name for field in fields(kind)} | set(values):
        if not (math.isfinite(values[name]) and values[name] >= 0):
            raise ValueError(f"{name} is {values[name]!r}")
    return kind(**values)
