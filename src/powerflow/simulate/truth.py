"""What really happens when a job runs: the cost tables of the workload, by pool and class."""

from __future__ import annotations

from typing import NamedTuple

from powerflow.simulate.workload.workload import Workload


class PoolTruth(NamedTuple):
    """Truth of one class on one pool, as nested tuples (fast to read one number at a time).

    Attributes:
        count_index: Position of a GPU count in the tables.
        step_time_s, spread_step_time_s: ``[N][F]`` seconds per iteration, packed and spread.
        power_w: ``[N][F]`` watts of all n GPUs.
    """

    count_index: dict[int, int]
    step_time_s: list[list[float]]
    spread_step_time_s: list[list[float]]
    power_w: list[list[float]]

    def runs(self, gpus: int, clock: int, packed: bool) -> tuple[float, float]:
        """Iterations per second, and watts, of a job on so many GPUs at this clock."""
        i = self.count_index[gpus]
        step_s = (self.step_time_s if packed else self.spread_step_time_s)[i][clock]
        return 1.0 / step_s, self.power_w[i][clock]


def truth_of(workload: Workload) -> dict[tuple[str, str], PoolTruth]:
    """The workload's truth by (cost class, GPU type)."""
    index = {gpu_type: {int(n): i for i, n in enumerate(axes.gpu_counts)} for gpu_type, axes in workload.axes.items()}
    return {
        (cost_class, gpu_type): PoolTruth(
            index[gpu_type],
            table.step_time_s.tolist(),
            table.spread_step_time_s.tolist(),
            table.power_w.tolist(),
        )
        for (cost_class, gpu_type), table in workload.truth.items()
    }
