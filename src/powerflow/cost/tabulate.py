"""Build a scheduler's cost table from a job's model and its measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.cost.limit import is_limited, limited_costs
from powerflow.cost.model import JobModel
from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable
from powerflow.errors import InputError


def tabulate(model: JobModel, axes: Axes, global_batch: int, measured: Sequence[Observation] = ()) -> CostTable:
    """Return the cost table of one job at its global batch, from its model and its measured points.

    On n GPUs a pass has ⌈B / (n·s)⌉ samples, where B is the global batch. The number of accumulated passes, s, is the
    smallest one with which a pass fits into memory. Fewer passes are always better: s passes compute for ((s·α)^p +
    (β·B/n)^p)^(1/p), which grows with s (α, β and p as in `ThroughputModel`), and a shorter last pass hides less of the
    synchronising. If n > B, a GPU would have no sample: the time is ``inf``.

    A measured point replaces the model in its own cell of the table: same n, clock, local batch and accumulation, and
    as many nodes as the GPU count needs (packed) or more (spread). Repeated points are combined by their geometric
    mean. The other clocks of the same row are multiplied by measured ÷ modelled, interpolated over the clock and
    constant beyond the ends. Rows of other GPU counts do not change; the fit already connects the counts.

    A power limit is not a clock: a point measured under another power limit than the model's, which may have lowered
    its clock, replaces nothing (`is_limited`). The fit has learnt from it.

    Args:
        model: The job's model.
        axes: GPU counts and clocks of the pool.
        global_batch: B, samples per iteration over all GPUs; at least 1.
        measured: Observations of this job. Observations of other GPU types, batches or counts are ignored.

    Raises:
        InputError: The global batch is below 1, or the model was made for another GPU type.
    """
    if global_batch < 1:
        raise InputError(f"global batch is {global_batch}", where=model.name, fix="give at least 1 sample")
    if model.gpu_type != axes.gpu_type:
        raise InputError(f"model is for {model.gpu_type}, table for {axes.gpu_type}", where=model.name)
    counts = axes.gpu_counts
    accumulation, local_batch = split_batch(global_batch, counts, model.local_batch_max)
    n, b, s = counts[:, None], local_batch[:, None], accumulation[:, None]
    clocks = axes.clocks_mhz[None, :]
    fewest_nodes = -(-counts // axes.gpus_per_node)
    crosses = fewest_nodes > 1
    runs = n <= global_batch

    times_s, each_w = limited_costs(model, n, b, s, clocks, fewest_nodes[:, None] - 1)
    packed_s = np.where(runs, times_s, np.inf)
    # one node more than needed, where there is a GPU for it
    borders = np.minimum(fewest_nodes + 1, counts)[:, None] - 1
    spread_s = np.where(runs, limited_costs(model, n, b, s, clocks, borders)[0], np.inf)
    # A slope measured on 2 to 4 GPUs of a node and extrapolated to 8 may predict more time than across nodes. That is
    # an error of the extrapolation: GPUs of one node can do whatever GPUs of several nodes can.
    packed_s = np.where(crosses[:, None], packed_s, np.minimum(packed_s, spread_s))
    spread_s = np.maximum(packed_s, spread_s)
    power_w = n * each_w

    usable = [seen for seen in measured if not is_limited(seen, model.limit_w)]
    for cells in _measured_cells(usable, axes, local_batch, accumulation):
        row = cells.row
        if cells.spread:
            spread_s[row] = _corrected(spread_s[row], axes.clocks_mhz, cells.clocks_mhz, cells.time_s)
            continue
        packed_s[row] = _corrected(packed_s[row], axes.clocks_mhz, cells.clocks_mhz, cells.time_s)
        if crosses[row] or counts[row] == 1:  # here spread equals packed until measured otherwise
            spread_s[row] = packed_s[row]
        known = np.isfinite(cells.power_w)
        if known.any():
            power_w[row] = _corrected(power_w[row], axes.clocks_mhz, cells.clocks_mhz[known], cells.power_w[known])
    return CostTable(packed_s, spread_s, power_w, local_batch, accumulation)


def split_batch(global_batch: int, gpus: IntArray, local_batch_max: int) -> tuple[IntArray, IntArray]:
    """Return passes per iteration and samples per pass for each GPU count: the fewest passes that fit into memory."""
    per_gpu = -(-global_batch // gpus)
    accumulation = -(-per_gpu // local_batch_max)
    return accumulation, -(-per_gpu // accumulation)


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Measured points of one row of a cost table, packed or spread, one for each clock, clocks ascending.

    Repeated measurements at the same clock are combined.
    """

    row: int
    spread: bool
    clocks_mhz: FloatArray
    time_s: FloatArray
    power_w: FloatArray


def _measured_cells(
    measured: Sequence[Observation], axes: Axes, local_batch: IntArray, accumulation: IntArray
) -> list[_Cells]:
    """Return the observations that belong into a cost table, grouped by row; packed rows before spread ones."""
    found: dict[tuple[bool, int], dict[float, list[Observation]]] = {}
    rows = {int(n): row for row, n in enumerate(axes.gpu_counts)}
    clock_max = float(axes.clocks_mhz[-1])
    for seen in measured:
        row = rows.get(seen.gpus)
        if row is None or seen.gpu_type != axes.gpu_type:
            continue
        if seen.local_batch != local_batch[row] or seen.accumulation != accumulation[row]:
            continue
        fewest_nodes = -(-seen.gpus // axes.gpus_per_node)
        if seen.nodes < fewest_nodes:
            continue  # measured on larger nodes, so it does not show the cost of crossing nodes
        clock = clock_max if seen.clock_mhz is None else seen.clock_mhz
        found.setdefault((seen.nodes > fewest_nodes, row), {}).setdefault(clock, []).append(seen)
    cells = []
    for (spread, row), by_clock in sorted(found.items()):
        clocks = sorted(by_clock)
        times = [_geometric_mean([o.step_time_s for o in by_clock[c]]) for c in clocks]
        watts = [_geometric_mean([o.power_w for o in by_clock[c] if o.power_w is not None]) for c in clocks]
        cells.append(_Cells(row, spread, np.array(clocks), np.array(times), np.array(watts)))
    return cells


def _corrected(modelled: FloatArray, clocks_mhz: FloatArray, seen_mhz: FloatArray, seen: FloatArray) -> FloatArray:
    """Return a row of a cost table after correction: the modelled values multiplied by measured ÷ modelled.

    Where a clock was measured, the row has exactly the measured value.
    """
    at_seen = np.exp(np.interp(seen_mhz, clocks_mhz, np.log(modelled)))
    ratio = np.exp(np.interp(clocks_mhz, seen_mhz, np.log(seen / at_seen)))
    row: FloatArray = modelled * ratio
    for clock, value in zip(seen_mhz, seen, strict=True):
        row[clocks_mhz == clock] = value
    return row


def _geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values; exactly the value if there is one, nan if there is none."""
    if len(values) == 1:
        return values[0]
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")
