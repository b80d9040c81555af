"""Start waiting jobs on free GPUs when a job or a node comes between two decisions; no running job is touched.

Decisions are an interval apart because each may change running jobs, and every change costs a pause. A first start, and
a retry, on free GPUs costs nobody a pause, so it need not wait for the next decision:

1. Which jobs start: only those that a decision at this very moment would start. The policy, with all rules around it,
   is asked about all jobs as in a decision. So its order, budgets, protection, turns and stages hold.
   A preempted job waits, too: to go on costs it a pause.
2. On how many GPUs, at which clock: what that decision would give. The next one then finds nothing to change.
3. If these jobs want more than is free, because the decision would take GPUs from running jobs, the policy is asked
   once more, about these jobs and the free GPUs alone; no job gets more than the decision would give it, and no job
   starts that the decision after that would change again.
4. Running jobs keep their clocks, too, so watts are counted again: a job with which a budget's limit or a power cap
   would be exceeded waits for the decision, and so do all jobs behind it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.cap import STEP_S
from powerflow.scheduler.caps.book import CapBook
from powerflow.scheduler.check import PolicyError, check_answer
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.pool import Decision, Pool
from powerflow.scheduler.rules.power_limit import added_w, within_limits


@dataclass(frozen=True, slots=True, eq=False)
class WattRoom:
    """Watts that power caps leave to jobs that start.

    Attributes:
        left_w: By scope that has a cap, watts that it may still draw. What is used is taken off.
        watts: ``[K, N, F]`` watts to reckon with in the pool.
        gpu_idle_w: Watts of one idle GPU: these are drawn already.
    """

    left_w: dict[str, float]
    watts: FloatArray
    gpu_idle_w: float

    def take(self, cost: int, level: int, clock: int, gpus: int) -> bool:
        """Take off the watts that a job adds; if a scope has less left, return False and take nothing.

        Where the job will stand is not known yet: all its watts count in every scope.
        """
        above_w = max(0.0, float(self.watts[cost, level, clock]) - gpus * self.gpu_idle_w)
        if not all(above_w <= left_w for left_w in self.left_w.values()):
            return False
        for scope in self.left_w:
            self.left_w[scope] -= above_w
        return True


class Early:
    """Early starts at one moment.

    Args:
        pools, policies: By GPU type.
        ledger: The scheduler's.
        caps: The power caps it knows of.
    """

    def __init__(
        self, pools: Mapping[str, Pool], policies: Mapping[str, Policy], ledger: Ledger, caps: CapBook
    ) -> None:
        self._pools = pools
        self._policies = policies
        self._ledger = ledger
        self._caps = caps

    def somebody_fits(self) -> bool:
        """Return whether some waiting job was not preempted and could run on the free GPUs of a pool."""
        room = max(self._room(pool) for pool in self._pools.values())
        return room > 0 and any(self._fits(pool, room) for pool in self._pools.values())

    def start(self, ask: Callable[[Pool, float], Decision], now_s: float, due_s: float) -> list[tuple[Pool, Decision]]:
        """Let waiting jobs take GPUs that are free.

        Args:
            ask: Asks the policy of a pool about all its jobs.
            now_s: The present.
            due_s: When the next decision is due: no cap may be exceeded until then.

        Returns:
            The pools in which jobs have started.
        """
        started = []
        caps = self._caps
        left_w = caps.left_w(now_s, max(due_s, now_s + STEP_S + caps.lead_s())) if caps else {}
        for name, pool in self._pools.items():
            room = self._room(pool)
            if room <= 0 or not self._fits(pool, room):
                continue
            watts = WattRoom(left_w, caps.watts(pool), pool.gpu_idle_w) if left_w else None
            decision = choose_starts(self._policies[name], ask(pool, now_s), self._ledger, room, watts)
            if decision is not None:
                pool.start(decision, self._ledger, now_s)
                if decision.changed:
                    started.append((pool, decision))
        return started

    def _room(self, pool: Pool) -> int:
        """Return the free GPUs; under a cap no node is woken for them, because an awake node draws watts, too."""
        return pool.occupancy.free + (0 if self._caps else pool.occupancy.asleep)

    def _fits(self, pool: Pool, room: int) -> bool:
        slots = np.array(pool.active, np.int64)
        waits = slots[(self._ledger.rows["gpus"][slots] == 0) & ~self._ledger.preempted[slots]]
        return bool((self._ledger.rows["gpus_min"][waits] <= room).any())


def choose_starts(policy: Policy, asked: Decision, ledger: Ledger, room: int, caps: WattRoom | None) -> Decision | None:
    """Choose which jobs start now, on how many GPUs and at which clock.

    Args:
        policy: Of the pool.
        asked: What it says about all jobs now (`Pool.ask`).
        ledger: The scheduler's.
        room: GPUs that are free.
        caps: What power caps leave; None: there are no caps.

    Returns:
        The same view with an answer in which all other jobs keep what they have; None if nobody starts.
    """
    view, wish, jobs = asked.view, asked.answer, asked.view.jobs
    starts = (jobs["gpus"] == 0) & (wish.gpus > 0) & ~ledger.preempted[asked.slots]
    if not starts.any():
        return None
    answer = Allocation(jobs["gpus"].astype(np.int64), jobs["clock"].astype(np.int64), wish.gpu_price, wish.worth)
    gpus, clock = wish.gpus, wish.clock
    if gpus[starts].sum() > room:
        gpus, clock = _share(policy, view, wish, starts, room)
    rows = np.flatnonzero(starts & (gpus > 0))
    for row in rows[np.lexsort((jobs["id"][rows], ~jobs["protected"][rows]))].tolist():
        answer.gpus[row], answer.clock[row] = gpus[row], clock[row]
        level = int(view.count_index[gpus[row]])
        if not within_limits(view, answer) or not (
            caps is None or caps.take(int(jobs["cost"][row]), level, int(clock[row]), int(gpus[row]))
        ):
            answer.gpus[row] = 0
            break
    return Decision(view, answer, answer, asked.slots) if (answer.gpus != jobs["gpus"]).any() else None


def _share(policy: Policy, view: View, wish: Allocation, starts: BoolArray, room: int) -> tuple[IntArray, IntArray]:
    """Share out the free GPUs among jobs that a decision would start: GPUs and clocks, ``[J]`` each.

    Copies of the policy are asked: it has seen all jobs at this moment, and part of them, or a guess, is no news.
    """
    gpus, clock = np.zeros(len(starts), np.int64), wish.clock.copy()
    jobs, wished = view.jobs[starts], wish.gpus[starts]
    jobs["gpus_max"] = np.minimum(jobs["gpus_max"], wished)
    jobs.flags.writeable = False
    held = Allocation(view.jobs["gpus"].astype(np.int64), view.jobs["clock"].astype(np.int64))
    limit_w = {scope: max(0.0, watts - added_w(view, held, scope)) for scope, watts in view.limit_w.items()}
    part_view = replace(view, jobs=jobs, capacity=room, limit_w=limit_w)
    part = copy.deepcopy(policy).decide(part_view)
    try:
        check_answer(policy.name, part_view, part)
    except PolicyError:  # it cannot share out a part of the GPUs: at the decision it is asked about all of them
        return gpus, clock
    # with fewer, a promise would be broken; and who keeps its GPUs once it runs would never have more
    whole = jobs["protected"] | jobs["keeps"]
    gpus[starts] = np.where(whole & (part.gpus != wished), 0, part.gpus)
    clock[starts] = np.where(part.gpus == wished, wish.clock[starts], part.clock)
    return np.where(_next(policy, view, gpus, clock) == gpus, gpus, 0), clock


def _next(policy: Policy, view: View, gpus: IntArray, clock: IntArray) -> IntArray:
    """GPUs that a decision would give if jobs had started on these, ``[J]``."""
    jobs, on = view.jobs.copy(), gpus > 0
    jobs["gpus"][on], jobs["clock"][on], jobs["since_s"][on] = gpus[on], clock[on], view.now_s
    jobs.flags.writeable = False
    return copy.deepcopy(policy).decide(replace(view, jobs=jobs)).gpus
