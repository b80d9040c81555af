"""Compute a lower bound on the mean completion time that any schedule can reach with a given energy.

The bound comes from a simpler problem. The jobs do not share the cluster. Instead, each job pays a price for GPUs that
varies over time, and a price for energy, and does what is cheapest for itself. Take the sum of these costs, and
subtract what all GPUs together would earn. For any prices, the result is at most the cost of every real schedule (weak
duality; proof in ``docs/bound.md``). Good prices make the bound tight; they are found by a numerical search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.catalogue import gpu_type
from powerflow.errors import InputError
from powerflow.simulate.bound.dual import ANY_POOL, DualValue, Group, JobArrays, PoolCost, dual, group_jobs
from powerflow.simulate.workload.workload import Workload

#: Price intervals in each round of the search; each round is finer where prices change.
ROUNDS = (256, 1024)
#: Evaluations of the dual function in each round.
EVALUATIONS = 40
#: Number of worths of an iteration per job, during the search and for the final value.
NODES = 64
FINAL_NODES = 256
#: Points added between two neighbouring prices of energy without a search.
BETWEEN = 3


@dataclass(frozen=True, slots=True, eq=False)
class DualPoint:
    """The bound at one energy price.

    Attributes:
        energy_price: λ_E, weighted seconds per joule.
        cost_s: A lower limit, in weighted seconds. Every schedule has Σ weight·flow + λ_E·(joules above idle) ≥
            ``cost_s``, where flow is the completion time of a job.
        energy_j: Joules above idle that jobs use if each pays these prices and does what is cheapest for itself. The
            bound is tightest near this energy.
        grid_s: ``[T + 1]`` ends of the T time intervals in which prices are constant, seconds.
        gpu_price: ``[P, T]`` price of a GPU, λ_G, in each of P pools and T intervals: weighted seconds per GPU-second.
            The price is 0 after the last interval.
    """

    energy_price: float
    cost_s: float
    energy_j: float
    grid_s: FloatArray
    gpu_price: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A lower bound on the weighted mean completion time as a function of energy.

    Attributes:
        points: The bound at each energy price, in ascending order of prices.
        weight: Sum of the weights of all jobs.
    """

    points: Sequence[DualPoint]
    weight: float

    def mean_jct_at(self, energy_above_idle_j: float) -> float:
        """Return the lower bound on the mean completion time with at most ``energy_above_idle_j`` joules, seconds.

        To compute this energy for a schedule, sum up over jobs the joules of their GPUs while the jobs hold them, and
        subtract idle watts × GPU-seconds held. If GPUs always draw their idle watts, the energy above idle is metered
        energy − idle watts × GPUs × metered seconds.
        """
        best = max(point.cost_s - point.energy_price * energy_above_idle_j for point in self.points)
        return best / self.weight


def bound(jobs: JobArrays, pools: Sequence[PoolCost], energy_prices: Sequence[float]) -> Bound:
    """Compute a lower bound on the mean completion time of jobs as a function of energy.

    Args:
        jobs: The jobs. If all weights are 1, the bound is for the unweighted mean completion time.
        pools: The pools. A job runs on one pool at a time.
        energy_prices: λ_E ≥ 0, weighted seconds per joule, at which the bound is computed. Prices that differ by a
            factor of 2 are close enough.

    Raises:
        InputError: A price is negative, an array has impossible values, or a job cannot run on any pool.
    """
    prices = sorted(set(energy_prices))
    if not prices or not np.isfinite(prices).all() or prices[0] < 0:
        raise InputError("energy prices must be finite and ≥ 0, at least one", where="bound")
    groups = group_jobs(jobs, pools)
    searched = [_search(groups, pools, price) for price in prices]
    return Bound(_with_between(groups, pools, searched), float(jobs.weight.sum()))


def bound_for(workload: Workload, energy_prices: Sequence[float]) -> Bound:
    """Compute the lower bound on mean completion time for a workload, with its true costs and built-in idle watts.

    Args:
        workload: The workload.
        energy_prices: λ_E ≥ 0, seconds per joule, at which the bound is computed.

    Raises:
        InputError: A price is negative, a value of a job is impossible, or a job cannot run on any pool.
    """
    jobs, pools = arrays_of(workload)
    return bound(jobs, pools, energy_prices)


def joined(workload: Workload, parts: Sequence[Bound]) -> Bound:
    """Join lower bounds of the same workload that were computed separately at different energy prices.

    Args:
        workload: The workload.
        parts: The separate bounds.

    Raises:
        InputError: A value of a job is impossible, or a job cannot run on any pool.
    """
    jobs, pools = arrays_of(workload)
    points = {point.energy_price: point for part in parts for point in part.points}
    ordered = [points[price] for price in sorted(points)]
    return Bound(_with_between(group_jobs(jobs, pools), pools, ordered), float(jobs.weight.sum()))


def arrays_of(workload: Workload) -> tuple[JobArrays, list[PoolCost]]:
    """Return the jobs and pools of a workload as plain arrays. All weights are 1."""
    nodes_of = workload.cluster.pools()
    names = list(nodes_of)
    classes = sorted({cost_class for cost_class, _ in workload.truth})
    pools = []
    for name in names:
        axes = workload.axes[name]
        shape = (len(classes), len(axes.gpu_counts), len(axes.clocks_mhz))
        step_time_s, power_w = np.full(shape, np.inf), np.zeros(shape)
        for k, cost_class in enumerate(classes):
            table = workload.truth.get((cost_class, name))
            if table is not None:
                step_time_s[k] = np.minimum(table.step_time_s, table.spread_step_time_s)
                power_w[k] = table.power_w
        gpus = sum(node.gpus for node in nodes_of[name])
        pools.append(PoolCost(axes.gpu_counts, step_time_s, power_w, gpu_type(name).idle_w, gpus))

    listed = workload.jobs
    row = {cost_class: k for k, cost_class in enumerate(classes)}
    jobs = JobArrays(
        release_s=np.array([job.submit_s for job in listed], dtype=float),
        work=np.array([job.iterations for job in listed], dtype=float),
        weight=np.ones(len(listed)),
        cost_class=np.array([row[job.cost_class] for job in listed], dtype=np.int64),
        gpus_min=np.array([job.gpus_min for job in listed], dtype=np.int64),
        gpus_max=np.array([job.gpus_max for job in listed], dtype=np.int64),
        pool=np.array([ANY_POOL if job.gpu_type is None else names.index(job.gpu_type) for job in listed], np.int64),
    )
    return jobs, pools


def _search(groups: Sequence[Group], pools: Sequence[PoolCost], energy_price: float) -> DualPoint:
    """Find GPU prices that make the bound high at one energy price.

    The search uses long time intervals first, then shorter intervals where the GPU price changes.
    """
    grid_s = _first_grid(groups, pools, energy_price, ROUNDS[0])
    gpu_price = _flat_price(groups, pools, grid_s, energy_price)
    for i, intervals in enumerate(ROUNDS):
        if i:
            grid_s, gpu_price = _refine(grid_s, gpu_price, intervals)
        gpu_price = _ascend(groups, _supply(pools, grid_s), grid_s, gpu_price, energy_price)
    found = dual(groups, _supply(pools, grid_s), grid_s, gpu_price, energy_price, FINAL_NODES)
    return DualPoint(energy_price, found.value_s, found.energy_j, grid_s, gpu_price)


def _with_between(groups: Sequence[Group], pools: Sequence[PoolCost], points: Sequence[DualPoint]) -> list[DualPoint]:
    """Return the points and `BETWEEN` more points between each two neighbours, in ascending order of energy prices."""
    filled = list(points)
    for low, high in pairwise(points):
        filled += [_mixed(groups, pools, low, high, i / (BETWEEN + 1)) for i in range(1, BETWEEN + 1)]
    return sorted(filled, key=lambda point: point.energy_price)


def _mixed(
    groups: Sequence[Group], pools: Sequence[PoolCost], low: DualPoint, high: DualPoint, share: float
) -> DualPoint:
    """Compute the bound at prices between the prices of two points.

    Because the bound is concave in the prices, the result is not below the straight line between the two points.
    """
    grid_s = np.union1d(low.grid_s, high.grid_s)
    gpu_price = np.zeros((len(pools), len(grid_s) - 1))
    for point, part in ((low, 1.0 - share), (high, share)):
        at = np.searchsorted(point.grid_s, grid_s[:-1], side="right") - 1
        lasts = at < len(point.grid_s) - 1  # prices are 0 after a point's own grid
        gpu_price[:, lasts] += part * point.gpu_price[:, at[lasts]]
    energy_price = (1.0 - share) * low.energy_price + share * high.energy_price
    found = dual(groups, _supply(pools, grid_s), grid_s, gpu_price, energy_price, NODES)
    return DualPoint(energy_price, found.value_s, found.energy_j, grid_s, gpu_price)


def _supply(pools: Sequence[PoolCost], grid_s: FloatArray) -> FloatArray:
    return np.stack([pool.supply_gpu_s(grid_s) for pool in pools])


def _first_grid(groups: Sequence[Group], pools: Sequence[PoolCost], energy_price: float, intervals: int) -> FloatArray:
    """Return time intervals that cover the time in which GPUs can be scarce.

    Half of the intervals have equally many releases of jobs, the other half have equal length. To find the end, each
    job gets the GPUs that are best for it when GPUs are free; the last interval ends when all jobs would certainly be
    done. A wrong estimate of the end makes the bound less tight but not wrong: GPU prices are 0 after the end, and
    every price gives a valid bound.
    """
    release, length, demand = [], [], []
    for group in groups:
        cost = group.cost_on_free_gpus(energy_price)
        row, clock = np.unravel_index(int(cost.argmin()), cost.shape)
        seconds = group.work / group.speed[row, clock]
        release.append(group.release_s)
        length.append(seconds)
        demand.append(seconds * group.row_gpus[row])
    released, lasting, wanted = (np.concatenate(parts) for parts in (release, length, demand))
    order = np.argsort(released, kind="stable")
    released, lasting, wanted = released[order], lasting[order], wanted[order]
    gpus = sum(pool.gpus for pool in pools)
    # end of all work from job i on, if no GPU were idle after its release; the latest counts (Lindley)
    to_come = np.cumsum(wanted[::-1])[::-1] / max(gpus, 1)
    end = max(float((released + to_come).max()), float((released + lasting).max())) + float(lasting.max())
    quantiles = np.linspace(0.0, 1.0, intervals // 2 + 1)
    grid_s = np.concatenate([np.quantile(released, quantiles), released[0] + (end - released[0]) * quantiles])
    least = (end - released[0]) * 1e-6
    grid_s = np.unique(grid_s)
    kept: FloatArray = grid_s[np.concatenate([[True], np.diff(grid_s) > least])]
    kept[-1] = end
    return kept


def _flat_price(
    groups: Sequence[Group], pools: Sequence[PoolCost], grid_s: FloatArray, energy_price: float
) -> FloatArray:
    """Return the best of a few constant GPU prices, with which the search begins."""
    supply = _supply(pools, grid_s)
    weight = float(np.mean([group.weight for group in groups]))

    def value(level: float) -> float:
        return dual(groups, supply, grid_s, np.full_like(supply, level), energy_price, NODES).value_s

    best = max((weight * scale for scale in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)), key=value)
    return np.full_like(supply, best)


def _ascend(
    groups: Sequence[Group],
    supply_gpu_s: FloatArray,
    grid_s: FloatArray,
    gpu_price: FloatArray,
    energy_price: float,
) -> FloatArray:
    """Improve GPU prices on the same time intervals with bounded quasi-Newton steps (L-BFGS-B); return the best prices.

    The bound is concave in the prices, and nearly smooth if there are many jobs. So these steps are much faster than
    supergradient steps (``docs/bound.md`` §5).
    """
    from scipy.optimize import minimize

    # scale: curvature grows with the GPU-seconds of an interval, and the first step needs prices near 1
    scale = np.sqrt(np.maximum(supply_gpu_s / supply_gpu_s.max(), 1e-9)).ravel() / (gpu_price.mean() or 1.0)
    start = dual(groups, supply_gpu_s, grid_s, gpu_price, energy_price, NODES).value_s
    unit = max(abs(start), 1e-300)
    best = (start, gpu_price)

    def loss(scaled: FloatArray) -> tuple[float, FloatArray]:
        nonlocal best
        price = (scaled / scale).reshape(gpu_price.shape)
        found: DualValue = dual(groups, supply_gpu_s, grid_s, price, energy_price, NODES)
        if found.value_s > best[0]:
            best = (found.value_s, price)
        return -found.value_s / unit, -found.excess_gpu_s.ravel() / scale / unit

    minimize(
        loss,
        gpu_price.ravel() * scale,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * gpu_price.size,
        options={"maxfun": EVALUATIONS, "maxiter": EVALUATIONS, "maxcor": 20, "gtol": 0.0, "ftol": 1e-12},
    )
    return best[1]


def _refine(grid_s: FloatArray, gpu_price: FloatArray, intervals: int) -> tuple[FloatArray, FloatArray]:
    """Split time intervals into parts, and interpolate the GPU prices.

    Long intervals in which the price changes get more parts. Let the price change by Δ over an interval. A constant
    price in it loses about Δ²·length/price compared with a sloping price; with m parts, the loss is 1/m² of this. For a
    fixed number of parts in all intervals, the total loss is smallest if m is proportional to the cube root of the loss
    without parts.
    """
    change = np.abs(np.gradient(gpu_price, axis=1)).sum(axis=0)
    level = gpu_price.sum(axis=0)
    loss = change**2 * np.diff(grid_s) / (level + 1e-3 * level.max() + 1e-300)
    share = np.cbrt(loss)
    share = share / share.sum() if share.sum() > 0 else np.full(len(share), 1.0 / len(share))
    parts = 1 + np.floor(share * (intervals - len(share))).astype(np.int64)
    finer = np.concatenate(
        [np.linspace(grid_s[k], grid_s[k + 1], parts[k], endpoint=False) for k in range(len(parts))] + [grid_s[-1:]]
    )
    middle, finer_middle = (grid_s[1:] + grid_s[:-1]) / 2, (finer[1:] + finer[:-1]) / 2
    price = np.stack([np.interp(finer_middle, middle, series) for series in gpu_price])
    return finer, price
