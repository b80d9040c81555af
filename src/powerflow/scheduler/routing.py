"""Choose a pool for jobs that may use several GPU types: for waiting jobs, and for running jobs where a move pays.

A running job may move to GPUs that are idle after a decision: no job of their pool wants them now. It starts there from
its checkpoint, after a pause. So the move must save more than twice what the pause costs:

    N · (c_here − c_there) > 2 · R · w        c = w·T + λ_E·T·D        N = min(remaining, H / T_here)

c is the cost of an iteration: T seconds per iteration, D watts above idle draw, w the weight and λ_E the energy price.
R is the pause. The saving is counted over the horizon H, as in `powerflow.scheduler.rules.hysteresis`: idle GPUs may
soon be wanted by other jobs. Each move must gain, and a job runs for a while between two moves. So jobs do not move
back and forth.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.cluster.packed_pool import UP
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.policy.protocol import Policy, View
from powerflow.scheduler.check import check_answer
from powerflow.scheduler.differences import Decision
from powerflow.scheduler.early import WattRoom, choose_starts
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.rules.hysteresis import HORIZON_PAUSES, HORIZON_S, RUN_PAUSES

#: Shortest pause to plan a move with, seconds. A job that rescales in place keeps some ranks and pauses for a second,
#: but all its ranks start anew on another GPU type.
LEAST_MOVE_PAUSE_S = 60.0
#: Most jobs that one decision tries to move to the idle GPUs of one pool.
TRIES = 3


def best_pool(pools: Mapping[str, Pool], job: Job, demand: Mapping[str, int]) -> Pool:
    """Return the pool in which a job should end first.

    This is the pool with the smallest product of two numbers: the job's shortest step time there, and the GPUs that
    jobs hold or wait for, divided by the GPUs that are up (at least 1).

    Args:
        pools: The pools, by GPU type.
        job: The job.
        demand: By GPU type, how many GPUs the other jobs of the pool hold or wait for.
    """

    def expected_s(pool: Pool) -> float:
        row = pool.costs.row(job.cost_class, job.gpus_allowed)
        step_time_s, _ = pool.costs.arrays()
        counts = pool.axes.gpu_counts
        usable = (counts >= job.gpus_min) & (counts <= max(job.gpus, job.gpus_min))
        if pool.occupancy.up == 0 or not usable.any():
            return math.inf
        crowd = max(1.0, (demand[pool.gpu_type] + job.gpus) / pool.occupancy.up)
        return crowd * float(step_time_s[row, usable, -1].min())

    return min(pools.values(), key=expected_s)


def reroutes(pools: Mapping[str, Pool], ledger: Ledger, pool_of: Mapping[int, Pool]) -> Iterator[tuple[int, Pool]]:
    """Yield each waiting job that should move to another pool, together with its new pool.

    Jobs are considered in order of submission, as if the jobs before them had already moved. A job that requests a
    certain GPU type stays in its pool.

    Args:
        pools: The pools, by GPU type.
        ledger: The active jobs.
        pool_of: The present pool of each job, by slot (row of the ledger).

    Yields:
        The slot of the job, and its new pool.
    """
    if len(pools) == 1:
        return
    demand = {name: pool.demand(ledger) for name, pool in pools.items()}
    for slot in sorted(pool_of, key=ledger.rows["id"].__getitem__):
        job, pool = ledger.job(slot), pool_of[slot]
        if ledger.rows["gpus"][slot] or job.gpu_type is not None:
            continue
        demand[pool.gpu_type] -= job.gpus  # demand of the other jobs only
        best = best_pool(pools, job, demand)
        demand[best.gpu_type] += job.gpus
        if best is not pool:
            yield slot, best


@dataclass(frozen=True, slots=True)
class Move:
    """Move of a running job to another GPU type.

    Attributes:
        slot: The job's row in the ledger.
        gpus: GPU count there.
        clock: Position of the clock in the clocks of the new pool.
        gpu_price: Price of a GPU there.
    """

    slot: int
    gpus: int
    clock: int
    gpu_price: float


class TypeMoves:
    """Find running jobs for which a move to idle GPUs of another type pays.

    These jobs never move: protected jobs, jobs that keep their GPUs until they end, jobs of unmanaged projects, jobs
    that request a GPU type, jobs that must leave their GPUs anyway, and jobs whose GPUs have just changed.

    Args:
        pools: The pools, by GPU type.
        ledger: The active jobs.
        energy: The energy prices.
        sizes_known: True if the remaining work of jobs is known.
        now_s: The time.
        busy: Slots (rows of the ledger) of jobs that change already.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        ledger: Ledger,
        energy: EnergyTerms,
        sizes_known: bool,
        now_s: float,
        busy: Set[int],
    ) -> None:
        self._pools, self._ledger, self._energy = pools, ledger, energy
        self._sizes_known, self._now_s, self._busy = sizes_known, now_s, busy

    def find(self, to: Pool, policy: Policy, terms: EnergyTerms, watts: WattRoom | None) -> Move | None:
        """Return a move to idle GPUs of a pool; None if no move pays.

        A copy of the pool's policy, with all its rules, decides about the job as about a waiting job of the pool. Its
        answer says on how many GPUs, and at which clock, the job runs there, within budgets and power caps.

        Args:
            to: The pool with idle GPUs.
            policy: The policy of this pool.
            terms: The energy prices and limits in watts of this pool.
            watts: The watts that power caps leave; None without power caps.
        """
        free = to.occupancy.free
        if free == 0:
            return None
        slots = self._candidates(to)
        if not len(slots):
            return None
        costs = np.where(self._usable(to, slots, free), self._costs_there(to, slots), np.inf)
        gains = self._gain(slots, costs.min(axis=(1, 2)))
        order = np.argsort(-gains, kind="stable")[:TRIES]
        for j in order[gains[order] > 0].tolist():
            asked = self._ask(to, policy, terms, int(slots[j]))
            at = int(np.flatnonzero(asked.slots == slots[j])[0])
            chosen = choose_starts(policy, asked, self._ledger, free, watts)
            gpus = int(chosen.answer.gpus[at]) if chosen is not None else 0
            if chosen is None or not gpus:
                continue
            clock = int(chosen.answer.clock[at])
            if self._gain(slots[j : j + 1], costs[j : j + 1, to.count_index[gpus], clock])[0] > 0:
                return Move(int(slots[j]), gpus, clock, asked.answer.gpu_price)
        return None

    def _candidates(self, to: Pool) -> IntArray:
        """Return the slots of the running jobs of other pools that may move to a pool."""
        rows = self._ledger.rows
        found: list[int] = []
        for pool in self._pools.values():
            if pool is to or not pool.active:
                continue
            stays = pool.guarded | pool.unmanaged | pool.evicted | self._busy
            found += [slot for slot in pool.active if slot not in stays and self._ledger.job(slot).gpu_type is None]
        slots = np.array(found, np.int64)
        ran_s = self._now_s - rows["since_s"][slots]
        return slots[(rows["gpus"][slots] > 0) & (ran_s >= RUN_PAUSES * self._pause_s(slots))]

    def _pause_s(self, slots: IntArray) -> FloatArray:
        pause_s: FloatArray = np.maximum(self._ledger.rows["pause_s"][slots], LEAST_MOVE_PAUSE_S)
        return pause_s

    def _usable(self, to: Pool, slots: IntArray, free: int) -> BoolArray:
        """Return which GPU counts of a pool each of K jobs could use at once, ``[K, N, 1]`` for N counts.

        A count that fits into one node must fit into the GPUs that are idle on one node; else the job would be spread.
        """
        rows, counts, occupancy = self._ledger.rows[slots], to.axes.gpu_counts, to.occupancy
        widest = int(occupancy.room()[occupancy.status() == UP].max())
        fits = (counts <= widest) | ((counts > to.axes.gpus_per_node) & (counts <= free))
        usable: BoolArray = fits & (counts >= rows["gpus_min"][:, None]) & (counts <= rows["gpus_max"][:, None])
        return usable[:, :, None]

    def _costs_there(self, to: Pool, slots: IntArray) -> FloatArray:
        """Return what an iteration of each of K jobs costs in a pool, ``[K, N, F]`` for N GPU counts and F clocks.

        It is ``inf`` where a job cannot run, and where a job whose owner limits its slowdown would be slower than now.
        """
        jobs = [self._ledger.job(slot) for slot in slots.tolist()]
        kinds = [to.costs.row(job.cost_class, job.gpus_allowed) for job in jobs]
        step_s, power_w = (table[kinds] for table in to.costs.arrays())
        slower = np.isfinite([job.max_slowdown for job in jobs])[:, None, None]
        step_s = np.where(slower & (step_s > self._here(slots)[0][:, None, None]), np.inf, step_s)
        above_w = power_w - to.baseline_w * to.axes.gpu_counts[:, None]
        weight, price = self._ledger.rows["weight"][slots], self._prices(slots)
        return _cost(step_s, above_w, weight[:, None, None], price[:, None, None])

    def _prices(self, slots: IntArray) -> FloatArray:
        """Return the energy price of each job, seconds per joule."""
        names = [self._ledger.projects[code] for code in self._ledger.rows["project"][slots].tolist()]
        return np.array([self._energy.price + self._energy.by_project.get(name, 0.0) for name in names])

    def _here(self, slots: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return seconds per iteration, and watts above idle draw, of K running jobs as they run now, ``[K]`` each."""
        step_s, above_w = np.empty(len(slots)), np.empty(len(slots))
        pool_of = {slot: pool for pool in self._pools.values() for slot in pool.active}
        for j, slot in enumerate(slots.tolist()):
            pool, row = pool_of[slot], self._ledger.rows[slot]
            cell = int(row["cost"]), int(pool.count_index[row["gpus"]]), int(row["clock"])
            times, power_w = pool.costs.arrays()
            step_s[j] = (times if pool.is_packed(slot) else pool.costs.spread_step_time_s())[cell]
            above_w[j] = power_w[cell] - pool.baseline_w * row["gpus"]
        return step_s, above_w

    def _gain(self, slots: IntArray, there: FloatArray) -> FloatArray:
        """Return what each of K jobs gains by a move, after twice the cost of its pause, ``[K]``, weighted seconds.

        Args:
            slots: ``[K]`` the jobs.
            there: ``[K]`` what an iteration costs there.
        """
        rows, pause_s = self._ledger.rows[slots], self._pause_s(slots)
        step_s, above_w = self._here(slots)
        here = _cost(step_s, above_w, rows["weight"], self._prices(slots))
        iterations = np.maximum(HORIZON_S, HORIZON_PAUSES * pause_s) / step_s
        if self._sizes_known:
            left = np.array([self._ledger.remaining(slot) for slot in slots.tolist()])
            iterations = np.minimum(iterations, left)
        with np.errstate(invalid="ignore"):  # inf - inf: it is believed that the job can run neither here nor there
            saved = np.where(np.isfinite(here - there), iterations * (here - there), -np.inf)
        gain: FloatArray = saved - 2.0 * pause_s * rows["weight"]
        return gain

    def _ask(self, to: Pool, policy: Policy, terms: EnergyTerms, slot: int) -> Decision:
        """Ask a copy of a pool's policy about all jobs of the pool and one more job, which waits."""
        ledger = self._ledger
        slots = np.array(sorted([*to.active, slot], key=ledger.rows["id"].__getitem__), np.int64)
        view = to.view(ledger, slots, self._now_s, terms, self._sizes_known)
        view = _as_waiting(
            view, slots == slot, to.costs.row(ledger.job(slot).cost_class, ledger.job(slot).gpus_allowed)
        )
        answer = copy.deepcopy(policy).decide(view)
        check_answer(policy.name, view, answer)
        return Decision(view, answer, answer, slots)


def _cost(step_s: FloatArray, above_w: FloatArray, weight: FloatArray, price: FloatArray) -> FloatArray:
    """Return ``T·(w + λ_E·D)``, the cost of an iteration; ``inf`` where T is ``inf``."""
    cost: FloatArray = step_s * np.maximum(weight + price * above_w, 1e-12)
    return cost


def _as_waiting(view: View, who: BoolArray, cost_row: int) -> View:
    """Return a view in which the job in ``who``, ``[J]``, waits, and has the costs of a row of the pool's tables."""
    jobs = view.jobs.copy()
    jobs["gpus"][who], jobs["clock"][who], jobs["since_s"][who], jobs["cost"][who] = 0, 0, view.now_s, cost_row
    jobs.flags.writeable = False
    return replace(view, jobs=jobs)
