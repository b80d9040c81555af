"""Define the cost table that schedulers and policies read: step time and power by GPU count and clock.

The scheduler knows a job's cost only through a `CostTable`. The other modules of `powerflow.cost` compute the table,
from a formula, measured points, or a prior.
"""

from __future__ import annotations

from dataclasses import dataclass

from powerflow.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """GPU counts and clocks that all cost tables of one pool share.

    Attributes:
        gpu_type: Name of the GPU type in the catalogue.
        gpus_per_node: GPUs in one full node; a job with more GPUs must cross nodes.
        gpu_counts: ``[N]`` GPU counts, ascending: powers of two, and the counts that jobs requested.
        clocks_mhz: ``[F]`` GPU clocks in MHz, ascending; the last one is the maximum clock.
    """

    gpu_type: str
    gpus_per_node: int
    gpu_counts: IntArray
    clocks_mhz: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class CostTable:
    """Step time and power of one class of jobs, for N GPU counts and F clocks.

    An iteration has the job's own global batch. Where the owner allows other batches (`cost.goodput`), a GPU count may
    use another batch. Its times are then the seconds for as much training progress as one iteration at the own batch
    makes.

    Attributes:
        step_time_s: ``[N, F]`` seconds per iteration on the fewest possible nodes; ``inf`` where the job cannot run on
            that many GPUs.
        spread_step_time_s: ``[N, F]`` seconds per iteration on more nodes than needed.
        power_w: ``[N, F]`` watts of all the job's GPUs together while it runs, idle draw included.
        local_batch: ``[N]`` samples per GPU in one pass.
        accumulation: ``[N]`` passes per iteration (gradient accumulation).
        progress: ``[N]`` iterations at the own batch that one real iteration on each GPU count is worth; 1 if the batch
            is the own one on all counts.
        margin: ``[N, F]`` factor ≥ 1 by which a step of a packed job may at most take longer than ``step_time_s``, if
            the time at the maximum clock is right. Where both clocks were measured, this is the reserve for noise
            (`powerflow.cost.clock_choice`). None if all step times are certain.
    """

    step_time_s: FloatArray
    spread_step_time_s: FloatArray
    power_w: FloatArray
    local_batch: IntArray
    accumulation: IntArray
    progress: FloatArray | float = 1.0
    margin: FloatArray | None = None

    def energy_j(self) -> FloatArray:
        """Return joules per iteration by GPU count and clock: watts of all the job's GPUs × seconds."""
        return self.power_w * self.step_time_s
