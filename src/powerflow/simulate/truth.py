"""Store the true costs of a workload by class and pool, in lists for fast access to single numbers."""

from __future__ import annotations

from typing import NamedTuple

from powerflow.simulate.workload.workload import Workload


class PoolTruth(NamedTuple):
    """The true costs of one class of jobs on one pool.

    Attributes:
        count_index: GPU count → its position in the tables.
        step_time_s, spread_step_time_s: ``[N][F]`` seconds per iteration for each of N GPU counts and F clocks. The
            first is for jobs on as few nodes as possible, the second for jobs on more nodes.
        power_w: ``[N][F]`` watts of all GPUs of the job together.
    """

    count_index: dict[int, int]
    step_time_s: list[list[float]]
    spread_step_time_s: list[list[float]]
    power_w: list[list[float]]

    def runs(self, gpus: int, clock: int, packed: bool) -> tuple[float, float]:
        """Return the true iterations per second and watts of a job with ``gpus`` GPUs at one clock.

        ``clock`` is the position of the clock in the tables. ``packed`` is True if the job is on as few nodes as
        possible.
        """
        i = self.count_index[gpus]
        step_s = (self.step_time_s if packed else self.spread_step_time_s)[i][clock]
        return 1.0 / step_s, self.power_w[i][clock]


def truth_of(workload: Workload) -> dict[tuple[str, str], PoolTruth]:
    """Return the true costs of a workload: (class of jobs, GPU type) → costs."""
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
