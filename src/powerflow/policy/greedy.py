"""Implement PowerFlow's published algorithm: buy speed where it costs the least energy."""

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
    """Policy that starts every job on its fewest GPUs at its energy-minimal clock, then repeats the best move.

    Gu et al., arXiv 2304.06381 (PowerFlow), as far as the paper describes it. A move takes one job to at least twice
    its GPUs (at the clock that is then best) or to a higher clock. The best move has the highest rank

        ln(T/T′) / ln(E′/E)         T seconds and E joules per iteration, before and after (′) the move

    Moves that lower both come first. Moves end when none reaches the threshold or fits. If there are more jobs than
    GPUs, those with the shortest remaining time on their fewest GPUs start (in order of submission if sizes are
    unknown).

    Args:
        threshold: Lowest rank of a useful move. 0 uses all GPUs and clocks that save any time; 1 stops where E·T begins
            to grow; large values keep the energy-minimal configuration. Varying it gives the policy's energy–JCT
            frontier.
    """

    needs_sizes = False
    period_s: float | None = None

    def __init__(self, threshold: float = 1.0) -> None:
        if not threshold >= 0:
            raise InputError(f"threshold {threshold!r} is negative", fix="give a number ≥ 0; 0 minimises time")
        self.threshold = float(threshold)
        self.name = f"greedy:{threshold:g}"

    def decide(self, view: View) -> Allocation:
        """Start jobs, then make moves in order of rank."""
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
    """Return rank, level and clock of a job's best move within ``free`` GPUs; rank -1 if none saves time.

    ``job`` is the row of its costs in the logarithms ``[K, N, F]``.
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
    """Make the best moves: change each job's ``level`` in place and return each job's clock. Ties: lower row."""
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
