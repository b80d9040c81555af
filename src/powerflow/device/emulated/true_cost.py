"""Define the true cost of an emulated job: a model near the believed one, but not the same.

The scheduler starts from the model of a family; the emulated GPU follows this one, of which each parameter is off by a
lognormal factor. So there is something to learn, as on hardware. The scheduler must not read it.
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
    """Return the true cost model of a job with the believed cost ``model``; the same for the same name and seed.

    Every parameter is multiplied by a lognormal factor of log-sd ``variation`` (0: the model itself).
    """
    rng = np.random.default_rng([seed, *model.name.encode()])
    return varied(model, np.exp(variation * rng.standard_normal(FACTORS)))


def model_json(model: JobModel) -> dict[str, Any]:
    """Return a model as plain data, which `model_from` reads back unchanged."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(model), allow_nan=False))
    return plain


def model_from(plain: Any, where: str) -> JobModel:
    """Return a model from plain data.

    Raises:
        InputError: A parameter is missing, unknown, or no finite number ≥ 0.
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
        raise InputError(f"holds no model ({error})", where=where) from error


def _numbers(kind: type[_Part], values: Mapping[str, Any]) -> _Part:
    for name in {field.name for field in fields(kind)} | set(values):
        if not (math.isfinite(values[name]) and values[name] >= 0):
            raise ValueError(f"{name} is {values[name]!r}")
    return kind(**values)
