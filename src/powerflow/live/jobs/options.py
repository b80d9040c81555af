"""List the configurations that a job could have, with their believed costs at present prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from powerflow.api.decisions import JobOption
from powerflow.arrays import FloatArray
from powerflow.cost.table import Axes, CostTable


@dataclass(frozen=True, slots=True)
class JobPrices:
    """The prices with which configurations of a job are compared.

    These are the job's ``weight`` w, the ``energy_price`` λ_E (s/J), the ``gpu_price`` λ_G, and the ``idle_w`` of a
    GPU.
    """

    weight: float = 1.0
    energy_price: float = 0.0
    gpu_price: float = 0.0
    idle_w: float = 0.0


def option(
    table: CostTable, axes: Axes, gpus: int, clock_mhz: float, prices: JobPrices = JobPrices()
) -> JobOption | None:
    """Return the believed cost of one configuration of a job; None if the job cannot run in it."""
    row = int(np.searchsorted(axes.gpu_counts, gpus))
    if row >= len(axes.gpu_counts) or axes.gpu_counts[row] != gpus:
        return None
    return _option(table, axes, row, int(np.abs(axes.clocks_mhz - clock_mhz).argmin()), costs(table, axes, prices))


def costs(table: CostTable, axes: Axes, prices: JobPrices) -> FloatArray:
    """Return the cost of one step for each GPU count and clock, in weighted seconds; shape ``[N, F]``.

    The cost is T·(w + λ_E·(P − n·P_idle) + λ_G·n). T is the step time, P the watts of the job, n its GPU count, P_idle
    the idle watts of a GPU, w the job's weight, λ_E the energy price and λ_G the GPU price.
    """
    n = axes.gpu_counts[:, None]
    above_w = table.power_w - n * prices.idle_w
    found: FloatArray = table.step_time_s * (prices.weight + prices.energy_price * above_w + prices.gpu_price * n)
    return found


def options(
    table: CostTable,
    axes: Axes,
    prices: JobPrices,
    *,
    runs_on: Callable[[int], bool],
    count: int = 5,
) -> list[JobOption]:
    """Return the configurations of a job in which a step costs least (`costs`), best first.

    Each GPU count appears at most once, with its best clock.

    Args:
        table: Believed step times and watts of the job.
        axes: GPU counts and clocks of ``table``.
        prices: Prices to compare with.
        runs_on: Returns whether the job may use a GPU count.
        count: Most configurations to return.
    """
    cost = costs(table, axes, prices)
    cost[[not runs_on(int(gpus)) for gpus in axes.gpu_counts]] = np.inf
    clock = np.argmin(cost, axis=1)
    value = cost[np.arange(len(clock)), clock]
    order = [int(row) for row in np.argsort(value, kind="stable") if np.isfinite(value[row])]
    found = (_option(table, axes, row, int(clock[row]), cost) for row in order[:count])
    return [best for best in found if best is not None]


def _option(table: CostTable, axes: Axes, row: int, clock: int, cost: FloatArray) -> JobOption | None:
    time_s, power_w = float(table.step_time_s[row, clock]), float(table.power_w[row, clock])
    if not np.isfinite(time_s):
        return None
    gpus, clock_mhz = int(axes.gpu_counts[row]), float(axes.clocks_mhz[clock])
    return JobOption(gpus, clock_mhz, time_s, power_w, power_w * time_s, float(cost[row, clock]))
