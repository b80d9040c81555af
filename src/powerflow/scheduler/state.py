"""Apply events to the scheduler's state: pools, jobs, power caps, energy prices and limits."""

from __future__ import annotations

import copy
import math
from array import array
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.table import Axes
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.policy.protocol import Policy, View
from powerflow.scheduler import events, pool_nodes
from powerflow.scheduler.caps.book import CapBook
from powerflow.scheduler.caps.enforce import Enforcer
from powerflow.scheduler.events import Event, Ignored
from powerflow.scheduler.ledger import Ledger, advance
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.rules.fair_share import FairShare
from powerflow.scheduler.rules.power_limit import exceeded
from powerflow.scheduler.rules.wrapper import find_wrapper


class SchedulerState:
    """State of the cluster, as the scheduler knows it. It also detects when events make a new decision necessary.

    Args:
        cluster: The nodes.
        axes: By GPU type, the GPU counts and clocks to choose from.
        idle_w: By GPU type, the watts of one idle GPU.
        policy: The policy, with its rules. Each pool gets its own copy of this policy.
        energy_price: Energy price λ_E, seconds per joule.
        sizes_known: True if the scheduler has a number of iterations for each job.

    Attributes:
        pools, policies: The pools and their policies, by GPU type.
        ledger: All active jobs.
        caps: All known power caps.
        energy: The energy prices, and the limits in watts that energy budgets set.
        managed: The projects that PowerFlow manages.
        limited: The projects ("" is the cluster) whose energy budget set a limit in watts that changed the last
            decision.
        submitted: Number of jobs submitted so far.
        ended: Number of jobs by how they ended: ``completed``, ``failed`` or ``cancelled``.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        axes: Mapping[str, Axes],
        idle_w: Mapping[str, float],
        policy: Policy,
        energy_price: float,
        sizes_known: bool,
    ) -> None:
        self.energy = self._decided_on = EnergyTerms(energy_price)
        self.sizes_known = sizes_known
        self.ledger = Ledger()
        self.managed = events.ManagedProjects()
        self.limited: frozenset[str] = frozenset()
        self.pools = {name: Pool(tuple(nodes), axes[name], idle_w[name]) for name, nodes in cluster.pools().items()}
        self.policies = {name: copy.deepcopy(policy) for name in self.pools}
        self._unrouted: list[str] = []  # submitted jobs whose GPU type the next decision chooses
        self.ended = {"completed": 0, "failed": 0, "cancelled": 0}
        self.submitted = 0
        self.caps = CapBook(self.pools, self.ledger)
        self._enforcer = Enforcer(self.caps, self.ledger)
        self._pool_of: dict[int, Pool] = {}  # by slot
        self._node_pool = {node.name: pool for pool in self.pools.values() for node in pool.occupancy.nodes}
        self._leaving: set[int] = set()  # slots of jobs that are to end and still hold GPUs
        self._untouched: set[int] = set()  # slots of jobs that are never managed
        self._learns_sizes = False  # only where the size of some job was uncertain: it takes time
        self._changed = False  # whether something has changed since the last decision that calls for another
        self._decided_s = -math.inf
        self._cap_due_s = math.inf  # when power caps need a decision; -inf: at once

    @property
    def energy_price(self) -> float:
        """Return the energy price λ_E of the whole cluster, seconds per joule."""
        return self.energy.price

    def slot(self, job_id: str) -> int:
        """Return the slot of an active job: the number of its row in the ledger, valid until the job ends.

        Some events name jobs by slot.

        Raises:
            KeyError: No active job has this id.
        """
        return self.ledger.slot_of[job_id]

    def slots_on(self, node: str) -> list[int]:
        """Return the slots (rows of the ledger) of the jobs that hold GPUs on a node."""
        return [int(slot) for slot in self._node_pool[node].occupancy.owners_on(node)]

    def view(self, pool: Pool, now_s: float) -> View:
        """Return the view of all jobs of a pool at time ``now_s``, for the policy of this pool."""
        slots = np.array(pool.active, np.int64)
        return pool.view(self.ledger, slots, now_s, self._terms(pool), self.sizes_known)

    def _terms(self, pool: Pool) -> EnergyTerms:
        """Return the energy prices of a pool, and its share of each limit in watts.

        The share is the most watts that the GPUs of this pool can draw, divided by the same sum over all pools.
        """
        if not self.energy.limit_w or len(self.pools) == 1:
            return self.energy
        most_w = {name: each.most_w() for name, each in self.pools.items()}
        return self.energy.share(most_w[pool.gpu_type] / max(sum(most_w.values()), 1e-9))

    # -- events -------------------------------------------------------------------------------------------------

    def _apply(self, event: Event, now_s: float) -> str:
        """Apply one event; return "", or in words why the event was ignored."""
        try:
            self._HANDLERS[type(event)](self, event, now_s)
        except Ignored as ignored:
            return str(ignored)
        return ""

    def _active(self, job_id: str) -> int:
        """Return the slot (row of the ledger) of a job that an event names; raise `Ignored` if it is not active."""
        slot = self.ledger.slot_of.get(job_id)
        if slot is None:
            raise Ignored(f"job {job_id} is not active")
        return slot

    def _with_node(self, node: str) -> Pool:
        """Return the pool of a node that an event names; raise `Ignored` if the cluster has no such node."""
        if node not in self._node_pool:
            raise Ignored(f"node {node} is unknown")
        return self._node_pool[node]

    def _submit(self, event: events.Submitted, now_s: float) -> None:
        job = event.job
        if job.id in self.ledger.slot_of:
            raise Ignored(f"job {job.id} is active already")
        if job.gpu_type is not None and job.gpu_type not in self.pools:
            raise Ignored(f"job {job.id} needs {job.gpu_type}: this cluster has none")
        # a job that may use several pools starts in the first; the next decision chooses among them
        pool = self.pools[job.gpu_type] if job.gpu_type is not None else next(iter(self.pools.values()))
        row = pool.costs.row(job.cost_class, job.gpus_allowed)
        unmanaged = not self.managed.manages(job.project)
        slot = self.ledger.add(job, event.believed_iterations, event.pause_s, row, now_s, unmanaged, event.guessed)
        self._learns_sizes |= bool(self.ledger.uncertain[slot])
        pool.add(slot, job, unmanaged)
        if not unmanaged and (job.gpu_type is not None or len(self.pools) == 1):
            pool.expect_more(self.ledger, slot, now_s)
        elif not unmanaged:
            self._unrouted.append(job.id)
        if not self._pool_of:  # no other job could be disturbed, however recent the last decision is
            self._decided_s = -math.inf
        self._pool_of[slot] = pool
        self.submitted += 1
        self._changed = True

    def _complete(self, event: events.Completed, _now_s: float) -> None:
        slot = self._active(event.job_id)
        if self._learns_sizes:
            done = float(self.ledger.rows["done"][slot])
            self._saw(self.ledger.job(slot), done if math.isnan(event.iterations) else event.iterations)
        self._end(slot, "completed")

    def _saw(self, job: Job, iterations: float) -> None:
        """Learn from the size of a completed job, in each pool in which such a job may run."""
        for name, pool in self.pools.items():
            if job.gpu_type in (None, name):
                cost = pool.costs.row(job.cost_class, job.gpus_allowed)
                pool.sizes.completed(job, cost, iterations, pool.axes.gpu_counts, pool.costs.arrays()[0])

    def _recall(self, event: events.CompletedEarlier, _now_s: float) -> None:
        self._saw(event.job, event.job.iterations)

    def _cancel(self, event: events.Cancelled, _now_s: float) -> None:
        self._end(self._active(event.job_id), "cancelled")

    def _fail(self, event: events.Failed, now_s: float) -> None:
        slot = self._active(event.job_id)
        if not event.retry:
            self._end(slot, "failed")
            return
        self._stop(slot, now_s)
        self.ledger.rows["done"][slot] = event.done  # work since the last checkpoint is lost
        self.ledger.started[slot] = True  # it may have started under another controller
        self._changed = True

    def _leave(self, event: events.Leaving, _now_s: float) -> None:
        slot = self._active(event.job_id)
        if not self.ledger.rows["gpus"][slot]:
            self._end(slot, "cancelled")
            return
        self._leaving.add(slot)
        self._manage(slot, False)

    def _advance(self, event: events.Progress, _now_s: float) -> None:
        if len(event.slots):  # so that a controller without jobs never compiles the kernel
            advance(self.ledger.rows["done"], event.slots, event.done)

    def _set_back(self, event: events.WorkLost, _now_s: float) -> None:
        self.ledger.rows["done"][self._active(event.job_id)] = event.done
        self._changed = True

    def _resize(self, event: events.SizeLearned, _now_s: float) -> None:
        slot = self._active(event.job_id)
        self.ledger.believed[slot] = event.iterations
        self.ledger.uncertain[slot] = False
        self._changed = True

    def _pause(self, event: events.PauseMeasured, _now_s: float) -> None:
        self.ledger.rows["pause_s"][self._active(event.job_id)] = event.pause_s

    def _adopt(self, event: events.Adopted, now_s: float) -> None:
        slot, pool = self._active(event.job_id), self.pools.get(event.gpu_type)
        if pool is None:
            raise Ignored(f"job {event.job_id} runs on {event.gpu_type}: this cluster has none")
        if self.ledger.rows["gpus"][slot]:
            raise Ignored(f"job {event.job_id} holds GPUs already")
        job, gpus = self.ledger.job(slot), sum(len(share.gpus) for share in event.placement)
        if job.gpu_type not in (None, event.gpu_type) or not job.runs_on(gpus):
            raise Ignored(f"job {event.job_id} may not run on {gpus} {event.gpu_type}")
        if pool is not self._pool_of[slot]:
            self._move_to(slot, pool)
        try:
            pool.adopt(self.ledger, slot, event.placement, event.clock_mhz, now_s)
        except ValueError as error:
            raise Ignored(f"job {event.job_id} cannot be adopted: {error}") from None
        self._changed = True

    def _learn(self, event: events.CostLearned, _now_s: float) -> None:
        pool = self.pools.get(event.gpu_type)
        if pool is None:
            raise Ignored(f"cost of {event.cost_class} on {event.gpu_type}: this cluster has none")
        pool.costs.learn(event.cost_class, event.table)
        self._changed = True

    def _set_managed(self, event: events.ManagedProjects, _now_s: float) -> None:
        self.managed = event
        for slot in self._pool_of:
            left_alone = slot in self._leaving or slot in self._untouched
            self._manage(slot, not left_alone and event.manages(self.ledger.job(slot).project))
        self._changed = True

    def _leave_alone(self, event: events.JobUntouched, _now_s: float) -> None:
        slot = self._active(event.job_id)
        self._untouched.add(slot)
        self._manage(slot, False)
        self._changed = True

    def _set_shares(self, event: events.SharesSet, _now_s: float) -> None:
        for policy in self.policies.values():
            if fair := find_wrapper(policy, FairShare):
                fair.set_shares(event.shares)
        self._changed = True

    def _set_terms(self, event: EnergyTerms, now_s: float) -> None:
        self.energy = event
        self._changed = (
            self._changed
            or event.moved(self._decided_on)
            or bool(self.limited)
            or (bool(event.limit_w) and any(exceeded(self.view(pool, now_s)) for pool in self.pools.values()))
        )

    def _set_cap(self, event: events.PowerCapSet, _now_s: float) -> None:
        self.caps.set(event.cap)
        self._caps_changed()

    def _lift_cap(self, event: events.PowerCapLifted, now_s: float) -> None:
        self.caps.lift(event.scope, now_s)
        self._caps_changed()

    def _caps_changed(self) -> None:
        self._enforcer.forget()
        self._cap_due_s = -math.inf

    def _set_clock(self, event: events.ClockSet, _now_s: float) -> None:
        self.caps.move(-event.by_s)
        if self.caps:
            self._cap_due_s = -math.inf

    def _meter(self, event: events.PowerMetered, now_s: float) -> None:
        if self.caps.metered(event, self._pool_of, now_s, self._decided_s):
            self._cap_due_s = -math.inf

    def _recover(self, event: events.NodeRecovered, _now_s: float) -> None:
        pool_nodes.recover(self._with_node(event.node), event.node, self.ledger)
        self._changed = True

    def _cut_off(self, event: events.NodeUnreachable, now_s: float) -> None:
        pool = self._with_node(event.node)
        for slot in pool_nodes.slots_on(pool, event.node, event.absent, self.ledger):
            self._stop(slot, now_s)
        pool_nodes.cut_off(pool, event.node, event.stay, self.ledger, now_s)
        self._changed = True

    def _lose(self, event: events.NodeFailed, now_s: float) -> None:
        pool = self._with_node(event.node)
        pool.outage.nodes.discard(event.node)
        for slot in pool.occupancy.fail(event.node).tolist():
            self._stop(slot, now_s)  # a gang runs whole or not at all
        self._changed = True

    def _drain(self, event: events.NodeDrained, _now_s: float) -> None:
        pool = self._with_node(event.node)
        pool.evicted.update(set(pool.occupancy.drain(event.node).tolist()) - pool.outage.pinned)
        self._changed = True

    def _join(self, event: events.NodeAdded, _now_s: float) -> None:
        node, pool = event.node, self.pools.get(event.node.gpu_type)
        if pool is None:
            raise Ignored(f"node {node.name} has GPUs of type {node.gpu_type}: this cluster had none when it began")
        if self._node_pool.get(node.name, pool) is not pool:
            raise Ignored(f"node {node.name} had GPUs of another type before")
        try:
            pool_nodes.join(pool, node, self.ledger)
        except ValueError as error:
            raise Ignored(f"node {node.name} cannot join: {error}") from None
        self._node_pool[node.name] = pool
        self.caps.see_nodes(pool)
        self._caps_changed()

    def _part(self, event: events.NodeGone, now_s: float) -> None:
        pool = self._with_node(event.node)
        for slot in self.slots_on(event.node):
            self._stop(slot, now_s)
        if pool_nodes.leave(pool, event.node):
            del self._node_pool[event.node]
        self.caps.see_nodes(pool)
        self._caps_changed()

    def _turn_gpu(self, event: events.GpuFailed | events.GpuRecovered, now_s: float) -> None:
        occupancy = self._with_node(event.node).occupancy
        try:
            if isinstance(event, events.GpuRecovered):
                occupancy.recover_gpu(event.node, event.gpu)
            else:
                for slot in occupancy.fail_gpu(event.node, event.gpu):
                    self._stop(int(slot), now_s)
        except ValueError as error:
            raise Ignored(str(error)) from None
        self._changed = True

    _HANDLERS: ClassVar[Mapping[type, Callable[[SchedulerState, Any, float], None]]] = {
        events.Submitted: _submit,
        events.Completed: _complete,
        events.CompletedEarlier: _recall,
        events.Failed: _fail,
        events.Cancelled: _cancel,
        events.Leaving: _leave,
        events.Progress: _advance,
        events.SizeLearned: _resize,
        events.WorkLost: _set_back,
        events.PauseMeasured: _pause,
        events.Adopted: _adopt,
        events.CostLearned: _learn,
        events.ManagedProjects: _set_managed,
        events.JobUntouched: _leave_alone,
        events.SharesSet: _set_shares,
        EnergyTerms: _set_terms,
        events.PowerCapSet: _set_cap,
        events.PowerCapLifted: _lift_cap,
        events.ClockSet: _set_clock,
        events.PowerMetered: _meter,
        events.NodeFailed: _lose,
        events.NodeUnreachable: _cut_off,
        events.NodeAdded: _join,
        events.NodeGone: _part,
        events.NodeDrained: _drain,
        events.NodeRecovered: _recover,
        events.GpuFailed: _turn_gpu,
        events.GpuRecovered: _turn_gpu,
    }

    # -- jobs ---------------------------------------------------------------------------------------------------

    def _manage(self, slot: int, managed: bool) -> None:
        self.ledger.rows["unmanaged"][slot] = not managed
        self._pool_of[slot].manage(slot, managed)

    def _stop(self, slot: int, now_s: float) -> None:
        """Take all GPUs of a job away; the job stays active and waits."""
        pool_nodes.unpin(self._pool_of[slot], slot, self.ledger)
        self._pool_of[slot].vacate(slot)
        nothing = np.zeros(1, np.int64)
        self.ledger.give(np.array([slot]), nothing, nothing, now_s)
        self.ledger.preempted[slot] = False

    def _end(self, slot: int, how: str) -> None:
        self._pool_of.pop(slot).remove(slot)
        self._leaving.discard(slot)
        self._untouched.discard(slot)
        self.ledger.remove(slot)
        self.ended[how] += 1
        self._changed = True

    def _move_to(self, slot: int, pool: Pool) -> None:
        """Move a job that holds no GPUs to another pool."""
        self._pool_of[slot].remove(slot)
        job = self.ledger.job(slot)
        pool.add(slot, job, not self.managed.manages(job.project))
        # views list jobs in order of submission
        pool.active = array("q", sorted(pool.active, key=self.ledger.rows["id"].__getitem__))
        self._pool_of[slot] = pool
        self.ledger.rows["cost"][slot] = pool.costs.row(job.cost_class, job.gpus_allowed)
