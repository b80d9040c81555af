"""Provide the scheduler: it takes events and returns a plan. It has no clock, starts no threads and does no I/O.

The simulator and the live controller use the scheduler in the same way:

1. They report what has happened (`powerflow.scheduler.events`) with `Scheduler.step`.
2. They carry out the plan that `Scheduler.step` returns.
3. They call `Scheduler.step` again when something happens, and at ``plan.wake_s`` at the latest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from powerflow.cluster.spec import ClusterSpec, Node
from powerflow.cost.table import Axes
from powerflow.policy.protocol import Allocation, Policy
from powerflow.scheduler import events as e
from powerflow.scheduler.cap import CLUSTER, STEP_S
from powerflow.scheduler.caps.enforce import Capped
from powerflow.scheduler.differences import Decision
from powerflow.scheduler.early import Early, WattRoom
from powerflow.scheduler.plan import Change, Plan, Reason, Why, Wish
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.reasons import all_reasons, changes_of, pinned_reasons, wishes
from powerflow.scheduler.routing import Move, TypeMoves, reroutes
from powerflow.scheduler.rules.power_limit import PowerLimit
from powerflow.scheduler.rules.wrapper import find_wrapper
from powerflow.scheduler.state import SchedulerState

#: Events after which the cluster may draw more power although no decision was made.
_MAY_RAISE_POWER = (e.Adopted, e.CostLearned, e.NodeAdded, e.NodeRecovered, e.GpuRecovered)
#: Events that bring waiting jobs or free GPUs, so that a job may start before the next decision.
_ARRIVALS = (e.Submitted, e.Failed, e.NodeFailed, e.NodeAdded, e.NodeRecovered, e.GpuFailed, e.GpuRecovered)


class Scheduler(SchedulerState):
    """Decide for all jobs together how many GPUs, which clock and which GPUs each job gets.

    Args:
        cluster: The nodes.
        axes: By GPU type, the GPU counts and clocks to choose from.
        idle_w: By GPU type, the watts of one idle GPU.
        policy: The policy, with its rules. Each pool gets a copy of this policy.
        energy_price: Energy price λ_E, seconds per joule.
        sizes_known: True if the scheduler has a number of iterations for each job.
        interval_s: Shortest time between two decisions, seconds. Between two decisions, waiting jobs may start on free
            GPUs, but running jobs do not change.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        axes: Mapping[str, Axes],
        idle_w: Mapping[str, float],
        policy: Policy,
        *,
        energy_price: float = 0.0,
        sizes_known: bool = True,
        interval_s: float = 60.0,
    ) -> None:
        super().__init__(cluster, axes, idle_w, policy, energy_price, sizes_known)
        self.policy_name = policy.name
        self.period_s = policy.period_s
        self.interval_s = interval_s
        self._steps = 0
        self._capped = Capped()  # of the last decision

    def nodes(self) -> Sequence[Node]:
        """Return the present nodes. Any thread may call this."""
        return [node for pool in self.pools.values() for node in pool.occupancy.nodes]

    def step(self, now_s: float, events: Sequence[e.Event]) -> Plan:
        """Apply events, make a decision about all jobs if the time for one has come, and return the plan.

        Args:
            now_s: The present time, seconds; not earlier than in the last call.
            events: What has happened since the last call, in order. Events that are repeated or come too late are
                ignored; the plan lists them.

        Raises:
            PolicyError: The policy's allocation cannot be carried out.
        """
        self._steps += 1
        ignored = [why for event in events if (why := self._apply(event, now_s))]
        if self.caps and self._cap_due_s > now_s and any(isinstance(event, _MAY_RAISE_POWER) for event in events):
            self._cap_due_s = -math.inf if self.caps.breached(now_s) else self._cap_due_s
        due_s = self._due_s()
        if now_s >= due_s:
            self._changed = False
            self._decided_s, self._decided_on = now_s, self.energy
            self._reroute(now_s)
            decisions = self._decide(now_s)
            self.limited = self._limited_in(decisions)
            return self._plan(now_s, decisions, ignored, moves=self._move_types(decisions, now_s))
        early = Early(self.pools, self.policies, self.ledger, self.caps)
        if not (any(isinstance(event, _ARRIVALS) for event in events) and early.somebody_fits()):
            return Plan(now_s, False, (), due_s, ignored=ignored)
        self._reroute(now_s)
        started = early.start(self._ask, now_s, due_s)
        if not started:
            return Plan(now_s, False, (), due_s, ignored=ignored)
        if self.caps:
            self._capped = replace(self._capped, power_w=self.caps.drawn_w(CLUSTER))
        return self._plan(now_s, started, ignored, early=True)

    def _due_s(self) -> float:
        """Return when the next decision is due; ``inf`` if nothing needs a decision."""
        if self._changed:
            due_s = self._decided_s + self.interval_s
        else:
            due_s = min([pool.sleepers.due_s() for pool in self.pools.values() if pool.sleepers], default=math.inf)
            if self.period_s is not None and self._pool_of:
                due_s = min(due_s, self._decided_s + self.period_s)
            due_s = max(due_s, self._decided_s + self.interval_s)
        return min(due_s, self._cap_due_s)  # power caps do not wait for the interval

    def _reroute(self, now_s: float) -> None:
        """Choose the pool again for each waiting job that may use several GPU types.

        More jobs like a new job will probably come to the pool that is chosen for it first.
        """
        for slot, pool in reroutes(self.pools, self.ledger, self._pool_of):
            self._move_to(slot, pool)
        for job_id in self._unrouted:
            if (known := self.ledger.slot_of.get(job_id)) is not None:
                self._pool_of[known].expect_more(self.ledger, known, now_s)
        self._unrouted.clear()

    def _decide(self, now_s: float) -> list[tuple[Pool, Decision]]:
        """Ask the policy of each pool, and place its answer on nodes, within all power caps."""
        pools = [pool for pool in self.pools.values() if pool.active or pool.sleepers]
        self.caps.forget(now_s)
        if not self.caps:
            self._cap_due_s, self._capped = math.inf, Capped()
            return [
                (
                    pool,
                    pool.decide(self.policies[pool.gpu_type], self.ledger, now_s, self._terms(pool), self.sizes_known),
                )
                for pool in pools
            ]
        decisions, self._capped = self._enforcer.decide(
            pools, lambda pool, without: self._ask(pool, now_s, without), now_s
        )
        self._cap_due_s = self.caps.next_s(now_s)
        return decisions

    def _ask(self, pool: Pool, now_s: float, without_gpus: int = 0) -> Decision:
        policy, terms = self.policies[pool.gpu_type], self._terms(pool)
        most = self._enforcer.most(pool, now_s) if self.caps else None
        return pool.ask(policy, self.ledger, now_s, terms, self.sizes_known, without_gpus, most)

    def _move_types(self, decisions: Sequence[tuple[Pool, Decision]], now_s: float) -> list[Change]:
        """Move running jobs to idle GPUs of other types where this pays, at most one job to each pool.

        Jobs that the decisions change already do not move.
        """
        if len(self.pools) == 1:
            return []
        left_w = self.caps.left_w(now_s, now_s + self.interval_s + STEP_S + self.caps.lead_s()) if self.caps else {}
        busy = {changed[0] for _, decision in decisions for changed in decision.changed}
        moves = TypeMoves(self.pools, self.ledger, self.energy, self.sizes_known, now_s, busy)
        changes = []
        for name, pool in self.pools.items():
            watts = WattRoom(left_w, self.caps.watts(pool), pool.gpu_idle_w) if left_w else None
            move = moves.find(pool, self.policies[name], self._terms(pool), watts)
            if move is not None:
                changes.append(self._move_type(move, pool, now_s))
        if changes:
            self._changed = True  # for the jobs that can use the GPUs left behind
            if self.caps:
                self._capped = replace(self._capped, power_w=self.caps.drawn_w(CLUSTER))
        return changes

    def _move_type(self, move: Move, to: Pool, now_s: float) -> Change:
        """Move a running job to idle GPUs of another pool."""
        ledger, slot = self.ledger, move.slot
        had = int(ledger.rows["gpus"][slot])
        had_mhz = self._pool_of[slot].clocks_mhz[int(ledger.rows["clock"][slot])]
        self._stop(slot, now_s)
        self._move_to(slot, to)
        slots = np.array(to.active, np.int64)
        view = to.view(ledger, slots, now_s, self._terms(to), self.sizes_known)
        answer = Allocation(view.jobs["gpus"].astype(np.int64), view.jobs["clock"].astype(np.int64), move.gpu_price)
        answer.gpus[slots == slot], answer.clock[slots == slot] = move.gpus, move.clock
        to.start(Decision(view, answer, answer, slots), ledger, now_s)
        has_mhz, packed, wait_s = to.clocks_mhz[move.clock], to.is_packed(slot), to.wait_s(slot, now_s)
        reason = Reason(Why.MOVED_TYPE, had, move.gpus, had_mhz, has_mhz, "", move.gpu_price)
        job_id = ledger.job(slot).id
        return Change(job_id, slot, to.gpu_type, move.gpus, move.clock, has_mhz, packed, True, wait_s, reason)

    def _limited_in(self, decisions: Sequence[tuple[Pool, Decision]]) -> frozenset[str]:
        """Return the projects ("": the cluster) whose energy budget set a limit in watts that changed the decisions."""
        if not self.energy.limit_w:
            return frozenset()
        asked = [pool.gpu_type for pool, decision in decisions if not decision.view.jobs["unmanaged"].all()]
        limits = [find_wrapper(self.policies[name], PowerLimit) for name in asked]
        return frozenset().union(*(limit.binding for limit in limits if limit is not None))

    def _plan(
        self,
        now_s: float,
        decisions: Sequence[tuple[Pool, Decision]],
        ignored: Sequence[str],
        *,
        early: bool = False,
        moves: Sequence[Change] = (),
    ) -> Plan:
        changes: list[Change] = []
        prices: dict[str, float] = {}
        for pool, decision in decisions:
            changes += changes_of(self.policies[pool.gpu_type], pool, decision, self.ledger)
            prices[pool.gpu_type] = decision.answer.gpu_price
        # jobs give GPUs up before others take them, so that the changes can be carried out one by one
        changes.sort(key=lambda change: change.gpus - change.reason.gpus_before)
        changes += moves  # to GPUs that are idle after all other changes

        step = self._steps

        def require_same_step() -> None:
            if self._steps != step:
                raise RuntimeError("the scheduler has taken another step: ask a plan for reasons before that")

        def reasons() -> Mapping[str, Reason]:
            require_same_step()
            known = {change.job_id: change.reason for change in changes}
            if early:
                return known
            found: dict[str, Reason] = {}
            for pool in self.pools.values():
                found |= pinned_reasons(pool, self.ledger)
            for pool, decision in decisions:
                names = [self.ledger.job(int(slot)).id for slot in decision.slots]
                found |= all_reasons(self.policies[pool.gpu_type], decision, self.ledger, known, names)
            return found

        def wished() -> Mapping[str, Wish]:
            require_same_step()
            return {
                self.ledger.job(slot).id: wish
                for pool, decision in decisions
                for slot, wish in wishes(self.policies[pool.gpu_type], pool, decision).items()
            }

        return Plan(
            now_s,
            True,
            changes,
            self._due_s(),
            prices,
            ignored,
            asleep=[node for _, decision in decisions for node in decision.asleep],
            woken=[node for _, decision in decisions for node in decision.woken],
            power_w=self._capped.power_w,
            cap_w=self._capped.cap_w,
            watt_price=self._capped.watt_price,
            notices=self._capped.notices,
            early=early,
            reasons=reasons,
            wishes=wished,
        )
