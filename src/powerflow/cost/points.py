"""Convert observations to arrays for fitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.cost.observation import Observation


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Measured points of one model on one GPU type, as columns of M values.

    Attributes:
        gpus: Number of GPUs.
        local_batch: Samples per GPU in one pass.
        accumulation: Passes per iteration.
        clock_mhz: GPU clock in MHz.
        crosses: Number of nodes minus 1.
        time_s: Seconds per iteration.
        power_w: Watts of all GPUs together; nan if not measured.
        limit_w: Power limit of one GPU in watts; nan where the type's limit applies.
    """

    gpus: IntArray
    local_batch: IntArray
    accumulation: IntArray
    clock_mhz: FloatArray
    crosses: IntArray
    time_s: FloatArray
    power_w: FloatArray
    limit_w: FloatArray

    @property
    def where(self) -> tuple[IntArray, IntArray, IntArray, FloatArray, IntArray]:
        """Return the points' configurations, in the argument order of the functions in `cost.model`."""
        return self.gpus, self.local_batch, self.accumulation, self.clock_mhz, self.crosses

    def take(self, keep: BoolArray) -> Points:
        """Return only those measured points that a mask selects."""
        return Points(*(getattr(self, column.name)[keep] for column in fields(self)))

    def configuration(self) -> IntArray:
        """Return a number for each point; points with the same configuration have the same number."""
        rows = np.stack([np.asarray(c, float) for c in (*self.where, np.nan_to_num(self.limit_w))], axis=1)
        return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def points_of(observations: Sequence[Observation], clock_max_mhz: float) -> Points:
    """Convert observations of one model on one GPU type to arrays; a missing clock becomes the maximum."""
    return Points(
        gpus=np.array([o.gpus for o in observations], np.int64),
        local_batch=np.array([o.local_batch for o in observations], np.int64),
        accumulation=np.array([o.accumulation for o in observations], np.int64),
        clock_mhz=np.array([clock_max_mhz if o.clock_mhz is None else o.clock_mhz for o in observations], float),
        crosses=np.array([o.nodes - 1 for o in observations], np.int64),
        time_s=np.array([o.step_time_s for o in observations], float),
        power_w=np.array([np.nan if o.power_w is None else o.power_w for o in observations], float),
        limit_w=np.array([np.nan if o.power_limit_w is None else o.power_limit_w for o in observations], float),
    )
