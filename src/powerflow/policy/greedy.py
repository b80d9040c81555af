"""Provide PowerFlow's published algorithm: it speeds up the jobs for which a speed-up costs the least energy."""

from __future__ import annotations

import heapq

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.kernel import array_kernel
from powerflow.policy.levels import by_arrival, by_key, feasible, least_levels, step_times, take_what_fits
from powerflow.policy.protocol import Allocation, View

#: Rank of a move that saves both time and energy, higher than any ratio.
SAVES_BOTH = 1e9


class Greedy:
    """Start each job on its fewest GPUs at the clock with the least energy, then make the best move again and again.

    Source: Gu et al., arXiv 2304.06381 (PowerFlow), as far as the paper describes the algorithm. A move gives one job
    at least twice its GPUs, at the clock that is then best, or a higher clock. The best move has the highest rank

        ln(T/T′) / ln(E′/E)         T seconds and E joules per iteration before the move, T′ and E′ after the move

    Moves that save both time and energy come first. The moves end when no move reaches the threshold or fits on the
    free GPUs. If there are more jobs than GPUs, the jobs with the shortest remaining time on their fewest GPUs start;
    if sizes are unknown, jobs start in order of submission.

    Args:
        threshold: Lowest rank of a move that is made. With 0, all moves that save time are made. With 1, moves end
            where E·T begins to grow. With a large value, jobs stay where they use the least energy. Different
            thresholds give the policy's frontier of energy and JCT.

    Raises:
        InputError: The threshold is negative.
    """

    needs_sizes = False
    period_s: float | None = None

    def __init__(self, threshold: float = 1.0) -> None:
        if not threshold >= 0:
            raise InputError(f"threshold {threshold!r} is negative", fix="give a number ≥ 0; 0 minimises time")
        self.threshold = float(threshold)
        self.name = f"greedy:{threshold:g}"

    def decide(self, view: View) -> Allocation:
        """Return an allocation: jobs start on their fewest GPUs, then get more GPUs or a higher clock, best first."""
        allocation = view.nothing()
        counts = view.gpu_counts
        times = step_times(view)
        allowed = feasible(view, times)
        least = least_levels(allowed)
        rows = np.arange(len(times))
        order = by_key(view, view.jobs["remaining"] * times[rows, least]) if view.sizes_known else by_arrival(view)
        started = take_what_fits(counts[least], order[least[order] >= 0], view.capacity)
        level = np.where(started > 0, least, -1).astype(np.int64)
        with np.errstate(divide="ignore", invalid="ignore"):  # power is undefined where a class cannot run
            log_time, log_energy = np.log(view.step_time_s), np.log(view.step_time_s * view.power_w)
        allocation.clock = _climb(
            log_time,
            log_energy,
            view.jobs["cost"].astype(np.int64),
            allowed,
            counts,
            level,
            view.capacity - int(started.sum()),
            self.threshold,
        )
        allocation.gpus = np.where(level >= 0, counts[level], 0).astype(np.int64)
        return allocation


@array_kernel
def _best_move(
    log_time: FloatArray,
    log_energy: FloatArray,
    job: int,
    allowed: BoolArray,
    counts: IntArray,
    level: int,
    clock: int,
    free: int,
) -> tuple[float, int, int]:
    """Return the rank, GPU count and clock of a job's best move within ``free`` GPUs; the rank is -1 if there is none.

    A move must save time. GPU counts and clocks are given as positions.

    Args:
        log_time, log_energy: ``[K, N, F]`` (classes × GPU counts × clocks) logarithms of seconds and joules per
            iteration.
        job: Row of the job's class in these arrays.
        allowed: True if the job can run on each GPU count.
        counts: The GPU counts, ascending.
        level, clock: Positions of the job's present GPU count and clock.
        free: How many GPUs are free.
    """
    twice = -1
    for up in range(level + 1, len(counts)):
        if allowed[up] and counts[up] >= 2 * counts[level]:
            if counts[up] - counts[level] <= free:
                twice = up
            break
    now_time, now_energy = log_time[job, level, clock], log_energy[job, level, clock]
    rank, best_level, best_clock = -1.0, level, clock
    for to in (level, twice):
        if to < 0:
            continue
        for f in range(clock + 1 if to == level else 0, log_time.shape[2]):
            saved = now_time - log_time[job, to, f]
            if saved > 0:
                spent = log_energy[job, to, f] - now_energy
                ratio = min(saved / spent, SAVES_BOTH) if spent > 0 else SAVES_BOTH + saved
                if ratio > rank:
                    rank, best_level, best_clock = ratio, to, f
    return rank, best_level, best_clock


@array_kernel
def _climb(
    log_time: FloatArray,
    log_energy: FloatArray,
    cost: IntArray,
    allowed: BoolArray,
    counts: IntArray,
    level: IntArray,
    free: int,
    threshold: float,
) -> IntArray:
    """Make moves, the highest rank first, and return each job's clock; each job's GPU count in ``level`` is changed.

    GPU counts and clocks are given as positions. Of two moves with the same rank, the job with the lower row is first.
    """
    clock = np.full(len(level), log_time.shape[2] - 1)
    next_level = level.copy()
    next_clock = clock.copy()
    moves = [(0.0, -1)]  # (-rank, row); this entry only gives numba the types
    moves.pop()
    for row in range(len(level)):
        if level[row] >= 0:
            for f in range(len(log_time[0, 0]) - 2, -1, -1):
                if log_energy[cost[row], level[row], f] < log_energy[cost[row], level[row], clock[row]]:
                    clock[row] = f
            rank, next_level[row], next_clock[row] = _best_move(
                log_time, log_energy, cost[row], allowed[row], counts, level[row], clock[row], free
            )
            if rank >= threshold:
                moves.append((-rank, row))
    heapq.heapify(moves)
    while len(moves) > 0:
        _, row = heapq.heappop(moves)
        width = counts[next_level[row]] - counts[level[row]]
        if width <= free:
            level[row], clock[row] = next_level[row], next_clock[row]
            free -= width
        rank, next_level[row], next_clock[row] = _best_move(
            log_time, log_energy, cost[row], allowed[row], counts, level[row], clock[row], free
        )
        if rank >= threshold:
            heapq.heappush(moves, (-rank, row))
    return clock
