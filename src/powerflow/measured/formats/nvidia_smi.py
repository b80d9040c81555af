"""Read the CSV that ``nvidia-smi --query-gpu=… --format=csv -l 1`` prints.

The first line names the columns, most with their unit: ``timestamp, index, power.draw [W], clocks.current.sm [MHz]``.
Values have the unit, too (``120.50 W``), or do not (``nounits``). What a card does not report is ``[N/A]``, ``[Not
Supported]`` or another word in brackets. ``nvidia-smi --help-query-gpu`` lists the columns; those read here are:

=============================  ====================================================================================
``timestamp``                  local time, ``2026/01/31 12:00:00.123``; without it, the interval must be told
``uuid``, ``pci.bus_id``,      which GPU; without any of them the file must be of one GPU
``index``
``name``                       GPU type
``power.draw``                 watts; else ``power.draw.average``, else ``power.draw.instant``
``clocks.current.sm``          MHz; else ``clocks.current.graphics``
``enforced.power.limit``       watts; else ``power.limit``
``utilization.gpu``            percent
=============================  ====================================================================================

Source: man page nvidia-smi(1), and files of others found by their first line.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TextIO

import numpy as np

from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints, MeasuredFormat
from powerflow.measured.recording import Quantity, RecordedGpu, Recording, TimeBase, gpus_of
from powerflow.measured.values import Table, factor_of, value_of
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable
from powerflow.trace.formats.format import header_of

_COLUMN = re.compile(r"([A-Za-z][\w.]*)\s*(?:\[([^\]]*)\])?")
_VALUE = re.compile(r"(\S*[\d.])\s*([A-Za-z%]+)")

#: Columns of each quantity, the best one first.
_QUANTITIES = {
    Quantity.POWER: ("power.draw", "power.draw.average", "power.draw.instant"),
    Quantity.CLOCK: ("clocks.current.sm", "clocks.sm", "clocks.current.graphics", "clocks.gr"),
    Quantity.LIMIT: ("enforced.power.limit", "power.limit"),
    Quantity.BUSY: ("utilization.gpu",),
}
_GPUS = ("uuid", "gpu_uuid", "pci.bus_id", "gpu_bus_id", "index", "serial", "gpu_serial")
_NAMES = ("name", "gpu_name")


def _recognises(head: str) -> bool:
    names = {found[1] for column in header_of(head) if (found := _COLUMN.fullmatch(column))}
    return bool(names & {name for wanted in _QUANTITIES.values() for name in wanted})


def _read(stream: TextIO, hints: Hints) -> Recording:
    table = Table(stream)
    columns: dict[str, tuple[str, str]] = {}  # name without unit → name in the header, unit
    for column in table.header:
        if found := _COLUMN.fullmatch(column):
            columns.setdefault(found[1], (column, (found[2] or "").strip()))
    chosen = {what: columns[name] for what, names in _QUANTITIES.items() if (name := _first(names, columns))}
    if Quantity.POWER not in chosen:
        raise InputError("has no column power.draw", fix="add power.draw to --query-gpu")
    own, kind, dated = (_first(names, columns) for names in (_GPUS, _NAMES, ("timestamp",)))
    if dated is None and (hints.interval_s is None or own is None):
        lacks = "index" if hints.interval_s is not None else "timestamp"
        other = "" if own is None else ", or give --interval SECONDS"
        raise InputError(f"has no column {lacks}", fix=f"add {lacks} to --query-gpu{other}")
    clock = Clock(hints.zone or "UTC", assumed=hints.zone is None)
    rows: dict[RecordedGpu, int] = defaultdict(int)
    kinds: set[str] = set()
    readings: dict[tuple[RecordedGpu, Quantity], list[tuple[float, float]]] = defaultdict(list)
    for row in table:
        gpu = RecordedGpu("", row[columns[own][0]] if own else "the only GPU")
        try:
            if dated is not None:
                time_s = clock.epoch_s(row[columns[dated][0]].replace("/", "-"), "timestamp")
            else:
                time_s = rows[gpu] * (hints.interval_s or 0.0)
            values = {what: _value(row[column], unit, what, column) for what, (column, unit) in chosen.items()}
        except Unusable as why:
            table.skip(str(why))
            continue
        rows[gpu] += 1
        kinds.update(row[columns[kind][0]] for _ in (1,) if kind)
        for what, value in values.items():
            readings[gpu, what].append((time_s, value))
    if not rows:
        raise InputError("holds a header but no row that can be read")
    if own is None:
        _check_one_gpu([time_s for time_s, _ in next(iter(readings.values()))])
    gpus, impossible = gpus_of(readings)
    if not any(Quantity.POWER in of for of in gpus.values()):
        raise InputError(f"{chosen[Quantity.POWER][0]} has no value in any row", fix="this GPU does not tell its power")
    if len(kinds) > 1:
        raise InputError(f"GPUs of several types: {', '.join(sorted(kinds))}", fix="query one type: nvidia-smi -i …")
    return Recording(
        gpus,
        TimeBase.RELATIVE if dated is None else TimeBase.UNIX if hints.zone else TimeBase.LOCAL,
        gpu_type=next(iter(kinds), ""),
        damaged={"that cannot be read": table.damaged} | impossible,
    )


def _first(names: Sequence[str], columns: Mapping[str, object]) -> str | None:
    return next((name for name in names if name in columns), None)


def _value(text: str, header_unit: str, quantity: Quantity, column: str) -> float:
    """Return a value in the unit of its quantity; nan if it is missing.

    The unit stands beside the value, or in the header.
    """
    found = _VALUE.fullmatch(text)
    number, unit = (found[1], found[2]) if found else (text, header_unit)
    value = value_of(number, column)
    return value if np.isnan(value) else value * factor_of(unit, quantity, column)


def _check_one_gpu(times_s: Sequence[float]) -> None:
    """Refuse rows that come in bunches: these are several GPUs, and no column tells which is which."""
    apart_s = np.diff(np.sort(times_s))
    if len(apart_s) and np.mean(apart_s < 0.2 * np.quantile(apart_s, 0.9)) > 0.1:
        raise InputError("has rows of several GPUs, but no column index or uuid", fix="add index to --query-gpu")


NVIDIA_SMI = MeasuredFormat("nvidia-smi CSV", _recognises, _read)
