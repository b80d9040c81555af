"""Why a job has what it has, and what else it could have: from beliefs and prices, without asking the policy again."""

from __future__ import annotations

import numpy as np

from powerflow.cost.table import Axes, CostTable
from powerflow.live.records import Option


def option(table: CostTable, axes: Axes, gpus: int, clock_mhz: float) -> Option | None:
    """What one configuration costs by what is believed; None where the job cannot run so."""
    row = int(np.searchsorted(axes.gpu_counts, gpus))
    if row >= len(axes.gpu_counts) or axes.gpu_counts[row] != gpus:
        return None
    return _option(table, axes, row, int(np.abs(axes.clocks_mhz - clock_mhz).argmin()))


def options(
    table: CostTable,
    axes: Axes,
    *,
    least: int,
    most: int,
    idle_w: float,
    weight: float,
    energy_price: float,
    gpu_price: float,
    count: int = 5,
) -> list[Option]:
    """The best configurations by GPU count, best first.

    Best is the least cost of one iteration: T·w + λ_E·(P − n·P_idle)·T + λ_G·n·T (design §5, step 2, at the present
    price λ_G of a GPU), in weighted seconds. Of each count the best clock stands for it.
    """
    n = axes.gpu_counts[:, None]
    cost = table.step_time_s * (weight + energy_price * (table.power_w - n * idle_w) + gpu_price * n)
    cost[(axes.gpu_counts < least) | (axes.gpu_counts > most)] = np.inf
    clock = np.argmin(cost, axis=1)
    value = cost[np.arange(len(clock)), clock]
    order = [int(row) for row in np.argsort(value, kind="stable") if np.isfinite(value[row])]
    found = (_option(table, axes, row, int(clock[row])) for row in order[:count])
    return [best for best in found if best is not None]


def _option(table: CostTable, axes: Axes, row: int, clock: int) -> Option | None:
    time_s, power_w = float(table.step_time_s[row, clock]), float(table.power_w[row, clock])
    if not np.isfinite(time_s):
        return None
    return Option(int(axes.gpu_counts[row]), float(axes.clocks_mhz[clock]), time_s, power_w, power_w * time_s)
