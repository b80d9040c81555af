"""Read and write measured points of a job's cost, in a CSV table.

The table has a header line and one measured configuration per row, with columns in any order:

==============  ========  ==================================================================
column          unit      meaning
==============  ========  ==================================================================
model           -         name of the trained model; rows with the same name are fitted together
gpu_type        -         GPU type of the catalogue, or any other; then its limits come from the points
gpus            -         number of GPUs
step_time_s     s         seconds per iteration
local_batch     samples   samples per GPU in one pass
nodes           -         nodes that hold these GPUs (optional: 1)
accumulation    passes    passes per iteration (optional: 1)
clock_mhz       MHz       GPU clock (optional: empty means the type's maximum)
power_w         W         watts of all its GPUs together (optional: empty means not measured)
power_limit_w   W         power limit of one GPU at the time (optional: empty means the type's)
==============  ========  ==================================================================
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerflow.cost.catalogue import declare, gpu_type, is_known
from powerflow.cost.guess import CardLimits, guessed_type
from powerflow.errors import InputError

REQUIRED = ("model", "gpu_type", "gpus", "step_time_s", "local_batch")
COLUMNS = (
    *("model", "gpu_type", "gpus", "nodes", "local_batch", "accumulation", "clock_mhz", "step_time_s", "power_w"),
    "power_limit_w",
)


@dataclass(frozen=True, slots=True)
class Observation:
    """Measured step time and power of one configuration.

    Attributes:
        model: Name of the trained model.
        gpu_type: GPU type, as named in the catalogue.
        gpus: Number of GPUs.
        local_batch: Samples per GPU in one pass.
        step_time_s: Seconds per iteration.
        nodes: Number of nodes that hold these GPUs.
        accumulation: Passes per iteration.
        clock_mhz: GPU clock in MHz; None means the maximum clock of the GPU type.
        power_w: Watts of all GPUs of the configuration together, idle draw included; None if not measured.
        power_limit_w: Power limit of one GPU in watts; None means the default limit of the GPU type.
    """

    model: str
    gpu_type: str
    gpus: int
    local_batch: int
    step_time_s: float
    nodes: int = 1
    accumulation: int = 1
    clock_mhz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


#: A row of a table of observations (column → text, without blanks around it), and its place (``file:line``).
ObservationRow = tuple[Mapping[str, str], str]


def read_observations(path: str | Path) -> list[Observation]:
    """Read a table of observations.

    Raises:
        InputError: The file cannot be read, is empty or binary, has an unknown or missing column, or a row has an
            impossible value (zero GPUs, a negative time, a clock that the type does not have). The message names
            ``file:line``.
    """
    return observations_of(observation_rows(path))


def observation_rows(path: str | Path) -> list[ObservationRow]:
    """Read the rows of a table of observations, without checking their values (see `observations_of`).

    Raises:
        InputError: The file cannot be read, is empty or binary, or has an unknown or missing column.
    """
    lines = text_of(Path(path)).splitlines()
    rows = csv.reader(lines)
    try:
        return _rows(rows, str(path))
    except csv.Error as error:
        raise InputError(f"is not CSV ({error})", where=f"{path}:{rows.line_num}") from error


def observations_of(rows: Sequence[ObservationRow]) -> list[Observation]:
    """Return checked observations from rows with the columns `REQUIRED`, and any other of `COLUMNS`.

    GPU types that the catalogue does not have are added to it, with the limits seen in these rows.

    Raises:
        InputError: A row has an impossible value. The message names the place of the row.
    """
    _declare_types(rows)
    return [_observation(row, where) for row, where in rows]


def observations_csv(observations: Iterable[Observation]) -> str:
    """Return observations as CSV text, which `read_observations` reads back unchanged."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for seen in observations:
        writer.writerow(["" if (value := getattr(seen, name)) is None else value for name in COLUMNS])
    return out.getvalue()


def text_of(path: Path) -> str:
    """Return the content of a text file.

    Raises:
        InputError: The file does not exist, cannot be read, or is not text in UTF-8.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError("no such file", where=str(path), exit_code=3) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), exit_code=1) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("is not text", where=str(path), fix="give a CSV file in UTF-8") from error
    if "\x00" in text:
        raise InputError("is not text", where=str(path), fix="give a CSV file in UTF-8")
    return text


def _rows(rows: Any, path: str) -> list[ObservationRow]:
    header = [name.strip() for name in next(rows, [])]
    if not any(header):
        raise InputError("holds no observations", where=path, fix=f"first line: {','.join(COLUMNS)}")
    _check_header(header, path)
    found: list[ObservationRow] = []
    for cells in rows:
        where = f"{path}:{rows.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise InputError(f"{len(cells)} values for {len(header)} columns", where=where)
        found.append((dict(zip(header, (cell.strip() for cell in cells), strict=True)), where))
    if not found:
        raise InputError("holds a header but no observation", where=path)
    return found


def _declare_types(rows: Sequence[ObservationRow]) -> None:
    """Add the GPU types that the catalogue does not have, with the limits seen in their measured points."""
    clocks_mhz: dict[str, set[float]] = {}
    limits_w: dict[str, float] = {}
    for row, where in rows:
        kind = row["gpu_type"]
        if not kind or is_known(kind):
            continue
        clocks = clocks_mhz.setdefault(kind, set())
        if row.get("clock_mhz"):
            clocks.add(_positive(row["clock_mhz"], "clock_mhz", where))
        if row.get("power_limit_w"):
            drawn_w = _positive(row["power_limit_w"], "power_limit_w", where)
        elif row.get("power_w"):
            drawn_w = _positive(row["power_w"], "power_w", where) / _count(row["gpus"], "gpus", where)
        else:
            continue
        limits_w[kind] = max(limits_w.get(kind, 0.0), drawn_w)
    for kind, clocks in clocks_mhz.items():
        limits = CardLimits(
            clock_min_mhz=min(clocks, default=math.nan),
            clock_max_mhz=max(clocks, default=math.nan),
            limit_w=limits_w.get(kind, math.nan),
        )
        declare(guessed_type(kind, limits, "the highest among its points"))


def _check_header(header: Sequence[str], path: str) -> None:
    where = f"{path}:1"
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        raise InputError(f"unknown column {unknown[0]!r}", where=where, fix=f"columns are {', '.join(COLUMNS)}")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise InputError(f"column {missing[0]!r} is missing", where=where)
    if len(set(header)) != len(header):
        raise InputError("two columns have the same name", where=where)


def _observation(row: Mapping[str, str], where: str) -> Observation:
    for name in ("model", "gpu_type"):
        if not row[name]:
            raise InputError(f"{name} is empty", where=where)
    try:
        card = gpu_type(row["gpu_type"])
    except InputError as error:
        raise InputError(error.what, where=where, fix=error.fix) from error
    gpus = _count(row["gpus"], "gpus", where)
    nodes = _count(row.get("nodes") or "1", "nodes", where)
    if nodes > gpus:
        raise InputError(f"{nodes} nodes for {gpus} GPUs", where=where, fix="a node holds at least one GPU")
    clock = _positive(row["clock_mhz"], "clock_mhz", where) if row.get("clock_mhz") else None
    if clock is not None and not card.clock_min_mhz <= clock <= card.clock_max_mhz:
        span = f"{card.clock_min_mhz:g} to {card.clock_max_mhz:g} MHz"
        raise InputError(f"clock {clock:g} MHz is outside the range of {card.name}", where=where, fix=f"it has {span}")
    return Observation(
        model=row["model"],
        gpu_type=card.name,
        gpus=gpus,
        local_batch=_count(row["local_batch"], "local_batch", where),
        step_time_s=_positive(row["step_time_s"], "step_time_s", where),
        nodes=nodes,
        accumulation=_count(row.get("accumulation") or "1", "accumulation", where),
        clock_mhz=clock,
        power_w=_positive(row["power_w"], "power_w", where) if row.get("power_w") else None,
        power_limit_w=_positive(row["power_limit_w"], "power_limit_w", where) if row.get("power_limit_w") else None,
    )


def _count(text: str, name: str, where: str) -> int:
    value = _positive(text, name, where)
    if value != int(value):
        raise InputError(f"{name} is {text}", where=where, fix="give a whole number")
    return int(value)


def _positive(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{name} is {text!r}, not a number", where=where) from error
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"{name} is {text}", where=where, fix="give a finite number above 0")
    return value
