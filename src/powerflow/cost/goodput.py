"""Choose the global batch for each GPU count where a job's owner allows other batches than the job's own.

With a larger global batch, GPUs work better and synchronise less often, but each sample trains less. A step time
divided by its progress (`powerflow.cost.batch_range`) is comparable between batches: it is the inverse of Pollux'
goodput (Qiao et al., OSDI'21, section 3), up to a constant. Policies see only such times, so all of them use the best
batch without knowing of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from powerflow.cost.batch_range import BatchRange, progress
from powerflow.cost.model import JobModel
from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable
from powerflow.cost.tabulate import tabulate
from powerflow.errors import InputError

#: Ratio of two neighbouring batches that are tried. The time is flat around its minimum.
_RATIO = 2 ** (1 / 4)


def tabulate_best(
    model: JobModel,
    axes: Axes,
    own_batch: int,
    allowed: BatchRange | None,
    measured: Sequence[Observation] = (),
) -> CostTable:
    """Return the cost table of a job whose global batch may depend on its GPU count.

    For each GPU count, the table uses the allowed batch with the least time per progress, on the fewest nodes at the
    maximum clock. It uses this batch at all clocks and placements, so that a new clock never changes the batch. The
    times of the table are the seconds for as much progress as one iteration at the job's own batch makes. The watts are
    those at the batch that is used. If no other batch is faster, the own batch is used.

    Args:
        model: The job's model.
        axes: GPU counts and clocks of the pool.
        own_batch: The job's own global batch, B0. The job's work is counted in iterations at this batch.
        allowed: Batches that the owner allows. With None the job keeps its own batch.
        measured: Observations of this job at any batch, as `tabulate` uses them.

    Raises:
        InputError: The own batch is not an allowed one, or the model was made for another GPU type.
    """
    if allowed is None:
        return tabulate(model, axes, own_batch, measured)
    if not allowed.allows(own_batch):
        raise InputError(
            f"global batch {own_batch} is not from {allowed.least} to {allowed.most}",
            where=model.name,
            fix="allow the job's own batch too",
        )
    batches = batches_to_try(own_batch, allowed)
    tables = [tabulate(model, axes, batch, measured) for batch in batches]
    return fastest(tables, [progress(allowed.noise_scale, own_batch, batch) for batch in batches])


def batches_to_try(own_batch: int, allowed: BatchRange) -> list[int]:
    """Return the own batch, then a geometric series from the smallest to the largest allowed batch."""
    steps = math.ceil(math.log(allowed.most / allowed.least, _RATIO) - 1e-9)
    series = {round(allowed.least * _RATIO**k) for k in range(steps)} | {allowed.most}
    return [own_batch, *sorted(series - {own_batch})]


def fastest(tables: Sequence[CostTable], progress: Sequence[float]) -> CostTable:
    """Return the table that has, for each GPU count, the costs at the batch with the least time per progress.

    Packed jobs at the maximum clock are compared. Of equally fast batches the first one is taken.

    Args:
        tables: Costs of real iterations, one table for each batch.
        progress: For each batch, the iterations at the job's own batch that one iteration is worth.
    """
    worth = np.array(progress)
    per_progress_s = np.stack([table.step_time_s[:, -1] for table in tables]) / worth[:, None]
    best = np.argmin(per_progress_s, axis=0)
    rows = np.arange(len(best))
    gained = worth[best]
    return CostTable(
        step_time_s=np.stack([table.step_time_s for table in tables])[best, rows] / gained[:, None],
        spread_step_time_s=np.stack([table.spread_step_time_s for table in tables])[best, rows] / gained[:, None],
        power_w=np.stack([table.power_w for table in tables])[best, rows],
        local_batch=np.stack([table.local_batch for table in tables])[best, rows],
        accumulation=np.stack([table.accumulation for table in tables])[best, rows],
        progress=gained,
    )
