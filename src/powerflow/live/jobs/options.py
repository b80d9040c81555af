"""List the configurations that a job could have, with their believed costs at present prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from powerflow.api.decisions import JobOption
from powerflow.arrays import FloatArray
from powerflow.cost.table import Axes, CostTable
from powerflow.live.jobs.active_job import ActiveJob

Numbers = TypeVar("Numbers", float, FloatArray)


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

    def of_second(self, power_w: Numbers, gpus: Numbers) -> Numbers:
        """Return the cost of a second of a job, in weighted seconds: w + λ_E·(P − n·P_idle) + λ_G·n.

        Args:
            power_w: Watts of the job, P.
            gpus: Its GPU count, n.
        """
        return self.weight + self.energy_price * (power_w - gpus * self.idle_w) + self.gpu_price * gpus


def option(
    table: CostTable, axes: Axes, gpus: int, clock_mhz: float, prices: JobPrices = JobPrices()
) -> JobOption | None:
    """Return the believed cost of one configuration of a job; None if the job cannot run in it."""
    row = int(np.searchsorted(axes.gpu_counts, gpus))
    if row >= len(axes.gpu_counts) or axes.gpu_counts[row] != gpus:
        return None
    return _option(table, axes, row, int(np.abs(axes.clocks_mhz - clock_mhz).argmin()), costs(table, axes, prices))


def measured(job: ActiveJob, prices: JobPrices = JobPrices()) -> JobOption | None:
    """Return what a step of a job takes now, as it was measured; None while the job does not train.

    The time is that of its latest steps, the watts are those of the last reading of its GPUs.
    """
    time_s, power_w = job.step_time_s, job.power_w
    if not (job.placement and job.training and time_s > 0 and power_w > 0):
        return None
    cost_s = time_s * prices.of_second(power_w, float(job.gpus))
    return JobOption(job.gpus, job.clock_now_mhz, time_s, power_w, power_w * time_s, cost_s)


def costs(table: CostTable, axes: Axes, prices: JobPrices) -> FloatArray:
    """Return the cost of one step for each GPU count and clock, in weighted seconds; shape ``[N, F]``.

    The cost is T·(w + λ_E·(P − n·P_idle) + λ_G·n). T is the step time, the rest is `JobPrices.of_second`.
    """
    gpus = axes.gpu_counts[:, None].astype(np.float64)
    found: FloatArray = table.step_time_s * prices.of_second(table.power_w, gpus)
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
