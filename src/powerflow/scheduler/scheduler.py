"""The scheduler. Events go in, a plan comes out; it has no clock, no thread and does no I/O.

The simulator and the live controller drive the same object: they tell what happened (`events`), carry out what the
plan says, and come back when something happens or when ``plan.wake_s`` is reached, whichever is first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.table import Axes
from powerflow.energy.terms import EnergyTerms
from powerflow.policy.protocol import Policy, View
from powerflow.scheduler.cap import CLUSTER
from powerflow.scheduler.caps.book import CapBook
from powerflow.scheduler.caps.enforce import Capped, Enforcer
from powerflow.scheduler.early import Early
from powerflow.scheduler.events import (
    Acting,
    Adopted,
    Cancelled,
    ClockSet,
    Completed,
    CostLearned,
    Event,
    Failed,
    GpuFailed,
    GpuRecovered,
    Leaving,
    NodeDrained,
    NodeFailed,
    NodeRecovered,
    PauseMeasured,
    PowerCapLifted,
    PowerCapSet,
    PowerMetered,
    Progress,
    SizeLearned,
    Submitted,
    WorkLost,
)
from powerflow.scheduler.ledger import Ledger, advance
from powerflow.scheduler.plan import Change, Plan, Reason, Wish
from powerflow.scheduler.pool import Decision, Pool
from powerflow.scheduler.reasons import all_reasons, changes_of, wishes
from powerflow.scheduler.routing import reroutes
from powerflow.scheduler.rules.power_limit import PowerLimit, exceeded
from powerflow.scheduler.rules.wrapper import layer

#: What can make a cluster draw more than was believed, without a decision.
_SUDDEN = (Adopted, CostLearned, NodeRecovered, GpuRecovered)
#: What brings a job that waits, or GPUs: it may start at once.
_ARRIVALS = (Submitted, Failed, NodeFailed, NodeRecovered, GpuFailed, GpuRecovered)


class Scheduler:
    """Keeps choosing, for all jobs together, how many GPUs, which clock, which GPUs.

    Args:
        cluster: The nodes there are.
        axes: Per GPU type, the counts and clocks to choose from.
        idle_w: Per GPU type, watts of one idle GPU.
        policy: Who gets what. Each pool of GPUs gets its own copy.
        energy_price: λ_E, seconds per joule.
        sizes_known: Whether believed sizes mean anything.
        interval_s: Decisions are at least this far apart; what fits beside free GPUs starts between two of them.
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
        self.policy_name = policy.name
        self.energy = self._decided_on = EnergyTerms(energy_price)
        self.sizes_known = sizes_known
        self.interval_s = interval_s
        self.ledger = Ledger()
        self.acting = Acting()
        #: Scopes of budgets whose limit in watts made the last decision another than prices alone would have.
        self.limited: frozenset[str] = frozenset()
        self.pools = {name: Pool(tuple(nodes), axes[name], idle_w[name]) for name, nodes in cluster.pools().items()}
        self.period_s = policy.period_s
        self.policies = {name: copy.deepcopy(policy) for name in self.pools}
        self.ended = {"completed": 0, "failed": 0, "cancelled": 0}
        self.submitted = 0
        self._pool_of: dict[int, Pool] = {}
        self._node_pool = {node.name: pool for pool in self.pools.values() for node in pool.occupancy.nodes}
        self._leaving: set[int] = set()
        self._dirty = False
        self._steps = 0
        self._decided_s = -math.inf
        self.caps = CapBook(self.pools, self.ledger)
        self._enforcer = Enforcer(self.caps, self.ledger)
        self._cap_due_s = math.inf  # -inf: at once
        self._capped = Capped()  # of the last decision

    # -- what a body asks ---------------------------------------------------------------------------------------

    @property
    def energy_price(self) -> float:
        """λ_E for everybody, seconds per joule."""
        return self.energy.price

    def slot(self, job_id: str) -> int:
        """The handle of an active job, valid until it ends; `Progress` speaks of jobs by it.

        Raises:
            KeyError: If no active job has this name.
        """
        return self.ledger.slot_of[job_id]

    def view(self, pool: Pool, now_s: float) -> View:
        """What a pool's policy is shown at this moment."""
        slots = np.array(pool.active, np.int64)
        return pool.view(self.ledger, slots, now_s, self._terms(pool), self.sizes_known)

    def slots_on(self, node: str) -> list[int]:
        """Slots of the jobs that hold GPUs on a node."""
        return [int(slot) for slot in self._node_pool[node].occupancy.owners_on(node)]

    def step(self, now_s: float, events: Sequence[Event]) -> Plan:
        """Take note of what happened, and decide if it is time to.

        Args:
            now_s: The present, seconds; never earlier than in the step before.
            events: What happened since then, in order. Repeats and late ones are ignored, and listed as such.
        """
        self._steps += 1
        ignored = [why for event in events if (why := self._note(event, now_s))]
        if self.caps and self._cap_due_s > now_s and any(isinstance(event, _SUDDEN) for event in events):
            self._cap_due_s = -math.inf if self.caps.breached(now_s) else self._cap_due_s
        due_s = self._due_s()
        if now_s >= due_s:
            self._dirty = False
            self._decided_s, self._decided_on = now_s, self.energy
            return self._decide(now_s, ignored)
        early = Early(self.pools, self.policies, self.ledger, self.caps)
        if not (any(isinstance(event, _ARRIVALS) for event in events) and early.somebody_fits()):
            return Plan(now_s, False, (), due_s, ignored=ignored)
        self._reroute()
        started = early.start(self._ask, now_s, due_s)
        if not started:
            return Plan(now_s, False, (), due_s, ignored=ignored)
        if self.caps:
            self._capped = replace(self._capped, power_w=self.caps.drawn_w(CLUSTER))
        return self._plan(now_s, started, ignored, early=True)

    # -- events -------------------------------------------------------------------------------------------------

    def _note(self, event: Event, now_s: float) -> str:
        """Take note of one event; the answer says why it could not be used, "" if it could."""
        match event:
            case Submitted():
                return self._submit(event, now_s)
            case Completed():
                return self._complete(event)
            case Progress():
                # a report that comes late must not take work back
                if len(event.slots):  # a controller of no jobs never loads kernels
                    advance(self.ledger.rows["done"], event.slots, event.done)
                return ""
            case SizeLearned():
                return self._resize(event)
            case WorkLost():
                return self._set_back(event)
            case Adopted():
                return self._adopt(event, now_s)
            case Cancelled():
                return self._end(event.job_id, "cancelled")
            case Failed():
                if event.retry:
                    return self._requeue(event.job_id, event.done, now_s)
                return self._end(event.job_id, "failed")
            case CostLearned():
                return self._learn(event)
            case EnergyTerms():
                self.energy = event
                self._dirty = self._dirty or self._terms_matter(now_s)
                return ""
            case Acting():
                self._act_on(event)
                return ""
            case Leaving():
                return self._leave(event.job_id)
            case PauseMeasured():
                return self._pause(event)
            case ClockSet():
                self.caps.move(-event.by_s)
                self._cap_due_s = -math.inf if self.caps else self._cap_due_s
                return ""
            case PowerCapSet() | PowerCapLifted():
                return self._cap(event, now_s)
            case PowerMetered():
                if self.caps.metered(event, self._pool_of, now_s, self._decided_s):
                    self._cap_due_s = -math.inf
                return ""
            case NodeFailed():
                return self._lose(event.node, now_s)
            case NodeDrained():
                return self._drain(event.node)
            case NodeRecovered():
                return self._recover(event.node)
            case GpuFailed() | GpuRecovered():
                return self._turn_gpu(event, now_s)

    def _submit(self, event: Submitted, now_s: float) -> str:
        job = event.job
        if job.id in self.ledger.slot_of:
            return f"job {job.id} is active already"
        if job.gpu_type is not None and job.gpu_type not in self.pools:
            return f"job {job.id} needs {job.gpu_type}: this cluster has none"
        # any pool it may use will do: it chooses at the next decision, knowing all others
        pool = self.pools[job.gpu_type] if job.gpu_type is not None else next(iter(self.pools.values()))
        row = pool.book.row(job.cost_class, job.gpus_allowed)
        untouched = not self.acting.acts(job.project)
        slot = self.ledger.add(job, event.believed_iterations, event.pause_s, row, now_s, untouched)
        pool.add(slot, job.protected or job.keeps, untouched)
        if not self._pool_of:  # there is nobody whom a decision could upset, however short ago the last one was
            self._decided_s = -math.inf
        self._pool_of[slot] = pool
        self.submitted += 1
        self._dirty = True
        return ""

    def _complete(self, event: Completed) -> str:
        slot = self.ledger.slot_of.get(event.job_id)
        if slot is not None and not self.sizes_known:
            row = self.ledger.rows[slot]
            iterations = float(row["done"]) if math.isnan(event.iterations) else event.iterations
            self._pool_of[slot].saw(int(row["cost"]), int(row["gpus_min"]), iterations)
        return self._end(event.job_id, "completed")

    def _end(self, job_id: str, how: str) -> str:
        slot = self.ledger.slot_of.get(job_id)
        if slot is None:
            return f"job {job_id} is not active"
        self._pool_of.pop(slot).remove(slot)
        self._leaving.discard(slot)
        self.ledger.remove(slot)
        self.ended[how] += 1
        self._dirty = True
        return ""

    def _leave(self, job_id: str) -> str:
        slot = self.ledger.slot_of.get(job_id)
        if slot is None or not self.ledger.rows["gpus"][slot]:
            return self._end(job_id, "cancelled")
        self._leaving.add(slot)
        self.ledger.rows["untouched"][slot] = True
        self._pool_of[slot].touch(slot, False)
        return ""

    def _pause(self, event: PauseMeasured) -> str:
        slot = self.ledger.slot_of.get(event.job_id)
        if slot is None:
            return f"job {event.job_id} is not active"
        self.ledger.rows["pause_s"][slot] = event.pause_s
        return ""

    def _requeue(self, job_id: str, done: float, now_s: float) -> str:
        slot = self.ledger.slot_of.get(job_id)
        if slot is None:
            return f"job {job_id} is not active"
        self._stop(slot, now_s)
        self.ledger.rows["done"][slot] = done  # work since the last checkpoint is lost
        self.ledger.started[slot] = True  # it may have been under another controller
        self._dirty = True
        return ""

    def _set_back(self, event: WorkLost) -> str:
        slot = self.ledger.slot_of.get(event.job_id)
        if slot is None:
            return f"job {event.job_id} is not active"
        self.ledger.rows["done"][slot] = event.done
        self._dirty = True
        return ""

    def _resize(self, event: SizeLearned) -> str:
        slot = self.ledger.slot_of.get(event.job_id)
        if slot is None:
            return f"job {event.job_id} is not active"
        self.ledger.believed[slot] = event.iterations
        self._dirty = True
        return ""

    def _adopt(self, event: Adopted, now_s: float) -> str:
        slot, pool = self.ledger.slot_of.get(event.job_id), self.pools.get(event.gpu_type)
        if slot is None:
            return f"job {event.job_id} is not active"
        if pool is None:
            return f"job {event.job_id} runs on {event.gpu_type}: this cluster has none"
        if self.ledger.rows["gpus"][slot]:
            return f"job {event.job_id} holds GPUs already"
        job, gpus = self.ledger.job(slot), sum(len(share.gpus) for share in event.placement)
        if job.gpu_type not in (None, event.gpu_type) or not job.runs_on(gpus):
            return f"job {event.job_id} may not run on {gpus} {event.gpu_type}"
        if pool is not self._pool_of[slot]:
            self._move_to(slot, pool)
        try:
            pool.adopt(self.ledger, slot, event.placement, event.clock_mhz, now_s)
        except ValueError as error:
            return f"job {event.job_id} cannot be adopted: {error}"
        self._dirty = True
        return ""

    def _learn(self, event: CostLearned) -> str:
        pool = self.pools.get(event.gpu_type)
        if pool is None:
            return f"cost of {event.cost_class} on {event.gpu_type}: this cluster has none"
        pool.book.learn(event.cost_class, event.table)
        self._dirty = True
        return ""

    def _act_on(self, acting: Acting) -> None:
        self.acting = acting
        for slot, pool in self._pool_of.items():
            untouched = slot in self._leaving or not acting.acts(self.ledger.job(slot).project)
            self.ledger.rows["untouched"][slot] = untouched
            pool.touch(slot, not untouched)
        self._dirty = True

    def _cap(self, event: PowerCapSet | PowerCapLifted, now_s: float) -> str:
        why = self.caps.set(event.cap) if isinstance(event, PowerCapSet) else self.caps.lift(event.scope, now_s)
        if not why:
            self._enforcer.forget()
            self._cap_due_s = -math.inf
        return why

    def _recover(self, node: str) -> str:
        pool = self._node_pool.get(node)
        if pool is None:
            return f"node {node} is unknown"
        pool.recover(node)
        self._dirty = True
        return ""

    def _lose(self, node: str, now_s: float) -> str:
        pool = self._node_pool.get(node)
        if pool is None:
            return f"node {node} is unknown"
        for slot in pool.occupancy.fail(node):
            self._stop(slot, now_s)  # a gang runs whole or not at all
        self._dirty = True
        return ""

    def _turn_gpu(self, event: GpuFailed | GpuRecovered, now_s: float) -> str:
        pool = self._node_pool.get(event.node)
        try:
            if pool is None:
                return f"node {event.node} is unknown"
            if isinstance(event, GpuRecovered):
                pool.occupancy.recover_gpu(event.node, event.gpu)
            else:
                for slot in pool.occupancy.fail_gpu(event.node, event.gpu):
                    self._stop(int(slot), now_s)
        except ValueError as error:
            return str(error)
        self._dirty = True
        return ""

    def _drain(self, node: str) -> str:
        pool = self._node_pool.get(node)
        if pool is None:
            return f"node {node} is unknown"
        pool.evicted.update(pool.occupancy.drain(node))
        self._dirty = True
        return ""

    def _stop(self, slot: int, now_s: float) -> None:
        pool = self._pool_of[slot]
        pool.vacate(slot)
        nothing = np.zeros(1, np.int64)
        self.ledger.give(np.array([slot]), nothing, nothing, now_s)
        self.ledger.preempted[slot] = False

    # -- which pool ---------------------------------------------------------------------------------------------

    def _reroute(self) -> None:
        """Jobs that wait and are not bound to a GPU type choose their pool again."""
        for slot, pool in reroutes(self.pools, self.ledger, self._pool_of):
            self._move_to(slot, pool)

    def _move_to(self, slot: int, pool: Pool) -> None:
        """Another pool is to care for a job that holds nothing in the one it is in."""
        self._pool_of[slot].remove(slot)
        job = self.ledger.job(slot)
        pool.add(slot, job.protected, not self.acting.acts(job.project))
        pool.active.sort(key=self.ledger.rows["id"].__getitem__)  # views list jobs in order of submission
        self._pool_of[slot] = pool
        self.ledger.rows["cost"][slot] = pool.book.row(job.cost_class, job.gpus_allowed)

    # -- decisions ----------------------------------------------------------------------------------------------

    def _due_s(self) -> float:
        """When the next decision is due; ``inf`` if nothing calls for one."""
        return min(self._plain_due_s(), self._cap_due_s)

    def _plain_due_s(self) -> float:
        """The same, but for power caps: these do not wait for the interval."""
        if self._dirty:
            return self._decided_s + self.interval_s
        due_s = min((pool.sleepers.due_s() for pool in self.pools.values() if pool.sleepers), default=math.inf)
        if self.period_s is not None and self._pool_of:
            due_s = min(due_s, self._decided_s + self.period_s)
        return max(due_s, self._decided_s + self.interval_s)

    def _decide(self, now_s: float, ignored: Sequence[str]) -> Plan:
        self._reroute()
        decisions, self._capped = self._decisions(now_s)
        self.limited = self._limited(decisions)
        return self._plan(now_s, decisions, ignored)

    def _plan(
        self, now_s: float, decisions: Sequence[tuple[Pool, Decision]], ignored: Sequence[str], *, early: bool = False
    ) -> Plan:
        changes: list[Change] = []
        prices: dict[str, float] = {}
        for pool, decision in decisions:
            changes += changes_of(self.policies[pool.gpu_type], pool, decision, self.ledger)
            prices[pool.gpu_type] = decision.answer.gpu_price
        # give up before taking, so that a body can carry the changes out one by one
        changes.sort(key=lambda change: change.gpus - change.reason.gpus_before)

        step = self._steps

        def still() -> None:
            if self._steps != step:
                raise RuntimeError("the scheduler has gone on since this plan: ask a plan before the next step")

        def explain() -> Mapping[str, Reason]:
            still()
            known = {change.job_id: change.reason for change in changes}
            if early:
                return known
            reasons: dict[str, Reason] = {}
            for pool, decision in decisions:
                names = [self.ledger.job(int(slot)).id for slot in decision.slots]
                reasons |= all_reasons(self.policies[pool.gpu_type], decision, self.ledger, known, names)
            return reasons

        def wish() -> Mapping[str, Wish]:
            still()
            return {
                self.ledger.job(slot).id: wished
                for pool, decision in decisions
                for slot, wished in wishes(self.policies[pool.gpu_type], pool, decision).items()
            }

        woken = [node for _, decision in decisions for node in decision.woken]
        asleep = [node for _, decision in decisions for node in decision.asleep]
        capped = self._capped
        return Plan(
            now_s,
            True,
            changes,
            self._due_s(),
            prices,
            ignored,
            asleep,
            woken,
            capped.power_w,
            capped.cap_w,
            capped.watt_price,
            capped.notices,
            early,
            explain,
            wish,
        )

    def _decisions(self, now_s: float) -> tuple[list[tuple[Pool, Decision]], Capped]:
        """What each pool's policy says, placed; below the power caps, if there are any."""
        pools = [pool for pool in self.pools.values() if pool.active or pool.sleepers]
        self.caps.forget(now_s)
        if not self.caps:
            self._cap_due_s = math.inf
            return [(pool, self._plain_decision(pool, now_s)) for pool in pools], Capped()

        result = self._enforcer.decide(pools, lambda pool, without: self._ask(pool, now_s, without), now_s)
        self._cap_due_s = self.caps.next_s(now_s)
        return result

    def _ask(self, pool: Pool, now_s: float, without_gpus: int = 0) -> Decision:
        policy, terms = self.policies[pool.gpu_type], self._terms(pool)
        most = self._enforcer.most(pool, now_s) if self.caps else None
        return pool.ask(policy, self.ledger, now_s, terms, self.sizes_known, without_gpus, most)

    def _plain_decision(self, pool: Pool, now_s: float) -> Decision:
        policy = self.policies[pool.gpu_type]
        return pool.decide(policy, self.ledger, now_s, self._terms(pool), self.sizes_known)

    def _limited(self, decisions: Sequence[tuple[Pool, Decision]]) -> frozenset[str]:
        asked = [pool.gpu_type for pool, decision in decisions if not decision.view.jobs["untouched"].all()]
        rations = [layer(self.policies[name], PowerLimit) for name in asked]
        return frozenset().union(*(ration.binding for ration in rations if ration is not None))

    def _terms_matter(self, now_s: float) -> bool:
        """Whether new terms for energy call for a decision: a price has moved, or a limit binds or is exceeded."""
        if self.energy.moved(self._decided_on) or self.limited:
            return True
        return bool(self.energy.limit_w) and any(exceeded(self.view(pool, now_s)) for pool in self.pools.values())

    def _terms(self, pool: Pool) -> EnergyTerms:
        """The terms for energy in a pool: of a limit, as much as its GPUs can draw of what all can."""
        if not self.energy.limit_w or len(self.pools) == 1:
            return self.energy
        most_w = {name: each.most_w() for name, each in self.pools.items()}
        return self.energy.share(most_w[pool.gpu_type] / max(sum(most_w.values()), 1e-9))
