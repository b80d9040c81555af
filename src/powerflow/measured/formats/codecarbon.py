"""Read CodeCarbon's ``emissions.csv``: totals of runs.

Columns read here: ``timestamp`` (end of the run, local time), ``project_name``, ``run_id``, ``duration`` (s),
``gpu_energy`` (kWh), ``gpu_count``, ``gpu_model`` (``8 x NVIDIA A40``); and ``os``, ``cpu_model``, ``cpu_count``,
``ram_total_size``, which tell machines apart, for the file has no host name.

These are totals from the start of a tracker to its end: loading, warm-up, evaluation and pauses are in them. A tracker
measures all GPUs of its machine (unless it was given ``gpu_ids``). So if each rank starts one, each of their rows
counts the whole node (mlco2/codecarbon issues 544 and 1390); `powerflow.measured.totals` sees this. A tracker that was
flushed writes its run several times, each time from the start: the last one is used.

Source: mlco2/codecarbon, codecarbon/output_methods/emissions_data.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TextIO

from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints, MeasuredFormat
from powerflow.measured.recording import Total, Totals
from powerflow.measured.values import Table
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, clip, number, seconds
from powerflow.trace.formats.format import header_of

_J_PER_KWH = 3.6e6
_NEEDED = ("timestamp", "project_name", "duration", "emissions")
_GPUS = ("gpu_energy", "gpu_count", "gpu_model")
_MACHINE = ("os", "cpu_model", "cpu_count", "gpu_model")
_MODEL = re.compile(r"(?P<count>\d{1,4}) x (?P<type>[^,;+]+)")


def _recognises(head: str) -> bool:
    return set(_NEEDED) <= set(header_of(head))


def _read(stream: TextIO, hints: Hints) -> Totals:
    table = Table(stream)
    if missing := [name for name in _GPUS if name not in table.header]:
        raise InputError(
            f"has no column {missing[0]}", fix="use CodeCarbon 2 or newer, which writes the energy of GPUs"
        )
    clock = Clock(hints.zone or "UTC", assumed=hints.zone is None)
    rows: list[Total] = []
    without = 0
    for row in table:
        try:
            found = _row(row, clock, f"line {table.line}")
        except Unusable as why:
            table.skip(str(why))
            continue
        if found is None:
            without += 1
        else:
            rows.append(found)
    if not rows:
        raise InputError("holds no run with energy of GPUs", fix="CodeCarbon found no GPU; it needs pynvml on the node")
    last = _last_of_each_run(rows)
    damaged = {
        "that cannot be read": table.damaged,
        "without energy of GPUs": without,
        "of a run that was flushed later": len(rows) - len(last),
    }
    return Totals(
        tuple(last),
        {why: count for why, count in damaged.items() if count},
        ("totals of whole runs: loading, warm-up, evaluation and pauses are in them",),
    )


def _row(row: Mapping[str, str], clock: Clock, where: str) -> Total | None:
    """Return what a row tells; None if it has no energy of GPUs."""
    duration_s = seconds(row["duration"], "duration")
    end_s = clock.epoch_s(row["timestamp"], "timestamp")
    if not row["gpu_energy"] or not row["gpu_count"]:
        return None
    energy_j = seconds(row["gpu_energy"], "gpu_energy") * _J_PER_KWH
    if energy_j == 0 or duration_s == 0:
        return None
    gpus = number(row["gpu_count"], "gpu_count")
    kind = _MODEL.fullmatch(row["gpu_model"])
    if gpus < 1 or gpus != int(gpus) or kind is None or int(kind["count"]) != gpus:
        raise Unusable(f"gpu_model is not one type of GPU ({clip(row['gpu_model'])})")
    return Total(
        names=(row["project_name"], row.get("run_id", "")),
        where=where,
        start_s=end_s - duration_s,
        duration_s=duration_s,
        energy_j=energy_j,
        gpus=int(gpus),
        gpu_type=kind["type"].strip(),
        machine=(*(row.get(name, "") for name in _MACHINE), row.get("ram_total_size", "")[:6]),
    )


def _last_of_each_run(rows: Sequence[Total]) -> list[Total]:
    """Return the longest row of each run."""
    longest: dict[str, Total] = {}
    for at, row in enumerate(rows):
        key = row.names[1] or f"row {at}"
        if key not in longest or row.duration_s > longest[key].duration_s:
            longest[key] = row
    return list(longest.values())


CODECARBON = MeasuredFormat("CodeCarbon's emissions.csv", _recognises, _read)
