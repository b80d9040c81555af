"""Bring together what files tell of a measured configuration and what the user says, as a row of observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow.cost.catalogue import catalogue_types
from powerflow.cost.observation import ObservationRow
from powerflow.device.identity import catalogue_name
from powerflow.errors import InputError
from powerflow.measured.told import OPTIONS, Told

#: A clock that was read and one that the user says are the same within this share.
_SAME_CLOCK = 0.05
#: Options that give the steps of a recording or a window.
STEPS = "--steps (or --step-time)"
_WORDS = {
    "model": "the model",
    "gpu_type": "the GPU type",
    "gpus": "the number of GPUs",
    "local_batch": "the local batch",
    "step_time_s": "steps",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration, as files tell it.

    Attributes:
        where: Its place: file, and line or window.
        step_time_s: Seconds per iteration; None if the files do not tell it.
        power_w: Watts of the measured GPUs together; None if not measured.
        gpus: How many GPUs were measured; None if the files do not tell it.
        nodes: Nodes that hold them; None if the files do not tell it.
        model, gpu_type: As the files name them; "" if they do not.
        local_batch: Samples per GPU in one pass; None if the files do not tell it.
        clock_mhz: Clock at which the GPUs ran; None if it was not read.
        limit_w: Power limit of one GPU; None if it was not read.
    """

    where: str
    step_time_s: float | None = None
    power_w: float | None = None
    gpus: int | None = None
    nodes: int | None = None
    model: str = ""
    gpu_type: str = ""
    local_batch: int | None = None
    clock_mhz: float | None = None
    limit_w: float | None = None


def observation_row(point: Point, told: Told, steps_from: str = STEPS) -> tuple[ObservationRow, list[str]]:
    """Return a row of the table of observations, and what the user should know of it.

    The user's word counts for names. A clock that was read is the clock at which the GPUs ran, whatever limit they had:
    then the row names no limit. Without it, the limit is a limit, and the clock stays empty.

    Raises:
        InputError: A fact is missing, or the user's word contradicts the files.
    """
    gpus = told.gpus or point.gpus
    facts = {
        "model": told.model or point.model,
        "gpu_type": told_type(told, point.gpu_type, point.where),
        "gpus": gpus,
        "local_batch": told.local_batch or point.local_batch,
        "step_time_s": point.step_time_s,
    }
    check_told(facts, point.where, steps_from)
    assert gpus is not None
    power_w, notes = point.power_w, []
    if point.gpus is not None and point.gpus > gpus:
        what = f"{point.gpus} GPUs worked, but {gpus} are said"
        raise InputError(what, where=point.where, fix="give the readings of this run's GPUs alone, or correct --gpus")
    if point.gpus is not None and point.gpus < gpus and power_w is not None:
        power_w *= gpus / point.gpus
        notes.append(f"watts of {point.gpus} of {gpus} GPUs were read: their mean is used for all")
    if power_w is None:
        notes.append("no watts")
    row = {
        **facts,
        "nodes": told.nodes or point.nodes or 1,
        "accumulation": told.accumulation or 1,
        "clock_mhz": _clock(point, told),
        "power_w": power_w,
        "power_limit_w": None if point.clock_mhz is not None else told.power_limit_w or point.limit_w,
    }
    return ({name: _text(value) for name, value in row.items()}, point.where), notes


def told_type(told: Told, named: str, where: str) -> str:
    """Return the GPU type of a run: what the user says, else what the files name; "" if neither tells it.

    Args:
        told: What the user says.
        named: Name of the card in the files; "" if they have none.
        where: Place for the error.

    Raises:
        InputError: The files name another type of the catalogue than the user.
    """
    found, said = catalogue_name(named) if named else "", told.gpu_type
    known = {card.name for card in catalogue_types()}
    if said and found in known and catalogue_name(said) in known - {found}:
        what = f"its GPUs are of type {found}, but {said} is said"
        raise InputError(what, where=where, fix="leave out --gpu-type, or give the readings of the other GPUs")
    return said or found


def check_told(facts: Mapping[str, object], where: str, steps_from: str = STEPS) -> None:
    """Raise an error that names all missing facts, and how to give them.

    Args:
        facts: Facts by the names of `Told`; a missing one is None or "".
        where: Place for the error.
        steps_from: Options that give the steps, and what the tool says of them.
    """
    missing = [name for name in _WORDS if name in facts and not facts[name]]
    if not missing:
        return
    options = [OPTIONS[name] if name != "step_time_s" else steps_from for name in missing]
    raise InputError(
        f"does not tell {_listed([_WORDS[name] for name in missing])}",
        where=where,
        fix=f"give {_listed(options)}, or the same in --runs",
    )


def _clock(point: Point, told: Told) -> float | None:
    read, said = point.clock_mhz, told.clock_mhz
    if read is not None and said is not None and abs(read / said - 1.0) > _SAME_CLOCK:
        what = f"the GPUs ran at {read:.0f} MHz, but clock_mhz says {said:.0f}"
        raise InputError(what, where=point.where, fix="leave clock_mhz empty")
    return said if read is None else read


def _text(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
