"""Read the log of a ``ZeusMonitor(log_file=…)``: time and energy of measurement windows.

::

    start_time,window_name,elapsed_time,gpu0_energy,gpu1_energy
    529134.31,__GlobalPowerLimitOptimizer_250,13.37,3019.46,3011.02

Times are seconds, energy is in joules, one column a GPU. How many iterations a window has is not in the file: the user
tells it, by the window's name. Windows of Zeus' power limit optimizer have the limit in watts in their name; it
measures ``profile_steps`` iterations at each limit, by default 40.

Source: ml-energy/zeus, zeus/monitor/energy.py and zeus/optimizer/power_limit.py.
"""

from __future__ import annotations

import re
from typing import TextIO

from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints, MeasuredFormat
from powerflow.measured.recording import Total, Totals
from powerflow.measured.values import Table
from powerflow.trace.fields import Unusable, number, seconds
from powerflow.trace.formats.format import header_of

_NEEDED = ("start_time", "window_name", "elapsed_time")
_ENERGY = re.compile(r"gpu\d+_energy")
_LIMIT = re.compile(r"__GlobalPowerLimitOptimizer_(\d{1,5})")


def _recognises(head: str) -> bool:
    return set(_NEEDED) <= set(header_of(head))


def _read(stream: TextIO, hints: Hints) -> Totals:
    table = Table(stream)
    gpus = [name for name in table.header if _ENERGY.fullmatch(name)]
    if not gpus:
        raise InputError("has no energy of GPUs (columns gpu0_energy, …)", fix="let ZeusMonitor measure GPUs")
    spans = []
    unmeasured = impossible = 0
    for row in table:
        name = row["window_name"]
        limit = _LIMIT.fullmatch(name)
        try:
            start_s = number(row["start_time"], "start_time")
            duration_s = seconds(row["elapsed_time"], "elapsed_time")
            energies_j = [number(row[gpu], gpu) for gpu in gpus]
        except Unusable as why:
            table.skip(str(why))
            continue
        if min(energies_j) < 0:
            impossible += 1
            continue
        if duration_s == 0 or min(energies_j) <= 0:  # shorter than the counter takes to move
            unmeasured += 1
            continue
        spans.append(
            Total(
                names=(name,),
                where=f"line {table.line}",
                start_s=start_s,
                duration_s=duration_s,
                energy_j=sum(energies_j),
                gpus=len(gpus),
                limit_w=float(limit[1]) if limit else None,
            )
        )
    if not spans:
        raise InputError("holds no window with energy" if table.rows else "holds a header but no window")
    damaged = {
        "that cannot be read": table.damaged,
        "with an energy below 0": impossible,
        "too short for the energy counter": unmeasured,
    }
    return Totals(
        tuple(spans),
        {why: count for why, count in damaged.items() if count},
        steps_hint="Zeus' power limit optimizer measures 40 in each window unless profile_steps says otherwise"
        if any(span.limit_w for span in spans)
        else "",
    )


ZEUS_WINDOWS = MeasuredFormat("log of a ZeusMonitor", _recognises, _read)
