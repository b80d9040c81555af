"""What a job costs, as numbers a scheduler can read: step time and power over GPU counts and clocks.

A `CostTable` is the only thing the decision core knows of a job's cost. Where it came from (a formula,
measured points, a prior) is the business of the rest of this room.
"""

from __future__ import annotations

from dataclasses import dataclass

from powerflow.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """The configurations that all tables of one pool of GPUs share.

    Attributes:
        gpu_type: Name of the GPU type in the catalogue.
        gpus_per_node: GPUs in one (full) node; a count above it must cross nodes.
        gpu_counts: ``[N]`` GPU counts, ascending; the powers of two, and whatever counts jobs asked for.
        clocks_mhz: ``[F]`` GPU clocks in MHz, ascending; the last one is the maximum clock.
    """

    gpu_type: str
    gpus_per_node: int
    gpu_counts: IntArray
    clocks_mhz: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class CostTable:
    """Step time and power of one class of jobs at its global batch.

    Attributes:
        step_time_s: ``[N, F]`` seconds per iteration, on as few nodes as the count allows; ``inf`` where the
            job cannot run on that many GPUs.
        spread_step_time_s: ``[N, F]`` the same when the GPUs stand on more nodes than needed.
        power_w: ``[N, F]`` watts of all ``n`` GPUs together while it runs, idle draw included.
        local_batch: ``[N]`` samples per GPU in one pass.
        accumulation: ``[N]`` passes per iteration (gradient accumulation).
    """

    step_time_s: FloatArray
    spread_step_time_s: FloatArray
    power_w: FloatArray
    local_batch: IntArray
    accumulation: IntArray

    def energy_j(self) -> FloatArray:
        """Joules per iteration, ``[N, F]``: ``E = P·T`` (design §4), P the watts of all n GPUs."""
        return self.power_w * self.step_time_s
