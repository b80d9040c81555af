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

from powerflow.cost.model import JobModel, PowerModel, ThroughputModel
from powerflow.cost.vary import FACTORS, VARIATION, varied
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
