"""Read and write fitted models as JSON, with their measured points, so that the points are still used later.

::

    {"version": 1, "kind": "models", "models": [
        {"model": {"name", "gpu_type", "throughput": {…}, "power": {…}, "local_batch_max", "origin", "limit_w"},
         "gpu": {…} or null                          the GPU type, if the catalogue does not have it
         "time_sd", "power_sd",                      log standard deviations of residuals
         "time", "power", "held_out_time", "held_out_power":  {"mean", "median", "points"} or null
         "frozen": [parameters kept from the prior], "notes": [lines],
         "observations": [rows of the table of observations]}]}

The names below ``model`` are those of `JobModel`, `ThroughputModel` and `PowerModel`, those below ``gpu`` of `GpuType`.
``limit_w``, ``gpu`` and ``notes`` may be missing, as in files of older versions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from powerflow.cost.catalogue import GpuType, catalogue_types, declare, gpu_type
from powerflow.cost.fit import Errors, Fit
from powerflow.cost.model import JobModel, PowerModel, ThroughputModel
from powerflow.cost.observation import Observation, text_of
from powerflow.errors import InputError

VERSION = 1
_LATER = {"two_node_factor": 1.0, "knee": 1.0}  # parameters that files of earlier versions do not have
#: Lowest and highest value of the parameters for which the formulas need more than a number from 0 on.
_BOUNDS = {"corner": (1.0, math.inf), "gamma": (1.0, math.inf), "knee": (1.0, 100.0), "kappa": (0.0, 1.0)}

_Parameters = TypeVar("_Parameters", ThroughputModel, PowerModel)


def models_json(fits: Iterable[Fit]) -> str:
    """Return fitted models as JSON text, which `read_models` reads back unchanged."""
    document = {"version": VERSION, "kind": "models", "models": [_plain(fitted) for fitted in fits]}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_models(path: str | Path) -> list[Fit]:
    """Read a file of fitted models.

    Raises:
        InputError: The file cannot be read, is not a file of models, has a newer version, or holds an impossible value.
    """
    where = str(path)
    try:
        document = json.loads(text_of(Path(path)))
    except json.JSONDecodeError as error:
        raise InputError(
            f"is not JSON ({error.msg})", where=f"{where}:{error.lineno}", fix="give a file that powerflow fit wrote"
        ) from error
    if not isinstance(document, dict) or document.get("kind") != "models":
        raise InputError(
            "is not a file of models", where=where, fix="create one with `powerflow fit FILE -o MODELS.json`"
        )
    if document.get("version") != VERSION:
        raise InputError(
            f"has version {document.get('version')}", where=where, fix=f"this PowerFlow reads version {VERSION}"
        )
    entries = document.get("models")
    if not isinstance(entries, list) or not entries:
        raise InputError("holds no model", where=where)
    return [_fit(entry, f"{where}: model {number}") for number, entry in enumerate(entries, 1)]


def _plain(fitted: Fit) -> dict[str, Any]:
    plain = asdict(fitted)
    for name in ("time", "power", "held_out_time", "held_out_power"):
        errors = getattr(fitted, name)
        plain[name] = None if errors is None else errors._asdict()
    card = gpu_type(fitted.model.gpu_type)
    plain["gpu"] = None if card in catalogue_types() else asdict(card)
    return plain


def _fit(entry: Any, where: str) -> Fit:
    try:
        model = entry["model"]
        if entry.get("gpu") is not None:
            declare(_card(entry["gpu"], where))
        card = gpu_type(model["gpu_type"])
        throughput = _numbers(ThroughputModel, {**_LATER, **model["throughput"]}, where)
        power = _numbers(PowerModel, model["power"], where)
        return Fit(
            model=JobModel(
                name=str(model["name"]),
                gpu_type=card.name,
                throughput=throughput,
                power=power,
                local_batch_max=int(model["local_batch_max"]),
                origin=str(model["origin"]),
                limit_w=_limit(model.get("limit_w"), where),
            ),
            time_sd=float(entry["time_sd"]),
            power_sd=float(entry["power_sd"]),
            time=Errors(**entry["time"]),
            power=_errors(entry["power"]),
            held_out_time=_errors(entry["held_out_time"]),
            held_out_power=_errors(entry["held_out_power"]),
            frozen=tuple(entry["frozen"]),
            observations=tuple(Observation(**seen) for seen in entry["observations"]),
            notes=tuple(entry.get("notes", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"is damaged ({error})", where=where) from error
    except InputError as error:
        raise InputError(error.what, where=where, fix=error.fix) from error


def _numbers(kind: type[_Parameters], values: Mapping[str, Any], where: str) -> _Parameters:
    """Make a tuple of model parameters from the file's values; all must be finite, not negative, and in `_BOUNDS`."""
    known = {field.name for field in fields(kind)}
    if set(values) != known:
        wrong = sorted(set(values) ^ known)[0]
        raise InputError(f"{wrong!r} is {'unknown' if wrong in values else 'missing'}", where=where)
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise InputError(f"{name} is {value!r}", where=where, fix="give a finite number, 0 or above")
        low, high = _BOUNDS.get(name, (0.0, math.inf))
        if not low <= value <= high:
            most = "or above" if high == math.inf else f"to {high:g}"
            raise InputError(f"{name} is {value!r}", where=where, fix=f"give {low:g} {most}")
    return kind(**values)


def _card(entry: Mapping[str, Any], where: str) -> GpuType:
    """Make a GPU type from an entry of the file; every number must be finite and above 0."""
    numbers = {field.name for field in fields(GpuType)} - {"name", "sources"}
    for name in sorted(numbers):
        _check_number(f"gpu.{name}", entry[name], where)
    sources = {str(key): str(text) for key, text in dict(entry.get("sources", {})).items()}
    return GpuType(name=str(entry["name"]), sources=sources, **{name: float(entry[name]) for name in numbers})


def _limit(value: Any, where: str) -> float | None:
    if value is not None:
        _check_number("limit_w", value, where)
    return None if value is None else float(value)


def _check_number(name: str, value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{name} is {value!r}", where=where, fix="give a finite number above 0")


def _errors(entry: Mapping[str, Any] | None) -> Errors | None:
    return None if entry is None else Errors(**entry)
