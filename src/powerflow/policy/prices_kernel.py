"""Compute the decisions of the policy `prices` in compiled code.

First compute what each job gains from each GPU count, then give each GPU to the job that gains most by it.
"""

from __future__ import annotations

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.kernel import kernel


@kernel
def gpu_seconds(
    iterations: FloatArray,
    gpus_min: IntArray,
    cost: IntArray,
    gpu_counts: IntArray,
    step_time_s: FloatArray,
    sizes: FloatArray,
    fewest: IntArray,
) -> None:
    """Convert iterations of each job to GPU-seconds on the fewest GPUs on which it can run, at the maximum clock.

    Args:
        iterations: ``[J]`` iterations of each of J jobs.
        gpus_min: ``[J]`` smallest GPU count of each job.
        cost: ``[J]`` row of each job's class in ``step_time_s``.
        gpu_counts: ``[N]`` GPU counts, ascending.
        step_time_s: ``[K, N, F]`` (classes × GPU counts × clocks) seconds per iteration.
        sizes: ``[J]`` result, GPU-seconds; ``inf`` if a job can run on no count, or if its iterations are nan.
        fewest: ``[J]`` result: this number of GPUs; 0 if a job can run on no count.
    """
    for j in range(len(iterations)):
        sizes[j], fewest[j] = np.inf, 0
        for i in range(len(gpu_counts)):
            if gpu_counts[i] >= gpus_min[j] and step_time_s[cost[j], i, -1] < np.inf:
                fewest[j] = gpu_counts[i]
                if not np.isnan(iterations[j]):
                    sizes[j] = iterations[j] * step_time_s[cost[j], i, -1] * gpu_counts[i]
                break


@kernel
def _only_powers(least: int, most: int, listed: bool) -> bool:
    """Return True if a job that can use ``least`` to ``most`` GPUs may get only powers of two.

    This holds for most jobs, because powers of two fill nodes without gaps. A job that can use no power of two may have
    any count from ``least`` to ``most``. The same holds for a job whose owner listed its GPU counts (``listed``); its
    step time is infinite on counts that are not listed.
    """
    power = 1
    while 2 * power <= most:
        power *= 2
    return not listed and power >= least


@kernel
def _list_offered(
    least: int, most: int, listed: bool, gpu_counts: IntArray, count_index: IntArray, offered: IntArray
) -> int:
    """List the GPU counts that a job may have, and return their number.

    The log of a large machine has hundreds of counts, of which most jobs may have a few powers of two.

    Args:
        least, most, listed: The job's smallest and largest count, and whether its owner listed the counts.
        gpu_counts, count_index: As in `View`.
        offered: ``[N]`` result: positions of these counts in ``gpu_counts``, ascending.
    """
    found = 0
    if _only_powers(least, most, listed):
        n = 1
        while n <= most and n < len(count_index):
            if n >= least and count_index[n] >= 0:
                offered[found] = count_index[n]
                found += 1
            n *= 2
        return found
    for i in range(np.searchsorted(gpu_counts, least), len(gpu_counts)):
        if gpu_counts[i] > most:
            break
        offered[found] = i
        found += 1
    return found


@kernel
def value_counts(
    rank: FloatArray,
    remaining: FloatArray,
    attained_gpu_s: FloatArray,
    weight: FloatArray,
    pause_s: FloatArray,
    gpus: IntArray,
    gpus_min: IntArray,
    gpus_max: IntArray,
    cost: IntArray,
    listed: BoolArray,
    gpu_counts: IntArray,
    count_index: IntArray,
    step_time_s: FloatArray,
    power_w: FloatArray,
    idle_w: float,
    capacity: int,
    energy_price: FloatArray,
    sizes_known: bool,
    offers: IntArray,
    offered: IntArray,
    value: FloatArray,
    clock: IntArray,
    worth: FloatArray,
) -> None:
    """Compute what each job gains per second from each GPU count at its best clock (docs/policies.md, "prices", 2, 3).

    The columns of the jobs are separate arguments, because numba takes long to recognise a structured array at every
    call.

    Args:
        rank: ``[J]`` i_j, the sum of the weights of all jobs that wait for job j (`powerflow.policy.busy_period`).
        remaining, attained_gpu_s, weight, pause_s, gpus, gpus_min, gpus_max, cost, listed: ``[J]`` columns of `JOB`.
        gpu_counts, count_index, step_time_s, power_w, idle_w, capacity, sizes_known: As in `View`.
        energy_price: ``[J]`` energy price λ_E of each job, seconds per joule.
        offers: ``[J]`` result: how many GPU counts are offered to each job.
        offered: ``[J, N]`` result: positions of these counts in ``gpu_counts``, ascending.
        value: ``[J, N]`` result: V_j(n), the gain of job j from each count that it is offered; ``-inf`` where it cannot
            run.
        clock: ``[J, N]`` result: position of the clock with this gain.
        worth: ``[J]`` result: v_j, the worth of one iteration; 0 if a job can run on no count.
    """
    clocks = step_time_s.shape[2]
    for j in range(len(rank)):
        step_s, watts = step_time_s[cost[j]], power_w[cost[j]]
        positions, values, clock_of = offered[j], value[j], clock[j]
        own_weight, pause, price, joule = weight[j], pause_s[j], rank[j] / capacity, energy_price[j]
        count = _list_offered(gpus_min[j], min(gpus_max[j], capacity), listed[j], gpu_counts, count_index, positions)
        offers[j] = count
        best = np.inf
        for k in range(count):
            i = positions[k]
            n = gpu_counts[i]
            idle, held = n * idle_w, price * n
            for f in range(clocks):
                step = step_s[i, f]
                if step < np.inf:
                    best = min(best, step * (own_weight + joule * (watts[i, f] - idle) + held))
        worth_of = best if best < np.inf else 0.0
        worth[j] = worth_of

        # A change costs one pause over the time H until the next change; H grows with the pause. If a job ends sooner,
        # over the time until its end. But a job that never ran pays its pause whenever it starts: what counts is the
        # pause of the job that it may stop.
        per_s = 1.0 / max(600.0, 10.0 * pause)
        ran = attained_gpu_s[j] > 0.0
        per_iteration = 1.0 / remaining[j] if sizes_known and ran and remaining[j] > 0.0 else 0.0
        for k in range(count):
            i = positions[k]
            n = gpu_counts[i]
            idle, changes = n * idle_w, n != gpus[j]
            highest = -np.inf
            for f in range(clocks):
                step = step_s[i, f]
                if step == np.inf:
                    continue
                speed = 1.0 / step
                gain = worth_of * speed - joule * (watts[i, f] - idle)
                if changes:
                    gain /= 1.0 + pause * max(per_s, speed * per_iteration)
                if gain > highest:
                    highest = gain
                    clock_of[k] = f
            values[k] = highest


@kernel
def _next_on_hull(
    value: FloatArray, offered: IntArray, offers: int, gpu_counts: IntArray, at: int
) -> tuple[int, float]:
    """Return the next GPU count to offer a job, as a position in ``offered`` (-1: none), and the gain per added GPU.

    It is the count to which the gain per added GPU is largest: the next corner of the upper concave hull.

    Args:
        value: What the job gains from each GPU count that it is offered; ``-inf`` where it cannot run.
        offered: Positions of these counts in ``gpu_counts``.
        offers: Number of these counts.
        gpu_counts: The GPU counts.
        at: Position in ``offered`` of the count that the job has already; -1 for no GPU.
    """
    base_n = 0 if at < 0 else gpu_counts[offered[at]]
    base_v = 0.0 if at < 0 else value[at]
    best = -1
    best_slope = 0.0
    for k in range(at + 1, offers):
        if value[k] == -np.inf:
            continue
        slope = (value[k] - base_v) / (gpu_counts[offered[k]] - base_n)
        # ≥ takes the farther of two corners on one line: fewer segments of the same hull
        if slope > 0.0 and slope >= best_slope:
            best_slope = slope
            best = k
    return best, best_slope


@kernel
def _sink(heap: IntArray, slope: FloatArray, count: int, at: int) -> None:
    """Move entry ``at`` of a heap of ``count`` jobs down to its place.

    The job with the largest ``slope`` is first; among equals, the job with the lower row.
    """
    job = heap[at]
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and _before(slope, heap[child + 1], heap[child]):
            child += 1
        if not _before(slope, heap[child], job):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = job


@kernel
def _before(slope: FloatArray, a: int, b: int) -> bool:
    return slope[a] > slope[b] or (slope[a] == slope[b] and a < b)


@kernel
def sell(
    value: FloatArray,
    clock: IntArray,
    offers: IntArray,
    offered: IntArray,
    gpu_counts: IntArray,
    capacity: int,
    gpus: IntArray,
    chosen: IntArray,
    slope: FloatArray,
    places: IntArray,
) -> float:
    """Give out GPUs to J jobs, each time to the job with the largest gain per added GPU.

    The step is number 4 of docs/policies.md, "prices".

    Args:
        value: ``[J, N]`` what each job gains per second from each GPU count that it is offered (`value_counts`).
        clock: ``[J, N]`` position of the clock with this gain.
        offers, offered: ``[J]`` how many counts each job is offered, and ``[J, N]`` their positions in ``gpu_counts``.
        gpu_counts: ``[N]`` GPU counts.
        capacity: How many GPUs to give out.
        gpus: ``[J]`` zeros; result: the GPUs that each job gets.
        chosen: ``[J]`` result: position of each job's clock; unchanged for a job without GPUs.
        slope, places: ``[J]`` and ``[3, J]`` working memory.

    Returns:
        The price of a GPU: the last gain per added GPU if all GPUs are used; 0 if some GPUs are left.
    """
    jobs = value.shape[0]
    level, corner, heap = places[0], places[1], places[2]
    count = 0  # jobs in the heap
    for j in range(jobs):
        level[j] = -1
        corner[j], slope[j] = _next_on_hull(value[j], offered[j], offers[j], gpu_counts, -1)
        if corner[j] >= 0:
            heap[count] = j
            count += 1
    for at in range(count // 2 - 1, -1, -1):
        _sink(heap, slope, count, at)
    free = capacity
    spot = 0.0
    while count > 0 and free > 0:
        j = heap[0]
        extra = gpu_counts[offered[j, corner[j]]] - gpus[j]
        if extra <= free:
            level[j] = corner[j]
            gpus[j] += extra
            free -= extra
            spot = slope[j]
            corner[j], slope[j] = _next_on_hull(value[j], offered[j], offers[j], gpu_counts, level[j])
            if corner[j] < 0:
                count -= 1
                heap[0] = heap[count]
            _sink(heap, slope, count, 0)
            continue
        # It does not fit: take the most valuable smaller level that does, and close this job.
        count -= 1
        heap[0] = heap[count]
        _sink(heap, slope, count, 0)
        now = 0.0 if level[j] < 0 else value[j, level[j]]
        best = -1
        for k in range(level[j] + 1, corner[j]):
            fits = gpu_counts[offered[j, k]] - gpus[j] <= free
            if fits and value[j, k] > (now if best < 0 else value[j, best]):
                best = k
        if best >= 0:
            extra = gpu_counts[offered[j, best]] - gpus[j]
            spot = (value[j, best] - now) / extra
            free -= extra
            level[j] = best
            gpus[j] += extra
    for j in range(jobs):
        if level[j] >= 0:
            chosen[j] = clock[j, level[j]]
    return spot if free == 0 else 0.0


@kernel
def allocate(
    remaining: FloatArray,
    attained_gpu_s: FloatArray,
    weight: FloatArray,
    pause_s: FloatArray,
    gpus_now: IntArray,
    gpus_min: IntArray,
    gpus_max: IntArray,
    cost: IntArray,
    listed: BoolArray,
    gpu_counts: IntArray,
    count_index: IntArray,
    step_time_s: FloatArray,
    power_w: FloatArray,
    idle_w: float,
    capacity: int,
    energy_price: FloatArray,
    sizes_known: bool,
    gpus: IntArray,
    clock: IntArray,
    worth: FloatArray,
    value: FloatArray,
    best_clock: IntArray,
    offered: IntArray,
    by_job: FloatArray,
    places: IntArray,
) -> float:
    """Allocate GPUs and clocks to jobs by prices, and return the price of a GPU (0 if some GPUs are left).

    This calls `value_counts` and `sell`, whose arguments it takes; ``gpus_now`` is the GPU count that each job
    has now. The results are ``gpus``, ``clock`` and ``worth``, ``[J]`` each for J jobs; ``gpus`` must be zeros before.
    The last five arguments are working memory: ``[J, N]`` three times for N GPU counts, ``[2, J]`` and ``[4, J]``. The
    first row of ``by_job`` must hold the ranks.
    """
    rank, slope, offers = by_job[0], by_job[1], places[3]
    value_counts(
        rank,
        remaining,
        attained_gpu_s,
        weight,
        pause_s,
        gpus_now,
        gpus_min,
        gpus_max,
        cost,
        listed,
        gpu_counts,
        count_index,
        step_time_s,
        power_w,
        idle_w,
        capacity,
        energy_price,
        sizes_known,
        offers,
        offered,
        value,
        best_clock,
        worth,
    )
    return sell(value, best_clock, offers, offered, gpu_counts, capacity, gpus, clock, slope, places)
