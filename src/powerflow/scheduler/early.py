"""Start waiting jobs on free GPUs between two decisions, when a job or node arrives. Running jobs do not change.

Two decisions are at least an interval apart, because a decision may change running jobs, and each change costs a pause.
A job that starts on free GPUs for the first time, or again after an error, costs no pause. So it need not wait for the
next decision. It starts in three steps:

1. The scheduler asks the policy, with all its rules, about all jobs, as in a decision at this moment. Only a job that
   this decision would start may start, with the GPUs and clock of this decision. So all rules are respected. Preempted
   jobs wait, because resuming costs them a pause.
2. These jobs may need more GPUs than are free, because the decision would take GPUs from running jobs. Then the
   scheduler asks the policy again, about these jobs and the free GPUs only. No job gets more GPUs than in step 1, and a
   job starts only if the next decision would not change its GPUs.
3. Running jobs keep their clocks, so the scheduler counts the watts again. If a job would exceed the limit of an energy
   budget or a power cap, this job and all jobs after it wait for the next decision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.kernel import kernel
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.cap import STEP_S
from powerflow.scheduler.caps.book import CapBook
from powerflow.scheduler.check import PolicyError, check_answer
from powerflow.scheduler.differences import Decision
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.rules.power_limit import limits_left, within_limits


@dataclass(frozen=True, slots=True, eq=False)
class WattRoom:
    """Count the watts that power caps still allow to jobs that start.

    Attributes:
        left_w: By the name of each set of nodes with a power cap (*scope*), the watts that may still be added there.
        watts: ``[K, N, F]`` watts of a job to plan with in the pool: K classes × N GPU counts × F clocks.
        gpu_idle_w: Watts of one idle GPU, which the GPU draws already.
    """

    left_w: dict[str, float]
    watts: FloatArray
    gpu_idle_w: float

    def take(self, cost: int, level: int, clock: int, gpus: int) -> bool:
        """Subtract the watts that a job adds, and return True; return False if a power cap leaves too few watts.

        It is not known yet which nodes the job will use. So all its watts count for every power cap.

        Args:
            cost: The job's row in the cost tables.
            level: Position of its GPU count in the cost tables.
            clock: Position of its clock in the cost tables.
            gpus: Its GPU count.
        """
        above_w = max(0.0, float(self.watts[cost, level, clock]) - gpus * self.gpu_idle_w)
        if not all(above_w <= left_w for left_w in self.left_w.values()):
            return False
        for scope in self.left_w:
            self.left_w[scope] -= above_w
        return True


class Early:
    """Start waiting jobs on free GPUs at one moment between two decisions.

    Args:
        pools, policies: The pools of GPUs, and the policy of each pool, by GPU type.
        ledger: The active jobs.
        caps: The power caps.
    """

    def __init__(
        self, pools: Mapping[str, Pool], policies: Mapping[str, Policy], ledger: Ledger, caps: CapBook
    ) -> None:
        self._pools = pools
        self._policies = policies
        self._ledger = ledger
        self._caps = caps

    def somebody_fits(self) -> bool:
        """Return True if the free GPUs of some pool are enough for a waiting job that was not preempted."""
        room = max(self._room(pool) for pool in self._pools.values())
        return room > 0 and any(self._fits(pool, room) for pool in self._pools.values())

    def start(self, ask: Callable[[Pool, float], Decision], now_s: float, due_s: float) -> list[tuple[Pool, Decision]]:
        """Start waiting jobs on free GPUs, and return each pool in which a job has started, with the decision.

        Args:
            ask: A function that asks the policy of a pool about all jobs of the pool at a given time.
            now_s: The present time.
            due_s: When the next decision is due. No power cap may be exceeded before this time.
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
        """Return how many GPUs are free. GPUs of sleeping nodes count too, if no power cap is set.

        With a power cap, no node is switched on for an early start, because this adds watts.
        """
        return pool.occupancy.free + (0 if self._caps else pool.occupancy.asleep)

    def _fits(self, pool: Pool, room: int) -> bool:
        rows, slots = self._ledger.rows, np.array(pool.active, np.int64)
        return bool(_somebody_fits(slots, rows["gpus"], rows["gpus_min"], self._ledger.preempted, room))


@kernel
def _somebody_fits(slots: IntArray, gpus: IntArray, gpus_min: IntArray, preempted: BoolArray, room: int) -> bool:
    """Return True if ``room`` GPUs are enough for a waiting job that was not preempted.

    Args:
        slots: ``[J]`` slot of each job: its row in the other arrays, which are columns of the ledger.
        gpus, gpus_min: GPU count now, and smallest GPU count.
        preempted: True if a decision took the job's GPUs.
        room: Number of free GPUs.
    """
    for slot in slots:  # noqa: SIM110 (compiled without arrays, a generator is not possible)
        if gpus[slot] == 0 and gpus_min[slot] <= room and not preempted[slot]:
            return True
    return False


def choose_starts(policy: Policy, asked: Decision, ledger: Ledger, room: int, caps: WattRoom | None) -> Decision | None:
    """Choose which waiting jobs start now, on how many GPUs and at which clock.

    Args:
        policy: The policy of the pool.
        asked: The policy's decision about all jobs at this moment (`Pool.ask`).
        ledger: The active jobs.
        room: Number of free GPUs.
        caps: The watts that power caps leave for jobs that start; None without power caps.

    Returns:
        A decision that starts the chosen jobs, while all other jobs keep what they have; None if no job starts.
    """
    view, wish, jobs = asked.view, asked.answer, asked.view.jobs
    starts = (jobs["gpus"] == 0) & (wish.gpus > 0) & ~ledger.preempted[asked.slots]
    if not np.count_nonzero(starts):
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
    return Decision(view, answer, answer, asked.slots) if np.count_nonzero(answer.gpus != jobs["gpus"]) else None


def _share(policy: Policy, view: View, wish: Allocation, starts: BoolArray, room: int) -> tuple[IntArray, IntArray]:
    """Share the free GPUs among the jobs that a decision would start.

    Copies of the policy are asked, because a rule in the policy may remember what it was asked, and must not take these
    questions for decisions.

    Args:
        policy: The policy with its rules.
        view: All jobs of the pool.
        wish: What a decision at this moment would give each job.
        starts: ``[J]`` which jobs the decision would start.
        room: Number of free GPUs.

    Returns:
        ``[J]`` GPU counts (0 for a job that does not start), and ``[J]`` clocks.
    """
    gpus, clock = np.zeros(len(starts), np.int64), wish.clock.copy()
    some, wished = view.of_jobs(starts), wish.gpus[starts]
    held = Allocation(view.jobs["gpus"].astype(np.int64), view.jobs["clock"].astype(np.int64))
    part_view = replace(
        some.with_jobs(gpus_max=np.minimum(some.jobs["gpus_max"], wished)),
        capacity=room,
        limit_w=limits_left(view, held),
    )
    part = copy.deepcopy(policy).decide(part_view)
    try:
        check_answer(policy.name, part_view, part)
    except PolicyError:  # it cannot decide about a part of the GPUs; the next decision is about all of them
        return gpus, clock
    # with fewer GPUs, the promise to a protected job would be broken, and a job with `keeps` would never get more
    whole = some.jobs["protected"] | some.jobs["keeps"]
    gpus[starts] = np.where(whole & (part.gpus != wished), 0, part.gpus)
    clock[starts] = np.where(part.gpus == wished, wish.clock[starts], part.clock)
    return np.where(_next(policy, view, gpus, clock) == gpus, gpus, 0), clock


def _next(policy: Policy, view: View, gpus: IntArray, clock: IntArray) -> IntArray:
    """Return the GPU counts, ``[J]``, that the next decision would give if jobs had started on ``gpus`` GPUs each."""
    jobs, on = view.jobs, gpus > 0
    started = view.with_jobs(
        gpus=np.where(on, gpus, jobs["gpus"]),
        clock=np.where(on, clock, jobs["clock"]),
        since_s=np.where(on, view.now_s, jobs["since_s"]),
    )
    return copy.deepcopy(policy).decide(started).gpus
