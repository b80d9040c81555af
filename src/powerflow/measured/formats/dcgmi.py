"""Read what ``dcgmi dmon -e 155,100,203 -d 1000`` prints: watts, clocks and energy of GPUs.

::

    #Entity   POWER          SMCLK        GPUTL
    ID         W
    GPU 0     120.500        1410         98
    GPU 1     N/A            1410         97

The two header lines are repeated every few samples. A field's short name and unit are those of DCGM: POWER (155, W),
TOTEC (156, mJ), SMCLK (100, MHz), GPUTL (203, %), EPLMT (164, W), PMLMT (160, W); it prints a unit only for some.
``N/A`` is a value that the GPU does not report. The output has no times: they are counted from the interval (``-d``),
unless each line begins with one: seconds since 1970 (``dcgmi dmon … | ts %.s``), or a date and time.

Source: NVIDIA/DCGM, dcgmi/DeviceMonitor.cpp and dcgmlib/src/dcgm_fields.cpp.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TextIO

from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints, MeasuredFormat
from powerflow.measured.recording import Quantity, RecordedGpu, Recording, TimeBase, gpus_of
from powerflow.measured.values import factor_of, lines_of, value_of
from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, clip, number

_HEADER = re.compile(r"(?P<time>.*?)#\s?Entity\s+(?P<fields>\S.*)")
_ROW = re.compile(r"(?P<time>.*?)\bGPU (?P<id>\d+)\s+(?P<values>\S.*)")
#: Short name of a field → what it measures, and DCGM's unit.
_FIELDS = {
    "POWER": (Quantity.POWER, "W"),
    "TOTEC": (Quantity.ENERGY, "mJ"),
    "SMCLK": (Quantity.CLOCK, "MHz"),
    "GPUTL": (Quantity.BUSY, "%"),
    "PMLMT": (Quantity.LIMIT, "W"),
    "EPLMT": (Quantity.LIMIT, "W"),
}


def _recognises(head: str) -> bool:
    return any(_HEADER.match(line) for line in head.splitlines()[:20])


def _read(stream: TextIO, hints: Hints) -> Recording:
    header = ""
    fields: list[str] = []
    units: Mapping[str, str] = {}
    damaged, first = 0, ""
    bases: set[TimeBase] = set()
    clock = Clock(hints.zone or "UTC", assumed=hints.zone is None)
    samples: dict[RecordedGpu, int] = defaultdict(int)
    readings: dict[tuple[RecordedGpu, Quantity], list[tuple[float, float]]] = defaultdict(list)
    for at, line in enumerate(lines_of(stream), 1):
        if found := _HEADER.match(line):
            if fields and found["fields"].split() != fields:
                raise InputError(f"has other fields from line {at} on", fix="give one recording a file")
            header, fields = line, found["fields"].split()
        elif header and not units and re.search(r"(^|\s)ID(\s|$)", line):
            units = _units(header, fields, line)
        elif row := _ROW.match(line):
            gpu = RecordedGpu("", row["id"])
            try:
                time_s, base = _time(row["time"].strip(), samples[gpu], hints, clock)
                known = _values(fields, row["values"].split(), units)
            except Unusable as why:
                damaged, first = damaged + 1, first or f"line {at}: {why}"
                continue
            bases.add(base)
            samples[gpu] += 1
            for what, value in known.items():
                readings[gpu, what].append((time_s, value))
    if damaged > 0.1 * sum(samples.values()):
        raise InputError(f"{damaged:,} lines of GPUs cannot be read ({first})")
    if len(bases) != 1:
        raise InputError("some lines begin with a time, others do not" if bases else "holds no line of a GPU")
    gpus, impossible = gpus_of(readings)
    if not any({Quantity.POWER, Quantity.ENERGY} & set(of) for of in gpus.values()):
        raise InputError("has no watts", fix="add the field 155 (POWER) to dcgmi dmon -e")
    return Recording(gpus, bases.pop(), damaged={"that cannot be read": damaged} | impossible)


def _units(header: str, fields: list[str], line: str) -> dict[str, str]:
    """Return the units that are printed below the names of fields."""
    starts = [found.start() for found in re.finditer(r"\S+", header)][-len(fields) :]
    ends = [*starts[1:], len(line)]
    printed = {name: line[a:b].strip() for name, a, b in zip(fields, starts, ends, strict=True)}
    return {name: unit for name, unit in printed.items() if unit}


def _time(text: str, sample: int, hints: Hints, clock: Clock) -> tuple[float, TimeBase]:
    if not text:
        if hints.interval_s is None:
            raise InputError("has no times", fix="give --interval SECONDS: the -d of dcgmi dmon, divided by 1000")
        return sample * hints.interval_s, TimeBase.RELATIVE
    try:
        return number(text, "time"), TimeBase.UNIX
    except Unusable:
        zoned = TimeBase.UNIX if hints.zone else TimeBase.LOCAL
        return clock.epoch_s(text.strip("[]").replace("/", "-"), "time"), zoned


def _values(fields: list[str], values: list[str], units: Mapping[str, str]) -> dict[Quantity, float]:
    if len(values) != len(fields):
        raise Unusable(f"{len(values)} values for {len(fields)} fields")
    found = {}
    for name, text in zip(fields, values, strict=True):
        if name in _FIELDS:
            what, unit = _FIELDS[name]
            value = value_of(text, clip(name))
            found[what] = value * factor_of(units.get(name, unit), what, name)
    return found


DCGMI = MeasuredFormat("output of dcgmi dmon", _recognises, _read)
