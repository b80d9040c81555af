"""Read Zeus' tables of power limits, ``summary_power_v100.csv`` and others.

Each row is one batch size at one power limit, on one GPU: the seconds of an epoch and the mean watts. Columns:
``dataset``, ``network``, ``batch_size``, ``optimizer``, ``power_limit`` (W), ``time_per_epoch`` (s) and
``average_power`` (W). The clock was not logged. A limit is not a clock: it stays a limit. How many samples an epoch has
is not in the file.

Source: ml-energy/zeus (NSDI'23), README.md of examples/research_reproducibility/zeus_nsdi23/trace.
"""

from __future__ import annotations

from collections import Counter
from typing import TextIO

from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints, MeasuredFormat
from powerflow.measured.recording import Total, Totals
from powerflow.measured.values import Table
from powerflow.trace.fields import Unusable, batch_size, number
from powerflow.trace.formats.format import header_of

_NEEDED = ("dataset", "network", "batch_size", "optimizer", "power_limit", "time_per_epoch", "average_power")


def _recognises(head: str) -> bool:
    return set(_NEEDED) <= set(header_of(head))


def _read(stream: TextIO, hints: Hints) -> Totals:
    table = Table(stream)
    rows = []
    for row in table:
        try:
            batch = batch_size(row["batch_size"], "batch_size")
            limit_w, epoch_s, power_w = (number(row[name], name) for name in _NEEDED[-3:])
            if batch is None or min(limit_w, epoch_s, power_w) <= 0:
                raise Unusable("a value is not above 0")
        except Unusable as why:
            table.skip(str(why))
            continue
        rows.append((row, table.line, batch, limit_w, epoch_s, power_w))
    if not rows:
        raise InputError("holds no row that can be read")
    # a network costs as much per step whatever the data set and the optimizer only if there is one of each
    jobs = Counter({(row["network"], row["dataset"], row["optimizer"]): 1 for row, *_ in rows})
    several = Counter(network for network, _, _ in jobs)
    spans = []
    for row, line, batch, limit_w, epoch_s, power_w in rows:
        network, dataset, optimizer = row["network"], row["dataset"], row["optimizer"]
        whole = f"{network} ({dataset}, {optimizer})"
        spans.append(
            Total(
                names=(network, whole, dataset),
                where=f"line {line}",
                start_s=float("nan"),
                duration_s=epoch_s,
                energy_j=power_w * epoch_s,
                gpus=1,
                model=whole if several[network] > 1 else network,
                local_batch=batch,
                limit_w=limit_w,
                of_epoch=True,
            )
        )
    return Totals(tuple(spans), {"that cannot be read": table.damaged} if table.damaged else {})


ZEUS_LIMITS = MeasuredFormat("Zeus' table of power limits", _recognises, _read)
